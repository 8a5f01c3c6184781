"""One top-level element of a stream, and the answers that say no to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from .restricted import CLIENT_NS, STREAMS_NS, XML_NS
from .tree import parse_within, serialise, split_name

STANZAS_NS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"
STREAM_ERRORS_NS: Final = "urn:ietf:params:xml:ns:xmpp-streams"

_STANZAS: Final = frozenset({"message", "presence", "iq"})
_UNSAYABLE: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Cleared:
    """Bytes that may go to the server; only ``core.guard`` makes one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Scope:
    """The namespace declarations of a stream header, as its start tag.

    :param header: the tag, as it came.
    :param name: its name, as it is spelt there.
    """

    header: bytes
    name: bytes


_PLAIN_SCOPE: Final = Scope(
    f"<stream:stream xmlns='{CLIENT_NS}' xmlns:stream='{STREAMS_NS}'>".encode(),
    b"stream:stream",
)


class Stanza:
    """An immutable view of one top-level element.

    Made by ``framing.Framer`` from bytes, or by :meth:`of` from a tree.

    :ivar name: local name, for instance ``message``.
    :ivar ns: namespace name, for instance ``jabber:client``, or ``""``.
    :ivar attrs: un-namespaced attributes by their name, others by Clark name.
    :ivar children: Clark names of the first-level children, in order.
    """

    __slots__ = ("_data", "_foreign", "_tree", "attrs", "children", "name", "ns")

    def __init__(
        self,
        tag: str,
        attrs: Mapping[str, str],
        children: tuple[str, ...],
        *,
        data: bytes | None = None,
        foreign: Scope | None = None,
        tree: Element | None = None,
    ) -> None:
        self.ns, self.name = split_name(tag)
        self.attrs = attrs
        self.children = children
        self._data = data
        self._foreign = foreign
        self._tree = tree

    @classmethod
    def of(cls, element: Element) -> Stanza:
        """Wrap a tree of our own making, which must not change any more."""
        return cls(
            element.tag,
            MappingProxyType(element.attrib),
            tuple(child.tag for child in element),
            tree=element,
        )

    @property
    def raw(self) -> bytes | None:
        """The bytes that expat has accepted, if they may be forwarded as they are.

        They hold under any stream header that declares ``jabber:client`` as the
        default and the prefix ``stream`` for streams.  None if the header that
        they came under declared more, or if the stanza was made from a tree and
        not written yet.
        """
        return None if self._foreign else self._data

    @property
    def to(self) -> str | None:
        return self.attrs.get("to")

    @property
    def from_(self) -> str | None:
        return self.attrs.get("from")

    @property
    def id(self) -> str | None:
        return self.attrs.get("id")

    @property
    def type(self) -> str | None:
        return self.attrs.get("type")

    @property
    def is_stanza(self) -> bool:
        """True for message, presence and iq (RFC 6120, 8), False for nonzas."""
        return self.ns == CLIENT_NS and self.name in _STANZAS

    def tree(self) -> Element:
        """Return the element, parsed at the first call.

        It is shared: who wants to change it changes a copy.
        """
        if self._tree is None:
            assert self._data is not None
            scope = self._foreign or _PLAIN_SCOPE
            self._tree = parse_within(
                scope.header, b"</" + scope.name + b">", self._data
            )
        return self._tree

    def to_bytes(self) -> bytes:
        """Return the bytes to forward: as they came, or written from the tree."""
        if self._data is None or self._foreign is not None:
            self._data = serialise(self.tree())
            self._foreign = None
        return self._data

    def __repr__(self) -> str:
        # Neither addresses nor content: this ends up in logs.
        return f"<Stanza {self.name} {self.type or ''} in {self.ns}>"


def error_reply(
    stanza: Stanza,
    condition: str,
    text: str,
    *,
    kind: str = "cancel",
    from_: str | None = None,
) -> Element:
    """Build the error answer to *stanza* (RFC 6120, 8.3), without its content.

    :param condition: defined condition, for instance ``not-acceptable``.
    :param text: for a person, in English.
    :param kind: ``auth``, ``cancel``, ``continue``, ``modify`` or ``wait``.
    :param from_: who answers; the addressee of *stanza* if None.
    :raises ValueError: *stanza* is an error itself (8.3.1: never answered).
    """
    if stanza.type == "error":
        raise ValueError("an error is not answered with an error")
    reply = Element(f"{{{stanza.ns}}}{stanza.name}", {"type": "error"})
    ends = (("from", from_ or stanza.to), ("to", stanza.from_), ("id", stanza.id))
    for key, value in ends:
        if value is not None:
            reply.set(key, value)
    error = SubElement(reply, f"{{{stanza.ns}}}error", {"type": kind})
    SubElement(error, f"{{{STANZAS_NS}}}{condition}")
    _add_text(error, STANZAS_NS, text)
    return reply


def stream_error(condition: str, text: str, application: str = "") -> bytes:
    """Build a stream error and the end of the stream (RFC 6120, 4.9).

    :param application: Clark name of an application-specific condition (4.9.4).
    """
    error = Element(f"{{{STREAMS_NS}}}error")
    SubElement(error, f"{{{STREAM_ERRORS_NS}}}{condition}")
    _add_text(error, STREAM_ERRORS_NS, text)
    if application:
        SubElement(error, application)
    inner = b"".join(serialise(child) for child in error)
    return b"<stream:error>" + inner + b"</stream:error></stream:stream>"


def _add_text(error: Element, namespace: str, text: str) -> None:
    if text:
        element = SubElement(error, f"{{{namespace}}}text", {f"{{{XML_NS}}}lang": "en"})
        # The text may quote what the network or a library said.
        element.text = _UNSAYABLE.sub("\ufffd", text)
