"""What is known of the gate before an account's server, for ``tillie doctor``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..keys.tokens import in_time
from ..wire.jid import Jid

if TYPE_CHECKING:
    from ..keys.store import Store
    from .account import Account

_LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Login:
    """The last login that the server took.

    :param at: Unix milliseconds.
    :param proved: whether a gate proved itself before the password was sent.
    """

    at: int
    proved: bool


def note_login(store: Store, account: str, login: Login) -> None:
    record = json.dumps([login.at, login.proved]).encode()
    store.put("own", account, _LOGIN, record)


def last_login(store: Store, account: str) -> Login | None:
    data = store.get("own", account, _LOGIN)
    return None if data is None else Login(*json.loads(data))


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What holds for one account; times are Unix milliseconds, 0 for none.

    :param gated: whether nobody logs in there without the gate's proof.
    :param key: fingerprint of the domain's key that is pinned, hex.
    :param since: when it was pinned.
    :param source: by whose word: ``stream`` (a login), ``directory``, ``record``.
    :param alarm: what is wrong with it since, empty for nothing.
    :param current: whether the document that is held of it is in time.
    :param token: until when the own token lasts; *covers*: whether it is for the
        manifest that is in force here.
    :param login: when the server last took a login; *proved*: whether a gate proved
        itself there.
    :param refused: why the last attempt since then failed, empty if none did.
    """

    gated: bool
    key: str
    since: int
    source: str
    alarm: str
    current: bool
    token: int
    covers: bool
    login: int
    proved: bool
    refused: str


def gate_facts(account: Account, now: int) -> GateFacts:
    """:raises StoreFault: a record cannot be read."""
    pin = account.servers.pin(Jid.parse(account.jid).domain)
    token, identity = account.token.current, account.identity
    login = last_login(account.store, account.jid)
    held = pin.held if pin is not None else None
    return GateFacts(
        gated=account.token.gated,
        key="" if held is None else held.keys.fingerprint.hex(),
        since=0 if pin is None else pin.since,
        source="" if pin is None else pin.source,
        alarm="" if pin is None else pin.alarm,
        current=held is None or in_time(held.issued, held.expires, now),
        token=0 if token is None else token.expires,
        covers=token is not None
        and identity.has_manifest
        and token.covers(identity.manifest),
        login=0 if login is None else login.at,
        proved=login is not None and login.proved,
        refused=account.refused,
    )
