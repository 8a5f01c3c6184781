"""Security labels (XEP-0258): what of one stands outside a seal, because servers
decide by it whom a message may reach.

Only ESS labels (RFC 2634, 3.2) are read, as their form alone is defined: policy,
classification and categories go outside.  Markings for display and privacy marks
decide nothing ("not used for access control", 3.2) and are free text: inside only.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement

from ..errors import PeerFault
from ..suites.fields import b64, unb64

_SPACE = "{urn:xmpp:sec-label:0}"
LABEL = f"{_SPACE}securitylabel"
_PRIMARY = f"{_SPACE}label"
_EQUIVALENT = f"{_SPACE}equivalentlabel"
_ESS = "{urn:xmpp:sec-label:ess:0}esssecuritylabel"
_MOST = 16
_LARGEST = 512
_DEPTH = 6

_SET = 0x31
# BOOLEAN, INTEGER, BIT STRING, NULL, OBJECT IDENTIFIER, ENUMERATED; the implicit [0]
# of a category's type: numbers, none of which is a character string
_PLAIN = frozenset({0x01, 0x02, 0x03, 0x05, 0x06, 0x0A, 0x80})
# SEQUENCE, SET, and the explicit [0] and [1]
_NESTED = frozenset({0x30, _SET, 0xA0, 0xA1})
# UTF8String, PrintableString: a privacy mark, where it stands at the top
_MARK = frozenset({0x0C, 0x13})


def outside(label: Element) -> Element | None:
    """The copy of a ``<securitylabel/>`` that servers may see; None where nothing of
    it is in a form that they are known to act on."""
    copy = Element(LABEL)
    try:
        for part in label:
            if part.tag == _PRIMARY:
                copy.append(_labelled(part, empty=True))
            elif part.tag == _EQUIVALENT:
                copy.append(_labelled(part, empty=False))
    except PeerFault:
        return None
    primary = copy.findall(_PRIMARY)
    return copy if len(primary) == 1 and len(copy) <= _MOST else None


def _labelled(part: Element, *, empty: bool) -> Element:
    """A ``<label/>``, which may be empty to mean the default, or an equivalent."""
    copy = Element(part.tag)
    if empty and not len(part):
        return copy
    if [child.tag for child in part] != [_ESS] or len(part[0]):
        raise PeerFault("a security label of another form")
    text = "".join((part[0].text or "").split())
    SubElement(copy, _ESS).text = b64(_acted_on(unb64(text)))
    return copy


def _acted_on(data: bytes) -> bytes:
    """An ESSSecurityLabel without its privacy mark.

    :raises PeerFault: not one, or it holds what could be a text.
    """
    if len(data) > _LARGEST:
        raise PeerFault("a security label beyond the limit")
    [(tag, content)] = _values(data, only=True)
    if tag != _SET:
        raise PeerFault("a security label is a SET")
    kept = b""
    for inner, value in _values(content):
        if inner not in _MARK:
            _check_plain(inner, value, _DEPTH)
            kept += _packed(inner, value)
    return _packed(_SET, kept)


def _check_plain(tag: int, content: bytes, depth: int) -> None:
    if tag in _NESTED and depth:
        for inner, value in _values(content):
            _check_plain(inner, value, depth - 1)
    elif tag not in _PLAIN:
        raise PeerFault("a security label holds something else than numbers")


def _values(data: bytes, *, only: bool = False) -> Iterator[tuple[int, bytes]]:
    """The DER values one behind the other: tag byte and content.

    :param only: there has to be exactly one.
    """
    at, found = 0, 0
    while at < len(data):
        tag, size, begin = _head(data, at)
        at = begin + size
        found += 1
        if at > len(data) or (only and (found > 1 or at < len(data))):
            raise PeerFault("a security label is malformed")
        yield tag, data[begin:at]
    if only and found != 1:
        raise PeerFault("a security label is malformed")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, length, and where the content begins (X.690, 8.1; lengths as in 10.1)."""
    octets = data[at : at + 4]
    if len(octets) < 2 or octets[0] & 0x1F == 0x1F:
        raise PeerFault("a security label is malformed")
    if octets[1] < 0x80:
        return octets[0], octets[1], at + 2
    if octets[1] == 0x81 and len(octets) > 2 and octets[2] >= 0x80:
        return octets[0], octets[2], at + 3
    if octets[1] == 0x82 and len(octets) > 3 and octets[2]:
        return octets[0], int.from_bytes(octets[2:4], "big"), at + 4
    raise PeerFault("a security label is malformed")


def _packed(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        head = bytes((size,))
    elif size < 0x100:
        head = bytes((0x81, size))
    else:
        head = bytes((0x82, *size.to_bytes(2, "big")))
    return bytes((tag,)) + head + content
