"""Two gate processes over one PostgreSQL, in front of one Prosody."""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.keys import databases
from proxy.keys.identity import DevicePrivate

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.postgres import Postgres
from ..support.raw import RefusedError, StreamEndedError
from ..support.waiting import until

ALICE, BOB = "alice@a.test", "bob@a.test"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


class Pair:
    """Two gates of a.test with one key and one registry."""

    def __init__(self, bed: Bed, url: str, *arguments: str) -> None:
        self.bed = bed
        self.url = url
        databases.migrate(url)
        options = ("--store", url, *arguments)
        ports = {"a.test": bed.server.starttls_port}
        self.one = bed.gate("one", backends=ports, arguments=options)
        self.two = bed.gate("two", backends=ports, arguments=options, start=False)
        # as docs/gate.md has it: the key file is copied, nothing else
        self.two.state.mkdir(mode=0o700, parents=True)
        shutil.copy(self.one.state / "server-a.test.key", self.two.state)
        self.two.start()

    def enter(
        self, gate: Gate, person: Person, resource: str = "gate", **options: object
    ) -> GateClient:
        client = self.bed.at_gate(gate, person, seconds=30, **options)
        return client.enter(self.bed.passwords[person.jid], resource=resource)

    def events(self) -> list[tuple[str, str]]:
        registry = databases.open_registry(self.url)
        try:
            with registry.transaction(writing=False):
                return [(one.account, one.what) for one in registry.events()]
        finally:
            registry.close()


@pytest.fixture
def pair(bed: Bed, cluster: Postgres) -> Pair:
    bed.start(ALICE, BOB, require_encryption=False)
    return Pair(bed, cluster.database())


def keyless(bed: Bed, gate: Gate, jid: str) -> GateClient:
    client = bed.at_gate(gate, jid, seconds=30)
    client.secure()
    client.authenticate(jid, bed.passwords[jid])
    client.open_stream()
    client.bind(gate.folder.name)
    client.ping()
    return client


# -- what one of them changes ----------------------------------------------------------------


def test_a_device_that_is_removed_at_one_gate_ends_at_the_other(pair: Pair) -> None:
    alice, laptop = Person(ALICE), DevicePrivate.generate()
    alice.add(laptop)
    desk = pair.enter(pair.one, alice, "desk")
    other = pair.enter(pair.two, alice, "other")
    lost = pair.enter(pair.two, alice, "lost", device=laptop)
    desk.vouch(alice.drop(laptop))
    assert b"<unknown-device" in lost.wait_closed()
    other.ping()
    desk.ping()
    with pytest.raises(RefusedError):
        pair.enter(pair.two, alice, "lost", device=laptop)


def test_a_root_that_is_replaced_at_one_gate_ends_at_the_other(pair: Pair) -> None:
    old, new = Person(ALICE), Person(ALICE)
    there = pair.enter(pair.two, old, "old")
    with pytest.raises((RefusedError, StreamEndedError)):
        pair.enter(pair.one, new, "new")
    done = pair.one.command("gate", "reset", ALICE, "--now", "--store", pair.url)
    assert done.returncode == 0, done.stderr
    there.ping()
    fresh = pair.enter(pair.one, new, "new")
    assert b"<unknown-device" in there.wait_closed()
    fresh.ping()
    with pytest.raises((RefusedError, StreamEndedError)):
        pair.enter(pair.two, old, "old")


def test_a_first_key_at_one_gate_ends_keyless_streams_at_both(
    bed: Bed, cluster: Postgres
) -> None:
    bed.start(ALICE, BOB, require_encryption=False)
    pair = Pair(bed, cluster.database(), "--policy", "optional")
    old = [keyless(bed, gate, BOB) for gate in (pair.one, pair.two)]
    stays = keyless(bed, pair.two, ALICE)
    bob = pair.enter(pair.one, Person(BOB))
    for client in old:
        said = client.wait_closed()
        assert b"<key-required" in said
        assert b"tillie link" in said
    bob.ping()
    stays.ping()


# -- one of them dies --------------------------------------------------------------------------


