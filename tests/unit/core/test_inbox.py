"""What came in stays until a client has it, and is shown once on each stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.core.inbox import (
    GRANTED_FOR,
    HELD_BYTES,
    HELD_IN_ALL,
    HELD_PER_PEER,
    SEEN_FOR,
    Inbox,
)
from proxy.keys.store import MemoryStore, Store

A, PEER, OTHER = "a@a.test", "b@b.test", "c@a.test"
NOW = 1_700_000_000_000
DESK, PHONE, LATER = "11" * 8, "22" * 8, "33" * 8
WHAT, ELSE = b"\1" * 16, b"\2" * 16
HASH, CHANGED = b"\1" * 16, b"\2" * 16


class UndoneError(Exception):
    """What ends a transaction that is to be rolled back."""


@contextmanager
def undone(store: Store) -> Iterator[None]:
    """A transaction of which nothing stays."""
    with suppress(UndoneError), store.transaction():
        yield
        raise UndoneError


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def inbox(store: MemoryStore) -> Inbox:
    return Inbox(store, A)


def test_rel_01_a_message_waits_over_a_kill_in_order(
    store: MemoryStore, inbox: Inbox
) -> None:
    texts = [b"<%d/>" % at for at in range(30)]
    with store.transaction():
        for text in texts:
            inbox.add(text, DESK, WHAT, NOW)
    assert [data for _, data in Inbox(store, A).waiting()] == texts


def test_rows_after_a_kill_come_behind_those_before(store: MemoryStore) -> None:
    for at in range(3):
        with store.transaction():
            Inbox(store, A).add(b"%d" % at, DESK, WHAT, NOW + at)
    assert [data for _, data in Inbox(store, A).waiting()] == [b"0", b"1", b"2"]


def test_rel_21_a_clock_set_back_overwrites_nothing(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        for now in (NOW, NOW, NOW - 3_600_000, 0, NOW):
            inbox.add(str(now).encode(), DESK, WHAT, now)
    assert len(inbox.waiting()) == 5
    assert [int(data) for _, data in inbox.waiting()] == [
        NOW,
        NOW,
        NOW - 3_600_000,
        0,
        NOW,
    ]


def test_rel_21_the_same_moment_in_two_runs_overwrites_nothing(
    store: MemoryStore,
) -> None:
    """The clock stood still, or was set back to it, over a restart."""
    for text in (b"first run", b"second run"):
        with store.transaction():
            Inbox(store, A).add(text, DESK, WHAT, NOW)
    assert [data for _, data in Inbox(store, A).waiting()] == [
        b"first run",
        b"second run",
    ]


def test_what_was_delivered_waits_no_longer(store: MemoryStore, inbox: Inbox) -> None:
    with store.transaction():
        first, second = (inbox.add(one, DESK, WHAT, NOW) for one in (b"1", b"2"))
        inbox.delivered([first])
    assert inbox.waiting() == [(second, b"2")]
    with store.transaction():
        inbox.delivered([first, second])
    assert inbox.waiting() == []


def owed(inbox: Inbox, *busy: str) -> list[bytes]:
    return [data for _, data in inbox.owed(busy)]


def test_rel_34_what_two_streams_were_owed_is_given_once(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        for stream in (DESK, PHONE):
            inbox.add(b"<x/>", stream, WHAT, NOW)
        inbox.add(b"<y/>", PHONE, ELSE, NOW)
        assert owed(inbox) == [b"<x/>", b"<y/>"]
    assert len(inbox.waiting()) == 2


@pytest.mark.parametrize("order", [(DESK, PHONE, DESK, PHONE), (PHONE,) * 2 + (DESK,)])
def test_rel_34_what_a_bot_said_twice_is_given_twice(
    store: MemoryStore, inbox: Inbox, order: tuple[str, ...]
) -> None:
    with store.transaction():
        for stream in order:
            inbox.add(b"<x/>", stream, WHAT, NOW)
        assert owed(inbox) == [b"<x/>"] * 2


def test_rel_34_what_is_being_given_to_another_client_is_left_to_it(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        busy = inbox.add(b"<for desk/>", DESK, WHAT, NOW)
        inbox.add(b"<for phone/>", PHONE, WHAT, NOW)
        assert owed(inbox, busy) == [b"<for phone/>"]
    assert len(inbox.waiting()) == 2


# -- seen before (I12, ENC-12) ------------------------------------------------


def fresh(
    inbox: Inbox,
    stream: str,
    streams: tuple[str, ...] = (DESK, PHONE),
    digest: bytes = HASH,
) -> bool:
    return inbox.seen.fresh("lane/n", digest, stream, streams, NOW)


def test_i12_a_message_is_shown_once_on_a_stream(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        assert fresh(inbox, DESK)
        assert not fresh(inbox, DESK)


def test_i12_each_stream_that_was_there_gets_it(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        assert fresh(inbox, DESK)
        assert fresh(inbox, PHONE)
        for stream in (DESK, PHONE):
            assert not fresh(inbox, stream)


def test_i12_a_stream_opened_later_does_not(store: MemoryStore, inbox: Inbox) -> None:
    """Whatever the clock says: it is set back, or stands still."""
    with store.transaction():
        assert fresh(inbox, DESK)
        assert not fresh(inbox, LATER, (DESK, PHONE, LATER))
        assert fresh(inbox, PHONE, (DESK, PHONE, LATER))


def test_i12_a_cut_stream_is_not_owed_what_it_showed(
    store: MemoryStore, inbox: Inbox
) -> None:
    """While it is emptied, it counted as a stream of no name that was always there:
    it was given, once more, what it and every other stream had shown."""
    with store.transaction():
        assert fresh(inbox, DESK)
        assert fresh(inbox, PHONE)
    inbox = Inbox(store, A)
    with store.transaction():
        for cut in (DESK, PHONE):
            assert not fresh(inbox, cut)


def test_i12_a_cut_stream_is_owed_what_only_the_other_showed(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        assert fresh(inbox, DESK)
    with store.transaction():
        assert fresh(Inbox(store, A), PHONE)


def test_i7_another_ciphertext_under_a_used_index_is_shown(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        assert fresh(inbox, DESK)
        assert fresh(inbox, DESK, digest=CHANGED)
        assert not fresh(inbox, DESK, digest=CHANGED)


def test_enc_12_it_is_remembered_over_a_kill(store: MemoryStore, inbox: Inbox) -> None:
    with store.transaction():
        fresh(inbox, DESK)
    with store.transaction():
        assert not fresh(Inbox(store, A), DESK)


def test_rel_14_what_was_not_committed_was_not_shown(
    store: MemoryStore, inbox: Inbox
) -> None:
    with undone(store):
        assert fresh(inbox, DESK)
    inbox.forget_caches()
    with store.transaction():
        assert fresh(inbox, DESK)


def test_enc_12_neighbours_lie_together_and_are_told_apart(
    store: MemoryStore, inbox: Inbox
) -> None:
    keys = [f"lane{number:08x}" for number in range(40)]
    with store.transaction():
        for at, key in enumerate(keys):
            assert inbox.seen.fresh(key, HASH, DESK, [DESK, PHONE], NOW + at)
    assert len(store.scan("seen", A)) == 3
    again = Inbox(store, A)
    with store.transaction():
        for key in keys:
            assert not again.seen.fresh(key, HASH, DESK, [DESK], NOW + 90)
            assert again.seen.fresh(key, HASH, PHONE, [PHONE], NOW + 90)
            assert not again.seen.used(key, HASH)
            assert again.seen.used(key, CHANGED)


def test_enc_12_many_texts_under_one_index_do_not_swell_one_record(
    store: MemoryStore, inbox: Inbox
) -> None:
    hashes = [at.to_bytes(16, "big") for at in range(500)]
    with store.transaction():
        for digest in hashes:
            assert inbox.seen.fresh("lane/n", digest, DESK, [DESK], NOW)
    assert max(len(record) for _, record in store.scan("seen", A)) < 4_000
    again = Inbox(store, A)
    with store.transaction():
        for digest in hashes:
            assert not again.seen.fresh("lane/n", digest, DESK, [DESK], NOW)


# -- held ---------------------------------------------------------------------


def test_i12_held_messages_are_there_after_a_kill(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        inbox.hold(DESK, PEER, b"<1/>\0with a zero", NOW)
        shown = inbox.hold(PHONE, OTHER, b"<2/>", NOW + 1)
        shown.shown = True
        inbox.save(shown)
    found = Inbox(store, A).load_held()
    assert [
        (one.stream, one.peer, one.data, one.since, one.shown) for one in found
    ] == [
        (DESK, PEER, b"<1/>\0with a zero", NOW, False),
        (PHONE, OTHER, b"<2/>", NOW + 1, True),
    ]


def test_a_released_one_is_gone_for_good(store: MemoryStore, inbox: Inbox) -> None:
    with store.transaction():
        held = inbox.hold(DESK, PEER, b"<1/>", NOW)
        inbox.release(held)
    assert inbox.load_held() == []
    assert Inbox(store, A).load_held() == []


def test_later_ones_queue_behind_a_held_one_of_the_same_sender_only(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        held = inbox.hold(DESK, PEER, b"<1/>", NOW)
    assert inbox.blocking(DESK, PEER)
    assert not inbox.blocking(DESK, OTHER)
    assert not inbox.blocking(PHONE, PEER)
    held.shown = True
    assert not inbox.blocking(DESK, PEER)


def test_rel_14_memory_forgets_what_was_rolled_back(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        kept = inbox.hold(DESK, PEER, b"<kept/>", NOW)
    with undone(store):
        inbox.release(kept)
        inbox.hold(DESK, OTHER, b"<lost/>", NOW)
    inbox.forget_caches()
    assert [one.data for one in inbox.load_held()] == [b"<kept/>"]


def test_i12_one_sender_cannot_fill_the_place_of_others(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        for _ in range(HELD_PER_PEER - 1):
            inbox.hold(DESK, PEER, b"<m/>", NOW)
        assert not inbox.full(PEER)
        inbox.hold(DESK, PEER, b"<m/>", NOW)
    assert inbox.full(PEER)
    assert not inbox.full(OTHER)


def test_held_messages_are_bounded_in_all(store: MemoryStore, inbox: Inbox) -> None:
    with store.transaction():
        for at in range(HELD_IN_ALL):
            inbox.hold(DESK, f"{at % 100}@b.test", b"<m/>", NOW)
    assert inbox.full(OTHER)


def test_held_bytes_are_bounded(store: MemoryStore, inbox: Inbox) -> None:
    with store.transaction():
        for at in range(4):
            inbox.hold(DESK, f"{at}@b.test", bytes(HELD_BYTES // 4), NOW)
    assert inbox.full(OTHER)


def test_enc_12_what_was_seen_is_forgotten_after_its_time_only(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        inbox.seen.fresh("old", HASH, DESK, [DESK], NOW)
        inbox.seen.fresh("new", HASH, DESK, [DESK], NOW + 5)
        inbox.prune(NOW + SEEN_FOR + 3, NOW + SEEN_FOR)
        assert not inbox.seen.fresh("new", HASH, DESK, [DESK], NOW + SEEN_FOR + 3)
        assert inbox.seen.fresh("old", HASH, DESK, [DESK], NOW + SEEN_FOR + 3)


def test_enc_12_what_was_seen_is_known_as_long_as_a_prekey_could_open_it(
    store: MemoryStore, inbox: Inbox
) -> None:
    with store.transaction():
        inbox.seen.fresh("old", HASH, DESK, [DESK], NOW)
        later = NOW + 2 * SEEN_FOR
        inbox.prune(later, NOW + GRANTED_FOR)
        assert not inbox.seen.fresh("old", HASH, DESK, [DESK], later)
        inbox.prune(later, NOW + GRANTED_FOR + 1)
        assert inbox.seen.fresh("old", HASH, DESK, [DESK], later)
