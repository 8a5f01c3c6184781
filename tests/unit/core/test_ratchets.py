"""Lanes as they are kept: opening, rotation, grants, pruning; and own prekeys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.identity import PREKEY_LIFE, Identity
from proxy.core.ratchets import PAST_KEPT, Ratchets
from proxy.core.reading import UnknownLane
from proxy.core.writing import ROTATE_AGE, ROTATE_COUNT, Reader, SendLane
from proxy.errors import Fault, TrustFault
from proxy.keys.store import MemoryStore
from proxy.suites import lanes
from tests.support.simulator import ALICE, BOB, CAROL, DAY

NOW = 1_750_000_000_000
BOUND = lanes.Bound("chat", ALICE)


class Side:
    """One account's device with its lanes."""

    def __init__(self, jid: str) -> None:
        self.jid = jid
        self.store = MemoryStore()
        self.identity = Identity(self.store, jid)
        with self.store.transaction():
            self.identity.create("one", NOW)
        self.ratchets = Ratchets(self.store, self.identity)

    @property
    def reader(self) -> Reader:
        return Reader(
            self.jid, self.identity.device.public, self.identity.public_prekey()
        )

    @property
    def member(self) -> tuple[str, bytes]:
        return (self.jid, self.identity.fingerprint)

    def restart(self) -> None:
        self.identity = Identity(self.store, self.jid)
        self.ratchets = Ratchets(self.store, self.identity)

    def rows(self) -> dict[tuple[str, str, str], bytes]:
        return dict(self.store._rows)


@pytest.fixture
def alice() -> Side:
    return Side(ALICE)


@pytest.fixture
def bob() -> Side:
    return Side(BOB)


def opened(alice: Side, bob: Side, now: int = NOW) -> SendLane:
    with alice.store.transaction():
        lane = alice.ratchets.ready(BOB, [alice.member, bob.member], [bob.reader], now)
        alice.ratchets.mark_granted(BOB, lane, [bob.reader])
    return lane


def seal(alice: Side, lane: SendLane, text: bytes = b"text") -> bytes:
    with alice.store.transaction():
        return alice.ratchets.seal(BOB, lane, text, BOUND)


def parties(alice: Side, bob: Side, number: int = 1) -> lanes.Parties:
    return lanes.Parties(
        ALICE, alice.identity.device.public, BOB, bob.identity.device.public, number
    )


def granted(alice: Side, bob: Side, lane: SendLane) -> None:
    box = alice.ratchets.grant(lane, bob.reader)
    with bob.store.transaction():
        bob.ratchets.take_grant(box, parties(alice, bob), NOW)


def test_granted_reader_opens_and_keeps_its_place(alice: Side, bob: Side) -> None:
    lane = opened(alice, bob)
    granted(alice, bob, lane)
    for at in range(3):
        unsealed = bob.ratchets.unseal(ALICE, seal(alice, lane, b"%d" % at), BOUND)
        assert unsealed.plaintext == b"%d" % at
        with bob.store.transaction():
            bob.ratchets.commit(unsealed)
    bob.restart()
    alice.restart()
    current = alice.ratchets.current(BOB)
    assert current is not None
    assert bob.ratchets.unseal(ALICE, seal(alice, current), BOUND).lane.top.n == 3


def test_enc_18_opening_without_commit_changes_nothing(alice: Side, bob: Side) -> None:
    lane = opened(alice, bob)
    granted(alice, bob, lane)
    payload = seal(alice, lane)
    before = bob.rows()
    bob.ratchets.unseal(ALICE, payload, BOUND)
    for bad in (payload[:-1] + bytes([payload[-1] ^ 1]), payload[:-1]):
        with pytest.raises(lanes.Broken):
            bob.ratchets.unseal(ALICE, bad, BOUND)
    assert bob.rows() == before


