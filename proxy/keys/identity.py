"""Long-lived signing keys: the account's root and the devices' own.

Public halves are checked when they are constructed, so that a value of one of
these types is a key that may be verified with.  Private halves are seeds; no
``repr`` shows them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)

from ..errors import StoreFault, TrustFault
from ..suites.fields import fields
from ..suites.points import check_ed25519

ED25519_SIZE = 32
ED25519_SIGNATURE_SIZE = 64
MLDSA65_SIZE = 1952
SEED_SIZE = 32
DEVICE_ID_SIZE = 8


@dataclass(frozen=True, slots=True)
class RootPublic:
    """The two public keys that are an account.

    :param ed25519: 32 bytes (RFC 8032).
    :param mldsa65: 1952 bytes (FIPS 204).
    :raises TrustFault: a wrong size, a non-canonical or small-order point.
    """

    ed25519: bytes
    mldsa65: bytes
    fingerprint: bytes = field(init=False, compare=False)
    """SHA-256 over both keys, 32 bytes: what is pinned, signed and bound."""

    def __post_init__(self) -> None:
        check_ed25519(self.ed25519)
        try:
            MLDSA65PublicKey.from_public_bytes(self.mldsa65)
        except ValueError as error:
            raise TrustFault("an ML-DSA-65 public key is malformed") from error
        both = fields("root", self.ed25519, self.mldsa65)
        object.__setattr__(self, "fingerprint", hashlib.sha256(both).digest())

    def people(self) -> str:
        """Give the fingerprint that two people compare (I28).

        :returns: 12 groups of 5 digits, separated by a blank; each is 5 bytes
            of SHA-512 modulo 10**5.
        """
        digest = hashlib.sha512(
            fields("root-people", self.ed25519, self.mldsa65)
        ).digest()
        groups = (int.from_bytes(digest[at : at + 5], "big") for at in range(0, 60, 5))
        return " ".join(f"{group % 10**5:05d}" for group in groups)


@dataclass(frozen=True, slots=True)
class RootPrivate:
    """The seeds of both root keys, 32 bytes each; whoever has them is the account."""

    ed25519: bytes = field(repr=False)
    mldsa65: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> RootPrivate:
        """Make a new root from the operating system's randomness."""
        return cls(
            Ed25519PrivateKey.generate().private_bytes_raw(),
            MLDSA65PrivateKey.generate().private_bytes_raw(),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RootPrivate:
        """Read what :meth:`to_bytes` gave, 64 bytes.

        :raises StoreFault: another size.
        """
        if len(data) != 2 * SEED_SIZE:
            raise StoreFault("the stored root key is damaged")
        return cls(data[:SEED_SIZE], data[SEED_SIZE:])

    def to_bytes(self) -> bytes:
        """Give both seeds, Ed25519 first, 64 bytes."""
        return self.ed25519 + self.mldsa65

    @property
    def public(self) -> RootPublic:
        """The public half, computed from the seeds."""
        ed25519 = Ed25519PrivateKey.from_private_bytes(self.ed25519)
        mldsa65 = MLDSA65PrivateKey.from_seed_bytes(self.mldsa65)
        return RootPublic(
            ed25519.public_key().public_bytes_raw(),
            mldsa65.public_key().public_bytes_raw(),
        )

    def sign_ed25519(self, data: bytes) -> bytes:
        """Sign *data*, which ``suites.fields`` made, with one half only; 64 bytes.

        For what has to be made at every login and lives for seconds (14.4).
        """
        return Ed25519PrivateKey.from_private_bytes(self.ed25519).sign(data)


@dataclass(frozen=True, slots=True)
class DevicePrivate:
    """The Ed25519 seed (32 bytes) of one installation."""

    seed: bytes = field(repr=False)
    public: bytes = field(init=False, repr=False, compare=False)
    """The public key, 32 bytes."""
    _private: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        object.__setattr__(self, "_private", private)
        object.__setattr__(self, "public", private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> DevicePrivate:
        """Make a new device key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_bytes(cls, data: bytes) -> DevicePrivate:
        """Read what :meth:`to_bytes` gave.

        :raises StoreFault: not 32 bytes.
        """
        if len(data) != SEED_SIZE:
            raise StoreFault("the stored device key is damaged")
        return cls(data)

    def to_bytes(self) -> bytes:
        """Give the seed, 32 bytes."""
        return self.seed

    @property
    def id(self) -> bytes:
        """The device id, 8 bytes; see :func:`device_id`."""
        return device_id(self.public)

    def sign(self, data: bytes) -> bytes:
        """Sign *data*, which ``suites.fields`` made, so that its label binds the use.

        :returns: 64 bytes.
        """
        return self._private.sign(data)


def device_id(public: bytes) -> bytes:
    """Name a device: the first 8 bytes of SHA-256 of its public key.

    Always computed, never read from the far side (I21).
    """
    return hashlib.sha256(public).digest()[:DEVICE_ID_SIZE]


def check_device_signature(public: bytes, signature: bytes, data: bytes) -> None:
    """Verify an Ed25519 signature (64 bytes) by *public* over *data*.

    :raises TrustFault: the key is malformed or the signature not valid.
    """
    check_ed25519(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except InvalidSignature as error:
        raise TrustFault("the signature of a device is not valid") from error
