from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import PeerFault, TrustFault
from proxy.keys import manifest as manifests
from proxy.keys.identity import DevicePrivate
from proxy.keys.manifest import (
    TYP,
    Manifest,
    device_statement,
    first_manifest,
    open_manifest,
    retired,
    with_device,
    without_device,
)
from proxy.suites.fields import b64, fields

from . import forge
from .forge import DEVICE, OTHER_DEVICE, OTHER_ROOT, ROOT

JID = "juliet@capulet.example"
NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
FP = ROOT.public.fingerprint


def statement(device: DevicePrivate, jid: str = JID, root_fp: bytes = FP) -> bytes:
    return device.sign(device_statement(jid, root_fp, device.public))


def first() -> Manifest:
    return first_manifest(JID, ROOT, DEVICE, "laptop", NOW)


def second() -> Manifest:
    return with_device(
        first(), ROOT, OTHER_DEVICE.public, statement(OTHER_DEVICE), "phone", NOW + DAY
    )


def entry(device: DevicePrivate = DEVICE) -> dict[str, Any]:
    return {
        "pub": b64(device.public),
        "added": 1_700_000_000,
        "label": "laptop",
        "sig": b64(statement(device)),
    }


def claims() -> dict[str, Any]:
    return {
        "sub": JID,
        "seq": 2,
        "prev": b64(bytes(32)),
        "root": {
            "ed25519": b64(ROOT.public.ed25519),
            "mldsa65": b64(ROOT.public.mldsa65),
        },
        "devices": [entry()],
        "suites": [1],
        "iat": 1_700_000_000,
    }


def opened(made: object, jid: str = JID) -> Manifest:
    return open_manifest(forge.signed(made, TYP), jid)


# -- what is made -----------------------------------------------------------


def test_first_manifest() -> None:
    manifest = first()
    assert (manifest.jid, manifest.seq, manifest.previous) == (JID, 1, None)
    assert manifest.root == ROOT.public
    assert manifest.suites == (1,)
    assert manifest.issued == NOW
    (device,) = manifest.active
    assert (device.public, device.id, device.label) == (
        DEVICE.public,
        DEVICE.id,
        "laptop",
    )
    assert (device.added, device.removed) == (NOW, None)
    assert open_manifest(manifest.document.encode(), JID) == manifest


def test_the_claims_by_their_names() -> None:
    read = manifests.documents.peek_doc(first().document.encode(), TYP)
    assert set(read) == {"sub", "seq", "root", "devices", "suites", "iat"}
    assert read["iat"] == NOW // 1000
    assert read["devices"] == [
        {
            "pub": b64(DEVICE.public),
            "added": NOW // 1000,
            "label": "laptop",
            "sig": b64(statement(DEVICE)),
        }
    ]


def test_with_device() -> None:
    before, manifest = first(), second()
    assert manifest.seq == 2
    assert manifest.previous == before.digest
    assert [one.public for one in manifest.active] == [
        DEVICE.public,
        OTHER_DEVICE.public,
    ]
    assert manifest.by_id(OTHER_DEVICE.id) == manifest.device(OTHER_DEVICE.public)
    assert before.device(OTHER_DEVICE.public) is None
    assert before.by_id(OTHER_DEVICE.id) is None


def test_i8_a_removed_device_stays_listed_for_a_year() -> None:
    manifest = without_device(second(), ROOT, OTHER_DEVICE.id, NOW + 2 * DAY)
    assert manifest.seq == 3
    assert [one.public for one in manifest.active] == [DEVICE.public]
    removed = manifest.by_id(OTHER_DEVICE.id)
    assert removed is not None
    assert (removed.added, removed.removed) == (NOW + DAY, NOW + 2 * DAY)

    third = DevicePrivate(bytes([7]) * 32)
    after_a_year = NOW + 2 * DAY + 365 * DAY
    kept = with_device(manifest, ROOT, third.public, statement(third), "", after_a_year)
    assert kept.by_id(OTHER_DEVICE.id) == removed
    dropped = without_device(kept, ROOT, third.id, after_a_year + 2 * DAY)
    assert dropped.by_id(OTHER_DEVICE.id) is None
    assert dropped.by_id(third.id) is not None


