"""Prekeys: numbered X-Wing keys that a device signs and contacts seal lanes to (I11).

X-Wing as HPKE uses it (KEM 0x647a): ML-KEM-768 and X25519, joined in the order
ML-KEM, X25519.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import (
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
)

from ..errors import PeerFault, StoreFault, TrustFault
from ..suites.fields import fields
from .identity import DevicePrivate, check_device_signature

MLKEM_SIZE = 1184
X25519_SIZE = 32
PUBLIC_SIZE = MLKEM_SIZE + X25519_SIZE
MLKEM_SEED_SIZE = 64
NUMBER_MAX = 2**32 - 1

_P = 2**255 - 19
# Every clamped scalar is a multiple of 8, so any one shows a point of small
# order; this one keeps no secret.
_PROBE = bytes(31) + b"\x40"


@dataclass(frozen=True, slots=True)
class PrekeyPrivate:
    """The private half of a prekey.

    :param number: 0..2**32-1, higher than any this device had before.
    :param mlkem: ML-KEM-768 seed, 64 bytes (FIPS 203, d and z).
    :param x25519: private key, 32 bytes.
    """

    number: int
    mlkem: bytes = field(repr=False)
    x25519: bytes = field(repr=False)

    @classmethod
    def generate(cls, number: int) -> PrekeyPrivate:
        """Make a new prekey from the operating system's randomness."""
        return cls(
            number,
            MLKEM768PrivateKey.generate().private_bytes_raw(),
            X25519PrivateKey.generate().private_bytes_raw(),
        )

    @classmethod
    def from_bytes(cls, number: int, data: bytes) -> PrekeyPrivate:
        """Read what :meth:`to_bytes` gave, 96 bytes.

        :raises StoreFault: another size.
        """
        if len(data) != MLKEM_SEED_SIZE + X25519_SIZE:
            raise StoreFault("a stored prekey is damaged")
        return cls(number, data[:MLKEM_SEED_SIZE], data[MLKEM_SEED_SIZE:])

    def to_bytes(self) -> bytes:
        """Give the ML-KEM seed and the X25519 key, 96 bytes; without the number."""
        return self.mlkem + self.x25519

    @property
    def public(self) -> bytes:
        """The public half, 1216 bytes."""
        mlkem, x25519 = self._parts()
        return (
            mlkem.public_key().public_bytes_raw()
            + x25519.public_key().public_bytes_raw()
        )

    def hpke(self) -> MLKEM768X25519PrivateKey:
        """Give the key that ``cryptography``'s HPKE opens with."""
        return MLKEM768X25519PrivateKey(*self._parts())

    def _parts(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        return (
            MLKEM768PrivateKey.from_seed_bytes(self.mlkem),
            X25519PrivateKey.from_private_bytes(self.x25519),
        )


@dataclass(frozen=True, slots=True)
class Prekey:
    """A prekey as published; its signature is checked by :func:`check_prekey`.

    :param device: Ed25519 public key of the device that owns and signs it.
    :param number: 0..2**32-1.
    :param public: ML-KEM-768 (1184 bytes), then X25519 (32 bytes).
    :param signature: 64 bytes.
    :raises PeerFault: a number out of range.
    :raises TrustFault: *public* is no usable key: a wrong size, ML-KEM
        coefficients out of range, a non-canonical or small-order X25519 point.
    """

    device: bytes
    number: int
    public: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.number <= NUMBER_MAX:
            raise PeerFault("the number of a prekey is out of range")
        _public_parts(self.public)

    def hpke(self) -> MLKEM768X25519PublicKey:
        """Give the key that ``cryptography``'s HPKE seals to."""
        return MLKEM768X25519PublicKey(*_public_parts(self.public))


def sign_prekey(
    private: PrekeyPrivate, device: DevicePrivate, jid: str, root_fp: bytes
) -> Prekey:
    """Publish *private*'s public half under *device*'s signature.

    :param jid: bare JID of the owner, normalised.
    :param root_fp: fingerprint of the owner's root, 32 bytes.
    """
    owner, number, public = device.public, private.number, private.public
    signature = device.sign(_signed(jid, root_fp, owner, number, public))
    return Prekey(owner, number, public, signature)


def check_prekey(prekey: Prekey, jid: str, root_fp: bytes) -> None:
    """Verify that *prekey* belongs to that account, root and device.

    That the device stands in the account's manifest is for the caller to see.

    :raises TrustFault: the device did not sign exactly this.
    """
    data = _signed(jid, root_fp, prekey.device, prekey.number, prekey.public)
    check_device_signature(prekey.device, prekey.signature, data)


def _signed(
    jid: str, root_fp: bytes, device: bytes, number: int, public: bytes
) -> bytes:
    return fields("prekey", jid, root_fp, device, number, public)


def _public_parts(public: bytes) -> tuple[MLKEM768PublicKey, X25519PublicKey]:
    curve = public[MLKEM_SIZE:]
    # RFC 7748 reads two spellings of some points as one; a signed key has one.
    if int.from_bytes(curve, "little") >= _P:
        raise TrustFault("a prekey is malformed")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:MLKEM_SIZE])
        x25519 = X25519PublicKey.from_public_bytes(curve)
        # OpenSSL refuses the all-zero result (RFC 7748, 6.1).
        X25519PrivateKey.from_private_bytes(_PROBE).exchange(x25519)
    except ValueError as error:
        raise TrustFault("a prekey is malformed") from error
    return mlkem, x25519
