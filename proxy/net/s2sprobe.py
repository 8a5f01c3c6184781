"""Whether the server of a domain shows a valid certificate to other servers (17.2).

Found out by connecting as a server does: DNS, STARTTLS or direct TLS, and the
checks of ``net.tls`` in the handshake (RFC 6120, 13.7.2).  No stanza is sent.
Whoever asks for one domain waits for one probe.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import (
    Deferred,
    DeferredSemaphore,
    TimeoutError,
    succeed,
)
from twisted.logger import Logger

from ..core.vocabulary import Ended, Send, StartTls, TlsFacts
from ..errors import Fault
from ..gate.between import HOLD_MS, Domains, Outcome
from ..gate.probeleg import ProbeLeg, ProbeOutput
from .connector import Connector, Link
from .tls import CertificateFault

AT_ONCE: Final = 32
MOST_WAITING: Final = 1_000
_SECONDS: Final = HOLD_MS / 1000
_log = Logger()


class Prober:
    """Probes domains, each once at a time.

    :param connector: made for the role of a server.
    :param own: the domain in whose name is asked.
    """

    def __init__(
        self, reactor: Any, connector: Connector, own: str, domains: Domains
    ) -> None:
        self.domains = domains
        self._reactor = reactor
        self._connector = connector
        self._own = own
        self._free = DeferredSemaphore(AT_ONCE)
        self._running: dict[str, list[Deferred[Outcome]]] = {}

    def ask(self, domain: str) -> Deferred[Outcome]:
        """What is known, or what a probe says within 10 s; never fails."""
        known = self.domains.known(domain)
        if known is not None:
            return succeed(known)
        answer: Deferred[Outcome] = Deferred()
        if domain in self._running:
            self._running[domain].append(answer)
            return answer
        if len(self._running) >= MOST_WAITING:
            return succeed(Outcome(False, "too many domains are being asked", False))
        self._running[domain] = [answer]
        probing = self._free.run(self._probe, domain)
        probing.addTimeout(_SECONDS, self._reactor)
        probing.addErrback(_failed)
        probing.addCallback(self._found, domain)
        return answer

    def _found(self, outcome: Outcome, domain: str) -> None:
        self.domains.learn(domain, outcome)
        if not outcome.keyed:
            _log.info("{domain}: {text}", domain=domain, text=outcome.text)
        for waiting in self._running.pop(domain):
            waiting.callback(outcome)

    def _probe(self, domain: str) -> Deferred[Outcome]:
        return _Probe(self._connector, self._own, domain).run()


def _failed(failure: Any) -> Outcome:
    fault = failure.value
    if isinstance(fault, CertificateFault):
        return Outcome(False, fault.text)
    if isinstance(fault, Fault):
        return Outcome(False, fault.text, reached=False)
    if not isinstance(fault, TimeoutError):
        _log.failure("a probe failed", failure)
    return Outcome(False, f"no answer in {_SECONDS:g} s", reached=False)


class _Probe:
    """One probe: the owner of its link."""

    def __init__(self, connector: Connector, own: str, domain: str) -> None:
        self._connector = connector
        self._domain = domain
        self._leg = ProbeLeg(own, domain)
        self._link: Link | None = None
        self._done: Deferred[Outcome] = Deferred(lambda _: self._drop())
        self._dialling: Deferred[Link] | None = None

    def run(self) -> Deferred[Outcome]:
        self._dialling = self._connector.connect(self._domain, self)
        self._dialling.addErrback(self._unreached)
        return self._done

    def _unreached(self, failure: Any) -> None:
        if not self._done.called:
            self._done.errback(failure)

    def _settle(self, outcome: Outcome) -> None:
        if not self._done.called:
            self._done.callback(outcome)
        self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.abort()
        elif self._dialling is not None and not self._dialling.called:
            self._dialling.cancel()

    # -- told by the link ---------------------------------------------------

    def link_up(self, link: Link) -> None:
        self._link = link
        if link.direct:
            self._settle(Outcome(keyed=True))
        else:
            self._perform(self._leg.connected())

    def link_secure(self, facts: TlsFacts) -> None:
        self._settle(Outcome(keyed=True))

    def link_data(self, data: bytes) -> None:
        self._perform(self._leg.data(data))

    def link_lost(self, fault: Fault | None) -> None:
        text = fault.text if fault is not None else "closed the connection"
        self._settle(Outcome(False, text))

    def link_pause(self) -> None:
        """Nothing is sent that could have to wait."""

    def link_resume(self) -> None:
        """Nothing waited."""

    def _perform(self, outputs: list[ProbeOutput]) -> None:
        for output in outputs:
            match output:
                case Send(data=data):
                    if self._link is not None:
                        self._link.write(data)
                case StartTls():
                    if self._link is not None:
                        self._link.start_tls()
                case Ended(fault=fault):
                    self._settle(Outcome(False, fault.text if fault else ""))
