"""Finding out about other domains for the gate's streams: probes and inquiries."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed

from ..gate.between import Domains, Outcome
from ..gate.disclosure import DirectoryState
from ..gate.inquiry import Finding, Proof
from .component import Component
from .s2sprobe import Prober

_NO_DIRECTORY = Finding(
    Proof.OPEN, "this gate has no directory component to ask other domains with"
)


class Borders:
    """What a gate asks beyond its own domains.

    :param prober: None where other domains are not probed.
    :ivar components: of each domain that has a directory.
    """

    def __init__(self, reactor: Any, prober: Prober | None = None) -> None:
        self._prober = prober
        self._reactor = reactor
        self.components: dict[str, Component] = {}

    @property
    def domains(self) -> Domains | None:
        return self._prober.domains if self._prober is not None else None

    def start(self) -> None:
        """Connect the directories."""
        for component in self.components.values():
            component.start()

    def stop(self) -> Deferred[None]:
        """End the directories' streams; fires when they are gone."""
        gone = gatherResults([one.stop() for one in self.components.values()])
        gone.addCallback(lambda _: None)
        return gone

    def probe(self, domain: str) -> Deferred[Outcome]:
        """Whether *domain* has a key between servers; never fails."""
        if self._prober is None:
            return succeed(Outcome(keyed=True))
        return self._prober.ask(domain)

    def inquire(self, domain: str, account: str) -> Deferred[Finding]:
        """Whether *account* has a key, asked by the directory of *domain*."""
        component = self.components.get(domain)
        if component is None:
            return succeed(_NO_DIRECTORY)
        return component.inquire(account)

    def directory(self, domain: str) -> Deferred[DirectoryState]:
        """Whether the directory of *domain* can be asked; never fails."""
        component = self.components.get(domain)
        if component is None:
            none: DirectoryState = "none"
            return succeed(none)
        return component.heard()
