"""An account's own keys: root, this device, its prekeys and the manifest.

Made when the account's own address was proven to have none, kept in the store,
never made a second time.  What is published, and when, is ``core.directory``'s.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from itertools import pairwise

from ..errors import LocalFault, StoreFault, TrustFault
from ..keys.identity import DevicePrivate, RootPrivate
from ..keys.manifest import (
    Manifest,
    first_manifest,
    open_manifest,
    renamed,
    with_device,
    without_device,
)
from ..keys.prekeys import Prekey, PrekeyPrivate, sign_prekey
from ..keys.servers import MOST_ROLLOVERS, left_behind
from ..keys.store import Store
from .rollover import Left, Pending

_FORMER = "device-before/"
_PENDING = "root-next"
_LEFT = "left"
_BEFORE = "manifest-before"
PREKEY_LIFE = 48 * 3600 * 1000
PREKEY_KEPT = 30 * 24 * 3600 * 1000


class Standing(Enum):
    """How far this Tillie has come with the account."""

    NEW = "no keys yet"
    LINKING = "the account has keys on another device; this one is not linked"
    READY = "this device is in the account's manifest"
    ALARM = "somebody else published keys for this account"


class Identity:
    """The own keys of one account, as the store holds them."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self.account = account
        self._fresh: DevicePrivate | None = None
        self.forget_caches()

    def forget_caches(self) -> None:
        """Read again from the store, after a rollback too."""
        self._prekeys: dict[int, PrekeyPrivate] = {}
        seed = self._get("device")
        self._device = DevicePrivate.from_bytes(seed) if seed else None
        former = self._store.scan("own", self.account, _FORMER)
        self._former = {bytes.fromhex(key.removeprefix(_FORMER)) for key, _ in former}
        seeds = self._get("root")
        self._root = RootPrivate.from_bytes(seeds) if seeds else None
        document = self._get("manifest")
        self._manifest = (
            open_manifest(document, self.account) if document is not None else None
        )
        coming = self._get(_PENDING)
        self._pending = Pending.unpack(coming, self.account) if coming else None
        self._left = Left.unpack(self._get(_LEFT))
        word = self._get("standing")
        self._standing = Standing[word.decode()] if word else Standing.NEW

    def _get(self, key: str) -> bytes | None:
        return self._store.get("own", self.account, key)

    def _put(self, key: str, value: bytes) -> None:
        self._store.put("own", self.account, key, value)

    # -- what there is ------

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def ready(self) -> bool:
        return self._standing is Standing.READY

    @property
    def can_read(self) -> bool:
        """Whether keys that were granted here count: also while somebody else's
        keys stand in the server's record, and before ours are seen to."""
        if self._standing is Standing.NEW:
            return self._manifest is not None
        return self._standing in (Standing.READY, Standing.ALARM)

    @property
    def manifest(self) -> Manifest:
        """:raises LocalFault: asked for before there is one."""
        if self._manifest is None:
            raise LocalFault("the account has no manifest yet")
        return self._manifest

    @property
    def has_manifest(self) -> bool:
        return self._manifest is not None

    @property
    def has_device(self) -> bool:
        """Whether this device has a key that was shown at a login."""
        return self._device is not None

    @property
    def fingerprint(self) -> bytes:
        return self.manifest.root.fingerprint

    @property
    def device(self) -> DevicePrivate:
        if self._device is None:
            raise LocalFault("the account has no device key yet")
        return self._device

    @property
    def owner(self) -> bool:
        """Whether the root's private key is here, so that devices can be added."""
        return self._root is not None

    def device_to_show(self) -> DevicePrivate:
        """The device key for a login.

        A fresh one stays in memory until a login succeeds: nothing is stored for
        whoever merely tries one.
        """
        if self._device is not None:
            return self._device
        if self._fresh is None:
            self._fresh = DevicePrivate.generate()
        return self._fresh

    def use_device(self, device: DevicePrivate) -> None:
        """*device* was shown for an account that has none yet."""
        if self._device is None:
            self._fresh = device

    @property
    def removed(self) -> bool:
        """Whether the account's other device took this one off the manifest."""
        if self._manifest is None or self._device is None:
            return False
        listed = self._manifest.device(self._device.public)
        return listed is not None and listed.removed is not None

    @property
    def devices(self) -> set[bytes]:
        """Public keys of this device, the present one and those it had before."""
        return self._former | {self.device.public}

    # -- another root (3.10) ------

    @property
    def pending(self) -> Pending | None:
        """The rollover under way; what is in force is still the old root."""
        return self._pending

    @property
    def offered(self) -> Manifest:
        """What the gate and the server are to have: of a rollover the new one."""
        return self._pending.manifest if self._pending else self.manifest

    @property
    def leading(self) -> tuple[str, ...]:
        """The rollovers that lead to the root of what is offered, oldest first."""
        last = (self._pending.rollover,) if self._pending else ()
        return (*self._left.rollovers, *last)[-MOST_ROLLOVERS:]

    @property
    def led(self) -> tuple[str, ...]:
        """The rollovers that lead to the root in force, oldest first."""
        return self._left.rollovers

    @property
    def left(self) -> tuple[bytes, ...]:
        """Fingerprints of the roots that were left by rollovers, oldest first."""
        return self._left.roots

    @property
    def gone(self) -> dict[bytes, int]:
        """Devices that left by a rollover, and when."""
        return self._left.devices

    @property
    def belongs(self) -> bool:
        """Whether this device has a part in the account's keys, as far as it knows."""
        return self._manifest is not None and self._standing is not Standing.LINKING

    @property
    def shown_root(self) -> bytes | None:
        """Fingerprint for a presentation (14.3).  None where this device has no part,
        and while a rollover is under way: which root the gate holds is not known."""
        if self._pending or not self.belongs:
            return None
        return self.fingerprint

    def begin_rollover(self, now: int) -> Pending:
        """Write down what is to follow; nothing of it is in force yet.

        :raises LocalFault: the root's private key is not here.
        """
        if self._pending is None:
            self._pending = Pending.make(self.manifest, self._owned(), self.device, now)
            self._put(_PENDING, self._pending.pack())
        return self._pending

    def check_settled(self) -> None:
        """What is changed under a root that is about to be left would be lost with it.

        :raises TrustFault: a rollover is under way.
        """
        if self._pending is not None:
            raise TrustFault(
                f"the keys of {self.account} are being changed",
                hint="stay logged in until tillie notices says that it is done",
            )

    def promote(self, now: int) -> None:
        """The gate, or the server, has the new root: it is in force, the old one is
        forgotten."""
        pending = self._pending
        if pending is None:
            raise LocalFault("no other root is to follow")
        self._leave(pending.manifest, self.leading, now)
        self._root = pending.root
        self._put("root", pending.root.to_bytes())
        self.end_rollover()
        self.adopt(pending.manifest, rolled=True)

    def end_rollover(self) -> None:
        """The new root is in force, or was refused."""
        self._pending = None
        self._store.delete("own", self.account, _PENDING)

    def follow(self, manifest: Manifest, rollovers: tuple[str, ...], now: int) -> None:
        """Another device of the account changed the root, as the old one says; this
        one is to be linked again.

        :raises LocalFault: the root is here, and did not say so.
        """
        if self._root is not None:
            raise LocalFault("the account's root key is on this device")
        self._leave(manifest, rollovers, now)
        self.adopt(manifest, rolled=True)

    def _leave(self, new: Manifest, rollovers: tuple[str, ...], now: int) -> None:
        self._left = self._left.then(self.manifest, new, rollovers, now)
        self._put(_LEFT, self._left.pack())

    def keep_rollovers(self, rollovers: tuple[str, ...]) -> None:
        """What stands beside the own record, for the next one that is published here;
        contacts verify it."""
        if self._root is None and rollovers and not self._left.rollovers:
            self._left = replace(self._left, rollovers=rollovers)
            self._put(_LEFT, self._left.pack())

    # -- making and changing ------

    def ensure_device(self, now: int) -> None:
        """The device key and a first prekey, before anything else is known."""
        if self._device is None:
            self._device = self.device_to_show()
            self._put("device", self._device.to_bytes())
            self._new_prekey(1, now)

    def renew_device(self, now: int) -> None:
        """A new device key, to be linked as a newcomer's: the present one was removed.

        What was sealed to the old one stays readable: it is kept by its public key,
        and prekeys are numbered on.  Which keys the account has, the next link code
        says.

        :raises LocalFault: the root's private key is here.
        """
        if self._root is not None:
            raise LocalFault("the account's root key is on this device")
        self._put(f"{_FORMER}{self.device.public.hex()}", now.to_bytes(8, "big"))
        self._former.add(self.device.public)
        if self._manifest is not None:
            self._put(_BEFORE, self._manifest.document.encode())
        self._device = self._fresh = DevicePrivate.generate()
        self._put("device", self._device.to_bytes())
        self._new_prekey(self.prekey_number + 1, now)
        self._manifest = None
        self._store.delete("own", self.account, "manifest")
        self.set_standing(Standing.LINKING)

    def create(self, label: str, now: int, *, sure: bool = True) -> Manifest:
        """The account's root and first manifest; once.

        :param sure: nobody else makes them at the same time, as where a gate judges;
            otherwise they count from :meth:`adopt` on.
        :raises LocalFault: there is a root already.
        """
        if self._root is not None or self._manifest is not None:
            raise LocalFault("the account has keys already")
        self.ensure_device(now)
        self._root = RootPrivate.generate()
        self._put("root", self._root.to_bytes())
        manifest = first_manifest(self.account, self._root, self.device, label, now)
        if sure:
            self.adopt(manifest)
        else:
            self._keep(manifest)
        return manifest

    def _drop_root(self) -> None:
        self._root = None
        self._store.delete("own", self.account, "root")
        # and what it was to hand over to is nobody's
        self.end_rollover()

    def adopt(self, manifest: Manifest, *, rolled: bool = False) -> None:
        """Take *manifest*, which the caller has judged, as the account's own.

        Where it is another root's, by a person's word (a link code), the one here
        has nothing to sign any more.
        """
        if self._root is not None and self._root.public != manifest.root:
            self._drop_root()
        if not rolled and self._manifest and self._manifest.root != manifest.root:
            self._left = Left()
            self._store.delete("own", self.account, _LEFT)
        self._keep(manifest)
        listed = manifest.device(self.device.public)
        active = listed is not None and listed.removed is None
        self.set_standing(Standing.READY if active else Standing.LINKING)

    def join(self, manifest: Manifest, rollovers: tuple[str, ...], now: int) -> None:
        """Take *manifest* by a link code.

        :param rollovers: beside the own record, not verified: where they lead from the
            root that was known here, what was sealed to it stays readable (3.10.2).
        """
        kept = self._get(_BEFORE)
        known = open_manifest(kept, self.account) if kept else self._manifest
        signed = [one.encode() for one in rollovers]
        rolled = known is not None and bool(
            left_behind(self.account, known.root, manifest.root, signed)
        )
        if known is not None and rolled:
            self._left = self._left.then(known, manifest, rollovers, now)
            self._put(_LEFT, self._left.pack())
        self._store.delete("own", self.account, _BEFORE)
        self.adopt(manifest, rolled=rolled)

    def wipe(self) -> None:
        """The account is not, or no more: nothing of its own keys is kept."""
        for name, _ in self._store.scan("own", self.account):
            self._store.delete("own", self.account, name)
        self._fresh = None
        self.forget_caches()

    def discard(self) -> None:
        """The keys that were made here are nobody's, and never did anything: another
        device was faster, or a gate that holds others has refused them."""
        self._drop_root()
        self._manifest = None
        self._store.delete("own", self.account, "manifest")
        self.set_standing(Standing.LINKING)

    def rebase(self, newer: Manifest, now: int) -> None:
        """Take *newer*, of the same root, and do upon it what the own one did (I24).

        Only where the root is can anything have been done: devices that were added
        or removed here are added and removed once more.
        """
        own, root = self.manifest, self._root
        self.adopt(newer)
        if root is None:
            return
        for device in own.devices:
            listed = newer.device(device.public)
            if listed is None and device.removed is None:
                self.add_device(device.public, device.signature, device.label, now)
            elif listed is not None and device.removed and not listed.removed:
                self.remove_device(device.id, now)

    def _keep(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._put("manifest", manifest.document.encode())

    def set_standing(self, standing: Standing) -> None:
        if standing is not self._standing:
            self._standing = standing
            self._put("standing", standing.name.encode())

    def add_device(
        self, public: bytes, signature: bytes, label: str, now: int
    ) -> Manifest:
        """:raises LocalFault: the root's private key is not here."""
        manifest = with_device(
            self.manifest, self._owned(), public, signature, label, now
        )
        self.adopt(manifest)
        return manifest

    def remove_device(self, device: bytes, now: int) -> Manifest:
        """*device* is its 8-byte id.

        :raises LocalFault: the root's private key is not here.
        """
        manifest = without_device(self.manifest, self._owned(), device, now)
        self.adopt(manifest)
        return manifest

    def rename_device(self, device: bytes, label: str, now: int) -> Manifest:
        """*device* is its 8-byte id.

        :raises LocalFault: the root's private key is not here.
        """
        manifest = renamed(self.manifest, self._owned(), device, label, now)
        self.adopt(manifest)
        return manifest

    def _owned(self) -> RootPrivate:
        if self._root is None:
            raise LocalFault("the account's root key is on another device")
        return self._root

    # -- prekeys ------

    def _new_prekey(self, number: int, now: int) -> None:
        private = PrekeyPrivate.generate(number)
        record = now.to_bytes(8, "big") + private.to_bytes()
        self._put(f"prekey/{number:010d}", record)
        self._put("prekey", number.to_bytes(8, "big"))

    @property
    def prekey_number(self) -> int:
        return int.from_bytes(self._get("prekey") or b"\0", "big")

    def rotate_prekey(self, now: int) -> bool:
        """A new prekey after 48 h; whether there is one to publish."""
        number = self.prekey_number
        record = self._get(f"prekey/{number:010d}")
        made = int.from_bytes((record or b"")[:8], "big")
        if record is not None and now - made < PREKEY_LIFE:
            return False
        self._new_prekey(number + 1, now)
        return True

    def outdated_prekeys(self, now: int) -> list[str]:
        """The rows of private prekeys superseded over 30 days ago (I11); a clock
        that was set back only keeps them longer."""
        rows = self._store.scan("own", self.account, "prekey/")
        return [
            key
            for (key, _), (_, successor) in pairwise(rows)
            if now - int.from_bytes(successor[:8], "big") > PREKEY_KEPT
        ]

    def oldest_prekey(self) -> int:
        """When the oldest private prekey that is here was made."""
        rows = self._store.scan("own", self.account, "prekey/")
        return min((int.from_bytes(row[:8], "big") for _, row in rows), default=0)

    def drop_prekeys(self, now: int) -> None:
        """Delete them: what was sealed to them and lay at the server has come."""
        for key in self.outdated_prekeys(now):
            self._store.delete("own", self.account, key)
        self._prekeys = {}

    def prekey(self, number: int) -> PrekeyPrivate | None:
        """The private prekey *number*, or None when it is gone."""
        found = self._prekeys.get(number)
        if found is None:
            record = self._get(f"prekey/{number:010d}")
            if record is None:
                return None
            found = PrekeyPrivate.from_bytes(number, record[8:])
            self._prekeys = {number: found}
        return found

    def public_prekey(self) -> Prekey:
        """The newest prekey, signed for publication."""
        private = self.prekey(self.prekey_number)
        if private is None:
            raise StoreFault("the newest prekey is missing from the store")
        return sign_prekey(private, self.device, self.account, self.fingerprint)
