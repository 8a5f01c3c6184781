"""The thread that asks the registry: batches, shedding, failing closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor

from proxy.errors import StoreFault
from proxy.gate.questions import LookUp, No, Unavailable, Vouched
from proxy.keys.registry import MemoryRegistry, Registry
from proxy.net.registry import RegistryWorker
from tests.support.persons import JULIET, Person

Start = Callable[[Callable[[], Registry]], RegistryWorker]


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def starting(open_registry: Callable[[], Registry]) -> RegistryWorker:
        worker = RegistryWorker(reactor, open_registry)
        worker.start()
        started.append(worker)
        return worker

    yield starting
    import pytest_twisted

    for worker in started:
        pytest_twisted.blockon(worker.stop())


@ensureDeferred
async def test_a_question_is_answered(start: Start) -> None:
    worker, juliet = start(MemoryRegistry), Person()
    assert await worker.ask(LookUp(JULIET)) == No()
    assert isinstance(await worker.ask(juliet.vouch()), Vouched)


@ensureDeferred
async def test_dir_11_without_a_database_nobody_gets_in(start: Start) -> None:
    def broken() -> Registry:
        raise StoreFault("no database")

    assert isinstance(await start(broken).ask(LookUp(JULIET)), Unavailable)
