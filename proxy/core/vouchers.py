"""Whether a contact's domain vouches for the keys that were found (15.2, 15.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import REMOTE, TrustFault
from ..keys.tokens import Token, open_token
from ..wire.jid import Jid

if TYPE_CHECKING:
    from .account import Account
    from .directory import Found


def weigh(account: Account, jid: str, found: Found, now: int) -> Token | None:
    """The token beside a record that was found, if it counts.

    :raises TrustFault: at first contact with an account of a domain that has a
        gate there is none: nothing of it is believed.
    """
    domain = Jid.parse(jid).domain
    _learn_server(account, domain, found, now)
    token = read(account, jid, found.token)
    if token is not None and token.covers(found.manifest) and token.current(now):
        return token
    if account.contacts.get(jid) is None and account.servers.gated(domain):
        raise TrustFault(
            f"{domain} vouches for the keys of its accounts, but not for those that "
            f"{jid} shows"
        )
    return None


def heard(account: Account, jid: str, document: str) -> None:
    """The token that *jid* sent inside a seal (15.4); reading never depends on it."""
    contact = account.contacts.get(jid) if document else None
    if contact is None:
        return
    token = read(account, jid, document)
    if token is not None and token.current(account.clock()):
        account.contacts.vouched(jid, token, account.servers.voucher(jid))


def _learn_server(account: Account, domain: str, found: Found, now: int) -> None:
    """A record's word on its domain's key; a bad one says nothing of the account."""
    if found.server is None:
        return
    try:
        verdict = account.servers.learn(domain, found.server, now, "record")
    except REMOTE:
        return
    if verdict.notice:
        account.notice(domain, verdict.notice)


def read(account: Account, jid: str, document: str) -> Token | None:
    """A token of *jid* under the key that is pinned for its domain, if it is one."""
    pin = account.servers.pin(Jid.parse(jid).domain)
    if not document or pin is None or not pin.trusted:
        return None
    try:
        return open_token(document.encode(), jid, pin.held.keys)
    except REMOTE:
        return None
