"""Suite 1: sender lanes (protocol.md 5 and 6).

A lane is one device's hash ratchet towards one audience: a stanza is
encrypted once, whoever reads it.  Its key travels in grants, sealed with HPKE
(X-Wing) to each reading device and signed by the sending device.

This file draws keys and nonces, derives, seals and opens.  It holds no state
between calls and stores nothing: chains come in as arguments and go out as
results, and ``core.account`` commits them before a byte leaves.  Who may get
a grant, and whose grant is believed, is not decided here either.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import Suite as Hpke
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import PeerFault, TrustFault
from .entropy import token
from .fields import fields, split
from .points import check_ed25519

SUITE = 1
VERSION = 0
KIND_MESSAGE = 0
TRANSIENT = 0x10
WITH_GRANTS = 0x20
_KNOWN_FLAGS = 0x3F

_HEADER = 47
_SIGNATURE = 64
_COMMITMENT = 32
_TAG = 16
SMALLEST = _HEADER + _SIGNATURE + _COMMITMENT + _TAG
SKIP_LIMIT = 1000
LANE_LIMIT = 1000
"""No lane runs past this index: bounds what a reader derives for one stanza."""


class Broken(TrustFault):
    """The seal does not hold; which check failed is never told to the network."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first 47 bytes of a payload; *device* is a hint, nothing rests on it."""

    flags: int
    lane: bytes
    n: int
    device: bytes
    random: bytes

    def pack(self) -> bytes:
        return (
            bytes((VERSION, SUITE, self.flags))
            + self.lane
            + self.n.to_bytes(4, "big")
            + self.device
            + self.random
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Header:
        """:raises Broken: too short, or a version, suite or flag that is not ours."""
        if len(payload) < SMALLEST:
            raise Broken("the sealed payload is too short")
        if payload[0] != VERSION or payload[1] != SUITE:
            raise Broken("the sealed payload is of another version or suite")
        if payload[2] & ~_KNOWN_FLAGS or payload[2] & 0x0F != KIND_MESSAGE:
            raise Broken("the sealed payload is of an unknown kind")
        return cls(
            flags=payload[2],
            lane=payload[3:19],
            n=int.from_bytes(payload[19:23], "big"),
            device=payload[23:31],
            random=payload[31:47],
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a lane is, the same for the one who writes and those who read.

    :param owner: bare JID of the sending account; *root* its fingerprint.
    :param device: Ed25519 public key of the sending device.
    :param public: Ed25519 public key of the lane.
    :param commit: c0, the commitment to the first chain key.
    :param scope: audience hash for one-to-one conversations.
    :param epoch: creation time in milliseconds, strictly rising per device.
    """

    owner: str
    root: bytes
    device: bytes
    public: bytes
    commit: bytes
    kind: int
    scope: bytes
    audience: bytes
    epoch: int

    @property
    def lane(self) -> bytes:
        """16 bytes; recomputed by every reader, so that no one can choose it (I21)."""
        return _lane(
            self.device,
            self.public,
            self.commit,
            self.scope,
            self.audience,
            self.epoch,
        )

    def pack(self) -> bytes:
        return fields(
            "lane-facts",
            self.owner,
            self.root,
            self.device,
            self.public,
            self.commit,
            self.kind,
            self.scope,
            self.audience,
            self.epoch,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Facts:
        """:raises PeerFault: not what :meth:`pack` makes."""
        parts = split(data)
        if len(parts) != 10 or parts[0] != b"tillie/0 lane-facts" or None in parts:
            raise PeerFault("lane facts are malformed")
        _, owner, root, device, public, commit, kind, scope, audience, epoch = (
            part or b"" for part in parts
        )
        sizes = (len(root), len(device), len(public), len(commit), len(audience))
        if sizes != (32, 32, 32, 32, 32) or len(kind) != 8 or len(epoch) != 8:
            raise PeerFault("lane facts are malformed")
        try:
            name = owner.decode()
        except UnicodeDecodeError as error:
            raise PeerFault("lane facts are malformed") from error
        return cls(
            owner=name,
            root=root,
            device=device,
            public=public,
            commit=commit,
            kind=int.from_bytes(kind, "big"),
            scope=scope,
            audience=audience,
            epoch=int.from_bytes(epoch, "big"),
        )


@lru_cache(maxsize=1024)
def _lane(*facts: bytes | int) -> bytes:
    return sha256(fields("lane", *facts)).digest()[:16]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain key and the index whose message key comes from it next."""

    n: int
    key: bytes

    def message_key(self) -> bytes:
        return hmac.digest(self.key, b"\x01", "sha256")

    def next(self) -> Chain:
        return Chain(self.n + 1, hmac.digest(self.key, b"\x02", "sha256"))

    def at(self, n: int) -> Chain:
        """The chain at the later index *n*."""
        chain = self
        while chain.n < n:
            chain = chain.next()
        return chain

    def pack(self) -> bytes:
        return self.n.to_bytes(4, "big") + self.key

    @classmethod
    def unpack(cls, data: bytes) -> Chain:
        return cls(int.from_bytes(data[:4], "big"), data[4:36])


def audience_hash(commit: bytes, accounts: list[tuple[str, bytes]]) -> bytes:
    """Hash of who reads the lane: bare JIDs with root fingerprints, sorted."""
    return _audience(commit, *sorted(accounts))


@lru_cache(maxsize=1024)
def _audience(commit: bytes, *accounts: tuple[str, bytes]) -> bytes:
    parts = [part for account in accounts for part in account]
    return sha256(fields("audience", commit, *parts)).digest()


@dataclass(frozen=True, slots=True)
class NewLane:
    """A lane just opened: its facts, its first chain and its signing key."""

    facts: Facts
    chain: Chain
    secret: bytes


def open_lane(
    owner: str,
    root: bytes,
    device: bytes,
    accounts: list[tuple[str, bytes]],
    epoch: int,
) -> NewLane:
    """A fresh one-to-one lane of *device* towards *accounts* (own one included)."""
    chain_key = token(32)
    secret = Ed25519PrivateKey.generate()
    commit = hmac.digest(chain_key, b"commit", "sha256")
    audience = audience_hash(commit, accounts)
    facts = Facts(
        owner=owner,
        root=root,
        device=device,
        public=secret.public_key().public_bytes_raw(),
        commit=commit,
        kind=KIND_MESSAGE,
        scope=audience,
        audience=audience,
        epoch=epoch,
    )
    return NewLane(facts, Chain(0, chain_key), secret.private_bytes_raw())


@dataclass(frozen=True, slots=True)
class Bound:
    """What a server does not rewrite and the seal therefore binds (clause 5.5).

    :param type: the stanza's ``type`` or its default.
    :param sender: bare JID of the sending account.
    """

    type: str
    sender: str


def _aad(header: bytes, kind: int, bound: Bound, scope: bytes) -> bytes:
    return fields("aad", header, kind, bound.type, None, bound.sender, scope)


def _keys(message_key: bytes, header: bytes) -> tuple[bytes, bytes, bytes]:
    material = HKDF(SHA256(), 44, None, fields("seal", header)).derive(message_key)
    commitment = hmac.digest(message_key, fields("commit", header), "sha256")
    return material[:32], material[32:], commitment


def _signed(aad: bytes, commitment: bytes, ciphertext: bytes) -> bytes:
    digest = sha256(fields("sealed", commitment, ciphertext)).digest()
    return fields("stanza", aad, digest)


@lru_cache(maxsize=256)
def _verifier(public: bytes) -> Ed25519PublicKey:
    """:raises TrustFault: it is no usable key.  :raises ValueError: likewise."""
    check_ed25519(public)
    return Ed25519PublicKey.from_public_bytes(public)


def seal(
    facts: Facts,
    chain: Chain,
    secret: Ed25519PrivateKey,
    plaintext: bytes,
    bound: Bound,
    *,
    lane: bytes,
    flags: int = 0,
) -> bytes:
    """Seal *plaintext* under the next key of *chain*; the caller advances it.

    The 16 random bytes of the header enter key and nonce, so that a restored
    snapshot, which repeats an index, still repeats no key (I7).
    """
    header = Header(
        flags=facts.kind | flags,
        lane=lane,
        n=chain.n,
        device=sha256(facts.device).digest()[:8],
        random=token(16),
    ).pack()
    key, nonce, commitment = _keys(chain.message_key(), header)
    aad = _aad(header, facts.kind, bound, facts.scope)
    ciphertext = AESGCM(key).encrypt(nonce, plaintext, aad)
    signature = secret.sign(_signed(aad, commitment, ciphertext))
    return header + signature + commitment + ciphertext


def unseal(
    facts: Facts, header: Header, chain: Chain, payload: bytes, bound: Bound
) -> bytes:
    """Open *payload*; *chain* stands at or before the header's index.

    The order of checks is fixed: signature, distance, commitment, decryption.
    Nothing is changed by a failure, whichever it is.

    :raises Broken: anything does not hold.
    """
    raw = payload[:_HEADER]
    signature = payload[_HEADER : _HEADER + _SIGNATURE]
    body = payload[_HEADER + _SIGNATURE :]
    commitment, ciphertext = body[:_COMMITMENT], body[_COMMITMENT:]
    aad = _aad(raw, facts.kind, bound, facts.scope)
    try:
        _verifier(facts.public).verify(signature, _signed(aad, commitment, ciphertext))
    except (InvalidSignature, ValueError, TrustFault) as error:
        raise Broken("the seal's signature does not hold") from error
    if not chain.n <= header.n <= chain.n + SKIP_LIMIT or header.n > LANE_LIMIT:
        raise Broken("the sealed stanza's index is out of reach")
    key, nonce, expected = _keys(chain.at(header.n).message_key(), raw)
    if not hmac.compare_digest(commitment, expected):
        raise Broken("the seal does not commit to its key")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except InvalidTag as error:
        raise Broken("the seal does not open") from error


# -- grants -----------------------------------------------------------------

_HPKE = Hpke(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def box(plaintext: bytes, public: MLKEM768X25519PublicKey, info: bytes) -> bytes:
    """HPKE base mode, single shot (RFC 9180, 6.1) to one prekey."""
    return _HPKE.encrypt(plaintext, public, info)


def unbox(data: bytes, private: MLKEM768X25519PrivateKey, info: bytes) -> bytes:
    """Undo :func:`box`.

    :raises TrustFault: it does not open.
    """
    try:
        return _HPKE.decrypt(data, private, info)
    except (InvalidTag, ValueError) as error:
        raise TrustFault("a grant does not open") from error


@dataclass(frozen=True, slots=True)
class Parties:
    """Who grants to whom; bound into the HPKE info and the signature (I21).

    :param granter: bare JID, *granter_device* the Ed25519 key that signs.
    :param reader: bare JID, *reader_device* its device key, *prekey* the number.
    """

    granter: str
    granter_device: bytes
    reader: str
    reader_device: bytes
    prekey: int

    def info(self) -> bytes:
        return fields(
            "grant-info",
            SUITE,
            self.granter,
            self.granter_device,
            self.reader,
            self.reader_device,
            self.prekey,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """A lane's key from an index on.

    :param seq: sequence number of the lane owner's manifest when it was made.
    """

    facts: Facts
    chain: Chain
    seq: int

    def pack(self) -> bytes:
        return fields(
            "grant", SUITE, self.facts.pack(), self.chain.n, self.chain.key, self.seq
        )

    @classmethod
    def unpack(cls, data: bytes) -> Grant:
        """:raises PeerFault: not what :meth:`pack` makes."""
        parts = [part or b"" for part in split(data)]
        if len(parts) != 6 or parts[0] != b"tillie/0 grant":
            raise PeerFault("a grant is malformed")
        numbers = (parts[1], parts[3], parts[5])
        if any(len(number) != 8 for number in numbers) or len(parts[4]) != 32:
            raise PeerFault("a grant is malformed")
        suite, n, seq = (int.from_bytes(number, "big") for number in numbers)
        if suite != SUITE or n > LANE_LIMIT:
            raise PeerFault("a grant is of another suite or starts out of reach")
        return cls(Facts.unpack(parts[2]), Chain(n, parts[4]), seq)


def grant_signature_input(grant: Grant, parties: Parties) -> bytes:
    """What the granting device signs: the grant and all identities (I21)."""
    return fields("grant-signature", grant.pack(), parties.info())


def pack_grant(grant: Grant, signature: bytes) -> bytes:
    return fields("grant-box", grant.pack(), signature)


def unpack_grant(plaintext: bytes) -> tuple[Grant, bytes]:
    """:raises PeerFault: malformed, or the chain does not fit the commitment."""
    parts = [part or b"" for part in split(plaintext)]
    if len(parts) != 3 or parts[0] != b"tillie/0 grant-box" or len(parts[2]) != 64:
        raise PeerFault("a grant is malformed")
    grant = Grant.unpack(parts[1])
    if grant.chain.n == 0 and not hmac.compare_digest(
        hmac.digest(grant.chain.key, b"commit", "sha256"), grant.facts.commit
    ):
        raise PeerFault("a grant's key does not fit its commitment")
    return grant, parts[2]


def earliest(first: Chain, second: Chain) -> Chain:
    """Of two chains of one lane, the one that reads more."""
    return first if first.n <= second.n else second
