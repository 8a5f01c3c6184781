"""What refusals tell of accounts and passwords: nothing (AUTH-10, AUTH-16), and who
comes in as nobody (AUTH-08).

Not the clock is compared, which others disturb, but the work itself: every function
that is called on the way to the answer, in order, and every statement in the database.
Where these are the same, what is left of a difference in time is the processor's.

That an account *has* a key is no secret: the directory says it to everybody (16.1).
What no answer here tells is whether an account without one exists, why a device is
refused, and whether a password was right.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
import sqlalchemy as sa

import proxy
from proxy.core.streams import SASL
from proxy.gate.admission import answer
from proxy.gate.limits import BURST
from proxy.gate.policy import Policies, Rule
from proxy.gate.questions import MayTry, No, Question, Removed, Yes
from proxy.keys import databases
from proxy.keys.identity import DevicePrivate
from proxy.keys.registry import MemoryRegistry, Registry
from tests.support.persons import JULIET, NOW, Person, ask
from tests.unit.gate.staging import Stage, ended, plain

PROGRAM = str(Path(proxy.__file__).parent)
SASL2 = "urn:xmpp:sasl:2"
CRANK, NOBODY = "crank@capulet.example", "nobody@capulet.example"
FAILURE = f"<failure xmlns='{SASL}'><not-authorized/></failure>"


def work(attempt: Callable[[], Callable[[], object]]) -> tuple[str, ...]:
    """The functions that a call calls, in order.

    Names that were read once are remembered, those of accounts and of strangers
    alike: so the first of two is not counted.

    :param attempt: makes a stage ready and gives the call that is meant.
    """
    attempt()()
    call = attempt()
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PROGRAM):
            called.append(code.co_qualname)

    # what the collector calls belongs to nobody's answer
    gc.disable()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return tuple(called)


@dataclass
class Seen:
    """What several attempts came to: all that somebody outside can tell apart."""

    words: set[bytes] = field(default_factory=set)
    steps: set[tuple[str, ...]] = field(default_factory=set)
    passed: set[bytes] = field(default_factory=set)

    def attempt(self, ready: Callable[[], Stage], login: str, *server: str) -> None:
        """*login* at a stage, and what the server says to it."""
        last: list[Stage] = []
        marks: list[tuple[int, int]] = []

        def prepared() -> Callable[[], object]:
            stage = ready()
            last.append(stage)
            marks.append((len(stage.to_client), len(stage.to_server)))
            return lambda: (stage.client(login), [stage.server(one) for one in server])

        self.steps.add(work(prepared))
        stage, (said, passed) = last[-1], marks[-1]
        self.words.add(stage.to_client[said:])
        self.passed.add(stage.to_server[passed:].replace(login.encode(), b"<login/>"))


# -- without a key -------------------------------------------------------------------------

ANONYMOUS = {
    "plain": f"<auth xmlns='{SASL}' mechanism='ANONYMOUS'/>",
    "empty": f"<auth xmlns='{SASL}' mechanism='ANONYMOUS'>=</auth>",
    "trace": f"<auth xmlns='{SASL}' mechanism='ANONYMOUS'>c2lyaGM=</auth>",
    "sasl2": f"<authenticate xmlns='{SASL2}' mechanism='ANONYMOUS'/>",
    "sasl2-bind": (
        f"<authenticate xmlns='{SASL2}' mechanism='ANONYMOUS'>"
        "<bind xmlns='urn:xmpp:bind:0'/></authenticate>"
    ),
}


@pytest.mark.parametrize(
    "policies",
    [Policies(), Policies((Rule("optional", account="*-bot@*"),))],
    ids=["keys-only", "some-optional"],
)
@pytest.mark.parametrize("login", ANONYMOUS.values(), ids=ANONYMOUS)
def test_auth_08_anonymous_is_nobody_and_has_no_key(
    login: str, policies: Policies
) -> None:
    """Also where some accounts may come without one: it names none of them."""
    stage = Stage(person=None, policies=policies).at_door()
    before = stage.to_server
    said = stage.client(login)
    assert b"<not-authorized" in said
    assert b"Run Tillie" in said
    assert stage.to_server == before
    assert not stage.asked


def test_auth_08_a_server_that_lets_somebody_in_as_nobody_is_not_believed() -> None:
    """With a key, the account is what the server bound: one of the domain, or none."""
    stage = Stage().presented()
    assert stage.passed(ANONYMOUS["plain"])
    stage.server(f"<success xmlns='{SASL}'/>")
    stage.client(
        f"<stream:stream to='{JULIET.partition('@')[2]}' version='1.0'"
        " xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    )
    stage.greet("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>")
    said = stage.bind("capulet.example/anonymous")
    assert ended(said, "internal-server-error")
    assert not stage.keyed


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1"])
def test_auth_16_without_a_key_every_account_is_refused_alike(mechanism: str) -> None:
    """Not even the registry is asked."""
    registry, seen = MemoryRegistry(), Seen()
    ask(registry, Person().vouch())
    asked: list[Question] = []

    def ready() -> Stage:
        stage = Stage(person=None, registry=registry).at_door()
        stage.asked = asked
        return stage

    for user in ("juliet", "crank", "nobody"):
        for password in ("secret", "wrong"):
            seen.attempt(ready, plain(user, password).replace("PLAIN", mechanism))
    assert len(seen.words) == len(seen.steps) == 1
    assert seen.passed == {b""}
    assert not asked


# -- with a key of one's own ---------------------------------------------------------------


def door(registry: MemoryRegistry, person: Person, device: DevicePrivate) -> Stage:
    """Somebody with a key stands at the door."""
    stage = Stage(person=person, registry=registry)
    stage.device = device
    return stage.presented()


def test_auth_16_why_a_device_is_refused_is_not_told() -> None:
    """A stranger's, one of another account, one that was removed: one answer, in one
    way, and the password is not tried."""
    registry, juliet, removed = MemoryRegistry(), Person(), DevicePrivate.generate()
    juliet.add(removed)
    ask(registry, juliet.vouch())
    juliet.drop(removed)
    ask(registry, juliet.vouch())
    crank = Person(CRANK)
    ask(registry, crank.vouch())
    seen = Seen()
    for person, device in (
        (Person(), DevicePrivate.generate()),
        (crank, crank.device),
        (juliet, removed),
        (juliet, DevicePrivate.generate()),
    ):
        for password in ("secret", "wrong"):
            seen.attempt(
                partial(door, registry, person, device), plain("juliet", password)
            )
    assert len(seen.words) == len(seen.steps) == 1
    assert b"<not-authorized" in seen.words.pop()
    assert seen.passed == {b""}


def test_auth_16_an_account_without_a_key_is_like_one_that_is_not_there() -> None:
    """Both are the server's to judge, and its words pass as they are."""
    registry, seen = MemoryRegistry(), Seen()
    with registry.transaction():
        registry.put_keyless(CRANK, NOW)
    ask(registry, Person("gone@capulet.example").vouch())
    ask(registry, Removed("gone@capulet.example"))
    for user in ("crank", "nobody", "gone", "other"):
        ready = partial(door, registry, Person(), DevicePrivate.generate())
        seen.attempt(ready, plain(user, "wrong"), FAILURE)
    assert seen.words == {FAILURE.encode()}
    assert seen.passed == {b"<login/>"}
    assert len(seen.steps) == 1


