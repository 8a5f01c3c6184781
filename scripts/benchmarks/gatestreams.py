"""Streams through a real gate, beside haproxy in front of the same Prosody.

Both end TLS 1.3 with the same certificate and hand on plain XMPP on loopback, each
in one process and one thread.  haproxy knows nothing of what it forwards; the gate
reads every stanza.  Clients are the same for both: TLS from the first byte, PLAIN.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL

from proxy.net.gate import REST_EVERY, TICK
from tests.support.bed import Bed
from tests.support.gate import Gate
from tests.support.gateclient import GateClient
from tests.support.persons import Person
from tests.support.securesocket import SecureSocket
from tests.support.waiting import free_ports

from .flood import PING, Counter, flood, single_file
from .stage import SERVER, Program, cpu, rss
from .table import Table

DOMAIN = "a.test"
CONNECTIONS = 16
BATCHES = 4
QUIET = 2 * REST_EVERY * TICK + 1
"""Seconds after which a connection counts as idle."""
_HAPROXY = """
global
  nbthread 1
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen xmpp
  bind 127.0.0.1:{port} ssl crt {certificate}
  server prosody 127.0.0.1:{server}
"""


@dataclass
class Front:
    """What stands before the server, and how a client logs in there."""

    name: str
    pid: int
    log_in: Callable[[int], GateClient]


def streams(table: Table, quick: bool) -> None:
    """Rates, CPU and memory of both, taking turns."""
    with _fronts() as (bed, gate, fronts):
        rounds, count = (2, 1_000) if quick else (5, 5_000)
        clients = {
            one.name: [one.log_in(n) for n in range(CONNECTIONS)] for one in fronts
        }
        for some in clients.values():
            for one in some:
                one._socket = Drained(one._socket)  # type: ignore[assignment]
        for _ in range(rounds):
            for one in fronts:
                _forwarded(table, one, clients[one.name], count)
        _logged_in(table, fronts, 100 if quick else 1_000)
        _at_the_door(table, bed, gate, 100 if quick else 200)
    _ratios(table)


def _forwarded(
    table: Table, front: Front, clients: list[GateClient], count: int
) -> None:
    """A ping to the server and its answer are two stanzas."""

    def one_connection() -> None:
        counter = Counter(clients[0], b"<iq ")
        flood(clients[0], counter, lambda n: PING.format(n, DOMAIN), count)

    for what, run in (
        (_ONE, one_connection),
        (_MANY, lambda: single_file(list(clients), DOMAIN, count)),
    ):
        before, began = cpu(front.pid), time.perf_counter()
        run()
        seconds, used = time.perf_counter() - began, cpu(front.pid) - before
        table.add(f"{front.name}: stanzas per second, {what}", 2 * count / seconds)
        table.add(f"{front.name}: CPU per stanza, {what}", used / count / 2e-6, "us")


_ONE = "one connection, window 64"
_MANY = f"{CONNECTIONS} connections, one in flight"
_IDLE = "per idle, logged-in connection"


def _logged_in(table: Table, fronts: list[Front], count: int) -> None:
    """In turns, so that what grows by and by is not the later one's alone."""
    opened: list[GateClient] = []
    for batch in range(BATCHES):
        before = {one.name: rss(one.pid) for one in fronts}
        for one in fronts:
            for number in range(count // BATCHES):
                opened.append(one.log_in(batch * count + number))
            opened[-1].ping()
        time.sleep(QUIET)
        for one in fronts:
            grown = (rss(one.pid) - before[one.name]) / (count // BATCHES)
            table.add(f"{one.name}: {_IDLE}", grown, "KB")
    table.add("connections for that, each", count)
    for client in opened:
        client.abort()


def _at_the_door(table: Table, bed: Bed, gate: Gate, count: int) -> None:
    """Who is not logged in (goal: at most 64 KiB each)."""
    person = Person(f"u0@{DOMAIN}")

    def connect() -> GateClient:
        return bed.at_gate(gate, person, port=gate.direct_port, seconds=60)

    def secure() -> GateClient:
        client = connect()
        client.secure(direct=True)
        return client

    def present() -> GateClient:
        client = secure()
        client.present()
        return client

    for name, begin in (
        ("silent", connect),
        ("with a stream in TLS", secure),
        ("whose key was shown", present),
    ):
        # what others have given up is not taken up again here
        gate.restart()
        warm = [begin() for _ in range(10)]
        before = rss(gate.pid)
        opened = [begin() for _ in range(count)]
        grown = (rss(gate.pid) - before) / count
        table.add(f"gate: per connection {name} (goal <= 64)", grown, "KB")
        for client in warm + opened:
            client.abort()


def _ratios(table: Table) -> None:
    for what in (
        f"stanzas per second, {_ONE}",
        f"stanzas per second, {_MANY}",
        f"CPU per stanza, {_ONE}",
        f"CPU per stanza, {_MANY}",
        _IDLE,
    ):
        table.ratio(f"gate / haproxy: {what}", f"gate: {what}", f"haproxy: {what}")


# -- the two of them ------------------------------------------------------------


@contextmanager
def _fronts() -> Iterator[tuple[Bed, Gate, list[Front]]]:
    bed = Bed()
    try:
        accounts = [f"u{number}@{DOMAIN}" for number in range(10)]
        bed.start(*accounts, require_encryption=False, options=SERVER)
        gate = bed.gate(
            backends={DOMAIN: bed.server.starttls_port}, direct=True, start=False
        ).start()
        haproxy = _haproxy(bed)
        people = [Person(jid) for jid in accounts]
        known: set[str] = set()

        def at_gate(number: int) -> GateClient:
            person = people[number % len(people)]
            client = bed.at_gate(gate, person, port=gate.direct_port, seconds=60)
            client.secure(direct=True)
            client.present()
            _authenticate(bed, client, person.jid, f"gate{number}")
            client.vouch(sent=person.jid not in known)
            known.add(person.jid)
            return client

        def at_haproxy(number: int) -> GateClient:
            jid = accounts[number % len(accounts)]
            client = GateClient(haproxy.port, DOMAIN, bed.authority.ca, seconds=60)
            client.start_secure()
            client.open_stream()
            _authenticate(bed, client, jid, f"haproxy{number}")
            return client

        yield (
            bed,
            gate,
            [
                Front("haproxy", haproxy.pid, at_haproxy),
                Front("gate", gate.pid, at_gate),
            ],
        )
    finally:
        bed.close()


def _authenticate(bed: Bed, client: GateClient, jid: str, resource: str) -> None:
    client.authenticate(jid, bed.passwords[jid])
    client.open_stream()
    client.bind(resource)


def _haproxy(bed: Bed) -> Program:
    (port,) = free_ports(1)
    both = bed.folder / "haproxy.pem"
    both.write_bytes(bed.leaf.certificate.read_bytes() + bed.leaf.key.read_bytes())
    both.chmod(0o600)
    file = bed.folder / "haproxy.cfg"
    file.write_text(
        _HAPROXY.format(port=port, certificate=both, server=bed.server.starttls_port)
    )
    arguments = [_found("haproxy"), "-db", "-f", str(file)]
    return bed.keep(Program(arguments, port, bed.folder / "haproxy.log"))


def _found(name: str) -> str:
    # Debian keeps it off the path of people
    system = Path("/usr/sbin") / name
    return str(system) if system.exists() else name


class Drained:
    """A TLS socket that gives all that has come, as a poll on the socket expects."""

    def __init__(self, secure: object) -> None:
        assert isinstance(secure, SecureSocket)
        self._secure = secure
        self.sendall = secure.sendall
        self.settimeout = secure.settimeout
        self.fileno = secure.fileno
        self.close = secure.close

    def recv(self, size: int) -> bytes:
        data = self._secure.recv(size)
        while data and len(data) < size:
            try:
                data += self._secure._tls.recv(size)
            except SSL.WantReadError:
                break
        return data
