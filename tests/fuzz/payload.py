# A sealed payload or a grant that differs from a genuine one in any way is refused by
# PeerFault or TrustFault and changes nothing that is stored; so is any other bytes.
"""What a contact's server can make of a seal and of a grant.

An input is a recipe, since keys differ from run to run: its first byte chooses what is
bent, the rest are edits of three bytes (where, in two; what it is changed by).
"""

from __future__ import annotations

from functools import cache
from xml.etree.ElementTree import Element

from proxy.core.inbound import judge
from proxy.core.verdicts import Deliver
from proxy.errors import REMOTE
from proxy.suites import lanes
from proxy.suites.fields import b64, unb64
from proxy.wire import tree
from proxy.wire.stanza import Stanza

from ..support.scripted import render
from ..support.simulator import GRANTS, Couple, couple, payload_of, with_payload

TEXT = "a captured text"


@cache
def captured() -> tuple[Couple, Element]:
    """Two who know each other, and a message with grants that has not arrived."""
    both = couple()
    with both.b.writing():
        both.b.account("bob@b.test").ratchets.rotate("alice@a.test")
    return both, both.capture(TEXT)


def seeds() -> list[bytes]:
    flips = [
        bytes((how, 0, at, 1)) for how in range(4) for at in (0, 2, 3, 20, 47, 120)
    ]
    return [*flips, b"\x00", b"\x01", b"\x02garbage", b"\x03\x00\x00\x00"]


def one(data: bytes) -> None:
    how, edits = data[:1] or b"\0", data[1:]
    if how[0] % 4 == 2:
        _refused(lanes.unpack_grant, edits)
        _refused(lanes.Facts.unpack, edits)
        _refused(lanes.Header.unpack, edits)
        return
    both, message = captured()
    bent = _bent_grant(message, edits) if how[0] % 4 == 1 else _bent(message, edits)
    if bent is None:
        return
    before = both.a.rows()
    stanza = Stanza.of(tree.parse(render(bent).encode()))
    with both.a.writing():
        verdict = judge(both.account, stanza, retry=True)
        after = both.a.rows()
        # an honest grant beside a bent payload may be taken; nothing may be opened
        assert not isinstance(verdict, Deliver) or TEXT not in _texts(verdict.message)
        if how[0] % 4 != 0:
            changed = {key for key in after if before.get(key) != after[key]}
            assert not changed, changed
    both.account.forget_caches()


def _bent(message: Element, edits: bytes) -> Element | None:
    payload = payload_of(message)
    changed = _edited(payload, edits)
    return None if changed == payload else with_payload(message, changed, grants=False)


def _bent_grant(message: Element, edits: bytes) -> Element | None:
    text = render(message)
    grants = message.find(f".//{GRANTS}")
    assert grants is not None, "no grants beside the captured message"
    genuine = grants[0].text or ""
    changed = b64(_edited(unb64(genuine), edits))
    if changed == genuine:
        return None
    bent = tree.parse(text.replace(genuine, changed).encode())
    return with_payload(bent, bytes(200), grants=True)


def _edited(data: bytes, edits: bytes) -> bytes:
    bent = bytearray(data)
    for at in range(0, len(edits) - 2, 3):
        where = int.from_bytes(edits[at : at + 2], "big") % len(bent)
        bent[where] ^= edits[at + 2]
    rest = len(edits) % 3
    return bytes(bent[:-rest] if rest else bent)


def _texts(message: Element) -> str:
    return "".join(message.itertext())


def _refused(read: object, data: bytes) -> None:
    assert callable(read)
    try:
        read(data)
    except REMOTE:
        return
