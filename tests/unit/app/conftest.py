from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.app.cli import main


def start_answering(state: Path) -> subprocess.Popen[str]:
    """Start the stand-in; umask 000 inside it (LOC-13)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.app.answering", str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        _, err = process.communicate()
        raise AssertionError(f"the stand-in did not start: {err}")
    return process


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a stand-in that runs."""
    # Longer than a Unix address may be: it must work there too.
    state = tmp_path_factory.mktemp("long") / ("x" * 120) / "state"
    process = start_answering(state)
    yield state
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not (state / "control").exists(), "a clean end removes the socket"


@dataclass
class Said:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def tillie(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Run a command line in this process, without the machine's own settings."""
    for name in list(os.environ):
        if name.startswith("TILLIE_"):
            monkeypatch.delenv(name)
    umask = os.umask(0o022)

    def run(*argv: str | Path) -> Said:
        code = main([str(one) for one in argv])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    yield run
    os.umask(umask)
