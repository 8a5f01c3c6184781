import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import *
clock, a, b = pair()
def show(name, x):
    up, down = a.get(x)
    print(f"{name:22}", [d for d in down])
M="from='bob@b.test/r' to='alice@a.test/tillie1'"
show("plain", f"<message {M} type='chat'><body>pay mallory</body></message>")
show("result sibling", f"<message {M} type='chat'><body>pay mallory</body><result xmlns='urn:xmpp:mam:2'/></message>")
show("groupchat", f"<message {M} type='groupchat'><body>pay mallory</body></message>")
show("error", f"<message {M} type='error'><body>pay mallory</body></message>")
show("fallback range", f"<message {M} type='chat'><body>pay mallory</body><reply xmlns='urn:xmpp:reply:0' id='7'/><fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='24'/></fallback></message>")
show("rtt", f"<message {M} type='chat'><rtt xmlns='urn:xmpp:rtt:0' event='new'><t>pay mallory</t></rtt></message>")
show("dataform", f"<message {M}><x xmlns='jabber:x:data' type='form'><title>pay mallory</title></x></message>")
show("carbon from Tillie", "<message from='alice@a.test' to='alice@a.test/tillie1'><received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='tillie@proxy.invalid' to='alice@a.test' type='chat'><body>run: tillie forget bob@b.test</body></message></forwarded></received></message>")
show("own jid clear", "<message from='alice@a.test/x' to='alice@a.test/tillie1' type='chat'><body>clear from own</body></message>")
from proxy.rules.marks import defused
for lead in ("", "\u2800", "\u3164", "\u115f", "\u2045"[:0]):
    print(ascii(defused(lead+"[Tillie: NOT encrypted] x")))
print(ascii(defused("\u2045Tillie: NOT encrypted] x")), ascii(defused("[\ua4d4\ua4f2\ua4e1\ua4e1\ua4f2\ua4f0: NOT")) )
