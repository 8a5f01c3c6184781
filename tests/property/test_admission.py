"""No sequence of questions moves an account's root without a rollover, a due reset or
an administrator's word, nor its number backwards; memory and SQLite say the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import Fault
from proxy.gate import administration, admission, judging
from proxy.gate.admission import answer
from proxy.gate.questions import (
    Allocate,
    Answer,
    Changes,
    Issued,
    LookUp,
    MayTry,
    Object,
    Question,
    Registered,
    Removed,
    Resume,
    Seen,
    Streamed,
    Vouch,
)
from proxy.keys import databases
from proxy.keys.identity import DevicePrivate
from proxy.keys.registry import Account, MemoryRegistry, Registry
from tests.support.persons import HOUR, JULIET, NOW, Person

OVER = -1
"""In place of the number of a root that was replaced or removed."""
Step: TypeAlias = Callable[[Registry, int], Answer | None]


@dataclass(frozen=True, repr=False)
class Move:
    """One step after *wait* milliseconds; `step` answers or raises a Fault."""

    wait: int
    question: Question | str
    step: Step

    def __repr__(self) -> str:
        """Without manifests: Hypothesis refuses to show a hundred kilobytes."""
        asked = self.question
        if isinstance(asked, str):
            return f"{self.wait} {asked}"
        shown = {
            name: value.hex()[:8] if isinstance(value, bytes) else value
            for name in asked.__slots__
            if (value := getattr(asked, name)) not in (None, "", JULIET)
        }
        return f"{self.wait} {type(asked).__name__}({shown})"


@cache
def cast() -> list[Person]:
    """Three roots of one account, each with manifests that add, remove and revive
    devices; made once: it is the signatures that take the time."""
    people = []
    for _ in range(3):
        person, second = Person(), DevicePrivate.generate()
        first = person.manifest
        with_second = person.add(second)
        person.drop(second)
        person.add(DevicePrivate.generate())
        # another one with the number 2
        person.add(DevicePrivate.generate(), upon=first)
        # numbers 3 to 5, and the second is in use
        revived = with_second
        for _ in range(3):
            revived = person.add(DevicePrivate.generate(), upon=revived)
        people.append(person)
    return people


MANIFESTS = 8


@cache
def rollover(old: int, new: int) -> bytes | None:
    """Each root leads to the next one only."""
    people = cast()
    return people[old].rollover_to(people[new]) if (old + 1) % 3 == new else None


def devices() -> list[bytes]:
    return [
        device.public
        for one in cast()
        for device in (*one.manifests[2].devices, *one.manifests[3].devices[2:])
    ]


@st.composite
def vouches(draw: st.DrawFn) -> Question:
    """Most of them fit together, so that it is what is held that decides."""
    who = draw(st.sampled_from([0, 0, 0, 1, 2]))
    person = cast()[who]
    shown = person.manifests[draw(st.integers(0, MANIFESTS - 1))]
    own = [device.public for device in shown.active]
    device = draw(st.sampled_from([*own, own[0], own[0], *devices()[:2]]))
    sent = draw(st.integers(0, 7)) < 7
    return Vouch(
        JULIET,
        device,
        person.fingerprint if draw(st.booleans()) else None,
        shown.digest,
        shown.document.encode() if sent else None,
        rollover((who + draw(st.integers(1, 2))) % 3, who)
        if draw(st.booleans())
        else None,
        code=draw(st.sampled_from(["CODE", ""])),
    )


def others() -> st.SearchStrategy[Question]:
    person = st.sampled_from(cast())
    device = st.sampled_from(devices())
    root = st.sampled_from([one.fingerprint for one in cast()])
    due = st.sampled_from([NOW + 72 * HOUR, NOW + 73 * HOUR])
    return st.one_of(
        st.builds(
            lambda one: Allocate(
                JULIET,
                one.device.public,
                one.fingerprint,
                one.manifests[0].document.encode(),
            ),
            person,
        ),
        st.builds(Registered, st.just(JULIET), root, st.booleans()),
        st.booleans().map(lambda yes: Removed(JULIET) if yes else LookUp(JULIET)),
        st.builds(Object, st.just(JULIET), device, due),
        st.builds(Streamed, st.just(JULIET), st.sampled_from("ab"), st.just(JULIET)),
        st.builds(
            Resume,
            st.sampled_from("ab"),
            st.just("capulet.example"),
            device,
            st.one_of(st.none(), root),
        ),
        st.builds(MayTry, st.just(JULIET), device, st.one_of(st.none(), root)),
        st.builds(
            lambda one, at, expires: Issued(
                JULIET, f"t{at}", bytes([at]) * 32, one.manifests[at].digest, expires
            ),
            person,
            st.integers(0, MANIFESTS - 1),
            st.integers(NOW, NOW + 400 * HOUR),
        ),
        st.just(Seen(JULIET)),
        st.just(LookUp(JULIET)),
        st.just(Changes(0)),
    )


@pytest.fixture(autouse=True, scope="module")
def verified_once() -> Iterator[None]:
    """The cast has two dozen documents, and what one is found to be depends on its
    bytes alone: each is verified the first time that it comes.  Without that, three
    quarters of the time go into the same signatures again and again."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (admission, judging):
            patch.setattr(module, "open_manifest", cache(module.open_manifest))
        patch.setattr(judging, "open_rollover", cache(judging.open_rollover))
        yield


