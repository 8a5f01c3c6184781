"""The SQLite engine: files, modes, damage; nothing is made anew by itself."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.errors import LostFault, StoreFault
from proxy.keys.sqlite import SqliteStore, open_store
from proxy.keys.storefiles import DATABASE, KEY_FILE, MARKER, SCHEMA

A = "a@a.test"
SECRET = b"the private key of a@a.test, 01234567"
PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@contextmanager
def opened(folder: Path) -> Iterator[SqliteStore]:
    store = open_store(folder)
    try:
        yield store
    finally:
        store.close()


def fill(folder: Path, rows: int = 60) -> None:
    with opened(folder) as store, store.transaction():
        store.put("own", A, "root", SECRET)
        for row in range(rows):
            store.put("send", A, f"{row:04d}", os.urandom(400))


def killed(folder: Path, work: str = "") -> None:
    """Do what `fill` does, and some *work*, in a process that ends by SIGKILL."""
    code = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from proxy.keys.sqlite import open_store\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "with store.transaction():\n"
        f"    store.put('own', {A!r}, 'root', {SECRET!r})\n"
        "    for row in range(60):\n"
        f"        store.put('send', {A!r}, f'{{row:04d}}', os.urandom(400))\n"
        f"{work}\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=root,
        check=False,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == -9, done.stderr


def hashes(folder: Path) -> dict[str, str]:
    """What lies in the folder; a file without a byte says nothing."""
    gc.collect()
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.stat().st_size and not path.name.endswith("-shm")
    }


def refused(folder: Path) -> tuple[str, str] | None:
    """Text and hint of the fault that opening ends with; None if it opens.

    The fault does not live on, and no half-open connection with it.
    """
    try:
        open_store(folder).close()
    except StoreFault as fault:
        return fault.text, fault.hint
    return None


def refusal(folder: Path) -> tuple[str, str]:
    """What a start says that has to be refused, and that changes nothing."""
    before = hashes(folder)
    said = refused(folder)
    assert said is not None, "it was opened as if nothing had happened"
    assert hashes(folder) == before
    text, hint = said
    assert "\n" not in text
    assert hint
    return text, hint


# -- files --------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_modes_do_not_depend_on_the_umask(folder: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        with opened(folder) as store, store.transaction():
            store.put("s", A, "k", b"v")
            assert _modes(folder) == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert _modes(folder) == {0o600}
    finally:
        os.umask(old)


def test_wrong_modes_are_put_right(folder: Path) -> None:
    fill(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    with opened(folder) as store:
        with store.transaction():
            store.put("s", A, "k", b"v")
        names = {KEY_FILE, DATABASE, f"{DATABASE}-wal"}
        for name in names:
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def _modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_values_are_not_in_the_files_in_clear(folder: Path) -> None:
    with opened(folder) as store:
        with store.transaction():
            store.put("own", A, "root", SECRET)
        assert not any(SECRET in path.read_bytes() for path in folder.iterdir())
    assert not any(SECRET in path.read_bytes() for path in folder.iterdir())


def test_rel_40_commits_are_on_disk(folder: Path) -> None:
    with opened(folder) as store:
        asked = {
            name: store._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode", "locking_mode")
        }
    assert asked == {
        "synchronous": 2,
        "journal_mode": "wal",
        "locking_mode": "exclusive",
    }


def test_rel_01_what_was_committed_is_there_after_a_kill(folder: Path) -> None:
    killed(
        folder,
        "open_for_good = store.transaction()\nopen_for_good.__enter__()\n"
        f"store.put('own', {A!r}, 'root', b'not committed')\n",
    )
    with opened(folder) as store:
        assert store.get("own", A, "root") == SECRET
        assert len(store.scan("send", A)) == 60


def test_rel_04_killed_in_the_very_first_start(folder: Path) -> None:
    """The key file takes its name last; without it the first start begins again."""
    fill(folder)
    (folder / KEY_FILE).rename(folder / f"{KEY_FILE}.new")
    with opened(folder) as store:
        assert store.accounts() == []
    fill(folder)
    with opened(folder) as store:
        assert store.get("own", A, "root") == SECRET


def test_rel_20_one_folder_is_for_one_tillie(folder: Path) -> None:
    with opened(folder) as first:
        with pytest.raises(StoreFault, match="another Tillie"):
            open_store(folder)
        with first.transaction():
            first.put("s", A, "k", b"v")
    with opened(folder) as second:
        assert second.get("s", A, "k") == b"v"


def test_a_failed_start_lets_the_folder_go(folder: Path) -> None:
    fill(folder)
    key = (folder / KEY_FILE).read_bytes()
    (folder / KEY_FILE).unlink()
    refusal(folder)
    (folder / KEY_FILE).write_bytes(key)
    with opened(folder) as store:
        assert store.get("own", A, "root") == SECRET


def read_all(store: SqliteStore) -> None:
    store.get("own", A, "root")
    store.scan("send", A)


# -- what is missing or does not fit ------------------------------------------


def test_rel_18_a_missing_key_file_is_not_made_anew(folder: Path) -> None:
    fill(folder)
    (folder / KEY_FILE).unlink()
    text, hint = refusal(folder)
    assert KEY_FILE in text
    assert "backup" in hint


def test_rel_18_a_missing_database_is_not_made_anew(folder: Path) -> None:
    fill(folder)
    (folder / DATABASE).unlink()
    text, hint = refusal(folder)
    assert DATABASE in text
    assert "backup" in hint


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_rel_17_a_key_file_of_a_wrong_length(folder: Path, length: int) -> None:
    fill(folder)
    (folder / KEY_FILE).write_bytes(bytes(length))
    assert "damaged" in refusal(folder)[0]


def test_rel_17_the_key_file_of_another_database(folder: Path) -> None:
    fill(folder)
    (folder / KEY_FILE).write_bytes(bytes(32))
    refusal(folder)


def test_rel_25_a_newer_schema_is_left_alone(folder: Path) -> None:
    fill(folder)
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    text, _ = refusal(folder)
    assert f"schema {SCHEMA + 1}" in text
    assert f"knows {SCHEMA}" in text


def test_rel_15_a_file_where_the_folder_should_be(folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(StoreFault, match="cannot be used"):
        open_store(folder)
    assert folder.read_text() == "not a folder"


@pytest.mark.parametrize("name", [KEY_FILE, DATABASE, f"{DATABASE}-wal"])
def test_loc_02_a_link_in_the_place_of_a_first_file_is_not_followed(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Somebody else's file is neither read as a key nor written over."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 4)
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with suppress(StoreFault):
        open_store(folder).close()
    assert victim.read_bytes() == b"precious" * 4


# -- damage -------------------------------------------------------------------

Damage = Callable[[Path, random.Random], None]


def _flip_page_header(path: Path, dice: random.Random) -> None:
    page = dice.randrange(path.stat().st_size // PAGE)
    _write(
        path, page * PAGE + (100 if page == 0 else 0), bytes([dice.choice((0xFF, 1))])
    )


def _zero_page(path: Path, dice: random.Random) -> None:
    _write(path, dice.randrange(path.stat().st_size // PAGE) * PAGE, bytes(PAGE))


def _truncate(path: Path, dice: random.Random) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size - PAGE))


def _random_4_kb(path: Path, dice: random.Random) -> None:
    _write(path, dice.randrange(path.stat().st_size - PAGE), dice.randbytes(PAGE))


def _empty(path: Path, dice: random.Random) -> None:
    os.truncate(path, 0)


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "damage", [_flip_page_header, _zero_page, _truncate, _random_4_kb, _empty]
)
def test_rel_17_damage_is_found_and_nothing_is_overwritten(
    folder: Path, damage: Damage, seed: int
) -> None:
    """At the start, or at the latest when a record is read; never an empty store."""
    fill(folder)
    damage(folder / DATABASE, random.Random(seed))
    before = hashes(folder)
    if refused(folder):
        assert hashes(folder) == before
        return
    with opened(folder) as store, pytest.raises(StoreFault):
        read_all(store)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", [_flip_page_header, _zero_page, _random_4_kb])
def test_rel_17_damage_beside_a_log_that_a_kill_left(
    folder: Path, damage: Damage, seed: int
) -> None:
    """The refused start moves nothing from the log into the damaged file."""
    fill(folder)
    killed(folder)
    assert (folder / f"{DATABASE}-wal").stat().st_size > PAGE
    damage(folder / DATABASE, random.Random(seed))
    before = hashes(folder)
    if refused(folder):
        assert hashes(folder) == before
        return
    # the log held a whole copy of what was hit
    with opened(folder) as store:
        assert store.get("own", A, "root") == SECRET
        assert len(store.scan("send", A)) == 60


def test_rel_17_a_log_that_was_deleted_after_a_kill(folder: Path) -> None:
    """Without it the lanes would go back to indexes that were used."""
    fill(folder)
    killed(folder)
    (folder / f"{DATABASE}-wal").unlink()
    refusal(folder)


def test_rel_18_a_first_log_that_was_deleted_does_not_look_like_a_first_start(
    folder: Path,
) -> None:
    """Whoever has keys is never taken for a newcomer."""
    killed(folder)
    (folder / f"{DATABASE}-wal").unlink()
    refusal(folder)


def test_a_record_in_the_place_of_another_is_not_read(folder: Path) -> None:
    with opened(folder) as store, store.transaction():
        store.put("lane", A, "one", b"1")
        store.put("lane", A, "two", b"2")
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute(
            "UPDATE item SET value=(SELECT value FROM item WHERE key='one') WHERE key='two'"
        )
    connection.close()
    with opened(folder) as store:
        assert store.get("lane", A, "one") == b"1"
        with pytest.raises(StoreFault, match="damaged"):
            store.get("lane", A, "two")
        with pytest.raises(StoreFault, match="damaged"):
            store.scan("lane", A)


# -- while it runs ------------------------------------------------------------


def test_rel_14_a_full_disk_fails_the_commit_and_passes(folder: Path) -> None:
    """The file size limit of the process stands for the disk."""
    code = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from proxy.errors import StoreFault\n"
        "from proxy.keys.sqlite import open_store\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "def put(key):\n"
        "    with store.transaction():\n"
        f"        store.put('send', {A!r}, key, os.urandom(9000))\n"
        "put('before')\n"
        "wal = Path(sys.argv[1], 'tillie.db-wal').stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (wal, resource.RLIM_INFINITY))\n"
        "for _ in range(3):\n"
        "    try:\n"
        "        put('full')\n"
        "    except StoreFault as fault:\n"
        "        print(fault.hint)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        f"assert store.get('send', {A!r}, 'full') is None\n"
        "put('after')\n"
        "store.close()\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("disk") == 3
    with opened(folder) as store:
        assert [key for key, _ in store.scan("send", A)] == ["after", "before"]


# -- one write a record and transaction ----------------------------------------


def test_what_changes_several_times_in_a_transaction_is_written_once(
    folder: Path,
) -> None:
    with opened(folder) as store:
        written = store._db.total_changes
        with store.transaction():
            for index in range(16):
                store.put("chain", A, "bob@b.test", bytes([index]))
            store.put("said", A, "1", b"note")
            store.delete("said", A, "1")
        assert store._db.total_changes - written == 1
        assert store.get("chain", A, "bob@b.test") == bytes([15])


def test_a_look_in_the_middle_of_a_transaction_commits_nothing(folder: Path) -> None:
    with opened(folder) as store:
        with suppress(ZeroDivisionError), store.transaction():
            store.put("own", A, "root", SECRET)
            assert store.scan("own", A) == [("root", SECRET)]
            store.put("own", A, "device", SECRET)
            assert store.accounts() == [A]
            raise ZeroDivisionError
        assert store.scan("own", A) == []
        assert not store.writing


def test_a_sealed_message_lies_in_the_tree_and_not_on_a_page_beside_it(
    folder: Path,
) -> None:
    with opened(folder) as store:
        pages = "PRAGMA page_count"
        before = store._db.execute(pages).fetchone()[0]
        with store.transaction():
            for number in range(100):
                store.put("ledger", A, f"{number:010d}", bytes(1_300))
        grown = store._db.execute(pages).fetchone()[0] - before
    # two and a bit fill a page, and the index takes some; beside it would be 100 more
    assert grown < 75


class Failing:
    """A connection whose statements that begin with *word* fail by an SQLite code."""

    def __init__(self, real: sqlite3.Connection, word: str, code: int) -> None:
        self.real, self.word, self.code = real, word, code
        self.asked: list[str] = []

    def execute(self, statement: str, *rest: object) -> sqlite3.Cursor:
        self.asked.append(statement)
        if statement.startswith(self.word):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        return self.real.execute(statement, *rest)  # type: ignore[arg-type]

    def executemany(self, statement: str, rows: list[object]) -> sqlite3.Cursor:
        self.asked.append(statement)
        if statement.startswith(self.word):
            return self.execute(statement)
        return self.real.executemany(statement, rows)  # type: ignore[arg-type]


def failing(store: SqliteStore, word: str, code: int) -> Failing:
    broken = Failing(store._db, word, code)
    store._db = broken  # type: ignore[assignment]
    return broken


CORRUPT_INDEX = sqlite3.SQLITE_CORRUPT | 3 << 8


@pytest.mark.parametrize(
    ("word", "code"),
    [
        pytest.param("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, id="REL-15-fsync"),
        pytest.param("COMMIT", sqlite3.SQLITE_IOERR_DIR_FSYNC, id="REL-15-folder"),
        pytest.param("SELECT value", sqlite3.SQLITE_CORRUPT, id="REL-17-read"),
        pytest.param("INSERT", CORRUPT_INDEX, id="REL-17-write"),
        pytest.param("SELECT key", sqlite3.SQLITE_NOTADB, id="REL-17-scan"),
    ],
)
def test_rel_15_17_after_a_lost_write_nothing_more_is_tried(
    folder: Path, word: str, code: int
) -> None:
    store = open_store(folder)
    with store.transaction():
        store.put("send", A, "n", b"1")
    broken = failing(store, word, code)

    def work() -> None:
        with store.transaction():
            store.put("send", A, "n", b"2")
        store.get("send", A, "n")
        store.scan("send", A)

    with pytest.raises(LostFault, match="cannot be relied on") as told:
        work()
    assert told.value.hint
    broken.word = "none of them fails any more"
    asked = len(broken.asked)
    for again in (
        lambda: store.get("send", A, "n"),
        lambda: store.scan("send", A),
        store.accounts,
    ):
        with pytest.raises(LostFault):
            again()
    with pytest.raises(LostFault), store.transaction():
        store.put("send", A, "n", b"3")
    store.close()
    assert [one for one in broken.asked[asked:] if one != "ROLLBACK"] == []
    # as after a kill: the marker stands, and so does the log
    assert (folder / MARKER).exists()
    assert (folder / f"{DATABASE}-wal").stat().st_size
    broken.real.close()


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_READONLY]
)
def test_rel_14_15_what_was_not_written_is_tried_again(folder: Path, code: int) -> None:
    """The other side of it: no write was believed, so none is missed."""
    with opened(folder) as store:
        broken = failing(store, "COMMIT", code)
        with pytest.raises(StoreFault, match="could not be used"), store.transaction():
            store.put("send", A, "n", b"1")
        assert store.get("send", A, "n") is None
        broken.word = "none of them fails any more"
        with store.transaction():
            store.put("send", A, "n", b"2")
        assert store.get("send", A, "n") == b"2"
        store._db = broken.real


def test_rel_15_a_log_that_was_left_is_written_again_before_it_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages whose `fsync` failed look written to everyone: only a new write and a new
    `fsync` can tell.  If that fails too, the start does, and nothing was changed."""
    killed(folder)
    log = folder / f"{DATABASE}-wal"
    before = log.read_bytes()
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        of = os.fstat(handle)
        synced.append((of.st_dev, of.st_ino))
        if synced[-1] == (log.stat().st_dev, log.stat().st_ino):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    text, _ = refusal(folder)
    assert "Input/output error" in text
    assert log.read_bytes() == before
    monkeypatch.undo()
    with opened(folder) as store:
        assert store.get("own", A, "root") == SECRET
