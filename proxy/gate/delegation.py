"""Questions to bare JIDs that the server hands on (XEP-0355, admin mode).

A server that delegates the namespace ``urn:x-tillie:key:0`` to the directory wraps
each IQ with such a payload, to whichever bare JID of the domain it goes, and sends
the answer on in that JID's name.  It also asks once what to show for the namespace
in its own service discovery (7.2, "nesting"): one answer for all accounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from ..wire.framing import CLIENT_NS, COMPONENT_NS
from ..wire.stanza import Stanza, error_reply

NAMESPACES: Final = ("urn:xmpp:delegation:2", "urn:xmpp:delegation:1")
"""Debian's Prosody has the first, ejabberd the second."""
FORWARD: Final = "urn:xmpp:forward:0"
DATA: Final = "jabber:x:data"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the directory, and how its answer goes back.

    :param stanza: the IQ, or message, addressed as who asks wrote it.
    :param outer: what the server wrapped it in, None where it came by itself.
    :param ns: the version of delegation of *outer*.
    """

    stanza: Stanza
    outer: Stanza | None = None
    ns: str = ""

    def result(self, payload: Element | None = None) -> Element:
        """The stanza that answers with *payload*."""
        return self._back(_result(self.stanza, payload))

    def error(self, condition: str, text: str = "", kind: str = "cancel") -> Element:
        """The stanza that says no."""
        return self._back(error_reply(self.stanza, condition, text, kind=kind))

    def _back(self, answer: Element) -> Element:
        if self.outer is None:
            return answer
        delegation = Element(f"{{{self.ns}}}delegation")
        SubElement(delegation, f"{{{FORWARD}}}forwarded").append(_client(answer))
        return _result(self.outer, delegation)


def handed_on(stanza: Stanza) -> Asked | None:
    """The question inside *stanza*, None if there is not exactly one of the right form.

    Who sent it is the caller's to look at: only the own server may hand on.
    """
    if stanza.name != "iq" or stanza.type != "set" or len(stanza.children) != 1:
        return None
    for ns in NAMESPACES:
        if stanza.children[0] == f"{{{ns}}}delegation":
            inner = stanza.tree()[0].find(f"{{{FORWARD}}}forwarded/{{{CLIENT_NS}}}iq")
            return None if inner is None else Asked(Stanza.of(inner), stanza, ns)
    return None


def advertised(stanza: Stanza) -> bool:
    """Whether this is the server's word on what it delegates (4.2): no message."""
    names = {f"{{{ns}}}delegation" for ns in NAMESPACES}
    return stanza.name == "message" and bool(names.intersection(stanza.children))


def nested(node: str, namespace: str) -> str:
    """What a node of nesting is for: ``bare`` or ``host``; empty for another node."""
    for ns in NAMESPACES:
        if node == f"{ns}::{namespace}":
            return "host"
        if node == f"{ns}:bare:{namespace}":
            return "bare"
    return ""


def form(form_type: str, **fields: str) -> Element:
    """A form of service discovery (XEP-0128)."""
    x = Element(f"{{{DATA}}}x", {"type": "result"})
    hidden = SubElement(x, f"{{{DATA}}}field", {"var": "FORM_TYPE", "type": "hidden"})
    SubElement(hidden, f"{{{DATA}}}value").text = form_type
    for name, value in fields.items():
        field = SubElement(x, f"{{{DATA}}}field", {"var": name})
        SubElement(field, f"{{{DATA}}}value").text = value
    return x


def _result(question: Stanza, payload: Element | None = None) -> Element:
    reply = Element(f"{{{COMPONENT_NS}}}iq", {"type": "result"})
    ends = (("from", question.to), ("to", question.from_), ("id", question.id))
    for name, value in ends:
        if value is not None:
            reply.set(name, value)
    if payload is not None:
        reply.append(payload)
    return reply


def _client(answer: Element) -> Element:
    """*answer* in the namespace of a client's stream, as the servers want it."""
    iq = Element(f"{{{CLIENT_NS}}}iq", answer.attrib)
    for child in answer:
        if child.tag == f"{{{COMPONENT_NS}}}error":
            error = Element(f"{{{CLIENT_NS}}}error", child.attrib)
            error.extend(child)
            iq.append(error)
        else:
            iq.append(child)
    return iq
