"""What can be said of a message: of an incoming one (see ``inbound``) and where it
stands, and of one on its way out (see ``outbound``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element

from ..suites import lanes
from ..wire.jid import Jid
from ..wire.stanza import Cleared


@dataclass(frozen=True, slots=True)
class Deliver:
    """For the client.

    :param key: names the sealed message for replay, if it was one.
    :param used: its header, where a contact sealed it live under an index that had
        been passed before.
    :param missing: the key that would open what a fixed text stands for here.
    """

    message: Element
    key: str = ""
    digest: bytes = b""
    used: lanes.Header | None = None
    missing: NeedKey | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing for the client, nothing for the network."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class NeedContact:
    """The keys of this address have to be looked up first."""

    jid: str


@dataclass(frozen=True, slots=True)
class NeedKey:
    """The lane that the header names is not known."""

    jid: str
    header: lanes.Header


Verdict: TypeAlias = Deliver | Drop | NeedContact | NeedKey


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands.

    :param sender: bare JID of who is said to have sent it.
    :param peer: bare JID of the other side of the conversation.
    :param archive: read from an archive, so it may be read again and again.
    """

    sender: str
    peer: str
    archive: bool = False

    @classmethod
    def of(cls, own: str, message: Element, *, archive: bool = False) -> Place:
        """:param own: bare JID of the account that reads.
        :raises PeerFault: an address is none.
        """
        sender = str(Jid.parse(message.get("from") or own).bare)
        to = str(Jid.parse(message.get("to") or own).bare)
        return cls(sender, to if sender == own else sender, archive)


# -- on the way out -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Go:
    """These leave, in this order; *kept* ones stand in the ledger till acknowledged.

    :param clear_to: the bare JIDs that are known to read in clear, with blanks
        between; the first is the addressee.
    """

    stanzas: tuple[Cleared, ...]
    kept: bool = True
    clear_to: str = ""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask for this address's keys first."""

    jid: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Something is under way; *text* is the reason if it takes too long."""

    text: str


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the client as an error."""

    condition: str
    text: str
    hint: str = ""


Departure: TypeAlias = Go | LookUp | Wait | Return | Drop
