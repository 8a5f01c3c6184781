"""What becomes of a message on its way out: sealed, allowed in clear, or returned.

One decision per stanza, made from what is known now.  What is not known yet is
a verdict too (``LookUp``, ``Wait``); the session holds the stanza, and everything
behind it, and asks again.  No path leads from an error to clear text.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from ..rules import classes, envelope, marks, seals
from ..rules.classes import Class, class_of
from ..suites import lanes
from ..suites.entropy import stanza_id
from ..suites.fields import b64
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import clearance, grants, guard
from .account import Account
from .contacts import Contact
from .identity import Standing
from .verdicts import Departure, Drop, Go, LookUp, Return, Wait
from .writing import Reader

LARGEST_PLAIN = 40_960
"""Bytes of padded envelope that fit a stanza of ours beside a grant (RES-13)."""
MOST_SHOWN = 3_000
"""Bytes that the client may put outside: the two fit a stanza of ours (5.9)."""
LARGEST_MESSAGE = 38_000
"""Bytes of a client's message that certainly fit that (announced by XEP-0478)."""
_STORE = f"{{{classes.HINTS}}}store"
_ENCRYPTION = f"{{{classes.EME}}}encryption"
_FALLBACK = f"{{{classes.FALLBACK}}}fallback"
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Parts:
    """A message's children by what becomes of them."""

    clear: list[Element]
    copied: list[Element]
    sealed: list[Element]
    invitation: Element | None
    foreign: str = ""

    @property
    def content(self) -> list[Element]:
        return self.copied + self.sealed

    @property
    def transient(self) -> bool:
        """Of passing interest; an id for the sender's own use changes nothing."""
        names = [one.tag for one in self.content if one.tag != classes.ORIGIN_ID]
        return classes.transient(names)


def decide(account: Account, stanza: Stanza, since: int) -> Departure:
    """The verdict on one message of the client, which came at *since*.

    :raises PeerFault: its address is none.
    """
    to = Jid.parse(stanza.to) if stanza.to else Jid.parse(account.jid)
    parts = _sort(stanza.tree())
    if stanza.type == "error":
        return Go((guard.without_content(_bare_error(stanza)),), kept=False)
    if parts.foreign:
        return Return(
            "policy-violation",
            f"not sent: it holds {parts.foreign}, which only servers make",
        )
    if parts.invitation is not None:
        if parts.content:
            return Return(
                "policy-violation",
                "not sent: an invitation by way of the room goes without a text",
            )
        return Go((guard.without_content(_invitation(stanza, parts)),))
    peer = str(to.bare)
    if stanza.type == "groupchat" and len(stanza.children):
        passing = parts.transient
        return clearance.to_room(account, stanza, peer, since, passing=passing)
    if not parts.content:
        return Go((guard.without_content(_shell(stanza, parts.clear)),), kept=False)
    return _person(account, stanza, peer, parts, since)


def _sort(message: Element) -> _Parts:
    clear: list[Element] = []
    copied: list[Element] = []
    sealed: list[Element] = []
    foreign: list[Element] = []
    for child in message:
        if child.tag == marks.SUBJECT and not child.text and not len(child):
            continue
        class_ = class_of(child.tag)
        if class_ is Class.SEALED:
            sealed.append(child)
        elif class_ is Class.COPIED:
            copied.append(child)
        elif class_ is Class.CLEAR:
            clear.append(child)
        else:
            foreign.append(child)
    # only servers make the element that an invitation by way of the room is in
    invitation = _find_invitation(message) if foreign else None
    names = [one.tag for one in foreign if one is not invitation]
    return _Parts(clear, copied, sealed, invitation, names[0] if names else "")


def _find_invitation(message: Element) -> Element | None:
    """A mediated invitation or its refusal, which the room acts on (XEP-0045, 7.8)."""
    x = message.find(f"{{{classes.MUC_USER}}}x")
    names = {f"{{{classes.MUC_USER}}}invite", f"{{{classes.MUC_USER}}}decline"}
    return x if x is not None and {child.tag for child in x} & names else None


def _invitation(stanza: Stanza, parts: _Parts) -> Element:
    """Only who is invited goes to the room; reasons and passwords do not."""
    shell = _shell(stanza, parts.clear)
    x = SubElement(shell, f"{{{classes.MUC_USER}}}x")
    for child in parts.invitation if parts.invitation is not None else ():
        if "to" in child.attrib:
            SubElement(x, child.tag, {"to": str(Jid.parse(child.attrib["to"]))})
    return shell