def test_dir_13_one_is_killed_in_the_middle_of_logins(
    bed: Bed, cluster: Postgres
) -> None:
    """Who was on the way there comes to the other one; nothing is there twice, and
    nothing that somebody was told is lost."""
    people = [Person(f"u{number}@a.test") for number in range(24)]
    bed.start(*(one.jid for one in people), require_encryption=False)
    pair = Pair(bed, cluster.database())
    told: dict[str, str] = {}
    count, turn, dying = itertools.count(), threading.Lock(), threading.Event()

    def come(person: Person) -> GateClient:
        for gate in (pair.one, pair.two):
            try:
                client = pair.enter(gate, person)
            except (StreamEndedError, RefusedError, OSError):
                assert gate is pair.one, "the other one was there all the time"
                assert dying.is_set()
                continue
            told[person.jid] = client.token
            with turn:
                if next(count) == 5:
                    dying.set()
                    pair.one.kill()
            return client
        raise AssertionError(f"{person.jid} got in nowhere")

    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(come, people))
    assert len(clients) == len(told) == len(people)
    firsts = Counter(account for account, what in pair.events() if what == "first-key")
    assert firsts == {one.jid: 1 for one in people}
    pair.one.start()
    again = [pair.enter(pair.one, one, "again") for one in people[:6]]
    # tokens are kept: half of their life is not over
    assert [one.token for one in again] == [told[one.jid] for one in people[:6]]


# -- the database goes ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "hard"])
def test_dir_11_rel_29_the_database_is_stopped_and_comes_back(
    pair: Pair, cluster: Postgres, how: signal.Signals
) -> None:
    """Nobody new gets in, and is told so in time; who is in notices nothing."""
    alice, bob = Person(ALICE), Person(BOB)
    clients = [pair.enter(gate, alice, gate.folder.name) for gate in _both(pair)]
    cluster.stop(how)
    try:
        for gate in _both(pair):
            start = time.monotonic()
            with pytest.raises((RefusedError, StreamEndedError)) as refused:
                pair.enter(gate, bob)
            assert time.monotonic() - start < 10
            said = str(refused.value)
            assert "temporary-auth-failure" in said or "resource-constraint" in said
        text = pair.bed.canaries.clear()
        clients[0].send("<presence/>")
        clients[1].say(clients[0].jid, text)
        # what is not sealed comes back: the gate judges it without a database
        for client in clients:
            client.ping()
    finally:
        cluster.start()
    for gate in _both(pair):
        until(lambda gate=gate: _gets_in(pair, gate, bob), "logins again", seconds=10)
    for client in clients:
        client.ping()
        client.vouch(sent=False)


def test_rel_29_the_standby_takes_over(bed: Bed) -> None:
    """With both servers in the URL, whichever may write is found."""
    bed.start(ALICE, BOB, require_encryption=False)
    primary = Postgres()
    standby = None
    try:
        name = primary.database().partition("@/")[2].partition("?")[0]
        standby = Postgres(of=primary)
        pair = Pair(
            bed,
            f"postgresql://gate@/{name}?host={primary.folder},{standby.folder}"
            "&target_session_attrs=read-write",
        )
        alice = Person(ALICE)
        client = pair.enter(pair.one, alice)
        written = primary.position()
        until(lambda: standby.position() >= written, "the standby to have it all")
        primary.kill()
        standby.promote()
        until(lambda: _gets_in(pair, pair.two, Person(BOB)), "logins", seconds=20)
        # the first key was told, and is still the one
        again = pair.enter(pair.one, alice, "again")
        assert again.token == client.token
        with pytest.raises((RefusedError, StreamEndedError)):
            pair.enter(pair.two, Person(ALICE), "thief")
        client.ping()
    finally:
        primary.remove()
        if standby is not None:
            standby.remove()


def _both(pair: Pair) -> tuple[Gate, Gate]:
    return pair.one, pair.two


def _gets_in(pair: Pair, gate: Gate, person: Person) -> bool:
    try:
        pair.enter(gate, person, gate.folder.name).close()
    except (RefusedError, StreamEndedError):
        return False
    return True
