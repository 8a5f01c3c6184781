"""Grants as they stand in stanzas, beside a seal or alone: written and taken
(protocol.md, 6.3, 6.6).
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from ..errors import REMOTE, PeerFault
from ..rules import classes
from ..suites import lanes
from ..suites.entropy import stanza_id
from ..suites.fields import b64, unb64
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza
from . import guard
from .account import Account
from .verdicts import NeedContact
from .writing import Reader, SendLane

GRANTS = f"{{{classes.LANE}}}grants"
_ENCRYPTED = f"{{{classes.SEAL}}}encrypted"
MOST_BESIDE = 32
MOST_ALONE = 20
MOST_TO_ONE = 4
_SIZE = 2_900
"""Bytes of one grant in a stanza, rounded up."""
_FIXED = 2_000
"""Bytes of the rest of a sealed stanza, rounded up."""


# -- written ------------------------------------------------------------------


def attach(
    account: Account,
    lane: SendLane,
    due: list[Reader],
    stanza: Stanza,
    size: int,
) -> tuple[list[Cleared], Element | None]:
    """Grants in stanzas of their own, ahead, and those that fit beside the seal.

    :param size: bytes of the seal, and of what the client put outside of it.
    """
    if not due:
        return [], None
    elements = [
        grant_for(reader, account.ratchets.grant(lane, reader)) for reader in due
    ]
    room = (guard.LARGEST - _FIXED - size) // _SIZE
    beside = elements[: max(0, min(room, MOST_BESIDE))]
    ahead = []
    rest = elements[len(beside) :]
    while rest:
        chunk, rest = rest[:MOST_ALONE], rest[MOST_ALONE:]
        to = str(Jid.parse(stanza.to or account.jid).bare)
        ahead.append(guard.own_message(grant_message(account, to, chunk)))
    return ahead, wrapped(account, beside) if beside else None


def grant_for(reader: Reader, box: bytes) -> Element:
    grant = Element(
        f"{{{classes.LANE}}}grant",
        {
            "to": reader.jid,
            "device": b64(reader.device),
            "prekey": str(reader.prekey.number),
        },
    )
    grant.text = b64(box)
    return grant


def wrapped(account: Account, grants: list[Element]) -> Element:
    element = Element(
        f"{{{classes.LANE}}}grants",
        {
            "device": b64(account.identity.device.public),
            "seq": str(account.identity.manifest.seq),
        },
    )
    element.extend(grants)
    return element


def grant_message(account: Account, to: str, grants: list[Element]) -> Element:
    """A stored message that carries grants and nothing else."""
    message = Element(
        "{jabber:client}message", {"to": to, "type": "normal", "id": stanza_id()}
    )
    message.append(wrapped(account, grants))
    SubElement(message, f"{{{classes.HINTS}}}store")
    return message


# -- taken --------------------------------------------------------------------


def take_from(
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
        if grant.get("to") == account.jid and _device_of(account, grant) is not None
    ][:MOST_TO_ONE]


def _newer(grants: Element, seq: int) -> bool:
    named = grants.get("seq", "")
    return named.isascii() and named.isdigit() and len(named) < 12 and int(named) > seq


def _device_of(account: Account, grant: Element) -> bytes | None:
    """The key of this device, the present or a former one, that was granted to."""
    try:
        device = unb64(grant.get("device", ""))
    except PeerFault:
        return None
    return device if device in account.identity.devices else None


def _take_one(account: Account, grant: Element, granter: str, public: bytes) -> bool:
    number = grant.get("prekey", "")
    if not (number.isascii() and number.isdigit() and len(number) < 11):
        return False
    device = _device_of(account, grant)
    assert device is not None
    parties = lanes.Parties(granter, public, account.jid, device, int(number))
    try:
        return account.ratchets.take_grant(
            unb64(grant.text or ""), parties, account.clock()
        )
    except REMOTE as fault:
        account.notice(granter, f"a key of {granter} was not taken: {fault.text}")
        return False


def take_beside(
    account: Account, stanza: Stanza, granter: str, *, retry: bool = False
) -> tuple[NeedContact | None, bool]:
    """The grants of a message, beside a seal or alone; see :func:`take_from`."""
    if not account.identity.can_read:
        return None, False
    message = stanza.tree()
    grants = message.find(GRANTS)
    if grants is None:
        seal = message.find(_ENCRYPTED)
        grants = seal.find(GRANTS) if seal is not None else None
    return take_from(account, grants, granter, retry)
