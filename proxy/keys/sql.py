"""The gate's registry in SQLite or PostgreSQL, through SQLAlchemy Core.

SQLite: WAL with ``synchronous=FULL``; a transaction that may write takes the
one write lock at its beginning, and waits for it.  PostgreSQL: READ COMMITTED,
where everything that changes an account first takes an advisory lock on its
name, which holds for names that have no row yet too.  Both: what was answered
is on the disk, as far as the database keeps its word.

Whatever the database says against it becomes a ``StoreFault`` at the end of the
transaction at the latest: ``Interrupted`` where the same once more may do, a
``LocalFault`` where the data could never be stored.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from sqlite3 import SQLITE_BUSY
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from ..errors import LocalFault, StoreFault
from . import schema, statements
from .registry import (
    ALLOCATIONS_KEPT,
    STREAMS_KEPT,
    Account,
    Allocation,
    Enrolment,
    Event,
    Former,
    HeldToken,
    Interrupted,
    Reset,
    Server,
    Stream,
)

T = TypeVar("T")

_AGAIN: Final = ("08", "40", "57P01", "57P02", "57P03", "25P03", "25006")
"""SQLSTATEs, or their classes, after which a new connection may fare better:
connection lost, serialisation and deadlocks, shut down, idle too long, and a
server that became a standby."""
_GAP: Final = 0.25
"""Of the time that a writing transaction took, between it and the next one."""
_LEAST_GAP: Final = 0.001


def begin_sqlite(connection: sa.Connection, *, writing: bool, wait: float) -> None:
    """Begin a transaction, waiting *wait* seconds for whoever writes.

    SQLite asks for the lock less and less often while it waits; it is let wait for
    a moment only, and begins anew.
    """
    statement = "BEGIN IMMEDIATE" if writing else "BEGIN"
    until = time.monotonic() + wait
    while True:
        try:
            connection.exec_driver_sql(statement)
            return
        except exc.OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0)
            # the low byte is the family of an extended code
            if code & 0xFF != SQLITE_BUSY or time.monotonic() > until:
                raise


class SqlRegistry:
    """See :class:`keys.registry.Registry`; made by ``keys.databases``.

    One connection, used by one thread at a time.

    :param where: what the database is called in messages, without a password.
    :param before_commit: called before each commit of a transaction that may
        write; a test lets it raise or kills the process in it.
    :param wait: milliseconds for SQLite's one write lock.
    """

    def __init__(
        self,
        engine: sa.Engine,
        where: str,
        before_commit: Callable[[], None] | None = None,
        wait: int = 0,
    ) -> None:
        self._engine = engine
        self._where = where
        self._before = before_commit
        self._wait = wait / 1000
        self._not_before = 0.0
        self._sqlite = engine.dialect.name == "sqlite"
        self._db: sa.Connection | None = None
        self._writes = False
        self._accounts: dict[str, Account | None] = {}
        self._tokens: dict[str, HeldToken | None] = {}
        self._resets: dict[str, Reset | None] = {}
        self._streams: dict[bytes, Stream] = {}
        self._waiting: dict[sa.Table, dict[object, dict[str, Any]]] = {}

    @contextmanager
    def transaction(self, *, writing: bool = True) -> Iterator[None]:
        if self._db is not None:
            raise LocalFault("a transaction is open already")
        try:
            with self._engine.connect() as connection:
                self._db, self._writes = connection, writing
                began = self._begin()
                try:
                    yield
                    self._commit()
                except BaseException:
                    self._roll_back()
                    raise
                finally:
                    self._rest(began)
        except exc.DBAPIError as error:
            raise self._fault(error) from error
        finally:
            self._db, self._writes = None, False
            for held in (self._accounts, self._tokens, self._resets, self._streams):
                held.clear()
            self._waiting.clear()

    def _begin(self) -> float:
        """Begin, where SQLAlchemy does not by itself; when that was."""
        if self._sqlite:
            if self._writes:
                time.sleep(max(0.0, self._not_before - time.monotonic()))
            begin_sqlite(self._read(), writing=self._writes, wait=self._wait)
        return time.monotonic()

    def _rest(self, began: float) -> None:
        """SQLite's lock is no queue, and a process that wants it again at once has
        it again: others get a share of the time to come first (REL-31)."""
        now = time.monotonic()
        self._not_before = now + max(_LEAST_GAP, _GAP * (now - began))

    def _commit(self) -> None:
        self._write(*self._waiting)
        if self._streams:
            self._put(
                schema.stream,
                [statements.values_of(one) for one in self._streams.values()],
            )
        if self._before and self._writes:
            self._before()
        if self._sqlite:
            self._read().exec_driver_sql("COMMIT")
        else:
            self._read().commit()

    def _roll_back(self) -> None:
        # where the connection is lost, so is what it had begun
        with suppress(exc.SQLAlchemyError):
            if self._sqlite:
                self._read().exec_driver_sql("ROLLBACK")
            else:
                self._read().rollback()

    def _fault(self, error: exc.DBAPIError) -> StoreFault | LocalFault:
        if isinstance(error, exc.DataError | exc.IntegrityError):
            return LocalFault("the database does not take what it was given")
        why = " ".join(str(error.orig).split())
        text = f"the database {self._where} could not be used: {why}"
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(_AGAIN):
            return Interrupted(text, hint="look whether it runs and can be reached")
        return StoreFault(text, hint="look at its log, its rights and its disk")

    # -- accounts -------------------------------------------------------------

    def expect(self, accounts: Iterable[str]) -> None:
        names = list(accounts)
        if not names:
            return
        self._write(schema.account, schema.token)
        self._accounts |= dict.fromkeys(names)
        self._tokens |= dict.fromkeys(names)
        self._resets |= dict.fromkeys(names)
        for row in self._rows(statements.MANY_ACCOUNTS, names=names):
            self._accounts[row.jid] = statements.account_of(row)
        for row in self._rows(statements.MANY_TOKENS, names=names):
            self._tokens[row.account] = statements.made(HeldToken, row)
        for row in self._rows(statements.MANY_RESETS, names=names):
            self._resets[row.account] = statements.made(Reset, row)

    def lock(self, name: str) -> None:
        self._writable()
        if self._sqlite:
            # nobody else has written since this transaction began
            return
        number = int.from_bytes(
            hashlib.sha256(name.encode()).digest()[:8], "big", signed=True
        )
        self._rows(statements.LOCK, number=number)
        # what was read before it may be past, unless it was written here
        for table in (schema.account, schema.token):
            if name in self._waiting.get(table, ()):
                self._write(table)
        for held in (self._accounts, self._tokens, self._resets):
            held.pop(name, None)

    def account(self, jid: str) -> Account | None:
        if jid not in self._accounts:
            row = self._row(statements.ONE_ACCOUNT, jid=jid)
            self._accounts[jid] = None if row is None else statements.account_of(row)
        return self._accounts[jid]

    def put_account(self, account: Account) -> None:
        values = statements.values_of_account(account)
        self._put_later(schema.account, account.jid, values)
        self._accounts[account.jid] = account

    def delete_account(self, jid: str) -> None:
        self._write(schema.account, schema.token)
        self._delete(schema.account, schema.account.c.jid == jid)
        self._delete(schema.token, schema.token.c.account == jid)
        self._delete(schema.stream, schema.stream.c.account == jid)
        self._accounts[jid] = self._tokens[jid] = None
        for one in [one.id for one in self._streams.values() if one.account == jid]:
            del self._streams[one]

    def accounts(self) -> Iterator[Account]:
        self._write(schema.account)
        rows = self._read().execute(
            statements.in_order(schema.account, schema.account.c.jid, self._sqlite),
            execution_options={"yield_per": 200},
        )
        return (statements.account_of(row) for row in rows)

    def token(self, jid: str) -> HeldToken | None:
        if jid not in self._tokens:
            row = self._row(statements.ONE_TOKEN, jid=jid)
            self._tokens[jid] = None if row is None else statements.made(HeldToken, row)
        return self._tokens[jid]

    def put_token(self, token: HeldToken) -> None:
        self._put_later(schema.token, token.account, statements.values_of(token))
        self._tokens[token.account] = token

    # -- streams, registrations ------------------------------------------------

    def stream(self, stream_id: bytes) -> Stream | None:
        if stream_id in self._streams:
            return self._streams[stream_id]
        row = self._row(statements.ONE_STREAM, id=stream_id)
        return None if row is None else statements.made(Stream, row)

    def put_stream(self, stream: Stream) -> None:
        self._writable()
        self._streams[stream.id] = stream

    def allocation(self, jid: str, root: bytes) -> Allocation | None:
        table = schema.allocation.c
        return self._one(
            Allocation, schema.allocation, table.account == jid, table.root == root
        )

    def put_allocation(self, allocation: Allocation) -> None:
        self._upsert(schema.allocation, statements.values_of(allocation))
        table = schema.allocation.c
        kept = (
            sa.select(table.root)
            .where(table.account == allocation.account)
            .order_by(table.expires.desc())
            .limit(ALLOCATIONS_KEPT)
        )
        self._delete(
            schema.allocation,
            table.account == allocation.account,
            table.root.not_in(kept),
        )

    def delete_allocations(self, jid: str, root: bytes | None = None) -> None:
        if root is None:
            self._writable().execute(statements.ALLOCATIONS_OF, {"jid": jid})
            return
        table = schema.allocation.c
        self._delete(schema.allocation, table.account == jid, table.root == root)

    # -- decisions of people -----------------------------------------------------

    def enrolment(self, jid: str) -> Enrolment | None:
        row = self._row(statements.ONE_ENROLMENT, jid=jid)
        return None if row is None else statements.made(Enrolment, row)

    def put_enrolment(self, enrolment: Enrolment) -> None:
        self._upsert(schema.enrolment, statements.values_of(enrolment))

    def delete_enrolment(self, jid: str) -> None:
        self._delete(schema.enrolment, schema.enrolment.c.account == jid)

    def reset(self, jid: str) -> Reset | None:
        if jid not in self._resets:
            table = schema.reset
            self._resets[jid] = self._one(Reset, table, table.c.account == jid)
        return self._resets[jid]

    def put_reset(self, reset: Reset) -> None:
        self._upsert(schema.reset, statements.values_of(reset))
        self._resets[reset.account] = reset

    def delete_reset(self, jid: str) -> None:
        self._delete(schema.reset, schema.reset.c.account == jid)
        self._resets[jid] = None

    def formers(self, jid: str) -> list[Former]:
        return [
            Former(
                row.account,
                row.root,
                row.seq,
                statements.keys_of(row.devices),
                row.ended,
                row.why,
            )
            for row in self._rows(statements.FORMERS, jid=jid)
        ]

    def put_former(self, former: Former) -> None:
        values = statements.values_of(former)
        values["devices"] = b"".join(former.devices)
        self._upsert(schema.former, values)

    def keyless(self) -> list[tuple[str, int]]:
        order = statements.in_order(
            schema.keyless, schema.keyless.c.account, self._sqlite
        )
        return [(row.account, row.at) for row in self._rows(order)]

    def put_keyless(self, jid: str, at: int) -> None:
        self._upsert(schema.keyless, {"account": jid, "at": at})

    # -- log, domains, upkeep --------------------------------------------------------

    def log(self, event: Event) -> None:
        values = statements.values_of(event)
        del values["number"]
        self._put_later(schema.event, len(self._waiting.get(schema.event, ())), values)

    def events(self, jid: str | None = None, since: int = 0) -> list[Event]:
        self._write(schema.event)
        table = schema.event.c
        wanted = sa.select(
            table.at, table.account, table.what, table.text, table.number
        ).where(table.at >= since)
        if jid is not None:
            wanted = wanted.where(table.account == jid)
        return [
            statements.made(Event, row)
            for row in self._rows(wanted.order_by(table.number))
        ]

    def server(self, domain: str) -> Server | None:
        row = self._row(statements.ONE_SERVER, domain=domain)
        if row is None:
            return None
        values = dict(row._mapping)
        return Server(**{**values, "rollovers": tuple(values["rollovers"])})

    def put_server(self, server: Server) -> None:
        values = statements.values_of(server)
        values["rollovers"] = list(server.rollovers)
        self._upsert(schema.server, values)

    def prune(self, now: int) -> None:
        table = schema.stream.c
        self._delete(schema.stream, table.expires <= now)
        self._delete(schema.allocation, schema.allocation.c.expires <= now)
        many = sa.select(table.account).group_by(table.account)
        for row in self._rows(many.having(sa.func.count() > STREAMS_KEPT)):
            own = sa.select(table.id).where(table.account == row.account)
            kept = own.order_by(table.made.desc()).limit(STREAMS_KEPT)
            self._delete(
                schema.stream, table.account == row.account, table.id.not_in(kept)
            )

    def close(self) -> None:
        self._engine.dispose()

    # -- statements --------------------------------------------------------------------

    def _read(self) -> sa.Connection:
        if self._db is None:
            raise LocalFault("the registry was read outside a transaction")
        return self._db

    def _writable(self) -> sa.Connection:
        if not self._writes:
            raise LocalFault("a write outside a writing transaction")
        return self._read()

    def _rows(self, wanted: sa.Executable, **values: object) -> list[sa.Row[Any]]:
        return list(self._read().execute(wanted, values).fetchall())

    def _row(self, wanted: sa.Executable, **values: object) -> sa.Row[Any] | None:
        return self._read().execute(wanted, values).first()

    def _one(
        self, kind: Callable[..., T], table: sa.Table, *which: sa.ColumnElement[bool]
    ) -> T | None:
        row = self._row(sa.select(table).where(*which))
        return None if row is None else statements.made(kind, row)

    def _delete(self, table: sa.Table, *which: sa.ColumnElement[bool]) -> None:
        self._writable().execute(table.delete().where(*which))

    def _put_later(self, table: sa.Table, key: object, values: dict[str, Any]) -> None:
        """Write it with others of its kind at the end: each first login has one.

        Until then it is in what is held of the account, or nobody asks.
        """
        self._writable()
        self._waiting.setdefault(table, {})[key] = values

    def _write(self, *tables: sa.Table) -> None:
        """Write what waits for these, before they are read or changed otherwise."""
        for table in tables:
            rows = self._waiting.pop(table, None)
            if rows:
                self._put(table, list(rows.values()))

    def _put(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if self._sqlite:
            self._writable().execute(statements.upserts(table, in_sqlite=True), rows)
        else:
            # one statement, so that its time is limited as a whole
            self._writable().execute(statements.upsert_all(table, rows))

    def _upsert(self, table: sa.Table, *rows: dict[str, object]) -> None:
        self._writable().execute(statements.upserts(table, self._sqlite), list(rows))
