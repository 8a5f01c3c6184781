"""Cut links, restarted servers, full disks and damaged states."""

from __future__ import annotations

import hashlib
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.keys.sqlite import open_store
from proxy.keys.storefiles import DATABASE, KEY_FILE, SCHEMA

from ..support.bed import Bed
from ..support.raw import RawClient, text_of
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_conversations import ALICE, BOB
from .test_kills import pair

STREAM_ERROR_TEXT = "{urn:ietf:params:xml:ns:xmpp-streams}text"


# -- the way to the server ----------------------------------------------------


def test_rel_08_a_cut_link_is_not_noticed(bed: Bed) -> None:
    """XEP-0198: both clients stay connected, everything arrives once."""
    both = pair(bed)
    for tap in both.taps * 3:
        for one in (both.alice, both.bob):
            one.say()
        tap.cut()
        for one in (both.alice, both.bob):
            one.ping()
    both.settle()
    assert both.broken_promises(killed=set()) == []
    assert len(both.alice.connections) == 1
    assert min(tap.accepted for tap in both.taps) >= 4


def test_rel_11_an_unreachable_server_is_waited_for(bed: Bed) -> None:
    """Two seconds without any connection; what was written meanwhile goes out."""
    both = pair(bed)
    both.taps[0].refuse()
    refused = time.monotonic()
    both.alice.say()
    both.bob.say()
    both.bob.ping()
    until(lambda: time.monotonic() - refused > 2, "two seconds to pass")
    both.taps[0].accept()
    both.settle()
    assert both.broken_promises(killed=set()) == []
    assert len(both.alice.connections) == 1


def test_rel_07_a_server_that_restarts(bed: Bed) -> None:
    """It has forgotten the sessions: the clients are told and come back."""
    both = pair(bed)
    both.round()
    both.settle()
    for one in (both.alice, both.bob):
        one.say()
    clients = [one.client for one in (both.alice, both.bob)]
    bed.server.stop()
    bed.server.start()
    both.settle()
    for client in clients:
        assert client is not None
        assert "connect again" in ended_with(client)
    assert both.broken_promises(killed={ALICE, BOB}) == []


def test_rel_12_a_resumption_that_is_refused(bed: Bed) -> None:
    """The session had expired at the server; nothing of either side is lost."""
    bed.start(options="smacks_hibernation_time = 1\n")
    both = pair(bed)
    client = both.alice.client
    assert client is not None
    both.taps[0].refuse()
    both.alice.say()
    both.bob.say()
    both.bob.ping()
    refused = time.monotonic()
    until(lambda: time.monotonic() - refused > 3, "the session to expire")
    both.taps[0].accept()
    both.settle()
    assert "connect again" in ended_with(client)
    assert both.broken_promises(killed={ALICE}) == []


def ended_with(client: RawClient) -> str:
    """The text of the stream error that the client got."""
    for one in client.stanzas:
        if one.tag.endswith("}error") and one.find(STREAM_ERROR_TEXT) is not None:
            return text_of(one, STREAM_ERROR_TEXT)
    return ""


# -- the program's own end ----------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_rel_06_sigterm_ends_in_good_order(bed: Bed, delay: float) -> None:
    both = pair(bed)
    client = both.alice.client
    assert client is not None
    both.alice.say(20)
    time.sleep(delay)
    began = time.monotonic()
    assert both.alice.tillie.stop(seconds=8) == 0
    assert time.monotonic() - began < 5
    client.wait_closed(seconds=5)
    assert "stopped" in ended_with(client)
    both.settle()
    assert both.broken_promises(killed={ALICE}) == []
    assert "Traceback" not in both.alice.tillie.errors


def test_rel_33_the_same_resource_again_while_the_old_one_is_open(bed: Bed) -> None:
    """The new connection takes the place of the old one; messages go on."""
    both = pair(bed)
    for _ in range(3):
        old = both.bob.client
        assert old is not None
        both.bob.client = None
        both.alice.say()
        both.bob.online()
        old.wait_closed(seconds=10)
        both.settle()
        both.round()
    both.settle()
    assert both.broken_promises(killed={BOB}) == []


