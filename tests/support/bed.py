"""The test bed: one private server, taps, Tillies and people, in one folder.

    client  ->  Tillie  ->  Tap (records)  ->  Prosody (a.test and b.test)
    client  ->  Gate  ->  Prosody

Each bed that was opened is in OPEN until it is closed; the fixture in
tests/conftest.py searches and closes them all after every integration test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .canary import Canaries, Hit, files, process
from .certificates import Authority, Leaf
from .federation import names, printed
from .gate import Gate
from .gateclient import GateClient
from .persons import Person
from .prosody import Prosody
from .raw import RawClient
from .scripted import Scripted
from .tap import Tap
from .tillie import Tillie

DOMAINS = ("a.test", "b.test")
OPEN: list[Bed] = []


class Stoppable(Protocol):
    """A client that the bed ends when it is closed."""

    def stop(self) -> None: ...


P = TypeVar("P", bound=Stoppable)


class Bed:
    """Everything of one test; `close()` ends all processes and removes the folder.

    The folder's name is short, because Unix sockets (tmux's, Tillie's) lie in it
    and a socket's path has 107 bytes. TILLIE_KEEP_BED=1 keeps it for a look.
    """

    def __init__(self, domains: Sequence[str] = DOMAINS) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bed-"))
        # Clients that refuse to run as root have their homes in here.
        self.folder.chmod(0o711)
        self.domains = domains
        self.authority = Authority(self.folder / "ca")
        names = [*domains, f"conference.{domains[0]}", f"upload.{domains[0]}"]
        self.leaf = self.authority.leaf(*names, "127.0.0.1", label="server")
        self.server = Prosody(self.folder / "server", self.leaf, domains)
        self.others: dict[str, Prosody] = {}
        self.canaries = Canaries()
        self.passwords: dict[str, str] = {}
        self.taps: list[Tap] = []
        self.tillies: list[Tillie] = []
        self.gates: list[Gate] = []
        self._clients: list[Stoppable] = []
        self._raw: list[RawClient] = []
        OPEN.append(self)

    def start(self, *accounts: str, **options: Any) -> Bed:
        """Start Prosody with accounts; options as the fields of Prosody."""
        if options:
            self.server = Prosody(
                self.folder / "server", self.leaf, self.domains, **options
            )
        for jid in accounts:
            self.account(jid)
        self.server.start()
        return self

    def federate(self, *accounts: str) -> Bed:
        """Start a Prosody for each domain instead, with what `tillie gate config`
        prints: they take clients without TLS, for gates, and talk to each other."""
        self.others = {
            domain: Prosody(
                self.folder / f"server-{domain}",
                self.authority.leaf(*names(domain), label=f"server-{domain}"),
                (domain,),
                services=False,
                ca=self.authority.ca,
                behind_gate=printed("prosody", domain),
            )
            for domain in self.domains
        }
        self.server = self.others[self.domains[0]]
        for domain, server in self.others.items():
            server.peers = {
                name: one.s2s_port
                for other, one in self.others.items()
                if other != domain
                for name in names(other)
            }
        for jid in accounts:
            self.account(jid)
        for server in self.others.values():
            server.start()
        return self

    def server_of(self, domain: str) -> Prosody:
        return self.others.get(domain, self.server)

    def account(self, jid: str) -> str:
        """Create an account once and return its random password."""
        if jid not in self.passwords:
            self.passwords[jid] = secrets.token_hex(16)
            server = self.server_of(jid.partition("@")[2])
            server.add_account(jid, self.passwords[jid])
        return self.passwords[jid]

    def scripted(self, domain: str, *accounts: str, direct: bool = False) -> Scripted:
        """Start a scripted server for a domain with accounts of the bed."""
        passwords = {
            jid: self.passwords.setdefault(jid, secrets.token_hex(16))
            for jid in accounts
        }
        server = Scripted(self.leaf, domain, passwords, direct=direct).start()
        return self.keep(server)

    def tap(
        self,
        domain: str,
        *,
        label: str = "",
        port: int | None = None,
        plain: bool = False,
    ) -> Tap:
        """Put a tap for a domain in front of the server's direct TLS port.

        With `plain` it stands between a gate and the server, without TLS.
        """
        server = self.server_of(domain)
        own = server.starttls_port if plain else server.direct_port
        tap = Tap(
            self.authority,
            self.leaf,
            own if port is None else port,
            domain,
            label=label,
            plain=plain,
        )
        tap.start()
        self.taps.append(tap)
        return tap

    def tillie(
        self,
        label: str,
        *,
        taps: Sequence[Tap] | None = None,
        servers: Mapping[str, int] | None = None,
        tls: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Tillie:
        """Start a Tillie behind taps, by default a new one for each domain.

        With `servers` (and `tls`) it goes to these ports instead, untapped.
        """
        if taps is None and servers is None:
            taps = [self.tap(one, label=f"{label} {one}") for one in self.domains]
        ports = {one.domain: one.port for one in taps or ()} | dict(servers or {})
        modes = dict.fromkeys(ports, "direct") | dict(tls or {})
        tillie = Tillie(
            self.folder / label,
            self.authority.ca,
            ports,
            modes,
            arguments,
            environment or {},
        )
        self.tillies.append(tillie)
        return tillie.start() if start else tillie

    def gate(
        self,
        label: str = "gate",
        *,
        backends: Mapping[str, int] | None = None,
        leaves: Mapping[str, Leaf] | None = None,
        start: bool = True,
        **options: Any,
    ) -> Gate:
        """Start a gate, by default for all domains in front of the bed's server.

        That one has to be started with `require_encryption=False`: behind a gate
        it takes clients on loopback without TLS. Options as the fields of Gate.
        """
        ports = dict.fromkeys(self.domains, self.server.starttls_port)
        backends = ports if backends is None else backends
        certificates = dict.fromkeys(backends, self.leaf) | dict(leaves or {})
        gate = Gate(self.folder / label, backends, certificates, **options)
        self.gates.append(gate)
        return gate.start() if start else gate

    def at_gate(
        self,
        gate: Gate,
        person: Person | str,
        *,
        port: int = 0,
        account: bool = True,
        **options: Any,
    ) -> GateClient:
        """Connect a scripted client to a gate; nothing is sent yet.

        `person` has keys; a bare JID instead is a client without Tillie. The account
        is there, unless `account` says that it is still to be made.
        """
        keys = None if isinstance(person, str) else person
        jid = person if isinstance(person, str) else person.jid
        domain = jid.partition("@")[2]
        if account:
            self.account(jid)
        client = GateClient(
            port or gate.port, domain, self.authority.ca, keys, **options
        )
        self._raw.append(client)
        return client

    def home(self, label: str) -> Path:
        """Return an empty home folder for a client."""
        folder = self.folder / "home" / label
        folder.mkdir(parents=True)
        folder.parent.chmod(0o711)
        return folder

    def keep(self, client: P) -> P:
        """Have the client ended when the bed is closed, and return it."""
        self._clients.append(client)
        return client

    def keep_raw(self, client: RawClient) -> None:
        """Have the client's connection cut when the bed is closed."""
        self._raw.append(client)

    def raw(
        self, jid: str, port: int, *, resource: str = "raw", **options: Any
    ) -> RawClient:
        """Log a raw client in at a port and return it."""
        # patient: ejabberd on a busy machine takes its time over a first login
        client = RawClient(port, jid.partition("@")[2], seconds=30)
        self._raw.append(client)
        if jid not in self.passwords:
            self.account(jid)
        return client.login(jid, self.passwords[jid], resource=resource, **options)

    def places(self) -> dict[str, bytes]:
        """Return all bytes in which no secret may lie, by a name for people."""
        places: dict[str, bytes] = {}
        for tap in self.taps:
            places |= tap.streams()
        for client in self._clients:
            if isinstance(client, Scripted):
                places[f"scripted server {client.domain}"] = bytes(client.received)
        folders = {self.server.folder, *(one.folder for one in self.others.values())}
        return places | files(sorted(folders)) | self.own_places()

    def own_places(self) -> dict[str, bytes]:
        """Return what the Tillies keep and write: state, log, process."""
        programs = [*self.tillies, *self.gates]
        places = files([one.folder for one in programs])
        for program in programs:
            if program.running:
                places |= process(program.pid)
        return places

    def hits(self) -> list[Hit]:
        """Return each secret found where it must not be (invariant I1).

        Passwords are looked for in what the Tillies keep and write only: the
        server is sent one where it offers PLAIN alone.
        """
        passwords = Canaries(secrets=list(self.passwords.values()))
        return self.canaries.search(self.places()) + passwords.search(self.own_places())

    def report(self) -> dict[str, str]:
        """Return the ends of all logs by name, for failing tests."""
        programs = [*self.tillies, *self.gates]
        texts = {f"{one.folder.name} (Tillie)": one.errors for one in programs}
        for server in self.others.values() or [self.server]:
            texts[f"Prosody {' '.join(server.domains)}"] = server.log
        return {name: text[-4000:] for name, text in texts.items() if text}

    def close(self) -> None:
        """End every process and thread of the bed and remove its folder."""
        if self in OPEN:
            OPEN.remove(self)
        for raw in self._raw:
            raw.abort()
        for client in self._clients:
            client.stop()
        for tillie in self.tillies:
            tillie.kill()
        for gate in self.gates:
            gate.kill()
        for tap in self.taps:
            tap.stop()
        for server in self.others.values() or [self.server]:
            server.kill()
        if not os.environ.get("TILLIE_KEEP_BED"):
            shutil.rmtree(self.folder, ignore_errors=True)
