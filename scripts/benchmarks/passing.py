"""What is not sealed: CPU per stanza that goes through as it is."""

from __future__ import annotations

import time

from tests.support.raw import RawClient

from .flood import PING, Counter, flood, single_file
from .stage import ALICE, Stage, cpu
from .table import Table

CONNECTIONS = 16


def passing(table: Table, quick: bool) -> None:
    rounds, count = (1, 1000) if quick else (3, 5000)
    with Stage() as stage:
        stunnel = stage.stunnel("a.test")
        relay = stage.relay("a.test")
        tillie = stage.tillie()
        candidates = {
            "stunnel": (stunnel.port, stunnel.pid),
            "bare Twisted relay": (relay.port, relay.pid),
            "tillie": (tillie.port, tillie.pid),
        }
        clients = {
            name: _clients(stage, port, name) for name, (port, _) in candidates.items()
        }
        for _ in range(rounds):
            for name, (_, pid) in candidates.items():
                _measure(table, name, clients[name], pid, count)
    one = f"CPU per stanza, {CONNECTIONS} connections, one in flight"
    for other in ("bare Twisted relay", "stunnel"):
        table.ratio(
            f"row 3: passing, tillie / {other}",
            f"tillie: {one}",
            f"{other}: {one}",
            "<= 2.0" if other != "stunnel" else "",
        )
    rate = f"stanzas per second, {CONNECTIONS} connections, one in flight"
    table.ratio(
        "row 12: tillie / stunnel", f"tillie: {rate}", f"stunnel: {rate}", ">= 0.18"
    )


def _clients(stage: Stage, port: int, name: str) -> list[RawClient]:
    short = name.split()[0]
    return [
        stage.bed.raw(ALICE, port, resource=f"{short}{number}", presence=False)
        for number in range(CONNECTIONS)
    ]


def _measure(
    table: Table, name: str, clients: list[RawClient], pid: int, count: int
) -> None:
    """An iq to the server and its answer are two stanzas through the proxy."""
    before, began = cpu(pid), time.perf_counter()
    counter = Counter(clients[0], b"<iq ")
    flood(clients[0], counter, lambda n: PING.format(n, "a.test"), count)
    used, seconds = cpu(pid) - before, time.perf_counter() - began
    table.add(f"{name}: CPU per stanza, window 64", used / count / 2 * 1e6, "us")
    table.add(f"{name}: stanzas per second, window 64", 2 * count / seconds)
    before, began = cpu(pid), time.perf_counter()
    single_file(clients, "a.test", count)
    used, seconds = cpu(pid) - before, time.perf_counter() - began
    what = f"{CONNECTIONS} connections, one in flight"
    table.add(f"{name}: CPU per stanza, {what}", used / count / 2 * 1e6, "us")
    table.add(f"{name}: stanzas per second, {what}", 2 * count / seconds)
