"""Two slixmpp clients: messages per second, round trips, CPU per message."""

from __future__ import annotations

from .machine import calibration
from .stage import Pair, Stage, cpu, rss, spent
from .table import Table, at

WINDOW = 64
# Of the machine that the goals in microseconds were set on.
REFERENCE_SIGN = 33.0


def chat(table: Table, quick: bool) -> None:
    rounds, count, trips = (1, 500, 40) if quick else (3, 1000, 150)
    with Stage() as stage:
        ports, pids = _candidates(stage)
        for number in range(rounds):
            _calibrate(table)
            for kind in ("direct", "stunnel", "tillie"):
                pair = stage.pair("plain", ports[kind])
                _one_kind(table, kind, pair, pids[kind], count, trips)
                pair.close()
            _omemo(table, stage, number, quick, trips)
        for name, pid in pids["tillie"].items():
            if name != "server":
                table.add(
                    f"tillie: RSS of the {name} afterwards", rss(pid) / 1024, "MB"
                )
    _ratios(table)


def _candidates(
    stage: Stage,
) -> tuple[dict[str, tuple[int, int]], dict[str, dict[str, int]]]:
    """Local ports and processes of each candidate; they stay over all rounds."""
    direct = stage.bed.server.starttls_port
    stunnels = [stage.stunnel(domain) for domain in stage.bed.domains]
    tillies = [stage.tillie() for _ in stage.bed.domains]
    server = {"server": stage.server_pid}
    roles = ("sending proxy", "receiving proxy")
    return (
        {
            "direct": (direct, direct),
            "stunnel": (stunnels[0].port, stunnels[1].port),
            "tillie": (tillies[0].port, tillies[1].port),
        },
        {
            "direct": server,
            "stunnel": server
            | {role: one.pid for role, one in zip(roles, stunnels, strict=True)},
            "tillie": server
            | {role: one.pid for role, one in zip(roles, tillies, strict=True)},
        },
    )


def _calibrate(table: Table) -> None:
    for name, value in calibration().items():
        table.add(f"at the time: {name}", value, "us CPU")


def _one_kind(
    table: Table, kind: str, pair: Pair, proxies: dict[str, int], count: int, trips: int
) -> None:
    pids = proxies | {
        "sending client": pair.alice.pid,
        "receiving client": pair.bob.pid,
    }
    pair.order("window", count=1, size=1)
    pair.order("window", count=2 * WINDOW, size=WINDOW)
    before = {name: cpu(pid) for name, pid in pids.items()}
    done = pair.order("window", count=count, size=WINDOW)
    table.add(f"{kind}: messages per second, window {WINDOW}", count / done["seconds"])
    for name, seconds in spent(pids, before).items():
        table.add(f"{kind}: CPU per message, {name}", seconds / count * 1e6, "us")
    _round_trips(table, kind, pair, trips)


def _round_trips(table: Table, kind: str, pair: Pair, trips: int) -> None:
    pair.role("echo")
    pair.order("pingpong", count=5)
    times = pair.order("pingpong", count=trips)["times"]
    table.add(f"{kind}: round trip p50", at(times, 0.5) * 1e3, "ms")
    table.add(f"{kind}: round trip p99", at(times, 0.99) * 1e3, "ms")
    pair.role("count")


def _omemo(table: Table, stage: Stage, number: int, quick: bool, trips: int) -> None:
    """The peer at its best: in-memory keys, one device each, runs kept short."""
    direct = stage.bed.server.starttls_port
    jids = (f"carol{number}@a.test", f"dave{number}@b.test")
    pair = stage.pair("omemo", (direct, direct), jids)
    pids = {"sending client": pair.alice.pid, "receiving client": pair.bob.pid}
    pair.order("window", count=1, size=1)
    pair.answer()
    _round_trips(table, "slixmpp-omemo", pair, trips)
    bursts, long = (1, 100) if quick else (3, 400)
    for _ in range(bursts):
        pair.answer()
        before = {name: cpu(pid) for name, pid in pids.items()}
        seconds = pair.order("burst", count=50)["seconds"]
        table.add("slixmpp-omemo: messages per second, burst of 50", 50 / seconds)
        for name, used in spent(pids, before).items():
            table.add(f"slixmpp-omemo: CPU per message, {name}", used / 50 * 1e6, "us")
    pair.answer()
    seconds = pair.order("burst", count=long)["seconds"]
    table.add(f"slixmpp-omemo: messages per second, burst of {long}", long / seconds)
    sizes = [one["bytes"] for one in pair.alice.events if one["event"] == "size"]
    table.add("slixmpp-omemo: bytes of a stanza, as its client writes it", sizes[-1])
    for person in pair.people:
        table.add("slixmpp-omemo: RSS of a client", rss(person.pid) / 1024, "MB")
    for one in pair.online:
        table.add(
            "slixmpp-omemo: login with a new identity", one["published"] * 1e3, "ms"
        )
    pair.close()


def _ratios(table: Table) -> None:
    rate = f"messages per second, window {WINDOW}"
    ours = f"tillie: {rate}"
    peer = "slixmpp-omemo: messages per second, burst of"
    table.ratio("row 1: rate, tillie / slixmpp-omemo 50", ours, f"{peer} 50", ">= 10")
    for long in (100, 400):
        table.ratio(
            f"row 1: rate, tillie / slixmpp-omemo {long}",
            ours,
            f"{peer} {long}",
            ">= 40",
        )
    table.ratio("row 1: rate, tillie / stunnel", ours, f"stunnel: {rate}", ">= 0.6")
    trip = "round trip p50"
    table.ratio(
        "row 2: round trip, tillie / slixmpp-omemo",
        f"tillie: {trip}",
        f"slixmpp-omemo: {trip}",
        "<= 0.35",
    )
    for kind in ("stunnel", "tillie"):
        table.difference(
            f"{kind}: added to the round trip", f"{kind}: {trip}", f"direct: {trip}"
        )
    table.ratio(
        "row 2: added latency, tillie / stunnel",
        "tillie: added to the round trip",
        "stunnel: added to the round trip",
        "<= 2.5",
    )
    _scaled(table, "sealing", "tillie: CPU per message, sending proxy", "<= 80")
    _scaled(table, "opening", "tillie: CPU per message, receiving proxy", "<= 150")


def _scaled(table: Table, what: str, name: str, goal: str) -> None:
    """CPU in Ed25519 signatures made at the time, times their reference cost."""
    in_signatures = "at the time: Ed25519 sign"
    value = table.figures[name] / table.figures[in_signatures] * REFERENCE_SIGN
    table.add(
        f"row 3: {what}, scaled to the reference machine", value, f"us   goal {goal}"
    )
