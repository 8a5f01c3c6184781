"""Where the server of a domain listens: SRV records, then addresses.

``Resolver`` asks (twisted.names for SRV; for addresses the system, or the one
name server that was given); what the answers mean is decided by the pure
functions below it.  DNS is not trusted here: a wrong answer costs a failed
connection, since the certificate is checked against the account's domain and
never against a name that DNS gave.

Not here: connecting (``connector``), and any notion of what a server is for.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import idna
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.threads import deferToThreadPool
from twisted.names import client, dns
from twisted.python.failure import Failure

from ..errors import EnvFault

Role: TypeAlias = Literal["client", "server"]
"""For whom a service is there: ``_xmpp-client`` or ``_xmpp-server``."""
PORT: Final[dict[Role, int]] = {"client": 5222, "server": 5269}
DIRECT_PORT: Final[dict[Role, int]] = {"client": 5223, "server": 5270}
MAX_RECORDS: Final = 32
MAX_ADDRESSES: Final = 8
_MAX_ALIASES: Final = 8
_MAX_NAMESERVERS: Final = 3  # as the C library
_RESENDS: Final = (1, 2, 4)
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Service:
    """One usable SRV record; *direct* if it stood under ``_xmpps-…``."""

    priority: int
    weight: int
    target: str
    port: int
    direct: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place to try; *direct* means TLS from the first byte (XEP-0368)."""

    host: str
    port: int
    direct: bool


def a_label(domain: str) -> str:
    """The domain in lower case ASCII, as DNS, SNI and certificates have it.

    :raises EnvFault: it cannot be a domain name; condition ``host-unknown``.
    """
    name = domain.removesuffix(".")
    try:
        name = name.lower() if name.isascii() else idna.encode(name).decode()
    except (idna.IDNAError, UnicodeError):
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise EnvFault(
            f"{domain[:80]!r} is not a domain name",
            condition="host-unknown",
            hint="Check the part of the account's address behind the @.",
        )
    return name


