"""The connection of a domain's directory to its server (XEP-0114).

One for each domain.  It is there again by itself whenever it is lost; meanwhile
look-ups find nobody, which proves nothing to whoever asks.  What is answered is
``gate.directory``'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never
from xml.etree.ElementTree import Element

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from zope.interface import implementer

from ..core.vocabulary import Close, Ended, Incoming, Send
from ..errors import EnvFault, Fault, LocalFault
from ..gate.componentleg import ComponentLeg, ComponentOutput, Ready
from ..gate.directory import Directory
from ..gate.disclosure import DirectoryState
from ..gate.inquiry import Finding, Inquiries, Proof
from ..gate.lookups import Ask, Effects, Reply, Sign
from ..gate.questions import Answer, Question
from ..wire.stanza import Stanza
from .registry import wall_clock

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
HANDSHAKE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0
HEARD_SECONDS: Final = 5.0
_log = Logger()


class Component:
    """Keeps one directory connected.

    :param ask: the registry's worker.
    :param sign: the signing process.
    """

    def __init__(
        self,
        reactor: Any,
        directory: Directory,
        server: tuple[str, int],
        secret: bytes,
        *,
        ask: Callable[[Question], Deferred[Answer]],
        sign: Callable[[str, Mapping[str, object]], Deferred[str]],
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.directory = directory
        self._reactor = reactor
        self._server = server
        self._secret = secret
        self._ask = ask
        self._sign = sign
        self._line: _Line | None = None
        self.inquiries = Inquiries(directory.address, self._send, clock)
        self._next: Any = None
        self._watching: Any = None
        self._dialling: Any = None
        self._wait = FIRST_WAIT
        self._stopping = False
        self._told = ""
        self._gone: Deferred[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the server passes on what is asked of this component."""
        return self._line is not None and self._line.leg.ready

    def start(self) -> None:
        self._connect()

    def stop(self) -> Deferred[None]:
        """End the stream in good order; fires when the connection is gone."""
        self._stopping = True
        _cancel(self._next)
        _cancel(self._watching)
        if self._line is None:
            return succeed(None)
        self._gone = gone = Deferred[None]()
        if self._line.transport is None:
            self._dialling.disconnect()
        else:
            self._line.close()
        return gone

    # -- the connection -----------------------------------------------------

    def _connect(self) -> None:
        leg = ComponentLeg(self.directory.address, self._secret)
        self._line = _Line(self._reactor, self, leg)
        host, port = self._server
        self._dialling = self._reactor.connectTCP(
            host, port, _Dial(self._line), CONNECT_SECONDS
        )

    def up(self) -> None:
        """The server took the handshake."""
        self._wait = FIRST_WAIT
        self._told = ""
        _log.info("{address} is there", address=self.directory.address)

    def lost(self, fault: Fault | None) -> None:
        """The line is gone; another follows."""
        self._line = None
        self.inquiries.drop()
        if self._stopping:
            if self._gone is not None:
                self._gone.callback(None)
            return
        if fault is not None:
            self._tell(fault)
        # Many gates behind one server that restarts do not come back at once.
        seconds = self._wait * random.uniform(0.75, 1.25)
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._next = self._reactor.callLater(seconds, self._connect)

    def _tell(self, fault: Fault) -> None:
        """Once for each new reason: a server that is away is away for a while."""
        if fault.text == self._told:
            return
        self._told = fault.text
        hint = f"; {fault.hint}" if fault.hint else ""
        _log.warn(
            "{address} is away: {text}{hint}",
            address=self.directory.address,
            text=fault.text,
            hint=hint,
        )

    # -- stanzas ------------------------------------------------------------

    def received(self, stanza: Stanza) -> None:
        """Something came on the line: an answer to us, or a question."""
        if not self.inquiries.take(stanza):
            self.perform(self.directory.received(stanza))

    def inquire(self, account: str) -> Deferred[Finding]:
        """Whether *account*, of another domain, has a key; never fails."""
        if not self.ready:
            away = f"{self.directory.address} is not connected to the server"
            return succeed(Finding(Proof.OPEN, away))
        asking: Deferred[Finding] = Deferred()
        self.inquiries.ask(account, asking.callback)
        self._watch()
        return asking

    def heard(self) -> Deferred[DirectoryState]:
        """Whether what is sent to this component arrives: a ping to itself, which the
        server has to bring (14.15).  Never fails, and takes 5 s at most."""
        hearing: Deferred[DirectoryState] = Deferred()
        if not self.ready:
            hearing.callback("away")
            return hearing

        def late(_result: object, _seconds: float) -> DirectoryState:
            return "away"

        def told(came: bool) -> None:
            if not hearing.called:
                hearing.callback("answering" if came else "away")

        hearing.addTimeout(HEARD_SECONDS, self._reactor, late)
        self.inquiries.ping(told)
        self._watch()
        return hearing

    def _watch(self) -> None:
        """See to it that questions expire, as long as there are any."""
        if self.inquiries.pending and self._watching is None:
            self._watching = self._reactor.callLater(WATCH_SECONDS, self._expire)

    def _expire(self) -> None:
        self._watching = None
        self.inquiries.expire()
        self._watch()

    def _send(self, stanza: Element) -> None:
        if self._line is not None and self._line.leg.ready:
            self._line.write(self._line.leg.send(stanza))

    def perform(self, effects: Effects) -> None:
        """Do what the directory wants, in order."""
        for effect in effects:
            match effect:
                case Reply(stanza=stanza):
                    # The asker of a line that is gone asks again.
                    self._send(stanza)
                case Ask(question=question, then=then):
                    self._then(self._ask(question), then)
                case Sign(typ=typ, claims=claims, then=then):
                    signing = self._sign(typ, claims)
                    signing.addErrback(_fault_of)
                    self._then(signing, then)
                case _:
                    assert_never(effect)

    def _then(self, waiting: Deferred[Any], then: Callable[[Any], Effects]) -> None:
        waiting.addCallback(lambda value: self.perform(then(value)))
        waiting.addErrback(lambda failure: _log.failure("a look-up failed", failure))


