"""A name server on loopback that answers what a test wrote down, over UDP and TCP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.names import dns, error, server

from .scripted import reactor


class Zone:
    """*records* by (name, type); names in *silent* get no answer, others NXDOMAIN."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[dns.RRHeader]] = {}
        self.silent: set[str] = set()
        self.refused: set[str] = set()
        self.asked: Counter[tuple[str, int]] = Counter()

    def srv(
        self, owner: str, *records: tuple[int, int, int, str], name: str = ""
    ) -> None:
        """Records (priority, weight, port, target) under *owner*, as if for *name*."""
        for priority, weight, port, target in records:
            where = b"" if target == "." else target
            payload = dns.Record_SRV(priority, weight, port, where, ttl=0)
            self.add(owner, payload, name)

    def add(
        self, owner: str, payload: Any, name: str = "", at: int | None = None
    ) -> None:
        header = dns.RRHeader(name or owner, payload.TYPE, ttl=0, payload=payload)
        self.records.setdefault((owner, at or payload.TYPE), []).append(header)

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[Any]:
        name = query.name.name.decode()
        self.asked[name, query.type] += 1
        if name in self.silent:
            return Deferred()
        if name in self.refused:
            return fail(error.DNSServerError())
        answers = self.records.get((name, query.type))
        if answers is None:
            return fail(error.DomainError())
        return succeed((answers, [], []))


class Datagrams(dns.DNSDatagramProtocol):
    """Cuts what is too long, as RFC 1035, 4.2.1 wants it and Twisted does not."""

    noisy = False

    def writeMessage(self, message: dns.Message, address: tuple[str, int]) -> None:
        if len(message.toStr()) > 512:
            message.trunc, message.answers = True, []
        super().writeMessage(message, address)


@contextmanager
def answering(zone: Zone) -> Iterator[tuple[str, int]]:
    factory = server.DNSServerFactory(clients=[zone])
    factory.noisy = False
    datagrams = Datagrams(controller=factory)
    for _ in range(20):
        tcp = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port = tcp.getHost().port
        try:
            udp = reactor.listenUDP(port, datagrams, interface="127.0.0.1")
        except CannotListenError:
            tcp.stopListening()
        else:
            break
    try:
        yield "127.0.0.1", port
    finally:
        udp.stopListening()
        tcp.stopListening()
