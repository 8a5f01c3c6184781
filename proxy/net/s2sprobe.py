"""Whether the server of a domain shows a valid certificate to other servers (17.2).

Found out by connecting as a server does: DNS, STARTTLS or direct TLS, and the
checks of ``net.tls`` in the handshake (RFC 6120, 13.7.2).  No stanza is sent.
A domain has a key if one of its servers has: who connects takes that one.
Whoever asks for one domain waits for one probe.  ``tillie gate check`` looks at each
server with the same :func:`probe`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from cryptography import x509
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    TimeoutError,
    succeed,
)
from twisted.logger import Logger

from ..core.vocabulary import Ended, Send, StartTls, TlsFacts
from ..errors import EnvFault, Fault
from ..gate.between import HOLD_MS, Domains, Outcome
from ..gate.probeleg import ProbeLeg, ProbeOutput
from .connector import Attempt, Connector, Link
from .tls import CertificateFault

AT_ONCE: Final = 32
MOST_WAITING: Final = 1_000
_SECONDS: Final = HOLD_MS / 1000
EACH_SECONDS: Final = 4.0
"""For what one server says before and in TLS; the connector's too, or one that takes
a connection and says nothing would use up the time of those behind it."""
MOST_TRIES: Final = 6
_log = Logger()


class Prober:
    """Probes domains, each once at a time.

    :param connector: made for the role of a server, with :data:`EACH_SECONDS`.
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
        return Deferred.fromCoroutine(self._each(domain))

    async def _each(self, domain: str) -> Outcome:
        """One of its servers after the other, until one has a key."""
        attempt = self._connector.attempt(domain)
        failed: list[Unkeyed] = []
        with suppress(CancelledError):  # the time is over: what was found counts
            while len(failed) < MOST_TRIES:
                try:
                    await probe(self._reactor, attempt, self._own, domain)
                except Unkeyed as fault:
                    failed.append(fault)
                except CertificateFault as fault:
                    failed.append(Unkeyed(fault.text))
                    break
                except EnvFault as fault:
                    if not failed:
                        return Outcome(False, fault.text, reached=False)
                    break
                else:
                    return Outcome(keyed=True)
        if not failed:
            return Outcome(False, f"no answer in {_SECONDS:g} s", reached=False)
        text = "; ".join(dict.fromkeys(one.text for one in failed))
        return Outcome(False, text, any(one.reached for one in failed))


def _failed(failure: Any) -> Outcome:
    fault = failure.value
    if isinstance(fault, Fault):
        return Outcome(False, fault.text, reached=False)
    if not isinstance(fault, TimeoutError | CancelledError):
        _log.failure("a probe failed", failure)
    return Outcome(False, f"no answer in {_SECONDS:g} s", reached=False)


class Unkeyed(EnvFault):
    """A server was reached, and shows no valid certificate.

    :ivar reached: whether it said anything.
    """

    def __init__(self, text: str, *, hint: str = "", reached: bool = True) -> None:
        super().__init__(text, hint=hint)
        self.reached = reached


def probe(
    reactor: Any, attempt: Attempt, own: str, domain: str
) -> Deferred[x509.Certificate]:
    """The certificate that the next server of *domain* shows, verified.

    :param attempt: of a connector made for the role of a server.
    :param own: the domain in whose name is asked.
    :raises Unkeyed: (as errback) it shows none, or no good one.
    :raises EnvFault: (as errback) no further server could be reached;
        ``CertificateFault`` if a bad certificate was the reason.
    """
    return _Probe(reactor, own, domain).run(attempt)


class _Probe:
    """One probe: the owner of its link."""

    def __init__(self, reactor: Any, own: str, domain: str) -> None:
        self._reactor = reactor
        self._leg = ProbeLeg(own, domain)
        self._link: Link | None = None
        self._done: Deferred[x509.Certificate] = Deferred(self._cancel)
        self._dialling: Deferred[Link] | None = None
        self._late: Any = None

    def run(self, attempt: Attempt) -> Deferred[x509.Certificate]:
        self._done.addBoth(self._over)
        self._dialling = attempt.next(self)
        self._dialling.addErrback(self._unreached)
        return self._done

    def _cancel(self, done: Deferred[x509.Certificate]) -> None:
        # first, or the end of the link would be what the server did
        done.errback(CancelledError())
        self._drop()

    def _unreached(self, failure: Any) -> None:
        if not self._done.called:
            self._done.errback(failure)

    def _settle(self, outcome: x509.Certificate | Unkeyed) -> None:
        if not self._done.called:
            end = self._done.errback if isinstance(outcome, Unkeyed) else None
            (end or self._done.callback)(outcome)
        self._drop()

    def _over(self, result: Any) -> Any:
        if self._late is not None and self._late.active():
            self._late.cancel()
        return result

    def _drop(self) -> None:
        if self._link is not None:
            self._link.abort()
        elif self._dialling is not None and not self._dialling.called:
            self._dialling.cancel()

    def _too_late(self) -> None:
        text = f"no answer in {EACH_SECONDS:g} s"
        self._settle(Unkeyed(text, reached=False))

    def _shown(self) -> None:
        """The handshake is done, and ``net.tls`` found the certificate good."""
        assert self._link is not None
        shown = self._link.transport.getPeerCertificate()
        self._settle(shown.to_cryptography())

    # -- told by the link ---------------------------------------------------

    def link_up(self, link: Link) -> None:
        self._link = link
        if link.direct:
            self._shown()
        else:
            self._late = self._reactor.callLater(EACH_SECONDS, self._too_late)
            self._perform(self._leg.connected())

    def link_secure(self, facts: TlsFacts) -> None:
        self._shown()

    def link_data(self, data: bytes) -> None:
        self._perform(self._leg.data(data))

    def link_lost(self, fault: Fault | None) -> None:
        if fault is not None:
            self._settle(Unkeyed(fault.text, hint=fault.hint))
        else:
            self._settle(Unkeyed("closed the connection"))

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
                    self._settle(Unkeyed(fault.text if fault else ""))
