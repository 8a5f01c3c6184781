"""What becomes of a message on its way in: opened, marked, held or dropped.

The receiving side rebuilds a sealed message from its inside; of the outside
only a fixed list of what servers make is kept.  Whatever fails, nothing is
sent because of it but one bounded request for an unknown key (ENC-19).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element

from ..errors import Fault, PeerFault, TrustFault
from ..rules import classes, envelope, marks
from ..rules.classes import Class, class_of
from ..suites import lanes
from ..suites.fields import unb64
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .account import Account
from .contacts import Contact
from .ratchets import UnknownLane

SEALS = (f"{{{classes.SEAL}}}encrypted", f"{{{classes.SEAL}}}transient")
GRANTS = f"{{{classes.LANE}}}grants"
_PAYLOAD = f"{{{classes.SEAL}}}payload"
_FORWARDED = f"{{{classes.FORWARD}}}forwarded"
_MESSAGE = "{jabber:client}message"
_CARBONS = (f"{{{classes.CARBONS}}}received", f"{{{classes.CARBONS}}}sent")
_RESULTS = (f"{{{classes.MAM}}}result", "{urn:xmpp:mam:1}result")
_LAYER = f"{{{classes.LANE}}}"
LARGEST_PAYLOAD = 400_000

# what a clear message of somebody with keys may not do to sealed ones (ID-15, ID-16)
_ACTING_ON_OTHERS = (
    "{urn:xmpp:message-correct:0}",
    "{urn:xmpp:message-retract:",
    "{urn:xmpp:reactions:0}",
    "{urn:xmpp:fasten:0}",
    "{urn:xmpp:chat-markers:0}",
    "{urn:xmpp:receipts}received",
)


@dataclass(frozen=True, slots=True)
class Deliver:
    """For the client; *key* names the sealed message for replay, if it was one."""

    message: Element | None
    key: str = ""
    digest: bytes = b""


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


def judge(account: Account, stanza: Stanza, *, retry: bool = False) -> Verdict:
    """The verdict on one message of the server.

    :param retry: it was held before, so what can be looked up has been.
    """
    message = stanza.tree()
    try:
        sender = Jid.parse(stanza.from_ or account.jid)
    except PeerFault:
        return Drop("an address that is none")
    bare = str(sender.bare)
    wrapper = _wrapper(message)
    if wrapper is not None:
        return _wrapped(account, stanza, wrapper, sender, retry)
    if stanza.type == "error":
        return Deliver(_without_seal(message))
    if stanza.type == "groupchat":
        return Deliver(_room(message))
    place = Place(sender=bare, peer=bare)
    if bare == account.jid and stanza.to:
        place = Place(bare, str(Jid.parse(stanza.to).bare))
    return _judge(account, message, place, retry)


def _judge(account: Account, message: Element, place: Place, retry: bool) -> Verdict:
    if any(child.tag.startswith(_LAYER) for child in message):
        # keys travelling in an archive or a carbon are nobody's message
        return (
            Deliver(Element(message.tag, message.attrib))
            if place.archive
            else Drop("this layer's own words")
        )
    seals = [child for child in message if child.tag in SEALS]
    if not seals:
        return _clear(account, message, place)
    if len(seals) > 1 or [child.tag for child in seals[0]][:1] != [_PAYLOAD]:
        account.notice(place.sender, f"a malformed seal came from {place.sender}")
        return _unreadable(message, place)
    return _open(account, message, seals[0], place, retry)


def placeholder(account: Account, stanza: Stanza) -> Element:
    """What stands in the conversation while the key of *stanza* is missing."""
    message = stanza.tree()
    wrapper = _wrapper(message)
    inner = _inner(wrapper) if wrapper is not None else None
    if inner is None:
        return marks.placeholder(dict(message.attrib), marks.UNREADABLE)
    note = marks.placeholder(dict(inner.attrib), marks.UNREADABLE)
    return _replaced(message, inner, note)


def _unreadable(message: Element, place: Place) -> Deliver:
    return Deliver(marks.placeholder(dict(message.attrib), marks.UNREADABLE_OLD))


# -- wrappers that servers make -----------------------------------------------


def _wrapper(message: Element) -> Element | None:
    for child in message:
        if child.tag in _CARBONS or child.tag in _RESULTS:
            return child
    return None


def _wrapped(
    account: Account, stanza: Stanza, wrapper: Element, sender: Jid, retry: bool
) -> Verdict:
    """A carbon or an archive result, its inner message opened in place.

    Only the own bare JID makes carbons (XEP-0280, 11; ID-01, ID-02).  An
    archive of somebody else, a room's, passes as it is.
    """
    own = str(sender) == account.jid or stanza.from_ is None
    archive = wrapper.tag in _RESULTS
    if not own:
        if archive and not _has_seal(wrapper):
            return Deliver(stanza.tree())
        return Drop("a carbon or archive page from somebody else")
    inner = _inner(wrapper)
    if inner is None or (stanza.type == "groupchat"):
        return Drop("a wrapper that holds something else than one message")
    if inner.tag != _MESSAGE or inner.get("type") in ("groupchat", "error"):
        return Deliver(_replaced(stanza.tree(), inner, _room(inner)))
    try:
        place = _place(account, inner, archive)
    except PeerFault:
        return Drop("an address that is none")
    if wrapper.tag == _CARBONS[1] and place.sender != account.jid:
        return Drop("a sent carbon of somebody else's message")
    verdict = _judge(account, inner, place, retry)
    return _rewrapped(stanza, inner, verdict, archive)


def _rewrapped(
    stanza: Stanza, inner: Element, verdict: Verdict, archive: bool
) -> Verdict:
    if isinstance(verdict, Deliver) and verdict.message is not None:
        whole = _replaced(stanza.tree(), inner, verdict.message)
        return Deliver(whole, "" if archive else verdict.key, verdict.digest)
    if archive and not isinstance(verdict, NeedContact | NeedKey):
        # a page keeps its length: clients count results (XEP-0313, 4)
        note = marks.placeholder(dict(inner.attrib), marks.UNREADABLE_OLD)
        return Deliver(_replaced(stanza.tree(), inner, note))
    if archive:
        note = marks.placeholder(dict(inner.attrib), marks.UNREADABLE_OLD)
        return Deliver(_replaced(stanza.tree(), inner, note))
    return verdict


def _has_seal(wrapper: Element) -> bool:
    return any(part.tag in SEALS for part in wrapper.iter())


def _inner(wrapper: Element) -> Element | None:
    """The one message inside; None for none, several or nested ones (ID-04)."""
    forwarded = wrapper.findall(_FORWARDED)
    if len(forwarded) != 1:
        return None
    inner = [child for child in forwarded[0] if child.tag.endswith("}message")]
    if len(inner) != 1 or any(
        part.tag in (_FORWARDED, *_CARBONS, *_RESULTS) for part in inner[0]
    ):
        return None
    return inner[0]


def _place(account: Account, inner: Element, archive: bool) -> Place:
    sender = str(Jid.parse(inner.get("from") or account.jid).bare)
    to = str(Jid.parse(inner.get("to") or account.jid).bare)
    return Place(sender, to if sender == account.jid else sender, archive)


def _replaced(whole: Element, old: Element, new: Element) -> Element:
    """A copy of *whole* with *new* in the place of *old*."""
    if whole is old:
        return new
    fresh = Element(whole.tag, whole.attrib)
    fresh.text, fresh.tail = whole.text, whole.tail
    fresh.extend(_replaced(child, old, new) for child in whole)
    return fresh


# -- sealed -------------------------------------------------------------------


def _open(
    account: Account, message: Element, seal: Element, place: Place, retry: bool
) -> Verdict:
    if not account.identity.has_manifest or not account.identity.ready:
        return _not_linked(account, message, seal, place)
    need = _take_grants(account, seal.find(GRANTS), place.sender, retry)
    try:
        payload = _payload(seal)
        kind = message.get("type") or "normal"
        unsealed = account.ratchets.unseal(
            place.sender, payload, lanes.Bound(kind, place.sender)
        )
    except UnknownLane as unknown:
        return need or _unknown(account, message, seal, place, unknown, retry)
    except Fault as fault:
        account.notice(place.sender, f"a seal of {place.sender} does not hold")
        return Drop(fault.text)
    if bool(unsealed.header.flags & lanes.TRANSIENT) != (seal.tag == SEALS[1]):
        return Drop("a seal of another kind than its element says")
    try:
        inside = envelope.read(unsealed.plaintext)
        need = _check(account, inside, unsealed.lane.facts, place, retry)
    except Fault as fault:
        account.notice(place.sender, f"a seal of {place.sender} was misused")
        return _held_for_good(message, place, fault)
    if need is not None:
        return need
    if not place.archive:
        account.ratchets.commit(unsealed)
        if place.sender != account.jid:
            account.ratchets.heard(place.sender)
    restored = envelope.restore(inside, dict(message.attrib))
    marks.defuse(restored)
    restored.extend(_server_made(account, message))
    _tell_if_removed(account, unsealed.lane.facts, place, restored)
    header = unsealed.header
    key = f"{header.lane.hex()}{header.n:08x}{unsealed.lane.facts.device[:8].hex()}"
    return Deliver(restored, key, unsealed.digest)


def _held_for_good(message: Element, place: Place, fault: Fault) -> Verdict:
    return _unreadable(message, place)


def _payload(seal: Element) -> bytes:
    text = seal.findtext(_PAYLOAD) or ""
    if len(text) > LARGEST_PAYLOAD:
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
    return _unreadable(message, place)


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
    accounts = account.audience(contact)
    if lanes.audience_hash(facts.commit, accounts) != facts.audience:
        if retry or place.archive:
            raise TrustFault("a seal whose readers are not who they should be")
        return NeedContact(place.peer)
    _device_listed(account, facts, contact, place)
    return None


def _device_listed(
    account: Account, facts: lanes.Facts, contact: Contact | None, place: Place
) -> None:
    own = place.sender == account.jid
    if not own and contact is None:
        raise TrustFault("a seal of nobody known")
    manifest = account.identity.manifest if own or contact is None else contact.manifest
    device = manifest.device(facts.device)
    if device is None:
        raise TrustFault("a seal of a device that its account does not list")
    if device.removed and facts.epoch > device.removed and not place.archive:
        raise TrustFault("a seal of a device after its removal")


def _tell_if_removed(
    account: Account, facts: lanes.Facts, place: Place, message: Element
) -> None:
    """What a removed device wrote before its removal is shown as such (I8)."""
    contact = account.contacts.get(place.sender)
    device = contact.manifest.device(facts.device) if contact else None
    body = message.find(marks.BODY)
    if device is not None and device.removed and body is not None:
        body.text = f"[Tillie: from a removed device] {body.text or ''}"


def _server_made(account: Account, message: Element) -> list[Element]:
    """Children of the outside that only a server makes, by a server we know (R5)."""
    domain = str(Jid.parse(account.jid).domain)
    trusted = {account.jid, domain}
    kept = []
    for child in message:
        if child.tag not in classes.SERVER_MADE_OUTSIDE:
            continue
        by = child.get("by") or child.get("from") or domain
        if by in trusted:
            kept.append(copy(child))
    return kept


def _take_grants(
    account: Account, grants: Element | None, granter: str, retry: bool
) -> NeedContact | None:
    """Keep what was granted to this device; say if the granter is not known yet."""
    if grants is None:
        return None
    identity = account.identity
    mine = [
        grant
        for grant in grants
        if grant.get("to") == account.jid and _is_mine(account, grant)
    ]
    if not mine:
        return None
    try:
        public = unb64(grants.get("device", ""))
    except PeerFault:
        return None
    if granter == account.jid:
        manifest = identity.manifest
    else:
        contact = account.contacts.get(granter)
        if contact is None:
            return None if retry else NeedContact(granter)
        manifest = contact.manifest
    device = manifest.device(public)
    if not retry and (device is None or _newer(grants, manifest.seq)):
        return NeedContact(granter)
    if device is None or device.removed:
        return None
    for grant in mine:
        _take_one(account, grant, granter, public)
    return None


def _newer(grants: Element, seq: int) -> bool:
    named = grants.get("seq", "")
    return named.isascii() and named.isdigit() and len(named) < 12 and int(named) > seq


def _is_mine(account: Account, grant: Element) -> bool:
    try:
        return unb64(grant.get("device", "")) == account.identity.device.public
    except PeerFault:
        return False


def _take_one(account: Account, grant: Element, granter: str, public: bytes) -> None:
    number = grant.get("prekey", "")
    if not (number.isascii() and number.isdigit() and len(number) < 11):
        return
    parties = lanes.Parties(
        granter,
        public,
        account.jid,
        account.identity.device.public,
        int(number),
    )
    try:
        account.ratchets.take_grant(unb64(grant.text or ""), parties, account.clock())
    except Fault as fault:
        account.notice(granter, f"a key of {granter} was not taken: {fault.text}")


def take_grant_message(
    account: Account, grants: Element, granter: str, *, retry: bool
) -> NeedContact | None:
    """A message that carries grants only."""
    if not account.identity.ready:
        return None
    return _take_grants(account, grants, granter, retry)


# -- clear --------------------------------------------------------------------


def _without_seal(message: Element) -> Element:
    """An error's echo shows no ciphertext and none of our own words."""
    fresh = Element(message.tag, message.attrib)
    for child in message:
        fallback = child.tag == marks.BODY and child.text == marks.FALLBACK_BODY
        ours = class_of(child.tag) is Class.SERVER and child.tag.startswith("{urn:x-")
        eme = child.tag == f"{{{classes.EME}}}encryption"
        if not (ours or eme or fallback):
            fresh.append(child)
    return _defused(fresh)


def _room(message: Element) -> Element:
    """A room's message as it is; what is sealed in it cannot be read yet."""
    if not any(child.tag in SEALS for child in message):
        return _defused(message)
    return marks.placeholder(dict(message.attrib), marks.UNREADABLE_OLD)


def _clear(account: Account, message: Element, place: Place) -> Verdict:
    contact = account.contacts.get(place.sender)
    keyed = contact is not None and not contact.manifest.retired
    if place.sender == account.jid or not keyed:
        return Deliver(_defused(message))
    return _downgraded(account, message, place)


def _defused(message: Element) -> Element:
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
    for child in message:
        if not child.tag.startswith(_ACTING_ON_OTHERS):
            fresh.append(_deep(child))
    said = [child for child in fresh if class_of(child.tag) is Class.SEALED]
    if any(child.tag in (marks.BODY, marks.SUBJECT) for child in said):
        marks.mark_clear(fresh)
        if not place.archive:
            account.notice(
                place.sender,
                f"{place.sender} has keys, but sent a message without sealing it",
                show=False,
            )
        return Deliver(fresh)
    if said or len(fresh) < len(message):
        # a link, a file, a reaction: a mark would find no place in it
        return Drop("clear content without a text, of somebody with keys")
    return Deliver(message)
