"""The only door to the server: what may leave as it is, and in what form.

Nothing else makes a ``Cleared``, and ``ServerLeg`` takes nothing else.  The
guard asks no configuration; it looks at the structure of what is about to
leave, as ``rules.seals`` judges it.  What leaves changed is serialised here,
from the very tree that was inspected; what leaves unchanged is the bytes that
expat accepted.

Every refusal is a ``LocalFault``: rules have decided before, so a refusal here
is a bug, and the stanza stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..errors import LocalFault, PeerFault
from ..rules import classes, seals
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza

LARGEST = 60_000
"""Bytes of the largest stanza that Tillie makes (protocol.md, clause 5.9)."""

UPLOAD_SLOTS = frozenset(
    {
        "{urn:xmpp:http:upload:0}request",
        "{urn:xmpp:http:upload}request",
        "{eu:siacs:conversations:http:upload}request",
    }
)
CONTENT_QUERIES = frozenset(
    {
        "{http://jabber.org/protocol/ibb}open",
        "{http://jabber.org/protocol/ibb}data",
        "{http://jabber.org/protocol/si}si",
        "{http://jabber.org/protocol/bytestreams}query",
        "{urn:xmpp:jingle:1}jingle",
        "{jabber:iq:oob}query",
        "{urn:xmpp:bob}data",
        "{http://jabber.org/protocol/rosterx}x",
    }
)
"""IQ payloads that carry what a person says or sends; not sealed yet, so held back."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send to *jid* in clear; ``core.contacts`` alone gives it out.

    :param reason: why, one word for the log.
    """

    jid: str
    reason: str


def sealed(message: Element) -> Cleared:
    """A message whose content is under a seal and whose outside shows no more
    than the table allows."""
    return _judged(seals.check_sealed, message)


def without_content(message: Element) -> Cleared:
    """A message that says nothing: hints, an error's condition, an invitation
    that a room acts on."""
    return _judged(seals.check_empty, message)


def permitted(stanza: Stanza, permit: Permit) -> Cleared:
    """A stanza in clear, to exactly the address that the permit names."""
    if not stanza.to or str(Jid.parse(stanza.to).bare) != permit.jid:
        raise LocalFault("a permit for somebody else")
    return Cleared(stanza.to_bytes())


def instruction(stanza: Stanza) -> Cleared:
    """A presence, or an IQ that carries nothing a person says (clause 4.1)."""
    if stanza.name not in ("presence", "iq") or needs_permit(stanza):
        raise LocalFault(f"a {stanza.name} may not leave as it is")
    return Cleared(stanza.to_bytes())


def needs_permit(stanza: Stanza) -> bool:
    """Whether an IQ would put content before the server's eyes."""
    return stanza.name == "iq" and any(
        name in UPLOAD_SLOTS or name in CONTENT_QUERIES for name in stanza.children
    )


def nonza(stanza: Stanza) -> Cleared:
    """Client state indication (XEP-0352), which has neither content nor address."""
    if stanza.ns != "urn:xmpp:csi:0" or stanza.children:
        raise LocalFault("an unknown element outside of stanzas")
    return Cleared(f"<{stanza.name} xmlns='urn:xmpp:csi:0'/>".encode())


def own_query(query: Element) -> Cleared:
    """An IQ of Tillie's own making: look-ups, publications, pings."""
    if query.tag != f"{{{classes.CLIENT}}}iq" or len(query) > 1:
        raise LocalFault("not a query of ours")
    return _bytes(query)


def registration(query: Element) -> Cleared:
    """A query about an account before there is a login (XEP-0077): the client's own
    form for the server, with the key beside it."""
    if query.tag != f"{{{classes.CLIENT}}}iq" or [one.tag for one in query] != [
        "{jabber:iq:register}query"
    ]:
        raise LocalFault("not a registration")
    return _bytes(query)


def own_message(message: Element) -> Cleared:
    """A message of this layer's own: grants, a key request, linking."""
    return _judged(seals.check_own, message)


def again(data: bytes) -> Cleared:
    """Sealed bytes from the ledger, which passed this door before they were
    written there."""
    return Cleared(data)


def permitted_again(data: bytes, to: str, permit: Permit) -> Cleared:
    """Clear bytes from the ledger: the permit has to be a fresh one."""
    if to != permit.jid:
        raise LocalFault("a permit for somebody else")
    return Cleared(data)


def _judged(check: Callable[[Element], None], message: Element) -> Cleared:
    try:
        check(message)
    except PeerFault as fault:
        raise LocalFault(fault.text) from fault
    return _bytes(message)


def _bytes(element: Element) -> Cleared:
    data = tree.serialise(element)
    if len(data) > LARGEST:
        raise LocalFault("a stanza of ours beyond the limit")
    return Cleared(data)
