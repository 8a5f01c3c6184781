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

from ..errors import REMOTE, PeerFault, TrustFault
from ..rules import classes, envelope, marks
from ..suites import lanes
from ..suites.entropy import stanza_id
from ..suites.fields import unb64
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .account import Account
from .contacts import Contact
from .phase import LOCAL_DOMAIN
from .ratchets import UnknownLane

SEALS = (f"{{{classes.SEAL}}}encrypted", f"{{{classes.SEAL}}}transient")
GRANTS = f"{{{classes.LANE}}}grants"
_PAYLOAD = f"{{{classes.SEAL}}}payload"
_FORWARDED = f"{{{classes.FORWARD}}}forwarded"
_MESSAGE = "{jabber:client}message"
_CARBONS = (f"{{{classes.CARBONS}}}received", f"{{{classes.CARBONS}}}sent")
_RESULTS = (f"{{{classes.MAM}}}result", "{urn:xmpp:mam:1}result")
CHAT_STATES = ("active", "composing", "paused", "inactive", "gone")
HINTS = ("store", "no-store", "no-copy", "no-permanent-store")
_LAYER = f"{{{classes.LANE}}}"
MOST_GRANTS_TO_ONE = 4
LARGEST_PAYLOAD = 400_000

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


@dataclass(frozen=True, slots=True)
class Deliver:
    """For the client; *key* names the sealed message for replay, if it was one."""

    message: Element
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
    :raises StoreFault: the state could not be read.
    """
    message = stanza.tree()
    try:
        sender = Jid.parse(stanza.from_ or account.jid)
        place = _place(account, message, archive=False)
    except PeerFault:
        return Drop("an address that is none")
    wrapper = _wrapper(message)
    if wrapper is not None:
        return _wrapped(account, stanza, wrapper, sender, retry)
    return _judge(account, message, place, retry)


def _judge(account: Account, message: Element, place: Place, retry: bool) -> Verdict:
    if Jid.parse(message.get("from") or account.jid).domain == LOCAL_DOMAIN:
        return Drop("nobody on the network speaks as Tillie")
    if any(child.tag.startswith(_LAYER) for child in message):
        # keys travelling in an archive or a carbon are nobody's message
        empty = Deliver(Element(message.tag, message.attrib))
        return empty if place.archive else Drop("this layer's own words")
    if message.get("type") == "error":
        return _error(account, message, place)
    seals = [child for child in message if child.tag in SEALS]
    if not seals:
        return _clear(account, message, place)
    if message.get("type") == "groupchat":
        # rooms are not sealed yet
        return _unreadable(message)
    if len(seals) > 1 or [child.tag for child in seals[0]][:1] != [_PAYLOAD]:
        account.notice(place.sender, f"a malformed seal came from {place.sender}")
        return _unreadable(message)
    return _open(account, message, seals[0], place, retry)


def placeholder(account: Account, stanza: Stanza) -> Element:
    """What stands in the conversation while the key of *stanza* is missing."""
    message = stanza.tree()
    wrapper = _wrapper(message)
    inner = _inner(wrapper) if wrapper is not None else None
    # an id of its own: clients drop what repeats one, and the message may still come
    attributes = dict((message if inner is None else inner).attrib) | {
        "id": stanza_id()
    }
    note = marks.placeholder(attributes, marks.UNREADABLE)
    return note if inner is None else _replaced(message, inner, note)


def _unreadable(message: Element) -> Deliver:
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

    Only the own bare JID makes carbons (XEP-0280, 11; ID-01, ID-02), and only it
    the own archive, which may also leave itself out as the sender.
    """
    archive = wrapper.tag in _RESULTS
    if str(sender) != account.jid or (stanza.from_ is None and not archive):
        return _foreign(account, stanza, str(sender.bare), archive)
    inner = _inner(wrapper)
    if inner is None or stanza.type == "groupchat":
        return Drop("a wrapper that holds something else than one message")
    try:
        place = _place(account, inner, archive=archive)
    except PeerFault:
        return Drop("an address that is none")
    if wrapper.tag == _CARBONS[1] and place.sender != account.jid:
        return Drop("a sent carbon of somebody else's message")
    return _rewrapped(stanza, inner, _judge(account, inner, place, retry), archive)


def _foreign(account: Account, stanza: Stanza, sender: str, archive: bool) -> Verdict:
    """A room's archive page; nobody else has a wrapper to send."""
    contact = account.contacts.get(sender)
    message = stanza.tree()
    inner = _inner(message[0]) if archive and len(message) == 1 else None
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
        message = _replaced(message, part, _defused(part))
    return message


