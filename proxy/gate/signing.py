"""What the signing process signs, and for whom: its own word, nobody else's.

Whoever has taken over the gate can ask here, and gets what a gate may say now: no
token for another domain, none that begins later, no rollover to a key that does
not lie here, and no signature over anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..errors import PeerFault, TrustFault
from ..keys import servers, tokens
from ..keys.claims import (
    bytes_of,
    check_members,
    integer_of,
    keys_claim,
    text_of,
    time_of,
)
from ..keys.documents import DocumentSigner
from ..keys.handshake import EXPORTER_SIZE, NONCE_SIZE
from ..keys.identity import ED25519_SIZE, RootPrivate
from ..keys.manifest import SEQ_MAX
from ..suites.fields import fields, split
from ..wire.jid import Jid

Claims = Mapping[str, object]
MAKE: Final = "+"
"""Before a domain's name at the start: it may have a new key, if it has none."""
_WHAT: Final = "what is to be signed"
_ABOUT: Final = frozenset({"iss", "sub", "iat", "exp", "jti"})
_TOKEN: Final = _ABOUT | {"seq", "root", "manifest", "level"}
_SERVER: Final = frozenset({"sub", "seq", "keys", "iat", "exp"})
_ROLLOVER: Final = frozenset({"sub", "from", "to", "iat"})


class Signing:
    """Signs for some domains by the keys that lie here.

    :param keys: per domain one or two: the key and the one that will follow.
    """

    def __init__(self, keys: Mapping[str, list[RootPrivate]]) -> None:
        self._keys = {
            domain: {one.public.fingerprint: DocumentSigner(one) for one in held}
            for domain, held in keys.items()
        }

    def sign(self, typ: str, claims: Claims, fingerprint: bytes, now: int) -> str:
        """The JWS of *claims* by the key with *fingerprint*.

        :param now: by this process's own clock, Unix milliseconds.
        :raises PeerFault: claims that no document of 13.2 has.
        :raises TrustFault: claims that are not this gate's to make.
        """
        check = _CHECKS.get(typ)
        if check is None:
            raise TrustFault("documents of this kind are not signed here")
        domain = _domain(typ, claims)
        key = self._key(domain, fingerprint)
        check(self, domain, key, claims)
        issued = time_of(claims, "iat", what=_WHAT)
        if abs(now - issued) > tokens.SKEW_MS:
            raise TrustFault("a document is signed on its day only")
        return key.make(claims, typ)

    def prove(self, statement: bytes, fingerprint: bytes, now: int) -> bytes:
        """The Ed25519 signature of a statement of 14.4; raises likewise."""
        domain = _presented(statement, now)
        return self._key(domain, fingerprint).sign_ed25519(statement)

    def _key(self, domain: str, fingerprint: bytes) -> DocumentSigner:
        key = self._keys.get(domain, {}).get(fingerprint)
        if key is None:
            raise TrustFault(f"no such key of {domain} lies here")
        return key

    def server(self, domain: str, key: DocumentSigner, claims: Claims) -> None:
        check_members(claims, _SERVER, frozenset({"next", "directory"}), what=_WHAT)
        integer_of(claims, "seq", 1, SEQ_MAX, what=_WHAT)
        _lasts(claims, servers.SERVER_MS)
        if claims["keys"] != keys_claim(key.public):
            raise TrustFault("a server document names the key that signs it")
        if "next" in claims:
            bytes_of(claims, "next", 32, what=_WHAT)
        if "directory" in claims:
            name = text_of(claims, "directory", what=_WHAT)
            if Jid.parse(name).domain != name:
                raise PeerFault("the directory is no domain")

    def rollover(self, domain: str, key: DocumentSigner, claims: Claims) -> None:
        check_members(claims, _ROLLOVER, what=_WHAT)
        if bytes_of(claims, "from", 32, what=_WHAT) != key.public.fingerprint:
            raise TrustFault("a rollover begins at the key that signs it")
        others = [one for one in self._keys[domain].values() if one is not key]
        if claims["to"] not in [keys_claim(one.public) for one in others]:
            raise TrustFault("a rollover leads to a key that lies here")

    def token(self, domain: str, key: DocumentSigner, claims: Claims) -> None:
        check_members(claims, _TOKEN, frozenset({"prev"}), what=_WHAT)
        _about(domain, claims, tokens.TOKEN_MS)
        integer_of(claims, "seq", 1, SEQ_MAX, what=_WHAT)
        for name in ("root", "manifest", *(("prev",) if "prev" in claims else ())):
            bytes_of(claims, name, 32, what=_WHAT)
        if claims["level"] != tokens.LEVEL:
            raise TrustFault("a token of this level is not signed here")

    def absence(self, domain: str, key: DocumentSigner, claims: Claims) -> None:
        check_members(claims, _ABOUT, what=_WHAT)
        _about(domain, claims, tokens.ABSENCE_MS)


