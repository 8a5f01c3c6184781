"""Messages whose arrival is not known, sent again: the same bytes (clause 9.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TrustFault
from ..wire.stanza import Cleared
from . import guard, ledger

if TYPE_CHECKING:
    from .account import Account
    from .uplink import Uplink


def send_left_over(uplink: Uplink, account: Account, taken: set[str]) -> None:
    """Messages of ended streams go out on *uplink*.

    :param taken: streams whose messages are not left over.
    """
    store, now = account.store, account.clock()
    for one in ledger.left_over(store, account.jid, taken):
        store.delete("ledger", account.jid, one.row)
        if now - one.made > ledger.KEPT:
            account.notice(
                account.jid,
                "a message that waited for 14 days was given up; it may not "
                "have arrived",
            )
            continue
        cleared = again(account, one.data, one.clear_to)
        if cleared is not None:
            uplink.send(cleared, kept=True, clear_to=one.clear_to, made=one.made)


def again(account: Account, data: bytes, clear_to: str) -> Cleared | None:
    """The bytes once more; clear ones only if they are still allowed."""
    if not clear_to:
        return guard.again(data)
    to = clear_to.split(" ")[0]
    try:
        permits = [account.contacts.permit(one) for one in clear_to.split(" ")]
    except TrustFault as fault:
        account.notice(to, f"a message was not sent again: {fault.text}")
        return None
    return guard.permitted_again(data, to, permits[0])
