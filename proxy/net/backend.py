"""The connection to the server behind the gate: loopback as a rule, without TLS."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final, Protocol

from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from zope.interface import implementer

from .link import acknowledge

CONNECT_SECONDS: Final = 5.0


class BackendOwner(Protocol):
    """Who is told what happens; called on the reactor thread."""

    def backend_up(self) -> None:
        """The connection is there."""

    def backend_data(self, data: bytes) -> None:
        """Bytes came."""

    def backend_lost(self) -> None:
        """The connection is gone, or was never had; nothing is told after it."""

    def backend_full(self, full: bool) -> None:
        """More is waiting to be sent than is good, or no longer."""


@implementer(IPushProducer)
class Backend(TwistedProtocol):  # type: ignore[misc] # Twisted has no types here
    """One connection; after :meth:`end` it tells nothing any more.

    :param preface: bytes that go first (a PROXY header).
    """

    def __init__(self, owner: BackendOwner, preface: bytes) -> None:
        self.transport: Any = None
        self._owner: BackendOwner | None = owner
        self._preface = preface
        self._connecting: Any = None
        self._socket: socket.socket | None = None
        self._reading = True

    def reach(self, reactor: Any, host: str, port: int) -> None:
        """Connect."""
        endpoint = _endpoint(reactor, host, port)
        self._connecting = endpoint.connect(Factory.forProtocol(lambda: self))
        self._connecting.addErrback(self._unreached)

    def write(self, data: bytes) -> None:
        if self.connected:
            self.transport.write(data)

    def read(self, wanted: bool) -> None:
        """Read on, or stop reading."""
        if wanted == self._reading or not self.connected:
            return
        self._reading = wanted
        if wanted:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def end(self) -> None:
        """Send what waits, then close."""
        self._owner = None
        if self.connected:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif self._connecting is not None:
            self._connecting.cancel()

    # -- called by Twisted

    def connectionMade(self) -> None:
        self._connecting = None
        if self._owner is None:
            self.transport.abortConnection()
            return
        self._socket = self.transport.getHandle()
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.transport.write(self._preface)
        self._owner.backend_up()

    def dataReceived(self, data: bytes) -> None:
        if self._socket is not None:
            acknowledge(self._socket)
        if self._owner is not None:
            self._owner.backend_data(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.connected = 0
        self._socket = None
        self._lost()

    def pauseProducing(self) -> None:
        if self._owner is not None:
            self._owner.backend_full(True)

    def resumeProducing(self) -> None:
        if self._owner is not None:
            self._owner.backend_full(False)

    def stopProducing(self) -> None:
        """Nothing to stop: ``connectionLost`` follows."""

    def _unreached(self, _failure: Any) -> None:
        self._connecting = None
        self._lost()

    def _lost(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.backend_lost()


def _endpoint(reactor: Any, host: str, port: int) -> Any:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return HostnameEndpoint(reactor, host, port, timeout=CONNECT_SECONDS)
    kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return kind(reactor, host, port, timeout=CONNECT_SECONDS)
