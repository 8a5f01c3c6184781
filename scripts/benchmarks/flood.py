"""Many stanzas over plain sockets, counted by their start tags and not parsed."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from tests.support.raw import RawClient

SECONDS = 60.0
PING = "<iq type='get' id='p{}' to='{}'><ping xmlns='urn:xmpp:ping'/></iq>"


class Counter:
    """Counts a start tag in what a logged-in client receives."""

    def __init__(self, client: RawClient, tag: bytes) -> None:
        self.socket: socket.socket = client._socket
        self.socket.settimeout(SECONDS)
        self.count = 0
        self._tag = tag
        self._left = b""

    def read(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise AssertionError("the stream was closed")
        if b"<stream:error" in data or b"<policy-violation" in data:
            raise AssertionError(data.decode("utf-8", "replace"))
        data = self._left + data
        self.count += data.count(self._tag)
        self._left = data[-len(self._tag) + 1 :]


def flood(
    sender: RawClient,
    counter: Counter,
    make: Callable[[int], str],
    count: int,
    window: int = 64,
) -> None:
    """Send `count` stanzas, at most `window` of them not seen by `counter` yet.

    Raises TimeoutError when nothing arrives for SECONDS.
    """
    counter.count = sent = 0
    while counter.count < count:
        batch = min(count, counter.count + window) - sent
        if batch > 0:
            text = "".join(make(number) for number in range(sent, sent + batch))
            sender._socket.sendall(text.encode())
            sent += batch
        counter.read()


def drip(sender: RawClient, counter: Counter, domain: str, count: int) -> None:
    """Send white space keepalives in segments of their own, then a ping."""
    for number in range(count):
        sender._socket.sendall(b" ")
        if number % 500 == 499:
            flood(sender, counter, lambda n: PING.format(n, domain), 1)
    flood(sender, counter, lambda n: PING.format(n, domain), 1)


def single_file(clients: list[RawClient], domain: str, count: int) -> None:
    """`count` pings in all, one in flight on each connection."""
    counters = {one._socket.fileno(): Counter(one, b"<iq ") for one in clients}
    poll = select.poll()
    for number, one in enumerate(counters.values()):
        poll.register(one.socket, select.POLLIN)
        one.socket.sendall(PING.format(number, domain).encode())
    sent, answered = len(counters), 0
    while answered < count:
        ready = poll.poll(SECONDS * 1000)
        if not ready:
            raise TimeoutError("no answer came")
        for handle, _ in ready:
            one = counters[handle]
            before = one.count
            one.read()
            for _ in range(one.count - before):
                answered += 1
                if sent < count:
                    one.socket.sendall(PING.format(sent, domain).encode())
                    sent += 1
