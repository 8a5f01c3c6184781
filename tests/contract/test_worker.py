"""Logins while PostgreSQL is stopped, killed, slow (REL-29, REL-30, DIR-13)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from proxy.gate.questions import Answer, LookUp, Record, Streamed, Unavailable, Vouched
from proxy.keys import databases
from proxy.net.registry import RegistryWorker
from tests.support.persons import JULIET, ROMEO, Person
from tests.support.postgres import Postgres

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server that these tests may stop."""
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture
def url(own: Postgres) -> str:
    made = own.database()
    databases.migrate(made)
    return made


@pytest.fixture
def worker(url: str) -> Iterator[RegistryWorker]:
    one = RegistryWorker(reactor, lambda: databases.open_registry(url))
    one.start()
    yield one
    pytest_twisted.blockon(one.stop())


async def timed(worker: RegistryWorker, account: str = JULIET) -> tuple[Answer, float]:
    began = time.monotonic()
    said = await worker.ask(LookUp(account))
    return said, time.monotonic() - began


@pytest.mark.parametrize("end", [Postgres.kill, lambda one: one.stop(signal.SIGQUIT)])
@ensureDeferred
async def test_rel_29_no_login_while_it_is_down_and_nothing_forgotten(
    own: Postgres, worker: RegistryWorker, end: Callable[[Postgres], None]
) -> None:
    juliet = Person()
    assert isinstance(await worker.ask(juliet.vouch()), Vouched)
    end(own)
    for _ in range(3):
        said, seconds = await timed(worker)
        assert isinstance(said, Unavailable)
        assert seconds < 5
    own.start()
    began = time.monotonic()
    while isinstance(said := await worker.ask(LookUp(JULIET)), Unavailable):
        assert time.monotonic() - began < 10, "it is up, and no login goes on"
        await deferLater(reactor, 0.1)
    assert isinstance(said, Record)
    assert said.digest == juliet.manifest.digest


@ensureDeferred
async def test_dir_13_a_session_that_was_ended_costs_no_login(
    url: str, worker: RegistryWorker
) -> None:
    juliet = Person()
    assert isinstance(await worker.ask(juliet.vouch()), Vouched)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert isinstance(await worker.ask(LookUp(JULIET)), Record)


@ensureDeferred
async def test_rel_30_slow_answers_are_given_up_and_the_rest_is_shed(
    url: str, worker: RegistryWorker
) -> None:
    await worker.ask(LookUp(JULIET))
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$"
        )
        admin.execute(
            "CREATE TRIGGER slow BEFORE INSERT ON stream "
            "FOR EACH ROW EXECUTE FUNCTION slow()"
        )
    began = time.monotonic()
    asked = [worker.ask(Streamed(ROMEO, f"id-{number}", ROMEO)) for number in range(50)]
    said = await gatherResults(asked)
    assert time.monotonic() - began < 5
    assert sum(isinstance(one, Unavailable) for one in said) >= 49
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP TRIGGER slow ON stream")
    said_again, seconds = await timed(worker)
    assert not isinstance(said_again, Unavailable)
    assert seconds < 5


@ensureDeferred
async def test_dir_11_another_that_holds_the_lock_is_not_waited_for(
    url: str, worker: RegistryWorker
) -> None:
    """A session with the account locked, which never ends: everyone else goes on."""
    juliet, romeo = Person(), Person(ROMEO)
    other = databases.open_registry(url)
    with other.transaction():
        other.lock(JULIET)
        said, waited = await worker.ask(juliet.vouch()), time.monotonic()
        assert isinstance(said, Unavailable)
        assert isinstance(await worker.ask(romeo.vouch()), Vouched)
        assert time.monotonic() - waited < 5
    other.close()
    assert isinstance(await worker.ask(juliet.vouch()), Vouched)