def _rewrapped(
    stanza: Stanza, inner: Element, verdict: Verdict, archive: bool
) -> Verdict:
    if isinstance(verdict, Deliver):
        if verdict.message is inner:
            return Deliver(stanza.tree())
        whole = _replaced(stanza.tree(), inner, verdict.message)
        return Deliver(whole, "" if archive else verdict.key, verdict.digest)
    if archive:
        # a page keeps its length: clients count results (XEP-0313, 4)
        note = marks.placeholder(dict(inner.attrib), marks.UNREADABLE_OLD)
        return Deliver(_replaced(stanza.tree(), inner, note))
    return verdict


def _has_seal(message: Element) -> bool:
    return any(part.tag in SEALS for part in message.iter())


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


def _place(account: Account, inner: Element, *, archive: bool) -> Place:
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
    if not account.identity.can_read:
        return _not_linked(account, message, seal, place)
    need, _ = _take_grants(account, seal.find(GRANTS), place.sender, retry)
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
        return _unreadable(message)
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
    return _unreadable(message)


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
    manifest = account.identity.manifest
    if place.sender != account.jid:
        contact = account.contacts.get(place.sender)
        manifest = contact.manifest if contact is not None else manifest
    device = manifest.device(facts.device)
    body = message.find(marks.BODY)
    if device is not None and device.removed and body is not None:
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


def _take_grants(
    account: Account, grants: Element | None, granter: str, retry: bool
) -> tuple[NeedContact | None, bool]:
    """Keep what was granted to this device.

    The first of what comes back says that the granter is not known yet, the
    second whether a key was taken.
    """
    mine = _mine(account, grants)
    if grants is None or not mine:
        return None, False
    try:
        public = unb64(grants.get("device", ""))
    except PeerFault:
        return None, False
    contact = account.contacts.get(granter)
    if granter == account.jid:
        manifest = account.identity.manifest
    elif contact is not None:
        manifest = contact.manifest
    else:
        return (None if retry else NeedContact(granter)), False
    device = manifest.device(public)
    unknown = device is None or _newer(grants, manifest.seq)
    if unknown and not retry and granter != account.jid:
        return NeedContact(granter), False
    if device is None or device.removed:
        return None, False
    taken = [_take_one(account, grant, granter, public) for grant in mine]
    return None, any(taken)


def _mine(account: Account, grants: Element | None) -> list[Element]:
    """Grants to this device; an honest granter makes one a stanza."""
    return [
        grant
        for grant in (grants if grants is not None else ())
        if grant.get("to") == account.jid and _is_mine(account, grant)
    ][:MOST_GRANTS_TO_ONE]


def _newer(grants: Element, seq: int) -> bool:
    named = grants.get("seq", "")
    return named.isascii() and named.isdigit() and len(named) < 12 and int(named) > seq


def _is_mine(account: Account, grant: Element) -> bool:
    try:
        return unb64(grant.get("device", "")) == account.identity.device.public
    except PeerFault:
        return False


def _take_one(account: Account, grant: Element, granter: str, public: bytes) -> bool:
    number = grant.get("prekey", "")
    if not (number.isascii() and number.isdigit() and len(number) < 11):
        return False
    parties = lanes.Parties(
        granter,
        public,
        account.jid,
        account.identity.device.public,
        int(number),
    )
    try:
        return account.ratchets.take_grant(
            unb64(grant.text or ""), parties, account.clock()
        )
    except REMOTE as fault:
        account.notice(granter, f"a key of {granter} was not taken: {fault.text}")
        return False


def take_grants(
    account: Account, stanza: Stanza, granter: str, *, retry: bool = False
) -> tuple[NeedContact | None, bool]:
    """The grants of a message, beside a seal or alone; see :func:`_take_grants`."""
    if not account.identity.ready:
        return None, False
    message = stanza.tree()
    grants = message.find(GRANTS)
    if grants is None:
        seal = message.find(SEALS[0])
        grants = seal.find(GRANTS) if seal is not None else None
    return _take_grants(account, grants, granter, retry)


# -- clear --------------------------------------------------------------------


def _error(account: Account, message: Element, place: Place) -> Deliver:
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
    return Deliver(_defused(fresh))


_EME = f"{{{classes.EME}}}encryption"


def _keyed(account: Account, jid: str) -> bool:
    """Whether messages of *jid* are expected under a seal."""
    if jid == account.jid:
        return account.identity.ready
    contact = account.contacts.get(jid)
    return contact is not None and not contact.manifest.retired


def _clear(account: Account, message: Element, place: Place) -> Verdict:
    if not _keyed(account, place.sender):
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
