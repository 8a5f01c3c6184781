"""How a registry's database is made, moved, refused, and what its faults become."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from proxy.errors import ConfigFault, StoreFault
from proxy.gate.questions import Streamed, Vouched
from proxy.keys import databases, schema
from proxy.keys.registry import Enrolment, Interrupted, Registry
from tests.support.persons import JULIET, Person, ask
from tests.support.postgres import Postgres

from .conftest import POSTGRESQL
from .test_registry import ACCOUNT

KNOWN = len(schema.STEPS)
both = pytest.mark.parametrize("url", ["sqlite", POSTGRESQL], indirect=True)
on_postgresql = pytest.mark.parametrize("url", [POSTGRESQL], indirect=True)


def plus(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE more (number INTEGER)")


def broken(connection: sa.Connection) -> None:
    plus(connection)
    connection.exec_driver_sql("DROP TABLE event")
    raise ZeroDivisionError


def put(registry: Registry, jid: str = JULIET) -> None:
    with registry.transaction():
        registry.put_enrolment(Enrolment(jid, b"c" * 32, 5))


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    opened = databases.open_registry(url)
    yield opened
    opened.close()


# -- schemas ----------------------------------------------------------------


@both
def test_rel_25_a_newer_schema_is_refused_and_not_touched(url: str) -> None:
    path = databases.sqlite_path(url)
    databases.migrate(url, [*schema.STEPS, plus])
    before = path and hashlib.sha256(path.read_bytes()).digest()
    for refused in (databases.open_registry, databases.migrate):
        with pytest.raises(StoreFault) as told:
            refused(url)
        assert f"schema {KNOWN + 1}; this one knows {KNOWN}" in told.value.text
    if path is not None:
        assert hashlib.sha256(path.read_bytes()).digest() == before
        assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert databases.migrate(url, [*schema.STEPS, plus])[0] == KNOWN + 1


@both
def test_an_older_schema_is_moved_by_migrate_and_by_nothing_else(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = databases.open_registry(url)
    put(registry)
    registry.close()
    monkeypatch.setattr(schema, "STEPS", [*schema.STEPS, plus])
    with pytest.raises(StoreFault) as told:
        databases.open_registry(url)
    assert f"schema {KNOWN}; this one needs {KNOWN + 1}" in told.value.text
    assert databases.migrate(url) == (KNOWN, KNOWN + 1)
    registry = databases.open_registry(url)
    with registry.transaction():
        assert registry.enrolment(JULIET) is not None
    registry.close()


@both
def test_a_registry_of_before_rollovers_is_moved(url: str) -> None:
    """Schema 1 had no column for what led to an account's root."""
    with closing(databases.open_registry(url)) as registry, registry.transaction():
        registry.put_account(ACCOUNT)
    aged(url, "ALTER TABLE account DROP COLUMN rollovers", 1)
    with pytest.raises(StoreFault, match="schema 1; this one needs 2"):
        databases.open_registry(url)
    assert databases.migrate(url) == (1, 2)
    with closing(databases.open_registry(url)) as registry, registry.transaction():
        assert registry.account(ACCOUNT.jid) == replace(ACCOUNT, rollovers=())
        registry.put_account(ACCOUNT)
        assert registry.account(ACCOUNT.jid) == ACCOUNT


