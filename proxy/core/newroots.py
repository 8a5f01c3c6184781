"""Accounts whose root is changed by a person's word: ``tillie devices rollover``.

The new root is written down here; that it comes into force is the doing of
``vouching`` where there is a gate, of ``publication`` elsewhere (3.10.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EnvFault, Fault

if TYPE_CHECKING:
    from .account import Account
    from .rollover import Pending

WAIT = 20_000
"""So long who asked for it waits for the gate's or the server's word."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who waits until *until* for *pending* to be in force, in place of *before*."""

    account: Account
    before: str
    pending: Pending
    until: int
    reply: Callable[[object], None]


class NewRoots:
    """The changes under way, and who waits for them.

    :param clock: milliseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._asked: list[_Asked] = []

    def begin(
        self, account: Account, reply: Callable[[object], None], *, alone: bool
    ) -> None:
        """Change the root of *account*; *reply* is called once it is in force, or when
        that takes its time.

        :param alone: whether other devices of the account may be left behind.
        :raises Fault: it cannot be done here and now, and what to do.
        """
        identity, streams = account.identity, list(account.streams)
        _check(account, alone=alone)
        before = identity.manifest.root.people()
        pending = identity.begin_rollover(self._clock())
        until = self._clock() + (WAIT if streams else -1)
        self._asked.append(_Asked(account, before, pending, until, reply))
        if not account.token.gated:
            for stream in streams[:1]:
                account.publication.publish(stream)
            return
        for stream in streams:
            # it comes back at once, and has the new root vouched for
            stream.uplink.drop(EnvFault("the keys of the account are changed"))

    def tick(self) -> None:
        """Tell those who wait; a command's answer never waits for the next one."""
        for one in list(self._asked):
            identity = one.account.identity
            over = identity.pending is None
            if over or self._clock() > one.until:
                self._asked.remove(one)
                one.reply(_told(one, over=over))


def _told(asked: _Asked, *, over: bool) -> object:
    root = asked.pending.manifest.root
    if over and asked.account.identity.fingerprint != root.fingerprint:
        return Fault(
            "the gate refused the new keys, and the old ones stay",
            hint="tillie notices says why",
        )
    return {"before": asked.before, "fingerprint": root.people(), "done": over}


def _check(account: Account, *, alone: bool) -> None:
    """:raises Fault: see :meth:`NewRoots.begin`."""
    identity = account.identity
    if not identity.ready or not identity.owner:
        raise Fault(
            "the keys can only be changed where they were made",
            hint="run this on the first device, logged in",
        )
    if identity.pending is None and account.has_other_devices() and not alone:
        raise Fault(
            "the other devices of the account would have to be linked again",
            hint="if that is well: tillie devices rollover --alone",
        )
    token = account.token.current
    if account.token.gated and not (token and token.covers(identity.manifest)):
        raise Fault(
            "the gate has not vouched for the present keys yet",
            hint="log in with your client first",
        )
