"""Bytes on the server's side, through a tap, and the pace under a rate limit."""

from __future__ import annotations

import re
import time

from tests.support.tap import Way
from tests.support.waiting import until

from .person import BODY, chat
from .stage import ALICE, BOB, Stage
from .table import Table

_MESSAGE = re.compile(rb"<message .*?</message>", re.DOTALL)
MESSAGES = 20


def wire(table: Table, quick: bool) -> None:
    _sizes(table)
    if not quick:
        _shaped(table)


def _sizes(table: Table) -> None:
    plain = len(chat(BOB, 0).encode())
    table.add("the plain message", plain, "B")
    with Stage() as stage:
        sending, receiving = stage.tillie(tap=True), stage.tillie(tap=True)
        bob = stage.bed.raw(BOB, receiving.port)
        alice = stage.bed.raw(ALICE, sending.port)
        alice.say(BOB, "first")
        bob.message("first")
        bob.say(ALICE, "answer")
        alice.message("answer")
        alice.send(chat(BOB, 0))
        bob.message(BODY)
        out, back = stage.bed.taps[0], stage.bed.taps[3]
        sizes = [len(one) for one in _MESSAGE.findall(out.recorded(Way.OUT))]
        table.add("first sealed message, with its key", sizes[0], "B")
        marks = [len(tap.recorded()) for tap in (out, back)]
        number = 1
        for number in range(1, MESSAGES + 1):
            alice.send(chat(BOB, number))
            bob.message(BODY)
        alice.ping()
        sizes = [len(one) for one in _MESSAGE.findall(out.recorded(Way.OUT))]
        table.add("sealed message in steady state", sizes[-1], "B   goal <= 900")
        sent = (len(out.recorded()) - marks[0]) / MESSAGES
        got = until(lambda: len(back.recorded()) - marks[1], "bytes") / MESSAGES
        table.add("per message between sender's proxy and server, both ways", sent, "B")
        table.add("per message between server and receiver's proxy", got, "B")
    table.ratio(
        "row 4: sealed / plain",
        "sealed message in steady state",
        "the plain message",
    )


def _shaped(table: Table) -> None:
    """Debian's Prosody lets a client send 10 kB/s."""
    for kind in ("plain", "sealed"):
        with Stage(shaped=True) as stage:
            server = stage.bed.server.starttls_port
            ports = (server, server)
            if kind == "sealed":
                ports = (stage.tillie().port, stage.tillie().port)
            bob = stage.bed.raw(BOB, ports[1])
            alice = stage.bed.raw(ALICE, ports[0])
            bob.seconds = 60
            alice.say(BOB, "first")
            bob.message("first")
            for number in range(150):
                alice.send(chat(BOB, number))
            # What the limiter lets through at once is not its pace.
            for _ in range(70):
                bob.message(BODY)
            began = time.perf_counter()
            for _ in range(80):
                bob.message(BODY)
            pace = 80 / (time.perf_counter() - began)
            goal = "   goal >= 10" if kind == "sealed" else ""
            table.add(f"{kind}: messages per second at 10 kB/s{goal}", pace)
