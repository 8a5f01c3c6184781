"""Whether something answers at a port, and what, in a few bytes.

For ports that should not answer at all: whose certificate it is does not matter
then, so none is checked, and nothing that is sent may be secret.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol
from zope.interface import implementer

_MOST: Final = 65_536


@implementer(IOpenSSLClientConnectionCreator)
class _AnyTls:
    """TLS with whoever it is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_verify(SSL.VERIFY_NONE)

    def clientConnectionForTLS(self, _protocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


class Knock(Protocol):  # type: ignore[misc] # Twisted has no types here
    """One connection: ``say`` sends, and gives what has come when *enough* says so.

    :ivar came: everything that came.
    """

    def __init__(self, reactor: Any) -> None:
        self.came = b""
        self.ended = False
        self._reactor = reactor
        self._waiting: tuple[bytes, Deferred[None]] | None = None

    async def say(self, data: bytes, until: bytes, seconds: float) -> bytes:
        """Send *data*; what came up to *until*, the end, or the time."""
        if not self.ended:
            self.transport.write(data)
        if self.ended or until in self.came:
            return self.came
        answer: Deferred[None] = Deferred()
        self._waiting = (until, answer)
        timer = self._reactor.callLater(seconds, self._settle)
        try:
            await answer
        finally:
            if timer.active():
                timer.cancel()
        return self.came

    def start_tls(self, name: str) -> None:
        """Turn to TLS; what came before is forgotten."""
        self.came = b""
        self.transport.startTLS(_AnyTls(name))

    def drop(self) -> None:
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self.came = (self.came + data)[:_MOST]
        if self._waiting is not None and self._waiting[0] in self.came:
            self._settle()

    def connectionLost(self, reason: object) -> None:
        self.ended = True
        self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting[1].callback(None)


async def knock(
    reactor: Any, address: str, port: int, seconds: float, tls: str = ""
) -> Knock | None:
    """Connect; None if nobody answers there.

    :param tls: the name to ask for with TLS, empty for none.
    """
    endpoint = HostnameEndpoint(reactor, address, port, timeout=seconds)
    try:
        connected: Knock = await connectProtocol(endpoint, Knock(reactor))
    except Exception:
        # Refused, silent, unreachable: whatever it is, nobody comes in there.
        return None
    if tls:
        connected.start_tls(tls)
    return connected
