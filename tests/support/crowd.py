"""Strangers at a gate: connections that say nothing, and some that never stop.

They stand for other machines, so the flood takes processor time behind the gate and
its server, not from them.

The flood runs in a process of its own: `python -m tests.support.crowd PORT DIRECT
DOMAIN COUNT`, with one thread for each connection, until its standard input ends; then
it prints how many attempts were made of each kind, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .raw import CLIENT, SASL, STREAM

ROOT = Path(__file__).resolve().parents[2]
_SECRET = b64encode(b"\0nobody\0guess").decode()
_AUTH = f"<auth xmlns='{SASL}' mechanism='PLAIN'>{_SECRET}</auth>"


def address(number: int) -> str:
    """A loopback address for one stranger in ten; 127.0.0.1 is nobody's.

    TILLIE_ONE_ADDRESS has them all come from there.
    """
    if os.environ.get("TILLIE_ONE_ADDRESS"):
        return "127.0.0.1"
    number = number // 10 + 2
    return f"127.0.{number // 250}.{number % 250 + 1}"


def silent(port: int, count: int) -> list[socket.socket]:
    """*count* connections from a tenth as many addresses; nothing is sent on them.

    Raises AssertionError where the system does not allow so many open files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    assert hard == resource.RLIM_INFINITY or hard >= wanted, "ulimit -Hn is too low"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return [knock(port, number) for number in range(count)]


def knock(port: int, number: int) -> socket.socket:
    """The connection of the stranger with this number."""
    return socket.create_connection(("127.0.0.1", port), 30, (address(number), 0))


class Flood:
    """The other process; `stop()` gives what it did."""

    def __init__(self, port: int, direct: int, domain: str, count: int) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                __name__,
                str(port),
                str(direct),
                domain,
                str(count),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"flooding\n"

    def stop(self) -> dict[str, int]:
        if self._process.poll() is None:
            said, _ = self._process.communicate(b"", timeout=60)
            self._done: dict[str, int] = json.loads(said)
        return self._done


# -- in the other process ------------------------------------------------------------------


class _Flooder:
    def __init__(self, port: int, direct: int, domain: str) -> None:
        self._ports = {"clear": port, "tls": direct}
        self._domain = domain
        self.done: Counter[str] = Counter()
        self.over = threading.Event()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._header = (
            f"<?xml version='1.0'?><stream:stream to='{domain}' version='1.0'"
            f" xmlns='{CLIENT}' xmlns:stream='{STREAM}'>"
        ).encode()

    def connect(self, kind: str, number: int) -> socket.socket:
        source = (address(number), 0)
        return socket.create_connection(("127.0.0.1", self._ports[kind]), 10, source)

    def churn(self, number: int) -> None:
        """Come and go."""
        self.connect("clear", number).close()

    def junk(self, number: int) -> None:
        """White space behind a header, as much as the gate takes."""
        with self.connect("clear", number) as one:
            one.sendall(self._header)
            for _ in range(64):
                one.sendall(b" " * 2_048)

    def handshake(self, number: int) -> None:
        """TLS, and away."""
        with self.connect("tls", number) as raw:
            self._tls.wrap_socket(raw, server_hostname=self._domain).close()

    def guess(self, number: int) -> None:
        """TLS, a stream, the server behind, and passwords without a key."""
        with (
            self.connect("tls", number) as raw,
            self._tls.wrap_socket(raw, server_hostname=self._domain) as one,
        ):
            one.sendall(self._header)
            data = b""
            while b"</stream:features>" not in data:
                data += _some(one)
            for _ in range(10):
                one.sendall(_AUTH.encode())
                _some(one)

    def run(self, what: Callable[[int], None], number: int) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError, EOFError):
                what(number)
            self.done[what.__name__] += 1


def _some(one: ssl.SSLSocket) -> bytes:
    data = one.recv(65_536)
    if not data:
        raise EOFError
    return data


def _main(port: str, direct: str, domain: str, count: str) -> None:
    os.nice(10)
    flooder = _Flooder(int(port), int(direct), domain)
    kinds = [flooder.junk, flooder.guess, flooder.handshake, flooder.churn]
    threads = [
        threading.Thread(
            target=flooder.run, args=(kinds[number % 4], number), daemon=True
        )
        for number in range(int(count))
    ]
    for one in threads:
        one.start()
    sys.stdout.write("flooding\n")
    sys.stdout.flush()
    sys.stdin.read()
    flooder.over.set()
    sys.stdout.write(json.dumps(flooder.done))


if __name__ == "__main__":
    _main(*sys.argv[1:])