_CHECKS: Final[dict[str, Callable[[Signing, str, DocumentSigner, Claims], None]]] = {
    servers.SERVER: Signing.server,
    servers.ROLLOVER: Signing.rollover,
    tokens.TYP: Signing.token,
    tokens.ABSENCE_TYP: Signing.absence,
}


def _domain(typ: str, claims: Claims) -> str:
    """Whose word it is; whether it is one of ours is asked by its key."""
    name = "sub" if typ in (servers.SERVER, servers.ROLLOVER) else "iss"
    if name not in claims:
        raise PeerFault(f"{_WHAT} has a member too few")
    return text_of(claims, name, what=_WHAT)


def _about(domain: str, claims: Claims, longest: int) -> None:
    subject = text_of(claims, "sub", what=_WHAT)
    jid = Jid.parse(subject)
    if jid.domain != domain or jid.resource or str(jid) != subject:
        raise TrustFault("the issuer is exactly the domain of the subject")
    bytes_of(claims, "jti", tokens.JTI_SIZE, what=_WHAT)
    _lasts(claims, longest)


def _lasts(claims: Claims, longest: int) -> None:
    issued = time_of(claims, "iat", what=_WHAT)
    if not 0 < time_of(claims, "exp", what=_WHAT) - issued <= longest:
        raise PeerFault(f"{_WHAT} would be valid for too long")


def domain_of(statement: bytes) -> str:
    """Whose statement of 14.4 that may be; nothing else of it is looked at.

    :raises PeerFault: nobody's.
    """
    parts = split(statement)
    if len(parts) < 3:
        raise PeerFault("this is no statement of a gate")
    return (parts[2] or b"").decode("utf-8", "replace")


def signer_of(claims: Claims) -> str:
    """The domain that signs a document with these claims.

    :raises PeerFault: none.
    """
    name = claims.get("iss", claims.get("sub"))
    if not isinstance(name, str):
        raise PeerFault(f"{_WHAT} names nobody")
    return Jid.parse(name).domain


def _presented(statement: bytes, now: int) -> str:
    """The domain of a statement that is a gate's answer to a presentation (14.4).

    :raises PeerFault: it is anything else.
    """
    parts = split(statement)
    if len(parts) != 8 or None in (*parts[:6], parts[7]):
        raise PeerFault("this is no statement of a gate")
    domain, exporter, nonce, device, root, time = parts[2:]
    sizes = [len(one or b"") for one in (exporter, nonce, device, root, time)]
    wanted = [EXPORTER_SIZE, NONCE_SIZE, ED25519_SIZE, 0 if root is None else 32, 8]
    opening = fields("presented", "gate")
    if not statement.startswith(opening) or sizes != wanted:
        raise PeerFault("this is no statement of a gate")
    if abs(now - int.from_bytes(time or b"", "big")) > tokens.SKEW_MS:
        raise TrustFault("a gate proves itself for now only")
    return (domain or b"").decode("utf-8", "replace")
