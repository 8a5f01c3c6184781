"""The directory's connection: it comes back, says so once, and never floods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from proxy.gate.questions import Answer, No
from proxy.net import component as module
from proxy.net.component import Component
from tests.support.asking import ADDRESS, DOMAIN, KEY, STRANGER, Asking

HEADER = (
    b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' "
    b"xmlns='jabber:component:accept' from='keys.capulet.example' id='1'>"
)
LOOKUP = (
    f"<iq type='get' id='1' from='{STRANGER}' to='{ADDRESS}'>"
    f"<lookup xmlns='{KEY}' jid='nobody@{DOMAIN}'/></iq>"
).encode()


class Line(StringTransport):
    """The server's end: what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = ""
        self.paused = False

    def setTcpNoDelay(self, on: bool) -> None: ...

    def setTcpKeepAlive(self, on: bool) -> None: ...

    def loseConnection(self) -> None:
        self.closed = self.closed or "closed"

    def abortConnection(self) -> None:
        self.closed = "aborted"
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


class Stage:
    def __init__(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.asking = Asking()
        self.answers: list[Deferred[Answer]] = []
        self.component = Component(
            self.reactor,
            self.asking.directory,
            ("127.0.0.1", 5347),
            b"secret",
            ask=self.ask,
            sign=self.asking.signer.sign,
            clock=lambda: int(self.reactor.seconds() * 1000),
        )

    def ask(self, question: object) -> Deferred[Answer]:
        if self.answers:
            return self.answers[0]
        return succeed(No())

    @property
    def dials(self) -> list[Any]:
        found: list[Any] = self.reactor.tcpClients
        return found

    def accept(self) -> tuple[Any, Line]:
        factory = self.dials[-1][2]
        protocol = factory.buildProtocol(None)
        line = Line()
        line.protocol = protocol
        protocol.makeConnection(line)
        return protocol, line

    def ready(self) -> tuple[Any, Line]:
        protocol, line = self.accept()
        protocol.dataReceived(HEADER)
        protocol.dataReceived(b"<handshake/>")
        line.clear()
        return protocol, line

    def refuse(self) -> None:
        factory = self.dials[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def cut(self, protocol: Any) -> None:
        protocol.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.component.start()
    return made


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == module.__name__:
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_it_answers(stage: Stage) -> None:
    protocol, line = stage.ready()
    assert stage.component.ready
    protocol.dataReceived(LOOKUP)
    assert b"<absent xmlns='urn:x-tillie:key:0'>" in line.value()
    assert stage.dials[0][:2] == ("127.0.0.1", 5347)


def test_rel_28_it_comes_back_ever_more_slowly(stage: Stage) -> None:
    waits = []
    for n in range(12):
        stage.refuse()
        began = stage.reactor.seconds()
        while len(stage.dials) == n + 1:
            stage.reactor.advance(0.05)
        waits.append(stage.reactor.seconds() - began)
    assert waits[0] < 1.5
    assert all(wait <= 1.25 * module.LONGEST_WAIT + 0.1 for wait in waits)
    assert min(waits[8:]) > 0.7 * module.LONGEST_WAIT


def test_rel_28_after_a_good_stream_it_begins_anew(stage: Stage) -> None:
    for _ in range(8):
        stage.refuse()
        stage.reactor.advance(100)
    protocol, _ = stage.ready()
    before = len(stage.dials)
    stage.cut(protocol)
    assert not stage.component.ready
    stage.reactor.advance(1.5)
    assert len(stage.dials) == before + 1


def test_gates_do_not_come_back_in_step() -> None:
    waits = set()
    for _ in range(8):
        stage = Stage()
        stage.component.start()
        stage.refuse()
        (call,) = stage.reactor.getDelayedCalls()
        waits.add(call.getTime())
    assert len(waits) > 1


def test_what_keeps_it_away_is_said_once(stage: Stage, logged: list[str]) -> None:
    for _ in range(5):
        stage.refuse()
        stage.reactor.advance(200)
    assert len(logged) == 1
    protocol, line = stage.accept()
    protocol.dataReceived(HEADER)
    protocol.dataReceived(
        b"<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        b"</stream:error></stream:stream>"
    )
    assert line.closed
    stage.cut(protocol)
    assert len(logged) == 2
    assert "secret" in logged[1]
    stage.reactor.advance(200)
    stage.ready()
    assert len(logged) == 3


def test_a_server_that_says_nothing_is_left(stage: Stage) -> None:
    _, line = stage.accept()
    stage.reactor.advance(module.HANDSHAKE_SECONDS + 0.1)
    assert line.closed == "aborted"
    stage.reactor.advance(2)
    assert len(stage.dials) == 2


def test_res_03_a_server_that_does_not_read_is_asked_nothing_more(stage: Stage) -> None:
    _, line = stage.ready()
    line.producer.pauseProducing()
    assert line.paused
    line.producer.resumeProducing()
    assert not line.paused


def test_an_answer_that_comes_when_the_line_is_gone_is_dropped(stage: Stage) -> None:
    waiting: Deferred[Answer] = Deferred()
    stage.answers.append(waiting)
    protocol, line = stage.ready()
    protocol.dataReceived(LOOKUP)
    stage.cut(protocol)
    waiting.callback(No())
    assert line.value() == b""
    # and it does not keep others from being answered
    stage.answers.clear()
    stage.reactor.advance(2)
    protocol, line = stage.ready()
    protocol.dataReceived(LOOKUP)
    assert b"<absent" in line.value()


def test_a_signer_that_is_away_is_told(stage: Stage) -> None:
    stage.asking.signer.away = True
    protocol, line = stage.ready()
    protocol.dataReceived(LOOKUP)
    assert b"<internal-server-error" in line.value()


@pytest.mark.parametrize("when", ["dialling", "waiting", "ready"])
def test_it_stops(stage: Stage, when: str) -> None:
    protocol: Any = None
    if when == "waiting":
        stage.refuse()
    elif when == "ready":
        protocol, line = stage.ready()
    gone = stage.component.stop()
    if when == "dialling":
        stage.refuse()
    elif when == "ready":
        assert line.value() == b"</stream:stream>"
        assert line.closed == "closed"
        stage.cut(protocol)
    assert gone.called
    assert not stage.reactor.getDelayedCalls()
    stage.reactor.advance(100)
    assert len(stage.dials) == 1


def heard(stage: Stage) -> list[str]:
    told: list[str] = []
    stage.component.heard().addCallback(told.append)
    return told


def test_a_directory_that_the_server_passes_things_to_is_heard(stage: Stage) -> None:
    """A ping to itself, which comes back in two steps (14.15)."""
    assert heard(stage) == ["away"]
    protocol, line = stage.ready()
    told = heard(stage)
    ping = line.value()
    assert f"to='{ADDRESS}'".encode() in ping or f'to="{ADDRESS}"'.encode() in ping
    line.clear()
    protocol.dataReceived(ping)
    assert told == []
    protocol.dataReceived(line.value())
    assert told == ["answering"]


def test_a_server_that_passes_nothing_on_has_no_directory(stage: Stage) -> None:
    stage.ready()
    told = heard(stage)
    stage.reactor.advance(module.HEARD_SECONDS - 0.1)
    assert told == []
    stage.reactor.advance(0.1)
    assert told == ["away"]
    # and nothing of it is left behind
    stage.reactor.advance(20)
    assert not stage.component.inquiries.pending


def test_a_line_that_is_cut_is_an_answer_at_once(stage: Stage) -> None:
    protocol, _ = stage.ready()
    told = heard(stage)
    stage.cut(protocol)
    assert told == ["away"]


def test_an_error_of_the_server_is_no_answer(stage: Stage) -> None:
    protocol, line = stage.ready()
    told = heard(stage)
    id_ = line.value().split(b"id=")[1][1:].split(b"'")[0].split(b'"')[0].decode()
    protocol.dataReceived(
        f"<iq type='error' id='{id_}' from='{ADDRESS}' to='{ADDRESS}'>"
        "<error type='cancel'><service-unavailable "
        "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>".encode()
    )
    assert told == ["away"]
