"""What an administrator decides about accounts (14.10, 14.11), and sees of them.

Pure, over an open transaction, like ``admission``; gates that run meanwhile go by
it at their next question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import Fault
from ..keys.claims import keys_of
from ..keys.documents import peek_doc
from ..keys.manifest import TYP
from ..keys.registry import Account, Enrolment, Event, Registry, Reset
from .judging import code_digest

RESET_MS: Final = 72 * 3600 * 1000


def begin_reset(registry: Registry, account: str, now: int, *, at_once: bool) -> Reset:
    """Let the next root of *account* be its first, in 72 hours or at once.

    One that is pending keeps its time, or it would never come.
    :raises Fault: the account has no key.
    """
    registry.lock(account)
    held = registry.account(account)
    if held is None:
        raise Fault(
            f"{account} has no key here, so there is nothing to reset",
            hint="its next login brings the first one",
        )
    pending = registry.reset(account)
    if pending is not None and (pending.forced or not at_once):
        return pending
    begun = now if pending is None else pending.begun
    reset = Reset(account, begun, now if at_once else now + RESET_MS, forced=at_once)
    registry.put_reset(reset)
    what = "reset-forced" if at_once else "reset-begun"
    registry.log(Event(now, account, what, f"root {held.root.hex()} due {reset.due}"))
    return reset


def cancel_reset(registry: Registry, account: str, now: int) -> None:
    """:raises Fault: there is none."""
    registry.lock(account)
    if registry.reset(account) is None:
        raise Fault(f"no reset of {account} is pending")
    registry.delete_reset(account)
    registry.log(Event(now, account, "reset-cancelled", "by the administrator"))


def enrol(registry: Registry, account: str, code: str, now: int) -> None:
    """Let the first key of *account* be taken with *code* only.

    :param code: of 128 random bits; the one before counts no more.
    :raises Fault: the account has a key.
    """
    registry.lock(account)
    if registry.account(account) is not None:
        raise Fault(
            f"{account} has a key already",
            hint=f"if it is lost: tillie gate reset {account}",
        )
    registry.put_enrolment(Enrolment(account, code_digest(account, code), now))
    registry.log(Event(now, account, "enrolled", "with a one-time code"))


def withdraw(registry: Registry, account: str, now: int) -> None:
    """The first key is taken without a code again.  :raises Fault: it was."""
    registry.lock(account)
    if registry.enrolment(account) is None:
        raise Fault(f"there is no code for {account}")
    registry.delete_enrolment(account)
    registry.log(Event(now, account, "withdrawn", "the code counts no more"))


@dataclass(frozen=True, slots=True)
class Listed:
    """An account, as it is listed.

    :param fingerprint: for people.
    :param token_expires: 0 where none is held for this manifest.
    :param reset_due: 0 where none is pending.
    """

    account: Account
    fingerprint: str
    token_expires: int
    reset_due: int


def listing(registry: Registry) -> Iterator[Listed]:
    """Every account with a key, in the order of addresses."""
    for account in registry.accounts():
        token, reset = registry.token(account.jid), registry.reset(account.jid)
        root = keys_of(peek_doc(account.manifest.encode(), TYP)["root"], what="it")
        current = token is not None and token.manifest == account.digest
        yield Listed(
            account,
            root.people(),
            token.expires if token is not None and current else 0,
            0 if reset is None else reset.due,
        )


def without_key(registry: Registry) -> list[tuple[str, int]]:
    """Accounts that log in without a key and have none, and when they did last:
    whom ``keys-only`` would lock out."""
    return [
        (jid, at) for jid, at in registry.keyless() if registry.account(jid) is None
    ]
