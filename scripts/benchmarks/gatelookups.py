"""Look-ups at a real gate's directory, asked by a server that is played here.

A server hands a component what everybody asks, so strangers come from as many
addresses and domains as it takes to stay under their limits.  What is measured is
the gate alone: its registry (SQLite) and its signing process are the real ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from pathlib import Path

from tests.support.bed import Bed
from tests.support.gate import Gate
from tests.support.persons import Person

from .table import Table

DOMAIN = "a.test"
ACCOUNTS = 8
WINDOW = 64
_TICKS = os.sysconf("SC_CLK_TCK")
_HANDSHAKE = re.compile(rb"<handshake>([0-9a-f]{40})</handshake>")


def look_ups(table: Table, quick: bool) -> None:
    """Rates and CPU of three kinds of answers."""
    count = 300 if quick else 1_500
    rounds = 1 if quick else 3
    bed = Bed()
    try:
        jids = [f"u{n}@{DOMAIN}" for n in range(ACCOUNTS)]
        bed.start(*jids, require_encryption=False)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            secret = secrets.token_hex(16)
            gate = bed.gate(
                backends={DOMAIN: bed.server.starttls_port}, start=False
            ).use_directory(listening.getsockname()[1], secret)
            gate.start()
            server = Server(listening, secret.encode())
            for jid in jids:
                bed.at_gate(gate, Person(jid), seconds=60).enter(
                    bed.passwords[jid]
                ).close()
            server.rate(jids * 2)  # what is loaded once is loaded now
            for _ in range(rounds):
                _measure(table, gate, server, jids, count)
    finally:
        bed.close()


def _measure(
    table: Table, gate: Gate, server: Server, jids: list[str], count: int
) -> None:
    known = [jids[n % len(jids)] for n in range(count)]
    fresh = [f"x{secrets.token_hex(6)}@{DOMAIN}" for _ in range(count // 3)]
    for name, asked in (
        ("records", known),
        ("absence, signed for it", fresh),
        ("absence, signed lately", fresh),
    ):
        before = _cpu(gate.pid)
        rate = server.rate(asked)
        spent = (_cpu(gate.pid) - before) / len(asked) * 1e6
        table.add(f"look-ups per second: {name}", rate)
        table.add(f"CPU of a look-up, signing too: {name}", spent, "us")


class Server:
    """The server's end of one component stream."""

    def __init__(self, listening: socket.socket, secret: bytes) -> None:
        listening.settimeout(20)
        self._line, _ = listening.accept()
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line.settimeout(20)
        ident = secrets.token_hex(8)
        self._line.sendall(
            b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "
            b"xmlns:stream='http://etherx.jabber.org/streams' from='keys.a.test' "
            b"id='%b'>" % ident.encode()
        )
        data = b""
        while not (found := _HANDSHAKE.search(data)):
            data += self._line.recv(4096)
        digest = hashlib.sha1(ident.encode() + secret).hexdigest().encode()
        assert found[1] == digest
        self._line.sendall(b"<handshake/>")
        self._asked = 0

    def rate(self, jids: list[str]) -> float:
        """Ask for all of them, some at a time; answers per second."""
        waiting = answered = 0
        tail = b""
        left = list(reversed(jids))
        began = time.perf_counter()
        while answered < len(jids):
            batch = b""
            while left and waiting < WINDOW:
                batch += self._query(left.pop())
                waiting += 1
            if batch:
                self._line.sendall(batch)
            data = tail + self._line.recv(262_144)
            done = data.count(b"</iq>")
            assert b"type='error'" not in data
            answered += done
            waiting -= done
            # an end tag may come in two pieces
            tail = data[-4:] if not data.endswith(b"</iq>") else b""
        return len(jids) / (time.perf_counter() - began)

    def _query(self, jid: str) -> bytes:
        self._asked += 1
        n = self._asked
        # 60 of an address and 600 of a domain in a minute
        asker = f"u{n % 400}@d{n // 400}.example/x"
        return (
            f"<iq type='get' id='q{n}' from='{asker}' to='keys.a.test'>"
            f"<lookup xmlns='urn:x-tillie:key:0' jid='{jid}'/></iq>"
        ).encode()


def _cpu(pid: int) -> float:
    """CPU seconds of a process and of the processes that it started and has."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for one in (pid, *map(int, children)):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS
