"""Many at once at the real gate before a real Prosody.

TILLIE_CROWD=1000 makes the crowds that come back as large as the goals say.
"""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from proxy.gate.limits import LOGINS_A_SECOND

from ..support.bed import Bed
from ..support.crowd import Flood, address, silent
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.raw import RefusedError, StreamEndedError
from ..support.recorder import Recorder
from ..support.waiting import until

CROWD = int(os.environ.get("TILLIE_CROWD", "150"))
SILENT, FLOODING = 2_000, 100


def accounts(count: int) -> list[Person]:
    return [Person(f"u{number}@a.test") for number in range(count)]


def behind(bed: Bed, people: Sequence[Person], **options: object) -> Gate:
    jids = (one.jid for one in people)
    bed.start(*jids, require_encryption=False, log_level="warn")
    return bed.gate(**options)


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_res_01_a_good_login_among_the_silent_and_the_flooding(bed: Bed) -> None:
    """2,000 connections that say nothing and 100 that come as fast as they can: with
    junk, handshakes, guesses without a key, or just to go again."""
    people = accounts(9)
    gate = behind(bed, people, direct=True, arguments=["--strangers-each", "100"])

    def login(person: Person) -> float:
        start = time.monotonic()
        client = bed.at_gate(gate, person, seconds=20)
        client.enter(bed.passwords[person.jid]).close()
        return time.monotonic() - start

    login(people[0])
    idle, base = files(gate.pid), memory(gate.pid)
    crowd = silent(gate.port, SILENT)
    # what the first login leaves is closed meanwhile
    let_in = idle + SILENT - 10
    until(lambda: files(gate.pid) >= let_in, "the crowd to be let in", seconds=20)
    assert (memory(gate.pid) - base) / SILENT < 65_536
    flood = Flood(gate.port, gate.direct_port, "a.test", FLOODING)
    try:
        took = sorted(login(one) for one in people)
        assert statistics.median(took) < 2, took
    finally:
        done = flood.stop()
    assert set(done) == {"junk", "guess", "handshake", "churn"}
    assert all(done.values()), done
    for one in crowd:
        one.close()
    until(lambda: files(gate.pid) <= idle, "all to be gone", seconds=40)
    assert login(people[0]) < 2


# -- everybody comes back -------------------------------------------------------------------


@dataclass
class Return:
    """What happened to a crowd that logged in at once.

    `let_in` is when the server took each password, in seconds from the beginning.
    """

    took: float = 0.0
    let_in: list[float] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    clients: list[GateClient] = field(default_factory=list)

    def busiest(self) -> int:
        """Logins in the busiest second."""
        times = sorted(self.let_in)
        return max(
            sum(at <= one < at + 1 for one in times[number:])
            for number, at in enumerate(times)
        )


def come(
    people: Sequence[Person],
    one: Callable[[int, Person, Return], GateClient],
    at_once: int,
) -> Return:
    """Have all log in, *at_once* of them at a time."""
    seen, start = Return(), time.monotonic()

    def enter(number: int) -> None:
        try:
            seen.clients.append(one(number, people[number], seen))
        except (RefusedError, StreamEndedError, TimeoutError, OSError) as error:
            seen.troubles.append(f"{people[number].jid}: {error}"[:300])

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(enter, range(len(people))))
    seen.took = time.monotonic() - start
    return seen


def test_dir_12_rel_27_a_crowd_is_back_after_a_kill(bed: Bed) -> None:
    """All of them within half a minute, none with an error, and the server is not
    run over: a second's worth at once, then as many a second."""
    people = accounts(CROWD)
    gate = behind(bed, people)
    begun = [time.monotonic()]

    def login(number: int, person: Person, seen: Return) -> GateClient:
        source = address(number)
        client = bed.at_gate(gate, person, seconds=40, source=source)
        client.secure()
        client.present()
        client.scram(person.jid.partition("@")[0], bed.passwords[person.jid])
        seen.let_in.append(time.monotonic() - begun[0])
        client.open_stream()
        client.bind()
        client.vouch(sent=not known.is_set())
        return client

    known = threading.Event()
    first = come(people, login, 16)
    assert first.troubles == []
    gate.kill()
    for client in first.clients:
        client.wait_closed()
    known.set()
    gate.start()
    begun[0] = time.monotonic()
    # all clients share one interpreter here: more at a time would wait for each other
    again = come(people, login, min(CROWD, 250))
    assert again.troubles == []
    assert len(again.clients) == CROWD
    assert again.took < 30
    # what passed in time may be told in the second behind
    assert again.busiest() <= 2 * LOGINS_A_SECOND + 10, again.let_in
    for client in itertools.islice(again.clients, 10):
        client.ping()


def test_rel_28_a_crowd_is_told_that_the_server_went_away(bed: Bed) -> None:
    recorder = Recorder()
    gate = bed.gate(backends={"a.test": recorder.port})
    people = [Person("alice@a.test")] * 100

    def login(number: int, person: Person, _: Return) -> GateClient:
        client = bed.at_gate(gate, person, seconds=30, source=address(number))
        client.secure()
        client.present()
        client.authenticate(person.jid, "any")
        client.open_stream()
        client.bind()
        client.vouch()
        return client

    first = come(people, login, 16)
    assert first.troubles == []
    recorder.stop()
    start = time.monotonic()
    for client in first.clients:
        assert b"<system-shutdown" in client.wait_closed()
    assert time.monotonic() - start < 5
    other = Recorder()
    gate.kill()
    gate.backends = {"a.test": other.port}
    gate.start()
    again = come(people, login, 16)
    assert again.troubles == []
    other.stop()
