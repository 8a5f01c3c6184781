"""What the driver makes of a read's effects: few writes, in order, rows kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from proxy.core.vocabulary import (
    Effect,
    ServerClose,
    ServerTls,
    ToClient,
    ToServer,
)
from proxy.net.driver import Connection


class Side:
    """A connection that notes what is asked of it."""

    def __init__(self, said: list[object], name: str) -> None:
        self._said = said
        self._name = name

    def write(self, data: bytes) -> None:
        self._said.append((self._name, data))

    def start_tls(self) -> None:
        self._said.append("tls")

    def end(self, *, abort: bool) -> None:
        self._said.append("end")


def performed(effects: list[Effect]) -> tuple[list[object], list[str], int]:
    """What was written, which rows wait to be forgotten, and timers that were set."""
    said: list[object] = []
    timers: list[object] = []
    reactor = SimpleNamespace(callLater=lambda *call: timers.append(call) or call)
    driver = SimpleNamespace(reactor=reactor, connections={})
    connection = Connection(cast("Any", driver), secure=False)
    connection.session = cast("Any", SimpleNamespace(congested=False, over=False))
    connection.transport = cast("Any", Side(said, "client"))
    connection._upstream = cast("Any", Side(said, "server"))
    connection.perform(effects)
    return said, connection._rows, len(timers)


def test_what_goes_one_way_leaves_as_one_write() -> None:
    said, rows, timers = performed(
        [
            ToClient(b"1", "row 1"),
            ToClient(b"2"),
            ToClient(b"3", "row 3"),
            ToServer(b"a"),
            ToServer(b"b"),
        ]
    )
    assert said == [("client", b"123"), ("server", b"ab")]
    assert (rows, timers) == (["row 1", "row 3"], 1)


def test_nothing_overtakes_what_stands_between() -> None:
    """What was said in clear does not come behind TLS, nor what TLS protects before."""
    said, _, timers = performed(
        [
            ToServer(b"clear"),
            ServerTls(),
            ToServer(b"secret"),
            ToClient(b"1"),
            ToServer(b"more"),
            ServerClose(),
            ToServer(b"too late"),
        ]
    )
    assert said == [
        ("server", b"clear"),
        "tls",
        ("server", b"secret"),
        ("client", b"1"),
        ("server", b"more"),
        "end",
    ]
    assert timers == 0
