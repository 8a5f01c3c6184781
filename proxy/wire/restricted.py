"""The XML that XMPP allows (RFC 6120, 11.1), its limits, and one parser for it.

Everything that comes from outside is read by expat with the same refusals,
whether it is a stream (``framing``) or the content of a sealed stanza
(``tree``), so there are no two readings of the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias
from xml.parsers.expat import ExpatError, ParserCreate, XMLParserType, errors

from ..errors import PeerFault

CLIENT_NS: Final = "jabber:client"
SERVER_NS: Final = "jabber:server"
COMPONENT_NS: Final = "jabber:component:accept"
STREAMS_NS: Final = "http://etherx.jabber.org/streams"
XML_NS: Final = "http://www.w3.org/XML/1998/namespace"

# U+0001 cannot occur in XML 1.0, not even as a character reference.  With any
# other separator expat refuses namespace names that hold it, and a stanza with
# such a name, which the server lets pass, would end the stream.
SEPARATOR: Final = "\x01"
WHITE: Final = b" \t\r\n"

StartHandler: TypeAlias = Callable[[str, dict[str, str]], object]
EndHandler: TypeAlias = Callable[[str], object]
DeclarationHandler: TypeAlias = Callable[[str | None, str | None], object]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stanza may measure.

    :param stanza: bytes, from its ``<`` to its last ``>``.
    :param hard: bytes that are read of a longer stanza in order to leave it out.
    :param depth: elements inside each other, the stanza itself counted.
    :param attributes: of one element, namespace declarations not counted.
    :param declarations: of namespaces, in the whole stanza.
    :param children: of the stanza element itself.
    :param name: bytes of an element's or attribute's name with its namespace.
    :param new_names: distinct names that the parser has not seen lately.
    """

    stanza: int
    hard: int
    depth: int
    attributes: int = 64
    declarations: int = 64
    children: int = 1024
    name: int = 512
    new_names: int = 4096


BEFORE_LOGIN: Final = Limits(stanza=10_000, hard=10_000, depth=32)
AFTER_LOGIN: Final = Limits(stanza=262_144, hard=2_097_152, depth=64)
PAYLOAD: Final = AFTER_LOGIN

_PREFIX_ERRORS = {
    errors.codes[message]
    for message in (
        errors.XML_ERROR_UNBOUND_PREFIX,
        errors.XML_ERROR_UNDECLARING_PREFIX,
        errors.XML_ERROR_RESERVED_PREFIX_XML,
        errors.XML_ERROR_RESERVED_PREFIX_XMLNS,
        errors.XML_ERROR_RESERVED_NAMESPACE_URI,
    )
}
_MISPLACED_DECLARATION = errors.codes[errors.XML_ERROR_MISPLACED_XML_PI]


def fault_of(error: ExpatError) -> PeerFault:
    """Name expat's *error* as a stream error condition (RFC 6120, 4.9.3)."""
    if error.code in _PREFIX_ERRORS:
        return PeerFault(
            "a namespace prefix is wrong or not declared",
            condition="bad-namespace-prefix",
        )
    if error.code == _MISPLACED_DECLARATION:
        return restricted("an XML declaration inside the stream")
    # Expat's message is a constant; line and column would tell how the bytes
    # happened to be cut.
    return PeerFault(
        f"the XML is not well-formed ({errors.messages[error.code]})",
        condition="not-well-formed",
    )


def restricted(what: str) -> PeerFault:
    """Build the fault for XML that RFC 6120, 11.1 forbids."""
    return PeerFault(f"{what} is not allowed in XMPP", condition="restricted-xml")


def _no_doctype(*_: object) -> NoReturn:
    raise restricted("a document type declaration")


def _no_instruction(_target: str, _data: str) -> NoReturn:
    raise restricted("a processing instruction")


def _no_comment(_data: str) -> NoReturn:
    raise restricted("a comment")


