import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
from proxy.net.driver import Driver
from proxy.errors import StoreFault
from proxy.core import directory
from proxy.wire.stanza import Cleared
class Conn:
    def __init__(s): s.out=[]
    def perform(s,e): s.out+=e
broken=[False]
def before():
    if broken[0]: raise StoreFault("disk full")
print("--- a commit that fails in a tick, or in another stream's read")
clock=[1_700_000_000_000]
a=Person("alice@a.test",clock,store=MemoryStore(before)).keys(); b=Person("bob@b.test",clock).keys()
d=Driver(None,a.house,None,None); c=Conn(); d.connections[a.session]=c
# a message waits for bob's keys
def client(x):
    st=Stanza.of(tree.parse(x.encode())); return lambda: a.session._departures.add(st)
d.run(a.session, client("<message to='bob@b.test' id='m1' type='chat'><body>one</body></message>"), "sent")
print("waiting:", len(a.session._departures), [e.data[:40] for e in c.out])
# bob's keys arrive on another stream of the account; its commit fails
s2=a.live("second"); d.connections[s2]=Conn()
ident=b.account.identity
broken[0]=True
def other():
    a.account._learn("bob@b.test", ident.manifest,[ident.public_prekey()],clock[0])
    for f in a.account._lookups.pop("bob@b.test"): f()
c.out.clear()
d.run(s2, other, "received")
broken[0]=False
print("s2 over:", s2.over, "| s1 over:", a.session.over, "| s1 queue:", len(a.session._departures), "| s1 ledger waits:", a.session.uplink._ledger.waiting, "sent", a.session.uplink._ledger.sent, "leg", a.session.uplink._leg.sent, "| bytes out:", [e for e in c.out], "| rows in store:", len(a.store.scan("ledger","alice@a.test")))

print("--- tick")
a=Person("alice@a.test",clock,store=MemoryStore(before)).keys(); a.learn(b)
d=Driver(None,a.house,None,None); c=Conn(); d.connections[a.session]=c
# something waits in the queue at a tick
a.session._departures._queue.append((clock[0], Stanza.of(tree.parse(b"<message to='bob@b.test' id='m1' type='chat'><body>one</body></message>"))))
broken[0]=True; d.run(None,a.house.tick); broken[0]=False
print("over:",a.session.over,"queue:",len(a.session._departures),"bytes out:",c.out,"ledger waits:",a.session.uplink._ledger.waiting, "rows:", len(a.store.scan("ledger","alice@a.test")))
d.run(None,a.house.tick); print("after:", c.out)

print("--- a session that fails takes its questions with it")
a=Person("alice@a.test",clock,store=MemoryStore(before)).keys()
d=Driver(None,a.house,None,None); c=Conn(); d.connections[a.session]=c
d.run(a.session, client("<message to='bob@b.test' id='m1' type='chat'><body>one</body></message>"))
d.run(a.session, lambda: a.account.settle_own(a.session))
print("looking up:", a.account.looking_up("bob@b.test"), "publishing:", a.account._publishing)
def boom(): raise StoreFault("x")
d.run(a.session, boom)
clock[0]+=3_600_000
a.session=a.live("again"); d.connections[a.session]=c; c.out.clear()
d.run(a.session, lambda: a.account.settle_own(a.session))
d.run(a.session, client("<message to='bob@b.test' id='m1' type='chat'><body>one</body></message>"))
d.run(None,a.house.tick)
print("an hour later, new stream: bytes out:", c.out, "looking up:", a.account.looking_up("bob@b.test"), "publishing:", a.account._publishing)
