"""Signed documents: JWS General JSON with exactly two signatures, both valid (I4).

The form is settled here first, to the byte where that is possible: what is left of
RFC 7515 is one text for each signature, verified with the one algorithm of its place
and the one key of it.  Nothing in a document chooses an algorithm or a key.  No JOSE
library is asked: those are content with one good signature out of many and read
duplicate members.  The tests compare every verdict with one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)

from ..errors import LocalFault, PeerFault, TrustFault
from .identity import RootPrivate, RootPublic

LIMIT = 32_768
"""Bytes of a whole document, unless the caller says otherwise."""

INTEGER_MAX = 2**53 - 1
"""The largest integer of a claim (RFC 7493, 2.2); negative ones are refused."""

_ALGORITHMS = ("EdDSA", "ML-DSA-65")
_SIGNATURE_SIZES = (64, 3309)
_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Document:
    """A document whose two signatures were verified.

    :param claims: text, integers 0..2**53-1, lists and objects of these.
    :param payload: the bytes that were signed.
    :param digest: SHA-256 of *payload*, 32 bytes.
    :param signer: the keys that both are by.
    """

    claims: dict[str, object]
    payload: bytes
    digest: bytes
    signer: RootPublic


@dataclass(frozen=True, slots=True)
class _Form:
    """A document of the right form; nothing in it is vouched for yet.

    :param signed: for each algorithm the text that is signed (RFC 7515, 5.2) and
        the signature, of the right size.
    :param payload: decoded.
    """

    signed: tuple[tuple[bytes, bytes], ...]
    payload: bytes
    claims: dict[str, object]


class DocumentSigner:
    """Both private keys of a pair, made ready once for many documents."""

    def __init__(self, root: RootPrivate) -> None:
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(root.ed25519)
        self._mldsa65 = MLDSA65PrivateKey.from_seed_bytes(root.mldsa65)
        self.public = RootPublic(
            self._ed25519.public_key().public_bytes_raw(),
            self._mldsa65.public_key().public_bytes_raw(),
        )

    def sign_ed25519(self, data: bytes) -> bytes:
        """See :meth:`identity.RootPrivate.sign_ed25519`."""
        return self._ed25519.sign(data)

    def make(self, claims: Mapping[str, object], typ: str) -> str:
        """See :func:`make_doc`."""
        payload = json.dumps(
            claims, ensure_ascii=False, separators=(",", ":"), sort_keys=True
        ).encode("utf-8", "surrogatepass")
        try:
            _claims(payload)
        except PeerFault as error:
            raise LocalFault(f"a claim cannot be signed: {error.text}") from error
        coded = _b64url(payload)
        signatures = []
        for algorithm, sign in zip(
            _ALGORITHMS, (self._ed25519.sign, self._mldsa65.sign), strict=True
        ):
            protected = _b64url(_protected(algorithm, typ))
            signature = _b64url(sign(_signed(protected, coded)))
            signatures.append({"protected": protected, "signature": signature})
        return json.dumps(
            {"payload": coded, "signatures": signatures}, separators=(",", ":")
        )


def make_doc(claims: Mapping[str, object], typ: str, root: RootPrivate) -> str:
    """Sign *claims* with both root keys (RFC 7515, 7.2.1; RFC 8037; RFC 9964).

    :param typ: what kind of document it is; it stands in both protected headers.
    :returns: JSON text, ASCII, no white space.
    :raises LocalFault: *claims* hold what :func:`open_doc` would refuse.
    """
    return DocumentSigner(root).make(claims, typ)


def open_doc(
    data: bytes, typ: str, ed25519: bytes, mldsa65: bytes, *, limit: int = LIMIT
) -> Document:
    """Check the form of *data* and both signatures.

    :param ed25519: the signer's public key, 32 bytes.
    :param mldsa65: the signer's public key, 1952 bytes.
    :param limit: bytes of *data* at most.
    :raises PeerFault: the form is wrong: size, members, header, base64, JSON.
    :raises TrustFault: a key is malformed or a signature not valid.
    """
    form = _form(data, typ, limit)
    return _verified(form, RootPublic(ed25519, mldsa65))


def open_own_doc(
    data: bytes,
    typ: str,
    keys: Callable[[dict[str, object]], RootPublic],
    *,
    limit: int = LIMIT,
) -> Document:
    """The same for a document that is signed by the keys that it names itself.

    :param keys: finds them in the claims, of which nothing is verified yet.
    :raises PeerFault, TrustFault: as for :func:`open_doc`, or *keys* does.
    """
    form = _form(data, typ, limit)
    return _verified(form, keys(form.claims))


def peek_doc(data: bytes, typ: str, *, limit: int = LIMIT) -> dict[str, object]:
    """Read the claims *without* verifying anything.

    For a document that was verified before it was kept.

    :raises PeerFault: as for :func:`open_doc`.
    """
    return _form(data, typ, limit).claims


def _form(data: bytes, typ: str, limit: int) -> _Form:
    if len(data) > limit:
        raise PeerFault(f"a signed document is larger than {limit} bytes")
    outer = _members(_json(data), "payload", "signatures")
    signatures = outer["signatures"]
    if not isinstance(signatures, list) or len(signatures) != len(_ALGORITHMS):
        raise PeerFault("a signed document has not exactly two signatures")
    entries = [
        _entry(value, _protected(algorithm, typ), size)
        for value, algorithm, size in zip(
            signatures, _ALGORITHMS, _SIGNATURE_SIZES, strict=True
        )
    ]
    text, payload = _unb64url(outer["payload"])
    signed = tuple((_signed(header, text), found) for header, found in entries)
    return _Form(signed, payload, _claims(payload))


def _entry(value: object, protected: bytes, size: int) -> tuple[str, bytes]:
    """Protected header as it is written, and signature."""
    entry = _members(value, "protected", "signature")
    header, decoded = _unb64url(entry["protected"])
    # Equal bytes leave no room for another algorithm, `crit`, `b64` or a key
    # inside the header.
    if decoded != protected:
        raise PeerFault("a signed document has another protected header")
    _, signature = _unb64url(entry["signature"])
    if len(signature) != size:
        raise PeerFault("a signature in a signed document has a wrong size")
    return header, signature


def _protected(algorithm: str, typ: str) -> bytes:
    return f'{{"alg":"{algorithm}","typ":"{typ}"}}'.encode("ascii")


def _signed(protected: str, payload: str) -> bytes:
    """What a signature is over (RFC 7515, 5.1): both as they are written."""
    return f"{protected}.{payload}".encode("ascii")


def _verified(form: _Form, public: RootPublic) -> Document:
    keys: tuple[Ed25519PublicKey | MLDSA65PublicKey, ...] = (
        Ed25519PublicKey.from_public_bytes(public.ed25519),
        MLDSA65PublicKey.from_public_bytes(public.mldsa65),
    )
    for algorithm, key, (text, signature) in zip(
        _ALGORITHMS, keys, form.signed, strict=True
    ):
        try:
            key.verify(signature, text)
        except InvalidSignature as error:
            raise TrustFault(
                f"the {algorithm} signature of a document is not valid"
            ) from error
    digest = hashlib.sha256(form.payload).digest()
    return Document(form.claims, form.payload, digest, public)


def _claims(payload: bytes) -> dict[str, object]:
    claims = _json(payload)
    if not isinstance(claims, dict):
        raise PeerFault("the claims of a signed document are no JSON object")
    return claims


def _members(value: object, *names: str) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise PeerFault(f"a signed document has other members than {', '.join(names)}")
    return value


def _json(data: bytes) -> object:
    try:
        # As text: given bytes, the library would also take UTF-16 and UTF-32.
        value: object = _STRICT.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PeerFault("a signed document is not well-formed JSON") from error
    _check_value(value, _DEPTH)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise PeerFault("a signed document names a member twice")
    return made


def _integer(text: str) -> int:
    # The length first: converting many digits takes quadratic time.
    if len(text) > 16 or text.startswith("-") or int(text) > INTEGER_MAX:
        raise PeerFault("an integer in a signed document is out of range")
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    raise PeerFault("a signed document has a number that is no integer")


_STRICT = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
)


def _check_value(value: object, depth: int) -> None:
    if depth == 0:
        raise PeerFault("a signed document is nested too deeply")
    if isinstance(value, dict):
        for name, member in value.items():
            _check_text(name)
            _check_value(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _check_value(member, depth - 1)
    elif isinstance(value, str):
        _check_text(value)
    # `True` is an int to Python; here it is neither.
    elif type(value) is not int:
        raise PeerFault("a signed document has a value of an unknown type")


def _check_text(text: str) -> None:
    # An escaped lone surrogate has no UTF-8 and would break whoever hashes it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PeerFault("a signed document has text that is not Unicode") from error


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unb64url(text: object) -> tuple[str, bytes]:
    if not isinstance(text, str):
        raise PeerFault("a signed document has a member that is no text")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise PeerFault("a signed document is not canonical base64url") from error
    # The decoder skips what is not in its alphabet and ignores spare bits.
    if _b64url(data) != text:
        raise PeerFault("a signed document is not canonical base64url")
    return text, data