def test_rel_33_a_client_that_vanishes(bed: Bed) -> None:
    """Reset with unread bytes: what it did not get comes on its next stream."""
    both = pair(bed)
    for _ in range(3):
        assert both.bob.client is not None
        both.bob.client.reset()
        both.bob.client = None
        both.alice.say()
        both.alice.ping()
        both.bob.online()
    both.settle()
    assert both.broken_promises(killed={BOB}) == []


# -- the disk -----------------------------------------------------------------


def test_rel_14_a_full_disk(bed: Bed) -> None:
    """Nothing is lost while it is full, the client is told, then all goes on.

    As long as it is full, logins are refused too, with the reason.
    """
    both = pair(bed)
    tillie, client = both.alice.tillie, both.alice.client
    assert client is not None
    log = (tillie.state / f"{DATABASE}-wal").stat().st_size
    limit = max(log // 2, (tillie.folder / "errors").stat().st_size + 4096)
    assert limit < log
    pid = tillie.pid
    sent = len(both.taps[0].recorded())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    both.bob.say()
    both.bob.ping()
    client.wait_closed(seconds=10)
    assert "database" in ended_with(client)
    assert len(both.taps[0].recorded()) >= sent
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    threading.Timer(
        1.0, resource.prlimit, (pid, resource.RLIMIT_FSIZE, unlimited)
    ).start()
    both.alice.say()
    both.settle()
    assert tillie.running
    assert tillie.pid == pid
    refused = "login refused: "
    assert all("database" in one for one in both.alice.refusals)
    broken = both.broken_promises(killed={ALICE})
    assert [one for one in broken if refused not in one] == []


# -- states that cannot be used -----------------------------------------------


def _no_key(state: Path) -> None:
    (state / KEY_FILE).unlink()


def _no_database(state: Path) -> None:
    (state / DATABASE).unlink()


def _newer(state: Path) -> None:
    with sqlite3.connect(state / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()


def _truncated(state: Path) -> None:
    os.truncate(state / DATABASE, (state / DATABASE).stat().st_size // 2)


def _zeroed(state: Path) -> None:
    size = (state / DATABASE).stat().st_size
    (state / DATABASE).write_bytes(bytes(size))


def _other_key(state: Path) -> None:
    (state / KEY_FILE).write_bytes(bytes(32))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        pytest.param(_no_key, "key file", id="REL-18-key"),
        pytest.param(_no_database, "missing", id="REL-18-database"),
        pytest.param(_newer, "newer", id="REL-25"),
        pytest.param(_truncated, "damaged", id="REL-17-truncated"),
        pytest.param(_zeroed, "damaged", id="REL-17-zeroed"),
        pytest.param(_other_key, "key file", id="REL-17-key"),
    ],
)
def test_an_unusable_state_is_refused_and_left_alone(
    bed: Bed, damage: Callable[[Path], None], word: str
) -> None:
    tillie = bed.tillie("t", servers={"a.test": 1}, start=False)
    with_records(tillie.state)
    damage(tillie.state)
    before = hashes(tillie.state)
    assert word in refused(tillie)
    assert hashes(tillie.state) == before


def test_rel_20_a_second_tillie_on_the_same_state(bed: Bed) -> None:
    first = bed.tillie("t", servers={"a.test": 1})
    second = Tillie(first.folder, first.ca)
    bed.tillies.append(second)
    assert "another Tillie" in refused(second)
    assert first.running
    assert first.json("status")["accounts"] == []


def test_rel_15_a_state_folder_that_cannot_be_one(bed: Bed) -> None:
    tillie = bed.tillie("t", servers={"a.test": 1}, start=False)
    tillie.state.write_text("a file")
    assert str(tillie.state) in refused(tillie)
    assert tillie.state.read_text() == "a file"


def with_records(state: Path) -> None:
    store = open_store(state)
    with store.transaction():
        for row in range(60):
            store.put("send", ALICE, f"{row:04d}", os.urandom(400))
    store.close()


def hashes(state: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(state.iterdir())
        if path.is_file() and path.stat().st_size
    }


def refused(tillie: Tillie) -> str:
    """What a start that has to fail says: one line, and one with a hint."""
    before = len(tillie.errors)
    tillie.spawn(*tillie.run_arguments())
    assert tillie.wait(seconds=20) == 1
    said = tillie.errors[before:].splitlines()
    assert [line.partition(":")[0] for line in said] == ["tillie", "hint"], said
    assert said[0].startswith("tillie: error: ")
    return said[0]