def test_i07_used_index_is_opened_from_the_kept_key(alice: Side, bob: Side) -> None:
    """I7: another ciphertext under a used index still opens."""
    lane = opened(alice, bob)
    granted(alice, bob, lane)
    snapshot = alice.rows()
    first = seal(alice, lane, b"one")
    alice.store._rows = snapshot
    alice.restart()
    again = replace(lane, chain=lane.first)
    second = seal(alice, again, b"two")
    for payload, text in ((first, b"one"), (second, b"two"), (first, b"one")):
        unsealed = bob.ratchets.unseal(ALICE, payload, BOUND)
        assert unsealed.plaintext == text
        with bob.store.transaction():
            bob.ratchets.commit(unsealed)


def test_i21_lane_of_another_owner_is_not_found(alice: Side, bob: Side) -> None:
    """I21: lanes are kept under their owner; the header's hints choose nothing."""
    lane = opened(alice, bob)
    granted(alice, bob, lane)
    payload = seal(alice, lane)
    with pytest.raises(UnknownLane):
        bob.ratchets.unseal(CAROL, payload, BOUND)
    bent = payload[:23] + bytes(8) + payload[31:]
    with pytest.raises(lanes.Broken):
        bob.ratchets.unseal(ALICE, bent, BOUND)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"granter": CAROL}, id="I21-granter"),
        pytest.param({"reader": CAROL}, id="I21-reader"),
        pytest.param({"granter_device": bytes(32)}, id="I21-granter-device"),
        pytest.param({"reader_device": bytes(32)}, id="I21-reader-device"),
        pytest.param({"prekey": 2}, id="I21-prekey"),
    ],
)
def test_i21_grant_for_other_parties_is_refused(
    change: dict[str, object], alice: Side, bob: Side
) -> None:
    box = alice.ratchets.grant(opened(alice, bob), bob.reader)
    before = bob.rows()
    with pytest.raises(Fault), bob.store.transaction():
        bob.ratchets.take_grant(
            box,
            replace(parties(alice, bob), **change),  # type: ignore[arg-type]
            NOW,
        )
    assert bob.rows() == before


