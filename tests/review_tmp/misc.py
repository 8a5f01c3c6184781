import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
from proxy.core.account import Settings
from proxy.core import guard
from proxy.suites import lanes
from proxy.errors import Fault
import os, time
clock=[1_700_000_000_000]
room=Person("room@conf.a.test",clock).keys()
a=Person("alice@a.test",clock).keys().learn(room)
with a.store.transaction(): a.account.contacts.set_policy("room@conf.a.test","clear")
try: print(a.say("room@conf.a.test","<body>x</body>","groupchat"))
except Fault as f: print("allowed room whose service shows keys:", type(f).__name__, f.text, "-> escapes departures._handle, stream ends")
a=Person("alice@a.test",clock,Settings(clear=("*",))).keys()
st=Stanza.of(tree.parse(b"<iq type='get' id='1'><data xmlns='urn:xmpp:bob' cid='x'/></iq>"))
try:
    with a.store.transaction(): a.session._departures.add(st)
except Fault as f: print("iq without to, clear='*':", type(f).__name__, f.text)
st=Stanza.of(tree.parse(("<message to='bob@b.test' type='chat'><body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='%s'/></message>" % ("a"*30000)).encode()))
b=Person("bob@b.test",clock).keys(); a=Person("alice@a.test",clock).keys().learn(b)
try:
    with a.store.transaction(): a.session._departures.add(st)
    print("long origin-id ok")
except Fault as f: print("long origin-id:", type(f).__name__, f.text)
pk=a.account.identity.prekey(1)
bad=set()
for n in [0,1,16,100,1119,1120,1121,1135,1136,1137,2000,100000]:
    try: lanes.unbox(os.urandom(n),pk.hpke(),b"x")
    except Fault: pass
    except Exception as e: bad.add(type(e).__name__)
print("hpke other exceptions:", bad)
# failed look-up because too many are under way, policy clear by pattern
a=Person("alice@a.test",clock,Settings(clear=("*@b.test",))).keys()
for i in range(64):
    a.get(f"<message from='x{i}@evil.test' to='alice@a.test'><keyreq xmlns='urn:x-tillie:lane:0' owner='alice@a.test' root='' device='' lane='' n='0' prekey='1' seq='1' time='{clock[0]}' nonce=''/></message>")
st=Stanza.of(tree.parse(b"<message to='bob@b.test' type='chat'><body>CANARY</body></message>"))
with a.store.transaction(): a.session._departures.add(st)
with a.store.transaction(): a.session.pump()
print("64 look-ups taken by strangers, then to a contact under clear='*@b.test':", [x for x in a.effects()[0] if "CANARY" in x])
# presence/rtt to removed device: transient on a worn lane
from proxy.core import outbound
clock=[1_700_000_000_000]
a=Person("alice@a.test",clock).keys(); b=Person("bob@b.test",clock).keys(); a.learn(b)
a.say("bob@b.test")
bi=b.account.identity
from proxy.keys.identity import DevicePrivate
from proxy.keys.manifest import device_statement
nd=DevicePrivate.generate()
with b.store.transaction(): bi.add_device(nd.public, nd.sign(device_statement("bob@b.test",bi.fingerprint,nd.public)),"two",clock[0])
a.learn(b); a.say("bob@b.test")
with b.store.transaction(): bi.remove_device(bi.device.id, clock[0]+1000)
with a.store.transaction(): a.account.contacts.learn("bob@b.test", bi.manifest, [], clock[0])
v=a.say("bob@b.test","<rtt xmlns='urn:xmpp:rtt:0'><t>typed text</t></rtt>")
print("typed text after bob removed the device that holds the lane:", type(v).__name__)
# forwarded blocks direct
import sqlite3
db=sqlite3.connect(":memory:"); db.execute("CREATE TABLE item (shelf TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (shelf, account, key)) WITHOUT ROWID")
db.executemany("INSERT INTO item VALUES('lane','a',?,?)",[(os.urandom(48).hex(),os.urandom(450)) for _ in range(100_000)])
t=time.time()
for i in range(20): db.execute("SELECT key, value FROM item WHERE shelf=? AND account=? AND key>=? AND substr(key,1,?)=? ORDER BY key",("lane","a","00"*16,32,"00"*16)).fetchall()
print("scan by prefix over 100,000 lanes:", round((time.time()-t)/20*1000,1),"ms")
