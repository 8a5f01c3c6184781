"""A disk that loses writes, cannot be written, or does not answer (REL-15, REL-16)."""

from __future__ import annotations

import sqlite3
import time

import pytest

from proxy.keys.storefiles import DATABASE

from ..support.bed import Bed
from ..support.disk import SYNC, WRITE, Disk
from .test_conversations import ALICE
from .test_faults import ended_with, hashes, refused, with_records
from .test_kills import Pair, pair


def failing(bed: Bed, both: Pair, calls: str, fault: str) -> Disk:
    """Alice's Tillie has a disk with this fault from now on."""
    disk = Disk(both.alice.tillie.pid, calls, fault, both.alice.tillie.folder)
    return bed.keep(disk)


@pytest.mark.parametrize("sender", ["alice", "bob"])
def test_rel_15_a_disk_that_loses_writes_ends_the_program(
    bed: Bed, sender: str
) -> None:
    """`fsync` fails once: the kernel takes the pages for written from then on, so no
    second one is asked, nothing is sent or acknowledged, and the program says so."""
    both = pair(bed)
    tillie, client = both.alice.tillie, both.alice.client
    assert client is not None
    disk = failing(bed, both, SYNC, "error=EIO")
    before = len(both.taps[0].recorded())
    both.alice.say(1) if sender == "alice" else both.bob.say(1)
    client.wait_closed(seconds=10)
    assert "cannot be relied on" in ended_with(client)
    assert tillie.wait(seconds=10) == 1
    said = tillie.errors.splitlines()[-2:]
    assert said[0].startswith("tillie: error: the database cannot be relied on")
    assert said[1].startswith("hint: look at the disk")
    assert len(disk.injected) == len(disk.calls) == 1, disk.calls
    if sender == "alice":
        assert len(both.taps[0].recorded()) == before
    disk.stop()
    both.round()
    both.settle()
    assert both.broken_promises(killed={ALICE}) == []
    assert "damaged" not in tillie.errors


def test_rel_15_a_file_system_that_became_read_only(bed: Bed) -> None:
    """As a full disk: told, nothing lost, logins refused with the reason, and all goes
    on when it can be written again."""
    both = pair(bed)
    tillie, client = both.alice.tillie, both.alice.client
    assert client is not None
    pid = tillie.pid
    disk = failing(bed, both, WRITE, "error=EROFS")
    both.bob.say()
    both.bob.ping()
    client.wait_closed(seconds=10)
    assert "database" in ended_with(client)
    both.alice.client = None
    assert not both.alice._login()
    assert "database" in both.alice.refusals[-1]
    disk.stop()
    both.alice.refusals.clear()
    both.alice.say()
    both.settle()
    assert tillie.pid == pid
    assert both.broken_promises(killed={ALICE}) == []


def test_rel_16_a_disk_that_stalls_loses_nothing(bed: Bed) -> None:
    """All of Tillie waits with it, which is a known limit; no stream is lost by it."""
    both = pair(bed)
    disk = failing(bed, both, SYNC, "delay_enter=4s:when=1")
    began = time.monotonic()
    both.alice.say()
    both.bob.say()
    both.alice.ping()
    assert time.monotonic() - began > 3
    assert len(disk.injected) == 1
    both.settle()
    assert both.broken_promises(killed=set()) == []


def test_rel_16_another_program_cannot_lock_a_running_tillie_out(bed: Bed) -> None:
    """The database is held exclusively: who comes later is refused, even to read."""
    both = pair(bed)
    path = both.alice.tillie.state / DATABASE
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    for statement in ("BEGIN EXCLUSIVE", "SELECT count(*) FROM item"):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute(statement)
    other.close()
    both.round()
    both.settle()
    assert both.broken_promises(killed=set()) == []


def test_rel_16_a_start_while_another_program_holds_the_database(bed: Bed) -> None:
    """It waits a few seconds, then says so and leaves everything as it is."""
    tillie = bed.tillie("t", servers={"a.test": 1}, start=False)
    with_records(tillie.state)
    before = hashes(tillie.state)
    # no file of it is opened meanwhile in this process: closing it would drop the lock
    other = sqlite3.connect(tillie.state / DATABASE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    said = refused(tillie)
    assert "database is locked" in said
    other.close()
    assert hashes(tillie.state) == before
    tillie.start()
