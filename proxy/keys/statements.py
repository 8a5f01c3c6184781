"""What the registry says to its database, and records as rows of its tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from . import schema
from .registry import Account

T = TypeVar("T")

_KEY: Final = 32

_c = schema.account.c
_NAMES: Final[sa.BindParameter[str]] = sa.bindparam("names", expanding=True)
ONE_ACCOUNT: Final = sa.select(schema.account).where(_c.jid == sa.bindparam("jid"))
MANY_ACCOUNTS: Final = sa.select(schema.account).where(_c.jid.in_(_NAMES))
ONE_TOKEN: Final = sa.select(schema.token).where(
    schema.token.c.account == sa.bindparam("jid")
)
MANY_TOKENS: Final = sa.select(schema.token).where(schema.token.c.account.in_(_NAMES))
MANY_RESETS: Final = sa.select(schema.reset).where(schema.reset.c.account.in_(_NAMES))
ONE_STREAM: Final = sa.select(schema.stream).where(
    schema.stream.c.id == sa.bindparam("id")
)
ONE_SERVER: Final = sa.select(schema.server).where(
    schema.server.c.domain == sa.bindparam("domain")
)
ONE_ENROLMENT: Final = sa.select(schema.enrolment).where(
    schema.enrolment.c.account == sa.bindparam("jid")
)
FORMERS: Final = (
    sa.select(schema.former)
    .where(schema.former.c.account == sa.bindparam("jid"))
    .order_by(schema.former.c.ended)
)
ALLOCATIONS_OF: Final = schema.allocation.delete().where(
    schema.allocation.c.account == sa.bindparam("jid")
)
LOCK: Final = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number")))


@cache
def upserts(table: sa.Table, in_sqlite: bool) -> sa.Executable:
    """Insert a row or put it in the place of the one that is there."""
    insert = sqlite.insert(table) if in_sqlite else postgresql.insert(table)
    return _replacing(insert, table)


def upsert_all(table: sa.Table, rows: list[dict[str, Any]]) -> sa.Executable:
    """The same for many rows in one statement of PostgreSQL."""
    return _replacing(postgresql.insert(table).values(rows), table)


def _replacing(insert: Any, table: sa.Table) -> sa.Executable:
    keys = [column.name for column in table.primary_key]
    rest = {
        column.name: insert.excluded[column.name]
        for column in table.columns
        if column.name not in keys
    }
    made: sa.Executable = insert.on_conflict_do_update(index_elements=keys, set_=rest)
    return made


def in_order(
    table: sa.Table, column: sa.Column[str], in_sqlite: bool
) -> sa.Select[Any]:
    """All of *table* by code points, whatever the database's language."""
    return sa.select(table).order_by(column if in_sqlite else column.collate("C"))


def account_of(row: sa.Row[Any]) -> Account:
    """A row of the table of accounts, whose columns stand in the record's order."""
    values = tuple[Any, ...](row)
    jid, root, seq, digest, manifest, *keys, since, changed, seen, leading = values
    active, removed = map(keys_of, keys)
    rollovers = tuple(json.loads(leading or "[]"))
    return Account(
        jid,
        root,
        seq,
        digest,
        manifest,
        active,
        removed,
        since,
        changed,
        seen,
        rollovers,
    )


def values_of_account(account: Account) -> dict[str, Any]:
    """Undo :func:`account_of`."""
    values = values_of(account)
    values["active"] = b"".join(account.active)
    values["removed"] = b"".join(account.removed)
    leading = account.rollovers
    values["rollovers"] = json.dumps(leading) if leading else None
    return values


def made(kind: Callable[..., T], row: sa.Row[Any]) -> T:
    """A record whose members are the columns, in their order."""
    return kind(*row)


def keys_of(joined: bytes) -> tuple[bytes, ...]:
    """Public keys that stand one behind the other in a column."""
    return tuple(joined[at : at + _KEY] for at in range(0, len(joined), _KEY))


def values_of(record: Any) -> dict[str, Any]:
    """A record's members by the names of the columns."""
    return {name: getattr(record, name) for name in record.__slots__}
