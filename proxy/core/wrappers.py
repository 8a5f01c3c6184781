"""Carbons and archive results: the message inside, and who may wrap one.

Only the own bare JID makes carbons (XEP-0280, 11; ID-01, ID-02) and results of
the own archive (XEP-0313); a room's archive holds what its occupants said.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..rules import classes, marks
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .account import Account
from .cleartext import defused
from .opening import SEALS
from .verdicts import Deliver, Drop, NeedKey, Verdict

_FORWARDED = f"{{{classes.FORWARD}}}forwarded"
_MESSAGE = "{jabber:client}message"
CARBONS = (f"{{{classes.CARBONS}}}received", f"{{{classes.CARBONS}}}sent")
RESULTS = (f"{{{classes.MAM}}}result", "{urn:xmpp:mam:1}result")


def wrapper_of(message: Element) -> Element | None:
    """The carbon or archive result that *message* is."""
    for child in message:
        if child.tag in CARBONS or child.tag in RESULTS:
            return child
    return None


def foreign(account: Account, stanza: Stanza, sender: str, archive: bool) -> Verdict:
    """A room's archive page; nobody else has a wrapper to send."""
    contact = account.contacts.get(sender)
    message = stanza.tree()
    inner = inner_of(message[0]) if archive and len(message) == 1 else None
    if inner is None or contact is not None or _has_seal(message):
        return Drop("a carbon or archive page from somebody else")
    try:
        author = str(Jid.parse(inner.get("from", "")).bare)
    except PeerFault:
        author = ""
    if author != sender:
        # a room's archive holds what its occupants said, not what others did
        return Drop("an archive page with somebody else's words")
    return Deliver(_defused_inside(message))


def _defused_inside(message: Element) -> Element:
    inner = [part for part in message.iter(_MESSAGE) if part is not message]
    for part in inner:
        message = replaced(message, part, defused(part))
    return message


def rewrapped(
    stanza: Stanza, inner: Element, verdict: Verdict, archive: bool
) -> Verdict:
    """*verdict* on the message inside, as one on the whole *stanza*."""
    if isinstance(verdict, Deliver):
        if verdict.message is inner:
            return Deliver(stanza.tree())
        whole = replaced(stanza.tree(), inner, verdict.message)
        return Deliver(whole, "" if archive else verdict.key, verdict.digest)
    if archive:
        # a page keeps its length: clients count results (XEP-0313, 4)
        note = marks.placeholder(dict(inner.attrib), marks.UNREADABLE_OLD)
        missing = verdict if isinstance(verdict, NeedKey) else None
        return Deliver(replaced(stanza.tree(), inner, note), missing=missing)
    return verdict


def _has_seal(message: Element) -> bool:
    return any(part.tag in SEALS for part in message.iter())


def inner_of(wrapper: Element) -> Element | None:
    """The one message inside; None for none, several or nested ones (ID-04)."""
    forwarded = wrapper.findall(_FORWARDED)
    if len(forwarded) != 1:
        return None
    inner = [child for child in forwarded[0] if child.tag.endswith("}message")]
    if len(inner) != 1 or any(
        part.tag in (_FORWARDED, *CARBONS, *RESULTS) for part in inner[0]
    ):
        return None
    return inner[0]


def replaced(whole: Element, old: Element, new: Element) -> Element:
    """A copy of *whole* with *new* in the place of *old*."""
    if whole is old:
        return new
    fresh = Element(whole.tag, whole.attrib)
    fresh.text, fresh.tail = whole.text, whole.tail
    fresh.extend(replaced(child, old, new) for child in whole)
    return fresh
