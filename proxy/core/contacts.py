"""What an account knows of its contacts: pinned roots, newest prekeys, policy.

Everything here is per account and lies in the store; look-ups themselves are
``core.directory``'s.  Trust is judged by ``keys.trust``; this file remembers
the verdicts and turns them into permits and refusals.
"""

from __future__ import annotations

import fnmatch
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from ..errors import PeerFault, TrustFault
from ..keys import trust
from ..keys.manifest import REMOVED_KEPT_MS, Device, Manifest, open_manifest
from ..keys.prekeys import Prekey, check_prekey
from ..keys.store import Store
from ..keys.tokens import SKEW_MS, Token
from ..suites.fields import b64, unb64
from ..wire.jid import Jid
from .guard import Permit
from .servers import Servers

FRESH = 24 * 3600 * 1000
"""A look-up is good for a day (I15)."""
RETRY = 60 * 1000
"""A proven absence is remembered for a minute (RES-06)."""
RETRY_FAILED = 10 * 1000
"""A failure is, for less: it may have been the contact's very first login."""
_CACHED = 500


class Finding(Enum):
    """What the last look-up of a contact without a pinned root came to."""

    UNKNOWN = "not looked up"
    ABSENT = "the contact's own address says that there is no key"
    FAILED = "no usable answer"


@dataclass(frozen=True, slots=True)
class Contact:
    """A contact with a pinned root.

    :param prekeys: newest prekey of each device, by Ed25519 public key.
    :param seen: when each device was first seen here, in milliseconds.
    :param gone: devices that left by a rollover (3.10), and when that was taken.
    :param vouched: until when the token that was held for the pinned manifest is
        good, 0 for none; *voucher* is the fingerprint of the key that signed it.
    """

    pin: trust.Pin
    manifest: Manifest
    prekeys: dict[bytes, Prekey] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)
    gone: dict[bytes, int] = field(default_factory=dict)
    vouched: int = 0
    voucher: bytes = b""

    @property
    def jid(self) -> str:
        return self.pin.jid

    @property
    def readers(self) -> list[tuple[Device, Prekey]]:
        """Active devices that can be granted to."""
        return [
            (device, self.prekeys[device.public])
            for device in self.manifest.active
            if device.public in self.prekeys
        ]


