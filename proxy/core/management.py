"""Stream management towards the server: the client's half of XEP-0198.

Counts are of stanzas, modulo 2**32, from ``<enable/>`` and ``<enabled/>`` on.
What the server counts wrong is a fault that is raised, and ends the stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias
from xml.etree.ElementTree import Element

from ..errors import LocalFault, PeerFault
from ..wire.tree import serialise
from .streams import MANAGEMENT, STREAM_CONDITIONS, out_of_order
from .vocabulary import (
    Acked,
    Enabled,
    NotEnabled,
    Resumed,
    ResumeFailed,
    Send,
)

if TYPE_CHECKING:
    from ..wire.stanza import Stanza
    from .vocabulary import ServerOutput

Outputs: TypeAlias = "list[ServerOutput]"

REQUEST_EVERY = 10
"""After so many stanzas of ours the server is asked what it has handled."""

_MODULUS = 2**32
_COUNT = re.compile("[0-9]{1,10}", re.ASCII)
_REQUEST = f"<r xmlns='{MANAGEMENT}'/>".encode()
_ENABLE = f"<enable xmlns='{MANAGEMENT}' resume='true'/>".encode()


class TooHigh(PeerFault):
    """More was acknowledged than was sent; *farewell* tells the server so."""

    def __init__(self, who: str, h: int, sent: int) -> None:
        super().__init__(
            f"{who} acknowledged {h} stanzas but {sent} were sent",
            condition="undefined-condition",
        )
        self.farewell = (
            f"<stream:error><undefined-condition xmlns='{STREAM_CONDITIONS}'/>"
            f"<text xmlns='{STREAM_CONDITIONS}' xml:lang='en'>"
            f"{h} stanzas were acknowledged but {sent} were sent</text>"
            f"<handled-count-too-high xmlns='{MANAGEMENT}' h='{h}'"
            f" send-count='{sent}'/></stream:error></stream:stream>"
        ).encode()


class _State(Enum):
    OFF = auto()
    ASKED = auto()
    ON = auto()


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where an earlier stream was cut (XEP-0198, 5); all counts modulo 2**32.

    :param previd: the id that the server gave with ``<enabled/>``.
    :param received: stanzas of the server that were committed here.
    :param sent: stanzas sent on the earlier stream.
    :param acked: how many of them the server acknowledged.
    """

    previd: str
    received: int
    sent: int
    acked: int


class Management:
    """The counts of one stream.

    :param point: the earlier stream to resume, None for none.
    :param who: how the server is called in messages.

    ``ack_wanted`` says that the server asked; ``resuming`` that its answer to
    ``<resume/>`` is due.
    """

    def __init__(self, point: ResumePoint | None, who: str) -> None:
        self.received = 0
        self.sent = 0
        self.ack_wanted = False
        self.resuming = False
        self._point = point
        self._who = who
        self._state = _State.OFF
        self._acked = 0
        self._told = 0

    @property
    def on(self) -> bool:
        return self._state is _State.ON

    def count_received(self) -> None:
        self.received = (self.received + 1) % _MODULUS

    def count_sent(self) -> Outputs:
        """One more stanza left; now and then ask what was handled."""
        self.sent = (self.sent + 1) % _MODULUS
        return self.request() if self.sent % REQUEST_EVERY == 0 else []

    def enable(self) -> Outputs:
        """Ask for it, once; counting of what is sent starts here."""
        if self._state is not _State.OFF:
            raise LocalFault("stream management was asked for twice")
        self._state = _State.ASKED
        self.sent = self._acked = 0
        return [Send(_ENABLE)]

    def acknowledge(self, handled: int | None) -> Outputs:
        """Tell the server what is committed here; all that came if None."""
        h = self.received if handled is None else handled
        if not self.on or not (self.ack_wanted or h != self._told):
            return []
        self.ack_wanted = False
        self._told = h
        return [Send(f"<a xmlns='{MANAGEMENT}' h='{h}'/>".encode())]

    def request(self) -> Outputs:
        """Ask the server what it has handled."""
        return [Send(_REQUEST)] if self.on else []

    # -- the server's elements ------

    def take(self, stanza: Stanza) -> Outputs:
        """Take an element of the live stream that is no stanza.

        :raises PeerFault: a count that cannot be.
        """
        if stanza.ns != MANAGEMENT:
            return []
        if self._state is _State.ASKED:
            return self._on_enabled(stanza)
        if self.on and stanza.name == "r":
            self.ack_wanted = True
        elif self.on and stanza.name == "a":
            return self._on_ack(stanza)
        return []

    def _on_enabled(self, stanza: Stanza) -> Outputs:
        if stanza.name == "failed":
            self._state = _State.OFF
            return [NotEnabled()]
        if stanza.name != "enabled":
            return []
        self._state = _State.ON
        self.received = self._told = 0
        resumable = stanza.attrs.get("resume") in ("true", "1")
        previd = stanza.attrs.get("id") if resumable else None
        seconds = _count(stanza.attrs.get("max")) if previd else None
        return [Enabled(previd or None, seconds)]

    def _on_ack(self, stanza: Stanza) -> Outputs:
        h = _count(stanza.attrs.get("h"))
        if h is None:
            raise PeerFault(f"{self._who} acknowledged without a count")
        if not _within(h, self._acked, self.sent):
            raise TooHigh(self._who, h, self.sent)
        self._acked = h
        return [Acked(h)]

    # -- resumption ------

    def resume(self) -> Outputs:
        """Ask for the earlier stream."""
        assert self._point is not None
        self.resuming = True
        attributes = {"previd": self._point.previd, "h": str(self._point.received)}
        return [Send(serialise(Element(f"{{{MANAGEMENT}}}resume", attributes)))]

    def take_answer(self, stanza: Stanza) -> Resumed | ResumeFailed:
        """The server's answer to :meth:`resume`.

        :raises PeerFault: it is none, or its count cannot be.
        """
        if stanza.ns != MANAGEMENT or stanza.name not in ("resumed", "failed"):
            raise out_of_order(self._who, stanza.name)
        point = self._point
        assert point is not None
        h = _count(stanza.attrs.get("h"))
        possible = h is not None and _within(h, point.acked, point.sent)
        if stanza.name == "failed":
            self.resuming = False
            # A count that cannot be is no reason to believe anything was handled.
            return ResumeFailed(h if possible else None)
        if h is None or stanza.attrs.get("previd") != point.previd:
            raise PeerFault(f"{self._who} resumed another stream than was asked for")
        if not possible:
            raise TooHigh(self._who, h, point.sent)
        self.resuming = False
        self._state = _State.ON
        self.received = self._told = point.received
        self.sent = self._acked = h
        return Resumed(h)


def _count(text: str | None) -> int | None:
    if text is None or _COUNT.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number < _MODULUS else None


def _within(h: int, acked: int, sent: int) -> bool:
    """Tell whether *h* lies from *acked* to *sent*, going round at 2**32."""
    return (h - acked) % _MODULUS <= (sent - acked) % _MODULUS
