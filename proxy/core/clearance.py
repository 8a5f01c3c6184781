"""Who may be written to in clear, and what stands against it (protocol.md, 4.5, 4.6).

A multicast service hands a message on to those whom it names (XEP-0033), so each of
them is judged like an addressee.
"""

from __future__ import annotations

from ..errors import TrustFault
from ..rules import classes
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import guard
from .account import Account
from .contacts import Failure, Finding
from .verdicts import Departure, Drop, Go, LookUp, Return, Wait

PATIENCE = 6_000
PAUSE = 1_500
MOST_ADDRESSED = 20


def to_room(
    account: Account, stanza: Stanza, room: str, since: int, *, passing: bool
) -> Departure:
    """The verdict on a message with content for a room.

    :param passing: it is typing or its like.
    """
    if account.contacts.policy(room) != "clear":
        if passing:
            return Drop()
        return Return(
            "policy-violation",
            f"not sent: rooms are not sealed yet, so {room} would carry this "
            "unencrypted",
            f"to allow that for this room: tillie allow {room}",
        )
    return _in_clear(account, stanza, room, _multicast(stanza), since)


def to_keyless(account: Account, stanza: Stanza, peer: str, since: int) -> Departure:
    """The verdict on a message with content to *peer*, who has no key that is known."""
    return _in_clear(account, stanza, peer, [peer, *_multicast(stanza)], since)


def _in_clear(
    account: Account, stanza: Stanza, peer: str, readers: list[str], since: int
) -> Departure:
    """As it is to *peer*, if all *readers* may be written to in clear."""
    if len(readers) > MOST_ADDRESSED:
        return Return(
            "policy-violation", f"not sent: it names over {MOST_ADDRESSED} addressees"
        )
    for reader in readers:
        against = _against(account, reader, since)
        if against is not None:
            return against
    permit = account.contacts.permit(peer)
    return Go(
        (guard.permitted(stanza, permit),),
        clear_to=" ".join(dict.fromkeys([peer, *readers])),
    )


def _multicast(stanza: Stanza) -> list[str]:
    """Whom a multicast service delivers to (XEP-0033, 3 and 4); only what is
    addressed to a bare domain is multicast."""
    if not stanza.to or Jid.parse(stanza.to).local:
        return []
    return [
        str(Jid.parse(address.get("jid", "")).bare)
        for addresses in stanza.tree().findall(f"{{{classes.ADDRESS}}}addresses")
        for address in addresses
        if address.get("type") in ("to", "cc", "bcc") and "jid" in address.attrib
    ]


def _against(account: Account, peer: str, since: int) -> Departure | None:
    """What stands against writing to *peer* in clear; None where nothing does."""
    now = account.clock()
    contact = account.contacts.get(peer)
    failure = account.contacts.finding(peer, now)
    known = contact is not None and (
        not contact.manifest.retired or not account.contacts.stale(contact, now)
    )
    if failure is None and not known:
        return LookUp(peer)
    failed = failure is not None and failure.finding is Finding.FAILED and not known
    if failure is not None and failed and account.contacts.policy(peer) != "clear":
        return _unlearned(peer, failure, now, since)
    try:
        account.contacts.permit(peer)
    except TrustFault as fault:
        return Return(fault.condition, f"not sent: {fault.text}", fault.hint)
    return None


def _unlearned(peer: str, failure: Failure, now: int, since: int) -> Departure:
    """No usable answer: tried again for a while, for the sake of a contact whose
    Tillie is publishing its first keys right now (Prosody answers ``forbidden``
    for a node that does not exist yet)."""
    text = f"whether {peer} has a key could not be learned ({failure.text})"
    if failure.at >= since and now - since < PATIENCE:
        return LookUp(peer) if now - failure.at >= PAUSE else Wait(text)
    return Return(
        "remote-server-timeout",
        f"not sent: {text}",
        f"to send unencrypted all the same: tillie allow {peer}",
    )