@dataclass(frozen=True, slots=True)
class Failure:
    """A look-up that did not pin anything, when it was, and how long it holds."""

    finding: Finding
    text: str
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What a look-up changed: the contact as it stands now, and what to tell."""

    contact: Contact | None
    notice: str
    devices_changed: bool = False


class Contacts:
    """The contacts of one account.

    :param clear: shell patterns of bare JIDs that may be written to in clear.
    :param require: shell patterns for which keys are required whatever else says.
    :param unknown: ``ask`` or ``require``, where no pattern and no word holds.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        *,
        clear: tuple[str, ...] = (),
        require: tuple[str, ...] = (),
        unknown: str = "ask",
    ) -> None:
        self._store = store
        self._account = account
        self._clear = clear
        self._require = require
        self._unknown = unknown
        self._cache: OrderedDict[str, Contact] = OrderedDict()
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    def forget_caches(self) -> None:
        """After a transaction was rolled back: the store is right, memory is not."""
        self._cache.clear()
        self._failures.clear()

    # -- pinned ------

    def get(self, jid: str) -> Contact | None:
        """:raises StoreFault: the record cannot be read."""
        found = self._cache.get(jid)
        if found is not None:
            self._cache.move_to_end(jid)
            return found
        data = self._store.get("contact", self._account, jid)
        if data is None:
            return None
        return self._remember(_unpack(data))

    def all(self) -> list[Contact]:
        return [_unpack(data) for _, data in self._store.scan("contact", self._account)]

    def forget(self, jid: str) -> bool:
        """Unpin *jid*; its next key is taken as a first one (a person's word)."""
        known = self.get(jid) is not None
        self._store.delete("contact", self._account, jid)
        self._store.delete("policy", self._account, jid)
        self._cache.pop(jid, None)
        self._failures.pop(jid, None)
        return known

    def finding(self, jid: str, now: int) -> Failure | None:
        """The remembered failure of a look-up, if it is still believed."""
        failure = self._failures.get(jid)
        return failure if failure and failure.until > now else None

    def failed(self, jid: str, finding: Finding, text: str, now: int) -> None:
        lasts = RETRY if finding is Finding.ABSENT else RETRY_FAILED
        self._failures[jid] = Failure(finding, text, now, now + lasts)
        self._failures.move_to_end(jid)
        while len(self._failures) > _CACHED:
            self._failures.popitem(last=False)

    def absent(self, jid: str, now: int) -> str:
        """*jid* says that it has no key; the notice, where it once had one.

        Then the answer is no proof of anything: the pinned root stays in force
        (ENC-23).
        """
        contact = self.get(jid)
        kept = trust.judge_absence(contact.pin if contact else None)
        if contact is None or kept is None:
            self.failed(jid, Finding.ABSENT, "", now)
            return ""
        self._keep(replace(contact, pin=kept.pin))
        self.failed(jid, Finding.FAILED, kept.reason, now)
        return kept.reason if kept.fresh else ""

    def stale(self, contact: Contact, now: int) -> bool:
        return now - contact.pin.checked > FRESH or now < contact.pin.checked - FRESH

    def learn(
        self,
        jid: str,
        manifest: Manifest,
        prekeys: list[Prekey],
        now: int,
        rollovers: Sequence[str] = (),
    ) -> Learned:
        """Judge a verified *manifest* of *jid* and keep what trust allows.

        :param rollovers: what stands beside it, not verified.
        """
        old = self.get(jid)
        leading = [one.encode() for one in rollovers]
        decision = trust.judge(old.pin if old else None, manifest, now, leading)
        match decision:
            case trust.Rolled(pin=pin, reason=reason):
                contact = self._advanced(old, pin, manifest, prekeys, now)
                self._failures.pop(jid, None)
                return Learned(contact, reason, devices_changed=True)
            case trust.Held(pin=pin) | trust.Kept(pin=pin):
                return self._hold(old, pin, decision, prekeys)
            case trust.Pinned(pin=pin) | trust.Advanced(pin=pin):
                contact = self._advanced(old, pin, manifest, prekeys, now)
                changed = old is not None and set(contact.seen) != set(old.seen)
                self._failures.pop(jid, None)
                return Learned(contact, "", devices_changed=changed)
            case trust.Unchanged(pin=pin):
                assert old is not None
                contact = replace(old, pin=replace(pin, checked=now))
                self._failures.pop(jid, None)
                return Learned(self._keep(self._with_prekeys(contact, prekeys)), "")

    def vouched(self, jid: str, token: Token | None, voucher: bytes = b"") -> None:
        """Keep what *token*, which was verified and is in time, says of *jid*.

        Only for exactly the manifest that is pinned, and never less than is known.

        :param voucher: fingerprint of the key that signed it.
        """
        contact = self.get(jid)
        if contact is None or token is None:
            return
        same = token.root == contact.pin.root and token.manifest == contact.pin.digest
        if not same or token.seq != contact.pin.seq:
            return
        if token.expires > contact.vouched or voucher != contact.voucher:
            self._keep(replace(contact, vouched=token.expires, voucher=voucher))

    def level(self, contact: Contact, servers: Servers, now: int) -> str:
        """``vouched`` or ``seen`` (15.2)."""
        pin = servers.pin(Jid.parse(contact.jid).domain)
        if (
            pin is None
            or not pin.trusted
            or pin.held.keys.fingerprint != contact.voucher
            or now > contact.vouched + SKEW_MS
        ):
            return contact.pin.level
        return "vouched"

    def _hold(
        self,
        old: Contact | None,
        pin: trust.Pin,
        decision: trust.Held | trust.Kept,
        prekeys: list[Prekey],
    ) -> Learned:
        """What arrived is not taken: the pinned manifest stays, with an alarm."""
        if old is None:
            return Learned(None, decision.reason)
        contact = replace(old, pin=pin)
        if isinstance(decision, trust.Kept):
            contact = self._with_prekeys(contact, prekeys)
        notice = decision.reason if decision.fresh else ""
        return Learned(self._keep(contact), notice)

    def _advanced(
        self,
        old: Contact | None,
        pin: trust.Pin,
        manifest: Manifest,
        prekeys: list[Prekey],
        now: int,
    ) -> Contact:
        seen = {
            device.public: (old.seen.get(device.public, now) if old else now)
            for device in manifest.active
        }
        contact = Contact(
            pin=replace(pin, checked=now),
            manifest=manifest,
            prekeys=dict(old.prekeys) if old else {},
            seen=seen,
            gone=_gone(old, manifest, now) if old else {},
        )
        return self._keep(self._with_prekeys(contact, prekeys))

    def _with_prekeys(self, contact: Contact, prekeys: list[Prekey]) -> Contact:
        """Newer prekeys of listed devices; a lower number is never taken (I11)."""
        kept = {
            public: prekey
            for public, prekey in contact.prekeys.items()
            if (device := contact.manifest.device(public)) and not device.removed
        }
        for prekey in prekeys:
            device = contact.manifest.device(prekey.device)
            held = kept.get(prekey.device)
            if device is None or device.removed:
                continue
            if held is not None and prekey.number <= held.number:
                continue
            try:
                check_prekey(prekey, contact.jid, contact.pin.root)
            except (TrustFault, PeerFault):
                continue
            kept[prekey.device] = prekey
        return replace(contact, prekeys=kept)

    def _keep(self, contact: Contact) -> Contact:
        self._store.put("contact", self._account, contact.jid, _pack(contact))
        return self._remember(contact)

    def _remember(self, contact: Contact) -> Contact:
        self._cache[contact.jid] = contact
        self._cache.move_to_end(contact.jid)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return contact

    # -- policy ------

    def policy(self, jid: str) -> str:
        """``ask``, ``clear`` or ``require``; a word for one JID beats a pattern."""
        word = self._store.get("policy", self._account, jid)
        if word is not None:
            return word.decode()
        if any(fnmatch.fnmatchcase(jid, pattern) for pattern in self._require):
            return "require"
        if any(fnmatch.fnmatchcase(jid, pattern) for pattern in self._clear):
            return "clear"
        return self._unknown

    def set_policy(self, jid: str, word: str) -> None:
        self._store.put("policy", self._account, jid, word.encode())

    def policies(self) -> dict[str, str]:
        return {
            jid: word.decode()
            for jid, word in self._store.scan("policy", self._account)
        }

    def permit(self, jid: str) -> Permit:
        """Leave to write to *jid* in clear.

        :raises TrustFault: it had a key once, or nobody allowed it; the text is
            for the person.
        """
        contact = self.get(jid)
        if contact is not None and not contact.manifest.retired:
            raise TrustFault(
                f"{jid} has keys, so nothing goes there in clear",
                condition="policy-violation",
                hint=f"tillie forget {jid} drops what is known of its keys",
            )
        word = self.policy(jid)
        if jid != jid.casefold():
            # servers of the older rules (RFC 6122) would read another address
            raise TrustFault(
                f"{jid} is an address that servers read in different ways",
                condition="policy-violation",
            )
        if word == "clear":
            return Permit(jid, "allowed")
        if word == "require":
            raise TrustFault(
                f"{jid} has no key, and you require one",
                condition="policy-violation",
                hint=f"to write unencrypted all the same: tillie allow {jid}",
            )
        raise TrustFault(
            f"{jid} has no key, so this would go unencrypted",
            condition="policy-violation",
            hint=f"to allow that for this contact: tillie allow {jid}",
        )


