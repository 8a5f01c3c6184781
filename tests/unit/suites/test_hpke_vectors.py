"""The library's X-Wing and HPKE agree with published vectors, when opening.

Its HPKE has one call, which takes encapsulated key and ciphertext together, so
the ciphertext is made here: RFC 9180's key schedule over the *published* shared
secret.  It opens only if the library decapsulates to the same secret.  That
the key schedule here is right is shown by the keys that HPKE's vectors publish.

Where the numbers come from: ``tests/vectors/PROVENANCE.md``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from proxy.keys.prekeys import Prekey, PrekeyPrivate

DIRECTORY = pathlib.Path(__file__).parents[2] / "vectors" / "hpke"
XWING: list[dict[str, str]] = json.loads((DIRECTORY / "xwing.json").read_text())
HPKE_PQ: list[dict[str, Any]] = json.loads(
    (DIRECTORY / "hpke-pq-xwing.json").read_text()
)

KEM_ID, HKDF_SHA256, AES_256_GCM, CHACHA20_POLY1305 = 0x647A, 1, 2, 3
SUITE_1 = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
SUITE_CHACHA = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
INFO = b"tillie"
PLAIN = b"a lane key"


@dataclass(frozen=True)
class Known:
    """One published X-Wing exchange."""

    private: PrekeyPrivate
    public: bytes
    enc: bytes
    secret: bytes


def private(seed: str) -> PrekeyPrivate:
    """Expand an X-Wing decapsulation key of 32 bytes (X-Wing draft, 5.2)."""
    expanded = hashlib.shake_256(bytes.fromhex(seed)).digest(96)
    return PrekeyPrivate.from_bytes(0, expanded)


def known(vector: dict[str, Any], *names: str) -> Known:
    seed, public, enc, secret = (vector[name] for name in names)
    return Known(private(seed), *map(bytes.fromhex, (public, enc, secret)))


KNOWN = {
    **{f"xwing-{i}": known(v, "seed", "pk", "ct", "ss") for i, v in enumerate(XWING)},
    **{
        f"hpke-pq-{i}": known(v, "skRm", "pkRm", "enc", "shared_secret")
        for i, v in enumerate(HPKE_PQ)
    },
}


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    whole = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, whole + b"\x01", "sha256")[:size]


def schedule(secret: bytes, info: bytes, aead: int) -> tuple[bytes, bytes]:
    """Give key and base nonce of base mode, HKDF-SHA256 (RFC 9180, 5.1)."""
    ids = (KEM_ID, HKDF_SHA256, aead)
    suite = b"HPKE" + b"".join(one.to_bytes(2, "big") for one in ids)
    context = (
        b"\x00"
        + extract(suite, b"", b"psk_id_hash", b"")
        + extract(suite, b"", b"info_hash", info)
    )
    prk = extract(suite, secret, b"secret", b"")
    return (
        expand(suite, prk, b"key", context, 32),
        expand(suite, prk, b"base_nonce", context, 12),
    )


def sealed(one: Known, secret: bytes) -> bytes:
    key, nonce = schedule(secret, INFO, AES_256_GCM)
    return one.enc + AESGCM(key).encrypt(nonce, PLAIN, b"")


def test_the_key_schedule_gives_the_published_keys() -> None:
    (vector,) = (v for v in HPKE_PQ if v["kdf_id"] == HKDF_SHA256)
    secret, info = (bytes.fromhex(vector[name]) for name in ("shared_secret", "info"))
    key, nonce = schedule(secret, info, vector["aead_id"])
    assert (key.hex(), nonce.hex()) == (vector["key"], vector["base_nonce"])
    first = vector["encryptions"][0]
    plain = ChaCha20Poly1305(key).decrypt(
        nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"])
    )
    assert plain.hex() == first["pt"]


def test_the_library_opens_under_the_published_keys() -> None:
    (vector,) = (v for v in HPKE_PQ if v["kdf_id"] == HKDF_SHA256)
    assert vector["aead_id"] == CHACHA20_POLY1305
    key, nonce = (bytes.fromhex(vector[name]) for name in ("key", "base_nonce"))
    box = ChaCha20Poly1305(key).encrypt(nonce, PLAIN, b"")
    opened = SUITE_CHACHA.decrypt(
        bytes.fromhex(vector["enc"]) + box,
        private(vector["skRm"]).hpke(),
        bytes.fromhex(vector["info"]),
    )
    assert opened == PLAIN


@pytest.mark.parametrize("name", KNOWN)
def test_the_public_half(name: str) -> None:
    one = KNOWN[name]
    assert one.private.public == one.public
    Prekey(bytes(32), 0, one.public, b"")


@pytest.mark.parametrize("name", KNOWN)
def test_suite_1_decapsulates_to_the_published_secret(name: str) -> None:
    one = KNOWN[name]
    box = sealed(one, one.secret)
    assert SUITE_1.decrypt(box, one.private.hpke(), INFO) == PLAIN


@pytest.mark.parametrize("name", KNOWN)
def test_another_secret_does_not_open(name: str) -> None:
    one = KNOWN[name]
    other = bytes([one.secret[0] ^ 1]) + one.secret[1:]
    with pytest.raises(InvalidTag):
        SUITE_1.decrypt(sealed(one, other), one.private.hpke(), INFO)


@pytest.mark.parametrize("at", [0, 1087, 1088, 1119, 1120, -1])
def test_a_flipped_bit_does_not_open(at: int) -> None:
    one = KNOWN["xwing-0"]
    box = bytearray(sealed(one, one.secret))
    box[at] ^= 1
    with pytest.raises(InvalidTag):
        SUITE_1.decrypt(bytes(box), one.private.hpke(), INFO)


@pytest.mark.parametrize("size", [0, 1, 1088, 1119, 1120, 1135])
def test_a_cut_does_not_open(size: int) -> None:
    one = KNOWN["xwing-0"]
    with pytest.raises(InvalidTag):
        SUITE_1.decrypt(sealed(one, one.secret)[:size], one.private.hpke(), INFO)


@pytest.mark.parametrize("u", [0, 1, 2**255 - 20], ids=["zero", "one", "minus-one"])
def test_enc_15_a_low_order_share_does_not_open(u: int) -> None:
    one = KNOWN["xwing-0"]
    box = sealed(one, one.secret)
    forged = box[:1088] + u.to_bytes(32, "little") + box[1120:]
    with pytest.raises(InvalidTag):
        SUITE_1.decrypt(forged, one.private.hpke(), INFO)


def test_all_vectors_are_there() -> None:
    assert len(XWING) == 3
    assert len(HPKE_PQ) == 2
    assert all(vector["kem_id"] == KEM_ID for vector in HPKE_PQ)
