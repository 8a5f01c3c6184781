import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
from proxy.core import directory, outbound
from proxy.core.directory import Absent, Found, Failed
from proxy.core.identity import Standing
from proxy.core.account import Settings
from proxy.errors import StoreFault, Fault
from proxy.suites import lanes
from proxy.suites.fields import b64, unb64
import re, os, time

print("--- LINKING then Absent: second root")
clock=[1_700_000_000_000]
one=Person("alice@a.test",clock).keys(); two=Person("alice@a.test",clock)
with two.store.transaction():
    two.account.settle_own(two.session)
    two.account._own_found(two.session, Found(one.account.identity.manifest, []))
print(two.account.identity.standing.name)
with two.store.transaction():
    two.account._own_found(two.session, Absent())
print(two.account.identity.standing.name, "root differs:", two.account.identity.has_manifest and two.account.identity.fingerprint != one.account.identity.fingerprint)
print([x[:80] for x in two.effects()[0] if "publish" in x][:1])

print("--- ALARM: what can be read is shown as unreadable, and gone")
clock,a,b=pair()
m=from_("bob@b.test/r", b.say("alice@a.test","<body>SECRET</body>").stanzas[-1],"alice@a.test")
with a.store.transaction(): a.account._own_found(a.session, Found(two.account.identity.manifest, []))
print(a.account.identity.standing.name); a.effects()
print(a.get(m)[1][-1][-160:], "held:", len(a.account.inbox.load_held()))
with a.store.transaction(): a.account._own_found(a.session, Absent())
print("after the false record is gone:", a.account.identity.standing.name)

print("--- linked device reads own earlier messages")
clock,a,b=pair()
gos=[a.say("bob@b.test",f"<body>old {i}</body>") for i in range(3)]
lane=a.account.ratchets.current("bob@b.test")
with a.store.transaction(): a.account.ratchets.note_joined(b"N"*32)
key=f"{lane.lane.hex()}/{a.account.identity.device.public.hex()}"
print("new device may read the own lane from index", int.from_bytes(a.store.get("joined","alice@a.test",f"{b64(b'N'*32)}/{key}"),"big"), "of", lane.chain.n)

print("--- clear bytes again after the contact has a key / require")
clock=[1_700_000_000_000]
a=Person("alice@a.test",clock,Settings(clear=("carol@c.test",))).keys()
with a.store.transaction(): a.account.contacts.absent("carol@c.test", clock[0])
v=a.say("carol@c.test","<body>CANARY</body>")
with a.store.transaction():
    for c in v.stanzas: a.session.uplink.send(c,kept=v.kept)
a.effects()
a.session.phase=__import__("proxy.core.phase",fromlist=["Phase"]).Phase.OVER; a.house.left(a.session)
c=Person("carol@c.test",clock).keys(); a.learn(c)
with a.store.transaction(): a.account.contacts.set_policy("carol@c.test","require")
print("verdict now:", type(a.say("carol@c.test","<body>x</body>")).__name__)
s=a.live("tillie2")
with a.store.transaction(): s.uplink._send_left_over()
print([x for x in a.effects(s)[0] if "CANARY" in x])

print("--- a store fault while opening: the message is dropped")
clock,a,b=pair()
m=from_("bob@b.test/r", b.say("alice@a.test","<body>SECRET</body>").stanzas[-1],"alice@a.test")
a.get(m)
m2=from_("bob@b.test/r", b.say("alice@a.test","<body>SECRET2</body>").stanzas[-1],"alice@a.test")
a.account.ratchets.forget_caches()
orig=a.store.scan
def bad(shelf,*r):
    if shelf=="lane": raise StoreFault("disk I/O error")
    return orig(shelf,*r)
a.store.scan=bad
try:
    up,down=a.get(m2); print("no fault came out; to client:",[d for d in down if "SECRET2" in d], "held",len(a.account.inbox.load_held()))
except Fault as f: print("raised", f)
a.store.scan=orig

print("--- grants in a message behind a held one")
clock,a,b=pair()
g1=b.say("alice@a.test","<body>M1</body>"); 
e=tree.parse(g1.stanzas[-1].data); enc=e.find("{urn:x-tillie:seal:0}encrypted"); 
for x in list(enc):
    if x.tag.endswith("grants"): enc.remove(x)
from proxy.wire.stanza import Cleared
m1=from_("bob@b.test/r",Cleared(tree.serialise(e)),"alice@a.test")
m2=from_("bob@b.test/r",b.say("alice@a.test","<body>M2</body>").stanzas[-1],"alice@a.test")
print("M1:", a.get(m1)[1]); print("M2 (with grants):", a.get(m2)[1])
for t in (10_000, 10_000, 11_000, 10_000, 60_000):
    clock[0]+=t
    with a.store.transaction(): a.session._arrivals.tick(clock[0])
    print(t, [re.search("<body>[^<]{0,60}",d)[0] for d in a.effects()[1]])
