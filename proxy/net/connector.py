"""From an account's domain to a link with its server.

Candidates come from ``--server`` or from DNS and are tried in order; of one
host's addresses a second is started when the first takes its time (RFC 8305).
Whatever fails is written down, so that the one fault at the end names it all.
A candidate with STARTTLS counts as reached when TCP is up: what comes of its
TLS is told to the owner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import ClientFactory

from ..errors import ConfigFault, EnvFault
from .dns import DIRECT_PORT, PORT, Candidate, Role, a_label, ip_literal
from .link import Link, LinkOwner, TlsMode
from .tls import CertificateFault, ClientTls, client_context

__all__ = ["Connector", "Link", "LinkOwner", "TlsMode", "check_overrides"]

_DNS_SECONDS: Final = 10.0
_DNS_STEP_SECONDS: Final = 5.0
_STAGGER_SECONDS: Final = 0.25
_NAMED: Final = 8

T = TypeVar("T")


class Places(Protocol):
    """What is asked of ``dns.Resolver``."""

    async def candidates(
        self, name: str, within: float, role: Role = "client"
    ) -> list[Candidate]: ...

    async def addresses(self, host: str, within: float) -> list[str]:
        """At least one, or an EnvFault."""
        ...


def check_overrides(
    servers: Mapping[str, tuple[str, int]], tls: Mapping[str, TlsMode]
) -> None:
    """Refuse TLS turned off towards anything but this machine.

    :raises ConfigFault: names the option.
    """
    named = {a_label(domain): server for domain, server in servers.items()}
    for domain, mode in tls.items():
        host, _ = named.get(a_label(domain), ("", 0))
        if mode == "off" and not _is_loopback(host):
            raise ConfigFault(
                f"--tls {domain}=off is only for a server on this machine",
                hint=f"Add --server {domain}=127.0.0.1:PORT, or leave TLS on.",
            )


class Connector:
    """Makes links; one for the whole process.

    :param servers: domain to (host, port), in place of DNS.
    :param tls: domain to mode, in place of what DNS or the default says.
    :param trust_anchors: PEM file of authorities beside the system's.
    :param timeout: seconds for TCP and for the TLS handshake each; three times
        as much for everything that ``connect`` does.
    :param role: as whom we come, which decides on records, ports and names.
    :param context: made by ``client_context`` and changed since, in place of a
        new one; *trust_anchors* are not looked at then.
    :raises ConfigFault: see ``check_overrides``; a domain or file is no good.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: Places,
        *,
        servers: Mapping[str, tuple[str, int]],
        tls: Mapping[str, TlsMode],
        trust_anchors: Path | None = None,
        timeout: float = 10.0,
        role: Role = "client",
        context: SSL.Context | None = None,
    ) -> None:
        check_overrides(servers, tls)
        self._reactor = reactor
        self._resolver = resolver
        self._servers = {a_label(domain): server for domain, server in servers.items()}
        self._modes = {a_label(domain): mode for domain, mode in tls.items()}
        # Reading the system's authorities takes 10 ms, which start-up need not
        # wait for; a file that a person named is looked at at once.
        self._context = context
        if context is None and trust_anchors is not None:
            self._context = client_context(trust_anchors)
        self._timeout = timeout
        self._role = role

    def mode(self, domain: str) -> TlsMode | None:
        """How TLS comes about for *domain*; None where DNS decides."""
        name = a_label(domain)
        return self._modes.get(name, "starttls" if name in self._servers else None)

    def connect(self, domain: str, owner: LinkOwner) -> Deferred[Link]:
        """Reach the server of *domain*; ``owner.link_up`` is called, then it fires.

        :raises EnvFault: (as errback) nothing could be reached; the text names
            everything that was tried.  ``CertificateFault`` if a certificate
            was the reason at least once.
        """
        return self.attempt(domain).next(owner)

    def attempt(self, domain: str) -> Attempt:
        """To go through the domain's servers one after the other."""
        return Attempt(self, self._reactor, domain, 3 * self._timeout)

    # -- what an attempt asks

    async def candidates(self, name: str, within: float) -> list[Candidate]:
        mode = self.mode(name)
        if name in self._servers:
            host, port = self._servers[name]
            return [Candidate(host, port, mode == "direct")]
        found = await self._resolver.candidates(name, within, self._role)
        if mode is None:
            return found
        direct = mode == "direct"
        fitting = [each for each in found if each.direct == direct]
        port = (DIRECT_PORT if direct else PORT)[self._role]
        return fitting or [Candidate(name, port, direct)]

    async def addresses(self, name: str, host: str, within: float) -> list[str]:
        found = await self._resolver.addresses(host, within)
        if self.mode(name) != "off":
            return found
        loopback = [address for address in found if _is_loopback(address)]
        if not loopback:
            raise EnvFault(f"{host} is not this machine, and TLS is off for {name}")
        return loopback

    def dial(self, name: str, candidate: Candidate, address: str) -> Deferred[Link]:
        """Open TCP to one address of *candidate*; cancelling gives it up."""
        mode = self.mode(name)
        link = Link(
            self._reactor,
            lambda: self._tls(name, candidate),
            peer=_peer(candidate),
            mode=mode or ("direct" if candidate.direct else "starttls"),
            timeout=self._timeout,
        )
        dialled: Deferred[Link] = Deferred(lambda _: tcp.disconnect())
        tcp: Any = self._reactor.connectTCP(
            address, candidate.port, _Dial(link, dialled), self._timeout
        )
        return dialled

    def _tls(self, name: str, candidate: Candidate) -> ClientTls:
        if self._context is None:
            self._context = client_context()
        peer = _peer(candidate)
        return ClientTls(
            self._context, name, peer, direct=candidate.direct, role=self._role
        )