def test_i21_grant_with_any_bit_flipped_is_refused(alice: Side, bob: Side) -> None:
    box = alice.ratchets.grant(opened(alice, bob), bob.reader)
    before = bob.rows()
    for at in range(0, 8 * len(box), 61):
        bent = bytearray(box)
        bent[at // 8] ^= 1 << at % 8
        with pytest.raises(Fault), bob.store.transaction():
            bob.ratchets.take_grant(bytes(bent), parties(alice, bob), NOW)
    assert bob.rows() == before


def test_i21_contact_cannot_grant_somebody_elses_lane(alice: Side, bob: Side) -> None:
    """Carol holds a grant of Alice's lane and passes it on to Bob as hers, or as it is."""
    carol = Side(CAROL)
    with alice.store.transaction():
        lane = alice.ratchets.ready(
            CAROL, [alice.member, carol.member], [carol.reader], NOW
        )
    for owner in (ALICE, CAROL):
        facts = replace(lane.facts, owner=owner)
        grant = lanes.Grant(facts, lane.first, 1)
        forged = lanes.Parties(
            CAROL,
            carol.identity.device.public,
            BOB,
            bob.identity.device.public,
            1,
        )
        signature = carol.identity.device.sign(
            lanes.grant_signature_input(grant, forged)
        )
        box = lanes.box(
            lanes.pack_grant(grant, signature), bob.reader.prekey.hpke(), forged.info()
        )
        with pytest.raises(TrustFault), bob.store.transaction():
            bob.ratchets.take_grant(box, forged, NOW)


def test_i19_own_device_passes_a_lane_on_and_a_direct_grant_wins(
    alice: Side, bob: Side
) -> None:
    lane = opened(alice, bob)
    payload = seal(alice, lane)
    own = replace(
        parties(alice, bob), granter=BOB, granter_device=bob.identity.device.public
    )
    for first, direct in ((True, False), (False, True)):
        bob.restart()
        with bob.store.transaction():
            for key, _ in bob.store.scan("lane", BOB):
                bob.store.delete("lane", BOB, key)

        def forwarded() -> None:
            grant = lanes.Grant(lane.facts, lane.first, 1)
            signature = bob.identity.device.sign(
                lanes.grant_signature_input(grant, own)
            )
            box = lanes.box(
                lanes.pack_grant(grant, signature),
                bob.reader.prekey.hpke(),
                own.info(),
            )
            with bob.store.transaction():
                bob.ratchets.take_grant(box, own, NOW)

        if first:
            forwarded()
            granted(alice, bob, lane)
        else:
            granted(alice, bob, lane)
            forwarded()
        assert direct or first
        unsealed = bob.ratchets.unseal(ALICE, payload, BOUND)
        assert not unsealed.lane.forwarded


def test_i19_forwarded_key_cannot_spoil_one_that_is_here(
    alice: Side, bob: Side
) -> None:
    lane = opened(alice, bob)
    for _ in range(5):
        seal(alice, lane)
    with alice.store.transaction():
        lane.granted[bob.reader.device] = (3, 1)
    granted(alice, bob, lane)
    own = replace(
        parties(alice, bob), granter=BOB, granter_device=bob.identity.device.public
    )
    grant = lanes.Grant(lane.facts, lanes.Chain(1, bytes(32)), 1)
    signature = bob.identity.device.sign(lanes.grant_signature_input(grant, own))
    box = lanes.box(
        lanes.pack_grant(grant, signature), bob.reader.prekey.hpke(), own.info()
    )
    try:
        with bob.store.transaction():
            bob.ratchets.take_grant(box, own, NOW)
    except TrustFault:
        bob.ratchets.forget_caches()
    assert bob.ratchets.unseal(ALICE, seal(alice, lane), BOUND).plaintext == b"text"


# -- rotation ---------------------------------------------------------------------


def test_i10_rotation_by_count_age_audience_and_leavers(alice: Side, bob: Side) -> None:
    first = opened(alice, bob)
    assert opened(alice, bob, NOW + ROTATE_AGE - 1).lane == first.lane
    assert opened(alice, bob, NOW + ROTATE_AGE).lane != first.lane
    second = opened(alice, bob, NOW + ROTATE_AGE)
    for _ in range(ROTATE_COUNT):
        seal(alice, second)
    third = opened(alice, bob, NOW + ROTATE_AGE)
    assert third.lane != second.lane
    with alice.store.transaction():
        audience = [alice.member, (BOB, bytes(32))]
        assert alice.ratchets.worn(third, audience, [bob.reader], NOW + ROTATE_AGE)
        assert alice.ratchets.worn(
            third, [alice.member, bob.member], [], NOW + ROTATE_AGE
        )
        more = [bob.reader, replace(bob.reader, device=bytes(32))]
        assert not alice.ratchets.worn(
            third, [alice.member, bob.member], more, NOW + ROTATE_AGE
        )


def test_clock_set_back_rotates(alice: Side, bob: Side) -> None:
    first = opened(alice, bob)
    assert opened(alice, bob, NOW - 1).lane != first.lane


def test_epochs_rise_even_when_the_clock_is_set_back(alice: Side, bob: Side) -> None:
    epochs = []
    for now in (NOW, NOW - DAY, NOW - DAY, NOW + 1):
        with alice.store.transaction():
            alice.ratchets.rotate(BOB)
        epochs.append(opened(alice, bob, now).facts.epoch)
        alice.restart()
    assert epochs == sorted(set(epochs))


def test_i27_sender_forgets_rotated_lanes(alice: Side, bob: Side) -> None:
    lane = opened(alice, bob)
    with alice.store.transaction():
        alice.ratchets.rotate(BOB)
        alice.ratchets.prune(NOW + 6 * DAY)
    accounts = [alice.member, bob.member]
    assert alice.ratchets.answer(lane.lane, bob.reader, [accounts]) is not None
    with alice.store.transaction():
        alice.ratchets.prune(NOW + PAST_KEPT + 1)
    assert alice.ratchets.answer(lane.lane, bob.reader, [accounts]) is None


def test_i19_answer_begins_where_the_device_was_first_granted(
    alice: Side, bob: Side
) -> None:
    lane = opened(alice, bob)
    old = seal(alice, lane, b"before")
    other = Side(BOB)
    late = replace(
        other.reader,
    )
    accounts = [alice.member, bob.member]
    with alice.store.transaction():
        box = alice.ratchets.answer(lane.lane, late, [accounts])
    assert box is not None
    with other.store.transaction():
        other.ratchets.take_grant(
            box, replace(parties(alice, bob), reader_device=late.device), NOW
        )
    with pytest.raises(UnknownLane):
        other.ratchets.unseal(ALICE, old, BOUND)
    new = seal(alice, lane, b"after")
    assert other.ratchets.unseal(ALICE, new, BOUND).plaintext == b"after"


def test_i19_rotated_lane_is_not_answered_to_a_new_device(
    alice: Side, bob: Side
) -> None:
    lane = opened(alice, bob)
    with alice.store.transaction():
        alice.ratchets.rotate(BOB)
    late = replace(bob.reader, device=Side(BOB).identity.device.public)
    accounts = [alice.member, bob.member]
    assert alice.ratchets.answer(lane.lane, late, [accounts]) is None


def test_i19_answer_only_to_the_audience(alice: Side, bob: Side) -> None:
    lane = opened(alice, bob)
    changed = [alice.member, (BOB, bytes(32))]
    assert alice.ratchets.answer(lane.lane, bob.reader, [changed]) is None
    carol = Side(CAROL)
    assert (
        alice.ratchets.answer(lane.lane, carol.reader, [[alice.member, carol.member]])
        is None
    )


# -- own prekeys ------------------------------------------------------------------


def rotated(side: Side, now: int) -> bool:
    with side.store.transaction():
        return side.identity.rotate_prekey(now)


def test_i11_prekeys_rotate_every_two_days(alice: Side) -> None:
    assert not rotated(alice, NOW + PREKEY_LIFE - 1)
    assert rotated(alice, NOW + PREKEY_LIFE)
    assert alice.identity.prekey_number == 2
    assert not rotated(alice, NOW + PREKEY_LIFE)
    assert not rotated(alice, NOW)


def dropped(side: Side, now: int) -> None:
    with side.store.transaction():
        side.identity.drop_prekeys(now)


def test_i11_private_prekey_is_kept_thirty_days_after_it_was_superseded(
    alice: Side,
) -> None:
    """I11: offline for two months, then online: the old one still opens mail."""
    assert rotated(alice, NOW + 60 * DAY)
    for days in range(62, 92, 2):
        assert rotated(alice, NOW + days * DAY)
        dropped(alice, NOW + days * DAY)
        assert alice.identity.prekey(1) is not None
    dropped(alice, NOW + 90 * DAY + 1)
    assert alice.identity.prekey(1) is None
    assert alice.identity.prekey(2) is not None


def test_i11_superseded_prekeys_go_in_the_end(alice: Side) -> None:
    for days in range(2, 100, 2):
        assert rotated(alice, NOW + days * DAY)
        dropped(alice, NOW + days * DAY)
    assert alice.identity.prekey(1) is None
    assert alice.identity.prekey(alice.identity.prekey_number) is not None
    kept = alice.store.scan("own", ALICE, "prekey/")
    assert len(kept) <= 20


def test_i11_time_alone_deletes_no_prekey(alice: Side) -> None:
    for days in range(2, 400, 2):
        assert rotated(alice, NOW + days * DAY)
    assert alice.identity.prekey(1) is not None


def test_i11_the_newest_prekey_stays_however_old(alice: Side) -> None:
    dropped(alice, NOW + 1000 * DAY)
    assert alice.identity.prekey(1) is not None


def test_i11_rotation_survives_a_restart(alice: Side) -> None:
    assert rotated(alice, NOW + PREKEY_LIFE)
    public = alice.identity.public_prekey()
    alice.restart()
    assert alice.identity.public_prekey().public == public.public
