"""A server that does what a test says, and an owner that writes down what it hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from proxy.core.vocabulary import TlsFacts
from proxy.errors import Fault
from proxy.net.connector import Link
from proxy.net.tls import ServerTls

reactor: Any = default_reactor


class Watch:
    """Lets a test wait for a condition, looked at whenever something happens."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def stir(self) -> None:
        for entry in self._waiting[:]:
            condition, waiting = entry
            if condition():
                self._waiting.remove(entry)
                waiting.callback(None)

    def until(
        self, condition: Callable[[], bool], seconds: float = 5
    ) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append((condition, waiting))
        self.stir()
        return waiting.addTimeout(seconds, reactor)


class Owner:
    """A ``LinkOwner`` that keeps everything; ``on_data`` may answer at once."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.calls: list[str] = []
        self.link: Link | None = None
        self.facts: TlsFacts | None = None
        self.received = bytearray()
        self.faults: list[Fault | None] = []
        self.on_data: Callable[[bytes], None] = lambda data: None

    def link_up(self, link: Link) -> None:
        self.link = link
        self._note("up")

    def link_secure(self, facts: TlsFacts) -> None:
        self.facts = facts
        self._note("secure")

    def link_data(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)
        self._note("data")

    def link_lost(self, fault: Fault | None) -> None:
        self.faults.append(fault)
        self._note("lost")

    def link_pause(self) -> None:
        self._note("pause")

    def link_resume(self) -> None:
        self._note("resume")

    async def lost(self) -> Fault | None:
        await self.watch.until(lambda: bool(self.faults))
        return self.faults[0]

    async def heard(self, data: bytes) -> None:
        await self.watch.until(lambda: data in self.received)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.watch.stir()


class Peer(Protocol):
    """One accepted connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = bytearray()
        self.gone = False

    def connectionMade(self) -> None:
        self.server.peers.append(self)
        if self.server.direct is not None:
            self.start_tls(self.server.direct)
        self.server.on_connect(self)
        self.server.watch.stir()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.server.on_data(self, data)
        self.server.watch.stir()

    def connectionLost(self, reason: Any) -> None:
        self.gone = True
        self.server.watch.stir()

    def start_tls(self, context: SSL.Context) -> None:
        self.transport.startTLS(ServerTls(context))

    def cut(self) -> None:
        """FIN, without whatever TLS would have said before."""
        self.transport.TLS = False
        self.transport.loseConnection()

    def reset(self) -> None:
        self.transport.abortConnection()


class Server:
    """Listens on loopback until the test is over."""

    def __init__(
        self,
        direct: SSL.Context | None = None,
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.watch = Watch()
        self.direct = direct
        self.peers: list[Peer] = []
        self.on_connect: Callable[[Peer], None] = lambda peer: None
        self.on_data: Callable[[Peer, bytes], None] = lambda peer, data: None
        factory = Factory.forProtocol(lambda: Peer(self))
        factory.noisy = False
        host, port = at
        self._port = reactor.listenTCP(port, factory, interface=host)
        self.port: int = self._port.getHost().port

    async def accepted(self) -> Peer:
        await self.watch.until(lambda: bool(self.peers))
        return self.peers[0]

    async def heard(self, data: bytes) -> None:
        await self.watch.until(lambda: any(data in p.received for p in self.peers))

    async def deserted(self) -> None:
        """Until every connection is gone."""
        await self.watch.until(lambda: all(peer.gone for peer in self.peers))

    def stop(self) -> None:
        self._port.stopListening()
        for peer in self.peers:
            if not peer.gone:
                peer.transport.abortConnection()


@contextmanager
def serving(
    direct: SSL.Context | None = None, at: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[Server]:
    server = Server(direct, at)
    try:
        yield server
    finally:
        server.stop()


def closed_port() -> int:
    """A port of loopback on which nothing listens."""
    with serving() as server:
        return server.port
