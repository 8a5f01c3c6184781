"""What ``tillie gate check`` was asked, and the places that it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConfigFault, EnvFault
from ..gate.outside import Finding
from ..net.dns import Candidate, Resolver, Role, a_label
from .addresses import Address, address_of, ip_of
from .serverlines import domain_of
from .sources import Origin, as_path

MOST_PLACES = 8
_FINGERPRINT = 32
USUAL_PORTS = (5222, 5223, 443, 5280, 5281, 5290, 5443)
"""Where servers take clients, directly or over HTTP, if nobody told them otherwise."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked.

    :param domain: prepared.
    :param server: in place of DNS for clients, *s2s* for servers.
    :param identity: certificate and key of another domain's server, PEM.
    :param server_key: fingerprint that the domain's key has to have.
    :param usual_ports: tried on each address beside the places themselves.
    :param web_port: where the domain's host-meta is.
    :param seconds: how long one answer may take.
    """

    domain: str
    server: Address | None = None
    s2s: Address | None = None
    ca: Path | None = None
    resolver: Address | None = None
    identity: tuple[Path, Path] | None = None
    server_key: bytes | None = None
    usual_ports: tuple[int, ...] = field(default=USUAL_PORTS)
    web_port: int = 443
    seconds: float = 10.0

    @property
    def name(self) -> str:
        """The domain as A-label."""
        return a_label(self.domain)


def asked_of(domain: str, options: Mapping[str, str | None]) -> Asked:
    """What the command line says.

    :raises ConfigFault: a value has another form.
    """
    given = {name: value for name, value in options.items() if value}

    def address(name: str) -> Address | None:
        origin = Origin(f"--{name}", "option")
        return address_of(given[name], origin) if name in given else None

    def path(name: str) -> Path | None:
        option = name.replace("_", "-")
        return as_path(given[name], Origin(option, "option")) if name in given else None

    certificate, key = path("s2s_cert"), path("s2s_key")
    if (certificate is None) != (key is None):
        raise ConfigFault("--s2s-cert and --s2s-key go together")
    resolver = address("resolver")
    if resolver is not None and ip_of(resolver.host) is None:
        raise ConfigFault(f'--resolver: "{resolver.host}" is no IP address')
    return Asked(
        domain=domain_of(domain),
        server=address("server"),
        s2s=address("s2s"),
        ca=path("ca"),
        resolver=resolver,
        identity=(certificate, key) if certificate and key else None,
        server_key=_fingerprint(given["server_key"]) if "server_key" in given else None,
    )


def _fingerprint(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != _FINGERPRINT:
        raise ConfigFault(
            f'--server-key: "{text[:80]}" is no fingerprint',
            hint="64 hexadecimal digits, as tillie doctor and this command print them",
        )
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """One address and port, and how TLS begins there."""

    host: str
    address: str
    port: int
    direct: bool

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        at = "" if self.host == self.address else f" ({self.address})"
        how = "direct TLS" if self.direct else "STARTTLS"
        return f"{host}:{self.port}{at} {how}"


async def places(
    asked: Asked, resolver: Resolver, role: Role
) -> tuple[list[Place], list[Finding]]:
    """Where the domain is served for *role*, each address by itself.

    What could not be resolved is a finding, and the rest goes on.
    """
    given = asked.server if role == "client" else asked.s2s
    if given is not None:
        candidates: Iterable[Candidate] = [Candidate(given.host, given.port, False)]
    else:
        try:
            candidates = await resolver.candidates(asked.name, asked.seconds, role)
        except EnvFault as fault:
            return [], [Finding("dns", asked.domain, False, fault.text, fault.hint)]
    found: dict[Place, None] = {}
    failed = []
    for one in candidates:
        try:
            addresses = await resolver.addresses(one.host, asked.seconds)
        except EnvFault as fault:
            where = f"{one.host}:{one.port}"
            failed.append(Finding("dns", where, False, fault.text, fault.hint))
            continue
        for address in addresses:
            found[Place(one.host, address, one.port, one.direct)] = None
    kept = list(found)[:MOST_PLACES]
    if len(found) > len(kept):
        text = f"{len(found) - len(kept)} more places were not looked at"
        failed.append(Finding("dns", asked.domain, None, text))
    return kept, failed


def day(seconds: float) -> str:
    """A Unix time as a date, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
