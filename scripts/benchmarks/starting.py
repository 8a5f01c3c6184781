"""From a command to a listening port, from a connection to a login."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from tests.support.tillie import ROOT, Tillie

from .stage import ALICE, PersonProcess, Stage, ordered
from .table import Table

_IMPORTS = {
    "python alone": "pass",
    "slixmpp and slixmpp-omemo": "import slixmpp, slixmpp_omemo",
    "Twisted's reactor with TLS": (
        "import twisted.internet.reactor, twisted.protocols.tls, OpenSSL"
    ),
}


def start(table: Table, quick: bool) -> None:
    rounds = 3 if quick else 9
    with Stage() as stage:
        _to_listening(table, stage, rounds)
        _logins(table, stage, 5 if quick else 25)
        _one_shots(table, stage, 1 if quick else 3)


def _to_listening(table: Table, stage: Stage, rounds: int) -> None:
    again = stage.tillie(start=False)
    _listening(again)
    for _ in range(rounds):
        for name, code in _IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            table.add(f"whole process, {name}", _since(began), "ms")
        first = _listening(stage.tillie(start=False))
        table.add("tillie listening, very first start", first * 1e3, "ms")
        table.add("tillie listening", _listening(again) * 1e3, "ms")
    table.ratio(
        "row 7: listening / imports of slixmpp and slixmpp-omemo",
        "tillie listening",
        "whole process, slixmpp and slixmpp-omemo",
        "<= 0.6",
    )


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _listening(tillie: Tillie) -> float:
    """Seconds from spawning it to its line; it is stopped again.

    Unlike in tests, compiled modules may be kept: that is how people run it.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *tillie.run_arguments()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - began
    process.terminate()
    process.wait(10)
    process.stdout.close()
    if not line.startswith(b"tillie: listening on"):
        raise AssertionError(f"instead of listening: {line!r}")
    return seconds


def _logins(table: Table, stage: Stage, rounds: int) -> None:
    tillie, stunnel = stage.tillie(), stage.stunnel("a.test")
    ports = {
        "direct": stage.bed.server.starttls_port,
        "stunnel": stunnel.port,
        "tillie": tillie.port,
    }
    for number in range(-1, rounds):
        for name, port in ports.items():
            began = time.perf_counter()
            client = stage.bed.raw(ALICE, port, resource=name)
            # The first makes keys and fills caches.
            if number >= 0:
                table.add(f"{name}: connection to bound resource", _since(began), "ms")
            client.close()
    what = "connection to bound resource"
    table.difference(
        "row 7: login, tillie - stunnel", f"tillie: {what}", f"stunnel: {what}"
    )


def _one_shots(table: Table, stage: Stage, rounds: int) -> None:
    """Start, log in, one message and its echo, exit: a whole process."""
    tillies = (stage.tillie().port, stage.tillie().port)
    direct = (stage.bed.server.starttls_port,) * 2
    for number in range(rounds):
        for name, kind, ports in (
            ("plain, direct", "plain", direct),
            ("behind running Tillies", "plain", tillies),
            ("slixmpp-omemo", "omemo", direct),
        ):
            # Alice's keys are in another Tillie, that of the logins.
            jids = ("heidi@a.test", "ivan@b.test")
            if kind == "omemo":
                jids = (f"erin{number}@a.test", f"frank{number}@b.test")
            seconds = _one_shot(stage, kind, ports, jids)
            table.add(f"one shot, {name}", seconds * 1e3, "ms")
    table.ratio(
        "row 7: one shot, tillie / slixmpp-omemo",
        "one shot, behind running Tillies",
        "one shot, slixmpp-omemo",
        "<= 0.25",
    )


def _one_shot(
    stage: Stage, kind: str, ports: tuple[int, int], jids: tuple[str, str]
) -> float:
    pair = stage.pair(kind, ports, jids)
    pair.role("echo")
    pair.alice.tell("quit")
    pair.alice.process.wait(10)
    if kind == "omemo":
        # A new identity each time: an account of its own keeps it the only one.
        jids = (jids[0].replace("erin", "grace"), jids[1])
    stage.bed.account(jids[0])
    ordered(pair.bob, "role", jids[0], role="echo")
    side, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    began = time.perf_counter()
    alice = stage.bed.keep(
        PersonProcess(jids[0], stage.bed.passwords[jids[0]], ports[0], kind, side)
    )
    alice.event("online")
    ordered(alice, "pingpong", jids[1], count=1)
    alice.tell("quit")
    alice.process.wait(10)
    seconds = time.perf_counter() - began
    side.close()
    other.close()
    pair.bob.stop()
    return seconds
