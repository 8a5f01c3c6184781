"""The running gate: assemble, listen, serve, reload, stop."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from ..errors import Fault
from ..gate.questions import Changes, Unavailable
from ..net.gate import Gate, Settings, now
from ..net.gatetls import Endings, Files, GateCertificates
from ..net.publisher import GateSigner
from ..net.registry import RegistryWorker
from ..net.signer import Signer
from .addresses import Listener
from .gatebeyond import borders
from .gateconfig import GateConfig
from .log import say
from .log import start as start_log
from .service import listen, on_signals
from .statefolder import own_folder

if TYPE_CHECKING:
    from ..net.metrics import Metrics

_RESERVED = 64
"""File descriptors that are not for clients: the registry, logs, listeners."""


def run(config: GateConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    :raises Fault: it could not start.
    """
    from twisted.internet import reactor

    from ..keys import databases, serverfiles

    own_folder(config.state)
    url = config.store or databases.default_url(config.state)
    databases.first_start(
        url, [serverfiles.key_path(config.state, one) for one in config.domains]
    )
    # what is wrong with it is said here, before anybody is served
    databases.open_registry(url).close()
    worker = RegistryWorker(reactor, partial(databases.open_registry, url))
    directories = config.beyond.directories(config.domains)
    signer = GateSigner(reactor, config.state, directories, worker)
    service = GateService(config, worker, signer, reactor)
    return _serve(service, worker, signer, reactor)


def _serve(
    service: GateService, worker: RegistryWorker, signer: GateSigner, reactor: Any
) -> int:
    faults: list[BaseException] = []

    async def begin() -> None:
        await signer.start()
        service.start()

    def failed(failure: Failure) -> None:
        faults.append(failure.value)
        reactor.stop()

    worker.start()
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(begin()).addErrback(failed))
    # a stream that ends may still need a signature: this goes last
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(signer.stop())
    )
    # Twisted's handlers, of which SIGCHLD is needed: without it nobody is told that
    # the signing process has ended.  GateService.start puts its own over the rest.
    reactor.run(installSignalHandlers=True)
    if faults:
        raise faults[0]
    return 0


class GateService:
    """One gate."""

    def __init__(
        self, config: GateConfig, worker: RegistryWorker, signer: Signer, reactor: Any
    ) -> None:
        self.config = config
        self._reactor = reactor
        self._worker = worker
        self._signer = signer
        certificates = _certificates(config)
        self._borders = borders(reactor, config.domains, config.beyond, worker, signer)
        self._gate = Gate(
            reactor,
            settings(config),
            certificates,
            worker,
            signer,
            self._count,
            self._borders,
        )
        self._metrics: Metrics | None = None
        self._stopping = False
        self._endings = Endings(reactor, lambda: self._gate.certificates.ends, say)

    def start(self) -> None:
        """Listen, then say so, line by line, and only then serve.

        :raises EnvFault: an address cannot be had.
        """
        start_log(self.config.log_level, as_json=self.config.log_json)
        gate = self._gate
        gate.capacity = (_open_files() - _RESERVED) // 2
        lines = []
        for one in self.config.listeners:
            factory = gate.factory(direct=one.security == "tls")
            port, line = listen(self._reactor, one, factory)
            gate.ports.append(port)
            lines.append(line)
        metrics = self._serve_metrics()
        on_signals(self._reactor, self.stop, self.reload)
        gate.start()
        self._borders.start()
        for warning in gate.certificates.warnings:
            say(warning)
        self._endings.look()
        for line in lines:
            sys.stdout.write(f"tillie: listening on {line}\n")
        if metrics:
            sys.stdout.write(f"tillie: metrics on {metrics}\n")
        sys.stdout.flush()

    def _serve_metrics(self) -> str:
        """Serve numbers if that was asked for; where."""
        address = self.config.metrics
        if address is None:
            return ""
        from ..net.metrics import Metrics

        gate = self._gate
        self._metrics = Metrics(
            [
                ("connections", "Client connections.", lambda: len(gate.clients)),
                ("strangers", "Not logged in.", lambda: gate.crowd.count),
                ("streams", "Vouched for or let in.", lambda: gate.streams),
                ("questions", "Not answered yet.", lambda: self._worker.waiting),
            ]
        )
        site = self._metrics.site(self._healthy)
        _, line = listen(self._reactor, Listener(address, "starttls"), site)
        return line.partition(" ")[0]

    def _healthy(self) -> Deferred[bool]:
        """Whether the registry answers and the domains' keys are there."""
        try:
            for domain in self.config.domains:
                self._signer.document(domain)
        except Fault:
            return succeed(False)
        asked = self._worker.ask(Changes(now()))
        return asked.addCallback(lambda answer: not isinstance(answer, Unavailable))

    def _count(self, occasion: str) -> None:
        if self._metrics is not None:
            self._metrics.count(occasion)

    def stop(self) -> None:
        """SIGTERM: no new clients, streams end with a word, then the end."""
        if self._stopping:
            return
        self._stopping = True
        for port in self._gate.ports:
            port.stopListening()
        self._gate.ports.clear()
        self._endings.stop()
        done = self._gate.stop()
        done.addCallback(lambda _: self._end())
        done.addCallback(lambda _: self._reactor.stop())

    def _end(self) -> Deferred[object]:
        """No stream is left that would ask: the rest ends side by side, so that all
        of it is over in time on a busy machine too (REL-06)."""
        return gatherResults([self._borders.stop(), self._worker.stop()])

    def reload(self) -> None:
        """SIGHUP: read configuration, certificates and keys again; nobody is
        dropped.  What is wrong changes nothing."""
        try:
            config = self.config.again()
            certificates = _certificates(config)
        except Fault as fault:
            say(f"the configuration was not reloaded: {fault.text}")
            return
        enforced = self.config.beyond.enforcement
        if config.listeners != self.config.listeners:
            say("other listeners are taken at the next start only")
        if replace(config.beyond, enforcement=enforced) != self.config.beyond:
            say("what concerns other domains is taken at the next start only")
        self.config = config
        self._gate.reload(settings(config), certificates)
        for warning in (*config.warnings, *certificates.warnings):
            say(warning)
        self._endings.look()
        say("configuration reloaded")


def settings(config: GateConfig) -> Settings:
    """What of the configuration concerns connections."""
    return Settings(
        domains=config.domains,
        backends={name: (one.host, one.port) for name, one in config.backends.items()},
        policies=config.policies,
        enforcement=config.beyond.enforcement,
        proxy_out=config.proxy_out,
        proxy_in=config.proxy_in,
        strangers=config.strangers,
        strangers_each=config.strangers_each,
    )


def _certificates(config: GateConfig) -> GateCertificates:
    """:raises ConfigFault: a file cannot be used."""
    files = {name: Files(*one) for name, one in config.certificates.items()}
    return GateCertificates(files)


def _open_files() -> int:
    """Allow as many open files as the system lets us; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
