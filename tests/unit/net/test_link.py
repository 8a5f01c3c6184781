"""What one read of the socket brings is one delivery, however TLS cut it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from proxy.core.vocabulary import TlsFacts
from proxy.net.link import Link

from .scripted import Owner


class Records:
    """Twisted's TLS layer: hands on each line as a record of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.broken = False

    def dataReceived(self, data: bytes) -> None:
        for line in data.splitlines():
            self._link.dataReceived(line)
        if self.broken:
            raise ValueError("a record that does not open")


class Transport:
    """A TCP transport on which TLS can be started."""

    def __init__(self, link: Link) -> None:
        self._records = Records(link)
        self.protocol: Any = None

    def startTLS(self, _: object) -> None:
        self.protocol = self._records


class Reactor:
    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def callLater(self, _: float, call: Callable[[], None]) -> object:
        self.later.append(call)
        return call


class Counting(Owner):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[bytes] = []

    def link_data(self, data: bytes) -> None:
        self.reads.append(data)


@pytest.fixture
def link() -> Link:
    made = Link(
        Reactor(), lambda: cast("Any", None), peer="p", mode="starttls", timeout=9
    )
    made.transport = Transport(made)
    made._owner = Counting()
    made.start_tls()
    made._reactor.later.clear()
    made.facts = TlsFacts("TLSv1.3", None, None)
    return made


def reads(link: Link) -> list[bytes]:
    assert isinstance(link._owner, Counting)
    return link._owner.reads


def test_records_of_one_read_come_together_and_at_once(link: Link) -> None:
    link.transport.protocol.dataReceived(b"<a/>\n<b/>\n<c/>")
    assert reads(link) == [b"<a/><b/><c/>"]
    link.transport.protocol.dataReceived(b"<d/>")
    assert reads(link)[1:] == [b"<d/>"]
    assert link._reactor.later == []


def test_a_read_without_a_whole_record_delivers_nothing(link: Link) -> None:
    link.transport.protocol.dataReceived(b"")
    assert reads(link) == []


def test_a_record_outside_of_a_read_comes_soon(link: Link) -> None:
    link.dataReceived(b"<late/>")
    link.dataReceived(b"<later/>")
    [call] = link._reactor.later
    call()
    assert reads(link) == [b"<late/><later/>"]


def test_what_came_before_a_broken_record_is_not_lost_nor_doubled(link: Link) -> None:
    link.transport._records.broken = True
    with pytest.raises(ValueError, match="does not open"):
        link.transport.protocol.dataReceived(b"<a/>")
    link._deliver()
    link._deliver()
    assert reads(link) == [b"<a/>"]
