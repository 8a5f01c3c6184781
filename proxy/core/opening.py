"""A seal is opened: who wrote it, to whom, and what of the outside is kept.

The receiving side rebuilds a sealed message from its inside; of the outside
only a fixed list of what servers make is kept.
"""

from __future__ import annotations

from copy import copy
from xml.etree.ElementTree import Element

from ..errors import REMOTE, PeerFault, TrustFault
from ..rules import classes, envelope, labels, marks
from ..suites import lanes
from ..suites.fields import unb64
from ..wire import tree
from ..wire.jid import Jid
from . import vouchers
from .account import Account
from .contacts import Contact
from .grants import GRANTS, take_from
from .reading import UnknownLane, Unsealed
from .verdicts import Deliver, Drop, NeedContact, NeedKey, Place, Verdict

SEALS = (f"{{{classes.SEAL}}}encrypted", f"{{{classes.SEAL}}}transient")
PAYLOAD = f"{{{classes.SEAL}}}payload"
_LARGEST = 400_000
"""Letters of the longest payload that is looked at."""


def open_seal(
    account: Account, message: Element, seal: Element, place: Place, retry: bool
) -> Verdict:
    if not account.identity.can_read:
        return _not_linked(account, message, seal, place)
    need, _ = take_from(account, seal.find(GRANTS), place.sender, retry)
    kind = message.get("type") or "normal"
    try:
        payload = _payload(seal)
        unsealed = account.ratchets.unseal(
            place.sender, payload, lanes.Bound(kind, place.sender)
        )
    except UnknownLane as unknown:
        return need or _unknown(account, message, seal, place, unknown, retry)
    except REMOTE as fault:
        account.notice(place.sender, f"a seal of {place.sender} does not hold")
        return Drop(fault.text)
    if bool(unsealed.header.flags & lanes.TRANSIENT) != (seal.tag == SEALS[1]):
        return Drop("a seal of another kind than its element says")
    try:
        inside = envelope.read(unsealed.plaintext)
        if inside.type != kind:
            raise TrustFault("a seal of another type than its stanza")
        need = _check(account, inside, unsealed.lane.facts, place, retry)
    except REMOTE:
        account.notice(place.sender, f"a seal of {place.sender} was misused")
        return unreadable(message)
    if need is not None:
        return need
    if not place.archive:
        _keep(account, unsealed, inside, place.sender)
    restored = envelope.restore(inside, dict(message.attrib))
    marks.defuse(restored)
    restored.extend(_server_made(account, message))
    _tell_if_removed(account, unsealed.lane.facts, place, restored)
    if not place.archive:
        _compare_labels(account, message, restored, place.sender)
    header = unsealed.header
    key = f"{header.lane.hex()}{unsealed.lane.facts.device[:8].hex()}{header.n:08x}"
    live = not place.archive and place.sender != account.jid
    used = header if live and header.n < unsealed.lane.top.n else None
    return Deliver(restored, key, unsealed.digest, used)


def _keep(
    account: Account, unsealed: Unsealed, inside: envelope.Envelope, sender: str
) -> None:
    """What an opened message changes: the place in its lane, signs of its sender."""
    account.ratchets.commit(unsealed)
    if sender == account.jid:
        return
    account.ratchets.heard(sender)
    vouchers.heard(account, sender, inside.token)
    if unsealed.header.n >= unsealed.lane.top.n:
        # no repetition by a server
        account.unheard.heard(sender)


def _payload(seal: Element) -> bytes:
    text = seal.findtext(PAYLOAD) or ""
    if len(text) > _LARGEST:
        raise PeerFault("a sealed payload beyond the limit")
    return unb64(text)


def _unknown(
    account: Account,
    message: Element,
    seal: Element,
    place: Place,
    unknown: UnknownLane,
    retry: bool,
) -> Verdict:
    if seal.tag == SEALS[1]:
        return Drop("typing under a key that is not here")
    stranger = place.sender != account.jid and not account.contacts.get(place.sender)
    if stranger and not retry:
        return NeedContact(place.sender)
    return NeedKey(place.sender, unknown.header)


