"""The stage: a private Prosody, stunnels, bare relays, Tillies, pairs of clients."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bed import Bed
from tests.support.tillie import Tillie
from tests.support.waiting import free_ports, listens, until

HERE = Path(__file__).resolve().parent
ALICE, BOB = "alice@a.test", "bob@b.test"
# Without an archive, which would write each message to a file: the server is not
# what is measured. nagle is the name that Prosody's epoll backend knows.
SERVER = """
modules_enabled = { "roster"; "saslauth"; "tls"; "disco"; "carbons"; "pep";
  "smacks"; "offline"; "ping"; "register"; }
network_settings = { nagle = false }
"""
SHAPED = (
    SERVER.replace('"roster";', '"roster"; "limits";')
    + 'limits = { c2s = { rate = "10kb/s" } }'
)
_STUNNEL = """
foreground = yes
pid =
debug = 3
syslog = no
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[xmpp]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{server}
CAfile = {ca}
verifyChain = yes
checkHost = {domain}
sni = {domain}
"""


def cpu(pid: int) -> float:
    """Seconds of CPU of all threads so far; by the scheduler's clock where it is
    kept, else in the ticks of /proc/PID/stat."""
    try:
        total = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        if total:
            return total / 1e9
    except (OSError, ValueError, IndexError):
        pass
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid: int) -> float:
    """Resident memory in KB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise ValueError(f"process {pid} has no VmRSS")


def processes(parent: int) -> list[int]:
    """A process and its descendants."""
    found = [parent]
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


class Program:
    """A relay in a process of its own, ended with the stage."""

    def __init__(self, arguments: list[str], port: int, log: Path) -> None:
        self.port = port
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until(self._ready, f"{arguments[0]} to listen", also=log.read_text)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(self._log.read_text())
        return listens(self.port)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@dataclass
class Stage:
    """One server and what stands in front of it; `close()` ends everything."""

    bed: Bed = field(default_factory=Bed)
    shaped: bool = False
    _count: int = 0

    def __enter__(self) -> Stage:
        options = SHAPED if self.shaped else SERVER
        self.bed.start(ALICE, BOB, require_encryption=False, options=options)
        return self

    def __exit__(self, *_: object) -> None:
        self.bed.close()

    @property
    def server_pid(self) -> int:
        process = self.bed.server._process
        assert process is not None
        return process.pid

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def tillie(self, *, start: bool = True, tap: bool = False) -> Tillie:
        if tap:
            return self.bed.tillie(self.name("tillie"), start=start)
        port = self.bed.server.direct_port
        servers = dict.fromkeys(self.bed.domains, port)
        return self.bed.tillie(self.name("tillie"), servers=servers, start=start)

    def stunnel(self, domain: str) -> Program:
        (port,) = free_ports(1)
        file = self.bed.folder / f"{self.name('stunnel')}.conf"
        file.write_text(
            _STUNNEL.format(
                port=port,
                server=self.bed.server.direct_port,
                ca=self.bed.authority.ca,
                domain=domain,
            )
        )
        return self.bed.keep(
            Program(["stunnel4", str(file)], port, file.with_suffix(".log"))
        )

    def relay(self, domain: str) -> Program:
        """The bare Twisted relay of relay.py."""
        (port,) = free_ports(1)
        arguments = [str(port), str(self.bed.server.direct_port)]
        arguments += [domain, str(self.bed.authority.ca)]
        return self.bed.keep(
            Program(
                [sys.executable, str(HERE / "relay.py"), *arguments],
                port,
                self.bed.folder / f"{self.name('relay')}.log",
            )
        )

    def pair(
        self, kind: str, ports: tuple[int, int], jids: tuple[str, str] = (ALICE, BOB)
    ) -> Pair:
        for jid in jids:
            self.bed.account(jid)
        return Pair(self.bed, kind, ports, jids)


class PersonProcess:
    """person.py as seen from outside."""

    def __init__(
        self, jid: str, password: str, port: int, kind: str, side: socket.socket
    ) -> None:
        self.jid = jid
        self.events: list[dict[str, Any]] = []
        self._left = b""
        number = str(side.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.person", jid, str(port), kind, number],
            env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[side.fileno()],
            cwd=HERE.parent,
        )
        self._write(password + "\n")

    @property
    def pid(self) -> int:
        return self.process.pid

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def tell(self, do: str, **values: object) -> None:
        self._write(json.dumps({"do": do, **values}) + "\n")

    def event(self, name: str, *, seconds: float = 150) -> dict[str, Any]:
        """Return the next event of this name; others are kept in `events`."""
        assert self.process.stdout is not None
        stream = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self._left.partition(b"\n")
            if newline:
                self._left = rest
                event: dict[str, Any] = json.loads(line)
                self.events.append(event)
                if event["event"] == "error":
                    raise AssertionError(f"{self.jid}: {event['text']}")
                if event["event"] == name:
                    return event
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                raise AssertionError(f"{self.jid}: no {name} in {seconds:g} s")
            data = os.read(stream, 65536)
            if not data:
                raise AssertionError(f"{self.jid} ended")
            self._left += data

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Pair:
    """Alice and Bob, on-line, behind the same kind of candidate."""

    def __init__(
        self, bed: Bed, kind: str, ports: tuple[int, int], jids: tuple[str, str]
    ) -> None:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.people = []
        for jid, port, side in zip(jids, ports, (one, other), strict=True):
            person = PersonProcess(jid, bed.passwords[jid], port, kind, side)
            self.people.append(bed.keep(person))
        one.close()
        other.close()
        self.alice, self.bob = self.people
        self.online = [one.event("online", seconds=60) for one in self.people]

    def order(self, do: str, **values: object) -> dict[str, Any]:
        """Have Alice do something towards Bob and return her answer."""
        return ordered(self.alice, do, self.bob.jid, **values)

    def answer(self) -> None:
        """Have Bob send one message to Alice: it ends a one-way run."""
        ordered(self.bob, "window", self.alice.jid, count=1, size=1)

    def role(self, role: str) -> None:
        ordered(self.bob, "role", self.alice.jid, role=role)

    def close(self) -> None:
        for person in self.people:
            person.tell("quit")
        for person in self.people:
            with contextlib.suppress(subprocess.TimeoutExpired):
                person.process.wait(5)
            person.stop()


def ordered(
    person: PersonProcess, do: str, to: str, **values: object
) -> dict[str, Any]:
    person.tell(do, to=to, **values)
    return person.event("done")


def spent(pids: Mapping[str, int], before: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds of each process since `before`."""
    return {name: cpu(pid) - before[name] for name, pid in pids.items()}
