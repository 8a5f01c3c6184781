"""`tillie gate run` on a registry and a signer in memory."""

from __future__ import annotations

import sys
import time

from twisted.internet import reactor

from proxy.app import gate
from proxy.app.cli import main
from proxy.app.gateconfig import GateConfig
from proxy.keys.registry import MemoryRegistry
from proxy.net.registry import RegistryWorker

from .signer import MemorySigner


def run(config: GateConfig) -> int:
    registry = MemoryRegistry()
    worker = RegistryWorker(reactor, lambda: registry)
    signer = MemorySigner(config.domains, int(time.time() * 1000))
    service = gate.GateService(config, worker, signer, reactor)
    service.start()
    reactor.run(installSignalHandlers=False)
    return 0


if __name__ == "__main__":
    gate.run = run
    sys.exit(main())
