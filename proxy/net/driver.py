"""The one loop between the core and the sockets: a call, a commit, its effects.

Whatever happens on a connection becomes one call into a session inside one
transaction; when that has committed, the effects are performed in order.  So
no byte leaves before what protects it is durable, and an effect whose commit
failed is never performed.  No decision about XMPP is made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, assert_never

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from ..core import crash
from ..core.house import House
from ..core.session import Session
from ..core.vocabulary import (
    ClientClose,
    ClientTls,
    Connect,
    Derive,
    DeriveKey,
    Effect,
    ServerClose,
    ServerTls,
    ToClient,
    ToServer,
)
from ..errors import EnvFault, Fault, LocalFault, LostFault
from .connector import Connector
from .localca import LocalCertificates
from .tls import ServerTls as LocalTls
from .traces import trace_of
from .upstream import Upstream

if TYPE_CHECKING:
    from OpenSSL import SSL

TICK = 0.5
REST_EVERY = 20
"""Ticks after which a quiet stream counts as quiet."""
FLUSH = 0.1
MOST_NAMES = 64
_log = Logger()


class Driver:
    """Performs what the sessions of *house* ask for."""

    def __init__(
        self,
        reactor: Any,
        house: House,
        connector: Connector,
        certificates: LocalCertificates,
    ) -> None:
        self.reactor = reactor
        self.house = house
        self.connector = connector
        self.certificates = certificates
        self.connections: dict[Session, Connection] = {}
        self.names: set[str] = set()
        self.on_lost: Callable[[LostFault], None] = lambda fault: None
        self._ticking: Any = None
        self._ticks = 0

    def factory(self, *, secure: bool) -> Factory:
        """For a listener; *secure* where clients begin with TLS."""
        return _ClientFactory(self, secure=secure)

    def start(self) -> None:
        self._ticking = self.reactor.callLater(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = self.reactor.callLater(TICK, self._tick)
        self.run(None, self.house.tick)
        for session in list(self.connections):
            # one transaction each: a fault in one does not stop the others
            if not session.over:
                self.run(session, session.tick)
        self._ticks += 1
        if self._ticks % REST_EVERY == 0:
            for session in self.connections:
                session.rest()

    def stop(self) -> Deferred[None]:
        """End every session in good order; fires when all connections are gone."""
        for session in list(self.connections):
            self.run(session, session.stop)
        return self.gone()

    def gone(self) -> Deferred[None]:
        """Fires when all connections are gone, after 4 s at most."""
        done: Deferred[None] = Deferred()
        self._until_gone(done, 40)
        return done

    def _until_gone(self, done: Deferred[None], tries: int) -> None:
        if not tries or not self.connections:
            done.callback(None)
        else:
            self.reactor.callLater(0.1, self._until_gone, done, tries - 1)

    def run(
        self, session: Session | None, call: Callable[[], None], way: str = ""
    ) -> bool:
        """One call, one commit, then the effects; whether it went well.

        :param way: ``sent`` or ``received``, for the crash points.
        """
        work: list[tuple[Connection, list[Effect]]] = []
        try:
            with self.house.store.transaction():
                call()
                self._collect(work)
                if way:
                    crash.hit(f"{way}-before-commit")
        except Fault as fault:
            self._failed(session, work, fault)
            return False
        except Exception as error:
            _log.error("{trace}", trace=trace_of(error))
            self._failed(
                session, work, LocalFault("an error inside Tillie; see its log")
            )
            return False
        if way and work:
            crash.hit(f"{way}-after-commit")
        for connection, effects in work:
            connection.perform(effects)
        if way and work and crash.armed():
            # the library has only buffered: let the bytes leave first
            self.reactor.callLater(0.02, crash.hit, f"{way}-after-write")
        return True

    def _collect(self, work: list[tuple[Connection, list[Effect]]]) -> None:
        while self.house.dirty:
            session = self.house.dirty.pop()
            effects = session.take()
            connection = self.connections.get(session)
            if connection is not None and effects:
                work.append((connection, effects))

    def _failed(
        self,
        session: Session | None,
        work: list[tuple[Connection, list[Effect]]],
        fault: Fault,
    ) -> None:
        """Nothing of the call counts: what it would have sent is dropped.

        Every session that had effects in it ends, and so does the one it was
        for; the server keeps what was not acknowledged (REL-14).
        """
        if isinstance(fault, LostFault):
            self._lost(fault)
            return
        hit = {one for one in self.connections if one.pending}
        hit |= {connection.session for connection, _ in work}
        if session is not None:
            hit.add(session)
        _log.error("{text}", text=fault.text)
        try:
            self.house.rolled_back()
        except Fault:
            # not even reading works: nobody can go on
            hit = set(self.connections)
        self._fail(hit, fault)

    def _fail(self, sessions: set[Session], fault: Fault) -> None:
        for one in sessions:
            one.take()
            one.fail(fault)
            connection = self.connections.get(one)
            if connection is not None:
                connection.perform(one.take())
        self.house.dirty.clear()

    def _lost(self, fault: LostFault) -> None:
        """Nobody can go on: all are told, and the program ends (REL-15)."""
        self._fail({one for one in self.connections if not one.over}, fault)
        self.on_lost(fault)


class _ClientFactory(Factory):  # type: ignore[misc] # Twisted has no types here
    noisy = False

    def __init__(self, driver: Driver, *, secure: bool) -> None:
        self._driver = driver
        self._secure = secure

    def buildProtocol(self, addr: object) -> Connection:
        return Connection(self._driver, secure=self._secure)


@implementer(IHandshakeListener, IPushProducer)
class Connection(TwistedProtocol):  # type: ignore[misc] # Twisted has no types here
    """A client's connection and the server's connection that belongs to it."""

    def __init__(self, driver: Driver, *, secure: bool) -> None:
        self._driver = driver
        self._secure = secure
        self._upstream: Upstream | None = None
        self._rows: list[str] = []
        self._flushing: Any = None
        self._client_full = False
        self._server_full = False
        self._reading = True
        self._gone = False

    # -- Twisted, client side ------

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.session = self._driver.house.session(
            tls_available=not self._secure, secure=self._secure
        )
        self._driver.connections[self.session] = self
        self.transport.registerProducer(self, True)
        if self._secure:
            self._start_tls()

    def dataReceived(self, data: bytes) -> None:
        self._driver.run(self.session, lambda: self.session.client_data(data), "sent")
        self.steer()

    def handshakeCompleted(self) -> None:
        if not self._secure:
            self._driver.run(self.session, self.session.client_secured)

    def connectionLost(self, reason: Any = None) -> None:
        self._gone = True
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._driver.run(self.session, self.session.client_lost)
        self._forget_if_over()

    # the client's socket as a consumer: stop reading the server while it is full

    def pauseProducing(self) -> None:
        self._client_full = True
        if self._upstream is not None:
            self._upstream.pause()

    def resumeProducing(self) -> None:
        self._client_full = False
        if self._upstream is not None:
            self._upstream.resume()
        self._later_flushed()

    def stopProducing(self) -> None:
        """The connection is going; ``connectionLost`` follows."""

    def server_full(self, full: bool) -> None:
        self._server_full = full
        self.steer()

    def steer(self) -> None:
        """Read from the client only while there is room for it upstream."""
        reading = not (self._server_full or self.session.congested)
        if reading != self._reading and not self._gone:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # -- effects ------

    def perform(self, effects: list[Effect]) -> None:
        for _, run in groupby(effects, type):
            self._perform_run(list(run))
        self.steer()
        self._forget_if_over()

    def _perform_run(self, run: list[Effect]) -> None:
        """Effects of one kind; bytes for one side leave as one write."""
        match run[0]:
            case ToServer():
                data = [one.data for one in run if isinstance(one, ToServer)]
                if self._upstream is not None:
                    self._upstream.write(b"".join(data))
            case ToClient():
                self._to_client([one for one in run if isinstance(one, ToClient)])
            case _:
                for effect in run:
                    self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case ToClient() | ToServer():
                self._perform_run([effect])
            case ClientTls():
                self._start_tls()
            case ClientClose():
                self._close_client()
            case Connect(domain=domain, delay=delay):
                self._connect(domain, delay)
            case DeriveKey(request=request):
                self._derive(request)
            case ServerTls() | ServerClose():
                self._perform_upstream(effect)
            case _:
                assert_never(effect)

    def _perform_upstream(self, effect: ServerTls | ServerClose) -> None:
        if self._upstream is None:
            return
        match effect:
            case ServerTls():
                self._upstream.start_tls()
            case ServerClose(abort=abort):
                self._drop_upstream(abort=abort)

    def _to_client(self, effects: list[ToClient]) -> None:
        if self._gone:
            return
        self.transport.write(b"".join([one.data for one in effects]))
        self._rows += [one.row for one in effects if one.row]
        self._later_flushed()

    def _later_flushed(self) -> None:
        if self._rows and self._flushing is None and not self._gone:
            self._flushing = self._driver.reactor.callLater(FLUSH, self._flushed)

    def _flushed(self) -> None:
        """The bytes have left, or ``pauseProducing`` would have said otherwise."""
        self._flushing = None
        if self._client_full or self._gone:
            return
        rows, self._rows = self._rows, []
        self._driver.run(self.session, lambda: self.session.flushed(rows))

    def _start_tls(self) -> None:
        domain = self.session.client.domain or "localhost"
        try:
            context = self._context(domain)
        except EnvFault as fault:
            _log.error("{text}", text=fault.text)
            self.transport.abortConnection()
            return
        self.transport.unregisterProducer()
        self.transport.startTLS(LocalTls(context, self._by_name))
        self.transport.registerProducer(self, True)

    def _context(self, domain: str) -> SSL.Context:
        return self._driver.certificates.context(domain)

    def _by_name(self, name: str) -> SSL.Context | None:
        """By SNI; bounded, or any local program could fill the disk with leaves."""
        known = self._driver.names
        if name not in known and len(known) >= MOST_NAMES:
            return None
        known.add(name)
        try:
            return self._context(name)
        except EnvFault:
            return None

    def _close_client(self) -> None:
        if not self._gone:
            self.transport.unregisterProducer()
            if not self._reading:
                self.transport.resumeProducing()
            self.transport.loseConnection()

    def _connect(self, domain: str, delay: float) -> None:
        self._drop_upstream(abort=True)
        self._upstream = Upstream(self._driver, self, domain)
        self._upstream.begin(delay)

    def _drop_upstream(self, *, abort: bool) -> None:
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            upstream.end(abort=abort)

    def _derive(self, request: Derive) -> None:
        upstream = self._upstream
        reactor = self._driver.reactor
        derived = deferToThreadPool(
            reactor,
            reactor.getThreadPool(),
            hashlib.pbkdf2_hmac,
            request.hash_name,
            request.password,
            request.salt,
            request.iterations,
        )

        def done(salted: bytes) -> None:
            if upstream is not None and upstream is self._upstream:
                self._driver.run(self.session, lambda: self.session.derived(salted))

        derived.addCallback(done)

    def _forget_if_over(self) -> None:
        if self._gone and self.session.over and self._upstream is None:
            self._driver.connections.pop(self.session, None)
