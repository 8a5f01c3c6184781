"""From the URL of a gate's registry to the registry (``--store``).

``sqlite:///FILE`` or ``postgresql://…``, which libpq reads as it stands: several
hosts, Unix sockets, ``sslmode`` and the like are its own.  Nothing waits here for
longer than a login may (:data:`WAIT_MS`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import QueuePool

from ..errors import ConfigFault, StoreFault
from . import schema
from .sql import SqlRegistry, begin_sqlite
from .storefiles import sync

FILE: Final = "gate.sqlite3"
WAIT_MS: Final = 3_000
"""For a connection, a lock or an answer."""
COMMAND_WAIT_MS: Final = 30_000
"""For a lock of SQLite's where nobody waits at a login.  Its locks are no queue: who
writes all the time, as a gate does when many log in, can come first many times."""
POLL_MS: Final = 5
"""How long SQLite itself waits for a lock; see ``sql.begin_sqlite``."""
_SQLITE: Final = "sqlite:///"
_POSTGRESQL: Final = ("postgresql://", "postgres://")


def default_url(state: Path) -> str:
    return f"{_SQLITE}{state / FILE}"


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; None for PostgreSQL.

    :raises ConfigFault: neither of the two.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return Path(url[len(_SQLITE) :]).absolute()
    if url.startswith(_POSTGRESQL):
        return None
    raise ConfigFault(
        "a store is sqlite:///FILE or postgresql://…",
        hint="for example --store postgresql://gate@/tillie?host=/run/postgresql",
    )


def open_registry(
    url: str,
    before_commit: Callable[[], None] | None = None,
    *,
    wait: int = WAIT_MS,
) -> SqlRegistry:
    """Open a registry whose database is there; nothing is created.

    :param wait: milliseconds for a lock of SQLite's.
    :raises ConfigFault: *url* is none of ours.
    :raises StoreFault: it cannot be reached, is empty, or of another schema.
    """
    path = sqlite_path(url)
    engine, where = _engine(url, path, wait)
    registry = SqlRegistry(engine, where, before_commit, wait)
    try:
        if path is not None:
            _look(path, len(schema.STEPS))
        with _told(where), engine.connect() as connection:
            schema.check(connection, where)
    except BaseException:
        engine.dispose()
        raise
    return registry


def create_sqlite(path: Path) -> None:
    """Make an empty registry at a first start, readable by its owner only.

    Complete under another name before it takes its own, so that a crash between
    leaves a first start.

    :raises StoreFault: the folder cannot be written.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        for suffix in ("", "-wal", "-shm", "-journal"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        migrate(f"{_SQLITE}{fresh}")
        os.link(fresh, path)
        fresh.unlink()
        sync(path.parent)
    except FileExistsError:
        # another gate of this folder was first
        fresh.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFault(
            f"the database {path} cannot be made: {error.strerror or error}",
            hint="make its folder one that you own and can write",
        ) from error


def first_start(url: str, keys: Iterable[Path]) -> None:
    """Make an empty SQLite registry where there was none before.

    :param keys: of the domains; where one lies, there was a registry too.
    :raises StoreFault: it is missing, and what it knew with it.
    """
    path = sqlite_path(url)
    if path is None or path.exists():
        return
    for key in keys:
        if key.exists():
            raise StoreFault(
                f"the database {path} is missing, but {key.name} is there",
                hint="put it back from your backup: without it, anybody with a "
                "password could bring a first key (to start anew, move both away)",
            )
    create_sqlite(path)


def migrate(url: str, steps: Sequence[schema.Step] | None = None) -> tuple[int, int]:
    """Create or move a database; the numbers before and after.

    :param steps: other than those of this program.
    :raises StoreFault: it cannot be reached or is newer.
    """
    steps = schema.STEPS if steps is None else steps
    path = sqlite_path(url)
    engine, where = _engine(url, path, COMMAND_WAIT_MS)
    try:
        if path is not None:
            _look(path, len(steps))
        with _told(where), engine.connect() as connection:
            if path is not None:
                begin_sqlite(connection, writing=True, wait=COMMAND_WAIT_MS / 1000)
            found = schema.migrate(connection, where, steps)
            if path is not None:
                connection.exec_driver_sql("COMMIT")
                # the number in the file itself is what an older program reads
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            else:
                connection.commit()
    finally:
        engine.dispose()
    return found, len(steps)


# -- engines ----------------------------------------------------------------


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what a database says at connecting into a ``StoreFault``."""
    try:
        yield
    except exc.DBAPIError as error:
        why = " ".join(str(error.orig).split())
        raise StoreFault(
            f"the database {where} could not be opened: {why}",
            hint="look whether it runs, and at its rights",
        ) from error


def _engine(url: str, path: Path | None, wait: int) -> tuple[sa.Engine, str]:
    if path is not None:
        return _sqlite_engine(path, wait), str(path)
    return _postgresql_engine(url)


def _sqlite_engine(path: Path, wait: int) -> sa.Engine:
    import sqlite3

    def connect() -> sqlite3.Connection:
        # mode=rw: a missing file is an error, never a new and empty registry
        uri = path.as_uri() + "?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=wait / 1000
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # from here on the registry itself waits for its turn
            connection.execute(f"PRAGMA busy_timeout = {POLL_MS}")
        except BaseException:
            connection.close()
            raise
        return connection

    # the isolation level tells SQLAlchemy to leave BEGIN and COMMIT to us
    return sa.create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=1,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    )


def _postgresql_engine(url: str) -> tuple[sa.Engine, str]:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigFault(
            "PostgreSQL needs psycopg, which is not installed",
            hint="pip install 'tillie[postgresql]'",
        ) from error
    try:
        named = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        raise ConfigFault("the postgresql:// address is not valid") from error

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(url, **_limits(named))
        try:
            # a login that was told yes must outlive a crash (REL-29)
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=1,
        isolation_level="READ COMMITTED",
    )
    name = named.get("dbname") or named.get("user") or ""
    return engine, f"{name} at {named.get('host') or 'its default place'}"


def _limits(named: dict[str, Any]) -> dict[str, Any]:
    seconds = WAIT_MS // 1000
    ours = (
        f"-c statement_timeout={WAIT_MS} -c lock_timeout={WAIT_MS} "
        f"-c idle_in_transaction_session_timeout={3 * WAIT_MS}"
    )
    return {
        "connect_timeout": seconds,
        "tcp_user_timeout": WAIT_MS,
        "keepalives_idle": 10,
        "application_name": named.get("application_name") or "tillie gate",
        "options": " ".join(filter(None, (named.get("options"), ours))),
    }


# -- SQLite's file ----------------------------------------------------------


def _look(path: Path, known: int) -> None:
    """Read the number in the file's header before anything opens it (REL-25)."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
        found = int.from_bytes(head[60:64], "big")
        if head.startswith(b"SQLite format 3\0") and found > known:
            raise schema.newer(str(path), found, known)
        # SQLite gives its -wal file the mode of the database
        path.chmod(0o600)
    except FileNotFoundError:
        raise StoreFault(
            f"there is no database {path}", hint="look at --store and --state"
        ) from None
    except OSError as error:
        raise StoreFault(
            f"the database {path} cannot be read: {error.strerror or error}"
        ) from error
