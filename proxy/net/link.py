"""One connection to a server: bytes both ways, TLS, and one end with a reason.

``Link`` is the Twisted protocol and the handle in one, so that a read costs
one Python call.  It decides nothing about XMPP: when TLS has to start is the
owner's business, and whatever came before is the owner's to forget.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from zope.interface import implementer

from ..core.vocabulary import TlsFacts
from ..errors import EnvFault, Fault
from .tls import ClientTls

TlsMode: TypeAlias = Literal["starttls", "direct", "off"]

CLOSE_SECONDS: Final = 5.0
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class LinkOwner(Protocol):
    """Who is told what happens on a link; called on the reactor thread."""

    def link_up(self, link: Link) -> None:
        """TCP is there; with direct TLS, the verified handshake too."""

    def link_secure(self, facts: TlsFacts) -> None:
        """The handshake asked for with ``start_tls`` is done and verified."""

    def link_data(self, data: bytes) -> None:
        """Bytes came, never none: what one read of the socket brought."""

    def link_lost(self, fault: Fault | None) -> None:
        """The end, exactly once after ``link_up``.

        None: the far side closed in an orderly way, or ``close`` or ``abort``
        was called here.
        """

    def link_pause(self) -> None:
        """More is waiting to be sent than is good; stop writing if possible."""

    def link_resume(self) -> None:
        """What was waiting is sent."""


def acknowledge(connection: socket.socket) -> None:
    """Undo delayed acknowledgement, which Linux turns on again by itself.

    A server with Nagle's algorithm on (Prosody) waits for our ACK before it sends
    the next small stanza.
    """
    if _QUICKACK is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


@implementer(IHandshakeListener, IPushProducer)
class Link(TwistedProtocol):  # type: ignore[misc] # Twisted has no types here
    """A connection to a server.

    :ivar peer: ``host:port`` for messages.
    :ivar mode: how TLS comes about on it; with ``off``, it does not.
    :ivar facts: channel-binding values, None before TLS.
    :ivar server_key: SHA-256 of the server's SPKI (DER), None before TLS.
    """

    def __init__(
        self,
        reactor: Any,
        make_tls: Callable[[], ClientTls],
        *,
        peer: str,
        mode: TlsMode,
        timeout: float,
    ) -> None:
        self.transport: Any = None
        self.peer = peer
        self.mode: TlsMode = mode
        self.facts: TlsFacts | None = None
        self.server_key: bytes | None = None
        self.connected_to: Deferred[Link] = Deferred()
        self._reactor = reactor
        self._make_tls = make_tls
        self._timeout = timeout
        self._owner: LinkOwner | None = None
        self._tls: ClientTls | None = None
        self._socket: socket.socket | None = None
        self._deadline: Any = None
        self._ready: Deferred[None] | None = None
        self._fault: EnvFault | None = None
        self._closing = False
        self._records: list[bytes] = []
        self._in_read = False

    @property
    def direct(self) -> bool:
        """Whether TLS was there from the first byte."""
        return self.mode == "direct"

    def write(self, data: bytes) -> None:
        """Send, or keep until the handshake that runs is done and verified.

        After ``close`` or the end, nothing happens.
        """
        if not self._closing and self.connected:
            self.transport.write(data)

    def start_tls(self) -> None:
        """Begin the handshake now; ``link_secure`` or ``link_lost`` follows.

        From here on only bytes out of the TLS session are delivered.
        """
        self._tls = self._make_tls()
        self._set_deadline(self._timeout, self._handshake_late)
        self.transport.startTLS(self._tls)
        self._deliver_by_read(self.transport.protocol)

    def _deliver_by_read(self, tls: Any) -> None:
        """Have the end of each read told: Twisted's TLS layer hands over records."""
        taken = tls.dataReceived

        def read(data: bytes) -> None:
            self._in_read = True
            try:
                taken(data)
            finally:
                self._in_read = False
            self._deliver()

        tls.dataReceived = read

    def close(self) -> None:
        """Send what is waiting, then close; nothing more is delivered."""
        if self._closing or not self.connected:
            return
        self._closing = True
        # A registered producer would keep Twisted from closing.
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseConnection()
        # A far side that never answers close_notify, or never reads, does not
        # keep the connection.
        self._set_deadline(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        self._closing = True
        if self.connected:
            self.transport.abortConnection()

    def pause(self) -> None:
        """Stop reading; what was read already (64 KiB at most) still comes."""
        if self.connected:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        if self.connected:
            self.transport.resumeProducing()

    # -- for the connector

    def ready(self) -> Deferred[None]:
        """Fire when it can be attached; fail with an EnvFault if TLS does."""
        self._ready = Deferred(lambda _: self.abort())
        if self.direct:
            self.start_tls()
        else:
            self._ready.callback(None)
        return self._ready

    def attach(self, owner: LinkOwner) -> None:
        self._ready = None
        self._owner = owner
        self.transport.registerProducer(self, True)
        owner.link_up(self)

    # -- called by Twisted

    def connectionMade(self) -> None:
        self._socket = self.transport.getHandle()
        self.transport.setTcpNoDelay(True)
        self.connected_to.callback(self)

    def dataReceived(self, data: bytes) -> None:
        """Plain bytes are delivered at once, TLS records by the read.

        Twisted hands over each record by itself, and servers put each stanza into
        its own: the owner, who commits once a call, would commit for each.
        """
        if self.facts is None:
            self._acknowledge()
            if self._owner is not None and not self._closing:
                self._owner.link_data(data)
            return
        if not self._records and not self._in_read:
            self._reactor.callLater(0, self._deliver)
        self._records.append(data)

    def _deliver(self) -> None:
        if not self._records:
            return
        data, self._records = b"".join(self._records), []
        if self._owner is None or self._closing:
            return
        self._acknowledge()
        self._owner.link_data(data)

    def handshakeCompleted(self) -> None:
        self._set_deadline(None)
        if self._closing or self._tls is None:
            return
        try:
            self.facts, self.server_key = self._tls.secured()
        except EnvFault as fault:
            self._fault = fault
            self.transport.abortConnection()
            return
        if self._ready is not None:
            self._ready.callback(None)
        elif self._owner is not None:
            self._owner.link_secure(self.facts)

    def connectionLost(self, reason: Any) -> None:
        self._deliver()
        self.connected = 0
        self._set_deadline(None)
        fault = self._end(reason)
        owner, self._owner = self._owner, None
        ready, self._ready = self._ready, None
        self._tls = self._socket = None
        if owner is not None:
            owner.link_lost(fault)
        elif ready is not None and not ready.called:
            ready.errback(fault or EnvFault(f"{self.peer} closed the connection"))

    def pauseProducing(self) -> None:
        if self._owner is not None:
            self._owner.link_pause()

    def resumeProducing(self) -> None:
        if self._owner is not None:
            self._owner.link_resume()

    def stopProducing(self) -> None:
        """Nothing to stop: ``connectionLost`` tells the owner."""

    # -- inside

    def _end(self, reason: Any) -> EnvFault | None:
        if self._fault is not None:
            return self._fault
        if self._closing:
            return None
        if self._tls is not None and self.facts is None:
            return self._tls.failure(reason.value)
        if self._tls is not None:
            orderly = self._tls.closed_by_peer()
        else:
            orderly = bool(reason.check(ConnectionDone))
        return None if orderly else EnvFault(f"the connection to {self.peer} was cut")

    def _handshake_late(self) -> None:
        self._fault = EnvFault(
            f"{self.peer} did not finish the TLS handshake in {self._timeout:g} s"
        )
        self.transport.abortConnection()

    def _set_deadline(
        self, seconds: float | None, action: Callable[[], None] | None = None
    ) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = (
            None if seconds is None else self._reactor.callLater(seconds, action)
        )

    def _acknowledge(self) -> None:
        if self._socket is not None:
            acknowledge(self._socket)
