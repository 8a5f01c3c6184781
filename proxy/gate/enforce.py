"""What a client may say in clear, and what is said to it (clause 17.1).

Judged by structure alone, for messages only: a seal as in 5.1 with no more
around it than 4.2 allows, or nothing that a person says.  Rooms are not sealed
in this version (4.5), so what goes to one is clear, and policy decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal, TypeAlias
from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..rules import classes, marks, seals
from ..rules.classes import Class, class_of
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .between import Domains

Outbound: TypeAlias = Literal["refuse", "keyless", "pass"]
Inbound: TypeAlias = Literal["refuse", "mark", "pass"]

MARK: Final = "[not encrypted] "
"""Before a text that came in clear.  Not the mark of a person's own Tillie, which
would take it for an imitation."""

# Servers see a client's own address on what it sends; a client may write it.
_ROOT: Final = seals.ROOT | {"from"}
_WRAPPERS: Final = frozenset(
    {
        f"{{{classes.CARBONS}}}received",
        f"{{{classes.CARBONS}}}sent",
        f"{{{classes.MAM}}}result",
        "{urn:xmpp:mam:1}result",
    }
)


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What the domain wants.

    :param outbound: ``refuse``: nothing in clear; ``keyless``: only to who provably
        has no key, and to rooms; ``pass``: whatever the client sends.
    :param inbound: ``refuse``: sent back; ``mark``: shown as not encrypted;
        ``pass``: as it came, for the client's own Tillie to mark.
    """

    outbound: Outbound = "keyless"
    inbound: Inbound = "pass"


@dataclass(slots=True)
class Terms:
    """What a gate demands behind login, in all its streams.

    :param domains: what is known of other domains; None: they are not probed.
    """

    enforcement: Enforcement = Enforcement()
    domains: Domains | None = None


class Judgement(Enum):
    """What a client's message is."""

    FINE = auto()
    """sealed, or without content"""
    ECHO = auto()
    """an error that carries back what it answers: the condition alone may pass"""
    ROOM = auto()
    """clear, for a room"""
    CLEAR = auto()
    """clear, for somebody"""


def judge(stanza: Stanza) -> Judgement:
    """Judge what a client sends; presence and iq are fine (in this version)."""
    if stanza.name != "message":
        return Judgement.FINE
    message = stanza.tree()
    if _holds(message):
        return Judgement.FINE
    if stanza.type == "error":
        return Judgement.ECHO
    if stanza.type == "groupchat" and _is_bare(stanza.to):
        return Judgement.ROOM
    return Judgement.CLEAR


def _holds(message: Element) -> bool:
    first = message[0].tag if len(message) else ""
    checks: tuple[Callable[[Element, frozenset[str]], None], ...]
    if first in (seals.ENCRYPTED, seals.TRANSIENT):
        checks = (seals.check_sealed,)
    elif first.startswith(f"{{{classes.LANE}}}"):
        checks = (seals.check_own,)
    else:
        checks = (seals.check_quiet, seals.check_own, seals.check_sealed)
    for check in checks:
        try:
            check(message, _ROOT)
        except PeerFault:
            continue
        return True
    return False


def _is_bare(address: str | None) -> bool:
    """Messages of rooms go to the room's bare JID; to a full one a server delivers
    whatever their type is (RFC 6121, 8.5.3)."""
    return address is not None and "/" not in address


def without_echo(stanza: Stanza) -> Element:
    """An error message that keeps its condition alone."""
    kept = {name: value for name, value in stanza.attrs.items() if name in _ROOT}
    bare = Element(seals.MESSAGE, kept)
    bare.append(seals.bare_error(stanza.tree().find(seals.ERROR)))
    return bare


# -- towards the client -------------------------------------------------------


def came_clear(stanza: Stanza, account: str) -> bool:
    """Whether a message to *account* carries what somebody else said in clear.

    Not asked of rooms and errors, of what the own server and account say (notices,
    carbons, archive pages), and of what only servers make.
    """
    if stanza.name != "message" or stanza.type in ("error", "groupchat"):
        return False
    if any(name in _WRAPPERS for name in stanza.children):
        return False
    try:
        sender = Jid.parse(stanza.from_ or account)
    except PeerFault:
        return True
    if not sender.local or str(sender.bare) == account:
        return False
    return not _sealed_or_silent(stanza)


def _sealed_or_silent(stanza: Stanza) -> bool:
    names = stanza.children
    if any(name in (seals.ENCRYPTED, seals.TRANSIENT) for name in names):
        # what stands around it is the reader's Tillie's to leave out (5.11)
        return True
    return not any(class_of(name) is Class.SEALED and _speaks(name) for name in names)


def _speaks(name: str) -> bool:
    return (
        name not in classes.CHAT_STATES
        and name not in classes.SERVER_MADE_OUTSIDE
        and name != f"{{{classes.RECEIPTS}}}received"
    )


def marked(stanza: Stanza) -> Element:
    """The message with :data:`MARK` before each of its texts.

    The formatted form goes: a client that shows it would show no mark.  What has no
    text (a reaction, a file) has no place for one, and passes as it is.
    """
    message = stanza.tree()
    fresh = Element(message.tag, message.attrib)
    for child in message:
        if child.tag == marks.XHTML:
            continue
        if child.tag in (marks.BODY, marks.SUBJECT) and (child.text or len(child)):
            text = Element(child.tag, child.attrib)
            text.text = MARK + "".join(child.itertext())
            fresh.append(text)
        else:
            fresh.append(child)
    return fresh