def _not_linked(
    account: Account, message: Element, seal: Element, place: Place
) -> Verdict:
    if seal.tag == SEALS[1]:
        return Drop("typing before this device has keys")
    account.notice(
        account.jid, "sealed messages come that this device has no keys for yet"
    )
    return unreadable(message)


def _check(
    account: Account,
    inside: envelope.Envelope,
    facts: lanes.Facts,
    place: Place,
    retry: bool,
) -> NeedContact | None:
    """Who wrote it, to whom, and that both sides mean the same accounts (I21, I23).

    :raises TrustFault: they do not.
    """
    if inside.sender != place.sender or facts.owner != place.sender:
        raise TrustFault("a seal under another sender's name")
    expected = place.peer if place.sender == account.jid else account.jid
    if inside.to != expected:
        raise TrustFault("a seal that was meant for somebody else")
    contact = None if place.peer == account.jid else account.contacts.get(place.peer)
    if place.peer != account.jid and contact is None:
        if retry:
            raise TrustFault("a seal in a conversation whose keys are not known")
        return NeedContact(place.peer)
    hashes = (
        lanes.audience_hash(facts.commit, one) for one in account.audiences(contact)
    )
    if facts.audience not in hashes:
        if retry or place.archive:
            raise TrustFault("a seal whose readers are not who they should be")
        return NeedContact(place.peer)
    _device_listed(account, facts, contact, place)
    return None


def _device_listed(
    account: Account, facts: lanes.Facts, contact: Contact | None, place: Place
) -> None:
    if place.sender != account.jid and contact is None:
        raise TrustFault("a seal of nobody known")
    listed, removed = _listed(account, place.sender, facts.device)
    if not listed:
        raise TrustFault("a seal of a device that its account does not list")
    if removed and facts.epoch > removed and not place.archive:
        raise TrustFault("a seal of a device after its removal")


def _listed(account: Account, sender: str, device: bytes) -> tuple[bool, int | None]:
    """Whether *device* is, or was, the sender's; and when it was removed (I8), or left
    by a rollover (3.10.2)."""
    contact = None if sender == account.jid else account.contacts.get(sender)
    whose = account.identity if contact is None else contact
    listed = whose.manifest.device(device)
    removed = whose.gone.get(device) if listed is None else listed.removed
    return listed is not None or removed is not None, removed


def _compare_labels(
    account: Account, outer: Element, restored: Element, sender: str
) -> None:
    """Servers decided by the label outside; the reader goes by the one inside."""
    inside = [labels.outside(one) for one in restored.findall(labels.LABEL)]
    meant = [tree.serialise(one) for one in inside if one is not None]
    if meant != [tree.serialise(one) for one in outer.findall(labels.LABEL)]:
        account.notice(
            sender,
            f"a message of {sender} came with another security label around its seal "
            "than inside: servers on the way went by that one",
        )


def _tell_if_removed(
    account: Account, facts: lanes.Facts, place: Place, message: Element
) -> None:
    """What a removed device wrote before its removal is shown as such (I8)."""
    _, removed = _listed(account, place.sender, facts.device)
    body = message.find(marks.BODY)
    if removed and body is not None:
        body.text = f"[Tillie: from a removed device] {body.text or ''}"


def _server_made(account: Account, message: Element) -> list[Element]:
    """Children of the outside that only a server makes, by a server we know (R5).

    One that names nobody is not believed: any contact can write it (ID-17).
    """
    trusted = {account.jid, Jid.parse(account.jid).domain}
    return [
        copy(child)
        for child in message
        if child.tag in classes.SERVER_MADE_OUTSIDE
        and (child.get("by") or child.get("from")) in trusted
    ]


def unreadable(message: Element) -> Deliver:
    return Deliver(marks.placeholder(dict(message.attrib), marks.UNREADABLE_OLD))
