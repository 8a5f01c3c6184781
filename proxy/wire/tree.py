"""Trees out of bytes and bytes out of trees, with nothing added or lost.

A tree is an ``xml.etree.ElementTree.Element`` with Clark names
(``{namespace}name``); there are no comments or processing instructions in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError

from ..errors import LocalFault, PeerFault
from .restricted import (
    CLIENT_NS,
    PAYLOAD,
    SEPARATOR,
    WHITE,
    XML_NS,
    Limits,
    fault_of,
    strict_parser,
)

_XML_WHITE: Final = WHITE.decode()
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Far above what may come in; only a tree of our own making can be deeper.
_DEEPEST: Final = 256


def parse(
    data: bytes, *, limits: Limits = PAYLOAD, default: str = CLIENT_NS
) -> Element:
    """Read exactly one element.

    :param data: UTF-8; white space around the element is allowed.
    :param default: the namespace of names without prefix, as far as *data* does
        not say otherwise.  No prefix is declared from outside.
    :raises PeerFault: not well-formed, not allowed in XMPP (RFC 6120, 11.1),
        over the *limits*, or not exactly one element.
    """
    if len(data) > limits.stanza:
        raise _over(f"is longer than {limits.stanza} bytes")
    return _build(b"<_ xmlns='%b'>" % quoted(default).encode(), data, b"</_>", limits)


def parse_within(header: bytes, closing: bytes, data: bytes) -> Element:
    """Read one element whose namespaces are declared by the tag *header*.

    *data* has been within the limits before; they are not asked again.
    """
    return _build(header, data, closing, None)


def stored(data: bytes) -> Element:
    """Read a stanza that was kept here; what is kept has been within the limits.

    :raises PeerFault: it is not one element.
    """
    return parse_within(_STORED, b"</s>", data)


_STORED = b"<s xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"


def _over(what: str) -> PeerFault:
    return PeerFault(f"the stanza {what}", condition="policy-violation")


@lru_cache(maxsize=1024)  # bounded: names come from strangers
def clark(name: str) -> str:
    """Turn expat's name for an element or attribute into ``{namespace}name``."""
    if SEPARATOR in name:
        return "{" + name.replace(SEPARATOR, "}")
    return name


def clark_attributes(attributes: dict[str, str]) -> dict[str, str]:
    """Turn expat's attribute names into Clark names."""
    for name in attributes:
        if SEPARATOR in name:
            return {clark(key): value for key, value in attributes.items()}
    return attributes


class _Builder:
    """Builds the tree of what stands between an opening and a closing tag."""

    __slots__ = (
        "_before",
        "_children",
        "_declarations",
        "_depth",
        "_limits",
        "_names",
        "_tree",
        "closing",
        "element",
    )

    def __init__(self, names: dict[str, object], limits: Limits | None) -> None:
        self._tree = TreeBuilder()
        self._names = names
        self._limits = limits
        self._before = 0
        self._depth = -1
        self._children = 0
        self._declarations = 0
        self.element: Element | None = None
        self.closing = False

    def begin(self) -> None:
        self._before = len(self._names)
        self._declarations = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth = depth = self._depth + 1
        if depth == 0:
            return
        if depth == 1 and self.element is not None:
            raise PeerFault("more than one element")
        if self._limits is not None:
            self._measure(self._limits, depth, attributes)
        element = self._tree.start(clark(name), clark_attributes(attributes))
        if depth == 1:
            self.element = element

    def end(self, _name: str) -> None:
        self._depth = depth = self._depth - 1
        if depth >= 0:
            # The C builder closes whatever is open; expat has matched the names.
            self._tree.end("")
        elif not self.closing:
            raise PeerFault(
                "an end tag without its start tag", condition="not-well-formed"
            )

    def text(self, data: str) -> None:
        if self._depth > 0:
            self._tree.data(data)
        elif data.strip(_XML_WHITE):
            raise PeerFault("text outside the element")

    def declared(self, _prefix: str | None, uri: str | None) -> None:
        limits = self._limits
        if limits is None:
            return
        self._declarations += 1
        if self._declarations > limits.declarations:
            raise _over(f"declares more than {limits.declarations} namespaces")
        # Before any name is built from it: each would hold a copy.
        if uri and len(uri) * 4 > limits.name < len(uri.encode()):
            raise _over(f"has a name of more than {limits.name} bytes")

    def _measure(self, limits: Limits, depth: int, attributes: dict[str, str]) -> None:
        if depth > limits.depth:
            raise _over(f"nests more than {limits.depth} elements")
        if len(attributes) > limits.attributes:
            raise _over(f"has more than {limits.attributes} attributes in one element")
        if depth == 2:
            self._children += 1
            if self._children > limits.children:
                raise _over(f"has more than {limits.children} children")
        if len(self._names) - self._before > limits.new_names:
            raise _over(f"uses more than {limits.new_names} new names")


