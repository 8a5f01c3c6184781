"""An account's own keys and what its server publishes of them, brought together
(protocol.md, 3.6, 3.9).

What is there is read first; a failure to read is not "nothing there".  Nothing of
another root is ever overwritten without a person's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TrustFault
from ..keys.manifest import Manifest
from ..keys.servers import leads_to
from . import directory
from .directory import Absent, Failed, Found, Outcome
from .identity import Standing

if TYPE_CHECKING:
    from .account import Account
    from .session import Session

RETRY = 30_000


class Publication:
    """The published keys of *account*."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._asker: Session | None = None
        self._retry_at = 0
        self._published = False

    @property
    def published(self) -> bool:
        """Whether the server took this device's prekey on a stream since start."""
        return self._published

    def left(self, session: Session) -> None:
        """*session* is over: what it asked will not be answered any more."""
        if self._asker is session:
            self._asker = None

    def removed(self) -> None:
        """The account is no more, or this device's key: nothing is published of it."""
        self._retry_at = 0
        self._published = False

    def tick(self, asker: Session, now: int) -> None:
        """What time alone brings about: another look, a new prekey."""
        identity = self._account.identity
        if self._retry_at and now >= self._retry_at:
            self._retry_at = 0
            self.settle(asker)
        elif identity.ready and self._published and identity.rotate_prekey(now):
            self.publish_prekey(asker)

    # -- reading ------

    def settle(self, asker: Session) -> None:
        """Read what is published, and do what follows from it."""
        if self._asker is not None:
            return
        account, self._asker = self._account, asker
        account.identity.ensure_device(account.clock())
        directory.look_up(
            asker, account.jid, None, lambda outcome: self._read(asker, outcome)
        )

    def _read(self, asker: Session, outcome: Outcome) -> None:
        self._asker = None
        account = self._account
        match outcome:
            case Failed(text=text):
                self._look_again()
                account.notice(account.jid, f"the own keys could not be read: {text}")
            case Absent():
                self._absent(asker)
            case Found():
                self._there(asker, outcome)
        for stream in list(account.streams):
            stream.pump()

    def _look_again(self) -> None:
        self._retry_at = self._account.clock() + RETRY

    def _absent(self, asker: Session) -> None:
        """Nothing is published: the first keys are made, once.

        A device that has seen keys of the account makes none, whatever the
        server says later; what it published itself, it publishes again.
        """
        account, identity = self._account, self._account.identity
        if identity.standing is Standing.ALARM:
            identity.adopt(identity.manifest)
        elif identity.standing is Standing.NEW and not identity.has_manifest:
            identity.create(account.settings.label, account.clock(), sure=False)
        elif identity.standing is Standing.NEW and self._published:
            # taken, and not shown: nobody else's stands there either
            self._confirmed()
            return
        if identity.standing in (Standing.NEW, Standing.READY):
            self.publish(asker)

    def _there(self, asker: Session, found: Found) -> None:
        account, identity = self._account, self._account.identity
        manifest = found.manifest
        if identity.pending and manifest.root == identity.pending.manifest.root:
            # it was taken, and the answer did not come
            self.rolled_over()
        if identity.has_manifest and self._others(found):
            return
        if not identity.has_manifest:
            identity.set_standing(Standing.LINKING)
            account.notice(
                account.jid,
                f"{account.jid} has keys on another device already; run tillie link "
                "there, and tillie link CODE here",
            )
            return
        if identity.standing is Standing.ALARM:
            identity.adopt(identity.manifest)
        elif identity.standing is Standing.NEW:
            self._confirmed()
            if self._published:
                return
        self._ours(asker, found)

    def _ours(self, asker: Session, found: Found) -> None:
        """It is of a root of the own account's: is it the newest?"""
        account, identity = self._account, self._account.identity
        manifest = found.manifest
        # a root that was left has nothing more to say, whatever its number
        left = manifest.root != identity.manifest.root
        if not left:
            self._same_root(identity.manifest, manifest)
        if identity.standing is not Standing.READY:
            return
        if not left:
            identity.keep_rollovers(found.rollovers)
        token, _ = account.token.for_record(identity.manifest)
        older = left or manifest.seq < identity.offered.seq
        if older or found.token != token:
            self.publish(asker)
        else:
            self.publish_prekey(asker)

    def _others(self, found: Found) -> bool:
        """Whether another root stands there than the one that is here.

        Where the one here was made moments ago and nothing was done with it yet,
        another device was faster: this one gives way.
        """
        account, identity = self._account, self._account.identity
        root = found.manifest.root
        if root.fingerprint in (identity.fingerprint, *identity.left):
            return False
        if not identity.owner and self._follows(found):
            return True
        if identity.standing is Standing.NEW:
            identity.discard()
            self._published = False
            return False
        identity.set_standing(Standing.ALARM)
        account.notice(
            account.jid,
            f"somebody published other keys for {account.jid}; nothing was "
            "overwritten, and nothing is sent until this is cleared up; if it was "
            "another device of yours, run tillie link there, and tillie link CODE "
            "here",
        )
        return True

    def _follows(self, found: Found) -> bool:
        """Whether the account's other device changed the root, signed by the old one:
        this device is to be linked again then (3.10)."""
        account, identity = self._account, self._account.identity
        own, leading = identity.manifest, [one.encode() for one in found.rollovers]
        newer = found.manifest.seq > own.seq
        if not newer or not leads_to(
            account.jid, own.root, found.manifest.root, leading
        ):
            return False
        identity.follow(found.manifest, found.rollovers, account.clock())
        account.ratchets.rotate_all()
        account.notice(
            account.jid,
            f"the keys of {account.jid} were changed on another device, signed by the "
            "old ones; run tillie link there, and tillie link CODE here",
        )
        return True

    def rolled_over(self) -> None:
        """The new root is where it has to be: it is in force (3.10.1)."""
        account = self._account
        account.identity.promote(account.clock())
        account.ratchets.rotate_all()
        people = account.identity.manifest.root.people()
        account.notice(
            account.jid,
            f"{account.jid} has new keys, signed by the old ones; who compared the old "
            f"fingerprint may want to compare the new one: {people}",
        )

    def _confirmed(self) -> None:
        """The first keys stand there.  Whoever read "nothing there" before they did
        may still be about to publish others: a second look tells."""
        identity = self._account.identity
        identity.adopt(identity.manifest)
        self._look_again()

    def _same_root(self, own: Manifest, manifest: Manifest) -> None:
        account = self._account
        if manifest.seq > own.seq:
            self._adopt_newer(own, manifest)
        elif manifest.seq == own.seq and manifest.digest != own.digest:
            account.notice(
                account.jid,
                "two lists of the own devices with one number exist; the one here "
                "stays, and the next change settles it",
            )

    def _adopt_newer(self, own: Manifest, manifest: Manifest) -> None:
        """Another own device changed the list under the same root."""
        known = {device.public for device in own.active}
        self._account.identity.adopt(manifest)
        self._devices_changed(known)

    def _devices_changed(self, known: set[bytes]) -> None:
        ratchets = self._account.ratchets
        for device in self._account.identity.manifest.active:
            if device.public not in known:
                ratchets.note_joined(device.public)
        ratchets.rotate_all()

    def take_newer(self, manifest: Manifest) -> None:
        """The gate holds a newer *manifest* of the own account (14.9).

        :raises TrustFault: it is not of the own root, or an older one.
        """
        identity = self._account.identity
        own = identity.manifest
        if manifest.root.fingerprint != own.root.fingerprint:
            raise TrustFault("the gate holds keys of this account that are not its own")
        if manifest.seq < own.seq or manifest.digest == own.digest:
            raise TrustFault("the gate holds an older list of the account's devices")
        known = {device.public for device in own.active}
        identity.rebase(manifest, self._account.clock())
        self._devices_changed(known)

    # -- writing ------

    def publish(self, asker: Session) -> None:
        """What changed is vouched for first, where there is a gate (14.9)."""
        asker.vouch(lambda: self.publish_record(asker))

    def publish_record(self, asker: Session) -> None:
        """The manifest, then the prekey: a contact never sees a device that it
        could not write to for longer than that takes."""
        identity = self._account.identity
        # a gate's word comes first (3.10.1): what it has vouched for is in force
        coming = identity.pending if not self._account.token.gated else None
        manifest = coming.manifest if coming else identity.manifest
        leading = identity.leading if coming else identity.led
        token, server = self._account.token.for_record(manifest)
        item = directory.record_item(manifest, token, server, leading)

        def done(condition: str) -> None:
            if condition:
                self._not_taken("keys", condition)
                return
            if coming and identity.pending == coming:
                self.rolled_over()
            self.publish_prekey(asker)

        directory.publish(asker, directory.KEY, item, done)

    def publish_prekey(self, asker: Session) -> None:
        """The newest prekey as this device's own item; others' are untouched."""
        identity = self._account.identity
        identity.rotate_prekey(self._account.clock())
        prekey = identity.public_prekey()
        item = directory.prekey_item(prekey, identity.device.id.hex())

        def done(condition: str) -> None:
            self._published = not condition
            if condition:
                self._not_taken("prekey", condition)
            elif identity.standing is Standing.NEW:
                # keys made just now count once they are seen to stand there
                self.settle(asker)

        directory.publish(asker, directory.PREKEY, item, done)

    def _not_taken(self, what: str, condition: str) -> None:
        self._look_again()
        account = self._account
        if condition == directory.NO_ANSWER:
            return
        account.notice(account.jid, f"the server did not take the {what}: {condition}")
        if account.identity.standing is Standing.NEW:
            # nobody can be written to under a seal that opens; those who have no
            # keys themselves and are allowed can
            account.identity.adopt(account.identity.manifest)

    def remove_prekey(self, asker: Session, item_id: str) -> None:
        """A removed device's prekey goes from the own node (I15)."""
        directory.retract(asker, directory.PREKEY, item_id, lambda _: None)
