"""Cutting the bytes of an XML stream into stanzas (RFC 6120, 4 and 11).

The events are the same however the bytes are cut into pieces, and what is wrong
is refused before anything behind it is looked at.  Between two stanzas nothing
is kept, and the parser is renewed before the names it remembers add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from ..errors import LocalFault, PeerFault
from .restricted import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    CLIENT_NS,
    PAYLOAD,
    STREAMS_NS,
    WHITE,
    XML_NS,
    Expat,
    Limits,
    restricted,
    tag_end,
)
from .skim import Skimmed, Skimmer
from .stanza import Scope, Stanza
from .tree import clark, clark_attributes, longest_name

__all__ = (
    "AFTER_LOGIN",
    "BEFORE_LOGIN",
    "PAYLOAD",
    "Broken",
    "Closed",
    "Event",
    "Framer",
    "Limits",
    "Opened",
    "Received",
    "Skipped",
)

# What a stream header declares without making raw stanzas depend on it.
_USUAL_SCOPE: Final = {"": CLIENT_NS, "stream": STREAMS_NS, "xml": XML_NS}
_RENEW_AFTER_NAMES: Final = 2048
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream header came.

    :param attrs: plain names, and Clark names for those with a namespace.
    :param default_ns: the content namespace, always ``jabber:client``.
    :param foreign: the header declares more than the usual two namespaces, so
        that stanzas cannot be passed on as the bytes they came in.
    """

    attrs: Mapping[str, str]
    default_ns: str
    foreign: bool


@dataclass(frozen=True, slots=True)
class Received:
    """One first-level element of the stream, of whatever name."""

    stanza: Stanza


@dataclass(frozen=True, slots=True)
class Skipped:
    """A well-formed first-level element over the limits came and was left out.

    :param attrs: of ``to``, ``from``, ``id``, ``type`` what was there and no
        longer than a JID can be.
    :param size: bytes.
    :param reason: the limit, for people: "is longer than 262144 bytes".
    """

    name: str
    ns: str
    attrs: Mapping[str, str]
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The far side closed its stream."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream cannot be read on; the last event.

    :param condition: of RFC 6120, 4.9.3.
    :param text: for people.
    """

    condition: str
    text: str


Event: TypeAlias = Opened | Received | Skipped | Closed | Broken


class _Turn(Exception):
    """Leaves expat: what follows is not for this parser."""


class _Renew(_Turn):
    """The parser remembers enough names."""


class _Close(_Turn):
    """The stream is closed."""


class _Over(_Turn):
    """The stanza is over a limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Framer:
    """Turns the bytes of one direction of one stream into events.

    :param limits: may be set to others between two calls of :meth:`feed`.
    :param skip_over_limits: whether a well-formed stanza over the limits is left
        out and reported as :class:`Skipped`, or breaks the stream.
    """

    def __init__(self, limits: Limits, *, skip_over_limits: bool = False) -> None:
        self.limits = limits
        self._skip = skip_over_limits
        self._events: list[Event] = []
        self._take = self._sniff
        # Since the start of the open stanza, or of the stream before its header.
        self._buf: bytes | bytearray = b""
        self._base = 0  # what expat has been fed before _buf
        self._next = 0  # index in _buf behind the last stanza
        self._start_at = 0  # index in _buf of the open stanza
        self._depth = 0  # 1 in the stream, 2 in a stanza
        self._tag = ""
        self._attrs: dict[str, str] = {}
        self._children: list[str] = []
        self._declarations = 0
        self._scope: dict[str, str] = {}
        self._header = b""
        self._foreign: Scope | None = None
        self._skimmer: Skimmer | None = None
        self._reason = ""
        self._start_parser()

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return what they complete.

        :raises LocalFault: called again after :class:`Broken`.
        """
        events: list[Event] = []
        self._events = events
        try:
            self._feed(data)
        except PeerFault as fault:
            events.append(Broken(fault.condition, fault.text))
            self._release()
            self._take = self._refuse
        self._events = []
        return events

    @property
    def clean(self) -> bool:
        """True while no part of a stanza (or of the header) is waiting."""
        return not self._buf and self._skimmer is None and self._take != self._refuse

    # -- pieces -------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            room = self._room()
            if room <= 0:
                self._too_long()
                continue
            part = data[at : at + room]
            at += len(part)
            while part:
                part = self._take(part)

    def _room(self) -> int:
        """Return how many bytes may be read before a size limit has to be judged.

        What is within the limit is always read first, so that it does not depend
        on the pieces which of two faults is reported.
        """
        if self._skimmer is not None:
            return self._skimmer.room()
        return self.limits.stanza - len(self._buf)

    def _too_long(self) -> None:
        if self._skimmer is not None:
            raise self._skimmer.fail()
        self._expat.flush()
        reason = f"is longer than {self.limits.stanza} bytes"
        try:
            self._over(reason)
        except _Over as over:
            part = self._skim_from(0, over)
        while part:
            part = self._take(part)

    def _sniff(self, part: bytes) -> bytes:
        head = bytes(self._buf) + part
        start = _document_start(head)
        if start is None:
            # White space before the header is worth no memory; a byte order mark
            # and all of the first tag's opening are.
            self._buf = head if head.strip(WHITE) else b""
            self._spaced = True
            return b""
        self._buf = b""
        self._take = self._frame
        return head[start:]

    def _frame(self, part: bytes) -> bytes:
        if not self._buf:
            if self._depth == 1:
                part = part.lstrip(WHITE)
            self._buf = part
        else:
            self._append(part)
        try:
            self._expat.feed(part)
        except _Turn as turn:
            return self._turn(turn)
        except PeerFault:
            self._refuse_text()
            raise
        if self._depth:
            self._trim()
        return b""

    def _append(self, part: bytes) -> None:
        # A bytearray grows in place: small pieces of a long stanza stay linear.
        if isinstance(self._buf, bytes):
            self._buf = bytearray(self._buf)
        self._buf += part

    def _trim(self) -> None:
        """Keep of the buffer only what is not a whole stanza yet."""
        buf = self._buf
        done = self._start_at
        if self._depth == 1:
            self._refuse_text()
            done = self._next
            done += len(buf) - done - len(buf[done:].lstrip(WHITE))
        self._base += done
        self._buf = buf[done:]
        self._next = self._start_at = 0

    def _refuse_text(self) -> None:
        """Refuse anything but tags and white space between two stanzas."""
        if self._depth != 1:
            return
        behind = self._buf[self._next :].lstrip(WHITE)
        if behind and not behind.startswith(b"<"):
            raise PeerFault("text between two stanzas")

    def _turn(self, turn: _Turn) -> bytes:
        self._refuse_text() if isinstance(turn, _Over) else None
        return b""