def _shell(stanza: Stanza, children: list[Element]) -> Element:
    message = Element("{jabber:client}message")
    for name in ("to", "type", "id"):
        value = stanza.attrs.get(name)
        if value is not None:
            message.set(name, value)
    message.extend(_shown(children))
    return message


def _shown(children: list[Element]) -> list[Element]:
    shown = (classes.outside(child) for child in children)
    return [child for child in shown if child is not None]


def _bare_error(stanza: Stanza) -> Element:
    """An error keeps its condition; the echo of what it answers stays (ID-19)."""
    message = _shell(stanza, [])
    error = stanza.tree().find(seals.ERROR)
    if error is not None:
        message.append(seals.bare_error(error))
    return message


def not_linked(jid: str) -> str:
    return f"{jid} has keys on another device, and this one is not linked to it"


def _person(
    account: Account, stanza: Stanza, peer: str, parts: _Parts, since: int
) -> Departure:
    standing = account.identity.standing
    if standing is Standing.NEW:
        return Drop() if parts.transient else Wait("the own keys are not published yet")
    if standing is Standing.LINKING:
        return Return(
            "policy-violation",
            f"not sent: {not_linked(account.jid)}",
            "run tillie link there, and tillie link CODE here",
        )
    if standing is Standing.ALARM:
        return Return(
            "policy-violation",
            f"not sent: somebody published other keys for {account.jid}",
            "run tillie doctor",
        )
    if peer == account.jid:
        return _own(account, stanza, parts)
    contact = account.contacts.get(peer)
    if contact is None or contact.manifest.retired:
        if parts.transient:
            return Drop()
        return clearance.to_keyless(account, stanza, peer, since)
    return _keyed(account, stanza, contact, parts)


def _own(account: Account, stanza: Stanza, parts: _Parts) -> Departure:
    missing = _own_devices_missing(account)
    if missing:
        return missing
    return _sealed(account, stanza, account.jid, None, [], parts)


def _own_devices_missing(account: Account) -> LookUp | None:
    """The own other devices' prekeys are looked up like a contact's."""
    if not account.has_other_devices():
        return None
    own = account.contacts.get(account.jid)
    now = account.clock()
    behind = (
        own is None
        or own.pin.seq < account.identity.manifest.seq
        or account.contacts.stale(own, now)
    )
    if behind and account.contacts.finding(account.jid, now) is None:
        return LookUp(account.jid)
    return None


def _keyed(
    account: Account, stanza: Stanza, contact: Contact, parts: _Parts
) -> Departure:
    peer, now = contact.jid, account.clock()
    if parts.transient:
        return _transient(account, stanza, contact, parts)
    if contact.pin.held and account.contacts.finding(peer, now) is None:
        return LookUp(peer)
    if contact.pin.held:
        return Return(
            "policy-violation",
            f"not sent: the keys of {peer} have changed, and nobody vouches for "
            "the new ones",
            f"if {peer} told you about new keys in person: tillie forget {peer}",
        )
    if lanes.SUITE not in contact.manifest.suites:
        return Return(
            "policy-violation",
            f"not sent: {peer} has keys of a kind that this Tillie does not know",
            "a newer Tillie may",
        )
    fresh = not account.contacts.stale(contact, now) and contact.readers
    if not fresh and account.contacts.finding(peer, now) is None:
        return LookUp(peer)
    readers = _readers(contact)
    if not readers:
        return Return(
            "remote-server-timeout",
            f"not sent: {peer} has keys, but none of its devices can be written to yet",
            "it helps if its Tillie comes online once",
        )
    missing = _own_devices_missing(account)
    if missing:
        return missing
    return _sealed(account, stanza, peer, contact, readers, parts)


def _readers(contact: Contact) -> list[Reader]:
    return [
        Reader(contact.jid, device.public, prekey) for device, prekey in contact.readers
    ]


