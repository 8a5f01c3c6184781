"""What stays readable in a message: the table of protocol.md, section 4.

An element stays outside the seal only if a server on the way acts on it.
What is in no row is sealed; adding an extension is adding one row here.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from xml.etree.ElementTree import Element

from . import labels

CLIENT = "jabber:client"
SEAL = "urn:x-tillie:seal:0"
LANE = "urn:x-tillie:lane:0"
HINTS = "urn:xmpp:hints"
EME = "urn:xmpp:eme:0"
FALLBACK = "urn:xmpp:fallback:0"
DELAY = "urn:xmpp:delay"
STANZA_ID = "urn:xmpp:sid:0"
CARBONS = "urn:xmpp:carbons:2"
FORWARD = "urn:xmpp:forward:0"
MAM = "urn:xmpp:mam:2"
MUC_USER = "http://jabber.org/protocol/muc#user"
RECEIPTS = "urn:xmpp:receipts"
CHATSTATES = "http://jabber.org/protocol/chatstates"
CONFERENCE = "jabber:x:conference"
AMP = "http://jabber.org/protocol/amp"
ADDRESS = "http://jabber.org/protocol/address"


class Class(Enum):
    """Where an element of a message goes on its way out."""

    CLEAR = "outside only: servers act on it"
    COPIED = "outside for servers and inside for the reader; the inside counts"
    SEALED = "inside only"
    SERVER = "made by servers only: never sent, and inside a seal it is discarded"


def _all(namespace: str, *names: str) -> list[str]:
    return [f"{{{namespace}}}{name}" for name in names]


_TABLE: dict[Class, list[str]] = {
    Class.CLEAR: [
        # XEP-0334: servers store and copy by it
        *_all(HINTS, "store", "no-store", "no-copy", "no-permanent-store"),
        # XEP-0280, 7: servers copy by it
        *_all(CARBONS, "private"),
    ],
    Class.COPIED: [
        # XEP-0184: archives and carbons look at the request; it says nothing more
        *_all(RECEIPTS, "request"),
        # XEP-0359, 3: servers keep it, the own client recognises it
        *_all(STANZA_ID, "origin-id"),
        # XEP-0079: edge servers execute the rules
        *_all(AMP, "amp"),
        # XEP-0249: the room's address alone; reason and password go inside
        *_all(CONFERENCE, "x"),
        # XEP-0258: servers decide by the label whom a message may reach
        labels.LABEL,
        # XEP-0506
        *_all("urn:xmpp:noreply:0", "noreply"),
    ],
    Class.SERVER: [
        *_all(STANZA_ID, "stanza-id"),
        *_all("urn:xmpp:mam:tmp", "archived"),
        *_all(MAM, "result", "fin"),
        *_all("urn:xmpp:mam:1", "result"),
        *_all(CARBONS, "sent", "received"),
        *_all(MUC_USER, "x"),
        *_all("urn:xmpp:occupant-id:0", "occupant-id"),
        *_all("http://jabber.org/protocol/pubsub#event", "event"),
        *_all("urn:xmpp:push:0", "notification"),
        *_all("urn:xmpp:hats:0", "hats"),
        *_all("http://jabber.org/protocol/offline", "offline"),
        # stanzas and errors have no business inside a stanza
        *_all(CLIENT, "message", "presence", "iq", "error"),
        # this layer's own words are ours alone
        *_all(SEAL, "encrypted", "transient"),
        *_all(LANE, "grants", "keyreq", "no", "rotate", "link-request", "link-answer"),
    ],
}

ORIGIN_ID = f"{{{STANZA_ID}}}origin-id"
BESIDE_NO_BODY = frozenset({ORIGIN_ID, f"{{{RECEIPTS}}}request"})
"""Copied outside only where no fallback body stands, by which servers archive and copy
as well (5.1)."""
_CLASS = {name: class_ for class_, names in _TABLE.items() for name in names}

CHAT_STATES = frozenset(
    _all(CHATSTATES, "active", "composing", "paused", "inactive", "gone")
)
_TRANSIENT = CHAT_STATES.union(_all("urn:xmpp:rtt:0", "rtt"))

# attributes of what stays outside; any other, text and children go inside only
_OUTSIDE_ATTRIBUTES = {
    f"{{{CONFERENCE}}}x": ("jid",),
    f"{{{STANZA_ID}}}origin-id": ("id",),
    f"{{{AMP}}}amp": ("per-hop",),
}
_OUTSIDE_CHILDREN = {
    f"{{{AMP}}}amp": (f"{{{AMP}}}rule", ("action", "condition", "value")),
}


def class_of(name: str) -> Class:
    """The class of a message's child by its Clark name; unknown is sealed (R4)."""
    return _CLASS.get(name, Class.SEALED)


def transient(names: list[str]) -> bool:
    """Whether a message with these children is of passing interest only (R8)."""
    return all(name in _TRANSIENT for name in names)


def outside(child: Element) -> Element | None:
    """The copy of *child* that servers may see: known attributes, never a text; None
    for a label that they could not read."""
    if child.tag == labels.LABEL:
        return labels.outside(child)
    copy = Element(child.tag, _chosen(child, _OUTSIDE_ATTRIBUTES.get(child.tag, ())))
    name, attributes = _OUTSIDE_CHILDREN.get(child.tag, ("", ()))
    for part in child.findall(name) if name else ():
        copy.append(Element(name, _chosen(part, attributes)))
    return copy


@lru_cache(maxsize=64)
def outside_shape(name: str) -> tuple[frozenset[str], str, frozenset[str]]:
    """What :func:`outside` leaves of an element: its attributes, the one kind of
    child (empty for none) and that child's attributes."""
    part, attributes = _OUTSIDE_CHILDREN.get(name, ("", ()))
    return frozenset(_OUTSIDE_ATTRIBUTES.get(name, ())), part, frozenset(attributes)


def _chosen(element: Element, names: tuple[str, ...]) -> dict[str, str]:
    return {name: element.attrib[name] for name in names if name in element.attrib}


SERVER_MADE_OUTSIDE = frozenset(
    _all(STANZA_ID, "stanza-id")
    + _all(DELAY, "delay")
    + _all("jabber:x:delay", "x")
    + _all("urn:xmpp:mam:tmp", "archived")
    + _all("urn:xmpp:occupant-id:0", "occupant-id")
)
"""What the reader's side keeps from around a seal, if it names a server (R5)."""