@pytest.fixture
def statements(tmp_path: Path) -> Iterator[tuple[Registry, list[str]]]:
    path = tmp_path / "gate.sqlite3"
    databases.create_sqlite(path)
    registry = databases.open_registry(f"sqlite:///{path}")
    said: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        said.append(statement)

    engine = registry._engine  # type: ignore[attr-defined]
    sa.event.listen(engine, "before_cursor_execute", note)
    yield registry, said
    registry.close()


def test_auth_16_the_database_is_asked_the_same(
    statements: tuple[Registry, list[str]],
) -> None:
    registry, said = statements
    juliet, removed = Person(), DevicePrivate.generate()
    juliet.add(removed)
    ask(registry, juliet.vouch())
    juliet.drop(removed)
    ask(registry, juliet.vouch())
    with registry.transaction():
        registry.put_keyless(CRANK, NOW)

    def asked(account: str, device: DevicePrivate) -> tuple[object, tuple[str, ...]]:
        said.clear()
        question: Question = MayTry(account, device.public, bytes(32))
        with registry.transaction(writing=False):
            registry.expect({account})
            return answer(question, registry, NOW), tuple(said)

    refused = [asked(JULIET, one) for one in (removed, DevicePrivate.generate())]
    assert refused[0] == refused[1]
    assert refused[0][0] == No()
    passed = [asked(one, removed) for one in (CRANK, NOBODY)]
    assert passed[0] == passed[1]
    assert passed[0][0] == Yes()


# -- guessing ------------------------------------------------------------------------------


def test_auth_14_one_guess_at_each_of_many_accounts_is_as_slow() -> None:
    """It is the address that waits, whatever names it tries."""
    first = Stage()
    relayed = 0
    for number in range(60):
        one = Stage(world=first.world, clock=first.clock, person=first.person)
        login = plain(f"user{number}", "123456")
        relayed += bool(one.presented().passed(login))
        one.server(FAILURE)
    assert relayed == BURST
    elsewhere = Stage(
        world=first.world, clock=first.clock, address="198.51.100.1", person=Person()
    )
    assert elsewhere.presented().passed(plain("user1", "right"))
