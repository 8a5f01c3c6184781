"""The gate's sockets: what happens on them becomes calls, what follows is done.

No decision about XMPP is made here.  One ``Client`` is one connection of a client
with its ``gate.stream.Stream`` and, once that asks for it, its ``Backend``.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from ..gate.enforce import Enforcement, Terms
from ..gate.limits import Arrivals, Crowd
from ..gate.line import World
from ..gate.policy import Network, Policies, within
from ..gate.questions import Answer, Changed, Changes
from .borders import Borders
from .gateclient import Client
from .gatetls import GateCertificates
from .proxyheader import Ends, Version
from .registry import RegistryWorker
from .signer import Signer

TICK: Final = 0.5
CHANGES_EVERY: Final = 4
"""Ticks between two looks at what other gates changed."""
REST_EVERY: Final = 20
"""Ticks after which a quiet stream counts as quiet."""
CHANGES_BACK_MS: Final = 60_000
"""Clocks of gates and commits that take their time: looks overlap by that."""
HYSTERESIS: Final = 0.95


@dataclass(frozen=True, slots=True)
class Settings:
    """What a reload can change.

    :param domains: prepared, in the order they were given.
    :param backends: where the server of each is.
    :param proxy_out: the PROXY header that servers get, None for none.
    :param proxy_in: networks whose connections begin with one.
    :param enforcement: what may be said in clear (17.1).
    :param strangers: connections that may stand at the door, in all.
    :param strangers_each: and of one address.
    """

    domains: tuple[str, ...]
    backends: Mapping[str, Ends]
    policies: Policies
    enforcement: Enforcement = field(default_factory=Enforcement)
    proxy_out: Version | None = None
    proxy_in: tuple[Network, ...] = ()
    strangers: int = 8_192
    strangers_each: int = 4_096


class Gate:
    """All connections of one gate.

    :param count: is told what happened, for the metrics.
    :param borders: finds out about other domains; None where nothing asks for it.

    :ivar ports: the listening ports.
    :ivar capacity: connections for which there are file descriptors.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        certificates: GateCertificates,
        worker: RegistryWorker,
        signer: Signer,
        count: Callable[[str], None],
        borders: Borders | None = None,
    ) -> None:
        self.reactor = reactor
        self.settings = settings
        self.certificates = certificates
        self.worker = worker
        self.signer = signer
        self.count = count
        self.monotonic: Callable[[], float] = time.monotonic
        self.borders = borders or Borders(reactor)
        self.world = World(settings.domains, settings.policies, now, _stream_id)
        self.world.terms = Terms(settings.enforcement, self.borders.domains)
        self.crowd = Crowd(settings.strangers, settings.strangers_each)
        self.arrivals = Arrivals(settings.strangers_each)
        self.clients: set[Client] = set()
        self.hurried: set[Client] = set()
        self.by_account: defaultdict[str, set[Client]] = defaultdict(set)
        self.ports: list[Any] = []
        self.capacity = sys.maxsize
        self._accepting = True
        self._ticking: Any = None
        self._ticks = 0
        self._asked = 0
        self._looked = now()
        self._looking = False

    @property
    def streams(self) -> int:
        """Streams whose account the server has named."""
        return sum(map(len, self.by_account.values()))

    def factory(self, *, direct: bool) -> Factory:
        """For a listener; *direct* where clients begin with TLS."""
        return _ClientFactory(self, direct=direct)

    def start(self) -> None:
        self._tick()

    def arrives(self, address: str) -> bool:
        """Whether another connection of *address* is looked at."""
        if self.arrivals.enter(address, now()):
            return True
        self.count("crowded")
        return False

    def reload(self, settings: Settings, certificates: GateCertificates) -> None:
        """For connections that come from now on, and for what those that are there
        do next; nobody is dropped."""
        self.settings = settings
        self.certificates = certificates
        self.world.domains = settings.domains
        self.world.policies = settings.policies
        self.world.terms.enforcement = settings.enforcement
        if self.borders.domains is not None:
            self.borders.domains.own = settings.domains
        self.crowd.total = settings.strangers
        self.crowd.each = settings.strangers_each
        self.arrivals.allow(settings.strangers_each)

    def stop(self) -> Deferred[None]:
        """Tell every client, close everything; fires when all have gone."""
        if self._ticking is not None:
            self._ticking.cancel()
        for client in list(self.clients):
            client.run(client.stream.stop)
        done: Deferred[None] = Deferred()
        self._until_gone(done, 10)
        return done

    def _until_gone(self, done: Deferred[None], tries: int) -> None:
        if tries and self.clients:
            self.reactor.callLater(0.1, self._until_gone, done, tries - 1)
            return
        for client in list(self.clients):
            client.abort()
        done.callback(None)

    def _tick(self) -> None:
        self._ticking = self.reactor.callLater(TICK, self._tick)
        self._ticks += 1
        for client in list(self.hurried):
            client.tick()
        if self._ticks % REST_EVERY == 0:
            for client in self.clients:
                client.stream.rest()
        if self._ticks % CHANGES_EVERY == 0 and not self._looking:
            self._looking = True
            since, self._asked = self._looked - CHANGES_BACK_MS, now()
            self.worker.ask(Changes(since)).addCallback(self._changed)

    def _changed(self, answer: Answer) -> None:
        """Devices that any gate took out of use: their streams end here too."""
        self._looking = False
        if not isinstance(answer, Changed):
            return
        self._looked = self._asked
        for account, devices in answer.accounts:
            for client in list(self.by_account.get(account, ())):
                stream = client.stream
                client.run(partial(stream.keep_only, devices))

    def steer_ports(self) -> None:
        """Accept only while there are file descriptors for it (RES-04).

        Who is not accepted waits in the kernel's queue.
        """
        full = len(self.clients) >= self.capacity
        free = len(self.clients) < self.capacity * HYSTERESIS
        if self._accepting and full:
            self._accepting = False
            for port in self.ports:
                port.stopReading()
        elif not self._accepting and free:
            self._accepting = True
            for port in self.ports:
                port.startReading()

    def revoke(self, account: str, devices: tuple[bytes, ...]) -> None:
        """These devices of *account* are not in use any more."""
        for client in list(self.by_account.get(account, ())):
            stream = client.stream
            client.run(partial(stream.revoke, devices))


def now() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _stream_id() -> str:
    return secrets.token_hex(16)


class _ClientFactory(Factory):  # type: ignore[misc] # Twisted has no types here
    noisy = False

    def __init__(self, gate: Gate, *, direct: bool) -> None:
        self._gate = gate
        self._direct = direct

    def buildProtocol(self, addr: Any) -> Client | None:
        gate, direct = self._gate, self._direct
        networks = gate.settings.proxy_in
        if networks and within(addr.host, networks):
            return Client(gate, addr.host, addr.port, direct, proxied=True)
        # before anything is made for it; Twisted closes what gets no protocol
        if not gate.arrives(addr.host):
            return None
        return Client(gate, addr.host, addr.port, direct, proxied=False)
