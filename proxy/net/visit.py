"""One stream to a server, opened to look: what is sent and awaited, step by step.

For programs that ask and read in turns, as ``tillie gate check`` does.  Whoever
waits is told of the end as a fault, and no wait is longer than its time.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..core.streams import STREAM_CONDITIONS, STREAMS, TLS, read_error
from ..core.vocabulary import TlsFacts
from ..errors import EnvFault, Fault, PeerFault
from ..wire.framing import (
    BEFORE_LOGIN,
    CLIENT_NS,
    Broken,
    Closed,
    Framer,
    Opened,
    Received,
    Skipped,
)
from ..wire.stanza import Stanza
from ..wire.tree import quoted
from .connector import Connector, Link

_STARTTLS: Final = f"<starttls xmlns='{TLS}'/>".encode()
_MOST: Final = 64
"""Elements that may come unasked."""


class Visit:
    """The owner of one link.

    :param content: the content namespace of its streams.
    :param seconds: how long each answer may take.
    """

    def __init__(
        self, reactor: Any, *, content: str = CLIENT_NS, seconds: float = 10.0
    ) -> None:
        self.facts: TlsFacts | None = None
        self._reactor = reactor
        self._content = content
        self._seconds = seconds
        self._link: Link | None = None
        self._framer = self._new_framer()
        self._came: deque[Stanza | Opened] = deque()
        self._waiting: Deferred[None] | None = None
        self._over: Fault | None = None

    async def connect(self, connector: Connector, domain: str) -> None:
        """:raises EnvFault: it could not be reached, or its TLS is not good."""
        await connector.connect(domain, self)

    @property
    def direct(self) -> bool:
        return self._link is not None and self._link.direct

    def certificate(self) -> x509.Certificate:
        """What the far side showed; only behind a handshake."""
        assert self._link is not None
        shown = self._link.transport.getPeerCertificate()
        certificate: x509.Certificate = shown.to_cryptography()
        return certificate

    async def open(self, to: str, from_: str = "") -> Stanza:
        """Begin a stream; its features.

        :raises EnvFault: there are none: refused, ended, or no answer in time.
        """
        self._framer = self._new_framer()
        self._came.clear()
        sender = f" from='{quoted(from_)}'" if from_ else ""
        self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{self._content}'"
            f" xmlns:stream='{STREAMS}'{sender} to='{quoted(to)}'"
            " version='1.0'>".encode()
        )
        while True:
            stanza = await self.read()
            if (stanza.ns, stanza.name) == (STREAMS, "features"):
                return stanza
            if (stanza.ns, stanza.name) == (STREAMS, "error"):
                raise EnvFault(f"the stream was refused: {_said(stanza)}")

    async def start_tls(self) -> TlsFacts:
        """STARTTLS (RFC 6120, 5.4); what came before counts no more.

        :raises EnvFault: refused, or the handshake failed.
        """
        assert self._link is not None
        self.send(_STARTTLS)
        stanza = await self.read()
        if (stanza.ns, stanza.name) != (TLS, "proceed"):
            raise EnvFault(f"STARTTLS was refused: {_said(stanza)}")
        if self._came:
            raise EnvFault("something came in clear behind <proceed/>")
        self._link.start_tls()
        while self.facts is None:
            await self._news()
        return self.facts

    def send(self, data: bytes) -> None:
        if self._link is not None:
            self._link.write(data)

    async def read(self) -> Stanza:
        """The next element.

        :raises EnvFault: the connection ended first, or none came in time.
        """
        while True:
            while self._came:
                one = self._came.popleft()
                if isinstance(one, Stanza):
                    return one
            await self._news()

    def close(self) -> None:
        """End it at once."""
        if self._link is not None:
            self._link.abort()

    def _new_framer(self) -> Framer:
        return Framer(BEFORE_LOGIN, content=self._content)

    async def _news(self) -> None:
        if self._over is not None:
            raise self._over
        self._waiting = Deferred()
        self._waiting.addTimeout(self._seconds, self._reactor, self._too_late)
        await self._waiting

    def _too_late(self, result: Any, seconds: float) -> Any:
        if isinstance(result, Failure) and result.check(CancelledError):
            raise EnvFault(f"no answer in {seconds:g} s")
        return result

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    # -- told by the link ---------------------------------------------------

    def link_up(self, link: Link) -> None:
        self._link = link
        self.facts = link.facts

    def link_secure(self, facts: TlsFacts) -> None:
        self.facts = facts
        self._tell()

    def link_data(self, data: bytes) -> None:
        if self._over is not None:
            return
        for event in self._framer.feed(data):
            match event:
                case Received(stanza=stanza):
                    self._came.append(stanza)
                case Opened():
                    self._came.append(event)
                case Broken(text=text):
                    self._end(PeerFault(f"this is no XMPP: {text}"))
                case Skipped(reason=reason):
                    self._end(PeerFault(f"an element {reason}"))
                case Closed():
                    self._end(EnvFault("the stream was closed"))
        if len(self._came) > _MOST:
            self._end(PeerFault("more came than was asked for"))
        self._tell()

    def link_lost(self, fault: Fault | None) -> None:
        self._end(fault or EnvFault("the connection was closed"))
        self._tell()

    def link_pause(self) -> None:
        """Little is sent here."""

    def link_resume(self) -> None:
        """Nothing waited."""

    def _end(self, fault: Fault) -> None:
        if self._over is None:
            self._over = EnvFault(fault.text, hint=fault.hint)


def _said(stanza: Stanza) -> str:
    ns = STREAM_CONDITIONS if stanza.ns == STREAMS else stanza.ns
    condition, _, text = read_error(stanza.tree(), ns)
    said = f"{condition}, “{text}”" if text else condition
    return said or f"<{stanza.name}/>"
