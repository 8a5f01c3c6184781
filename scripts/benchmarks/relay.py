"""A bare Twisted relay, as a limit: plain TCP in, verified TLS out, no XML at all.

Arguments: listening port, server port, domain, CA file.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as any_reactor
from twisted.internet import ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol

reactor: Any = any_reactor


class Out(Protocol):  # type: ignore[misc]
    def __init__(self, other: In) -> None:
        self.other = other

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.other.joined(self)

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.other.transport.loseConnection()


class In(Protocol):  # type: ignore[misc]
    out: Out | None = None
    early = b""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        endpoint.connect(Factory.forProtocol(lambda: Out(self)))

    def joined(self, out: Out) -> None:
        self.out = out
        out.transport.write(self.early)

    def dataReceived(self, data: bytes) -> None:
        if self.out is None:
            self.early += data
        else:
            self.out.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self.out is not None:
            self.out.transport.loseConnection()


port, server, domain, ca = sys.argv[1:]
with open(ca, "rb") as file:
    anchor = ssl.Certificate.loadPEM(file.read())
options = ssl.optionsForClientTLS(domain, trustRoot=anchor)
endpoint = wrapClientTLS(options, HostnameEndpoint(reactor, "127.0.0.1", int(server)))
reactor.listenTCP(int(port), Factory.forProtocol(In), interface="127.0.0.1")
reactor.run()
