"""Whether a manifest that was shown is taken (14.9, 14.10).

The order of what is asked matters: a device that was removed is refused before
anything else is said of the account, and nothing that was not verified is ever
compared with what is held.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Final

from ..errors import PeerFault, TrustFault
from ..keys.manifest import Manifest, open_manifest
from ..keys.registry import Account, Event, Former, Registry, Why
from ..keys.servers import MOST_ROLLOVERS, open_rollover
from ..keys.tokens import TOKEN_MS
from ..suites.fields import fields
from .questions import Answer, Linking, Refused, Stale, Vouch, Vouched, Wanted

DAY_MS: Final = 24 * 3600 * 1000
REFUSED_FORMER: Final = (
    "these keys were replaced or removed here and are not taken again; "
    "make new ones for this account"
)
_REMOVED: Final = "this device was removed from the account"
_OTHER_ROOT: Final = (
    "the account has another key; if it is lost, its administrator can reset it"
)
_CODE: Final = "the first key of this account needs the code of its administrator"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a device showed; the *manifest* was verified, and is the one meant."""

    asked: Vouch
    manifest: Manifest | None


def code_digest(account: str, code: str) -> bytes:
    """Under which a one-time code is kept; codes are random, 128 bits.

    Case, blanks and dashes are the reader's.
    """
    letters = "".join(code.split()).replace("-", "").upper()
    return hashlib.sha256(fields("enrolment", account, letters)).digest()


def judge(shown: Shown, registry: Registry, now: int) -> Answer:
    """Judge what was shown for the account that the server named."""
    asked = shown.asked
    held = registry.account(asked.account)
    # The ordinary login changes nothing, and so waits for nobody.
    if held is not None and asked.digest in (None, held.digest):
        return _known(shown, held, registry, now)
    if shown.manifest is None:
        return _unknown(asked)
    registry.lock(asked.account)
    held = registry.account(asked.account)
    if held is not None and asked.digest == held.digest:
        return _known(shown, held, registry, now)
    return _judge(asked, shown.manifest, held, registry, now)


def _unknown(asked: Vouch) -> Answer:
    """Nothing to judge by: the manifest has to come, or has to be made first."""
    if asked.digest is not None:
        return Wanted()
    return Refused(
        "unknown-device", "log in first with the device that has the account's key"
    )


def _known(shown: Shown, held: Account, registry: Registry, now: int) -> Answer:
    asked = shown.asked
    if asked.device in held.removed:
        return Refused("unknown-device", _REMOVED)
    if asked.digest is not None and asked.root not in (None, held.root):
        return Refused("bad-proof", "the manifest is not of the root that was shown")
    if asked.root not in (None, held.root):
        return Refused("root-changed", _OTHER_ROOT)
    if asked.device not in held.active:
        return Linking(held.manifest)
    if now - held.seen > DAY_MS:
        registry.lock(held.jid)
        if (again := registry.account(held.jid)) is not None:
            registry.put_account(replace(again, seen=now))
    return vouched(held, registry, now)


def vouched(
    held: Account, registry: Registry, now: int, *, first: bool = False
) -> Vouched:
    """The answer for an account whose manifest in force is *held*'s."""
    newest = registry.token(held.jid)
    reset = registry.reset(held.jid)
    good = (
        newest is not None
        and newest.manifest == held.digest
        and newest.expires - now >= TOKEN_MS // 2
    )
    return Vouched(
        manifest=held.manifest,
        digest=held.digest,
        token=newest.token if newest is not None and good else "",
        previous=None if newest is None else newest.digest,
        removed=held.removed,
        reset=0 if reset is None else reset.due,
        first=first,
    )


def _judge(
    asked: Vouch,
    manifest: Manifest,
    held: Account | None,
    registry: Registry,
    now: int,
) -> Answer:
    root = manifest.root.fingerprint
    if held is not None and asked.device in held.removed and root == held.root:
        return Refused("unknown-device", _REMOVED)
    if asked.root not in (None, root):
        return Refused("bad-proof", "the manifest is not of the root that was shown")
    if held is not None and root == held.root:
        return _same_root(asked, manifest, held, registry, now)
    device = manifest.device(asked.device)
    if device is None or device.removed is not None:
        return Refused("unknown-device", "the manifest does not list this device")
    for former in registry.formers(asked.account):
        if root == former.root:
            return Refused("root-changed", REFUSED_FORMER)
        if former.why == "removed" and asked.device in former.devices:
            return Refused("unknown-device", REFUSED_FORMER)
    if held is None:
        return _first(asked, manifest, registry, now)
    return _other_root(asked, manifest, held, registry, now)


