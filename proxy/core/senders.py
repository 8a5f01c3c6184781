"""Who stanzas of the network are from: names for people, and the own resources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PeerFault
from ..wire.jid import Jid
from .phase import LOCAL_DOMAIN

if TYPE_CHECKING:
    from ..wire.stanza import Stanza

MOST_OTHERS = 64


def bare(address: str | None) -> str:
    """The bare JID for a notice: a resource is its owner's to choose."""
    try:
        return str(Jid.parse(address).bare) if address else ""
    except PeerFault:
        return ""


def spoofed(stanza: Stanza) -> bool:
    """Nobody on the network speaks as Tillie."""
    try:
        return stanza.from_ is not None and (
            Jid.parse(stanza.from_).domain == LOCAL_DOMAIN
        )
    except PeerFault:
        return False


class Resources:
    """The own other resources that are online, for linking."""

    def __init__(self) -> None:
        self._others: set[str] = set()

    @property
    def others(self) -> list[str]:
        """Their full JIDs."""
        return sorted(self._others)

    def note(self, presence: Stanza, own: Jid | None) -> None:
        """A presence came to *own*, a full JID."""
        try:
            sender = Jid.parse(presence.from_ or "x")
        except PeerFault:
            return
        if own is None or sender.bare != own.bare or sender == own:
            return
        if presence.type == "unavailable":
            self._others.discard(str(sender))
        elif presence.type is None and len(self._others) < MOST_OTHERS:
            self._others.add(str(sender))
