"""Pure policy of pins: what we hold of a contact, what arrived, what follows.

Trust on first use.  From then on only the pinned root moves a pin, and only
forwards; everything else leaves the pin as it is and says so.  No function
here reads a clock or a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from ..errors import TrustFault
from .manifest import Manifest, open_manifest
from .servers import MOST_ROLLOVERS, left_behind

Alarm: TypeAlias = Literal["", "root-changed", "rollback", "fork", "withheld"]

ROOT_CHANGED: Final = "root-changed"
ROLLBACK: Final = "rollback"
FORK: Final = "fork"
WITHHELD: Final = "withheld"


@dataclass(frozen=True, slots=True)
class Pin:
    """What is held of one contact's account.

    :param jid: bare JID, normalised.
    :param root: fingerprint of the root keys, 32 bytes; never changes in a pin.
    :param seq: the highest seen under that root.
    :param digest: of the manifest with that *seq*, 32 bytes.
    :param document: that manifest, as text.
    :param level: ``seen``; others need a token or a person.
    :param since: when the root was first seen, Unix milliseconds.
    :param checked: last look-up that the pinned root stands behind, likewise.
    :param alarm: empty, or what is wrong since then.
    :param left: fingerprints of the roots before, left by rollovers, oldest first.
    """

    jid: str
    root: bytes
    seq: int
    digest: bytes
    document: str
    level: str
    since: int
    checked: int
    alarm: Alarm = ""
    left: tuple[bytes, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the conversation stands still until its person decides."""
        return self.alarm == ROOT_CHANGED


@dataclass(frozen=True, slots=True)
class Pinned:
    """First use: *pin* is new."""

    pin: Pin


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The manifest held already; only ``checked`` moved, and an alarm may be over."""

    pin: Pin


@dataclass(frozen=True, slots=True)
class Advanced:
    """A newer manifest of the pinned root; its devices are used at once."""

    pin: Pin


@dataclass(frozen=True, slots=True)
class Rolled:
    """Another root, for which the pinned one has signed: taken, and told (3.10)."""

    pin: Pin
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What arrived is not taken; sending goes on by the pin.

    :param pin: with the alarm set, otherwise as it was.
    :param reason: one sentence for a person.
    :param clause: the rule that decided.
    :param fresh: whether this alarm is news, so that one notice is shown.
    """

    pin: Pin
    reason: str
    clause: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What arrived is not taken, and the conversation waits for its person.

    The members are those of :class:`Kept`.
    """

    pin: Pin
    reason: str
    clause: str
    fresh: bool


Decision: TypeAlias = Pinned | Unchanged | Advanced | Rolled | Kept | Held


def judge(
    pin: Pin | None,
    manifest: Manifest,
    now: int,
    rollovers: Sequence[bytes] = (),
) -> Decision:
    """Say what a verified *manifest* means for its account's pin.

    :param pin: what is held, None at first contact.
    :param rollovers: documents beside it, oldest first, not verified yet.
    :param now: Unix milliseconds.
    :raises TrustFault: the manifest belongs to another account.
    """
    if pin is None:
        return Pinned(_pin(manifest, now))
    if manifest.jid != pin.jid:
        raise TrustFault("a manifest belongs to another account")
    if manifest.root.fingerprint != pin.root:
        return _other_root(pin, manifest, now, rollovers)
    if manifest.seq > pin.seq:
        newer = replace(
            _pin(manifest, now), level=pin.level, since=pin.since, left=pin.left
        )
        return Advanced(newer)
    if manifest.seq < pin.seq:
        return _rollback(pin)
    if manifest.digest != pin.digest:
        return _fork(pin)
    return Unchanged(_confirmed(pin, now))


def _other_root(
    pin: Pin, manifest: Manifest, now: int, rollovers: Sequence[bytes]
) -> Decision:
    if manifest.root.fingerprint in pin.left:
        return _rollback(pin)
    if not rollovers or manifest.seq <= pin.seq:
        return _root_changed(pin)
    held = open_manifest(pin.document.encode(), pin.jid).root
    behind = left_behind(pin.jid, held, manifest.root, rollovers)
    if not behind:
        return _root_changed(pin)
    # the one between too: what was sealed meanwhile has it among its readers
    roots = (one.fingerprint for one in behind)
    left = (*pin.left, *roots)[-MOST_ROLLOVERS:]
    # the level falls to "seen": what a person compared was the old root
    reason = f"{pin.jid} changed its keys, and the old ones vouch for the new"
    return Rolled(replace(_pin(manifest, now), left=left), reason)


def judge_absence(pin: Pin | None) -> Kept | None:
    """Say what a proven "no key" means: nothing where a key is pinned (ENC-23).

    Only a retired manifest by the pinned root ends the use of keys (I25); for a
    contact whose pinned manifest is retired there is nothing to ask.

    :returns: None where nothing is held, so that the policy for contacts
        without keys decides.
    """
    if pin is None:
        return None
    reason = f"the server of {pin.jid} says it has no keys; the known ones stay in use"
    return _kept(pin, WITHHELD, reason)


def accept(manifest: Manifest, now: int) -> Pin:
    """Pin *manifest* on a person's word, whatever was held before.

    The level falls to ``seen``: a new root inherits no trust.
    """
    return _pin(manifest, now)


def _pin(manifest: Manifest, now: int) -> Pin:
    return Pin(
        jid=manifest.jid,
        root=manifest.root.fingerprint,
        seq=manifest.seq,
        digest=manifest.digest,
        document=manifest.document,
        level="seen",
        since=now,
        checked=now,
    )


def _confirmed(pin: Pin, now: int) -> Pin:
    # Two manifests with one number mean that the root signed both.  Serving the
    # pinned one again takes nothing of that back; the next number does (I24).
    alarm: Alarm = FORK if pin.alarm == FORK else ""
    return replace(pin, checked=now, alarm=alarm)


def _root_changed(pin: Pin) -> Held:
    reason = f"the keys of {pin.jid} were replaced; nothing is sent until you decide"
    fresh = pin.alarm != ROOT_CHANGED
    return Held(replace(pin, alarm=ROOT_CHANGED), reason, "I24", fresh)


def _rollback(pin: Pin) -> Kept:
    reason = f"an older list of devices of {pin.jid} was offered; the newer stays"
    return _kept(pin, ROLLBACK, reason)


def _fork(pin: Pin) -> Kept:
    reason = f"two lists of devices of {pin.jid} have the same number; the first stays"
    return _kept(pin, FORK, reason)


def _kept(pin: Pin, alarm: Alarm, reason: str) -> Kept:
    clause = "I25" if alarm == WITHHELD else "I24"
    # A graver alarm is not hidden by a lesser one, and never shown again by it.
    if _GRAVITY[alarm] <= _GRAVITY[pin.alarm]:
        return Kept(pin, reason, clause, fresh=False)
    return Kept(replace(pin, alarm=alarm), reason, clause, fresh=True)


_GRAVITY: Final[dict[Alarm, int]] = {
    "": 0,
    WITHHELD: 1,
    ROLLBACK: 2,
    FORK: 3,
    ROOT_CHANGED: 4,
}