def _pack(contact: Contact) -> bytes:
    pin = contact.pin
    return json.dumps(
        {
            "jid": pin.jid,
            "root": b64(pin.root),
            "seq": pin.seq,
            "digest": b64(pin.digest),
            "document": pin.document,
            "level": pin.level,
            "since": pin.since,
            "checked": pin.checked,
            "alarm": pin.alarm,
            "prekeys": [
                [b64(key.device), key.number, b64(key.public), b64(key.signature)]
                for key in contact.prekeys.values()
            ],
            "vouched": contact.vouched,
            "voucher": b64(contact.voucher),
            "seen": {b64(public): at for public, at in contact.seen.items()},
            "left": [b64(root) for root in pin.left],
            "gone": {b64(public): at for public, at in contact.gone.items()},
        }
    ).encode()


def _unpack(data: bytes) -> Contact:
    record = json.loads(data)
    pin = trust.Pin(
        jid=record["jid"],
        root=unb64(record["root"]),
        seq=record["seq"],
        digest=unb64(record["digest"]),
        document=record["document"],
        level=record["level"],
        since=record["since"],
        checked=record["checked"],
        alarm=record["alarm"],
        left=tuple(unb64(root) for root in record.get("left", [])),
    )
    prekeys = [
        Prekey(unb64(device), number, unb64(public), unb64(signature))
        for device, number, public, signature in record["prekeys"]
    ]
    return Contact(
        pin=pin,
        manifest=open_manifest(pin.document.encode(), pin.jid),
        prekeys={prekey.device: prekey for prekey in prekeys},
        seen={unb64(public): at for public, at in record["seen"].items()},
        vouched=record.get("vouched", 0),
        voucher=unb64(record.get("voucher", "")),
        gone={unb64(public): at for public, at in record.get("gone", {}).items()},
    )


def _gone(old: Contact, manifest: Manifest, now: int) -> dict[bytes, int]:
    """The devices that are not listed any more, with those that went earlier.

    Under one root none leaves the list before its year is over (3.5).
    """
    gone = {public: at for public, at in old.gone.items() if now - at < REMOVED_KEPT_MS}
    if manifest.root != old.manifest.root:
        for device in old.manifest.devices:
            gone.setdefault(device.public, device.removed or now)
    return {
        public: at for public, at in gone.items() if manifest.device(public) is None
    }
