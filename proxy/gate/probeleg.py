"""Asking a server for TLS as another server does, and no more (RFC 6120, 5).

Bytes and calls in, outputs back; no clock, no sockets.  Whether the certificate is
good is the edge's to find out, in the handshake.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, TypeAlias

from ..core.streams import STREAM_CONDITIONS, STREAMS, TLS, read_error, shown
from ..core.vocabulary import Ended, Send, StartTls
from ..errors import EnvFault
from ..wire.framing import (
    BEFORE_LOGIN,
    SERVER_NS,
    Broken,
    Closed,
    Event,
    Framer,
    Opened,
    Received,
    Skipped,
)
from ..wire.stanza import Stanza
from ..wire.tree import quoted

_STARTTLS: Final = f"<starttls xmlns='{TLS}'/>".encode()

ProbeOutput: TypeAlias = Send | StartTls | Ended


class Awaiting(Enum):
    """What the probe waits for."""

    HEADER = auto()
    FEATURES = auto()
    PROCEED = auto()
    HANDSHAKE = auto()
    NOTHING = auto()


class ProbeLeg:
    """One attempt, up to the TLS handshake.

    :param own: the domain in whose name it is asked.
    :param domain: the domain that is asked for.
    """

    def __init__(self, own: str, domain: str) -> None:
        self.awaiting = Awaiting.HEADER
        self._own = own
        self._domain = domain
        self._framer = Framer(BEFORE_LOGIN, content=SERVER_NS)
        self._outputs: list[ProbeOutput] = []

    def connected(self) -> list[ProbeOutput]:
        return [
            Send(
                (
                    f"<?xml version='1.0'?><stream:stream xmlns='{SERVER_NS}' "
                    f"xmlns:stream='{STREAMS}' from='{quoted(self._own)}' "
                    f"to='{quoted(self._domain)}' version='1.0'>"
                ).encode()
            )
        ]

    def data(self, data: bytes) -> list[ProbeOutput]:
        """What came before TLS; behind ``<proceed/>`` nothing counts (TLS-02)."""
        if self._finished():
            return []
        for event in self._framer.feed(data):
            self._event(event)
            if self._finished():
                break
        outputs, self._outputs = self._outputs, []
        return outputs

    def _finished(self) -> bool:
        return self.awaiting in (Awaiting.HANDSHAKE, Awaiting.NOTHING)

    def _event(self, event: Event) -> None:
        match event:
            case Opened():
                self.awaiting = Awaiting.FEATURES
            case Received(stanza=stanza):
                self._received(stanza)
            case Broken(text=text):
                self._end(f"does not speak XMPP between servers: {text}")
            case Closed() | Skipped():
                self._end("closed the stream")

    def _received(self, stanza: Stanza) -> None:
        tag = f"{{{stanza.ns}}}{stanza.name}"
        if tag == f"{{{STREAMS}}}error":
            condition, _, text = read_error(stanza.tree(), STREAM_CONDITIONS)
            self._end(f"refused the stream: {condition} {shown(text)}".rstrip())
        elif self.awaiting is Awaiting.FEATURES and tag == f"{{{STREAMS}}}features":
            if f"{{{TLS}}}starttls" in stanza.children:
                self.awaiting = Awaiting.PROCEED
                self._outputs.append(Send(_STARTTLS))
            else:
                self._end("offers no TLS between servers")
        elif self.awaiting is Awaiting.PROCEED and tag == f"{{{TLS}}}proceed":
            self.awaiting = Awaiting.HANDSHAKE
            self._outputs.append(StartTls())
        else:
            self._end("refused to begin TLS")

    def _end(self, why: str) -> None:
        self.awaiting = Awaiting.NOTHING
        self._outputs.append(Ended(EnvFault(f"the server of {self._domain} {why}")))
