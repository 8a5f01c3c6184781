"""Whom a client says that it is, in its first SASL message (14.6).

A filter only: who is logged in is the server's word.  A mechanism that is not
known here names nobody.
"""

from __future__ import annotations

from ..errors import PeerFault
from ..wire.jid import Jid


def claimed(mechanism: str, message: bytes, domain: str) -> str | None:
    """The account, a bare JID of *domain*, that *message* asks for, if it is readable.

    :param message: the first SASL message of the client, decoded.
    """
    name = _name(mechanism.upper(), message)
    if not name:
        return None
    try:
        jid = Jid.parse(name if "@" in name else f"{name}@{domain}")
    except PeerFault:
        return None
    return str(jid.bare) if jid.local and jid.domain == domain else None


def _name(mechanism: str, message: bytes) -> str:
    text = message.decode("utf-8", "replace")
    if mechanism == "PLAIN":  # RFC 4616: authzid NUL authcid NUL passwd
        parts = text.split("\0")
        return (parts[0] or parts[1]) if len(parts) == 3 else ""
    if mechanism.startswith("SCRAM-"):  # RFC 5802: gs2 header, then n=
        return _gs2(text.split(",", 2), ",")
    if mechanism == "OAUTHBEARER":  # RFC 7628: gs2 header, then ^A
        return _gs2(text.split(",", 2), "\x01")
    if mechanism.startswith("HT-"):  # draft-schmaus-kitten-sasl-ht
        return text.partition("\0")[0]
    return ""


def _gs2(parts: list[str], until: str) -> str:
    if len(parts) < 3:
        return ""
    _, authzid, rest = parts
    if authzid.startswith("a="):
        return _unescaped(authzid[2:])
    first = rest.split(until, 1)[0]
    return _unescaped(first[2:]) if first.startswith("n=") else ""


def _unescaped(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")
