"""A name server on loopback for programs that are tests' subjects, in a thread.

For tests on the reactor there is tests/unit/net/zone.py; this one serves real
servers and the real program, which have processes of their own.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from twisted.names import dns

LOOPBACK = "127.0.0.1"


class Names:
    """Answers over UDP what it was told, everything else with NXDOMAIN.

    :ivar port: of 127.0.0.1.
    :ivar asked: how often each (name, type) was asked for.
    """

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self._records: dict[str, list[Any]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def host(self, name: str, address: str = LOOPBACK) -> None:
        """Give *name* an IPv4 address."""
        self._records.setdefault(name, []).append(dns.Record_A(address, ttl=60))

    def services(self, domain: str, ports: Mapping[str, int]) -> None:
        """Give *domain* an address and SRV records that lead to localhost.

        :param ports: by service, such as ``_xmpp-server``.
        """
        self.host(domain)
        for service, port in ports.items():
            self.service(f"{service}._tcp.{domain}", "localhost", port)

    def service(self, owner: str, target: str, port: int) -> None:
        record = dns.Record_SRV(0, 0, port, target, ttl=60)
        self._records.setdefault(owner, []).append(record)

    def stop(self) -> None:
        """End the thread."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (LOOPBACK, self.port))
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, asker = self._socket.recvfrom(4096)
            if not data:
                return
            message = dns.Message()
            try:
                message.fromStr(data)
            except (EOFError, ValueError):
                continue
            self._socket.sendto(self._answer(message), asker)

    def _answer(self, asked: dns.Message) -> bytes:
        reply = dns.Message(id=asked.id, answer=1, recDes=1, recAv=1, auth=1)
        reply.queries = asked.queries
        for query in asked.queries:
            name = query.name.name.decode().lower()
            kind = dns.QUERY_TYPES.get(query.type, str(query.type))
            self.asked[name, kind] += 1
            records = self._records.get(name)
            if records is None:
                reply.rCode = dns.ENAME
            for record in records or ():
                if query.type == record.TYPE:
                    reply.answers.append(
                        dns.RRHeader(name, record.TYPE, ttl=60, payload=record)
                    )
        return bytes(reply.toStr())
