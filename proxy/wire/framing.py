"""Cutting the bytes of an XML stream into stanzas (RFC 6120, 4 and 11).

The events are the same however the bytes are cut into pieces, and what is wrong
is refused before anything behind it is looked at.  Between two stanzas nothing
is kept, and the parser is renewed before the names it remembers add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn
from xml.etree.ElementTree import TreeBuilder

from ..errors import LocalFault, PeerFault
from .beginning import BYTE_ORDER_MARK, LESS_THAN, begins_document
from .events import Broken, Closed, Event, Opened, Received, Skipped
from .restricted import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    CLIENT_NS,
    COMPONENT_NS,
    PAYLOAD,
    SEPARATOR,
    SERVER_NS,
    STREAMS_NS,
    WHITE,
    XML_NS,
    Expat,
    Limits,
    count_declarations,
    tag_end,
)
from .skim import Skimmed, Skimmer
from .stanza import Scope, Stanza
from .tree import clark, clark_attributes, longest_name
from .turns import Close, Over, Renew, Turn

__all__ = (
    "AFTER_LOGIN",
    "BEFORE_LOGIN",
    "CLIENT_NS",
    "COMPONENT_NS",
    "PAYLOAD",
    "SERVER_NS",
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
_STREAMS: Final = {
    CLIENT_NS: "a client's stream",
    SERVER_NS: "a stream between servers",
    COMPONENT_NS: "a component's stream",
}
# Names, and declarations: expat keeps each prefix too.
_RENEW_AFTER_NAMES: Final = 8192
# Expat never gives back the buffer that a long stanza needed.
_RENEW_AFTER_BYTES: Final = 8192
# Ordinary ones have some 200 bytes.
_LONG_HEADER: Final = 1024
_STREAM_TAG: Final = f"{STREAMS_NS}{SEPARATOR}stream"
# Rules always look into messages, so their trees grow as they are read; of other
# stanzas few are looked into, and those are read once more (``Stanza.tree``).
_GROWN: Final = f"{{{CLIENT_NS}}}message"
_POLICY: Final = "policy-violation"


class Framer:
    """Turns the bytes of one direction of one stream into events.

    :param limits: may be set to others between two calls of :meth:`feed`.
    :param skip_over_limits: whether a well-formed stanza over the limits is left
        out and reported as :class:`Skipped`, or breaks the stream.
    :param content: the content namespace that the header has to declare (RFC 6120,
        4.8.2).  Stanzas of another than a client's are never passed on as the
        bytes they came in.
    :param grown: Clark name of the stanzas that come with their tree.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        skip_over_limits: bool = False,
        content: str = CLIENT_NS,
        grown: str = _GROWN,
    ) -> None:
        self.limits = limits
        self._skip = skip_over_limits
        self._content = content
        self._grown = grown[1:].replace("}", SEPARATOR)
        self._events: list[Event] = []
        self._broken = False
        self._take: Callable[[bytes], bytes] = self._sniff
        self._marked = self._spaced = False
        # From the start of the open stanza, or of the header before it is whole.
        self._buf: bytes | bytearray = b""
        self._base = 0  # bytes that the parser was fed before _buf
        self._next = 0  # index in _buf behind the last stanza
        self._start_at = 0  # index in _buf of the open stanza
        self._depth = 0  # 1 in the stream, 2 in a stanza
        self._tag = ""
        self._attributes: dict[str, str] = {}
        self._children: list[str] = []
        self._tree: TreeBuilder | None = None  # of the open stanza
        self._declarations = 0  # since the parser was new
        self._scope: dict[str, str] = {}
        self._header = b""
        self._foreign: Scope | None = None
        self._skimmer: Skimmer | None = None
        self._reason = ""
        self._fed = True  # since the last call of rest()
        self._start_parser()
        self._parser.StartNamespaceDeclHandler = self._header_declares

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return what they complete.

        :raises LocalFault: called again after :class:`Broken`.
        """
        if self._broken:
            raise LocalFault("bytes were fed to a stream that is broken")
        events: list[Event] = []
        self._events = events
        self._fed = True
        try:
            self._feed(data)
        except PeerFault as fault:
            events.append(Broken(fault.condition, fault.text))
            self._broken = True
            self._forget()
        # what was read is the caller's now
        self._events = []
        return events

    def rest(self, *, at_once: bool = False) -> None:
        """To be called now and then: a stream that is quiet gives up its parser.

        Where nothing was fed since the last call and no stanza is open, the next
        bytes are read as behind a renewal, by a parser that knows the header only.

        :param at_once: not only where nothing was fed, unless the header is so long
            that reading it again and again would cost more than the parser does.
        """
        short = len(self._header) < _LONG_HEADER
        quiet, self._fed = (at_once and short) or not self._fed, False
        if quiet and self._depth == 1 and self.clean and self._take == self._frame:
            self._let_go()
            self._use(_NO_PARSER)
            self._take = self._wake

    def close(self) -> None:
        """Let go of the parser at once; nothing may be fed any more.

        Its handlers would keep it until the collector comes, which is rarely.
        """
        self._broken = True
        self._buf = b""
        self._skimmer = None
        self._take = bytes
        self._expat.close()

    @property
    def clean(self) -> bool:
        """True while no part of a header or stanza waits for the rest of it."""
        return not (self._buf or self._skimmer or self._broken)

    # -- pieces -------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        # What is within the size limit is always read before the limit is
        # judged, so that which of two faults is reported does not depend on how
        # the bytes were cut.
        at = 0
        while at < len(data):
            room = self.limits.stanza - len(self._buf)
            if room > 0:
                part = data[at : at + room]
                at += len(part)
            else:
                part = self._too_long()
            while part:
                part = self._take(part)

    def _too_long(self) -> bytes:
        self._expat.flush()
        try:
            self._over(f"is longer than {self.limits.stanza} bytes")
        except Over as over:
            return self._begin_skimming(over.reason)

    def _sniff(self, part: bytes) -> bytes:
        """Look at the first bytes: what is no XMPP at all ends here."""
        head = bytes(self._buf) + part
        if not self._marked:
            if BYTE_ORDER_MARK.startswith(head):
                self._buf = head
                return b""
            self._marked = True
            head = head.removeprefix(BYTE_ORDER_MARK)
        bare = head.lstrip(WHITE)
        self._spaced = self._spaced or len(bare) < len(head)
        if not begins_document(bare, spaced=self._spaced):
            self._buf = bare
            return b""
        self._buf = b""
        self._take = self._frame
        return bare

    def _frame(self, part: bytes) -> bytes:
        if not self._buf:
            # Keepalives (RFC 6120, 4.6.1) go no further than here.
            self._buf = part = part.lstrip(WHITE) if self._depth == 1 else part
        else:
            self._append(part)
        try:
            self._expat.feed(part)
        except Turn as turn:
            return self._turn(turn)
        except PeerFault:
            if self._depth == 1:
                self._between()
            raise
        self._trim()
        return b""

    def _wake(self, part: bytes) -> bytes:
        part = part.lstrip(WHITE)
        if part:
            self._resume()
            self._take = self._frame
        return part

    def _append(self, part: bytes) -> None:
        # It grows in place: a long stanza in small pieces stays linear.
        if isinstance(self._buf, bytes):
            self._buf = bytearray(self._buf)
        self._buf += part

    def _trim(self) -> None:
        """Keep in the buffer only what is not a whole stanza yet."""
        if self._depth > 1:
            done = self._start_at
        elif self._depth == 1:
            done = self._between()
        else:
            return
        if done:
            self._base += done
            self._buf = self._buf[done:]
            self._next = self._start_at = 0

    def _between(self) -> int:
        """Return the index of the first byte of the next stanza.

        :raises PeerFault: text other than white space stands before it.
        """
        buf, at = self._buf, self._next
        if at == len(buf):
            return at
        if buf[at] != LESS_THAN:
            at = len(buf) - len(buf[at:].lstrip(WHITE))
        # A CDATA section is text too, even before it is complete.
        if buf[at : at + 1] not in (b"", b"<") or buf[at : at + 3] == b"<![":
            raise _text_between()
        return at

    def _turn(self, turn: Turn) -> bytes:
        if isinstance(turn, Over):
            return self._begin_skimming(turn.reason)
        rest = bytes(self._buf[self._next :])
        self._buf = b""
        if isinstance(turn, Close):
            self._forget()
            self._take = self._after
        else:
            self._resume()
        return rest

    def _after(self, part: bytes) -> bytes:
        if part.strip(WHITE):
            raise PeerFault("bytes behind the end of the stream")
        return b""

    # -- stanzas left out ---------------------------------------------------

    def _over(self, reason: str) -> NoReturn:
        if not self._header:
            raise PeerFault(f"the stream header {reason}", condition=_POLICY)
        if not self._skip:
            raise PeerFault(f"a stanza {reason}", condition=_POLICY)
        raise Over(reason)

    def _begin_skimming(self, reason: str) -> bytes:
        start = self._between() if self._depth == 1 else self._start_at
        rest = bytes(self._buf[start:])
        self._forget()
        self._reason = reason
        self._skimmer = Skimmer(self.limits)
        self._take = self._skim
        return rest

    def _skim(self, part: bytes) -> bytes:
        assert self._skimmer is not None
        skimmed, rest = self._skimmer.feed(part)
        if skimmed is not None:
            self._skimmer = None
            self._events.append(self._skipped(skimmed))
            self._resume()
            self._take = self._frame
        return rest

    def _skipped(self, skimmed: Skimmed) -> Skipped:
        prefix, _, name = skimmed.tag.rpartition(":")
        namespace = skimmed.declared.get(prefix, self._scope.get(prefix, ""))
        return Skipped(name, namespace, skimmed.attrs, skimmed.size, self._reason)

    # -- the parser ---------------------------------------------------------

    def _forget(self) -> None:
        """Let go of everything that has been read."""
        self._let_go()
        # A fresh one, unused, in place of one that keeps its buffers.
        self._start_parser()

    def _let_go(self) -> None:
        self._buf = b""
        self._children = []
        self._attributes = {}
        self._tree = self._skimmer = None
        self._expat.close()

    def _start_parser(self) -> None:
        self._use(Expat(self._start, self._end))

    def _use(self, expat: Expat) -> None:
        self._expat = expat
        self._parser = expat.parser
        self._names = expat.names
        self._known = self._names_before = 0

    def _resume(self) -> None:
        """Go on behind a stanza with a parser that knows the header only."""
        self._expat.close()
        self._start_parser()
        self._parser.StartElementHandler = None
        self._expat.feed(self._header)
        self._parser.StartElementHandler = self._start
        self._base = len(self._header)
        self._next = self._start_at = 0
        self._depth = 1
        self._declarations = 0

    def _header_declares(self, prefix: str | None, uri: str | None) -> None:
        if len(self._scope) == self.limits.declarations:
            self._over(_too_many_declarations(self.limits))
        self._scope[prefix or ""] = uri or ""

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth = depth = self._depth + 1
        if depth == 3:
            self._children.append(tag)
        elif depth == 2:
            self._open_stanza(tag, attributes)
        limits = self.limits
        if (
            len(self._names) != self._known
            or depth > limits.depth
            or len(attributes) > limits.attributes
        ):
            self._measure(limits, attributes)
        if self._tree is not None:
            if attributes:
                attributes = clark_attributes(attributes)
            self._tree.start(clark(tag), attributes)
        elif depth == 1:
            self._open_stream(tag, attributes)

    def _end(self, _tag: str) -> None:
        self._depth = depth = self._depth - 1
        if self._tree is not None:
            # The C builder closes whatever is open; expat has matched the names.
            self._tree.end("")
        if depth == 1:
            self._close_stanza()
        elif not depth:
            self._close_stream()

    def _measure(self, limits: Limits, attributes: dict[str, str]) -> None:
        if self._depth > limits.depth + 1:  # the stream is around the stanza
            self._over(f"nests more than {limits.depth} elements")
        if len(attributes) > limits.attributes:
            self._over(f"has more than {limits.attributes} attributes in one element")
        longest = longest_name(self._names, len(self._names) - self._known)
        self._known = len(self._names)
        if longest > limits.name:
            self._over(f"has a name of more than {limits.name} bytes")
        if self._known - self._names_before > limits.new_names:
            self._over(f"uses more than {limits.new_names} new names")

    def _open_stream(self, tag: str, attributes: dict[str, str]) -> None:
        if not tag.startswith(STREAMS_NS) or self._scope.get("") != self._content:
            what = _STREAMS[self._content]
            raise PeerFault(
                f"the stream header has other namespaces than {what}",
                condition="invalid-namespace",
            )
        if tag != _STREAM_TAG:
            raise PeerFault("the stream begins with another element than a stream")
        start = self._parser.CurrentByteIndex - self._base
        end = tag_end(self._buf, start)
        header = bytes(self._buf[start:end])
        if header.endswith(b"/>"):
            raise PeerFault("the stream header ends the stream")
        self._header = header
        self._next = end
        foreign = any(
            _USUAL_SCOPE.get(prefix) != uri for prefix, uri in self._scope.items()
        )
        if foreign:
            self._foreign = Scope(header, header[1:].split(None, 1)[0])
        self._parser.StartNamespaceDeclHandler = None
        opened = Opened(clark_attributes(attributes), self._content, foreign)
        self._events.append(opened)

    def _close_stream(self) -> None:
        end = self._parser.CurrentByteIndex - self._base
        if self._buf[self._next : end].strip(WHITE):
            raise _text_between()
        self._next = self._buf.index(b">", end) + 1
        self._events.append(Closed())
        raise Close

    def _open_stanza(self, tag: str, attributes: dict[str, str]) -> None:
        start = self._parser.CurrentByteIndex - self._base
        if start != self._next and self._buf[self._next : start].strip(WHITE):
            raise _text_between()
        if tag == _STREAM_TAG:
            raise PeerFault("a second stream header")
        self._start_at = start
        self._tag = tag
        self._attributes = attributes
        self._children = []
        self._names_before = self._known
        if tag == self._grown:
            self._tree = TreeBuilder()
            self._parser.CharacterDataHandler = self._tree.data

    def _close_stanza(self) -> None:
        buf, start = self._buf, self._start_at
        end = self._parser.CurrentByteIndex - self._base
        # Expat reports an end tag at its start and an empty-element tag at its
        # end; "/>" before a "</" may also be text.
        if self._children or not _is_empty_tag(buf, start, end):
            end = buf.index(b">", end) + 1
        data = bytes(buf[start:end])
        tree = None
        if self._tree is not None:
            self._parser.CharacterDataHandler = None
            tree, self._tree = self._tree.close(), None
        self._measure_whole(data)
        stanza = Stanza(
            clark(self._tag),
            clark_attributes(self._attributes),
            tuple([clark(child) for child in self._children]),
            data=data,
            foreign=self._foreign,
            tree=tree,
        )
        self._next = end
        self._events.append(Received(stanza))
        if len(self._names) + self._declarations > _RENEW_AFTER_NAMES:
            raise Renew
        if end - start > _RENEW_AFTER_BYTES:
            raise Renew

    def _measure_whole(self, data: bytes) -> None:
        limits = self.limits
        if len(self._children) > limits.children:
            self._over(f"has more than {limits.children} children")
        # At least as many as there are; the handler would cost more than all
        # else does for an ordinary stanza.
        declarations = data.count(b"xmlns")
        if declarations > limits.declarations:
            declarations = count_declarations(self._header, data)
            if declarations > limits.declarations:
                self._over(_too_many_declarations(limits))
        self._declarations += declarations


def _nothing(*_: object) -> None:
    """Never called."""


# In place of one that was given up; it is fed nothing.
_NO_PARSER: Final = Expat(_nothing, _nothing)


def _too_many_declarations(limits: Limits) -> str:
    return f"declares more than {limits.declarations} namespaces"


def _text_between() -> PeerFault:
    return PeerFault("text between two stanzas")


def _is_empty_tag(buf: bytes | bytearray, start: int, end: int) -> bool:
    return buf[end - 2 : end] == b"/>" and tag_end(buf, start) == end
