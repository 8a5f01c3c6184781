from __future__ import annotations

import dataclasses
import time

import pytest
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from proxy.errors import PeerFault, StoreFault, TrustFault
from proxy.keys.prekeys import Prekey, PrekeyPrivate, check_prekey, sign_prekey
from proxy.suites.fields import fields

from .forge import DEVICE, OTHER_DEVICE, OTHER_ROOT, ROOT

JID = "juliet@capulet.example"
FP = ROOT.public.fingerprint
PRIVATE = PrekeyPrivate(7, bytes([8]) * 64, bytes([9]) * 32)
PREKEY = sign_prekey(PRIVATE, DEVICE, JID, FP)
HPKE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
P = 2**255 - 19

# RFC 7748, 6.1 and 7: the u coordinates whose order divides 8, and the second
# spellings that 32 bytes allow.
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
]
SPELT_ANEW = [P, P + 1, P + 9, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1]


def test_signed_and_checked() -> None:
    check_prekey(PREKEY, JID, FP)
    assert (PREKEY.device, PREKEY.number) == (DEVICE.public, 7)
    assert PREKEY.public == PRIVATE.public
    assert len(PREKEY.public) == 1216


def test_i11_the_signature_covers_owner_root_device_number_and_key() -> None:
    by_hand = fields("prekey", JID, FP, DEVICE.public, 7, PRIVATE.public)
    assert DEVICE.sign(by_hand) == PREKEY.signature


@pytest.mark.parametrize(
    "change",
    [
        {"number": 8},
        {"public": PrekeyPrivate(7, bytes([1]) * 64, bytes([9]) * 32).public},
        {"public": PrekeyPrivate(7, bytes([8]) * 64, bytes([1]) * 32).public},
        {"device": OTHER_DEVICE.public},
        {"device": bytes(32)},
        {"signature": bytes(64)},
        {"signature": PREKEY.signature[:-1]},
        {"signature": sign_prekey(PRIVATE, OTHER_DEVICE, JID, FP).signature},
    ],
    ids=[
        "number",
        "mlkem",
        "x25519",
        "ENC-13-device",
        "ENC-15-device",
        "zero",
        "short",
        "ENC-13-signature",
    ],
)
def test_i11_another_prekey_under_the_signature(change: dict[str, object]) -> None:
    with pytest.raises(TrustFault):
        check_prekey(dataclasses.replace(PREKEY, **change), JID, FP)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("jid", "root_fp"),
    [("romeo@montague.example", FP), (JID, OTHER_ROOT.public.fingerprint), (JID, b"")],
    ids=["DIR-01-jid", "DIR-01-root", "DIR-01-no-root"],
)
def test_i11_another_owner(jid: str, root_fp: bytes) -> None:
    with pytest.raises(TrustFault, match="not valid"):
        check_prekey(PREKEY, jid, root_fp)


def test_dir_02_neighbouring_fields_do_not_run_together() -> None:
    moved = DEVICE.sign(
        fields("prekey", JID + "x", FP[1:], DEVICE.public, 7, PRIVATE.public)
    )
    with pytest.raises(TrustFault, match="not valid"):
        check_prekey(dataclasses.replace(PREKEY, signature=moved), JID, FP)


def test_what_is_sealed_to_the_public_half_opens_with_the_private() -> None:
    sealed = HPKE.encrypt(b"lane key", PREKEY.hpke(), b"info")
    assert len(sealed) == 1088 + 32 + 8 + 16
    again = PrekeyPrivate.from_bytes(7, PRIVATE.to_bytes())
    assert HPKE.decrypt(sealed, again.hpke(), b"info") == b"lane key"


@pytest.mark.parametrize("u", LOW_ORDER + SPELT_ANEW, ids=hex)
def test_enc_15_x25519_points(u: int) -> None:
    public = PRIVATE.public[:1184] + u.to_bytes(32, "little")
    start = time.process_time()
    with pytest.raises(TrustFault, match="malformed"):
        Prekey(DEVICE.public, 7, public, PREKEY.signature)
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize(
    "mlkem",
    [b"\xff" * 1152, b"\x01\x0d\x00" + bytes(1149), bytes(1149) + b"\x00\x10\xd0"],
    ids=["all-large", "first-is-q", "last-is-q"],
)
def test_enc_15_mlkem_coefficients(mlkem: bytes) -> None:
    public = mlkem + PRIVATE.public[1152:]
    start = time.process_time()
    with pytest.raises(TrustFault, match="malformed"):
        Prekey(DEVICE.public, 7, public, PREKEY.signature)
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize("size", [0, 32, 1184, 1215, 1217, 1568])
def test_enc_15_sizes(size: int) -> None:
    public = (PRIVATE.public * 2)[:size]
    with pytest.raises(TrustFault, match="malformed"):
        Prekey(DEVICE.public, 7, public, PREKEY.signature)


@pytest.mark.parametrize("number", [-1, 2**32, 2**64])
def test_numbers_out_of_range(number: int) -> None:
    with pytest.raises(PeerFault, match="range"):
        Prekey(DEVICE.public, number, PREKEY.public, PREKEY.signature)


@pytest.mark.parametrize("number", [0, 2**32 - 1])
def test_numbers_at_the_ends(number: int) -> None:
    private = PrekeyPrivate(number, PRIVATE.mlkem, PRIVATE.x25519)
    check_prekey(sign_prekey(private, DEVICE, JID, FP), JID, FP)


def test_private_keys_return_from_storage() -> None:
    private = PrekeyPrivate.generate(3)
    assert len(private.to_bytes()) == 96
    assert PrekeyPrivate.from_bytes(3, private.to_bytes()) == private
    assert PrekeyPrivate.generate(3) != private


@pytest.mark.parametrize("size", [0, 64, 95, 97])
def test_damaged_private_keys(size: int) -> None:
    with pytest.raises(StoreFault, match="damaged"):
        PrekeyPrivate.from_bytes(1, bytes(size))


def test_no_repr_shows_a_private_key() -> None:
    assert repr(PrekeyPrivate.generate(3)) == "PrekeyPrivate(number=3)"