def aged(url: str, statement: str, number: int) -> None:
    """Take a database back to schema *number*."""

    def back(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    # one step more than there are, so that it is run
    databases.migrate(url, [*schema.STEPS, back])
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            database.execute(f"PRAGMA user_version = {number}")
    else:
        with psycopg.connect(url) as server:
            server.execute(f"UPDATE tillie_schema SET version = {number}")


@both
def test_rel_24_a_migration_that_fails_changes_nothing(url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        databases.migrate(url, [*schema.STEPS, broken])
    registry = databases.open_registry(url)
    put(registry)
    with registry.transaction():
        assert registry.events() == []
    registry.close()
    assert databases.migrate(url, [*schema.STEPS, plus]) == (KNOWN, KNOWN + 1)


@pytest.mark.integration
def test_an_empty_postgresql_says_how_it_is_made(cluster: Postgres) -> None:
    url = cluster.database()
    with pytest.raises(StoreFault) as told:
        databases.open_registry(url)
    assert "empty" in told.value.text
    assert "gate migrate" in told.value.hint
    assert databases.migrate(url) == (0, KNOWN)
    assert databases.migrate(url) == (KNOWN, KNOWN)
    databases.open_registry(url).close()


@pytest.mark.integration
def test_two_migrations_at_once_are_one(cluster: Postgres) -> None:
    url = cluster.database()
    code = f"from proxy.keys import databases; print(databases.migrate({url!r}))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = {one.communicate(timeout=60)[0].strip() for one in both}
    assert said == {f"(0, {KNOWN})", f"({KNOWN}, {KNOWN})"}


# -- SQLite's file ----------------------------------------------------------


def test_rel_18_a_missing_file_is_not_made_anew(tmp_path: Path) -> None:
    for call in (databases.open_registry, databases.migrate):
        with pytest.raises(StoreFault):
            call(f"sqlite:///{tmp_path}/none.sqlite3")
    assert list(tmp_path.iterdir()) == []


def test_loc_13_nobody_else_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gate.sqlite3"
    old = os.umask(0)
    try:
        databases.create_sqlite(path)
        registry = databases.open_registry(f"sqlite:///{path}")
        put(registry)
        modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
        registry.close()
    finally:
        os.umask(old)
    assert set(modes) == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert set(modes.values()) == {0o600}


def test_rel_40_a_commit_is_synced(tmp_path: Path) -> None:
    path = tmp_path / "gate.sqlite3"
    databases.create_sqlite(path)
    registry = databases.open_registry(f"sqlite:///{path}")
    with registry.transaction():
        connection = registry._read()
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        ]
    registry.close()
    assert pragmas == ["wal", 2]


def test_a_second_first_start_takes_what_the_first_made(tmp_path: Path) -> None:
    path = tmp_path / "gate.sqlite3"
    databases.create_sqlite(path)
    registry = databases.open_registry(f"sqlite:///{path}")
    put(registry)
    databases.create_sqlite(path)
    with registry.transaction():
        assert registry.enrolment(JULIET) is not None
    registry.close()
    assert not (tmp_path / "gate.sqlite3.new").exists()


def test_damage_is_said_and_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "gate.sqlite3"
    path.write_bytes(b"this is no database" * 500)
    before = path.read_bytes()
    with pytest.raises(StoreFault) as told:
        databases.open_registry(f"sqlite:///{path}")
    assert str(path) in told.value.text
    assert path.read_bytes() == before


def test_rel_31_a_gate_and_a_command_write_at_once(tmp_path: Path) -> None:
    """Neither hears of a lock, though both write all the time."""
    path = tmp_path / "gate.sqlite3"
    databases.create_sqlite(path)
    url = f"sqlite:///{path}"
    code = (
        "from proxy.keys import databases\n"
        "from proxy.keys.registry import Enrolment\n"
        "wait = databases.COMMAND_WAIT_MS\n"
        f"registry = databases.open_registry({url!r}, wait=wait)\n"
        "for number in range(300):\n"
        "    with registry.transaction():\n"
        "        registry.put_enrolment(\n"
        "            Enrolment(f'{number}@capulet.example', b'c' * 32, 5))\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    )
    registry = databases.open_registry(url)
    juliet, rounds = Person(), 0
    assert isinstance(ask(registry, juliet.vouch()), Vouched)
    while command.poll() is None or rounds < 50:
        ask(registry, Streamed(JULIET, f"id-{rounds}", f"{JULIET}/desk"))
        assert isinstance(ask(registry, juliet.vouch(sent=False)), Vouched)
        rounds += 1
    assert command.communicate()[1] == ""
    assert command.returncode == 0
    with registry.transaction(writing=False):
        assert registry.enrolment("299@capulet.example") is not None
    registry.close()


@pytest.mark.parametrize(
    "url",
    ["", "sqlite://", "sqlite:///", "mysql://h/d", "postgresql", "/var/gate.sqlite3"],
)
def test_a_store_that_is_none_is_wrong_configuration(url: str) -> None:
    with pytest.raises(ConfigFault):
        databases.open_registry(url)


# -- PostgreSQL's answers ---------------------------------------------------


@on_postgresql
def test_dir_13_a_role_without_rights_is_told(url: str, cluster: Postgres) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE poor{os.getpid()} LOGIN")
    name = url.rpartition("/d")[2].partition("?")[0]
    poor = databases.open_registry
    with pytest.raises(StoreFault) as told:
        poor(cluster.url(f"d{name}", f"poor{os.getpid()}"))
    assert "permission denied" in told.value.text


@on_postgresql
def test_dir_13_a_standby_may_be_another_soon(url: str) -> None:
    registry = databases.open_registry(url)
    with psycopg.connect(url, autocommit=True) as admin:
        name = admin.execute("SELECT current_database()").fetchone()[0]  # type: ignore[index]
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    registry.close()
    standby = databases.open_registry(url)
    with pytest.raises(Interrupted) as told:
        put(standby)
    assert "read-only" in told.value.text
    standby.close()


@on_postgresql
def test_dir_13_a_session_that_was_ended_may_begin_again(
    url: str, registry: Registry
) -> None:
    def ended() -> None:
        with registry.transaction():
            registry.put_enrolment(Enrolment(JULIET, b"c" * 32, 5))
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            registry.enrolment(JULIET)

    with pytest.raises(Interrupted):
        ended()
    with registry.transaction():
        assert registry.enrolment(JULIET) is None
    put(registry)
    with registry.transaction():
        assert registry.enrolment(JULIET) is not None


@on_postgresql
def test_rel_29_commits_wait_for_the_disk_even_where_the_server_would_not(
    url: str,
) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        name = admin.execute("SELECT current_database()").fetchone()[0]  # type: ignore[index]
        admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    registry = databases.open_registry(url)
    with registry.transaction():
        found = registry._read().exec_driver_sql("SHOW synchronous_commit").scalar()
    registry.close()
    assert found == "on"


@on_postgresql
def test_data_that_cannot_be_stored_is_a_bug_of_ours(registry: Registry) -> None:
    from proxy.errors import LocalFault

    with pytest.raises(LocalFault):
        put(registry, "a\0b@capulet.example")


@pytest.mark.integration
def test_dir_11_a_server_that_is_not_there(cluster: Postgres) -> None:
    url = cluster.url("none").replace(str(cluster.folder), str(cluster.folder / "no"))
    with pytest.raises(StoreFault) as told:
        databases.open_registry(url)
    assert "could not be opened" in told.value.text
