"""What is remembered of contacts: pins, prekeys, policy, permits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.contacts import Contacts, Finding
from proxy.errors import TrustFault
from proxy.keys import trust
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import (
    Manifest,
    device_statement,
    first_manifest,
    retired,
    with_device,
    without_device,
)
from proxy.keys.prekeys import Prekey, PrekeyPrivate, sign_prekey
from proxy.keys.store import MemoryStore
from tests.support.simulator import ALICE, BOB, DAY

NOW = 1_750_000_000_000
ROOT, OTHER = RootPrivate.generate(), RootPrivate.generate()
ONE, TWO = DevicePrivate.generate(), DevicePrivate.generate()
FIRST = first_manifest(BOB, ROOT, ONE, "one", NOW)
FP = FIRST.root.fingerprint
SECOND = with_device(
    FIRST, ROOT, TWO.public, TWO.sign(device_statement(BOB, FP, TWO.public)), "two", NOW
)
REMOVED = without_device(SECOND, ROOT, TWO.id, NOW)


def prekey(number: int, device: DevicePrivate = ONE, jid: str = BOB) -> Prekey:
    return sign_prekey(PrekeyPrivate.generate(number), device, jid, FP)


class Shelf:
    """Contacts over a store, with every write in a transaction."""

    def __init__(self, **settings: object) -> None:
        self.store = MemoryStore()
        self.settings = settings
        self.contacts = Contacts(self.store, ALICE, **settings)  # type: ignore[arg-type]

    def learn(self, manifest: Manifest, *prekeys: Prekey, now: int = NOW) -> str:
        with self.store.transaction():
            return self.contacts.learn(BOB, manifest, list(prekeys), now).notice

    def absent(self, now: int = NOW) -> str:
        with self.store.transaction():
            return self.contacts.absent(BOB, now)

    def word(self, jid: str, word: str) -> None:
        with self.store.transaction():
            self.contacts.set_policy(jid, word)

    def restart(self) -> None:
        self.contacts = Contacts(self.store, ALICE, **self.settings)  # type: ignore[arg-type]

    @property
    def numbers(self) -> dict[bytes, int]:
        contact = self.contacts.get(BOB)
        assert contact is not None
        return {device.public: key.number for device, key in contact.readers}


def test_first_manifest_is_pinned_and_survives_a_restart() -> None:
    shelf = Shelf()
    assert shelf.learn(FIRST, prekey(1)) == ""
    before = shelf.contacts.get(BOB)
    shelf.restart()
    assert shelf.contacts.get(BOB) == before
    assert shelf.numbers == {ONE.public: 1}


def test_i11_newest_prekey_ever_seen_stays() -> None:
    """I11: never a lower number than seen, and however old."""
    shelf = Shelf()
    shelf.learn(FIRST, prekey(5))
    shelf.learn(FIRST, prekey(4), now=NOW + 1)
    assert shelf.numbers == {ONE.public: 5}
    shelf.learn(FIRST, now=NOW + 300 * DAY)
    assert shelf.numbers == {ONE.public: 5}
    shelf.learn(FIRST, prekey(6), prekey(5), now=NOW + 301 * DAY)
    assert shelf.numbers == {ONE.public: 6}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(replace(prekey(9), number=10), id="number"),
        pytest.param(replace(prekey(9), public=prekey(9).public), id="key"),
        pytest.param(prekey(9, jid="eve@e.test"), id="other-account"),
        pytest.param(prekey(9, TWO), id="unlisted-device"),
        pytest.param(replace(prekey(9), device=TWO.public), id="other-device"),
        pytest.param(replace(prekey(9), signature=bytes(64)), id="signature"),
    ],
)
def test_i11_prekey_that_is_not_signed_for_this_is_left_out(bad: Prekey) -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1), bad)
    assert shelf.numbers == {ONE.public: 1}


def test_i08_removed_device_is_not_written_to_and_stays_known() -> None:
    shelf = Shelf()
    shelf.learn(SECOND, prekey(1), prekey(1, TWO))
    assert set(shelf.numbers) == {ONE.public, TWO.public}
    shelf.learn(REMOVED, prekey(2, TWO))
    assert set(shelf.numbers) == {ONE.public}
    contact = shelf.contacts.get(BOB)
    assert contact is not None
    assert contact.manifest.device(TWO.public) is not None


def test_i24_lower_number_is_not_taken() -> None:
    shelf = Shelf()
    shelf.learn(REMOVED, prekey(1))
    assert "older list" in shelf.learn(SECOND, prekey(1, TWO))
    assert set(shelf.numbers) == {ONE.public}
    assert shelf.learn(SECOND) == ""


def test_enc_22_other_root_is_held_until_a_person_says_forget() -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    other = first_manifest(BOB, OTHER, TWO, "x", NOW)
    assert "were replaced" in shelf.learn(other)
    shelf.restart()
    contact = shelf.contacts.get(BOB)
    assert contact is not None
    assert contact.pin.held
    assert contact.pin.root == FP
    with shelf.store.transaction():
        assert shelf.contacts.forget(BOB)
    assert shelf.learn(other) == ""
    contact = shelf.contacts.get(BOB)
    assert contact is not None
    assert contact.pin.root == other.root.fingerprint


def test_held_ends_when_the_pinned_root_is_shown_again() -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    shelf.learn(first_manifest(BOB, OTHER, TWO, "x", NOW))
    shelf.learn(FIRST)
    contact = shelf.contacts.get(BOB)
    assert contact is not None
    assert not contact.pin.held


def test_enc_23_absence_leaves_the_pin() -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    assert "no keys" in shelf.absent()
    assert shelf.absent(NOW + DAY) == ""
    shelf.restart()
    assert shelf.numbers == {ONE.public: 1}
    with pytest.raises(TrustFault):
        shelf.contacts.permit(BOB)


@pytest.mark.parametrize("word", ["clear", "ask", "require"])
def test_enc_23_no_permit_for_whom_a_key_is_pinned(word: str) -> None:
    shelf = Shelf(clear=("*",))
    shelf.learn(FIRST, prekey(1))
    shelf.word(BOB, word)
    shelf.absent()
    shelf.restart()
    with pytest.raises(TrustFault):
        shelf.contacts.permit(BOB)


def test_i25_retired_manifest_leads_to_the_policy() -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    shelf.learn(retired(FIRST, ROOT, NOW))
    with pytest.raises(TrustFault, match="has no key"):
        shelf.contacts.permit(BOB)
    shelf.word(BOB, "clear")
    assert shelf.contacts.permit(BOB).jid == BOB


# -- policy -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "word", "policy"),
    [
        ({}, "", "ask"),
        ({"unknown": "require"}, "", "require"),
        ({"clear": ("*@b.test",)}, "", "clear"),
        ({"clear": ("*@c.test",)}, "", "ask"),
        ({"clear": ("*",), "require": ("*@b.test",)}, "", "require"),
        ({"clear": ("*",)}, "require", "require"),
        ({"require": ("*",)}, "clear", "clear"),
        ({"clear": ("BOB@b.test",)}, "", "ask"),
        ({"clear": ("[!b]*",)}, "", "ask"),
    ],
)
def test_policy_of_patterns_and_words(
    settings: dict[str, object], word: str, policy: str
) -> None:
    shelf = Shelf(**settings)
    if word:
        shelf.word(BOB, word)
    shelf.restart()
    assert shelf.contacts.policy(BOB) == policy


@pytest.mark.parametrize("policy", ["ask", "require"])
def test_enc_01_no_permit_without_a_word(policy: str) -> None:
    shelf = Shelf(unknown=policy)
    with pytest.raises(TrustFault) as caught:
        shelf.contacts.permit(BOB)
    assert "tillie allow bob@b.test" in caught.value.hint


def test_permit_names_whom_it_is_for() -> None:
    shelf = Shelf(clear=("*",))
    assert shelf.contacts.permit(BOB).jid == BOB


# -- findings ---------------------------------------------------------------------


def test_res_06_absence_and_failure_are_remembered_for_a_while() -> None:
    shelf = Shelf()
    for finding in (Finding.ABSENT, Finding.FAILED):
        shelf.contacts.failed(BOB, finding, "why", NOW)
        found = shelf.contacts.finding(BOB, NOW + 1_000)
        assert found is not None
        assert found.finding is finding
        assert shelf.contacts.finding(BOB, NOW + 60_001) is None


def test_res_06_findings_are_bounded() -> None:
    shelf = Shelf()
    for at in range(2_000):
        shelf.contacts.failed(f"u{at}@x.test", Finding.ABSENT, "", NOW)
    kept = sum(
        shelf.contacts.finding(f"u{at}@x.test", NOW) is not None for at in range(2_000)
    )
    assert 100 <= kept <= 1_000


@pytest.mark.parametrize(
    ("later", "stale"), [(0, False), (DAY, False), (DAY + 1, True), (-DAY - 1, True)]
)
def test_i15_look_up_is_good_for_a_day_even_when_the_clock_is_set_back(
    later: int, stale: bool
) -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    contact = shelf.contacts.get(BOB)
    assert contact is not None
    assert shelf.contacts.stale(contact, NOW + later) is stale


def test_rolled_back_pin_is_forgotten() -> None:
    """A transaction that fails leaves no pin in memory either."""
    shelf = Shelf()

    def fail() -> None:
        with shelf.store.transaction():
            shelf.contacts.learn(BOB, FIRST, [prekey(1)], NOW)
            raise TrustFault("the disk is full")

    with pytest.raises(TrustFault):
        fail()
    shelf.contacts.forget_caches()
    assert shelf.contacts.get(BOB) is None


def test_level_is_seen() -> None:
    shelf = Shelf()
    shelf.learn(FIRST, prekey(1))
    [contact] = shelf.contacts.all()
    assert (contact.jid, contact.pin.level, contact.pin.since) == (BOB, "seen", NOW)
    assert isinstance(trust.judge_absence(contact.pin), trust.Kept)
