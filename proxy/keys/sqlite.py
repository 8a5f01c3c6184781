"""The store of the proxy: one SQLite file, every value encrypted under a key file.

WAL with ``synchronous=FULL``: after a power loss a committed index is still
committed, or it could be used twice (REL-40).  The database is held in
exclusive locking mode, and a lock file keeps a second Tillie off the folder.

Values are AES-256-GCM under the key file, bound to shelf, account and key, so
that rows cannot be swapped.  Shelves, accounts (bare JIDs) and keys are in
clear.  Damage, a missing key file or a missing database is an error for the
person; nothing is ever made anew in its place (REL-17, REL-18).

A full disk fails a commit, and the next one is tried again (REL-14).  When the disk
says that it lost a write (``fsync`` failed), the store is closed for good: the kernel
takes such pages for written, and the next ``fsync`` would not speak of them (REL-15).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import LocalFault, LostFault, StoreFault
from ..suites.fields import fields
from .storefiles import MARKER, connect, damaged, key_of, lock_folder, mark_open, seal

_LOST = {
    sqlite3.SQLITE_IOERR_FSYNC: "the disk failed to keep what was written to it",
    sqlite3.SQLITE_IOERR_DIR_FSYNC: "the disk failed to keep what was written to it",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged",
}


def open_store(
    folder: Path, *, before_commit: Callable[[], None] | None = None
) -> SqliteStore:
    """Open the store in *folder*, making it at the very first start only.

    :raises StoreFault: the folder is in use, cannot be written, or what is in
        it is damaged, incomplete or newer than this program.
    """
    try:
        return _open(folder, before_commit)
    except OSError as error:
        raise StoreFault(
            f"the state folder {folder} cannot be used: {error.strerror or error}",
            hint="make it a folder that you own and can write, or give --state",
        ) from error
    except sqlite3.OperationalError as error:
        raise StoreFault(
            f"the database in {folder} cannot be used: {error}",
            hint="look whether another program has it open, and whether the disk is "
            "full, read-only, or out of your reach",
        ) from error
    except sqlite3.Error as error:
        raise damaged(folder, str(error)) from error


def _open(folder: Path, before: Callable[[], None] | None) -> SqliteStore:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise StoreFault(f"the state folder {folder} belongs to somebody else")
    folder.chmod(0o700)
    lock = lock_folder(folder)
    try:
        key = key_of(folder)
        connection = connect(folder)
        try:
            store = SqliteStore(connection, key, lock, before)
            mark_open(folder, connection)
        except BaseException:
            connection.close()
            raise
        return store
    except BaseException:
        os.close(lock)
        raise


_GET = "SELECT value FROM item WHERE shelf=? AND account=? AND key=?"
_PUT = (
    "INSERT INTO item VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
)
_DELETE = "DELETE FROM item WHERE shelf=? AND account=? AND key=?"
_SCAN = (
    "SELECT key, value FROM item WHERE shelf=? AND account=? "
    "AND key>=? AND key<? ORDER BY key"
)
_ACCOUNTS = "SELECT DISTINCT account FROM item WHERE account<>'' ORDER BY account"

_Name = tuple[str, str, str]


def _beyond(prefix: str) -> str | bytes:
    """What SQLite sorts behind all that begins with *prefix*, and before what follows.

    It compares texts by their UTF-8, which is by code points; a blob is behind all.
    """
    while prefix.endswith("\U0010ffff"):
        prefix = prefix[:-1]
    if not prefix:
        return b""
    following = ord(prefix[-1]) + 1
    # surrogates are no characters, and have no UTF-8
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following)


class SqliteStore:
    """See :class:`keys.store.Store`; made by :func:`open_store`.

    What a transaction writes is gathered and goes to the database at its end, so
    that a record that changes with each stanza of a read (a chain, a count) is
    encrypted and written once, and what it was in between never reaches the disk.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        key: bytes,
        lock: int,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        self._db = connection
        self._box = AESGCM(key)
        self._lock = lock
        self._marker = Path(
            connection.execute("PRAGMA database_list").fetchone()[2]
        ).with_name(MARKER)
        self._before = before_commit
        self._transaction = _Transaction(self)
        self._open = False
        self._begun = False
        self._wrote = False
        self._spoiled = False
        self._pending: dict[_Name, bytes | None] = {}
        self._lost: LostFault | None = None
        if self.get("check", "", "") != b"tillie":
            raise StoreFault(
                "the key file does not belong to this database",
                hint="put both back from the same backup",
            )

    def get(self, shelf: str, account: str, key: str) -> bytes | None:
        name = (shelf, account, key)
        if name in self._pending:
            return self._pending[name]
        self._check_kept()
        try:
            row = self._db.execute(_GET, name).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return None if row is None else self._read(row[0], shelf, account, key)

    def put(self, shelf: str, account: str, key: str, value: bytes) -> None:
        self._write((shelf, account, key), bytes(value))

    def delete(self, shelf: str, account: str, key: str) -> None:
        self._write((shelf, account, key), None)

    def _write(self, name: _Name, value: bytes | None) -> None:
        if not self._open:
            raise LocalFault("a write outside a transaction")
        self._pending[name] = value
        self._wrote = True

    def scan(
        self, shelf: str, account: str, prefix: str = ""
    ) -> list[tuple[str, bytes]]:
        self._check_kept()
        self._flush()
        bounds = (shelf, account, prefix, _beyond(prefix))
        try:
            rows = self._db.execute(_SCAN, bounds).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return [(key, self._read(value, shelf, account, key)) for key, value in rows]

    def accounts(self) -> list[str]:
        self._check_kept()
        self._flush()
        try:
            rows = self._db.execute(_ACCOUNTS).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return [account for (account,) in rows]

    def transaction(self) -> AbstractContextManager[None]:
        return self._transaction

    @property
    def writing(self) -> bool:
        return self._wrote

    def close(self) -> None:
        """In good order, unless the store is lost: then all is left as it lies."""
        if self._lost is None:
            # the marker first: without it a log may be there or not
            with suppress(OSError):
                self._marker.unlink()
            with suppress(sqlite3.Error):
                self._db.close()
        with suppress(OSError):
            os.close(self._lock)

    def _begin(self) -> None:
        if self._open:
            raise LocalFault("a transaction is open already")
        self._check_kept()
        self._open = True

    def _commit(self) -> None:
        if not self._wrote:
            return
        if self._spoiled:
            # SQLite may have rolled back by itself, and whoever was told went on
            raise StoreFault("a write failed before; nothing of this was kept")
        if self._before:
            self._before()
        self._flush()
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._begun = False

    def _end(self) -> None:
        """Whatever was not committed is gone."""
        self._open = self._wrote = self._spoiled = False
        self._pending.clear()
        if self._begun:
            self._begun = False
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _flush(self) -> None:
        """Put what was gathered to the database, to be committed or rolled back."""
        if not self._pending:
            return
        gone = [name for name, value in self._pending.items() if value is None]
        kept = [
            (*name, seal(self._box, value, *name))
            for name, value in self._pending.items()
            if value is not None
        ]
        try:
            if not self._begun:
                self._db.execute("BEGIN IMMEDIATE")
                self._begun = True
            if gone:
                self._db.executemany(_DELETE, gone)
            if kept:
                self._db.executemany(_PUT, kept)
        except sqlite3.Error as error:
            self._spoiled = True
            raise self._failed(error) from error
        self._pending.clear()

    def _read(self, value: bytes, shelf: str, account: str, key: str) -> bytes:
        try:
            return self._box.decrypt(
                value[:12], value[12:], fields("store", shelf, account, key)
            )
        except (InvalidTag, ValueError) as error:
            raise StoreFault(
                f"a record in the database is damaged ({shelf}), or the key file "
                "is not the one it was written with",
                hint="put the state folder back from your backup",
            ) from error

    def _failed(self, error: sqlite3.Error) -> StoreFault:
        """What to say of *error*; where a write was lost, nothing is tried again."""
        code = getattr(error, "sqlite_errorcode", 0)
        why = _LOST.get(code) or _LOST.get(code & 0xFF)
        if why is None:
            return StoreFault(
                f"the database could not be used: {error}",
                hint="look whether the disk is full or read-only",
            )
        self._lost = LostFault(
            f"the database cannot be relied on any more: {why}",
            hint="look at the disk and the system's log before you start Tillie again",
        )
        return self._lost

    def _check_kept(self) -> None:
        if self._lost is not None:
            raise self._lost


class _Transaction:
    """One after the other, so that one object does for all."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store._begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._store._commit()
        finally:
            self._store._end()
