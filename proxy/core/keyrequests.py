"""Asking for a lane's key, and answering who asks (protocol.md, 6.4; I19, I20).

A request is unsealed, signed by the asking device, bounded and coalesced.  An
answer goes only to a device in the newest manifest of an account that the lane
was made for, and begins where that device was first seen.  A device of a contact
that proved to be one, and is not entitled, gets a signed refusal.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from ..errors import TrustFault
from ..keys.identity import check_device_signature
from ..rules import classes
from ..suites import lanes
from ..suites.entropy import stanza_id, token
from ..suites.fields import b64, fields, unb64
from ..wire.stanza import Cleared
from . import grants, guard
from .account import Account
from .quota import Pace, Quota
from .writing import Reader

KEYREQ = f"{{{classes.LANE}}}keyreq"
NO = f"{{{classes.LANE}}}no"
AGAIN = 60_000
MOST_ASKS = 5
MOST_ASKED = 200
MOST_ANSWERS = 40
MOST_GIVEN = 100
MOST_FOR_PAGES = 40
MOST_OPEN = 500
VALID = 14 * 24 * 3600 * 1000
HOUR = 3600 * 1000
_SIZES = (32, 32, 16, 16)
"""Bytes of root fingerprint, device key, lane id and nonce."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; *owner* is whose lane it is about."""

    requester: str
    root: bytes
    device: bytes
    owner: str
    lane: bytes
    n: int
    prekey: int
    seq: int
    time: int
    nonce: bytes
    signature: bytes

    def statement(self) -> bytes:
        return fields(
            "keyreq",
            self.requester,
            self.root,
            self.device,
            self.owner,
            self.lane,
            self.n,
            self.prekey,
            self.seq,
            self.time,
            self.nonce,
        )


@dataclass(frozen=True, slots=True)
class _Open:
    """What the owner was asked for; *alone* where nobody else was."""

    owner: str
    lane: bytes
    alone: bool


