"""What a message shows outside its seal, judged by structure (protocol.md, 4.2, 5.1).

One judgement for both ends: ``core.guard`` asks it of everything that is about to
leave, a gate (``gate.enforce``) of everything that a client sends.  Each check
raises ``PeerFault`` with what is wrong, and returns nothing.  Nothing here is
decrypted: a seal is judged by what surrounds it.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..suites import lanes
from ..suites.fields import unb64
from ..wire import tree
from ..wire.jid import Jid
from . import classes, labels, marks
from .classes import Class, class_of

ERROR_TYPES = ("auth", "cancel", "continue", "modify", "wait")
ROOT = frozenset({"to", "type", "id"})
"""Attributes of a message that a sender shows; ``from`` is the server's (4.2)."""

MESSAGE = f"{{{classes.CLIENT}}}message"
ENCRYPTED = f"{{{classes.SEAL}}}encrypted"
TRANSIENT = f"{{{classes.SEAL}}}transient"
PAYLOAD = f"{{{classes.SEAL}}}payload"
GRANTS = f"{{{classes.LANE}}}grants"
ERROR = f"{{{classes.CLIENT}}}error"
MUC_USER = f"{{{classes.MUC_USER}}}x"

_GRANT = f"{{{classes.LANE}}}grant"
_OWN_PAYLOADS = {
    f"{{{classes.LANE}}}{name}": frozenset(attributes.split())
    for name, attributes in {
        "keyreq": "owner root device lane n prekey seq time nonce",
        "no": "device lane nonce",
        "rotate": "owner root device lane n time",
        "link-request": "device label root mac",
        "link-answer": "device mac",
    }.items()
}
"""This layer's own elements but for grants: their attributes; they hold a text."""
_FIXED = {
    f"{{{classes.EME}}}encryption": {"namespace": classes.SEAL, "name": "Tillie"},
    f"{{{classes.FALLBACK}}}fallback": {"for": classes.SEAL},
}
_CONDITION = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
_INVITE = (f"{{{classes.MUC_USER}}}invite", f"{{{classes.MUC_USER}}}decline")
_NOTHING: frozenset[str] = frozenset()
_QUIET = {
    f"{{{classes.RECEIPTS}}}received": frozenset({"id"}),
    **dict.fromkeys(classes.CHAT_STATES, _NOTHING),
}


def check_sealed(message: Element, root: frozenset[str] = ROOT) -> None:
    """The content is under one seal, and the outside shows no more than 4.2 allows.

    :param root: the attributes that the message itself may bear.
    :raises PeerFault: something is shown that belongs inside.
    """
    _check_root(message, root)
    seals = 0
    for child in message:
        seals += _sealed_child(child)
    if seals != 1:
        raise PeerFault("a sealed message carries exactly one seal")


def check_empty(message: Element, root: frozenset[str] = ROOT) -> None:
    """It says nothing: hints, an error's condition, an invitation that a room acts
    on (4.3).

    :raises PeerFault: there is content in it.
    """
    _check_root(message, root)
    for child in message:
        if child.tag == ERROR:
            _check_error(child)
        elif child.tag == MUC_USER:
            _check_invitation(child)
        elif class_of(child.tag) is not Class.CLEAR:
            raise PeerFault(f"{child.tag} is content")
        else:
            _check_outside(child)


def check_quiet(message: Element, root: frozenset[str] = ROOT) -> None:
    """As :func:`check_empty`, and it may hold what tells that somebody reads or
    types: receipts (XEP-0184), chat states (XEP-0085), and what 4.2 copies outside.

    :raises PeerFault: there is content in it.
    """
    _check_root(message, root)
    for child in message:
        if child.tag == ERROR:
            _check_error(child)
        elif child.tag == MUC_USER:
            _check_invitation(child)
        elif child.tag in _QUIET:
            _check_shape(child, _QUIET[child.tag])
        else:
            _check_outside(child)


def bare_error(error: Element | None) -> Element:
    """What an error keeps (4.3): its type and its condition, no text and no echo."""
    kind = error.get("type") if error is not None else None
    bare = Element(ERROR, {"type": kind if kind in ERROR_TYPES else "cancel"})
    for child in error if error is not None else ():
        if _is_condition(child):
            bare.append(Element(child.tag))
    return bare