def test_i8_a_clock_that_was_set_back() -> None:
    manifest = without_device(second(), ROOT, OTHER_DEVICE.id, NOW - 400 * DAY)
    removed = manifest.by_id(OTHER_DEVICE.id)
    assert removed is not None
    assert removed.removed == removed.added


def test_i24_the_operation_can_be_applied_again() -> None:
    two = second()
    again = with_device(
        two, ROOT, OTHER_DEVICE.public, statement(OTHER_DEVICE), "phone", NOW
    )
    assert again is two
    without = without_device(two, ROOT, OTHER_DEVICE.id, NOW + 2 * DAY)
    assert without_device(without, ROOT, OTHER_DEVICE.id, NOW + 3 * DAY) is without


def test_i25_retired() -> None:
    manifest = retired(second(), ROOT, NOW + 2 * DAY)
    assert manifest.retired
    assert manifest.active == ()
    assert manifest.seq == 3
    assert len(manifest.devices) == 2
    assert open_manifest(manifest.document.encode(), JID).retired
    assert retired(manifest, ROOT, NOW + 3 * DAY) is manifest
    assert not first().retired


def test_i25_an_account_comes_back_with_a_new_device() -> None:
    gone = retired(first(), ROOT, NOW)
    back = with_device(
        gone, ROOT, OTHER_DEVICE.public, statement(OTHER_DEVICE), "", NOW
    )
    assert [one.public for one in back.active] == [OTHER_DEVICE.public]


def test_a_removed_device_does_not_come_back_under_its_key() -> None:
    manifest = without_device(second(), ROOT, OTHER_DEVICE.id, NOW + 2 * DAY)
    with pytest.raises(TrustFault, match="removed") as caught:
        with_device(
            manifest, ROOT, OTHER_DEVICE.public, statement(OTHER_DEVICE), "", NOW
        )
    assert "new key" in caught.value.hint


def test_removing_an_unknown_device() -> None:
    with pytest.raises(TrustFault, match="no such device"):
        without_device(first(), ROOT, OTHER_DEVICE.id, NOW)


def test_another_root_signs_nothing() -> None:
    with pytest.raises(TrustFault, match="not the root"):
        with_device(
            first(), OTHER_ROOT, OTHER_DEVICE.public, statement(OTHER_DEVICE), "", NOW
        )
    with pytest.raises(TrustFault, match="not the root"):
        without_device(first(), OTHER_ROOT, DEVICE.id, NOW)
    with pytest.raises(TrustFault, match="not the root"):
        retired(first(), OTHER_ROOT, NOW)


@pytest.mark.parametrize(
    "signature",
    [
        statement(DEVICE),
        statement(OTHER_DEVICE, jid="romeo@montague.example"),
        statement(OTHER_DEVICE, root_fp=OTHER_ROOT.public.fingerprint),
        OTHER_DEVICE.sign(fields("prekey", JID, FP, OTHER_DEVICE.public)),
        OTHER_DEVICE.sign(fields("device", JID + FP.hex(), OTHER_DEVICE.public)),
        bytes(64),
    ],
    ids=["ENC-13-key", "DIR-01-jid", "DIR-01-root", "DIR-01-use", "DIR-02", "zero"],
)
def test_i21_the_new_device_signs_for_this_account(signature: bytes) -> None:
    with pytest.raises(TrustFault, match="not valid"):
        with_device(first(), ROOT, OTHER_DEVICE.public, signature, "", NOW)


@pytest.mark.parametrize(
    "label",
    ["x" * 65, "a\nb", "a\x1b[2Jb", "a\x00", "a\u202eb", "a\u200bb", "a\u2028b"],
    ids=ascii,
)
def test_labels_that_nobody_can_bear(label: str) -> None:
    with pytest.raises(TrustFault, match="name"):
        first_manifest(JID, ROOT, DEVICE, label, NOW)
    made = claims()
    made["devices"][0]["label"] = label
    with pytest.raises(PeerFault, match="name"):
        opened(made)