def _first(asked: Vouch, manifest: Manifest, registry: Registry, now: int) -> Answer:
    enrolment = registry.enrolment(asked.account)
    if enrolment is not None:
        code = code_digest(asked.account, asked.code)
        if not hmac.compare_digest(code, enrolment.code):
            return Refused("bad-proof", _CODE)
        # one time
        registry.delete_enrolment(asked.account)
    account = take(manifest, None, registry, now, "first-key", asked.address)
    return vouched(account, registry, now, first=True)


def _same_root(
    asked: Vouch, manifest: Manifest, held: Account, registry: Registry, now: int
) -> Answer:
    # Another one with the number of the one that is held lost a race: its maker
    # does the same once more upon the held one (I24).
    if manifest.seq <= held.seq:
        return Stale(held.manifest)
    device = manifest.device(asked.device)
    if device is None or device.removed is not None:
        return Refused("unknown-device", "the manifest does not list this device")
    if _revives(manifest, held):
        return Refused("bad-proof", "the manifest brings a removed device back")
    account = take(manifest, held, registry, now, "manifest", asked.address)
    return vouched(account, registry, now)


def _other_root(
    asked: Vouch, manifest: Manifest, held: Account, registry: Registry, now: int
) -> Answer:
    if asked.rollover is not None and _leads(asked.rollover, manifest, held):
        _replace(held, registry, now, "rollover")
        account = take(manifest, held, registry, now, "rollover", asked.address)
        leading = (*held.rollovers, asked.rollover.decode("ascii"))[-MOST_ROLLOVERS:]
        account = replace(account, rollovers=leading)
        registry.put_account(account)
        return _without(held, account, vouched(account, registry, now))
    reset = registry.reset(held.jid)
    # an account that had rollovers shows the last one, whatever is held here
    if asked.rollover is not None and (reset is None or reset.due > now):
        return Refused("bad-proof", "the rollover does not lead to these keys")
    if reset is None:
        return Refused("root-changed", _OTHER_ROOT)
    if reset.due > now:
        hours = -(-(reset.due - now) // 3_600_000)
        return Refused(
            "root-changed", f"the reset of this account is due in {hours} hours"
        )
    _replace(held, registry, now, "reset")
    registry.delete_reset(held.jid)
    account = take(manifest, held, registry, now, "reset-done", asked.address)
    return _without(held, account, vouched(account, registry, now))


def _without(held: Account, account: Account, answer: Vouched) -> Vouched:
    """Open streams of devices that are not of the new root end too."""
    dropped = {*held.active, *held.removed} - set(account.active)
    return replace(answer, removed=(*answer.removed, *sorted(dropped)))


def _leads(rollover: bytes, manifest: Manifest, held: Account) -> bool:
    """Whether the held root hands over to *manifest*, and nothing goes back by it."""
    if manifest.seq <= held.seq or _revives(manifest, held):
        return False
    old = open_manifest(held.manifest.encode(), held.jid).root
    try:
        return open_rollover(rollover, held.jid, old) == manifest.root
    except (PeerFault, TrustFault):
        return False


def _revives(manifest: Manifest, held: Account) -> bool:
    """Whether a device that was removed is in use again (3.5)."""
    return any(device.public in held.removed for device in manifest.active)


def _replace(held: Account, registry: Registry, now: int, why: Why) -> None:
    devices = (*held.active, *held.removed)
    registry.put_former(Former(held.jid, held.root, held.seq, devices, now, why))


def take(
    manifest: Manifest,
    held: Account | None,
    registry: Registry,
    now: int,
    what: str,
    address: str = "",
) -> Account:
    """Put *manifest* into force, with the line of the log that says so.

    :param held: what was in force, None for a first key.
    """
    root = manifest.root.fingerprint
    same = held is not None and held.root == root
    account = Account(
        jid=manifest.jid,
        root=root,
        seq=manifest.seq,
        digest=manifest.digest,
        manifest=manifest.document,
        active=tuple(one.public for one in manifest.active),
        removed=tuple(
            one.public for one in manifest.devices if one.removed is not None
        ),
        since=held.since if held is not None and same else now,
        changed=now,
        seen=now,
        rollovers=held.rollovers if held is not None and same else (),
    )
    registry.put_account(account)
    registry.delete_allocations(manifest.jid)
    text = f"root {root.hex()} seq {manifest.seq}"
    if address:
        text += f" from {address}"
    registry.log(Event(now, manifest.jid, what, text))
    return account