class KeyRequests:
    """The requests of one account, both ways."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._asked = Pace(MOST_ASKS, AGAIN)
        self._to_owner = Quota(MOST_ASKED, HOUR)
        self._for_pages = Quota(MOST_FOR_PAGES, HOUR)
        self._answered = Quota(MOST_ANSWERS, HOUR)
        self._open: OrderedDict[bytes, _Open] = OrderedDict()
        self._refused: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        # answers by the request's signature: a repetition gets the same again (I20)
        self._given: OrderedDict[bytes, Cleared] = OrderedDict()

    # -- asking ------

    def ask(
        self, owner: str, header: lanes.Header, *, page: bool = False
    ) -> list[Cleared]:
        """The request messages to send now; none if it was asked just before.

        The owner's devices are asked, and for a contact's lane the own other
        devices too, which may have it.

        :param page: because of an archive page, which its reader can make up.
        """
        account, now = self._account, self._account.clock()
        if not account.identity.ready or self.refused(owner, header.lane):
            return []
        others = account.has_other_devices()
        if owner == account.jid and not others:
            return []
        if not self._asked.take((owner, header.lane), now):
            return []
        if page and not self._for_pages.take("", now):
            return []
        if not self._to_owner.take(owner, now):
            return []
        targets = [owner]
        if owner != account.jid and others:
            targets.append(account.jid)
        alone = len(targets) == 1
        return [self._message(target, owner, header, alone) for target in targets]

    def _message(
        self, target: str, owner: str, header: lanes.Header, alone: bool
    ) -> Cleared:
        identity, now = self._account.identity, self._account.clock()
        request = Request(
            requester=self._account.jid,
            root=identity.fingerprint,
            device=identity.device.public,
            owner=owner,
            lane=header.lane,
            n=header.n,
            prekey=identity.prekey_number,
            seq=identity.manifest.seq,
            time=now,
            nonce=token(16),
            signature=b"",
        )
        if target == owner:
            self._open[request.nonce] = _Open(owner, header.lane, alone)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        message = Element(
            "{jabber:client}message",
            {"to": target, "type": "normal", "id": stanza_id()},
        )
        element = SubElement(
            message,
            KEYREQ,
            {
                "owner": owner,
                "root": b64(request.root),
                "device": b64(request.device),
                "lane": b64(request.lane),
                "n": str(request.n),
                "prekey": str(request.prekey),
                "seq": str(request.seq),
                "time": str(now),
                "nonce": b64(request.nonce),
            },
        )
        element.text = b64(identity.device.sign(request.statement()))
        SubElement(message, f"{{{classes.HINTS}}}store")
        return guard.own_message(message)

    def refused(self, owner: str, lane: bytes) -> bool:
        """Whether *owner* said that this device does not get the key of *lane*."""
        return (owner, lane) in self._refused

    def take_no(self, element: Element, sender: str) -> bool:
        """Whether a refusal by *sender* ends the waiting for a lane's key.

        :raises PeerFault: malformed.
        :raises TrustFault: its signature does not hold.
        """
        account = self._account
        nonce = unb64(element.get("nonce", ""))
        asked = self._open.get(nonce)
        if asked is None or (asked.owner, asked.lane) != (
            sender,
            unb64(element.get("lane", "")),
        ):
            return False
        contact = account.contacts.get(sender)
        device = unb64(element.get("device", ""))
        active = contact.manifest.active if contact is not None else []
        if device not in {one.public for one in active}:
            return False
        reader = account.identity.device.public
        statement = _refusal(sender, device, account.jid, reader, asked.lane, nonce)
        check_device_signature(device, unb64(element.text or ""), statement)
        del self._open[nonce]
        if not asked.alone:
            return False
        self._refused[asked.owner, asked.lane] = None
        while len(self._refused) > MOST_OPEN:
            self._refused.popitem(last=False)
        return True

    # -- answering ------

    def read(self, element: Element, requester: str) -> Request:
        """:raises TrustFault: malformed, out of date, or for somebody else."""
        numbers = {
            name: number(element.get(name, ""))
            for name in ("n", "prekey", "seq", "time")
        }
        request = Request(
            requester=requester,
            root=unb64(element.get("root", "")),
            device=unb64(element.get("device", "")),
            owner=element.get("owner", ""),
            lane=unb64(element.get("lane", "")),
            n=numbers["n"],
            prekey=numbers["prekey"],
            seq=numbers["seq"],
            time=numbers["time"],
            nonce=unb64(element.get("nonce", "")),
            signature=unb64(element.text or ""),
        )
        # a refusal echoes some of these: they have the size that it can bear
        parts = (request.root, request.device, request.lane, request.nonce)
        if tuple(map(len, parts)) != _SIZES:
            raise TrustFault("a key request is malformed")
        check_time(request.time, self._account.clock())
        return request

    def needs_look_up(self, request: Request) -> bool:
        """Whether the requester's devices have to be looked up before judging.

        :raises TrustFault: a device that is known did not sign this.
        """
        account, now = self._account, self._account.clock()
        contact = account.contacts.get(request.requester)
        known = contact.prekeys.get(request.device) if contact else None
        if known is not None:
            check_device_signature(
                request.device, request.signature, request.statement()
            )
        return (
            contact is None
            or known is None
            or account.contacts.stale(contact, now)
            or contact.pin.seq < request.seq
            or known.number < request.prekey
        )

    def answer(self, request: Request) -> list[Cleared]:
        """The grant, where the requester is entitled to it; otherwise nothing.

        :raises TrustFault: the requester is not who it says, or not in the
            audience, or its devices are not known well enough.
        """
        account, now = self._account, self._account.clock()
        if not account.identity.ready:
            return []
        reader = self._reader(request, now)
        check_device_signature(request.device, request.signature, request.statement())
        again = self._given.get(request.signature)
        if again is not None:
            return [again]
        if not self._answered.take(request.requester, now):
            return []
        box = self._box(request, reader)
        answer = (
            self._refuse(request)
            if box is None
            else grants.grant_message(
                account, request.requester, [grants.grant_for(reader, box)]
            )
        )
        if answer is None:
            return []
        cleared = self._given[request.signature] = guard.own_message(answer)
        while len(self._given) > MOST_GIVEN:
            self._given.popitem(last=False)
        return [cleared]

    def _refuse(self, request: Request) -> Element | None:
        """A refusal, where no other device of the account could answer better."""
        account = self._account
        if request.requester == account.jid or request.owner != account.jid:
            return None
        if not account.ratchets.writes_to(request.requester):
            # a stranger may ask, and learns nothing by it
            return None
        own = account.ratchets.wrote(request.lane, request.requester)
        if not own and account.has_other_devices():
            return None
        device = account.identity.device
        statement = _refusal(
            account.jid,
            device.public,
            request.requester,
            request.device,
            request.lane,
            request.nonce,
        )
        message = Element(
            "{jabber:client}message",
            {"to": request.requester, "type": "normal", "id": stanza_id()},
        )
        attributes = {
            "device": b64(device.public),
            "lane": b64(request.lane),
            "nonce": b64(request.nonce),
        }
        SubElement(message, NO, attributes).text = b64(device.sign(statement))
        SubElement(message, f"{{{classes.HINTS}}}no-store")
        return message

    def _reader(self, request: Request, now: int) -> Reader:
        account = self._account
        contact = account.contacts.get(request.requester)
        if contact is None or contact.pin.held or contact.pin.root != request.root:
            raise TrustFault("a key request of somebody who is not known")
        if account.contacts.stale(contact, now):
            raise TrustFault("a key request of devices that were not looked up lately")
        if request.requester == account.jid:
            self._check_own(request)
        for device, prekey in contact.readers:
            if device.public == request.device:
                return Reader(request.requester, device.public, prekey)
        raise TrustFault("a key request of a device that its account does not list")

    def _check_own(self, request: Request) -> None:
        """Own devices are those of the own manifest, whatever was looked up: the
        own server answers look-ups of the own account too."""
        identity = self._account.identity
        device = identity.manifest.device(request.device)
        if (
            request.root != identity.fingerprint
            or device is None
            or device.removed is not None
            or device.public == identity.device.public
        ):
            raise TrustFault("a key request in the own name by another's device")

    def _box(self, request: Request, reader: Reader) -> bytes | None:
        account = self._account
        if request.requester == account.jid:
            return account.ratchets.forward(request.lane, request.owner, reader)
        if request.owner != account.jid:
            return None
        contact = account.contacts.get(request.requester)
        return account.ratchets.answer(request.lane, reader, account.audiences(contact))


def _refusal(
    refuser: str,
    device: bytes,
    requester: str,
    reader: bytes,
    lane: bytes,
    nonce: bytes,
) -> bytes:
    """What the refusing *device* signs towards the device *reader*."""
    return fields("no", refuser, device, requester, reader, lane, nonce)


def check_time(time: int, now: int) -> None:
    """:raises TrustFault: a request of another time than the last 14 days."""
    if abs(now - time) > VALID:
        raise TrustFault("a request is out of date")


def number(text: str) -> int:
    """A decimal of at most 15 digits.

    :raises TrustFault: anything else.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise TrustFault("a number in a request is malformed")
    return int(text)
