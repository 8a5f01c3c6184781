"""Asking the writer of a lane for a new one, and doing so when asked (protocol.md,
6.8; I7).

A used index under another ciphertext says that the writer's state was restored from
a copy.  The request is signed and bounded, and what it brings about is harmless
whoever wants it: the new lane has the same readers.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from ..keys.identity import check_device_signature
from ..rules import classes
from ..suites import lanes
from ..suites.entropy import stanza_id
from ..suites.fields import b64, fields, unb64
from ..wire.stanza import Cleared
from . import guard
from .account import Account
from .keyrequests import AGAIN, HOUR, MOST_ASKS, check_time, number
from .quota import Pace, Quota

ROTATE = f"{{{classes.LANE}}}rotate"
MOST_ROTATIONS = 6


class Rotations:
    """The requests for new lanes of one account, both ways."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._asked = Pace(MOST_ASKS, AGAIN)
        self._done = Quota(MOST_ROTATIONS, HOUR)

    def ask(self, owner: str, header: lanes.Header) -> Cleared | None:
        """The request to send now; None if it was asked just before."""
        account, now = self._account, self._account.clock()
        if not account.identity.ready:
            return None
        if not self._asked.take((owner, header.lane), now):
            return None
        identity = account.identity
        message = Element(
            "{jabber:client}message",
            {"to": owner, "type": "normal", "id": stanza_id()},
        )
        element = SubElement(
            message,
            ROTATE,
            {
                "owner": owner,
                "root": b64(identity.fingerprint),
                "device": b64(identity.device.public),
                "lane": b64(header.lane),
                "n": str(header.n),
                "time": str(now),
            },
        )
        element.text = b64(identity.device.sign(_statement(element, account.jid)))
        SubElement(message, f"{{{classes.HINTS}}}store")
        return guard.own_message(message)

    def requested(self, element: Element, requester: str) -> bool:
        """Whether the lane towards *requester* is given up because of its request.

        Who is not known is passed over without a word, so that strangers can fill
        no list of notices.

        :raises PeerFault: malformed.
        :raises TrustFault: malformed, out of date, or not signed by that device.
        """
        account, now = self._account, self._account.clock()
        if not account.identity.ready or element.get("owner") != account.jid:
            return False
        contact = account.contacts.get(requester)
        if contact is None or unb64(element.get("root", "")) != contact.pin.root:
            return False
        public = unb64(element.get("device", ""))
        if public not in {device.public for device in contact.manifest.active}:
            return False
        check_time(number(element.get("time", "")), now)
        check_device_signature(
            public, unb64(element.text or ""), _statement(element, requester)
        )
        lane = account.ratchets.current(requester)
        if lane is None or lane.lane != unb64(element.get("lane", "")):
            return False
        if not self._done.take(requester, now):
            return False
        account.ratchets.rotate(requester)
        account.notice(
            requester,
            f"{requester} was sent two messages under one number, as happens when "
            "the state folder is restored from a copy; a new lane follows",
            show=False,
        )
        return True


def _statement(element: Element, requester: str) -> bytes:
    """What the asking device signs."""
    return fields(
        "rotate",
        requester,
        unb64(element.get("root", "")),
        unb64(element.get("device", "")),
        element.get("owner", ""),
        unb64(element.get("lane", "")),
        number(element.get("n", "")),
        number(element.get("time", "")),
    )
