"""What can be said of an incoming message, and where it stands (see ``inbound``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element

from ..suites import lanes
from ..wire.jid import Jid


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

    reason: str


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
