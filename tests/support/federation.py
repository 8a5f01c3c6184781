"""Servers that federate on loopback, configured by what `tillie gate config` prints."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from proxy.app import serverlines

from .certificates import Authority, Leaf
from .ejabberd import Ejabberd
from .names import Names
from .prosody import Prosody
from .raw import RawClient
from .waiting import free_ports


def printed(server: str, *domains: str) -> str:
    """What `tillie gate config` prints for a server, with ports that are free."""
    c2s, component = free_ports(2)
    joint = serverlines.Joint(
        domains=domains,
        secret=secrets.token_hex(16),
        c2s_port=c2s,
        component_port=component,
    )
    return serverlines.SERVERS[server](joint)


def directory(text: str, folder: Path) -> list[str]:
    """The arguments of `tillie gate run` for the component of what was printed."""
    ports = re.findall(r"component_ports = { (\d+) }|port: (\d+)", text)
    secret = re.findall(r'(?:component_secret = |password: )"(\w+)"', text)[0]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "component-secret"
    file.touch(mode=0o600)
    file.write_text(secret)
    port = "".join(ports[-1])
    where = f"127.0.0.1:{port}"
    return ["--component", where, "--component-secret-file", str(file)]


def names(domain: str) -> tuple[str, str]:
    """What the certificate of a domain behind a gate has to name."""
    return domain, f"keys.{domain}"


# A client's address, as the gate tells it (PROXY, version 1).
CLIENT_ADDRESS = "192.0.2.7"
_PROXY = f"PROXY TCP4 {CLIENT_ADDRESS} 127.0.0.1 40000 5222\r\n"


class Federation:
    """A server for each domain, and clients that are logged in on its c2s port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.names = Names()
        self.servers: dict[str, Prosody | Ejabberd] = {}
        self._clients: list[RawClient] = []

    def leaf(self, domain: str, *, clients: bool = False) -> Leaf:
        """A certificate as it has to be; most public authorities' are for servers."""
        label = f"good-{domain}"
        return self.authority.leaf(*names(domain), label=label, clients=clients)

    def prosody(
        self,
        domain: str,
        leaf: Leaf | None,
        *,
        behind_gate: bool = True,
        modules: Sequence[str] = (),
    ) -> Prosody:
        """Add a Prosody, by default with the printed lines."""
        server = self.servers[domain] = Prosody(
            self.folder / domain,
            leaf,
            (domain,),
            services=False,
            require_encryption=False,
            ca=self.authority.ca,
            peers={},
            modules=modules,
            behind_gate=printed("prosody", domain) if behind_gate else "",
        )
        return server

    def ejabberd(self, domain: str, leaf: Leaf) -> Ejabberd:
        """Add an ejabberd with the printed lines."""
        server = self.servers[domain] = Ejabberd(
            self.folder / domain,
            leaf,
            (domain,),
            ca=self.authority.ca,
            names=self.names.port,
            behind_gate=printed("ejabberd", domain),
        )
        return server

    def start(self) -> None:
        """Tell each where the others are, and start them."""
        for domain, server in self.servers.items():
            for name in names(domain):
                self.names.services(name, {"_xmpp-server": server.s2s_port})
        for domain, server in self.servers.items():
            if isinstance(server, Prosody):
                server.peers = {
                    name: one.s2s_port
                    for other, one in self.servers.items()
                    if other != domain
                    for name in names(other)
                }
            server.start()

    def login(self, jid: str) -> RawClient:
        """Make an account and log in where its gate would."""
        server = self.servers[jid.partition("@")[2]]
        password = secrets.token_hex(8)
        server.add_account(jid, password)
        client = RawClient(server.starttls_port, jid.partition("@")[2])
        self._clients.append(client)
        if isinstance(server, Ejabberd):
            client.send(_PROXY)
        return client.login(jid, password)

    def close(self) -> None:
        """End everything."""
        for client in self._clients:
            client.abort()
        for server in self.servers.values():
            server.kill()
        self.names.stop()