def check_own(message: Element, root: frozenset[str] = ROOT) -> None:
    """It is of this layer's own making: grants, a key request, linking.

    :raises PeerFault: something else stands there.
    """
    _check_root(message, root)
    payloads = [child for child in message if child.tag in (GRANTS, *_OWN_PAYLOADS)]
    hints = [child for child in message if class_of(child.tag) is Class.CLEAR]
    if len(payloads) != 1 or len(payloads) + len(hints) != len(message):
        raise PeerFault("not a message of this layer")
    for hint in hints:
        _check_outside(hint)
    if payloads[0].tag == GRANTS:
        _check_grants(payloads[0])
    else:
        _check_shape(payloads[0], _OWN_PAYLOADS[payloads[0].tag], text=True)


def _sealed_child(child: Element) -> int:
    if child.tag in (ENCRYPTED, TRANSIENT):
        _check_seal(child)
        return 1
    if child.tag == marks.BODY:
        if child.text != marks.FALLBACK_BODY or child.attrib or len(child):
            raise PeerFault("a body other than the fixed one beside a seal")
        return 0
    if child.tag in _FIXED:
        _check_beside(child)
    else:
        _check_outside(child)
    return 0


def _check_seal(seal: Element) -> None:
    tags = [child.tag for child in seal]
    if tags not in ([PAYLOAD], [PAYLOAD, GRANTS]):
        raise PeerFault("a seal of the wrong form")
    _check_shape(seal, _NOTHING, tuple(tags))
    payload = seal[0]
    _check_shape(payload, _NOTHING, text=True)
    if len(_bytes_of(payload)) < lanes.SMALLEST:
        raise PeerFault("a payload that is no sealed one")
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
    if not attributes.issuperset(element.attrib) or (element.text and not text):
        raise PeerFault(f"{element.tag} says too much")
    for child in element:
        if child.tag not in children or child.tail:
            raise PeerFault(f"{element.tag} says too much")


def _bytes_of(element: Element) -> bytes:
    try:
        return unb64(element.text or "")
    except PeerFault as fault:
        raise PeerFault(f"{element.tag} holds no base64") from fault


def _check_beside(child: Element) -> None:
    """The two fixed elements that say what stands here."""
    fixed = _FIXED[child.tag]
    _check_shape(child, frozenset(fixed))
    if child.attrib != fixed:
        raise PeerFault(f"{child.tag} says something else")


def _check_outside(child: Element) -> None:
    if class_of(child.tag) not in (Class.CLEAR, Class.COPIED):
        raise PeerFault(f"{child.tag} may not stand outside a seal")
    if child.tag == labels.LABEL:
        shown = labels.outside(child)
        if shown is None or tree.serialise(shown) != tree.serialise(child):
            raise PeerFault(f"{child.tag} says too much")
        return
    attributes, part, part_attributes = classes.outside_shape(child.tag)
    _check_shape(child, attributes, (part,) if part else ())
    for each in child:
        _check_shape(each, part_attributes)


def _check_root(message: Element, root: frozenset[str]) -> None:
    if message.tag != MESSAGE or not root.issuperset(message.attrib):
        raise PeerFault("a message shows attributes that belong inside")
    if message.text or any(child.tail for child in message):
        raise PeerFault("text between the elements of a message")


def _check_invitation(x: Element) -> None:
    _check_shape(x, _NOTHING, _INVITE)
    for invite in x:
        _check_shape(invite, frozenset({"to"}))
        Jid.parse(invite.get("to", ""))


def _check_error(error: Element) -> None:
    conditions = tuple(child.tag for child in error if _is_condition(child))
    _check_shape(error, frozenset({"type"}), conditions)
    if error.get("type") not in ERROR_TYPES:
        raise PeerFault("an error of an unknown type")
    for child in error:
        _check_shape(child, _NOTHING)


def _is_condition(child: Element) -> bool:
    return child.tag.startswith(_CONDITION) and child.tag != f"{_CONDITION}text"
