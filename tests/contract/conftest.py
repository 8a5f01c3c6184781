"""The engines of the gate's registry, each as a way to open one more of the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.keys import databases
from proxy.keys.registry import MemoryRegistry, Registry
from tests.support.postgres import Postgres

Open = Callable[[], Registry]

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.integration)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty registry, on the disk; to be parametrised with the engine."""
    if request.param == "sqlite":
        path = tmp_path / "gate.sqlite3"
        databases.create_sqlite(path)
        return f"sqlite:///{path}"
    made = request.getfixturevalue("cluster").database()
    databases.migrate(made)
    return str(made)


@pytest.fixture(params=["memory", "sqlite", POSTGRESQL])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    if request.param == "sqlite":
        path = tmp_path / "gate.sqlite3"
        databases.create_sqlite(path)
        made = f"sqlite:///{path}"
    else:
        made = request.getfixturevalue("cluster").database()
        databases.migrate(made)
    opened = databases.open_registry(made)
    yield opened
    opened.close()