def _transient(
    account: Account, stanza: Stanza, contact: Contact, parts: _Parts
) -> Departure:
    """Typing and its like: only on a lane that the contact has a grant of (I9),
    and that nobody reads who should not."""
    lane = account.ratchets.current(contact.jid)
    accounts = account.audience(contact)
    everyone = _readers(contact) + account.own_readers()
    if (
        contact.pin.held
        or lane is None
        or not lane.count
        or account.ratchets.worn(lane, accounts, everyone, account.clock())
    ):
        return Drop()
    plaintext = _plaintext(account, stanza, contact.jid, parts)
    bound = lanes.Bound(stanza.type or "normal", account.jid)
    payload = account.ratchets.seal(
        contact.jid, lane, plaintext, bound, flags=lanes.TRANSIENT
    )
    hints = [*parts.clear, Element(f"{{{classes.HINTS}}}no-store")]
    message = _shell(stanza, _once(hints))
    seal = Element(seals.TRANSIENT)
    SubElement(seal, seals.PAYLOAD).text = b64(payload)
    message.insert(0, seal)
    return Go((guard.sealed(message),), kept=False)


def _plaintext(
    account: Account,
    stanza: Stanza,
    peer: str,
    parts: _Parts,
    *,
    with_token: bool = False,
) -> bytes:
    token = account.token.current
    return envelope.write(
        envelope.Envelope(
            type=stanza.type or "normal",
            id=stanza.id,
            sender=account.jid,
            to=peer,
            content=tuple(parts.content),
            attributes=envelope.root_attributes(dict(stanza.attrs)),
            token_hash="" if token is None else b64(token.digest[:16]),
            token="" if token is None or not with_token else token.document,
        ),
        account.clock(),
    )


def _shown_size(stanza: Stanza, parts: _Parts) -> int:
    """Bytes outside the seal that the client chose."""
    copied = sum(len(tree.serialise(child)) for child in _shown(parts.copied))
    return copied + len((stanza.to or "") + (stanza.id or ""))


def _sealed(
    account: Account,
    stanza: Stanza,
    peer: str,
    contact: Contact | None,
    readers: list[Reader],
    parts: _Parts,
) -> Departure:
    plaintext = _plaintext(account, stanza, peer, parts)
    if len(plaintext) > LARGEST_PLAIN:
        return Return(
            "policy-violation",
            f"not sent: the message is too large to seal ({len(plaintext)} bytes "
            f"with its padding; {LARGEST_PLAIN} fit)",
        )
    shown = _shown_size(stanza, parts)
    if shown > MOST_SHOWN:
        return Return(
            "policy-violation",
            f"not sent: {shown} bytes of it would stand outside the seal, in ids and "
            f"in what servers act on ({MOST_SHOWN} fit)",
        )
    if contact is not None:
        account.unheard.sent(peer, account.clock())
    ratchets = account.ratchets
    everyone = readers + account.own_readers()
    lane = ratchets.ready(peer, account.audience(contact), everyone, account.clock())
    if not lane.count and account.token.current is not None:
        # the first of a lane brings the whole token, if there is room for it
        fuller = _plaintext(account, stanza, peer, parts, with_token=True)
        plaintext = fuller if len(fuller) <= LARGEST_PLAIN else plaintext
    due = ratchets.attached(peer, lane, everyone)
    ratchets.mark_granted(peer, lane, due)
    size = len(plaintext) * 4 // 3 + shown
    ahead, beside = grants.attach(account, lane, due, stanza, size)
    flags = lanes.WITH_GRANTS if beside is not None else 0
    bound = lanes.Bound(stanza.type or "normal", account.jid)
    payload = ratchets.seal(peer, lane, plaintext, bound, flags=flags)
    message = _outside(account, stanza, parts)
    seal = Element(seals.ENCRYPTED)
    SubElement(seal, seals.PAYLOAD).text = b64(payload)
    if beside is not None:
        seal.append(beside)
    message.insert(0, seal)
    return Go((*ahead, guard.sealed(message)))


def _outside(account: Account, stanza: Stanza, parts: _Parts) -> Element:
    fallback = account.settings.fallback
    hints = list(parts.clear)
    if not fallback and not any(child.tag.endswith("-store") for child in hints):
        hints.append(Element(_STORE))
    message = _shell(stanza, _once(hints))
    if stanza.id is None:
        # an error could not be matched without; inside there is none either
        message.set("id", stanza_id())
    left_out = classes.BESIDE_NO_BODY if fallback else _NONE
    message.extend(_shown([one for one in parts.copied if one.tag not in left_out]))
    SubElement(message, _ENCRYPTION, {"namespace": classes.SEAL, "name": "Tillie"})
    if fallback:
        SubElement(message, marks.BODY).text = marks.FALLBACK_BODY
        SubElement(message, _FALLBACK, {"for": classes.SEAL})
    return message


def _once(children: list[Element]) -> list[Element]:
    return list({child.tag: child for child in children}.values())
