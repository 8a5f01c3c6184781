"""The only door to the server: what may leave as it is, and in what form.

Nothing else makes a ``Cleared``, and ``ServerLeg`` takes nothing else.  The
guard asks no rule and no configuration; it looks at the structure of what is
about to leave.  What leaves changed is serialised here, from the very tree
that was inspected; what leaves unchanged is the bytes that expat accepted.

Every refusal is a ``LocalFault``: rules have decided before, so a refusal here
is a bug, and the stanza stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..errors import LocalFault, PeerFault
from ..rules import classes, marks
from ..rules.classes import Class, class_of
from ..suites import lanes
from ..suites.fields import unb64
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza

ERROR_TYPES = ("auth", "cancel", "continue", "modify", "wait")
LARGEST = 60_000
"""Bytes of the largest stanza that Tillie makes (protocol.md, clause 5.9)."""

_MESSAGE = f"{{{classes.CLIENT}}}message"
_ENCRYPTED = f"{{{classes.SEAL}}}encrypted"
_TRANSIENT = f"{{{classes.SEAL}}}transient"
_PAYLOAD = f"{{{classes.SEAL}}}payload"
_GRANTS = f"{{{classes.LANE}}}grants"
_GRANT = f"{{{classes.LANE}}}grant"
_ROOT_ATTRIBUTES = frozenset({"to", "type", "id"})
_OWN_PAYLOADS = frozenset(
    {
        _GRANTS,
        f"{{{classes.LANE}}}keyreq",
        f"{{{classes.LANE}}}no",
        f"{{{classes.LANE}}}link-request",
        f"{{{classes.LANE}}}link-answer",
    }
)
_FIXED = {
    f"{{{classes.EME}}}encryption": {"namespace": classes.SEAL, "name": "Tillie"},
    f"{{{classes.FALLBACK}}}fallback": {"for": classes.SEAL},
}
_CONDITION = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
_INVITE = (f"{{{classes.MUC_USER}}}invite", f"{{{classes.MUC_USER}}}decline")
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
    _check_root(message)
    seals = 0
    for child in message:
        seals += _sealed_child(child)
    if seals != 1:
        raise LocalFault("a sealed message carries exactly one seal")
    return _bytes(message)


def _sealed_child(child: Element) -> int:
    if child.tag in (_ENCRYPTED, _TRANSIENT):
        _check_seal(child)
        return 1
    if child.tag == marks.BODY:
        if child.text != marks.FALLBACK_BODY or child.attrib or len(child):
            raise LocalFault("a body other than the fixed one beside a seal")
        return 0
    if child.tag in _FIXED:
        _check_beside(child)
    else:
        _check_outside(child)
    return 0


def _check_seal(seal: Element) -> None:
    tags = [child.tag for child in seal]
    if tags not in ([_PAYLOAD], [_PAYLOAD, _GRANTS]):
        raise LocalFault("a seal of the wrong form")
    _check_shape(seal, frozenset(), tuple(tags))
    payload = seal[0]
    _check_shape(payload, frozenset(), text=True)
    if len(_bytes_of(payload)) < lanes.SMALLEST:
        raise LocalFault("a payload that is no sealed one")
    if len(seal) == 2:
        _check_grants(seal[1])


def _check_grants(grants: Element) -> None:
    _check_shape(grants, frozenset({"device", "seq"}), (_GRANT,))
    for grant in grants:
        _check_shape(grant, frozenset({"to", "device", "prekey"}), text=True)
        _bytes_of(grant)


def _check_shape(
    element: Element,
    attributes: frozenset[str],
    children: tuple[str, ...] = (),
    *,
    text: bool = False,
) -> None:
    """Exactly this much may *element* say: anything more could be content."""
    if (
        set(element.attrib) - attributes
        or any(child.tag not in children or child.tail for child in element)
        or (element.text and not text)
    ):
        raise LocalFault(f"{element.tag} says too much")


def _bytes_of(element: Element) -> bytes:
    try:
        return unb64(element.text or "")
    except PeerFault as fault:
        raise LocalFault(f"{element.tag} holds no base64") from fault


def _check_beside(child: Element) -> None:
    """The two fixed elements that say what stands here."""
    fixed = _FIXED[child.tag]
    _check_shape(child, frozenset(fixed))
    if child.attrib != fixed:
        raise LocalFault(f"{child.tag} says something else")


def _check_outside(child: Element) -> None:
    class_ = class_of(child.tag)
    if class_ not in (Class.CLEAR, Class.COPIED):
        raise LocalFault(f"{child.tag} may not stand outside a seal")
    if tree.serialise(child) != tree.serialise(classes.outside(child)):
        raise LocalFault(f"{child.tag} says too much outside a seal")


def _check_root(message: Element) -> None:
    if message.tag != _MESSAGE or set(message.attrib) - _ROOT_ATTRIBUTES:
        raise LocalFault("a message shows attributes that belong inside")
    if message.text or any(child.tail for child in message):
        raise LocalFault("text between the elements of a message")


def without_content(message: Element) -> Cleared:
    """A message that says nothing: hints, an error's condition, an invitation
    that a room acts on."""
    _check_root(message)
    for child in message:
        if child.tag == f"{{{classes.CLIENT}}}error":
            _check_error(child)
        elif child.tag == f"{{{classes.MUC_USER}}}x":
            _check_shape(child, frozenset(), _INVITE)
            for invite in child:
                _check_shape(invite, frozenset({"to"}))
                _check_address(invite.get("to", ""))
        elif class_of(child.tag) is not Class.CLEAR:
            raise LocalFault(f"{child.tag} is content")
        else:
            _check_outside(child)
    return _bytes(message)


def _check_address(text: str) -> None:
    try:
        Jid.parse(text)
    except PeerFault as fault:
        raise LocalFault("an invitation for no address") from fault


def _check_error(error: Element) -> None:
    conditions = tuple(child.tag for child in error if _is_condition(child))
    _check_shape(error, frozenset({"type"}), conditions)
    if error.get("type") not in ERROR_TYPES:
        raise LocalFault("an error of an unknown type")
    for child in error:
        _check_shape(child, frozenset())


def _is_condition(child: Element) -> bool:
    return child.tag.startswith(_CONDITION) and child.tag != f"{_CONDITION}text"


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


def own_message(message: Element) -> Cleared:
    """A message of this layer's own: grants, a key request, linking."""
    _check_root(message)
    payloads = [child for child in message if child.tag in _OWN_PAYLOADS]
    hints = [child for child in message if class_of(child.tag) is Class.CLEAR]
    if len(payloads) != 1 or len(payloads) + len(hints) != len(message):
        raise LocalFault("not a message of ours")
    for hint in hints:
        _check_outside(hint)
    if payloads[0].tag == _GRANTS:
        _check_grants(payloads[0])
    return _bytes(message)


def again(data: bytes) -> Cleared:
    """Sealed bytes from the ledger, which passed this door before they were
    written there."""
    return Cleared(data)


def permitted_again(data: bytes, to: str, permit: Permit) -> Cleared:
    """Clear bytes from the ledger: the permit has to be a fresh one."""
    if to != permit.jid:
        raise LocalFault("a permit for somebody else")
    return Cleared(data)


def _bytes(element: Element) -> Cleared:
    data = tree.serialise(element)
    if len(data) > LARGEST:
        raise LocalFault("a stanza of ours beyond the limit")
    return Cleared(data)
