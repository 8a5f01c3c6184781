"""Holes that a reading found in what is kept: poisoned rows, failed commits, floods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.core import grants, inbound, verdicts
from proxy.core.catchup import SETTLED
from proxy.core.directory import KEY
from proxy.core.inbox import HELD_PER_PEER
from proxy.core.session import Session
from proxy.core.vocabulary import (
    ClientClose,
    Effect,
    ServerClose,
    ToClient,
    ToServer,
)
from proxy.core.writing import Reader
from proxy.errors import LostFault, StoreFault
from proxy.keys.sqlite import open_store
from proxy.net.driver import Connection, Driver
from proxy.rules import marks
from proxy.wire.framing import AFTER_LOGIN
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    GRANTS,
    NO,
    Client,
    Couple,
    World,
    couple,
    payload_of,
    sealed,
    with_payload,
    without,
)
from tests.support.world import refusing, unknown_seal

MALLORY = f"from='mallory@m.test/r' to='{ALICE}/one'"
NAMES = [f"<n{at}/>" for at in range(AFTER_LOGIN.new_names + 100)]
HALF = "".join(NAMES[: len(NAMES) // 2])


def cut_off(c: Couple, client: Client) -> None:
    """The client goes; its Tillie still holds what comes for it."""
    client.upstream.available = True
    c.a.call(client.session, client.session.client_lost)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often a message was judged."""
    times = [0]
    judge = inbound.judge

    def counting(*args: Any, **rest: Any) -> verdicts.Verdict:
        times[0] += 1
        return judge(*args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(inbound, "judge", counting)
        yield times


# -- 4: rows that cannot be read ---------------------------------------------------


POISON = [
    pytest.param(f"<q>{''.join(NAMES)}</q>", id="RES-15-names-of-two-stanzas"),
    pytest.param("<stream:x/>", id="RES-15-prefix-of-the-stream"),
    pytest.param(
        f"<x xmlns:a='urn:a' xmlns='urn:x'>{'<a:b/>' * 70}</x>",
        id="RES-15-declarations",
    ),
]


@pytest.mark.parametrize("poison", POISON)
def test_held_message_that_reads_differently_stops_nothing(poison: str) -> None:
    """What passed the stream's reader did not pass the stricter one for held rows:
    each tick failed from then on, for all accounts, over restarts too."""
    c = couple()
    c.world.inject(c.alice, f"<message {MALLORY}><q>{HALF}</q></message>")
    c.world.inject(
        c.alice,
        f"<message {MALLORY} type='chat' id='p'>{unknown_seal(1)}{poison}</message>",
    )
    c.world.inject(
        c.alice,
        f"<message from='{CAROL}/r' type='chat' id='q'>{unknown_seal(2)}</message>",
    )
    c.world.wait(40_000)
    assert c.a.faults == []
    assert [text for text in c.alice.bodies if text == marks.UNREADABLE]
    assert not c.alice.closed
    c.a.restart()
    again = c.world.login(c.a, ALICE)
    c.bob.say(ALICE, "and on it goes")
    c.world.wait(2_000)
    assert again.bodies[-1] == "and on it goes"
    assert c.a.faults == []


@pytest.mark.parametrize("damage", [b"", b"<message>", b"<a/><b/>", b"\xff\xfe"])
def test_damaged_held_row_is_given_up_with_a_notice(damage: bytes) -> None:
    """However it came about: that message ends, and the others are seen to."""
    c = couple()
    with c.a.writing():
        for at, data in enumerate((damage, b"<message from='%b'/>" % CAROL.encode())):
            c.account.inbox.hold("00" * 8, f"x{at}@x.test", data, c.world.now)
    c.account.inbox.forget_caches()
    c.world.wait(35_000)
    assert c.a.faults == []
    assert c.account.inbox.load_held() == []
    notices = cast("list[dict[str, str]]", c.a.command("notices"))
    assert [one["jid"] for one in notices if "cannot be read" in one["text"]] == [
        "x0@x.test"
    ]


@pytest.mark.parametrize("poison", POISON)
def test_kept_message_that_reads_differently_stops_no_login(poison: str) -> None:
    """The same for what came while the client was leaving: its next login failed."""
    c = couple()
    cut_off(c, c.alice)
    c.world.inject(
        c.alice,
        f"<message {MALLORY} type='chat'><body>kept for later</body>{poison}</message>",
    )
    rows = c.account.inbox.waiting()
    c.world.now += 30_000
    again = c.world.login(c.a, ALICE)
    assert c.a.faults == []
    assert [text for text in again.bodies if text == "kept for later"] == (
        ["kept for later"] * len(rows)
    )
    c.bob.say(ALICE, "and on it goes")
    assert again.bodies[-1] == "and on it goes"


# -- 5: a commit that fails ---------------------------------------------------------


class Edge:
    """A connection of the driver that only writes down what it was to do."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.effects: list[Effect] = []

    def perform(self, effects: list[Effect]) -> None:
        self.effects += effects

    def told(self, kind: type[ToClient] | type[ToServer]) -> bytes:
        return b"".join(one.data for one in self.effects if isinstance(one, kind))


def driven(c: Couple, *clients: Client) -> tuple[Driver, list[Edge]]:
    """The program's own driver over the sessions of *clients*."""
    reactor = SimpleNamespace(callLater=lambda *_: None)
    driver = Driver(reactor, c.a.house, cast("Any", None), cast("Any", None))
    edges = [Edge(one.session) for one in clients]
    for edge in edges:
        driver.connections[edge.session] = cast("Connection", edge)
    return driver, edges


def test_rel_14_failed_commit_ends_each_session_that_had_a_part_in_it() -> None:
    """A key learned on one stream let another's message go; the commit failed, the
    first stream ended, and the other went on as if it had sent its message."""
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    driver, [one, two] = driven(c, c.alice, second)
    rows = c.a.store.scan("ledger", ALICE)

    def work() -> None:
        c.alice.session.client_data(
            f"<message to='{BOB}' type='chat' id='m'><body>lost?</body></message>".encode()
        )
        second.session.to_client(b"<presence/>")

    c.a.refuse_commits = True
    assert not driver.run(second.session, work, "received")
    c.a.refuse_commits = False
    for edge in (one, two):
        assert edge.session.over
        assert b"the disk is full" in edge.told(ToClient)
        assert edge.told(ToServer) == b""
    assert c.a.store.scan("ledger", ALICE) == rows
    again = c.world.login(c.a, ALICE, "again")
    again.say(BOB, "not lost")
    assert c.bob.bodies[-1] == "not lost"


def test_rel_15_a_lost_store_ends_every_session_and_is_told_on() -> None:
    """A failed commit ends those that had a part in it; this one ends all."""
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    driver, edges = driven(c, c.alice, second)
    told: list[LostFault] = []
    driver.on_lost = told.append
    lost = LostFault("the disk failed")

    def work() -> None:
        raise lost

    assert not driver.run(c.alice.session, work, "received")
    assert told == [lost]
    for edge in edges:
        assert edge.session.over
        assert b"the disk failed" in edge.told(ToClient)
        assert edge.told(ToServer) == b""


def test_rel_14_failed_tick_ends_one_session_and_not_the_others() -> None:
    """All sessions ticked in one transaction: one full disk, and all effects of all
    of them were gone while they lived on."""
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    driver, [one, two] = driven(c, c.alice, second)
    failed = []

    def fail_once() -> None:
        if not failed:
            failed.append(True)
            raise StoreFault("the disk is full")

    with c.a.writing():
        # each tick has something to write
        c.a.store.put("own", ALICE, "pruned", bytes(8))
    c.a.store._before = fail_once
    driver._tick()
    assert failed
    assert one.session.over
    assert b"the disk is full" in one.told(ToClient)
    assert not two.session.over
    assert b"the disk" not in two.told(ToClient)


def test_rel_14_session_that_ended_in_a_failed_commit_closes_its_connection() -> None:
    """It was over already, so nobody told the client, whose connection stayed open."""
    c = couple()
    driver, [one] = driven(c, c.alice)

    def work() -> None:
        with_something_to_write()
        c.alice.session.end(StoreFault("the server went away"))

    def with_something_to_write() -> None:
        c.a.store.put("own", ALICE, "pruned", bytes(8))

    c.a.refuse_commits = True
    assert not driver.run(one.session, work)
    assert one.session.over
    assert [effect for effect in one.effects if isinstance(effect, ClientClose)]
    assert [effect for effect in one.effects if isinstance(effect, ServerClose)]


# -- 6: what a session leaves behind when it fails -----------------------------------


@pytest.mark.parametrize("end", ["failed", "client-left", "server-left"])
def test_look_up_and_publishing_do_not_wait_for_a_session_that_is_over(
    end: str,
) -> None:
    """Both stayed under way for ever, and the account's keys were never published."""
    world = World()
    a = world.tillie()
    for jid in (ALICE, BOB):
        world.pep_answers[jid, KEY] = "silent"
    alice = world.login(a, ALICE)
    bob = world.login(world.tillie(), BOB)
    alice.say(BOB, "asked by the first", ident="m1")
    if end == "failed":
        a.call(alice.session, lambda: (_ for _ in ()).throw(StoreFault("gone")))
    elif end == "client-left":
        alice.close()
    else:
        fault = StoreFault("the line is dead")
        a.call(alice.session, lambda: alice.session.server_lost(fault))
    world.pep_answers.clear()
    bob.close()
    world.settle()
    world.wait(21_000)
    bob = world.login(world.tillie(), BOB)
    again = world.login(a, ALICE, "again")
    again.say(BOB, "asked by the second")
    world.wait(3_000)
    assert a.account(ALICE).publication.published
    assert not a.account(ALICE).looking_up(BOB)
    assert bob.bodies[-1] == "asked by the second"


def test_a_look_up_of_one_session_is_taken_over_by_the_other_that_waits() -> None:
    """Two streams waited for one answer, and the one that had asked failed."""
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    carol = c.world.login(c.world.tillie(), CAROL)
    c.world.pep_answers[CAROL, KEY] = "silent"
    c.alice.say(CAROL, "by the first")
    second.say(CAROL, "by the second", ident="m2")
    c.a.call(c.alice.session, lambda: (_ for _ in ()).throw(StoreFault("gone")))
    del c.world.pep_answers[CAROL, KEY]
    c.world.wait(2_000)
    assert carol.bodies == ["by the second"]
    assert second.errors == []


# -- 11: a store fault while opening ---------------------------------------------------


@pytest.mark.parametrize("shelf", ["lane", "top", "seen", "contact"])
def test_rel_14_store_fault_while_opening_acknowledges_nothing(shelf: str) -> None:
    """The disk's fault was taken for the sender's: the message was dropped as one that
    does not hold, acknowledged, and the server forgot it."""
    c = couple()
    message = c.capture("must not be lost")
    for cache in (c.account.ratchets, c.account.contacts, c.account.inbox):
        cache.forget_caches()
    upstream = c.alice.upstream
    before = bytes(upstream.raw)
    with refusing(c, shelf):
        c.world.inject(c.alice, message)
    assert [type(one) for one in c.a.faults] == [StoreFault]
    assert bytes(upstream.raw) == before
    assert upstream.over
    assert "must not be lost" not in c.alice.raw.decode()
    assert marks.UNREADABLE_OLD not in c.alice.raw.decode()
    again = c.world.login(c.a, ALICE)
    c.world.inject(again, message)
    assert again.bodies[-1] == "must not be lost"


# -- 12, 24: floods ----------------------------------------------------------------------


def hold(c: Couple, number: int, sender: str = f"{BOB}/one") -> None:
    for at in range(number):
        c.world.inject(
            c.alice,
            f"<message from='{sender}' type='chat' id='h{at}'>{unknown_seal(at + 1)}</message>",
        )


@pytest.mark.parametrize("content", ["empty", "broken", "repeated"])
def test_grants_that_bring_nothing_try_nothing_again(
    content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``<grants/>`` of a hundred bytes let each held message be read and judged
    again: two seconds of work, as often as somebody liked."""
    c = couple(talked=False)
    c.bob.say(ALICE, "with grants")
    [real] = sealed(c.bob.upstream.stanzas)
    beside = real.find(f".//{GRANTS}")
    assert beside is not None
    hold(c, 50)
    assert len(c.account.inbox.load_held()) == 50
    if content == "empty":
        text = f"<grants xmlns='{GRANTS[1:].partition('}')[0]}'/>"
    else:
        text = render(beside)
        if content == "broken":
            text = re.sub(r">[A-Za-z0-9+/]{40}", ">" + "A" * 40, text)
    c.world.wait(35_000)
    with counted(monkeypatch) as times:
        for _ in range(20):
            c.world.inject(c.alice, f"<message from='{BOB}/one'>{text}</message>")
    # a new key is worth one look at each; what is known already is worth none
    assert times[0] <= (50 if content == "repeated" else 0)


def test_a_tick_tries_a_bounded_number_of_senders_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many made-up senders with one message each: each tick judged all of them."""
    c = couple()
    for at in range(400):
        c.world.inject(
            c.alice,
            f"<message from='x{at}@evil.test' type='chat'>{unknown_seal(at + 1)}</message>",
        )
    with counted(monkeypatch) as times:
        c.world.wait(25_000)
    assert times[0] <= 11 * 50


def test_i12_beyond_200_held_the_placeholder_comes_at_once() -> None:
    """What came behind the 200th was neither kept nor shown, not even as unreadable."""
    c = couple()
    c.world.leaving = without(NO)
    hold(c, HELD_PER_PEER)
    assert marks.UNREADABLE not in c.alice.bodies
    hold(c, 3)
    assert c.alice.bodies.count(marks.UNREADABLE) == 3
    assert len(c.account.inbox.load_held()) == HELD_PER_PEER
    assert any("too many messages" in text for text in c.alice.notices)
    with c.caught() as kept:
        carol = c.world.login(c.world.tillie(), CAROL)
        carol.say(ALICE, "not affected")
    for one in kept:
        c.world.inject(c.alice, one)
    c.world.wait(2_000)
    assert "not affected" in c.alice.bodies


def test_a_message_brings_at_most_a_few_lanes() -> None:
    """60 grants in one message were 60 lanes to keep and half a second of work."""
    c = couple()
    bob, reader = c.b.account(BOB), c.account.identity
    to = Reader(ALICE, reader.device.public, reader.public_prekey())
    boxes = []
    with c.b.writing():
        for _ in range(20):
            bob.ratchets.rotate(ALICE)
            lane = bob.ratchets.ready(ALICE, [(ALICE, bytes(32))], [to], c.world.now)
            boxes.append(grants.grant_for(to, bob.ratchets.grant(lane, to)))
    before = len(c.a.store.scan("lane", ALICE))
    text = render(grants.wrapped(bob, boxes))
    c.world.inject(c.alice, f"<message from='{BOB}/one'>{text}</message>")
    assert 0 < len(c.a.store.scan("lane", ALICE)) - before <= grants.MOST_TO_ONE


# -- 13: grants that come behind ---------------------------------------------------------


def test_grants_behind_a_held_message_are_taken() -> None:
    """The first came without its grants and was held; the second brought them, was
    queued behind the first, and nobody looked into it."""
    c = couple(talked=False)
    with c.caught() as kept:
        for text in ("one", "two", "three"):
            c.bob.say(ALICE, text)
        first, *others = kept
        # nobody answers a request for the key
        c.world.inject(c.alice, with_payload(first, payload_of(first)))
        c.world.wait(3_000)
        assert c.alice.bodies == []
        for one in others:
            c.world.inject(c.alice, one)
        c.world.wait(1_000)
    assert c.alice.bodies == ["one", "two", "three"]


# -- 21, 22: what time takes away ----------------------------------------------------------


SHELVES = ("lane", "top", "seen", "past", "joined")


def test_old_state_is_pruned_once_a_day() -> None:
    """Nothing was ever deleted: what can no longer be read lay there for ever."""
    c = couple()
    for _ in range(3):
        with c.a.writing():
            c.account.ratchets.rotate_all()
        c.alice.say(BOB, "on a lane of its own")
    c.bob.say(ALICE, "read")
    with c.a.writing():
        c.account.ratchets.note_joined(b"n" * 32)
    old = {shelf: set(c.a.store.scan(shelf, ALICE)) for shelf in SHELVES}
    assert all(old.values()), {shelf: len(rows) for shelf, rows in old.items()}

    def left(shelf: str) -> set[tuple[str, bytes]]:
        return old[shelf] & set(c.a.store.scan(shelf, ALICE))

    c.world.now += 7 * DAY
    c.world.login(c.a, ALICE, "a week later")
    c.world.wait(2_000)
    assert left("lane") == old["lane"]
    assert left("seen") == old["seen"]
    c.world.now += 2 * DAY
    c.world.wait(2_000)
    c.world.login(c.a, ALICE, "nine days later")
    c.world.wait(2_000)
    assert left("past") == set()
    assert left("lane") == old["lane"]
    c.world.now += 90 * DAY
    c.world.login(c.a, ALICE, "a quarter later")
    c.world.wait(2_000)
    for shelf in set(SHELVES) - {"seen"}:
        assert left(shelf) == set(), shelf
    # a prekey of that time is still here, and what was sealed to it may come again
    assert left("seen") == old["seen"]
    c.world.now += 31 * DAY
    c.world.login(c.a, ALICE, "a month behind that")
    c.world.wait(SETTLED + 2_000)
    c.world.now += DAY
    c.world.login(c.a, ALICE, "a day behind that")
    c.world.wait(2_000)
    assert left("seen") == set()
    assert c.a.faults == []


def statements(path: Path, work: Callable[[Any], object]) -> list[str]:
    """The plans of what a store asks of SQLite in *work*."""
    store = open_store(path)
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    work(store)
    store._db.set_trace_callback(None)
    plans = [
        str(row[3])
        for text in asked
        if text.startswith("SELECT")
        for row in store._db.execute(f"EXPLAIN QUERY PLAN {text}")
    ]
    store.close()
    return plans


@pytest.mark.parametrize("prefix", ["", "00" * 16])
def test_scan_reads_no_more_rows_than_it_gives(tmp_path: Path, prefix: str) -> None:
    """By prefix it went through the whole shelf, 38 ms at 100,000 lanes, for each
    sealed message of a stranger."""
    [plan] = statements(tmp_path, lambda store: store.scan("lane", ALICE, prefix))
    assert plan.startswith("SEARCH item USING INDEX sqlite_autoindex_item_1 ")
    assert "key>" in plan
    assert "key<" in plan


def test_scan_by_prefix_costs_the_same_beside_many_rows(tmp_path: Path) -> None:
    """The same, counted in steps of SQLite's machine."""
    store = open_store(tmp_path)
    steps = []
    for rows in (100, 5_000):
        with store.transaction():
            for at in range(rows):
                store.put("lane", ALICE, f"{at:032x}/device", b"x")
        counted = [0]

        def step(counted: list[int] = counted) -> int:
            counted[0] += 1
            return 0

        store._db.set_progress_handler(step, 1)
        assert len(store.scan("lane", ALICE, f"{3:032x}")) == 1
        store._db.set_progress_handler(None, 1)
        steps.append(counted[0])
    store.close()
    assert steps[1] <= steps[0] + 5
