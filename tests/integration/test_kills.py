"""Nothing lost, nothing twice: Tillie is killed at named and at random places.

Two raw clients behave as real ones do.  A message counts as accepted when the
ping behind it was answered; what was not accepted when a connection ends is
sent again on the next one, with the same id.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from signal import SIGKILL
from xml.etree.ElementTree import Element

import pytest

from proxy.core.crash import POINTS
from proxy.suites.fields import unb64

from ..support.bed import Bed
from ..support.raw import RawClient, RefusedError, StreamEndedError, text_of
from ..support.tap import Tap, Way
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_conversations import ALICE, BOB, MESSAGE, ready

KILLS = int(os.environ.get("TILLIE_TEST_KILLS", "10"))
SEED = int(os.environ.get("TILLIE_TEST_SEED", "20260"))
COUNTS = [int(one) for one in os.environ.get("TILLIE_TEST_COUNTS", "1,5,22").split(",")]
BURST = 3
MOST_ROUNDS = 60
BROKEN = (StreamEndedError, RefusedError, ConnectionError)

_STANZA = re.compile(rb"<message\b(?:(?!<message\b).)*?</message>", re.DOTALL)
_PAYLOAD = re.compile(rb"<(?:\w+:)?payload\b[^>]*>([^<]+)<")


@dataclass
class Person:
    """Somebody with one client behind one Tillie.

    A body is the person's canary and a running number; the id is the number.
    """

    bed: Bed
    jid: str
    other: str
    tillie: Tillie
    canary: str
    client: RawClient | None = None
    connections: list[RawClient] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def online(self) -> RawClient:
        """The client, logged in again if need be, what is pending sent again."""
        until(self._login, f"{self.jid} to log in", also=self._why)
        assert self.client is not None
        return self.client

    def _login(self) -> bool:
        if self.client is not None:
            return True
        if not self.tillie.running:
            self.tillie.environment = {}
            self.tillie.start()
        try:
            client = self.bed.raw(self.jid, self.tillie.port, resource="desk")
        except RefusedError as error:
            self.refusals.append(str(error))
            return False
        except (StreamEndedError, ConnectionError):
            return False
        self.client = client
        self.connections.append(client)
        for one in self.pending:
            self._say(one)
        return True

    def _why(self) -> str:
        return "\n".join([*self.refusals[-3:], self.tillie.errors[-3000:]])

    def say(self, times: int = BURST) -> None:
        """Write new messages to the other; lost connections are not noticed."""
        self.online()
        for _ in range(times):
            self.pending.append(next(self._numbers))
            self._say(self.pending[-1])

    def ping(self) -> None:
        """One ping: if it is answered, what was written is accepted."""
        client, written = self.online(), list(self.pending)
        if self._attempt(lambda: client.ping(seconds=30)):
            self.accepted += written
            self.pending = [one for one in self.pending if one not in written]

    def settle(self) -> None:
        """Ping until everything is accepted, over as many logins as it takes."""
        while self.pending:
            self.ping()

    def _say(self, number: int) -> None:
        client = self.client
        if client is not None:
            text = f"{self.canary} {number}"
            self._attempt(lambda: client.say(self.other, text, ident=str(number)))

    def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except BROKEN:
            if self.client is not None:
                self.client.abort()
            self.client = None
            return False
        return True

    # -- what was seen ------

    def seen(self) -> list[list[int]]:
        """The numbers shown to the client, for each of its connections."""
        return [
            [number(one) for one in client.messages() if one.get("type") == "chat"]
            for client in self.connections
        ]

    def shown(self) -> set[int]:
        return {number for numbers in self.seen() for number in numbers}

    def returned(self) -> list[str]:
        """What came back with an error."""
        return [
            f"{one.get('id')}: {''.join(one.itertext())}"
            for client in self.connections
            for one in client.stanzas
            if one.tag == MESSAGE and one.get("type") == "error"
        ]


def number(message: Element) -> int:
    text = text_of(message)
    found = re.fullmatch(r"[0-9a-f]{32} (\d+)", text)
    assert found, f"a text that nobody wrote: {text!r}"
    assert message.get("id") == found[1]
    return int(found[1])


@dataclass
class Pair:
    """Alice and Bob, who know each other's keys, each behind a tap."""

    alice: Person
    bob: Person
    taps: list[Tap]

    def round(self) -> None:
        for one in (self.alice, self.bob):
            one.say()
        for one in (self.alice, self.bob):
            one.ping()

    def settle(self) -> None:
        """Until each has what the other was told is accepted."""
        for one in (self.alice, self.bob):
            one.settle()
        for sender, receiver in ((self.alice, self.bob), (self.bob, self.alice)):

            def arrived(sender: Person = sender, receiver: Person = receiver) -> bool:
                receiver.ping()
                return set(sender.accepted) <= receiver.shown()

            until(
                arrived,
                f"what {sender.jid} sent to arrive",
                seconds=20,
                also=lambda s=sender, r=receiver: missing(s, r),  # type: ignore[misc]
            )

    def broken_promises(self, *, killed: set[str]) -> list[str]:
        """Over everything that was sent, seen and tapped; empty if all is well.

        On one stream nobody is shown anything twice.  On a later stream a person
        may be, but only if the own Tillie was killed.
        """
        found = index_twice(self.taps)
        for sender, receiver in ((self.alice, self.bob), (self.bob, self.alice)):
            who = receiver.jid
            found += [f"returned to {sender.jid}: {one}" for one in sender.returned()]
            found += [f"{who}, login refused: {one}" for one in receiver.refusals]
            if set(sender.accepted) != receiver.shown():
                found.append(f"{who}, lost or unknown: {missing(sender, receiver)}")
            for shown in receiver.seen():
                if not in_order(shown):
                    found.append(f"{who}, order: {shown}")
                if twice(shown):
                    found.append(f"{who}, twice on one stream: {twice(shown)}")
            if who not in killed and len(receiver.connections) > 1:
                found.append(f"{who} lost the connection")
        return found


