"""Reading elements of one kind, one after the other, with a parser that stays warm.

To make a parser and teach it the names costs more than to read a short element.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element

from .framing import PAYLOAD, Framer, Received
from .tree import parse

_HEADER: Final = (
    b"<_:stream xmlns='jabber:client' xmlns:_='http://etherx.jabber.org/streams'>"
)
# A stream declares a prefix, which these elements may not use.
_PREFIX: Final = b"_:"


class Reader:
    """Reads what :func:`tree.parse` reads, within the same limits.

    :param name: Clark name of the elements that are expected.

    As between two stanzas of a stream, nothing is kept from one to the next but
    names, until there are too many.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._framer: Framer | None = None

    def read(self, data: bytes) -> Element:
        """:raises PeerFault: see :func:`tree.parse`."""
        if _PREFIX in data:
            return parse(data)
        framer, self._framer = self._framer or self._fresh(), None
        events = framer.feed(data)
        if len(events) != 1 or not isinstance(events[0], Received) or not framer.clean:
            # no element, several, or none that is allowed: that framer is lost, and
            # what is wrong is said by the reading of these bytes alone
            return parse(data)
        self._framer = framer
        return events[0].stanza.tree()

    def _fresh(self) -> Framer:
        framer = Framer(PAYLOAD, grown=self._name)
        framer.feed(_HEADER)
        return framer