@pytest.mark.parametrize("label", ["", "x" * 64, "Zoë’s Gerät 📱"], ids=ascii)
def test_labels_that_are_fine(label: str) -> None:
    assert first_manifest(JID, ROOT, DEVICE, label, NOW).active[0].label == label


def test_the_65th_device_is_refused_and_the_64th_opens() -> None:
    devices = [DevicePrivate(bytes([one, 8]) * 16) for one in range(64)]
    made = claims()
    made["devices"] = [entry(device) for device in devices]
    manifest = opened(made)
    assert len(manifest.active) == 64
    with pytest.raises(TrustFault, match="too many devices"):
        with_device(manifest, ROOT, DEVICE.public, statement(DEVICE), "", NOW)
    made["devices"].append(entry())
    with pytest.raises(PeerFault, match="at most 64"):
        opened(made)


def test_a_document_that_nobody_would_read_is_not_made() -> None:
    manifest = first()

    def fill() -> None:
        nonlocal manifest
        for one in range(63):
            device = DevicePrivate(bytes([one, 8]) * 16)
            signature = statement(device)
            manifest = with_device(
                manifest, ROOT, device.public, signature, "📱" * 64, NOW
            )

    with pytest.raises(TrustFault, match="too many devices") as caught:
        fill()
    assert "names" in caught.value.hint
    assert 30 < len(manifest.devices) < 64
    assert len(manifest.document) <= manifests.documents.LIMIT


# -- what is opened ---------------------------------------------------------


def test_a_foreign_manifest_opens() -> None:
    manifest = opened(claims())
    assert manifest.seq == 2
    assert manifest.previous == bytes(32)
    assert manifest.issued == NOW


def test_i24_the_previous_digest_may_be_missing() -> None:
    made = claims()
    del made["prev"]
    assert opened(made).previous is None


def test_suites_of_tomorrow_keep_their_order() -> None:
    assert opened({**claims(), "suites": [7, 1, 65535]}).suites == (7, 1, 65535)


@pytest.mark.parametrize(
    "jid",
    [
        "romeo@montague.example",
        "juliet@capulet.exampl",
        "Juliet@capulet.example",
        "juliet@capulet.example/balcony",
        "ju\u0301liet@capulet.example",
        "",
    ],
    ids=ascii,
)
def test_dir_01_a_manifest_of_another_account(jid: str) -> None:
    with pytest.raises(TrustFault, match="another account"):
        open_manifest(first().document.encode(), jid)


def test_dir_01_a_manifest_under_another_name() -> None:
    made = {**claims(), "sub": "romeo@montague.example"}
    with pytest.raises(TrustFault, match="signature of a device"):
        opened(made, "romeo@montague.example")


def test_dir_01_another_kind_of_document() -> None:
    with pytest.raises(PeerFault, match="protected header"):
        open_manifest(forge.signed(claims(), "tillie-token+jws"), JID)


def test_the_root_it_names_must_have_signed() -> None:
    with pytest.raises(TrustFault, match="EdDSA"):
        open_manifest(forge.signed(claims(), TYP, OTHER_ROOT), JID)


def test_a_device_signature_under_another_root() -> None:
    made = claims()
    made["root"] = {
        "ed25519": b64(OTHER_ROOT.public.ed25519),
        "mldsa65": b64(OTHER_ROOT.public.mldsa65),
    }
    with pytest.raises(TrustFault, match="signature of a device"):
        open_manifest(forge.signed(made, TYP, OTHER_ROOT), JID)


Change = Callable[[dict[str, Any]], object]


def put(*path: str | int, value: object) -> Change:
    def change(made: Any) -> None:
        for step in path[:-1]:
            made = made[step]
        made[path[-1]] = value

    return change


def drop(*path: str | int) -> Change:
    def change(made: Any) -> None:
        for step in path[:-1]:
            made = made[step]
        del made[path[-1]]

    return change


