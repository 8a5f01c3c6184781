"""The gate's sockets, with a clock and transports in memory."""

from __future__ import annotations

import gc
import ipaddress
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from proxy.gate.policy import Policies
from proxy.gate.questions import Answer, Changed, Changes, Question, Yes
from proxy.net.gate import (
    CHANGES_BACK_MS,
    CHANGES_EVERY,
    REST_EVERY,
    TICK,
    Gate,
    Settings,
)
from proxy.net.gateclient import (
    CLOSE_SECONDS,
    READ_BYTES,
    SLOW_SECONDS,
    STRANGERS_BYTES,
    Client,
)
from proxy.wire.framing import Framer
from tests.support.persons import JULIET
from tests.unit.gate.staging import DOMAIN, Stage

EACH = 50


class Worker:
    """Answers at once, with what is in `changed` to looks at changes."""

    def __init__(self) -> None:
        self.changed: Answer = Changed(())
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Deferred[Answer]:
        self.asked.append(question)
        return succeed(self.changed if isinstance(question, Changes) else Yes())


class Transport(StringTransport):
    """Also what a TCP transport has."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    aborted = False
    bufferSize = 0


class Port:
    def __init__(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class Bench:
    """A gate on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.worker = Worker()
        self.counted: list[str] = []
        self.stages: list[Stage] = []
        settings = Settings(
            (DOMAIN,), {DOMAIN: ("127.0.0.1", 1)}, Policies(), strangers_each=EACH
        )
        nothing: Any = None
        worker: Any = self.worker
        self.gate = Gate(
            self.clock, settings, nothing, worker, nothing, self.counted.append
        )
        self.gate.start()
        self.gate.monotonic = self.clock.seconds

    def connect(self, host: str = "192.0.2.7") -> tuple[Client, Transport]:
        address = IPv4Address("TCP", host, 1234)
        client = self.gate.factory(direct=False).buildProtocol(address)
        transport = Transport(peerAddress=address)
        client.makeConnection(transport)
        return client, transport

    def opened(self, stage: Stage | None = None) -> tuple[Client, Transport, Stage]:
        """A connection whose stream is open already."""
        client, transport = self.connect()
        stage = stage or Stage().open()
        client.stream = stage.stream
        client.run(lambda: None)
        self.stages.append(stage)
        return client, transport, stage

    def pass_(self, seconds: float) -> None:
        while seconds > 0:
            step = min(TICK, seconds)
            for one in self.stages:
                one.clock.now += round(step * 1000)
            self.clock.advance(step)
            seconds -= step


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_quiet_streams_rest_on_both_sides(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[Framer] = []
    _, _, stage = bench.opened()
    bench.connect()
    monkeypatch.setattr(
        Framer, "rest", lambda framer, *, at_once: at_once or rested.append(framer)
    )
    bench.pass_(TICK * (REST_EVERY - 2))
    assert not rested
    bench.pass_(TICK)
    # the one at the door has no server yet
    assert len(rested) == 3
    assert {stage.stream._client, stage.stream._server} < set(rested)


def test_what_another_gate_changed_ends_streams_here(bench: Bench) -> None:
    _, kept, stage = bench.opened()
    person = stage.person
    bench.worker.changed = Changed(((JULIET, (stage.device.public,)),))
    bench.pass_(TICK * CHANGES_EVERY)
    assert not kept.disconnecting
    assert person is not None
    bench.worker.changed = Changed(((JULIET, (bytes(32),)), ("x@y", None)))
    bench.pass_(TICK * CHANGES_EVERY)
    assert b"<unknown-device" in kept.value()
    assert kept.disconnecting


def test_a_first_key_ends_streams_that_have_none(bench: Bench) -> None:
    old = Stage(person=None, policies=Policies(default="optional")).bound(shown=False)
    _, transport, _ = bench.opened(old)
    bench.worker.changed = Changed(((JULIET, None),))
    bench.pass_(TICK * CHANGES_EVERY)
    assert not transport.disconnecting
    bench.worker.changed = Changed(((JULIET, (bytes(32),)),))
    bench.pass_(TICK * CHANGES_EVERY)
    assert b"<key-required" in transport.value()
    assert transport.disconnecting


def test_looks_at_changes_overlap(bench: Bench) -> None:
    bench.pass_(TICK * CHANGES_EVERY * 3)
    looks = [one.since for one in bench.worker.asked if isinstance(one, Changes)]
    assert len(looks) >= 3
    assert looks == sorted(looks)
    assert looks[-1] - looks[0] < CHANGES_BACK_MS


def test_a_device_that_was_removed_here_ends_at_once(bench: Bench) -> None:
    _, transport, stage = bench.opened()
    bench.gate.revoke(JULIET, (stage.device.public,))
    assert b"<unknown-device" in transport.value()


def test_accounts_are_forgotten_with_their_streams(bench: Bench) -> None:
    client, _, _ = bench.opened()
    assert set(bench.gate.by_account) == {JULIET}
    client.connectionLost()
    assert not bench.gate.by_account
    assert not bench.gate.clients
    assert not bench.gate.hurried


def test_only_what_may_time_out_is_looked_at(bench: Bench) -> None:
    client, _, _ = bench.opened()
    stranger, _ = bench.connect()
    bench.pass_(TICK)
    assert client not in bench.gate.hurried
    assert stranger in bench.gate.hurried


def test_res_01_who_logged_in_or_went_leaves_the_crowd(bench: Bench) -> None:
    bench.opened()
    assert bench.gate.crowd.count == 0
    stranger, _ = bench.connect()
    assert bench.gate.crowd.count == 1
    stranger.connectionLost()
    assert bench.gate.crowd.count == 0


def test_res_02_connections_that_went_leave_no_object(bench: Bench) -> None:
    seen = []
    for _ in range(50):
        client = bench.connect()[0]
        client.connectionLost()
        seen.append(weakref.ref(client))
    del client
    bench.pass_(2)
    gc.collect()
    assert not [one for one in seen if one() is not None]
    assert not bench.gate.crowd._by_address


def test_res_01_the_crowd_s_end_is_the_door(bench: Bench) -> None:
    bench.gate.crowd.each = 2
    first, _ = bench.connect()
    bench.connect()
    _, turned_away = bench.connect()
    assert turned_away.aborted
    assert "crowded" in bench.counted
    first.connectionLost()
    _, let_in = bench.connect()
    assert not let_in.aborted


def test_res_03_a_client_that_reads_nothing_is_closed(bench: Bench) -> None:
    client, transport, _ = bench.opened()
    client.pauseProducing()
    bench.pass_(SLOW_SECONDS - 5)
    assert not transport.aborted
    bench.pass_(10)
    assert transport.aborted


def test_res_03_one_that_reads_again_stays(bench: Bench) -> None:
    client, transport, _ = bench.opened()
    client.pauseProducing()
    bench.pass_(SLOW_SECONDS - 5)
    client.resumeProducing()
    bench.pass_(20)
    assert not transport.aborted
    assert client not in bench.gate.hurried


def test_res_02_an_address_that_comes_too_often_gets_no_protocol(bench: Bench) -> None:
    factory = bench.gate.factory(direct=False)
    often, other = (IPv4Address("TCP", one, 1234) for one in ("192.0.2.7", "192.0.2.8"))
    for _ in range(EACH):
        assert factory.buildProtocol(often) is not None
    assert factory.buildProtocol(often) is None
    assert bench.counted == ["crowded"]
    assert factory.buildProtocol(other) is not None


def test_res_02_behind_a_balancer_the_client_s_address_counts(bench: Bench) -> None:
    networks = (ipaddress.ip_network("192.0.2.7/32"),)
    bench.gate.settings = replace(bench.gate.settings, proxy_in=networks)

    def come(client: str) -> Transport:
        one, transport = bench.connect()
        one.dataReceived(f"PROXY TCP4 {client} 192.0.2.8 1000 5222\r\n".encode())
        return transport

    assert not any(come("198.51.100.1").aborted for _ in range(EACH))
    assert come("198.51.100.1").aborted
    assert not come("198.51.100.2").aborted


def test_res_01_strangers_are_read_in_small_pieces(bench: Bench) -> None:
    _, transport = bench.connect()
    assert transport.bufferSize == STRANGERS_BYTES
    _, known, _ = bench.opened()
    assert known.bufferSize == READ_BYTES


def test_a_stanza_that_never_ends_ends_the_stream(bench: Bench) -> None:
    """14.8.1: a client that is logged in and trickles."""
    client, transport, _ = bench.opened()
    client.dataReceived(b"<message><body>")
    for _ in range(5):
        bench.pass_(10)
        client.dataReceived(b"x")
    assert not transport.disconnecting
    bench.pass_(11)
    assert b"<connection-timeout" in transport.value()
    assert transport.disconnecting


def test_a_stanza_that_nobody_reads_may_take_its_time(bench: Bench) -> None:
    client, transport, _ = bench.opened()
    client.dataReceived(b"<message><body>")
    client.backend_full(True)
    bench.pass_(120)
    client.backend_full(False)
    bench.pass_(50)
    assert not transport.disconnecting
    client.dataReceived(b"</body></message> <presence")
    bench.pass_(50)
    client.dataReceived(b"/>")
    # blanks between stanzas are none that has begun
    client.dataReceived(b" ")
    bench.pass_(120)
    assert not transport.disconnecting


def test_res_04_nothing_is_accepted_without_descriptors(bench: Bench) -> None:
    port = Port()
    bench.gate.ports.append(port)
    bench.gate.capacity = 10
    clients = [bench.connect()[0] for _ in range(10)]
    assert not port.reading
    clients[0].connectionLost()
    assert port.reading


def test_a_far_side_that_never_closes_is_cut(bench: Bench) -> None:
    client, transport, _ = bench.opened()
    client.run(client.stream.stop)
    assert transport.disconnecting
    assert not transport.aborted
    bench.pass_(CLOSE_SECONDS + 1)
    assert transport.aborted


def test_rel_36_a_bug_ends_its_own_connection_only(bench: Bench) -> None:
    client, transport, _ = bench.opened()
    _, other, _ = bench.opened()

    def fails() -> None:
        raise RuntimeError("a secret")

    call: Callable[[], None] = fails
    client.run(call)
    assert transport.aborted
    assert not other.disconnecting
    assert "trouble" in bench.counted


def test_reloading_changes_what_comes_next(bench: Bench) -> None:
    bench.opened()
    settings = Settings(
        (DOMAIN, "b.example"), {}, Policies(default="optional"), strangers=5
    )
    certificates: Any = object()
    bench.gate.reload(settings, certificates)
    assert bench.gate.world.domains == (DOMAIN, "b.example")
    assert bench.gate.world.policies.default == "optional"
    assert bench.gate.crowd.total == 5
    assert bench.gate.certificates is certificates


def test_streams_are_counted(bench: Bench) -> None:
    bench.opened()
    bench.connect()
    assert bench.gate.streams == 1
