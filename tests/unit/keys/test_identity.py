from __future__ import annotations

import hashlib
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxy.errors import StoreFault, TrustFault
from proxy.keys.identity import (
    DevicePrivate,
    RootPrivate,
    RootPublic,
    check_device_signature,
    check_ed25519,
    device_id,
)

from .forge import DEVICE, OTHER_DEVICE, OTHER_ROOT, ROOT

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493


def double(x: int, y: int) -> tuple[int, int]:
    product = D * x * x * y * y % P
    return (
        2 * x * y * pow(1 + product, -1, P) % P,
        (y * y + x * x) * pow(1 - product, -1, P) % P,
    )


def small_order() -> list[bytes]:
    """The eight points whose order divides 8, found from the curve's equation.

    Doubling gives y = 0 where x**2 == -y**2; that is D*y**4 + 2*y**2 - 1 == 0.
    """
    root = pow(1 + D, (P + 3) // 8, P)
    if root * root % P != (1 + D) % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    found: set[int] = {0, 1, P - 1}
    for sign in (1, -1):
        square = (sign * root - 1) * pow(D, -1, P) % P
        y = pow(square, (P + 3) // 8, P)
        if y * y % P != square:
            y = y * pow(2, (P - 1) // 4, P) % P
        if y * y % P == square:
            found |= {y, P - y}
    keys = []
    for y in sorted(found):
        for sign in (0, 1):
            keys.append((y | sign << 255).to_bytes(32, "little"))
    return keys


SMALL = small_order()
SPELT_ANEW = [
    (value | sign << 255).to_bytes(32, "little")
    for value in range(P, 2**255)
    for sign in (0, 1)
]


def test_enc_15_all_small_order_points_are_covered() -> None:
    ys = {int.from_bytes(key, "little") & (2**255 - 1) for key in SMALL}
    assert len(ys) == 5
    for y in ys:
        # x from the curve, then three doublings end in the neutral element.
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        assert x * x % P == square
        assert double(*double(*double(x, y))) == (0, 1)


def test_enc_15_the_library_alone_would_take_them() -> None:
    # R the neutral element and S zero: valid for any text that hashes well.
    key = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    key.verify(b"\x01" + bytes(63), b"anything")


@pytest.mark.parametrize("public", SMALL + SPELT_ANEW, ids=lambda key: key.hex())
def test_enc_15_small_order_and_non_canonical_keys(public: bytes) -> None:
    start = time.process_time()
    with pytest.raises(TrustFault, match="malformed"):
        check_ed25519(public)
    with pytest.raises(TrustFault, match="malformed"):
        RootPublic(public, ROOT.public.mldsa65)
    with pytest.raises(TrustFault, match="malformed"):
        check_device_signature(public, b"\x01" + bytes(63), b"anything")
    assert time.process_time() - start < 0.05


def test_enc_15_a_y_without_a_point_verifies_nothing() -> None:
    public = (2).to_bytes(32, "little")
    with pytest.raises(TrustFault, match="not valid"):
        check_device_signature(public, DEVICE.sign(b"x"), b"x")


def test_enc_15_high_scalar() -> None:
    signature = DEVICE.sign(b"x")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    spelt_anew = signature[:32] + scalar.to_bytes(32, "little")
    check_device_signature(DEVICE.public, signature, b"x")
    with pytest.raises(TrustFault, match="not valid"):
        check_device_signature(DEVICE.public, spelt_anew, b"x")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_sizes_of_ed25519_keys(size: int) -> None:
    with pytest.raises(TrustFault, match="Ed25519"):
        RootPublic(bytes([9]) * size, ROOT.public.mldsa65)


@pytest.mark.parametrize("size", [0, 32, 1951, 1953, 2592])
def test_sizes_of_mldsa_keys(size: int) -> None:
    with pytest.raises(TrustFault, match="ML-DSA-65"):
        RootPublic(ROOT.public.ed25519, bytes([9]) * size)


def test_fingerprint_binds_both_keys_and_where_they_part() -> None:
    mine, other = ROOT.public, OTHER_ROOT.public
    prints = {
        root.fingerprint
        for root in (
            mine,
            other,
            RootPublic(mine.ed25519, other.mldsa65),
            RootPublic(other.ed25519, mine.mldsa65),
        )
    }
    assert len(prints) == 4
    label = b"tillie/0 root"
    by_hand = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (label, mine.ed25519, mine.mldsa65)
    )
    assert mine.fingerprint == hashlib.sha256(by_hand).digest()


def test_i28_people() -> None:
    label = b"tillie/0 root-people"
    public = ROOT.public
    by_hand = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (label, public.ed25519, public.mldsa65)
    )
    digest = hashlib.sha512(by_hand).digest()
    groups = public.people().split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isdigit() for group in groups)
    assert int(groups[0]) == int.from_bytes(digest[:5], "big") % 100_000
    assert int(groups[11]) == int.from_bytes(digest[55:60], "big") % 100_000


def test_i21_device_id_is_computed() -> None:
    assert DEVICE.id == device_id(DEVICE.public)
    assert DEVICE.id == hashlib.sha256(DEVICE.public).digest()[:8]


def test_private_keys_return_from_storage() -> None:
    root, device = RootPrivate.generate(), DevicePrivate.generate()
    assert RootPrivate.from_bytes(root.to_bytes()).public == root.public
    assert DevicePrivate.from_bytes(device.to_bytes()).public == device.public
    assert len(root.to_bytes()) == 64
    assert len(device.to_bytes()) == 32


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_damaged_private_keys(size: int) -> None:
    with pytest.raises(StoreFault):
        RootPrivate.from_bytes(bytes(size))
    with pytest.raises(StoreFault):
        DevicePrivate.from_bytes(bytes(size))


def test_generated_keys_differ() -> None:
    assert RootPrivate.generate() != RootPrivate.generate()
    assert DevicePrivate.generate() != DevicePrivate.generate()
    root = RootPrivate.generate()
    assert root.ed25519 != root.mldsa65


def test_no_repr_shows_a_private_key() -> None:
    root, device = RootPrivate.generate(), DevicePrivate.generate()
    for shown in (f"{root} {root!r}", f"{device} {device!r}"):
        assert "Private()" in shown
        assert "\\x" not in shown


@pytest.mark.parametrize(
    ("public", "signature", "data"),
    [
        (DEVICE.public, DEVICE.sign(b"x"), b"y"),
        (OTHER_DEVICE.public, DEVICE.sign(b"x"), b"x"),
        (DEVICE.public, DEVICE.sign(b"x")[:-1], b"x"),
        (DEVICE.public, DEVICE.sign(b"x") + b"\0", b"x"),
        (DEVICE.public, b"", b"x"),
        (DEVICE.public, bytes(64), b"x"),
    ],
    ids=["text", "ENC-13-key", "short", "long", "empty", "zero"],
)
def test_device_signatures(public: bytes, signature: bytes, data: bytes) -> None:
    with pytest.raises(TrustFault, match="not valid"):
        check_device_signature(public, signature, data)
