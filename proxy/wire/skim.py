"""Reading a stanza that is over the limits to its end, to leave it out.

Such a stanza may come from anybody by way of an honest server, which would
deliver it again after each reconnect: closing the stream would never end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import PeerFault
from .restricted import Expat, Limits

_KEPT: Final = ("to", "from", "id", "type")
# A JID has at most three parts of 1,023 bytes (RFC 7622, 3.1).
_LONGEST_VALUE: Final = 3071
# Expat spends about 130 bytes on an open element.
_BYTES_PER_LEVEL: Final = 64
_RENEW_AFTER_NAMES: Final = 4096
# Bounds the names between two looks at their number.
_PIECE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Skimmed:
    """What is known of a stanza that was read and not kept.

    :param tag: its name as it is spelt, with the prefix.
    :param attrs: the un-namespaced ones among ``to``, ``from``, ``id`` and
        ``type``, as far as they are no longer than a JID can be.
    :param declared: its own namespace declarations, by prefix.
    :param size: in bytes.
    """

    tag: str
    attrs: dict[str, str]
    declared: dict[str, str]
    size: int


class _End(Exception):
    """The stanza is over; leaves expat."""


class Skimmer:
    """Checks one stanza for being well-formed and finds its end.

    It knows no namespaces: with them, each of a million short tags could cost a
    copy of a long namespace name.  Memory is bounded whatever the stanza holds;
    of the bytes nothing is kept but a tag that is not complete.
    """

    __slots__ = (
        "_after",
        "_attrs",
        "_declared",
        "_deepest",
        "_expat",
        "_hard",
        "_last",
        "_open",
        "_piece",
        "_seen_content",
        "_shift",
        "_size",
        "_tag",
    )

    def __init__(self, limits: Limits) -> None:
        self._hard = limits.hard
        self._deepest = limits.hard // _BYTES_PER_LEVEL
        self._open: list[str] = []
        self._tag = ""
        self._attrs: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        self._seen_content = False
        self._piece = b""
        self._last = b""  # the byte before the piece
        self._after = 0
        self._size = 0  # bytes before the piece
        self._shift = 0  # what expat counts more than that
        self._expat = self._new_parser()

    def feed(self, data: bytes) -> tuple[Skimmed | None, bytes]:
        """Read on; return what it was, if it is over, and what is left of *data*.

        :raises PeerFault: not well-formed, not allowed in XMPP, over the hard
            limit, or nested so deeply that reading it would cost too much memory.
        """
        room = min(self._hard - self._size, _PIECE)
        if not room:
            self._expat.flush()
            raise _policy(f"a stanza is longer than {self._hard} bytes")
        self._piece = piece = data[:room]
        try:
            self._expat.feed(piece)
        except _End:
            self._expat.close()
            return self._skimmed(), data[self._after :]
        self._size += len(piece)
        self._last = piece[-1:] or self._last
        self._piece = b""
        if len(self._expat.names) > _RENEW_AFTER_NAMES and not self._expat.in_cdata:
            self._renew()
        return None, data[room:]

    def _new_parser(self) -> Expat:
        expat = Expat(self._start, self._end, namespaces=False)
        expat.parser.CharacterDataHandler = self._text
        return expat

    def _renew(self) -> None:
        """Go on with a parser that has seen nothing but the open elements."""
        pending = self._expat.unconsumed()
        self._expat.close()
        self._expat = self._new_parser()
        tags = "".join(f"<{name}>" for name in self._open).encode()
        self._open.clear()
        self._shift = len(tags) - (self._size - len(pending))
        self._expat.feed(tags)
        self._expat.feed(pending)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._tag:
            self._describe(name, attributes)
        else:
            self._seen_content = True
        self._open.append(name)
        if len(self._open) > self._deepest:
            raise _policy(f"a stanza nests more than {self._deepest} elements")

    def _text(self, _data: str) -> None:
        self._seen_content = True

    def _end(self, _name: str) -> None:
        self._open.pop()
        if self._open:
            return
        # For an end tag expat reports where it starts, for an empty-element tag
        # where it ends.  The last byte of either has just come.
        at = self._expat.parser.CurrentByteIndex - self._shift - self._size
        if self._was_empty_tag(at):
            self._after = at
        else:
            self._after = self._piece.index(b">", max(at, 0)) + 1
        raise _End

    def _was_empty_tag(self, at: int) -> bool:
        if self._seen_content or at < 1:
            return False
        end = len(self._last) + at
        return (self._last + self._piece)[end - 2 : end] == b"/>"

    def _describe(self, tag: str, attributes: dict[str, str]) -> None:
        self._tag = tag
        for key, value in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                self._declared[key[6:]] = value
            elif key in _KEPT and len(value) <= _LONGEST_VALUE:
                self._attrs[key] = value

    def _skimmed(self) -> Skimmed:
        size = self._size + self._after
        return Skimmed(self._tag, self._attrs, self._declared, size)


def _policy(text: str) -> PeerFault:
    return PeerFault(text, condition="policy-violation")
