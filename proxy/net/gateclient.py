"""One client's connection to the gate, and the server's that belongs to it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_never

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import EnvFault, Fault, PeerFault
from ..gate.between import Outcome
from ..gate.disclosure import DirectoryState
from ..gate.effects import (
    Ask,
    Close,
    Effect,
    Hear,
    Inquire,
    Later,
    Note,
    Probe,
    Prove,
    Reach,
    Revoke,
    Sign,
    StartTls,
    ToBackend,
    ToClient,
)
from ..gate.inquiry import Finding
from ..gate.questions import Answer
from ..gate.stream import Stream
from .backend import Backend
from .gatetls import GateTls
from .proxyheader import Ends, HeaderReader, written
from .traces import trace_of

if TYPE_CHECKING:
    from .gate import Gate

STRANGERS_BYTES: Final = 4_096
READ_BYTES: Final = 65_536
"""What is read from a socket at a time, before and behind login."""
SLOW_SECONDS: Final = 60.0
"""A client that reads nothing for so long is closed (RES-03)."""
CLOSE_SECONDS: Final = 5.0
_log = Logger()


@implementer(IHandshakeListener, IPushProducer)
class Client(TwistedProtocol):  # type: ignore[misc] # Twisted has no types here
    """One client's connection, and the server's that belongs to it."""

    def __init__(
        self, gate: Gate, host: str, port: int, direct: bool, *, proxied: bool
    ) -> None:
        self.transport: Any = None
        self._gate = gate
        self._ends: Ends = (host, port)
        self._direct = direct
        self._header = HeaderReader() if proxied else None
        self._tls: GateTls | None = None
        self._shaking = self._secure = False
        self._backend: Backend | None = None
        self._account = ""
        self._stranger = ""
        self._reading = True
        self._full_since: float | None = None
        self._server_full = False
        self._gone = False
        self._closing: float | None = None
        self.stream = Stream(gate.world, host, direct=direct)

    # -- Twisted, client side ------

    def connectionMade(self) -> None:
        gate = self._gate
        self.transport.setTcpNoDelay(True)
        gate.clients.add(self)
        gate.hurried.add(self)
        gate.steer_ports()
        if self._header is None:
            self._admit()

    def _admit(self) -> None:
        """The client's address is known: is there room for it?"""
        address = self._ends[0]
        # as much at a time as its stream may hold in a stanza: who floods has its
        # turn more often, and others have theirs in between
        self.transport.bufferSize = STRANGERS_BYTES
        chance = secrets.randbelow(1 << 20) / (1 << 20)
        if not self._gate.crowd.enter(address, chance):
            self._gate.count("crowded")
            self.abort()
            return
        self._stranger = address
        self.transport.registerProducer(self, True)
        if self._direct:
            domains = self._gate.settings.domains
            self._expect_tls(domains[0] if len(domains) == 1 else None)

    def dataReceived(self, data: bytes) -> None:
        if self._header is not None:
            self._read_header(self._header, data)
        elif self._tls is not None and not self._shaking and not self._secure:
            self._start_tls(self._tls, data)
        else:
            self.run(lambda: self.stream.client_data(data))

    def _read_header(self, header: HeaderReader, data: bytes) -> None:
        try:
            rest = header.feed(data)
        except PeerFault as fault:
            _log.warn("{text}, from {host}", text=fault.text, host=self._ends[0])
            self.abort()
            return
        if rest is None:
            return
        self._header = None
        if header.client is not None:
            self._ends = header.client
            self.stream.line.address = header.client[0]
            if not self._gate.arrives(header.client[0]):
                self.abort()
                return
        self._admit()
        if rest and not self._gone and not self.stream.over:
            self.dataReceived(rest)

    def handshakeCompleted(self) -> None:
        assert self._tls is not None
        self._shaking, self._secure = False, True
        try:
            exporter, domain = self._tls.secured()
        except EnvFault as fault:
            _log.warn("{text}, from {host}", text=fault.text, host=self._ends[0])
            self.abort()
            return
        self.run(lambda: self.stream.client_secured(exporter, domain))

    def connectionLost(self, reason: Any = None) -> None:
        self._gone = True
        self.run(self.stream.client_lost)
        self._forget_if_over()

    def pauseProducing(self) -> None:
        self._full_since = self._gate.monotonic()
        self._gate.hurried.add(self)
        self._steer()

    def resumeProducing(self) -> None:
        self._full_since = None
        self._file()
        self._steer()

    def stopProducing(self) -> None:
        """The connection is going; ``connectionLost`` follows."""

    # -- the server's side ------

    def backend_up(self) -> None:
        self.run(self.stream.backend_up)

    def backend_data(self, data: bytes) -> None:
        self.run(lambda: self.stream.backend_data(data))

    def backend_lost(self) -> None:
        self._backend = None
        self.run(self.stream.backend_lost)
        self._forget_if_over()

    def backend_full(self, full: bool) -> None:
        self._server_full = full
        self._steer()

    # -- the loop ------

    def run(self, call: Callable[[], None]) -> None:
        """One call, then its effects, in order."""
        try:
            call()
            effects = self.stream.take()
        except Exception as error:
            # a bug of ours ends this connection and no other
            _log.error("{trace}", trace=trace_of(error))
            self._gate.count("trouble")
            self.abort()
            return
        for effect in effects:
            self._perform(effect)
        self._file()
        self._steer()

    def tick(self) -> None:
        """Time has passed; only called while something has to happen in time."""
        late = self._gate.monotonic()
        if self._closing is not None and late - self._closing > CLOSE_SECONDS:
            self.abort()
        elif self._full_since is not None and late - self._full_since > SLOW_SECONDS:
            _log.info(
                "a client that reads nothing was closed: {host}", host=self._ends[0]
            )
            self.abort()
        elif self.stream.overdue(reading=self._reading):
            self.run(lambda: self.stream.tick(reading=self._reading))

    def _file(self) -> None:
        """Keep the books: who still stands at the door, who may be forgotten."""
        gate, stream = self._gate, self.stream
        if self._stranger and (stream.known or stream.over):
            gate.crowd.leave(self._stranger)
            self._stranger = ""
            self.transport.bufferSize = READ_BYTES
        if stream.line.account != self._account:
            self._unfile()
            self._account = stream.line.account
            gate.by_account[self._account].add(self)
        waiting = self._closing is not None or self._full_since is not None
        if waiting or stream.hurried:
            gate.hurried.add(self)
        else:
            gate.hurried.discard(self)

    def _unfile(self) -> None:
        there = self._gate.by_account.get(self._account)
        if there is not None:
            there.discard(self)
            if not there:
                del self._gate.by_account[self._account]

    def _steer(self) -> None:
        """Read from each side only while there is room for it on the other."""
        if self._backend is not None:
            self._backend.read(self._full_since is None and self.stream.hears_server)
        reading = self.stream.hears_client and not self._server_full
        reading = reading or self._closing is not None
        if reading != self._reading and not self._gone:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # -- effects ------

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Ask | Prove | Sign | Later | Probe | Inquire | Hear):
            self._ask(effect)
            return
        match effect:
            case ToClient(data=data):
                self._to_client(data)
            case ToBackend(data=data):
                self._to_backend(data)
            case Reach(domain=domain):
                self._reach(domain)
            case StartTls(domain=domain):
                self._expect_tls(domain)
            case Close():
                self._close()
            case Revoke(account=account, devices=devices):
                self._gate.reactor.callLater(0, self._gate.revoke, account, devices)
            case Note(occasion=occasion, text=text):
                self._note(occasion, text)
            case _:
                assert_never(effect)

    def _to_client(self, data: bytes) -> None:
        if not self._gone:
            self.transport.write(data)

    def _to_backend(self, data: bytes) -> None:
        if self._backend is not None:
            self._backend.write(data)

    def _note(self, occasion: str, text: str) -> None:
        self._gate.count(occasion)
        if text:
            _log.info("{text}", text=text)

    def _reach(self, domain: str) -> None:
        gate = self._gate
        preface = b""
        if gate.settings.proxy_out is not None:
            here = self.transport.getHost()
            ends = (here.host, here.port)
            preface = written(gate.settings.proxy_out, self._ends, ends)
        self._backend = Backend(self, preface)
        self._backend.reach(gate.reactor, *gate.settings.backends[domain])

    def _expect_tls(self, nameless: str | None) -> None:
        """What comes next is TLS; one that stays silent costs nothing of it."""
        self._tls = self._gate.certificates.creator(nameless)

    def _start_tls(self, tls: GateTls, hello: bytes) -> None:
        self._shaking = True
        self.transport.unregisterProducer()
        self.transport.startTLS(tls)
        self.transport.registerProducer(self, True)
        # startTLS has put itself between the socket and this object
        self.transport.protocol.dataReceived(hello)

    def _close(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.end()
        if not self._gone and self._tls is not None and not self._secure:
            # no farewell can be said in a handshake that does not end
            self.transport.abortConnection()
        elif not self._gone and self._closing is None:
            self._closing = self._gate.monotonic()
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        self._forget_if_over()

    def abort(self) -> None:
        """Close at once."""
        self.stream.line.drop()
        self.stream.take()
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.end()
        if not self._gone:
            self.transport.abortConnection()
        self._file()

    def _forget_if_over(self) -> None:
        if self._gone and self.stream.over:
            self._gate.clients.discard(self)
            self._gate.hurried.discard(self)
            self._unfile()
            self._gate.steer_ports()

    # -- asking ------

    def _ask(self, effect: Ask | Prove | Sign | Later | Probe | Inquire | Hear) -> None:
        match effect:
            case Hear(number=number, domain=domain):
                hearing = self._gate.borders.directory(domain)
                hearing.addCallback(lambda state: self._found(number, state))
            case Probe(number=number, domain=domain):
                probing = self._gate.borders.probe(domain)
                probing.addCallback(lambda found: self._found(number, found))
            case Inquire(number=number, domain=domain, account=account):
                asking = self._gate.borders.inquire(domain, account)
                asking.addCallback(lambda found: self._found(number, found))
            case Ask(number=number, question=question):
                asked = self._gate.worker.ask(question)
                asked.addCallback(lambda answer: self._answered(number, answer))
            case Prove():
                self._prove(effect)
            case Later(number=number, milliseconds=milliseconds):
                self._gate.reactor.callLater(
                    milliseconds / 1000, self.run, partial(self.stream.due, number)
                )
            case Sign(number=number, typ=typ, claims=claims):
                signing = self._gate.signer.sign(typ, claims)
                signing.addErrback(self._unsigned)
                signing.addCallback(
                    lambda text: self.run(lambda: self.stream.signed(number, text))
                )

    def _found(self, number: int, found: Outcome | Finding | DirectoryState) -> None:
        # Not at once: what is known already would come before the effects that
        # stand behind the question.
        if number:
            self._gate.reactor.callLater(
                0, self.run, lambda: self.stream.found(number, found)
            )

    def _answered(self, number: int, answer: Answer) -> None:
        self.run(lambda: self.stream.answered(number, answer))

    def _prove(self, effect: Prove) -> None:
        stream, number = self.stream, effect.number

        def proved(proof: bytes | None) -> None:
            published = None
            try:
                published = self._gate.signer.document(effect.domain)
            except Fault as fault:
                self._unsigned(fault)
            if proof is None or published is None:
                self.run(lambda: stream.proved(number, None, None))
                return
            shown, chain = published.document, published.rollovers
            self.run(lambda: stream.proved(number, proof, shown, chain))

        proving = self._gate.signer.prove(effect.statement)
        proving.addErrback(self._unsigned)
        proving.addCallback(proved)

    def _unsigned(self, error: Any) -> None:
        fault = getattr(error, "value", error)
        text = fault.text if isinstance(fault, Fault) else type(fault).__name__
        self._gate.count("trouble")
        _log.error("nothing could be signed: {text}", text=text)
