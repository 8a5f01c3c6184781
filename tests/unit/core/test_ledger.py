"""What was sent stays, as it was sent, until the server is known to have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import ledger
from proxy.core.ledger import Cut, Ledger
from proxy.keys.store import MemoryStore, Store

A, B = "a@a.test", "b@b.test"
NOW = 1_700_000_000_000
TOP = 2**32


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


def filled(store: MemoryStore, *kept: bool, account: str = A, now: int = NOW) -> Ledger:
    """A resumable stream that sent one stanza for each of *kept*."""
    one = Ledger(store, account)
    with store.transaction():
        one.enabled("previd", now)
        for at, keep in enumerate(kept):
            one.add(b"<%d/>" % (at + 1), now + at, kept=keep)
    return one


def waiting(one: Ledger) -> list[bytes]:
    return [sent.data for sent in one.unacknowledged()]


def rows(store: MemoryStore, live: set[str] | None = None) -> list[bytes]:
    return [one.data for one in ledger.left_over(store, A, live or set())]


def test_kept_stanzas_are_in_the_store_as_they_left(store: MemoryStore) -> None:
    one = filled(store, True, False, True)
    assert rows(store) == [b"<1/>", b"<3/>"]
    assert waiting(one) == [b"<1/>", b"<2/>", b"<3/>"]
    assert (one.waiting, one.sent, one.messages_waiting) == (3, 3, True)


def test_i13_what_is_acknowledged_is_not_sent_again(store: MemoryStore) -> None:
    one = filled(store, True, False, True)
    with store.transaction():
        one.acknowledge(2)
    assert waiting(one) == [b"<3/>"]
    # the rows of what arrived go with the next write, for a commit has its price
    with store.transaction():
        one.add(b"<4/>", NOW, kept=True)
    assert sorted(rows(store)) == [b"<3/>", b"<4/>"]
    with store.transaction():
        one.acknowledge(4)
        one.ended()
    assert (rows(store), one.waiting, one.messages_waiting) == ([], 0, False)


def test_what_went_in_clear_is_forgotten_as_soon_as_it_arrived(
    store: MemoryStore,
) -> None:
    """Its reader has no Tillie that would drop a repetition."""
    one = Ledger(store, A)
    with store.transaction():
        one.add(b"<1/>", NOW, kept=True, clear_to="carol@x.test")
    with store.transaction():
        one.acknowledge(1)
    assert rows(store) == []


def test_an_old_acknowledgement_changes_nothing(store: MemoryStore) -> None:
    one = filled(store, True, True)
    with store.transaction():
        one.acknowledge(1)
        one.acknowledge(0)
    assert waiting(one) == [b"<2/>"]


@given(before=st.integers(0, 3), sent=st.integers(0, 6), acked=st.integers(0, 6))
def test_counts_go_round(before: int, sent: int, acked: int) -> None:
    """XEP-0198, 4: modulo 2^32."""
    store = MemoryStore()
    one = Ledger(store, A)
    one._sent = one.acked = TOP - 1 - before
    with store.transaction():
        for at in range(sent):
            one.add(b"%d" % at, NOW, kept=True)
        one.acknowledge((TOP - 1 - before + min(acked, sent)) % TOP)
    assert waiting(one) == [b"%d" % at for at in range(min(acked, sent), sent)]


def test_a_row_of_a_rolled_back_transaction_is_not_left_over(
    store: MemoryStore,
) -> None:
    one = filled(store, True)
    with undone(store):
        one.add(b"<lost/>", NOW, kept=True)
    assert rows(store) == [b"<1/>"]


def test_rel_02_a_kill_leaves_the_way_back_to_the_stream(store: MemoryStore) -> None:
    one = filled(store, True, True)
    with store.transaction():
        one.acknowledge(1)
        assert one.received(7, save=True) == 7
    [cut] = ledger.cuts(store, A, set())
    assert cut == Cut(one.stream, "previd", received=7, acked=1, began=NOW)
    assert ledger.cuts(store, A, {one.stream}) == []
    assert ledger.cuts(store, B, set()) == []


def test_rel_02_what_arrived_before_the_kill_is_not_sent_again(
    store: MemoryStore,
) -> None:
    filled(store, True, True, False, True)
    [cut] = ledger.cuts(store, A, set())
    with store.transaction():
        ledger.arrived(store, A, cut, 2)
    assert rows(store) == [b"<4/>"]
    assert ledger.cuts(store, A, set()) == [cut]
    with store.transaction():
        ledger.closed(store, A, cut)
    assert ledger.cuts(store, A, set()) == []


def test_without_a_word_of_the_server_everything_is_sent_again(
    store: MemoryStore,
) -> None:
    filled(store, True, True)
    [cut] = ledger.cuts(store, A, set())
    with store.transaction():
        ledger.arrived(store, A, cut, None)
        ledger.closed(store, A, cut)
    assert rows(store) == [b"<1/>", b"<2/>"]
    assert ledger.cuts(store, A, set()) == []


def test_rel_01_a_kill_while_a_cut_stream_is_emptied(store: MemoryStore) -> None:
    """What it had handed over by then is committed and is not asked for again."""
    filled(store, True)
    [cut] = ledger.cuts(store, A, set())
    with store.transaction():
        ledger.emptied(store, A, cut, 12)
    assert ledger.cuts(store, A, set()) == [replace(cut, received=12, judged=True)]


def test_the_newest_cut_stream_is_resumed_first(store: MemoryStore) -> None:
    streams = [filled(store, now=NOW + at).stream for at in (1, 3, 2)]
    found = [cut.stream for cut in ledger.cuts(store, A, set())]
    assert found == [streams[1], streams[2], streams[0]]


def test_i13_what_went_out_in_clear_is_known_as_such(store: MemoryStore) -> None:
    """It is sent again under the same permit only."""
    one = Ledger(store, A)
    with store.transaction():
        one.add(b"<m>\0</m>", NOW, kept=True, clear_to=B)
        one.add(b"<n/>", NOW + 1, kept=True)
    assert [sent.clear_to for sent in one.unacknowledged()] == [B, ""]
    found = [(left.clear_to, left.data) for left in ledger.left_over(store, A, set())]
    assert found == [(B, b"<m>\0</m>"), ("", b"<n/>")]


def test_what_is_sent_again_keeps_its_age(store: MemoryStore) -> None:
    one = Ledger(store, A)
    with store.transaction():
        one.add(b"<old/>", NOW + 1000, kept=True, made=NOW)
    [left] = ledger.left_over(store, A, set())
    assert left.made == NOW


def test_one_that_is_given_up_keeps_its_number(store: MemoryStore) -> None:
    one = filled(store, True, True)
    with store.transaction():
        one.settle(one.unacknowledged()[0])
    assert rows(store) == [b"<2/>"]
    with store.transaction():
        one.acknowledge(2)
        one.ended()
    assert (rows(store), one.waiting) == ([], 0)


def test_no_more_is_acknowledged_than_is_written_down(store: MemoryStore) -> None:
    """A server refuses to resume below what it was told."""
    one = filled(store, True)
    with store.transaction():
        assert one.received(3) == 0
    with store.transaction():
        one.add(b"<2/>", NOW, kept=True)
        assert one.received(4) == 4
    [cut] = ledger.cuts(store, A, set())
    assert cut.received == 4


def test_a_stream_that_ended_well_is_not_resumed_but_its_rows_stay(
    store: MemoryStore,
) -> None:
    one = filled(store, True)
    with store.transaction():
        one.ended()
    assert ledger.cuts(store, A, set()) == []
    assert rows(store) == [b"<1/>"]


def test_what_is_left_over_is_in_the_order_it_was_sent(store: MemoryStore) -> None:
    """Also where streams were open side by side, whatever their names."""
    for start in (40, 0, 20):
        one = Ledger(store, A)
        with store.transaction():
            for at in range(12):
                number = start + at
                one.add(b"%d" % number, NOW + number, kept=True)
    assert rows(store) == [
        b"%d" % n for n in [*range(12), *range(20, 32), *range(40, 52)]
    ]


def test_live_streams_and_other_accounts_are_left_alone(store: MemoryStore) -> None:
    mine = filled(store, True)
    filled(store, True, account=B)
    assert rows(store, {mine.stream}) == []
    assert rows(store) == [b"<1/>"]


def test_a_stream_that_cannot_be_resumed_leaves_no_way_back(store: MemoryStore) -> None:
    one = Ledger(store, A)
    with store.transaction():
        one.enabled(None, NOW)
        one.add(b"<1/>", NOW, kept=True)
        one.received(3)
    assert ledger.cuts(store, A, set()) == []
    assert rows(store) == [b"<1/>"]


def test_without_management_only_messages_are_waited_for(store: MemoryStore) -> None:
    """Nobody would ever acknowledge the others."""
    one = Ledger(store, A)
    with store.transaction():
        one.add(b"<presence/>", NOW, kept=False)
        one.add(b"<message/>", NOW, kept=True)
        one.unmanaged()
        one.add(b"<iq/>", NOW, kept=False)
    assert waiting(one) == [b"<message/>"]
    with store.transaction():
        one.acknowledge(one.sent)
        one.ended()
    assert (one.waiting, rows(store)) == (0, [])


def test_streams_have_names_of_their_own(store: MemoryStore) -> None:
    assert len({Ledger(store, A).stream for _ in range(50)}) == 50