FORMS: dict[str, Change] = {
    **{f"no-{name}": drop(name) for name in ("seq", "root", "devices", "suites")},
    "no-sub": drop("sub"),
    "no-iat": drop("iat"),
    "more": put("more", value=1),
    "iss": put("iss", value="capulet.example"),
    "seq-zero": put("seq", value=0),
    "seq-large": put("seq", value=2**32),
    "seq-text": put("seq", value="2"),
    "seq-first-with-previous": put("seq", value=1),
    "prev-short": put("prev", value=b64(bytes(31))),
    "prev-empty": put("prev", value=""),
    "prev-number": put("prev", value=1),
    "prev-base64url": put("prev", value=b64(b"\xff" * 32).replace("/", "_")),
    "root-list": put("root", value=[]),
    "root-more": put("root", "x25519", value=""),
    "root-no-mldsa": drop("root", "mldsa65"),
    "root-number": put("root", "ed25519", value=1),
    "root-ENC-11": put("root", "ed25519", value=b64(ROOT.public.ed25519)[:-1]),
    "devices-object": put("devices", value={}),
    "devices-text": put("devices", 0, value="a"),
    "device-more": put("devices", 0, "id", value=b64(DEVICE.id)),
    "device-no-sig": drop("devices", 0, "sig"),
    "device-no-label": drop("devices", 0, "label"),
    "device-label-number": put("devices", 0, "label", value=1),
    "device-added-text": put("devices", 0, "added", value="1"),
    "device-added-late": put("devices", 0, "added", value=253_402_300_800),
    "device-removed-before": put("devices", 0, "removed", value=1_699_999_999),
    "device-pub-ENC-11": put("devices", 0, "pub", value=b64(DEVICE.public) + "\n"),
    "device-twice": put("devices", value=[entry(), entry()]),
    "device-twice-removed": put(
        "devices", value=[entry(), {**entry(), "removed": 1_700_000_001}]
    ),
    "suites-empty": put("suites", value=[]),
    "suites-many": put("suites", value=list(range(1, 18))),
    "suites-twice": put("suites", value=[1, 2, 1]),
    "suites-text": put("suites", value=["1"]),
    "suites-zero": put("suites", value=[0]),
    "suites-large": put("suites", value=[65536]),
    "suites-number": put("suites", value=1),
    "iat-text": put("iat", value="now"),
    "iat-late": put("iat", value=253_402_300_800),
}


@pytest.mark.parametrize("name", FORMS)
def test_wrong_forms(name: str) -> None:
    made = copy.deepcopy(claims())
    FORMS[name](made)
    with pytest.raises(PeerFault):
        opened(made)


TRUST: dict[str, Change] = {
    "sub-other": put("sub", value="romeo@montague.example"),
    "sub-number": put("sub", value=1),
    "ENC-15-root-small-order": put("root", "ed25519", value=b64(bytes(32))),
    "ENC-15-root-short": put("root", "mldsa65", value=b64(bytes(1951))),
    "ENC-15-device-small-order": put("devices", 0, "pub", value=b64(bytes(32))),
    "ENC-15-device-short": put("devices", 0, "pub", value=b64(DEVICE.public[:31])),
    "ENC-13-device-key": put("devices", 0, "pub", value=b64(OTHER_DEVICE.public)),
    "ENC-13-device-sig": put("devices", 0, "sig", value=b64(statement(OTHER_DEVICE))),
    "device-sig-short": put("devices", 0, "sig", value=b64(statement(DEVICE)[:63])),
}


@pytest.mark.parametrize("name", TRUST)
def test_wrong_keys_and_signatures(name: str) -> None:
    made = copy.deepcopy(claims())
    TRUST[name](made)
    with pytest.raises(TrustFault):
        opened(made)


def test_the_signature_of_a_removed_device_is_checked_too() -> None:
    made = claims()
    made["devices"][0]["removed"] = 1_700_000_001
    assert opened(made).retired
    made["devices"][0]["sig"] = b64(statement(OTHER_DEVICE))
    with pytest.raises(TrustFault, match="signature of a device"):
        opened(made)