def _only_utf8(version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.lower() != "utf-8":
        raise PeerFault("the encoding is not UTF-8", condition="unsupported-encoding")
    if version != "1.0":
        raise PeerFault("the XML version is not 1.0", condition="not-well-formed")


def strict_parser(names: dict[str, Any], *, namespaces: bool = True) -> XMLParserType:
    """Create an expat parser that refuses what XMPP forbids.

    :param names: filled by the parser with each distinct name it meets.

    The refusals are raised as ``PeerFault`` out of ``Parse``.
    """
    # The encoding is pinned: a declaration of UTF-7 cannot turn text into tags.
    parser = ParserCreate("utf-8", SEPARATOR if namespaces else None, names)
    parser.StartDoctypeDeclHandler = _no_doctype
    parser.ProcessingInstructionHandler = _no_instruction
    parser.CommentHandler = _no_comment
    parser.XmlDeclHandler = _only_utf8
    # Expat 2.6 would hold back complete tags of small reads against quadratic
    # rescans; Expat (below) prevents those without delaying a stanza.
    defer = getattr(parser, "SetReparseDeferralEnabled", None)
    if defer is not None:
        defer(False)
    return parser


# A tag up to its '>', or up to a quote that does not close in these bytes.
_INSIDE_TAG = re.compile(rb"""[^'">]*+(?:(?:'[^']*+'|"[^"]*+")[^'">]*+)*+""")
_DECLARATION = re.compile(rb"<[!?]")
# Expat rescans an incomplete tag at each feed.  From this size on it gets the
# rest of the tag in one piece.
_LONG_TAG = 1024
_TEXT_BUFFER: Final = 512


def tag_end(data: bytes | bytearray, start: int) -> int:
    """Return the index behind the tag at *start*, which expat has accepted."""
    found = _INSIDE_TAG.match(data, start)
    assert found is not None
    return found.end() + 1


def count_declarations(header: bytes, data: bytes) -> int:
    """Count the namespace declarations in *data*, accepted under *header*."""
    parser = ParserCreate("utf-8", SEPARATOR)
    parser.Parse(header, False)
    count = 0

    def declared(_prefix: str | None, _uri: str | None) -> None:
        nonlocal count
        count += 1

    parser.StartNamespaceDeclHandler = declared
    parser.Parse(data, False)
    return count


class Expat:
    """A strict parser fed piece by piece, with the same result for every cut.

    What XMPP forbids is refused at its first bytes, not when it is complete,
    and each byte is looked at a bounded number of times however small the
    pieces are.  The price of the latter: what is not well-formed inside one
    long tag may be found only at the tag's end or in :meth:`flush`.

    :ivar parser: for ``CurrentByteIndex`` inside handlers: the number of bytes
        fed before the token that is being reported.
    :ivar names: the distinct names that the parser keeps until it is dropped.
    """

    __slots__ = (
        "_fed",
        "_in_cdata",
        "_open",
        "_quote",
        "_tail",
        "_unfed",
        "names",
        "parser",
    )

    def __init__(
        self, start: StartHandler, end: EndHandler, *, namespaces: bool = True
    ) -> None:
        self.names: dict[str, Any] = {}
        self.parser = parser = strict_parser(self.names, namespaces=namespaces)
        # Longer text comes unbuffered; the 8 KB that are usual would be most of what
        # a parser costs.
        parser.buffer_size = _TEXT_BUFFER
        parser.buffer_text = True
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.StartCdataSectionHandler = self._cdata_starts
        parser.EndCdataSectionHandler = self._cdata_ends
        self._in_cdata = False
        self._fed = 0
        self._open = b""  # the incomplete token that expat has been fed
        self._unfed = bytearray()  # more of it, kept until the tag is complete
        self._quote = b""  # the quote that is open at the end of _unfed
        self._tail = b""  # '<' or '<!', until the next byte says what it is

    def close(self) -> None:
        """Drop what the parser refers to; it must not be used any more."""
        parser = self.parser
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.StartNamespaceDeclHandler = parser.CharacterDataHandler = None
        parser.StartCdataSectionHandler = parser.EndCdataSectionHandler = None

    @property
    def in_cdata(self) -> bool:
        """True between ``<![CDATA[`` and ``]]>``."""
        return self._in_cdata

    def unconsumed(self) -> bytes:
        """Return the bytes at the end of the input that are no whole token yet."""
        return b"".join((self._open, self._unfed, self._tail))

    def feed(self, data: bytes) -> None:
        """Parse *data*, calling the handlers.

        :raises PeerFault: the XML is not well-formed or not allowed.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if len(self._open) > _LONG_TAG:
            data = self._rest_behind_tag(data)
        if data.endswith((b"<", b"<!")):
            cut = data.rindex(b"<")
            data, self._tail = data[:cut], data[cut:]
        if _DECLARATION.search(data):
            self._parse_watchfully(data)
        elif data:
            self._parse(data)

    def flush(self) -> None:
        """Parse what is being kept back, so that a fault in it is found.

        For the end of reading only: it loses the sight of a ``<`` at the end.
        """
        self._parse(self._unfed + self._tail)

    def _cdata_starts(self) -> None:
        self._in_cdata = True

    def _cdata_ends(self) -> None:
        self._in_cdata = False

    def _parse(self, data: bytes | bytearray) -> None:
        try:
            self.parser.Parse(data, False)
        except ExpatError as error:
            raise fault_of(error) from None
        self._fed += len(data)
        pending = self._fed - self.parser.CurrentByteIndex
        if not pending:
            self._open = b""
            return
        self._open = bytes((self._open + data)[-pending:])
        if pending > _LONG_TAG:
            self._quote = b""
            self._scan(self._open)

    def _rest_behind_tag(self, data: bytes) -> bytes:
        end = self._scan(data)
        if end < 0:
            self._unfed += data
            return b""
        tag = bytes(self._unfed + data[:end])
        self._unfed.clear()
        self._parse(tag)
        return data[end:]

    def _scan(self, data: bytes) -> int:
        """Return the index in *data* behind the end of the open token, or -1."""
        if self._open.startswith(b"&"):
            return data.find(b";") + 1 or -1
        at = 0
        if self._quote:
            at = data.find(self._quote) + 1
            if not at:
                return -1
        found = _INSIDE_TAG.match(data, at)
        assert found is not None
        self._quote = data[found.end() : found.end() + 1]
        return found.end() + 1 if self._quote == b">" else -1

    def _parse_watchfully(self, data: bytes) -> None:
        """Parse *data*, stopping before each ``<!`` and ``<?`` that is markup."""
        at = look = 0
        while found := _DECLARATION.search(data, look):
            here = found.start()
            if here > at:
                self._parse(data[at:here])
                at = here
            if self._in_cdata:
                look = data.find(b"]]>", here) + 3
                if look == 2:
                    break
                continue
            # Inside a tag it is an error, which expat finds.  A CR or ']' that
            # expat keeps back is text: then a token starts here all the same.
            if not self._open.strip(b"]\r"):
                self._judge(data[here : here + 3], first=not self._fed)
            look = here + 2
        self._parse(data[at:])

    def _judge(self, opening: bytes, *, first: bool) -> None:
        if opening == b"<![" or (first and opening == b"<?x"):
            return
        if opening == b"<!-":
            raise restricted("a comment")
        if opening.startswith(b"<!"):
            raise restricted("a document type declaration")
        raise restricted("a processing instruction")
