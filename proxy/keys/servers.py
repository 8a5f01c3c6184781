"""A domain's own key: its document, its rollovers, and the pins of both (13.4).

Like ``keys.trust`` for accounts: pure policy over what is held, what arrived
and the time.  The pair of keys has the form of a root's and is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from ..errors import PeerFault, TrustFault
from ..suites.fields import b64
from ..wire.jid import Jid
from . import documents
from .claims import (
    bytes_of,
    check_members,
    integer_of,
    keys_claim,
    keys_of,
    text_of,
    time_of,
)
from .identity import RootPublic
from .manifest import SEQ_MAX
from .tokens import in_time

SERVER: Final = "tillie-server+jws"
ROLLOVER: Final = "tillie-rollover+jws"
SERVER_MS: Final = 366 * 24 * 3600 * 1000
MOST_ROLLOVERS: Final = 2
LIMIT: Final = 16_384
_WHAT = "a server document"
_MEMBERS = frozenset({"sub", "seq", "keys", "iat", "exp"})
_OPTIONAL = frozenset({"next", "directory"})
_ROLLOVER_MEMBERS = frozenset({"sub", "from", "to", "iat"})

Alarm: TypeAlias = Literal["", "server-fork", "server-key-changed"]
Source: TypeAlias = Literal["record", "directory", "stream"]
"""Whose word a document is: an account's of the domain, in its own record; the
domain's directory's; who proved at a login there to hold the key."""

_RANK: Final[dict[Source, int]] = {"record": 0, "directory": 1, "stream": 2}


@dataclass(frozen=True, slots=True)
class ServerDocument:
    """What a domain says of itself, verified by the key that it names.

    :param next: fingerprint of the key that will follow, None if not announced.
    :param directory: domain of the directory, None if there is none.
    :param issued: Unix milliseconds, *expires* likewise.
    :param digest: SHA-256 of the signed payload, 32 bytes.
    """

    domain: str
    seq: int
    keys: RootPublic
    next: bytes | None
    directory: str | None
    issued: int
    expires: int
    digest: bytes
    document: str


def server_claims(
    domain: str,
    seq: int,
    keys: RootPublic,
    now: int,
    *,
    following: bytes | None = None,
    directory: str | None = None,
) -> dict[str, object]:
    """The claims of a domain's document, good for 366 days from *now*."""
    claims: dict[str, object] = {
        "sub": domain,
        "seq": seq,
        "keys": keys_claim(keys),
        "iat": now // 1000,
        "exp": (now + SERVER_MS) // 1000,
    }
    if following is not None:
        claims["next"] = b64(following)
    if directory is not None:
        claims["directory"] = directory
    return claims


def open_server(document: bytes, domain: str) -> ServerDocument:
    """Verify a document by the key that it names itself; pins are :func:`judge`'s.

    :raises PeerFault: the form is wrong.
    :raises TrustFault: a signature is not valid, or it is another domain's.
    """
    doc = documents.open_own_doc(document, SERVER, _keys, limit=LIMIT)
    claims = doc.claims
    check_members(claims, _MEMBERS, _OPTIONAL, what=_WHAT)
    if claims["sub"] != domain:
        raise TrustFault("a server document belongs to another domain")
    issued = time_of(claims, "iat", what=_WHAT)
    expires = time_of(claims, "exp", what=_WHAT)
    if not 0 < expires - issued <= SERVER_MS:
        raise PeerFault("a server document is valid for too long")
    following = bytes_of(claims, "next", 32, what=_WHAT) if "next" in claims else None
    return ServerDocument(
        domain=domain,
        seq=integer_of(claims, "seq", 1, SEQ_MAX, what=_WHAT),
        keys=doc.signer,
        next=following,
        directory=_directory(claims),
        issued=issued,
        expires=expires,
        digest=doc.digest,
        document=document.decode("ascii"),
    )


def _keys(claims: dict[str, object]) -> RootPublic:
    return keys_of(claims.get("keys"), what=_WHAT)


def _directory(claims: dict[str, object]) -> str | None:
    if "directory" not in claims:
        return None
    text = text_of(claims, "directory", what=_WHAT)
    jid = Jid.parse(text)
    if str(jid) != jid.domain or jid.domain != text:
        raise PeerFault("the directory in a server document is no domain")
    return text


# -- rollovers --------------------------------------------------------------