def ip_literal(host: str) -> str | None:
    """The canonical form of an IP address, None for everything else."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return None


def arrange(services: Iterable[Service], draw: Callable[[int], int]) -> list[Candidate]:
    """Put records of both services in the order to try them (RFC 2782, XEP-0368, 5).

    Lower priority first; among equals a record is drawn with a chance that
    goes by its weight.  At most ``MAX_RECORDS`` are returned.

    :param draw: returns an integer in 0..n, both included, uniformly.
    """
    ranked = sorted(services, key=lambda service: service.priority)[:MAX_RECORDS]
    order: list[Candidate] = []
    while ranked:
        group = [s for s in ranked if s.priority == ranked[0].priority]
        chosen = _draw_by_weight(group, draw)
        ranked.remove(chosen)
        order.append(Candidate(chosen.target, chosen.port, chosen.direct))
    return order


def _draw_by_weight(group: list[Service], draw: Callable[[int], int]) -> Service:
    # RFC 2782 puts weight 0 first, so that it keeps its very small chance.
    group = sorted(group, key=lambda service: service.weight > 0)
    goal = draw(sum(service.weight for service in group))
    for service in group:
        goal -= service.weight
        if goal <= 0:
            return service
    return group[-1]


class Resolver:
    """Asks DNS, in bounded time.

    :param nameserver: (address, port) of the one server to ask; None means
        those of ``/etc/resolv.conf``, and the system's look-up for addresses.
    """

    def __init__(self, reactor: Any, nameserver: tuple[str, int] | None = None) -> None:
        self._reactor = reactor
        self._nameserver = nameserver

    async def candidates(
        self, name: str, within: float, role: Role = "client"
    ) -> list[Candidate]:
        """The places where *name* (an A-label) is served, in the order to try.

        Without SRV records that is the domain itself on port 5222, for servers
        5269 (RFC 6120, 3.2.2); the same if nobody answers in *within* seconds.

        :raises EnvFault: the domain says that it has no such service.
        """
        queries = {
            direct: f"{service}._tcp.{name}"
            for service, direct in ((f"_xmpps-{role}", True), (f"_xmpp-{role}", False))
        }
        asking = [self._ask(query, dns.SRV, within) for query in queries.values()]
        services: list[Service] = []
        declined = False
        for (direct, query), waiting in zip(queries.items(), asking, strict=True):
            records = _srv(await waiting, query, direct)
            services += [record for record in records if record.target]
            if not direct:
                declined = any(not record.target for record in records)
        if not services and declined:
            raise EnvFault(
                f"{name} says in DNS that it has no XMPP service",
                condition="remote-server-not-found",
                hint="Check the part of the account's address behind the @.",
            )
        return arrange(services, _draw) or [Candidate(name, PORT[role], False)]

    async def addresses(self, host: str, within: float) -> list[str]:
        """IPv6 and IPv4 addresses of *host*, at most ``MAX_ADDRESSES``.

        :raises EnvFault: there is none, or nobody answered in time.
        """
        literal = ip_literal(host)
        if literal is not None:
            return [literal]
        if self._nameserver is None:
            found = await self._ask_system(host, within)
        elif host == "localhost":
            found = ["::1", "127.0.0.1"]  # RFC 6761, 6.3: never asked of a server
        else:
            asking = [self._ask(host, t, within) for t in (dns.AAAA, dns.A)]
            found = _alternate([_address(await each, host) for each in asking])
        if not found:
            raise EnvFault(f"{host} has no address in DNS")
        return found[:MAX_ADDRESSES]

    def _ask(self, name: str, kind: int, within: float) -> Deferred[Any]:
        """Fire with the answer section, [] if there is nothing; only ever cancelled."""
        question = _Question(self._reactor, self._servers())
        asking = question.ask(name, kind)
        asking.addTimeout(within, self._reactor)
        asking.addBoth(question.close)
        return asking

    async def _ask_system(self, host: str, within: float) -> list[str]:
        asking = deferToThreadPool(
            self._reactor,
            self._reactor.getThreadPool(),
            socket.getaddrinfo,
            host,
            None,
            type=socket.SOCK_STREAM,
        )
        try:
            answers = await asking.addTimeout(within, self._reactor)
        except TimeoutError:
            raise EnvFault(
                f"the address of {host} could not be looked up in {within:.0f} s"
            ) from None
        except (OSError, UnicodeError):
            return []
        return list(dict.fromkeys(str(answer[4][0]) for answer in answers))

    def _servers(self) -> list[tuple[str, int]]:
        if self._nameserver is not None:
            return [self._nameserver]
        return nameservers(_RESOLV_CONF)


def nameservers(path: Path) -> list[tuple[str, int]]:
    """The servers that a file in the form of ``resolv.conf(5)`` names."""
    found = []
    # Read at each look-up: the file changes when the machine changes networks.
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver" and ip_literal(words[1]):
                found.append((words[1], dns.PORT))
    return found[:_MAX_NAMESERVERS] or [("127.0.0.1", dns.PORT)]


class _Question(client.Resolver):  # type: ignore[misc] # Twisted has no types here
    """A resolver for one question: nothing of it is left behind afterwards."""

    _over = False

    def __init__(self, reactor: Any, servers: list[tuple[str, int]]) -> None:
        super().__init__(servers=servers, timeout=_RESENDS, reactor=reactor)

    def ask(self, name: str, kind: int) -> Deferred[Any]:
        return self.query(dns.Query(name.encode("ascii"), kind, dns.IN))

    def connectionMade(self, protocol: Any) -> None:
        if self._over:
            protocol.transport.abortConnection()
        else:
            super().connectionMade(protocol)

    def close(self, result: Any) -> Any:
        self._over = True
        for protocol in list(self.connections):
            protocol.transport.abortConnection()
        if not isinstance(result, Failure):
            return result[0]
        if result.check(CancelledError):
            return result
        # NXDOMAIN, refusals, time-outs and nonsense all come to this: no records.
        return []


def _draw(highest: int) -> int:
    return secrets.randbelow(highest + 1)


def _named(answers: Sequence[Any], name: str, kind: int) -> list[Any]:
    """The payloads of type *kind* for *name*, or for what it is an alias of."""
    wanted = name.encode("ascii").lower()
    aliases = {
        header.name.name.lower(): header.payload.name.name.lower()
        for header in answers
        if header.type == dns.CNAME and header.cls == dns.IN
    }
    for _ in range(_MAX_ALIASES):
        wanted = aliases.get(wanted, wanted)
    return [
        header.payload
        for header in answers
        if header.type == kind
        and header.cls == dns.IN
        and header.name.name.lower() == wanted
    ]


def _srv(answers: Sequence[Any], name: str, direct: bool) -> list[Service]:
    """SRV records as ``Service``; the target "." becomes an empty string."""
    services = []
    for record in _named(answers, name, dns.SRV):
        target = _target(record.target.name)
        if target is not None and (not target or record.port):
            services.append(
                Service(record.priority, record.weight, target, record.port, direct)
            )
    return services


def _target(raw: bytes) -> str | None:
    if raw in (b"", b"."):
        return ""
    try:
        return a_label(raw.decode("ascii"))
    except (UnicodeDecodeError, EnvFault):
        return None


def _address(answers: Sequence[Any], name: str) -> list[str]:
    found = [
        socket.inet_ntop(family, record.address)
        for kind, family in ((dns.AAAA, socket.AF_INET6), (dns.A, socket.AF_INET))
        for record in _named(answers, name, kind)
    ]
    return list(dict.fromkeys(found))


def _alternate(lists: list[list[str]]) -> list[str]:
    # RFC 8305, 4: a family that does not work costs one attempt, not eight.
    longest = max(map(len, lists))
    return [each[i] for i in range(longest) for each in lists if i < len(each)]