class Attempt:
    """The servers of one domain: each call of ``next`` reaches another one.

    :param seconds: for one call.
    """

    def __init__(
        self, connector: Connector, reactor: Any, domain: str, seconds: float
    ) -> None:
        self._connector = connector
        self._reactor = reactor
        self._domain = domain
        self._seconds = seconds
        self._dns_left = _DNS_SECONDS
        self._failed: list[EnvFault] = []
        self._left: list[Candidate] | None = None
        self._reached: set[tuple[str, int]] = set()

    def next(self, owner: LinkOwner) -> Deferred[Link]:
        """As :meth:`Connector.connect`; what was reached before is left out."""
        connecting = Deferred.fromCoroutine(self._run(owner))
        connecting.addTimeout(self._seconds, self._reactor, self._timed_out)
        return connecting

    async def _run(self, owner: LinkOwner) -> Link:
        name = a_label(self._domain)
        if self._left is None:
            found = await self._ask(
                lambda within: self._connector.candidates(name, within)
            )
            self._left = list(found)
        while self._left:
            candidate, before = self._left[0], len(self._reached)
            try:
                link = await self._reach(name, candidate)
            except EnvFault as fault:
                self._failed.append(fault)
                if len(self._reached) > before:
                    # TLS failed there: its other addresses may be other servers
                    continue
            else:
                if link is not None:
                    return self._hand_over(link, owner)
            del self._left[0]
        raise self._nothing()

    async def _reach(self, name: str, candidate: Candidate) -> Link | None:
        """One of its addresses; None if all were reached before."""
        known = await self._ask(
            lambda within: self._connector.addresses(name, candidate.host, within)
        )
        addresses = [one for one in known if (one, candidate.port) not in self._reached]
        if known and not addresses:
            return None

        def unreachable(errors: list[BaseException]) -> EnvFault:
            words = dict.fromkeys(_in_words(each) for each in errors)
            why = " or ".join(words) or "has no address"
            return EnvFault(f"{_peer(candidate)} {why}")

        race = _Race(
            self._reactor,
            addresses,
            lambda address: self._connector.dial(name, candidate, address),
            unreachable,
        )
        race.start_one()
        try:
            link: Link = await race.won
        finally:
            race.over()
        there = link.transport.getPeer()
        self._reached.add((there.host, there.port))
        await link.ready()
        return link

    async def _ask(self, question: Callable[[float], Awaitable[T]]) -> T:
        asked_at = self._reactor.seconds()
        try:
            return await question(min(_DNS_STEP_SECONDS, self._dns_left))
        finally:
            spent = self._reactor.seconds() - asked_at
            self._dns_left = max(0.0, self._dns_left - spent)

    def _hand_over(self, link: Link, owner: LinkOwner) -> Link:
        try:
            link.attach(owner)
        except Exception:
            link.abort()
            raise
        return link

    def _timed_out(self, result: Any, seconds: float) -> Any:
        if not result.check(CancelledError):
            return result
        self._failed.append(EnvFault(f"it took longer than {seconds:g} s"))
        raise self._nothing()

    def _nothing(self) -> EnvFault:
        if not self._failed:
            return EnvFault(f"{self._domain} has no other server")
        texts = list(dict.fromkeys(fault.text for fault in self._failed))
        if len(texts) > _NAMED:
            texts[_NAMED:] = [f"{len(texts) - _NAMED} more failed too"]
        kinds = [each for each in self._failed if isinstance(each, CertificateFault)]
        kind = CertificateFault if kinds else EnvFault
        return kind(
            f"no server for {self._domain} could be reached: {'; '.join(texts)}",
            hint=(kinds or self._failed)[0].hint,
        )


