"""What comes in clear: marked where it ought to have been sealed, and made harmless
(protocol.md, 8.1; R11).
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ..rules import classes, marks
from .account import Account
from .verdicts import Deliver, Drop, Place, Verdict

CHAT_STATES = ("active", "composing", "paused", "inactive", "gone")
HINTS = ("store", "no-store", "no-copy", "no-permanent-store")

# what stays of a clear message of somebody who has keys (ID-15, ID-16): a text,
# which is marked, and what says nothing; all else could act on sealed messages, or
# show something that bears no mark
_HARMLESS = frozenset(
    {
        marks.BODY,
        marks.SUBJECT,
        "{jabber:client}thread",
        *(f"{{{classes.CHATSTATES}}}{name}" for name in CHAT_STATES),
        *classes.SERVER_MADE_OUTSIDE,
        classes.ORIGIN_ID,
        f"{{{classes.RECEIPTS}}}request",
        "{http://jabber.org/protocol/pubsub#event}event",
        f"{{{classes.MUC_USER}}}x",
        *(f"{{{classes.HINTS}}}{name}" for name in HINTS),
    }
)


def bare_error(account: Account, message: Element, place: Place) -> Deliver:
    """An error keeps its condition.  The echo goes, with ciphertext, our own words
    and, from somebody with keys, everything that a client might show as a text."""
    fresh = Element(message.tag, message.attrib)
    keyed = _keyed(account, place.sender)
    for child in message:
        ours = child.tag.startswith("{urn:x-tillie:") or child.tag == _EME
        fallback = child.tag == marks.BODY and child.text == marks.FALLBACK_BODY
        error = child.tag == "{jabber:client}error"
        if error or not (ours or fallback or keyed):
            fresh.append(child)
    return Deliver(defused(fresh))


_EME = f"{{{classes.EME}}}encryption"


def _keyed(account: Account, jid: str) -> bool:
    """Whether messages of *jid* are expected under a seal."""
    if jid == account.jid:
        return account.identity.ready
    contact = account.contacts.get(jid)
    return contact is not None and not contact.manifest.retired


def clear(account: Account, message: Element, place: Place) -> Verdict:
    if not _keyed(account, place.sender):
        return Deliver(defused(message))
    return _downgraded(account, message, place)


def defused(message: Element) -> Element:
    """Nobody but Tillie says what Tillie says; most messages stay as they are."""
    if not marks.imitated(message):
        return message
    fresh = _deep(message)
    marks.defuse(fresh)
    return fresh


def _deep(element: Element) -> Element:
    fresh = Element(element.tag, element.attrib)
    fresh.text, fresh.tail = element.text, element.tail
    fresh.extend(_deep(child) for child in element)
    return fresh


def _downgraded(account: Account, message: Element, place: Place) -> Verdict:
    """A clear message of somebody who has keys: marked, and toothless (R11)."""
    fresh = Element(message.tag, message.attrib)
    fresh.extend(_deep(child) for child in message if child.tag in _HARMLESS)
    if any(child.tag in (marks.BODY, marks.SUBJECT) for child in fresh):
        marks.mark_clear(fresh)
        if not place.archive:
            account.notice(
                place.sender,
                f"{place.sender} has keys, but sent a message without sealing it",
                show=False,
            )
        return Deliver(fresh)
    if len(fresh) < len(message):
        # a link, a file, a reaction: a mark would find no place in it
        return Drop("clear content without a text, of somebody with keys")
    return Deliver(message)
