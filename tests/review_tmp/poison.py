"""A held message that passes the framer but not tree.parse."""
import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
from proxy.wire.framing import Framer, AFTER_LOGIN, Received
from proxy.suites.fields import b64
from proxy.errors import Fault
import os
clock, a, b = pair()
hdr = lambda: bytes((0,1,0)) + os.urandom(16) + (0).to_bytes(4,"big") + os.urandom(8) + os.urandom(16)
seal = lambda: f"<encrypted xmlns='urn:x-tillie:seal:0'><payload>{b64(hdr()+bytes(64+32+16))}</payload></encrypted>"
f = Framer(AFTER_LOGIN, skip_over_limits=True)
out = f.feed(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
def feed(x):
    ev = f.feed(x.encode()); return ev
M="from='mallory@m.test/r' to='alice@a.test/tillie1'"
names = [f"<n{i}/>" for i in range(4200)]
e1 = feed(f"<message {M}><q>{''.join(names[:2200])}</q></message>")
e2 = feed(f"<message {M}>{seal()}<q>{''.join(names)}</q></message>")
print([type(x).__name__ + getattr(x,'reason','') for x in e1+e2])
e3 = feed(f"<message {M}>{seal()}<stream:x/></message>")
print([type(x).__name__+ getattr(x,'reason','') for x in e3])
for ev in (e2, e3):
    if not ev or not isinstance(ev[0], Received): continue
    clock, a, b = pair()
    with a.store.transaction():
        a.session.uplink._incoming(ev[0].stanza)
    print("held rows:", len(a.account.inbox.load_held()), "effects", [x[:60] for x in a.effects()[0]])
    clock[0] += 31_000
    try:
        with a.store.transaction(): a.house.tick()
        print("tick fine")
    except Fault as x: print("house.tick():", type(x).__name__, x.text, "-> every tick, all accounts")
    a.house.rolled_back()
    try:
        with a.store.transaction(): a.house.tick()
    except Fault as x: print("again:", x.text)
    # the next login
    s = a.live("tillie2"); s.available=False
    try:
        with a.store.transaction(): s.now_available()
        print("client_ready fine")
    except Fault as x: print("client_ready:", type(x).__name__, x.text)

# inbox rows: serialised form no longer within the limits
clock, a, b = pair()
kids = "".join("<a:b/>" for _ in range(70))
a.session.client_gone = True  # the person's client just left (DRAINING)
from proxy.core.phase import Phase
a.session.phase = Phase.DRAINING
raw = f"<message {M.replace('mallory@m.test/r','carol@c.test/r')} type='chat'><body>hi</body><x xmlns:a='urn:a' xmlns='urn:x'>{kids}</x></message>"
ev = feed(raw)
with a.store.transaction(): a.session.uplink._incoming(ev[0].stanza)
print("inbox rows", len(a.account.inbox.waiting()))
s = a.live("tillie2"); s.available=False
try:
    with a.store.transaction(): s.now_available()
    print("client_ready fine")
except Fault as x: print("client_ready:", type(x).__name__, x.text)
