"""The files of a store: key, lock, database and marker, made once and looked at before
anything is written (REL-17, REL-18, REL-25).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import StoreFault
from ..suites.entropy import token
from ..suites.fields import fields

SCHEMA = 1
DATABASE = "tillie.db"
KEY_FILE = "store.key"
LOCK_FILE = "lock"
MARKER = "open"
_SIDE_FILES = ("", "-wal", "-journal")


def lock_folder(folder: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(folder / LOCK_FILE, flags, 0o600)
    os.fchmod(handle, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreFault(
            f"another Tillie is running on the state folder {folder}",
            hint="stop it first, or give this one a folder of its own with --state",
        ) from error
    return handle


def key_of(folder: Path) -> bytes:
    """The store's key; made, with an empty database, at the very first start.

    The key file takes its name only when the database is complete, so a crash
    in between leaves a first start that simply begins again.
    """
    path, fresh = folder / KEY_FILE, folder / (KEY_FILE + ".new")
    database = folder / DATABASE
    if not path.exists():
        if database.exists() and not fresh.exists():
            raise StoreFault(
                f"the key file {path} is missing, so the keys in {database} "
                "cannot be read",
                hint="put the key file back from your backup; new keys are never "
                "made by themselves (to start anew, move the folder away)",
            )
        _create(folder, fresh)
        fresh.rename(path)
        sync(folder)
    elif not database.exists():
        raise StoreFault(
            f"the database {database} is missing, but its key file is there",
            hint="put the database back from your backup; new keys are never made "
            "by themselves (to start anew, move the folder away)",
        )
    path.chmod(0o600)
    key = path.read_bytes()
    if len(key) != 32:
        raise StoreFault(
            f"the key file {path} is damaged",
            hint="put it back from your backup; new keys are never made by themselves",
        )
    return key


def _create(folder: Path, key_path: Path) -> None:
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            (folder / (DATABASE + suffix)).unlink()
    key = token(32)
    _write(key_path, key)
    _write(folder / DATABASE, b"")
    connection = sqlite3.connect(folder / DATABASE, isolation_level=None)
    try:
        connection.execute("BEGIN")
        # with rowids: without, a record of over 1,000 bytes (a sealed message) would
        # lie on a page of its own beside the tree
        connection.execute(
            "CREATE TABLE item (shelf TEXT NOT NULL, account TEXT NOT NULL, "
            "key TEXT NOT NULL, value BLOB NOT NULL, "
            "PRIMARY KEY (shelf, account, key))"
        )
        connection.execute(
            "INSERT INTO item VALUES ('check', '', '', ?)",
            (seal(AESGCM(key), b"tillie", "check", "", ""),),
        )
        # the schema's number lies in the file's header, where a program that
        # is too old can read it without touching anything (REL-25)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _write(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        os.fchmod(handle, 0o600)
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def sync(folder: Path) -> None:
    """Have what stands in *folder* outlive a loss of power.

    :raises OSError: it cannot be done.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connect(folder: Path) -> sqlite3.Connection:
    path = folder / DATABASE
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(b"SQLite format 3\0") or len(head) < 100:
        raise damaged(folder, "it is not an SQLite database")
    version = int.from_bytes(head[60:64], "big")
    if version > SCHEMA:
        raise StoreFault(
            f"the database {path} was written by a newer Tillie "
            f"(schema {version}; this one knows {SCHEMA})",
            hint="install the newer version again; nothing was changed",
        )
    # SQLite gives its -wal file the mode of the database
    path.chmod(0o600)
    _check(folder)
    _write_log_again(folder)
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # FAST zeroes what is deleted wherever a page is written anyway, which holds for
    # every small record, keys among them; all are under the key file besides
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


def _check(folder: Path) -> None:
    """Look before anything is written: a read-only connection moves nothing from
    the log into a damaged file, and leaves the log where it is."""
    if (folder / MARKER).exists() and not (folder / f"{DATABASE}-wal").exists():
        raise damaged(folder, "its log is missing, and what was written last with it")
    uri = (folder / DATABASE).absolute().as_uri() + "?mode=ro"
    index = folder / f"{DATABASE}-shm"
    known = index.exists()
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as look:
            verdict = look.execute("PRAGMA quick_check(1)").fetchone()[0]
    finally:
        # the index of the log, which a reader makes; the lock keeps others out
        if not known:
            index.unlink(missing_ok=True)
    if verdict != "ok":
        raise damaged(folder, str(verdict))


def _write_log_again(folder: Path) -> None:
    """After a bad end the log can be readable and yet not be on the disk: pages whose
    ``fsync`` failed look written.  Written again they are kept, or this start fails.

    :raises OSError: they are not.
    """
    with suppress(FileNotFoundError), (folder / f"{DATABASE}-wal").open("r+b") as log:
        data = log.read()
        log.seek(0)
        log.write(data)
        log.flush()
        os.fsync(log.fileno())


def mark_open(folder: Path, connection: sqlite3.Connection) -> None:
    """From here until a good end there is a log; without it, state went back.

    The write makes the log before the marker says that there is one.
    """
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    if not (folder / MARKER).exists():
        _write(folder / MARKER, b"")
        sync(folder)


def damaged(folder: Path, why: str) -> StoreFault:
    return StoreFault(
        f"the database {folder / DATABASE} is damaged: {' '.join(why.split())}",
        hint="nothing was changed; put the folder back from your backup (to start "
        "anew, move it away: your contacts will be warned of the new keys)",
    )


def seal(box: AESGCM, value: bytes, shelf: str, account: str, key: str) -> bytes:
    nonce = token(12)
    return nonce + box.encrypt(nonce, value, fields("store", shelf, account, key))
