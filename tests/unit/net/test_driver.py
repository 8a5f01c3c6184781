"""The loop between core and sockets: what of it the core's own tests cannot show."""

from __future__ import annotations

import hashlib
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from proxy.core.vocabulary import Derive
from proxy.net.driver import REST_EVERY, TICK, Connection, Driver, Upstream

REQUEST = Derive("sha256", b"pencil", b"salt", 600_000)


class Session:
    """What of a session a derivation meets."""

    def __init__(self) -> None:
        self.got: Deferred[bytes] = Deferred()

    def derived(self, salted: bytes) -> None:
        self.got.callback(salted)


def connection() -> tuple[Connection, Session]:
    session = Session()
    driver = SimpleNamespace(reactor=reactor, run=lambda _session, call: call())
    found = Connection(cast("Driver", driver), secure=False)
    found.session = cast("Any", session)
    found._upstream = cast("Upstream", object())
    return found, session


def test_quiet_sessions_rest_now_and_then() -> None:
    clock, rests = Clock(), []
    store = SimpleNamespace(transaction=nullcontext)
    house = SimpleNamespace(store=store, dirty=set(), tick=lambda: None)
    nothing: Any = None
    driver = Driver(clock, cast("Any", house), nothing, nothing)
    session: Any = SimpleNamespace(over=True, rest=lambda: rests.append(1))
    driver.connections = cast("Any", [session])
    driver.start()
    for _ in range(REST_EVERY - 1):
        clock.advance(TICK)
    assert not rests
    clock.advance(TICK)
    assert rests == [1]


@pytest_twisted.ensureDeferred
async def test_auth_02_the_key_is_derived_off_the_reactors_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most 600,000 rounds are asked for: a third of a second that nobody waits."""
    threads: list[int] = []
    derive = hashlib.pbkdf2_hmac

    def noting(*args: Any) -> bytes:
        threads.append(threading.get_ident())
        return derive(*args)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", noting)
    one, session = connection()
    one._derive(REQUEST)
    assert not session.got.called
    salted = await session.got
    assert salted == derive("sha256", b"pencil", b"salt", 600_000)
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


def test_auth_02_a_key_for_a_connection_that_is_gone_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The derivation cannot be stopped; its outcome belongs to one login alone."""
    done: list[Deferred[bytes]] = []

    def deferred(*_: object) -> Deferred[bytes]:
        done.append(Deferred())
        return done[-1]

    monkeypatch.setattr("proxy.net.driver.deferToThreadPool", deferred)
    one, session = connection()
    one._derive(REQUEST)
    one._upstream = cast("Upstream", object())
    done[0].callback(b"too late")
    assert not session.got.called
    one._derive(REQUEST)
    done[1].callback(b"in time")
    assert session.got.called