def _cancel(call: Any) -> None:
    if call is not None and call.active():
        call.cancel()


def _fault_of(failure: Any) -> Fault:
    if isinstance(failure.value, Fault):
        return failure.value
    _log.failure("the signing process failed", failure)
    return LocalFault("the signing process failed")


class _Dial(ClientFactory):  # type: ignore[misc] # Twisted has no types here
    noisy = False

    def __init__(self, line: _Line) -> None:
        self._line = line

    def buildProtocol(self, addr: object) -> _Line:
        return self._line

    def clientConnectionFailed(self, connector: object, reason: Any) -> None:
        self._line.unreachable(reason.getErrorMessage())


@implementer(IPushProducer)
class _Line(TwistedProtocol):  # type: ignore[misc] # Twisted has no types here
    """One TCP connection and its stream."""

    def __init__(self, reactor: Any, component: Component, leg: ComponentLeg) -> None:
        self.leg = leg
        self._reactor = reactor
        self.transport: Any = None
        self._component = component
        self._fault: Fault | None = None
        self._deadline: Any = None
        self._gone = False

    def unreachable(self, why: str) -> None:
        self._over(EnvFault(f"the server's port for components: {why}"))

    def close(self) -> None:
        self.write(self.leg.close())

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self._set_deadline(HANDSHAKE_SECONDS, self._late)
        self.write(self.leg.connected())

    def dataReceived(self, data: bytes) -> None:
        self.write(self.leg.data(data))

    def connectionLost(self, reason: Any) -> None:
        self.write(self.leg.lost())
        self._over(self._fault)

    def pauseProducing(self) -> None:
        """The server does not read our answers: no more questions until it does."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nothing to stop: ``connectionLost`` follows."""

    def write(self, outputs: list[ComponentOutput]) -> None:
        for output in outputs:
            match output:
                case Send(data=data):
                    self.transport.write(data)
                case Close():
                    self.transport.unregisterProducer()
                    self.transport.loseConnection()
                    # a server that does not read keeps nobody waiting
                    self._set_deadline(CLOSE_SECONDS, self.transport.abortConnection)
                case Ready():
                    self._set_deadline(None)
                    self._component.up()
                case Incoming(stanza=stanza):
                    self._component.received(stanza)
                case Ended(fault=fault):
                    self._fault = self._fault or fault
                case _:
                    assert_never(output)

    def _late(self) -> None:
        self._fault = EnvFault("the server's port for components does not answer")
        self.transport.abortConnection()

    def _set_deadline(
        self, seconds: float | None, action: Callable[[], None] | None = None
    ) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None:
            self._deadline = self._reactor.callLater(seconds, action)

    def _over(self, fault: Fault | None) -> None:
        if self._gone:
            return
        self._gone = True
        self._set_deadline(None)
        self._component.lost(fault)
