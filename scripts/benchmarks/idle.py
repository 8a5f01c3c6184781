"""Memory: with no client, per idle connection, and over very many stanzas."""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.net.driver import REST_EVERY, TICK
from tests.support.raw import RawClient

from .flood import PING, Counter, drip, flood
from .person import chat
from .stage import ALICE, BOB, Stage, processes, rss
from .table import Table

QUIET = 2 * REST_EVERY * TICK + 1
"""Seconds after which a connection counts as idle."""


def memory(table: Table, quick: bool) -> None:
    with Stage() as stage:
        _idle(table, stage, 30 if quick else 150)
    with Stage() as stage:
        _growth(table, stage, 1000 if quick else 10_000)


def _whole(pid: int) -> float:
    return sum(rss(one) for one in processes(pid))


def _idle(table: Table, stage: Stage, connections: int) -> None:
    tillie, stunnel = stage.tillie(), stage.stunnel("a.test")
    table.add("stunnel with no client", _whole(stunnel.pid) / 1024, "MB")
    table.add("tillie with no client", rss(tillie.pid) / 1024, "MB   goal <= 90")
    for name, port, pid in (
        ("stunnel", stunnel.port, stunnel.pid),
        ("tillie", tillie.port, tillie.pid),
    ):
        # The first ones load code and keys, which is not what a connection costs.
        warm = [stage.bed.raw(ALICE, port, resource=f"{name}w{n}") for n in range(5)]
        before = _whole(pid)
        idle = [
            stage.bed.raw(ALICE, port, resource=f"{name}{n}", presence=False)
            for n in range(connections)
        ]
        idle[-1].ping()
        time.sleep(QUIET)
        grown = (_whole(pid) - before) / connections
        table.add(f"{name}: per idle, logged-in connection", grown, "KB")
        for client in warm + idle:
            client.abort()
    table.ratio(
        "row 6: per idle connection, tillie / stunnel",
        "tillie: per idle, logged-in connection",
        "stunnel: per idle, logged-in connection",
        "<= 0.9, and <= 75 KB",
    )


def _growth(table: Table, stage: Stage, each: int) -> None:
    """Six kinds of traffic through two Tillies, one after the other.

    As many stanzas as are counted come before and are not: SQLite's pages fill, and
    parsers are renewed, after some thousands.
    """
    sending, receiving = stage.tillie(), stage.tillie()
    alice = stage.bed.raw(ALICE, sending.port)
    bob = stage.bed.raw(BOB, receiving.port)
    carol = stage.bed.raw("carol@a.test", stage.bed.server.starttls_port)
    alice.say(BOB, "first")
    bob.message("first")
    iqs, presences = Counter(alice, b"<iq "), Counter(alice, b"<presence ")
    messages = Counter(bob, b"<message ")
    kinds: dict[str, Callable[[int], None]] = {
        "iq": lambda n: flood(alice, iqs, lambda i: PING.format(i, "a.test"), n),
        "presence": lambda n: flood(alice, presences, lambda _: _PRESENCE, n),
        "new names out": _numbered(alice, iqs, _NEW_IQ),
        "new names in": _numbered(
            carol, messages, _NEW_MESSAGE.replace("BOB", bob.jid)
        ),
        "white space": lambda n: drip(alice, iqs, "a.test", n),
        "sealed messages": lambda n: flood(alice, messages, lambda i: chat(BOB, i), n),
    }
    tillies = {"sending": sending.pid, "receiving": receiving.pid}
    for name, run in kinds.items():
        run(each)
        before, began = (
            {one: rss(pid) for one, pid in tillies.items()},
            time.monotonic(),
        )
        run(each)
        seconds = time.monotonic() - began
        for one, pid in tillies.items():
            grown = (rss(pid) - before[one]) * 1024 / each
            unit = f"B over {each}, goal 0"
            table.add(f"growth per stanza, {name}, {one} tillie", grown, unit)
        table.add(f"per second, {name}", each / seconds)
    for one, pid in tillies.items():
        table.add(f"{one} tillie afterwards", rss(pid) / 1024, "MB")


_PRESENCE = "<presence><priority>1</priority></presence>"
_NEW_IQ = (
    "<iq type='get' id='n{0}' to='a.test'>"
    "<new{0} xmlns='urn:example:{0}' attribute{0}='1'/></iq>"
)
_NEW_MESSAGE = (
    "<message to='BOB' type='headline'>"
    "<new{0} xmlns='urn:example:{0}' attribute{0}='1'/></message>"
)


def _numbered(
    sender: RawClient, counter: Counter, template: str
) -> Callable[[int], None]:
    """Names that never come again, over several runs."""
    first = 0

    def run(count: int) -> None:
        nonlocal first
        at, first = first, first + count
        flood(sender, counter, lambda n: template.format(at + n), count)

    return run
