"""What the commands of ``tillie gate`` do in the registry, running gates or not.

They open the store themselves; only ``rotate`` reads a private key.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigFault, Fault, PeerFault
from ..gate import administration, publishing
from ..gate.signing import Signing
from ..keys import databases, serverfiles
from ..keys.registry import Event, Registry, Server
from ..keys.servers import ROLLOVER, SERVER
from ..suites.entropy import token
from ..wire.jid import Jid
from .gateconfig import gate_state
from .sources import Sources
from .statefolder import own_folder


class Place(NamedTuple):
    """Where a gate keeps things.

    :param url: of its registry.
    :param domains: those of its configuration, prepared.
    """

    state: Path
    url: str
    domains: tuple[str, ...]


def place(options: Mapping[str, object], environ: Mapping[str, str]) -> Place:
    """:raises ConfigFault: the configuration does not say."""
    sources = Sources(options, environ, "gate")
    state = gate_state(sources)
    store = sources.text("store")
    found = sources.texts("domain")
    domains = tuple(_domain(one) for one in (found[0] if found else ()))
    return Place(state, store[0] if store else databases.default_url(state), domains)


def bare(text: str) -> str:
    """The account that *text* names, in its prepared form.

    :raises Fault: it names none.
    """
    try:
        jid = Jid.parse(text)
    except PeerFault as fault:
        raise Fault(f'"{text}" is not an address: {fault.text}') from fault
    if not jid.local or jid.resource:
        raise Fault(f'"{text}" is not the address of an account', hint="name@domain")
    return str(jid)


def _domain(text: str) -> str:
    try:
        jid = Jid.parse(text)
    except PeerFault:
        jid = None
    if jid is None or str(jid) != jid.domain:
        raise ConfigFault(f'"{text}" is not a domain')
    return jid.domain


def one_domain(where: Place, named: str | None) -> str:
    """:raises ConfigFault: neither the option nor the configuration names just one."""
    if named is not None:
        return _domain(named)
    if len(where.domains) != 1:
        raise ConfigFault("it is not said whose key it is", hint="--domain example.org")
    return where.domains[0]


@contextmanager
def registry(where: Place, *, writing: bool = True) -> Iterator[Registry]:
    """A transaction in the registry of *where*."""
    opened = databases.open_registry(where.url, wait=databases.COMMAND_WAIT_MS)
    try:
        with opened.transaction(writing=writing):
            yield opened
    finally:
        opened.close()


def now() -> int:
    return time.time_ns() // 1_000_000


def stamp(milliseconds: int) -> str | None:
    """RFC 3339, UTC; None for never."""
    if not milliseconds:
        return None
    at = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


# -- the store ----------------------------------------------------------------


def migrate(where: Place) -> tuple[int, int]:
    """Create or move it; the numbers of the schema before and after."""
    path = databases.sqlite_path(where.url)
    if path is None or path.exists():
        return databases.migrate(where.url)
    if path.parent == where.state:
        own_folder(where.state)
    keys = sorted(where.state.glob("server-*.key"))
    databases.first_start(where.url, keys)
    return 0, databases.migrate(where.url)[1]


def accounts(where: Place) -> list[dict[str, Any]]:
    with registry(where, writing=False) as held:
        return [
            {
                "jid": one.account.jid,
                "fingerprint": one.fingerprint,
                "seq": one.account.seq,
                "devices": len(one.account.active),
                "since": stamp(one.account.since),
                "seen": stamp(one.account.seen),
                "token_expires": stamp(one.token_expires),
                "reset_due": stamp(one.reset_due),
            }
            for one in administration.listing(held)
        ]


def without_key(where: Place) -> list[dict[str, Any]]:
    with registry(where, writing=False) as held:
        return [
            {"jid": jid, "seen": stamp(at)}
            for jid, at in administration.without_key(held)
        ]


# -- accounts -------------------------------------------------------------------


def reset(where: Place, account: str, *, at_once: bool) -> dict[str, Any]:
    with registry(where) as held:
        begun = administration.begin_reset(held, account, now(), at_once=at_once)
    return {"jid": account, "begun": stamp(begun.begun), "due": stamp(begun.due)}


def cancel_reset(where: Place, account: str) -> None:
    with registry(where) as held:
        administration.cancel_reset(held, account, now())


def enrol(where: Place, account: str) -> str:
    """A new code for the first key of *account*."""
    letters = base64.b32encode(token(16)).decode().rstrip("=")
    code = "-".join(letters[at : at + 5] for at in range(0, len(letters), 5))
    with registry(where) as held:
        administration.enrol(held, account, code, now())
    return code


def withdraw(where: Place, account: str) -> None:
    with registry(where) as held:
        administration.withdraw(held, account, now())


# -- the domain's key -------------------------------------------------------------


def rotate(where: Place, domain: str, *, at_once: bool) -> dict[str, Any]:
    """Announce the next key of *domain*, or let it follow when its time has come.

    :raises Fault: it has not; or the key is not the one that the registry knows.
    """
    with registry(where) as held:
        held.lock(domain)
        server = held.server(domain)
        if server is None:
            raise Fault(
                f"no gate of {domain} has published a key in this registry yet",
                hint="start the gate once: tillie gate run",
            )
        done = _rotated(where.state, held, server, at_once=at_once)
    if done["key"] != server.key.hex():
        # what was committed counts; a crash before this is made good by the next
        serverfiles.promote(where.state, domain)
    return done


def _rotated(
    state: Path, held: Registry, server: Server, *, at_once: bool
) -> dict[str, Any]:
    domain, time_ = server.domain, now()
    _settle(state, server)
    key = serverfiles.load(state, domain)
    if key is None:
        raise Fault(f"the key of {domain} does not lie in {state}")
    following = serverfiles.load(state, domain, "next.key")
    if following is None:
        if not at_once:
            publishing.check_unannounced(server)
        following = serverfiles.make(state, domain, "next.key")
    keys = publishing.Held(key.public, following.public)
    publishing.speaking(domain, server, keys)
    signing = Signing({domain: [key, following]})
    if at_once or _is_due(server, keys, time_):
        made = _handed_over(server, keys, signing, time_)
        what, said = "server-key", f"key {made.key.hex()} seq {made.seq}"
    else:
        made = _announced(server, keys, signing, time_)
        what, said = "server-next", f"key {following.public.fingerprint.hex()}"
    if made != server:
        held.put_server(made)
        held.log(Event(time_, domain, what, said))
    return {
        "domain": domain,
        "key": made.key.hex(),
        "seq": made.seq,
        "next": following.public.fingerprint.hex() if made.announced else None,
        "due": stamp(publishing.due(made)),
    }


def _settle(state: Path, server: Server) -> None:
    """Where a rotation was cut off behind its commit, or a copy of the next key
    came from another gate: give the key its name."""
    following = serverfiles.load(state, server.domain, "next.key")
    if following is not None and following.public.fingerprint == server.key:
        serverfiles.promote(state, server.domain)


def _is_due(server: Server, keys: publishing.Held, time_: int) -> bool:
    """Whether the key that lies here is the one whose time has come."""
    following = keys.following
    announced = following and publishing.opened(server).next == following.fingerprint
    return bool(announced) and publishing.due(server) <= time_


def _announced(
    server: Server, keys: publishing.Held, signing: Signing, time_: int
) -> Server:
    wanted = publishing.announcement(server, keys, time_)
    if wanted is None:
        return server
    document = signing.sign(SERVER, wanted.claims, wanted.key.fingerprint, time_)
    return wanted.server(server.domain, document)


def _handed_over(
    server: Server, keys: publishing.Held, signing: Signing, time_: int
) -> Server:
    claims, wanted = publishing.rollover(server, keys, time_)
    leading = signing.sign(ROLLOVER, claims, keys.key.fingerprint, time_)
    document = signing.sign(SERVER, wanted.claims, wanted.key.fingerprint, time_)
    return publishing.handed_over(server.domain, wanted, leading, document)