def missing(sender: Person, receiver: Person) -> str:
    lost = sorted(set(sender.accepted) - receiver.shown())
    return f"{receiver.jid} never saw {lost}; it saw {receiver.seen()}"


def twice(shown: list[int]) -> list[int]:
    return sorted({one for one in shown if shown.count(one) > 1})


def in_order(shown: list[int]) -> bool:
    first = list(dict.fromkeys(shown))
    return first == sorted(first)


def index_twice(taps: list[Tap]) -> list[str]:
    """Invariant B: one (lane, n), one stanza, whatever was killed and resent."""
    stanzas: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
    for tap in taps:
        for connection in range(1, tap.accepted + 1):
            for stanza in _STANZA.findall(tap.recorded(Way.OUT, connection)):
                for payload in map(_decoded, _PAYLOAD.findall(stanza)):
                    lane, n = payload[3:19], int.from_bytes(payload[19:23], "big")
                    stanzas[lane, n].add(stanza)
    assert stanzas, "the taps recorded no seal"
    return [
        f"lane {lane.hex()}, index {n}: {len(found)} different stanzas"
        for (lane, n), found in stanzas.items()
        if len(found) > 1
    ]


def _decoded(payload: bytes) -> bytes:
    return unb64(payload.decode())


def pair(bed: Bed) -> Pair:
    """Two people who have exchanged keys and one message each."""
    if not bed.server.running:
        bed.start(ALICE, BOB)
    taps = [bed.tap("a.test"), bed.tap("b.test")]
    tillies = [
        bed.tillie(name, taps=[tap]) for name, tap in zip("ab", taps, strict=True)
    ]
    alice = Person(bed, ALICE, BOB, tillies[0], bed.canaries.secret())
    bob = Person(bed, BOB, ALICE, tillies[1], bed.canaries.secret())
    both = Pair(alice, bob, taps)
    for one in (alice, bob):
        one.online()
    for one in (alice, bob):
        ready(one.tillie)
    both.round()
    both.settle()
    return both


def arm(person: Person, point: str, times: int) -> None:
    """Restart the person's Tillie so that it dies at *point* by itself."""
    person.tillie.stop()
    person.tillie.environment = {"TILLIE_CRASH": f"{point}:{times}"}
    person.tillie.start()


def died(person: Person) -> bool:
    """Whether an armed Tillie ended by itself; it may be running again."""
    return not (person.tillie.running and person.tillie.environment)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
def test_rel_01_02_03_killed_at_a_named_point(bed: Bed, point: str) -> None:
    """Early ones die in the login, late ones under traffic; Bob's is never killed."""
    both = pair(bed)
    for times in COUNTS:
        arm(both.alice, point, times)
        for _ in range(MOST_ROUNDS):
            if died(both.alice):
                break
            both.round()
        assert died(both.alice), f"{point}:{times} was never passed"
        both.settle()
    assert both.broken_promises(killed={ALICE}) == []


def _kill(pid: int) -> None:
    # one that the last round killed, and that nobody has needed since, is dead
    with suppress(ProcessLookupError):
        os.kill(pid, SIGKILL)


@pytest.mark.timeout(60 + 6 * KILLS)
def test_rel_05_killed_at_random_under_traffic(bed: Bed) -> None:
    """TILLIE_TEST_KILLS says how many, TILLIE_TEST_SEED which."""
    both = pair(bed)
    dice = random.Random(SEED)
    for _ in range(KILLS):
        both.round()
        victim = dice.choice((both.alice, both.bob)).tillie
        killer = threading.Timer(dice.uniform(0, 0.4), _kill, (victim.pid,))
        killer.start()
        while killer.is_alive():
            both.round()
        killer.join()
    both.settle()
    assert both.broken_promises(killed={ALICE, BOB}) == []


def test_rel_34_two_clients_of_one_account_come_back_at_once(bed: Bed) -> None:
    """As both do by themselves when their Tillie is killed; neither is refused."""
    both = pair(bed)
    tillie, bob = both.bob.tillie, both.bob.client
    assert bob is not None
    bed.raw(BOB, tillie.port, resource="phone").ping()
    both.alice.say()
    both.alice.settle()
    tillie.kill()
    both.alice.say()
    both.alice.settle()
    tillie.start()
    with ThreadPoolExecutor(2) as pool:
        logins = [
            pool.submit(bed.raw, BOB, tillie.port, resource=resource)
            for resource in ("desk", "phone")
        ]
    clients = [login.result() for login in logins]
    both.alice.say()
    both.alice.settle()
    for client in clients:
        client.ping()
    shown = [[number(one) for one in client.messages()] for client in clients]
    for numbers in shown:
        assert in_order(numbers)
        assert twice(numbers) == []
    before = {number(one) for one in bob.messages()}
    assert before | set(shown[0]) | set(shown[1]) >= set(both.alice.accepted)
