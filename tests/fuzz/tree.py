# Any bytes are refused by PeerFault or are one element, and what is written of an element
# is read again as the same element, by this parser and by another.
"""One stanza as a tree: reading, writing, reading again."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from proxy.errors import PeerFault
from proxy.wire import tree
from proxy.wire.stanza import Stanza

from ..support.badxml import BEHIND, PASSED
from ..support.simulator import parsed


def seeds() -> list[bytes]:
    return [data for data, _ in BEHIND.values()] + list(PASSED.values())


def one(data: bytes) -> None:
    try:
        element = tree.parse(data)
    except PeerFault:
        return
    text = tree.serialise(element)
    assert infoset(tree.parse(text)) == infoset(element)
    assert tree.serialise(tree.parse(text)) == text
    assert infoset(parsed(text.decode())) == infoset(element)
    stanza = Stanza.of(element)
    assert infoset(tree.parse(stanza.to_bytes())) == infoset(element)


def infoset(element: Element) -> tuple[object, ...]:
    """What makes two elements the same."""
    children = [(infoset(child), child.tail or "") for child in element]
    return element.tag, element.attrib, element.text or "", children