class _Dial(ClientFactory):  # type: ignore[misc] # Twisted has no types here
    """One TCP connection; *dialled* fires with the link when it is there."""

    noisy = False

    def __init__(self, link: Link, dialled: Deferred[Link]) -> None:
        self._dialled = dialled
        self._link: Link | None = link
        link.connected_to.chainDeferred(dialled)

    def buildProtocol(self, addr: object) -> Link | None:
        link, self._link = self._link, None
        return link

    def clientConnectionFailed(self, connector: object, reason: Any) -> None:
        if not self._dialled.called:
            self._dialled.errback(reason)


class _Race:
    """Dials the addresses, each a little after the last; the first to answer wins.

    ``won`` fails with an EnvFault that says why nobody answered.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: list[str],
        dial: Callable[[str], Deferred[Link]],
        failed: Callable[[list[BaseException]], EnvFault],
    ) -> None:
        self.won: Deferred[Link] = Deferred()
        self._reactor = reactor
        self._waiting = list(addresses)
        self._dial = dial
        self._explain = failed
        self._running: list[Deferred[Link]] = []
        self._errors: list[BaseException] = []
        self._next: Any = None
        self._over = not addresses
        if self._over:
            self.won.errback(failed([]))

    def start_one(self) -> None:
        if self._over or not self._waiting:
            return
        self._stop_timer()
        self._next = self._reactor.callLater(_STAGGER_SECONDS, self.start_one)
        dialled = self._dial(self._waiting.pop(0))
        self._running.append(dialled)
        dialled.addCallbacks(
            self._answered, self._silent, (dialled,), None, (dialled,), None
        )

    def over(self) -> None:
        """Give up whatever still runs."""
        self._over = True
        self._stop_timer()
        for dialled in self._running[:]:
            dialled.cancel()

    def _answered(self, link: Link, dialled: Deferred[Link]) -> None:
        self._running.remove(dialled)
        self.won.callback(link)

    def _silent(self, reason: Any, dialled: Deferred[Link]) -> None:
        self._running.remove(dialled)
        self._errors.append(reason.value)
        self.start_one()
        if not self._running and not self._over:
            self.won.errback(self._explain(self._errors))

    def _stop_timer(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()


def _is_loopback(host: str) -> bool:
    literal = ip_literal(host)
    if literal is None:
        return host.lower() == "localhost"
    return ip_address(literal).is_loopback


def _peer(candidate: Candidate) -> str:
    host = f"[{candidate.host}]" if ":" in candidate.host else candidate.host
    return f"{host}:{candidate.port}"


def _in_words(reason: BaseException) -> str:
    if isinstance(reason, error.ConnectionRefusedError):
        return "refused the connection"
    if isinstance(reason, error.TimeoutError):
        return "did not answer in time"
    if isinstance(reason, error.NoRouteError):
        return "cannot be reached from this network"
    return "could not be reached"
