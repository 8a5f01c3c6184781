"""The thread that asks the registry: batches, shedding, failing closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from proxy.errors import StoreFault
from proxy.gate.questions import (
    Answer,
    LookUp,
    No,
    Record,
    Removed,
    Streamed,
    Unavailable,
    Vouched,
    Wanted,
    Yes,
)
from proxy.keys.registry import Interrupted, MemoryRegistry, Registry
from proxy.net import registry as asking
from proxy.net.registry import RegistryWorker
from tests.support.persons import JULIET, ROMEO, Person

Start = Callable[[Callable[[], Registry]], RegistryWorker]


class Held(MemoryRegistry):
    """Counts its transactions; each waits until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.entered = threading.Event()
        self.count = 0
        self.faults: list[Exception] = []

    @contextmanager
    def transaction(self, *, writing: bool = True) -> Iterator[None]:
        self.count += 1
        self.entered.set()
        assert self.go.wait(60)
        with super().transaction(writing=writing):
            yield
            if self.faults:
                raise self.faults.pop(0)


@pytest.fixture
def held() -> Iterator[Held]:
    one = Held()
    yield one
    one.go.set()


@pytest.fixture
def start(held: Held) -> Iterator[Start]:
    started = []

    def starting(open_registry: Callable[[], Registry]) -> RegistryWorker:
        worker = RegistryWorker(reactor, open_registry)
        worker.start()
        started.append(worker)
        return worker

    yield starting
    held.go.set()
    for worker in started:
        pytest_twisted.blockon(worker.stop())


def until(happened: threading.Event) -> None:
    assert happened.wait(60)


@ensureDeferred
async def test_a_question_is_answered(start: Start) -> None:
    worker, juliet = start(MemoryRegistry), Person()
    assert await worker.ask(LookUp(JULIET)) == No()
    assert isinstance(await worker.ask(juliet.vouch()), Vouched)
    assert worker.waiting == 0


@ensureDeferred
async def test_what_is_queued_shares_a_commit(start: Start, held: Held) -> None:
    worker = start(lambda: held)
    first = worker.ask(LookUp(JULIET))
    until(held.entered)
    others = [
        worker.ask(Streamed(JULIET, f"id-{number}", JULIET)) for number in range(100)
    ]
    held.go.set()
    assert await first == No()
    assert await gatherResults(others) == [Yes()] * 100
    assert held.count == 2


@ensureDeferred
async def test_records_are_fetched_for_whom_they_are_read(start: Start) -> None:
    """Half of what a login asks needs none, and records are the dear part of it."""
    registry = Expecting()
    worker = start(lambda: registry)
    assert await worker.ask(Streamed(JULIET, "id", JULIET)) == Yes()
    assert await worker.ask(LookUp(ROMEO)) == No()
    assert registry.expected == [set(), {ROMEO}]


class Expecting(MemoryRegistry):
    def __init__(self) -> None:
        super().__init__()
        self.expected: list[set[str]] = []

    def expect(self, accounts: Iterable[str]) -> None:
        self.expected.append(set(accounts))


@ensureDeferred
async def test_one_account_is_answered_in_order(start: Start, held: Held) -> None:
    """Sorted by account for the locks, but never within one."""
    worker, juliet, romeo = start(lambda: held), Person(), Person(ROMEO)
    first = worker.ask(LookUp(JULIET))
    until(held.entered)
    answers: list[Deferred[Answer]] = [
        worker.ask(one)
        for one in (
            romeo.vouch(),
            juliet.vouch(),
            LookUp(JULIET),
            Removed(JULIET),
            LookUp(JULIET),
            LookUp(ROMEO),
        )
    ]
    held.go.set()
    await first
    kinds = [type(one) for one in await gatherResults(answers)]
    assert kinds == [Vouched, Vouched, Record, Yes, No, Record]


@ensureDeferred
async def test_dir_11_without_a_database_nobody_gets_in(start: Start) -> None:
    def broken() -> Registry:
        raise StoreFault("no database")

    assert isinstance(await start(broken).ask(LookUp(JULIET)), Unavailable)


@ensureDeferred
async def test_dir_11_a_database_that_comes_back_is_used(start: Start) -> None:
    outcomes: list[Registry | None] = [None, None, MemoryRegistry()]

    def opening() -> Registry:
        if (found := outcomes.pop(0)) is None:
            raise StoreFault("no database")
        return found

    worker = start(opening)
    said = [await worker.ask(LookUp(JULIET)) for _ in range(4)]
    assert [type(one) for one in said] == [Unavailable, Unavailable, No, No]


@ensureDeferred
async def test_dir_13_a_transaction_that_is_cut_off_runs_once_more(
    start: Start, held: Held
) -> None:
    held.go.set()
    worker, juliet = start(lambda: held), Person()
    held.faults = [Interrupted("the connection went")]
    said = await worker.ask(juliet.vouch())
    assert isinstance(said, Vouched)
    assert held.count == 2
    held.faults = [Interrupted("it went"), Interrupted("and again")]
    assert isinstance(await worker.ask(LookUp(JULIET)), Unavailable)
    assert held.count == 4
    assert isinstance(await worker.ask(LookUp(JULIET)), Record)


@ensureDeferred
async def test_one_questions_fault_is_not_everybodys(
    start: Start, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    worker, juliet = start(lambda: held), Person()
    first = worker.ask(LookUp(JULIET))
    until(held.entered)
    answers: list[Deferred[Answer]] = [
        worker.ask(one)
        for one in (
            juliet.vouch(),
            LookUp("JULIET@capulet.example"),
            LookUp("capulet.example"),
            LookUp(f"{JULIET}/desk"),
            LookUp(JULIET),
        )
    ]
    held.go.set()
    await first
    kinds = [type(one) for one in await gatherResults(answers)]
    assert kinds == [Vouched, Unavailable, Unavailable, Unavailable, Record]


@ensureDeferred
async def test_rel_30_more_than_can_wait_is_turned_away_at_once(
    start: Start, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MOST_WAITING", 10)
    worker = start(lambda: held)
    first = worker.ask(LookUp(JULIET))
    until(held.entered)
    waiting = [worker.ask(LookUp(JULIET)) for _ in range(10)]
    assert isinstance(worker.ask(LookUp(JULIET)).result, Unavailable)
    assert not any(one.called for one in waiting)
    assert worker.waiting == 11
    held.go.set()
    await first
    assert await gatherResults(waiting) == [No()] * 10


@ensureDeferred
async def test_dir_11_who_waits_too_long_is_told_and_nothing_done_any_more(
    start: Start, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SECONDS", 0.3)
    worker, juliet = start(lambda: held), Person()
    stuck = worker.ask(juliet.vouch())
    until(held.entered)
    late = worker.ask(Streamed(JULIET, "id", JULIET))
    assert isinstance(await stuck, Unavailable)
    assert isinstance(await late, Unavailable)
    monkeypatch.setattr(asking, "SECONDS", 60)
    held.go.set()
    assert await worker.ask(juliet.vouch(sent=False)) == Wanted()
    assert held.count == 2, "nobody was waiting for the second any more"


@ensureDeferred
async def test_stopping_answers_what_is_queued_and_nothing_behind(held: Held) -> None:
    worker = RegistryWorker(reactor, lambda: held)
    worker.start()
    first = worker.ask(LookUp(JULIET))
    until(held.entered)
    queued = worker.ask(LookUp(JULIET))
    gone = worker.stop()
    assert isinstance(worker.ask(LookUp(JULIET)).result, Unavailable)
    held.go.set()
    await gone
    assert (first.result, queued.result) == (No(), No())
