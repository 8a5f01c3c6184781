# Any plaintext is refused by PeerFault or TrustFault, or becomes a message of bounded
# size that another parser reads, that nobody else is said to have sent, and in which no
# line of somebody else's looks like a line of Tillie's.
"""What stands inside a seal, once it is open."""

from __future__ import annotations

from proxy.errors import REMOTE
from proxy.rules import envelope, marks
from proxy.wire import tree

from ..support.badxml import BEHIND, PASSED
from ..support.simulator import parsed

OUTER = {"from": "bob@b.test/one", "to": "alice@a.test/two", "type": "chat", "id": "m"}
FRAME = (
    b"<envelope xmlns='urn:xmpp:sce:1'><content>%s</content>"
    b"<time stamp='2026-11-22T23:18:51Z'/><from jid='bob@b.test'/>"
    b"<to jid='alice@a.test'/><bind xmlns='urn:x-tillie:seal:0' type='chat' id='m'/>"
    b"<attributes xmlns='urn:x-tillie:seal:0' xml:lang='de'/><rpad>0</rpad></envelope>"
)


def seeds() -> list[bytes]:
    inside = [data for data, _ in BEHIND.values()] + list(PASSED.values())
    return [FRAME % data for data in inside]


def one(data: bytes) -> None:
    try:
        inside = envelope.read(data)
    except REMOTE:
        return
    message = envelope.restore(inside, dict(OUTER))
    marks.defuse(message)
    assert message.get("from") == OUTER["from"]
    assert message.get("to") == OUTER["to"]
    assert len(message) <= 1_024
    read = parsed(tree.serialise(message).decode())
    assert read.attrib == message.attrib, "one message became another, or several"
    assert not marks.imitated(message)
    again = envelope.read(envelope.write(inside, 0))
    assert (again.type, again.id, again.sender, again.to) == (
        inside.type,
        inside.id,
        inside.sender,
        inside.to,
    )
