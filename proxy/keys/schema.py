"""The tables of the gate's registry, and how a database comes to have them.

A database says by one number which tables it has.  A newer one than this
program knows is not touched; an older one is moved by ``tillie gate migrate``,
inside one transaction, so that it is as before or as after and never between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import sqlalchemy as sa

from ..errors import StoreFault

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_metadata = sa.MetaData()

account = sa.Table(
    "account",
    _metadata,
    sa.Column("jid", sa.Text, primary_key=True),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("active", sa.LargeBinary, nullable=False),
    sa.Column("removed", sa.LargeBinary, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("rollovers", sa.Text),
)

token = sa.Table(
    "token",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
)

stream = sa.Table(
    "stream",
    _metadata,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("jid", sa.Text, nullable=False),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False, index=True),
    sa.Index("stream_of_account", "account", "made"),
    sqlite_with_rowid=False,
)

allocation = sa.Table(
    "allocation",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("root", sa.LargeBinary, primary_key=True),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False, index=True),
)

enrolment = sa.Table(
    "enrolment",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("code", sa.LargeBinary, nullable=False),
    sa.Column("made", sa.BigInteger, nullable=False),
)

reset = sa.Table(
    "reset",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("begun", sa.BigInteger, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("forced", sa.Boolean, nullable=False),
)

former = sa.Table(
    "former",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("root", sa.LargeBinary, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("devices", sa.LargeBinary, nullable=False),
    sa.Column("ended", sa.BigInteger, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)

keyless = sa.Table(
    "keyless",
    _metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)

event = sa.Table(
    "event",
    _metadata,
    sa.Column("number", _NUMBER, sa.Identity(), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),
    sa.Column("account", sa.Text, nullable=False, index=True),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

server = sa.Table(
    "server",
    _metadata,
    sa.Column("domain", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("rollovers", sa.JSON, nullable=False),
    sa.Column("announced", sa.BigInteger, nullable=False),
)

# PostgreSQL's place for the number; SQLite has one in the file's header, where a
# program that is too old can read it without touching anything (REL-25).
_version = sa.Table(
    "tillie_schema", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False)
)

Step: TypeAlias = Callable[[sa.Connection], None]


def _create(connection: sa.Connection) -> None:
    _metadata.create_all(connection, checkfirst=False)


def _keep_rollovers(connection: sa.Connection) -> None:
    """What led to an account's root stands beside it (protocol.md, 3.10)."""
    known = {one["name"] for one in sa.inspect(connection).get_columns(account.name)}
    if "rollovers" not in known:  # made just now, the table has it
        connection.exec_driver_sql("ALTER TABLE account ADD COLUMN rollovers TEXT")


STEPS: Final[Sequence[Step]] = (_create, _keep_rollovers)
"""Step n moves a database with the number n to n + 1; 0 is an empty one."""


def version(connection: sa.Connection) -> int:
    """The number of the database, 0 where there is nothing yet."""
    if connection.dialect.name == "sqlite":
        number = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    elif sa.inspect(connection).has_table(_version.name):
        number = connection.execute(sa.select(_version.c.version)).scalar_one()
    else:
        number = 0
    return int(number)


def check(connection: sa.Connection, where: str) -> None:
    """:raises StoreFault: the database is newer, older or empty."""
    found, known = version(connection), len(STEPS)
    if found > known:
        raise newer(where, found, known)
    if found == 0:
        raise StoreFault(
            f"the database {where} is empty", hint="create it: tillie gate migrate"
        )
    if found < known:
        raise StoreFault(
            f"the database {where} is of an older Tillie (schema {found}; this one "
            f"needs {known})",
            hint="stop all gates on it, make a backup, then: tillie gate migrate",
        )


def newer(where: str, found: int, known: int) -> StoreFault:
    return StoreFault(
        f"the database {where} was written by a newer Tillie (schema {found}; this "
        f"one knows {known})",
        hint="install the newer version again; nothing was changed",
    )


def migrate(connection: sa.Connection, where: str, steps: Sequence[Step]) -> int:
    """Bring the database up to date, in the transaction that is open.

    :returns: the number that it had.
    :raises StoreFault: it is newer.
    """
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        # two of these at once: the second waits, and finds it done
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(0)")
    found = version(connection)
    if found > len(steps):
        raise newer(where, found, len(steps))
    for step in steps[found:]:
        step(connection)
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA user_version = {len(steps)}")
    else:
        _version.create(connection, checkfirst=True)
        connection.execute(_version.delete())
        connection.execute(_version.insert().values(version=len(steps)))
    return found