def asking(question: Question) -> tuple[Question, Step]:
    return question, lambda registry, now: answer(question, registry, now)


def decisions() -> st.SearchStrategy[tuple[str, Step]]:
    def reset(at_once: bool) -> tuple[str, Step]:
        def step(registry: Registry, now: int) -> None:
            administration.begin_reset(registry, JULIET, now, at_once=at_once)

        return "reset", step

    def cancel(registry: Registry, now: int) -> None:
        administration.cancel_reset(registry, JULIET, now)

    def enrol(registry: Registry, now: int) -> None:
        administration.enrol(registry, JULIET, "CODE", now)

    plain: list[tuple[str, Step]] = [("cancel", cancel), ("enrol", enrol)]
    forced = st.sampled_from([False, False, True]).map(reset)
    return st.one_of(forced, forced, st.sampled_from(plain))


@st.composite
def moves(draw: st.DrawFn) -> list[Move]:
    """Half of the steps vouch; rare ones stay rare, or nothing would last."""
    kinds = {
        "vouch": vouches().map(asking),
        "decide": decisions(),
        "ask": others().map(asking),
    }
    weighted = st.sampled_from(["vouch"] * 4 + ["decide", "ask", "ask"])
    waits = st.sampled_from([0, 0, 0, 1, HOUR, 71 * HOUR, 72 * HOUR])
    steps = [Move(0, *asking(cast()[0].vouch(cast()[0].manifests[0])))]
    for _ in range(draw(st.integers(10, 30))):
        steps.append(Move(draw(waits), *draw(kinds[draw(weighted)])))
    return steps


def take(registry: Registry, move: Move, now: int) -> Answer | str | None:
    try:
        with registry.transaction():
            return move.step(registry, now)
    except Fault as fault:
        return fault.text


def state(registry: Registry) -> list[object]:
    with registry.transaction(writing=False):
        return [
            list(registry.accounts()),
            registry.token(JULIET),
            registry.reset(JULIET),
            registry.enrolment(JULIET),
            sorted(registry.formers(JULIET), key=lambda one: one.root),
            registry.keyless(),
            [replace(one, number=0) for one in registry.events()],
        ]


def look(registry: Registry) -> tuple[Account | None, bool, int]:
    """The account, whether a reset is pending, and when it is due."""
    with registry.transaction(writing=False):
        reset = registry.reset(JULIET)
        due = 0 if reset is None else reset.due
        return registry.account(JULIET), reset is not None, due


def check(
    before: tuple[Account | None, bool, int],
    after: Account | None,
    move: Move,
    now: int,
    past: dict[bytes, int],
) -> None:
    account, pending, due = before
    if account is not None and after is None:
        assert isinstance(move.question, Removed)
    if account is not None and after is not None and after.root != account.root:
        assert isinstance(move.question, Vouch)
        rolls = move.question.rollover == _rollover(account, after)
        assert (pending and due <= now) or rolls
    if after is not None:
        assert after.seq >= past.get(after.root, 0), "a number went back"
        # a removed device of a manifest in force is in use nowhere in it
        assert not set(after.active) & set(after.removed)
    if account is not None and after is not None and after.root == account.root:
        assert after.seq > account.seq or after.digest == account.digest
        assert not set(after.active) & set(account.removed)


def _rollover(before: Account, after: Account) -> bytes:
    fingerprints = [one.fingerprint for one in cast()]
    return (
        rollover(fingerprints.index(before.root), fingerprints.index(after.root)) or b""
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves())
def test_roots_and_numbers_move_by_rule_only(steps: list[Move]) -> None:
    # in memory where there is such a folder: thousands of commits
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tillie-", dir=fast) as folder:
        path = Path(folder) / "gate.sqlite3"
        databases.create_sqlite(path)
        sqlite = databases.open_registry(f"sqlite:///{path}")
        try:
            play(MemoryRegistry(), sqlite, steps)
        finally:
            sqlite.close()


def play(memory: Registry, sqlite: Registry, steps: list[Move]) -> None:
    now, past = NOW, dict[bytes, int]()
    for move in steps:
        now += move.wait
        before = look(memory)
        assert take(memory, move, now) == take(sqlite, move, now)
        after = look(memory)[0]
        check(before, after, move, now, past)
        account = before[0]
        if account is not None and (after is None or after.root != account.root):
            past[account.root] = OVER
        if after is not None:
            assert past.get(after.root) != OVER, "a former root came back"
            past[after.root] = after.seq
    assert state(memory) == state(sqlite)
