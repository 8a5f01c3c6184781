"""Several gates over one database, one of them killed at a bad moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.gate.questions import (
    Issued,
    LookUp,
    Object,
    Question,
    Record,
    Removed,
    Vouched,
)
from proxy.keys import databases
from proxy.keys.identity import DevicePrivate
from proxy.keys.registry import Registry, Reset
from tests.support.persons import DAY, HOUR, JULIET, NOW, Person, ask

from . import gate
from .conftest import POSTGRESQL

Run = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.parametrize("url", ["sqlite", POSTGRESQL], indirect=True)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    opened = databases.open_registry(url)
    yield opened
    opened.close()


@pytest.fixture
def run(url: str, tmp_path: Path) -> Iterator[Run]:
    started = []

    def running(*what: str, questions: list[Question]) -> subprocess.Popen[str]:
        file = tmp_path / f"questions-{len(started)}"
        gate.write(file, questions)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.gate", url, *what, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield running
    for process in started:
        process.kill()
        process.communicate()


def versions(juliet: Person, count: int) -> list[Question]:
    made: list[Question] = [juliet.vouch()]
    for _ in range(count - 1):
        juliet.add(DevicePrivate.generate())
        made.append(juliet.vouch())
    return made


def test_dir_13_one_is_killed_before_its_commit(registry: Registry, run: Run) -> None:
    juliet = Person()
    process = run("hang", "before", questions=[juliet.vouch()])
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.wait()
    before = time.monotonic()
    said = ask(registry, juliet.vouch())
    assert isinstance(said, Vouched)
    assert said.first, "what was not committed was kept"
    assert time.monotonic() - before < 3, "the lock of the dead one was waited for"
    with registry.transaction(writing=False):
        assert [one.what for one in registry.events(JULIET)] == ["first-key"]


def test_rel_29_one_is_killed_behind_its_commit(registry: Registry, run: Run) -> None:
    juliet, thief = Person(), Person()
    process = run("hang", "after", questions=[juliet.vouch()])
    assert process.stdout is not None
    assert process.stdout.readline() == "Vouched\n"
    process.kill()
    process.wait()
    record = ask(registry, LookUp(JULIET))
    assert isinstance(record, Record)
    assert record.digest == juliet.manifest.digest
    assert not isinstance(ask(registry, thief.vouch()), Vouched)


def test_dir_13_two_at_once_give_no_number_twice(registry: Registry, run: Run) -> None:
    """Both take the same manifests and tokens in another order."""
    juliet = Person()
    vouches = versions(juliet, 12)
    tokens: list[list[Question]] = [
        [
            Issued(
                JULIET,
                f"token-{who}-{number}",
                bytes([who, number]) * 16,
                juliet.manifest.digest,
                NOW + DAY,
            )
            for number in range(25)
        ]
        for who in (1, 2)
    ]
    gates = [
        run("vouch", questions=[*vouches, *tokens[0]]),
        run("vouch", questions=[*vouches[::-1], *vouches, *tokens[1]]),
    ]
    for one in gates:
        said, complaint = one.communicate(timeout=60)
        assert one.returncode == 0, complaint
        assert "Refused" not in said
    record = ask(registry, LookUp(JULIET))
    assert isinstance(record, Record)
    assert record.digest == juliet.manifest.digest
    with registry.transaction(writing=False):
        taken = [one.text for one in registry.events(JULIET)]
        newest = registry.token(JULIET)
    numbers = [int(text.rpartition(" ")[2]) for text in taken]
    assert numbers == sorted(set(numbers)), "a number came twice, or went back"
    assert numbers[-1] == 12
    # every one of the fifty got a number of its own
    assert newest is not None
    assert newest.number == 50


def test_two_roots_at_once_and_one_is_the_first(registry: Registry, run: Run) -> None:
    people = [Person() for _ in range(4)]
    gates = [run("vouch", questions=[one.vouch()] * 5) for one in people]
    outcomes = []
    for one in gates:
        said, complaint = one.communicate(timeout=60)
        assert one.returncode == 0, complaint
        outcomes.append(set(said.split()))
    assert sorted(map(sorted, outcomes)) == [["Refused"]] * 3 + [["Vouched"]]
    with registry.transaction(writing=False):
        assert [one.what for one in registry.events(JULIET)] == ["first-key"]


def test_a_tombstone_holds_at_the_other_gate(
    registry: Registry, url: str, run: Run
) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    ask(registry, Removed(JULIET))
    other = run("vouch", questions=[juliet.vouch()])
    said, complaint = other.communicate(timeout=60)
    assert (other.returncode, said) == (0, "Refused\n"), complaint


def test_an_objection_at_one_gate_ends_a_reset_for_all(
    registry: Registry, run: Run
) -> None:
    juliet, second = Person(), Person()
    ask(registry, juliet.vouch())
    with registry.transaction():
        registry.put_reset(Reset(JULIET, NOW - 80 * HOUR, NOW - HOUR))
    objection = Object(JULIET, juliet.device.public, NOW - HOUR)
    assert ask(registry, objection).__class__.__name__ == "Yes"
    other = run("vouch", questions=[second.vouch()])
    said, complaint = other.communicate(timeout=60)
    assert (other.returncode, said) == (0, "Refused\n"), complaint