def rollover_claims(
    sub: str, old: bytes, new: RootPublic, now: int
) -> dict[str, object]:
    """The claims by which the key with fingerprint *old* hands over to *new*."""
    return {"sub": sub, "from": b64(old), "to": keys_claim(new), "iat": now // 1000}


def open_rollover(document: bytes, sub: str, old: RootPublic) -> RootPublic:
    """Verify a rollover by the *old* key; the keys that it leads to.

    :param sub: the domain, or the account, whose key it is.
    :raises PeerFault: the form is wrong.
    :raises TrustFault: not signed by *old*, or about somebody else.
    """
    what = "a rollover"
    doc = documents.open_doc(document, ROLLOVER, old.ed25519, old.mldsa65, limit=LIMIT)
    check_members(doc.claims, _ROLLOVER_MEMBERS, what=what)
    time_of(doc.claims, "iat", what=what)
    if text_of(doc.claims, "sub", what=what) != sub:
        raise TrustFault("a rollover is about somebody else")
    target = keys_of(doc.claims["to"], what=what)
    if bytes_of(doc.claims, "from", 32, what=what) != old.fingerprint or target == old:
        raise TrustFault("a rollover does not begin at the key that signed it")
    return target


# -- pins -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pin:
    """What is held of a domain's key.

    :param held: the newest document that was taken.
    :param since: when this key was pinned, Unix milliseconds.
    :param source: the best that has shown this key.
    """

    held: ServerDocument
    since: int
    alarm: Alarm = ""
    source: Source = "stream"

    @property
    def gated(self) -> bool:
        """Whether the domain itself has said that it has a gate.

        What stands in a record anybody with an account there can write.
        """
        return self.source != "record"

    @property
    def trusted(self) -> bool:
        """Whether what this key signs counts."""
        return self.alarm != "server-key-changed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """*pin* is to be kept; *notice* is for the person, empty if there is no news.

    :param taken: whether the offered document speaks for the domain now.
    """

    pin: Pin
    taken: bool
    notice: str = ""


def judge(
    pin: Pin | None,
    offered: ServerDocument,
    rollovers: Sequence[bytes],
    now: int,
    source: Source = "stream",
) -> Verdict:
    """Say what a verified document means for its domain's pin (clause 13.4).

    :param rollovers: documents beside it, oldest first, not verified yet; each is
        signed by the key that the one before leads to, the first by the pinned.
    :raises TrustFault: it is another domain's, or out of date.
    """
    if not in_time(offered.issued, offered.expires, now):
        raise TrustFault(
            f"the key document of {offered.domain} is out of date",
            hint="is this computer's clock right?",
        )
    if pin is None:
        return Verdict(Pin(offered, now, source=source), taken=True)
    if pin.held.domain != offered.domain:
        raise TrustFault("a server document belongs to another domain")
    if offered.keys == pin.held.keys:
        return _same_key(pin, offered, source)
    if _RANK[source] < _RANK[pin.source]:
        # whoever may say less can neither move the pin nor cause an alarm
        return Verdict(pin, taken=False)
    if leads_to(pin.held.domain, pin.held.keys, offered.keys, rollovers):
        notice = f"{offered.domain} changed its key, and the old one vouches for it"
        return Verdict(Pin(offered, now, source=source), taken=True, notice=notice)
    if _RANK[source] > _RANK[pin.source] == 0:
        # an account's word gives way to its domain's
        return Verdict(Pin(offered, now, source=source), taken=True)
    return _alarm(
        pin,
        "server-key-changed",
        f"{offered.domain} shows another key than before, and nothing vouches for it",
    )


def _same_key(pin: Pin, offered: ServerDocument, source: Source) -> Verdict:
    better = source if _RANK[source] > _RANK[pin.source] else pin.source
    # a document can be shown by anybody; only a login proves who holds its key
    changed = pin.alarm == "server-key-changed" and source != "stream"
    alarm: Alarm = pin.alarm if changed else ""
    pin = replace(pin, source=pin.source if changed else better)
    if offered.seq > pin.held.seq:
        return Verdict(replace(pin, held=offered, alarm=alarm), taken=True)
    if offered.seq < pin.held.seq:
        return Verdict(pin, taken=True)
    if offered.digest != pin.held.digest and changed:
        return Verdict(pin, taken=False)
    if offered.digest != pin.held.digest:
        return _alarm(
            pin,
            "server-fork",
            f"two key documents of {offered.domain} have the same number",
        )
    return Verdict(replace(pin, alarm=alarm), taken=True)


def _alarm(pin: Pin, alarm: Alarm, notice: str) -> Verdict:
    fresh = pin.alarm != alarm
    return Verdict(
        replace(pin, alarm=alarm), taken=False, notice=notice if fresh else ""
    )


def leads_to(
    sub: str, held: RootPublic, wanted: RootPublic, rollovers: Sequence[bytes]
) -> bool:
    """Whether signed rollovers lead from the *held* key of *sub* to *wanted*."""
    return bool(left_behind(sub, held, wanted, rollovers))


def left_behind(
    sub: str, held: RootPublic, wanted: RootPublic, rollovers: Sequence[bytes]
) -> tuple[RootPublic, ...]:
    """The keys of *sub* that signed rollovers lead away from on the way from the
    *held* one to *wanted*: that one first, none where they do not lead there.

    Links from before the held key fail to verify under it and are passed over.
    """
    passed = [held]
    for document in rollovers[:MOST_ROLLOVERS]:
        try:
            keys = open_rollover(document, sub, passed[-1])
        except (PeerFault, TrustFault):
            continue
        if keys == wanted:
            return tuple(passed)
        passed.append(keys)
    return ()