def longest_name(names: dict[str, object], count: int) -> int:
    """Return the length in bytes of the longest of the *count* newest names."""
    # Expat files an absent prefix under None, so a name may not be a string.
    newest = list(filter(None, islice(reversed(names), count)))
    return len(max(newest, key=len, default="").encode())


def _build(
    opening: bytes, data: bytes, closing: bytes, limits: Limits | None
) -> Element:
    names: dict[str, object] = {}
    parser = strict_parser(names)
    builder = _Builder(names, limits)
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    if limits is not None:
        parser.StartNamespaceDeclHandler = builder.declared
    try:
        parser.Parse(opening, False)
        builder.begin()
        parser.Parse(data, False)
        builder.closing = True
        # An element, CDATA section or tag that was left open takes this in, and
        # then the document is not complete.
        parser.Parse(closing, True)
    except ExpatError as error:
        raise fault_of(error) from None
    if limits is not None and longest_name(names, len(names)) > limits.name:
        raise _over(f"has a name of more than {limits.name} bytes")
    if builder.element is None:
        raise PeerFault("no element")
    return builder.element


# -- writing ----------------------------------------------------------------


def serialise(element: Element, *, inherited: str = CLIENT_NS) -> bytes:
    """Write *element* so that a namespace-aware parser reads the same again.

    :param inherited: the default namespace where the bytes will stand.

    Elements never get a prefix, attributes only where they have a namespace.
    The tail of the topmost element is not written.

    :raises LocalFault: a character that XML cannot hold, or a tree of more than
        256 levels; neither can come out of :func:`parse`.
    """
    return written(element, inherited=inherited).encode()


def written(element: Element, *, inherited: str = CLIENT_NS) -> str:
    """The same as text."""
    out: list[str] = []
    _write(out, element, inherited, 0)
    return "".join(out)


def _write(out: list[str], element: Element, inherited: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise LocalFault(f"a tree of more than {_DEEPEST} levels was to be written")
    opening, closing, namespace = _tags(element.tag, inherited)
    out.append(opening)
    if element.attrib:
        _write_attributes(out, element)
    text = element.text
    if not len(element):
        out.append(f">{_escaped(text)}{closing}" if text else "/>")
        return
    out.append(f">{_escaped(text)}" if text else ">")
    for child in element:
        _write(out, child, namespace, depth + 1)
        if child.tail:
            out.append(_escaped(child.tail))
    out.append(closing)


@lru_cache(maxsize=1024)  # bounded: names come from strangers
def _tags(clark_name: str, inherited: str) -> tuple[str, str, str]:
    """How an element begins where *inherited* is the default namespace, how it
    ends, and its namespace."""
    namespace, name = split_name(clark_name)
    declared = "" if namespace == inherited else f" xmlns='{quoted(namespace)}'"
    return f"<{name}{declared}", f"</{name}>", namespace


def _write_attributes(out: list[str], element: Element) -> None:
    prefixes = 0
    for key, value in element.attrib.items():
        if key[0] != "{":
            out.append(f" {key}='{quoted(value)}'")
            continue
        namespace, name = split_name(key)
        if namespace == XML_NS:
            out.append(f" xml:{name}='{quoted(value)}'")
            continue
        prefixes += 1
        out.append(
            f" xmlns:ns{prefixes}='{quoted(namespace)}'"
            f" ns{prefixes}:{name}='{quoted(value)}'"
        )


@lru_cache(maxsize=1024)  # bounded: names come from strangers
def split_name(clark_name: str) -> tuple[str, str]:
    """Split ``{namespace}name`` into namespace (or ``""``) and local name."""
    # From the right: a namespace name may itself hold a brace.
    if clark_name[0] != "{":
        return "", clark_name
    namespace, _, name = clark_name[1:].rpartition("}")
    return namespace, name


def _escaped(text: str) -> str:
    if "&" in text or "<" in text or ">" in text:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Printable text needs no closer look: no controls, no surrogates in it.
    if not text.isprintable():
        # A bare CR would be read as a line feed (XML 1.0, 2.11).
        text = _checked(text).replace("\r", "&#13;")
    return text


def quoted(value: str) -> str:
    """*value* for between two apostrophes.

    :raises LocalFault: it holds a character that XML cannot.
    """
    if "&" in value or "<" in value or "'" in value:
        value = value.replace("&", "&amp;").replace("<", "&lt;")
        value = value.replace("'", "&apos;")
    if not value.isprintable():
        # Each of them would be read as a space (XML 1.0, 3.3.3).
        value = _checked(value).replace("\t", "&#9;")
        value = value.replace("\n", "&#10;").replace("\r", "&#13;")
    return value


def _checked(text: str) -> str:
    if _NOT_XML.search(text):
        raise LocalFault("a character that XML cannot hold was to be written")
    return text
