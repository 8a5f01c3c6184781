"""What a domain's key says of accounts: tokens and signed absence (clause 13.2).

The claims are made by a gate and read by everybody else.  A document is valid
under one server key, for one account of exactly that domain, for a short time;
``prev`` and ``jti`` are evidence, nothing is decided by them.  All times here
are milliseconds; those in the claims are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import PeerFault, TrustFault
from ..suites.fields import b64
from ..wire.jid import Jid
from . import documents
from .claims import bytes_of, check_members, integer_of, text_of, time_of
from .identity import RootPublic
from .manifest import SEQ_MAX, Manifest

TYP: Final = "tillie-token+jws"
ABSENCE_TYP: Final = "tillie-absence+jws"
TOKEN_MS: Final = 7 * 24 * 3600 * 1000
ABSENCE_MS: Final = 3600 * 1000
SKEW_MS: Final = 5 * 60 * 1000
"""How far a reader's clock may be off either way (DIR-03)."""
LEVEL: Final = "self"
LIMIT: Final = 16_384

_TOKEN_MEMBERS = frozenset(
    {"iss", "sub", "iat", "exp", "jti", "seq", "root", "manifest", "level"}
)
_ABSENCE_MEMBERS = frozenset({"iss", "sub", "iat", "exp", "jti"})
JTI_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signatures and issuer were verified; its time was not.

    :param jid: bare JID of the account.
    :param seq: of the manifest that is vouched for.
    :param root: fingerprint of the root keys, 32 bytes.
    :param manifest: digest of the manifest, 32 bytes.
    :param issued: Unix milliseconds, *expires* likewise.
    :param digest: SHA-256 of the signed payload, 32 bytes.
    :param document: the JWS, as text.
    """

    jid: str
    seq: int
    root: bytes
    manifest: bytes
    issued: int
    expires: int
    digest: bytes
    document: str

    def covers(self, manifest: Manifest) -> bool:
        """Whether this is about exactly that manifest of that account (I14)."""
        return (
            self.jid == manifest.jid
            and self.seq == manifest.seq
            and self.root == manifest.root.fingerprint
            and self.manifest == manifest.digest
        )

    def current(self, now: int) -> bool:
        return in_time(self.issued, self.expires, now)


@dataclass(frozen=True, slots=True)
class Absence:
    """ "This account has no key", by its domain; the members are those of a token."""

    jid: str
    issued: int
    expires: int
    document: str

    def current(self, now: int) -> bool:
        return in_time(self.issued, self.expires, now)


def in_time(issued: int, expires: int, now: int) -> bool:
    """Whether *now* lies in the time of a document, the reader's clock being good
    to 5 minutes."""
    return issued - SKEW_MS <= now <= expires + SKEW_MS


def token_claims(
    manifest: Manifest, jti: bytes, now: int, previous: bytes | None = None
) -> dict[str, object]:
    """The claims of a token for *manifest*, good for a week from *now*.

    :param jti: 16 random bytes.
    :param previous: digest of the token before, if there was one.
    """
    claims: dict[str, object] = {
        "iss": Jid.parse(manifest.jid).domain,
        "sub": manifest.jid,
        "jti": b64(jti),
        "seq": manifest.seq,
        "root": b64(manifest.root.fingerprint),
        "manifest": b64(manifest.digest),
        "level": LEVEL,
        "iat": now // 1000,
        "exp": (now + TOKEN_MS) // 1000,
    }
    if previous is not None:
        claims["prev"] = b64(previous)
    return claims


def absence_claims(jid: str, jti: bytes, now: int) -> dict[str, object]:
    """The claims that say for an hour that *jid* has no key."""
    return {
        "iss": Jid.parse(jid).domain,
        "sub": jid,
        "jti": b64(jti),
        "iat": now // 1000,
        "exp": (now + ABSENCE_MS) // 1000,
    }


def open_token(document: bytes, jid: str, server: RootPublic) -> Token:
    """Verify a token for *jid* under the key of its domain.

    Whether it :meth:`~Token.covers` what is held, and its time, are the caller's.

    :param jid: bare JID, normalised, for which it was looked up.
    :raises PeerFault: the form is wrong.
    :raises TrustFault: a signature is not valid, or it is about somebody else.
    """
    what = "a token"
    doc = documents.open_doc(document, TYP, server.ed25519, server.mldsa65, limit=LIMIT)
    claims = doc.claims
    check_members(claims, _TOKEN_MEMBERS, frozenset({"prev"}), what=what)
    issued, expires = _about(claims, jid, TOKEN_MS, what)
    if claims["level"] != LEVEL:
        raise TrustFault("a token has a level that is not known here")
    if "prev" in claims:
        bytes_of(claims, "prev", 32, what=what)
    return Token(
        jid=jid,
        seq=integer_of(claims, "seq", 1, SEQ_MAX, what=what),
        root=bytes_of(claims, "root", 32, what=what),
        manifest=bytes_of(claims, "manifest", 32, what=what),
        issued=issued,
        expires=expires,
        digest=doc.digest,
        document=document.decode("ascii"),
    )


def open_absence(document: bytes, jid: str, server: RootPublic) -> Absence:
    """Verify a signed absence for *jid*; the rest as in :func:`open_token`."""
    what = "a signed absence"
    doc = documents.open_doc(
        document, ABSENCE_TYP, server.ed25519, server.mldsa65, limit=LIMIT
    )
    check_members(doc.claims, _ABSENCE_MEMBERS, what=what)
    issued, expires = _about(doc.claims, jid, ABSENCE_MS, what)
    return Absence(jid, issued, expires, document.decode("ascii"))


def _about(
    claims: dict[str, object], jid: str, longest: int, what: str
) -> tuple[int, int]:
    """Issuer, subject and times of a document for *jid*.

    :raises TrustFault: another account's, or another domain's word on it (E.1).
    :raises PeerFault: times that no such document has.
    """
    if text_of(claims, "sub", what=what) != jid:
        raise TrustFault(f"{what} is about another account")
    if text_of(claims, "iss", what=what) != Jid.parse(jid).domain:
        raise TrustFault(f"{what} was issued by another domain")
    bytes_of(claims, "jti", JTI_SIZE, what=what)
    issued = time_of(claims, "iat", what=what)
    expires = time_of(claims, "exp", what=what)
    if not 0 < expires - issued <= longest:
        raise PeerFault(f"{what} is valid for too long")
    return issued, expires
