"""The first bytes of a stream: what is no XMPP at all ends here."""

from __future__ import annotations

from typing import Final

from ..errors import PeerFault
from .restricted import WHITE, restricted

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
LESS_THAN: Final = ord("<")


def begins_document(head: bytes, *, spaced: bool) -> bool:
    """Tell whether *head* begins as a stream does; False if it is too short.

    Strict from the first byte, so that a browser or a TLS client that finds this
    port learns nothing and leaves no state.  It also keeps expat, which takes
    UTF-16 where it sees a NUL, from having to guess.

    :raises PeerFault: it is no stream, or not in UTF-8.
    """
    if not head:
        return False
    if head[0] != LESS_THAN:
        wide = head[0] in b"\x00\xfe\xff"
        raise _not_utf8() if wide else PeerFault("this is no XMPP stream")
    if len(head) == 1:
        return False
    second = head[1:2]
    if second == b"?":
        return _begins_declaration(head, spaced=spaced)
    if second == b"!":
        raise restricted("a comment or a document type declaration")
    if second == b"\x00":
        raise _not_utf8()
    if not (second.isalpha() or second == b"_" or second >= b"\x80"):
        raise PeerFault("this is no XMPP stream")
    return True


def _begins_declaration(head: bytes, *, spaced: bool) -> bool:
    if spaced:
        raise PeerFault(
            "white space before the XML declaration", condition="not-well-formed"
        )
    if head[:5] != b"<?xml"[: len(head)] or head[5:6] not in WHITE:
        raise restricted("a processing instruction")
    return len(head) > 5


def _not_utf8() -> PeerFault:
    return PeerFault("the encoding is not UTF-8", condition="unsupported-encoding")
