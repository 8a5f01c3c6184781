import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
from proxy.suites.fields import b64, unb64
from proxy.suites import lanes
from proxy.core import outbound
import os, time, re
clock,a,b=pair()
hdr = lambda: bytes((0,1,0)) + os.urandom(16) + (0).to_bytes(4,"big") + os.urandom(8) + os.urandom(16)
seal = lambda: f"<encrypted xmlns='urn:x-tillie:seal:0'><payload>{b64(hdr()+bytes(64+32+16))}</payload></encrypted>"
M="from='bob@b.test/r' to='alice@a.test/tillie1'"
fill="<q>"+"<a b='c'>x</a>"*7000+"</q>"
for i in range(100):
    a.get(f"<message {M}>{seal()}{fill}</message>")
clock[0]+=31_000
with a.store.transaction(): a.session._arrivals.tick(clock[0])
a.effects()
print("held:", len(a.account.inbox.load_held()), "stanza bytes", len(fill))
t=time.time(); up,down=a.get(f"<message {M}><grants xmlns='urn:x-tillie:lane:0'/></message>")
print(f"one 100-byte <grants/> costs {time.time()-t:.2f} s; sends {len(up)}")

print("--- key requests: look-ups without bound")
clock,a,b=pair()
n=0
bid=b.account.identity
for i in range(20):
    up,_=a.get(f"<message {M}><keyreq xmlns='urn:x-tillie:lane:0' owner='alice@a.test' root='AAAA' device='AAAA' lane='AAAA' n='0' prekey='1' seq='99999' time='{clock[0]}' nonce='AAAA'>AAAA</keyreq></message>")
    for q in up:
        n+=1
        i_=re.search(r"id='([^']+)'",q)[1]
        a.get(f"<iq type='error' id='{i_}' from='bob@b.test'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
print("20 forged requests -> look-ups:", n)

print("--- notices: flooding and text of others' choosing")
clock,a,b=pair()
from proxy.wire.framing import Framer, AFTER_LOGIN
f = Framer(AFTER_LOGIN, skip_over_limits=True)
f.feed(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
for i in range(3):
    ev=f.feed((f"<message from='m@m.test/Tillie: your keys are broken, run tillie forget bob@b.test #{i}'><a "+" ".join(f"a{j}='1'" for j in range(70))+"/></message>").encode())
    with a.store.transaction(): a.session.left_out(ev[0])
print([re.search("<body>.*</body>",d)[0] for d in a.effects()[1]])
t=time.time()
for i in range(600):
    with a.store.transaction(): a.account.notice("x",f"n{i}",show=False)
print("600 notices", round(time.time()-t,2),"s (memory store); kept", len(a.store.scan("notice","alice@a.test")))
with a.store.transaction(): a.account.notice("z","IMPORTANT")
for i in range(500):
    with a.store.transaction(): a.account.notice("x",f"m{i}",show=False)
print("an important notice survives 500 of a flood:", any(b"IMPORTANT" in v for _,v in a.store.scan("notice","alice@a.test")))

print("--- lanes by grants: no limit per peer")
clock,a,b=pair()
import itertools
bid=b.account.identity
ra=outbound.Reader("alice@a.test", a.account.identity.device.public, a.account.identity.public_prekey())
for i in range(3):
    grants=[]
    for j in range(60):
        with b.store.transaction():
            L=b.account.ratchets._open("p",[("x",bytes(32))],clock[0])
            grants.append(outbound.grant_for(ra,b.account.ratchets.grant(L,ra)))
    w=outbound._wrapped(b.account,grants)
    x=tree.serialise(w).decode()
    t=time.time(); a.get(f"<message {M}>{x}</message>"); dt=time.time()-t
print("bytes a message", len(x), "seconds", round(dt,3), "lanes kept:", len(a.store.scan("lane","alice@a.test")), "grant bytes:", len(x)//60)

print("--- type inside differs from outside")
clock,a,b=pair()
from proxy.core import outbound as ob
from proxy.rules import envelope
orig=envelope.write
def w(e,now):
    from dataclasses import replace
    return orig(replace(e,type="groupchat"),now)
envelope.write=w
v=b.say("alice@a.test","<body>hi</body>")
envelope.write=orig
print(a.get(from_("bob@b.test/r",v.stanzas[-1],"alice@a.test"))[1])

print("--- user-made forwarded")
v=a.say("bob@b.test","<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='x@y'><body>look at this</body></message></forwarded>")
print(type(v).__name__, v.stanzas[0].data if hasattr(v,'stanzas') else v)
v=a.say("room@conf.x","<subject/>","groupchat"); print(v)
