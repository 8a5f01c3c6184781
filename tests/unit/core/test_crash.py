"""What a crash, a failed commit or a silent server leaves behind.

Named crash points count, and cost nothing unless armed; what they leave is
tried with the real program in ``tests/integration/test_kills.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.core import crash
from proxy.core.directory import KEY
from proxy.core.session import Session
from proxy.errors import StoreFault

from ...support.simulator import ALICE, BOB, CAROL, Client, World, couple, parsed


class DiedError(BaseException):
    """Stands for SIGKILL: no handler of ordinary errors stops it."""


def die() -> None:
    raise DiedError


@pytest.fixture(autouse=True)
def disarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "_armed", {})


def test_an_unarmed_point_is_passed() -> None:
    for point in crash.POINTS:
        crash.hit(point)


@pytest.mark.parametrize("point", crash.POINTS)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_nth_time_is_the_last(point: str, times: int) -> None:
    crash.arm(point, times, die)
    for _ in range(times - 1):
        crash.hit(point)
    with pytest.raises(DiedError):
        crash.hit(point)


def test_other_points_do_not_count() -> None:
    crash.arm("sent-after-commit", 1, die)
    for point in crash.POINTS:
        if point != "sent-after-commit":
            crash.hit(point)
    with pytest.raises(DiedError):
        crash.hit("sent-after-commit")


@pytest.mark.parametrize(
    ("point", "times"),
    [("sent", 1), ("", 1), ("SENT-AFTER-COMMIT", 1), ("sent-after-commit", 0)],
)
def test_a_point_that_is_none_is_refused(point: str, times: int) -> None:
    with pytest.raises(ValueError, match="no crash point"):
        crash.arm(point, times, die)


# -- a commit that fails at each place (REL-14) --------------------------------


class Faulty:
    """Alice's Tillie, whose commit number *nth* fails, and then works again."""

    def __init__(self, nth: int) -> None:
        self.world = World()
        self.a, self.b = self.world.tillie(), self.world.tillie()
        self.commits = 0
        self.failed = False
        self.left: list[str] = []
        self.a.store._before = lambda: self._before_commit(nth)
        self._call = self.a.call
        self.a.call = self._watched  # type: ignore[method-assign]

    def _before_commit(self, nth: int) -> None:
        self.commits += 1
        if self.commits == nth:
            self.failed = True
            raise StoreFault("the disk is full")

    def _watched(self, session: Session | None, work: Callable[[], None]) -> None:
        before, failed = self._sent(), self.failed
        self._call(session, work)
        if self.failed and not failed and self._sent() != before:
            self.left.append("bytes left for the server though their commit failed")

    def _sent(self) -> int:
        return sum(len(one.raw) for one in self.world.upstreams if one.tillie is self.a)

    def live(self, client: Client | None) -> Client:
        """*client*, or a new one that logs in until it is let in."""
        for _ in range(4):
            if client is not None and not client.closed:
                return client
            client = self.world.login(self.a, ALICE)
            client.send("<iq type='get' id='in'><ping xmlns='urn:xmpp:ping'/></iq>")
            if not answered(client, "in"):
                client = None
        raise AssertionError(f"no login succeeds any more: {self.a.faults}")


def answered(client: Client, ident: str) -> bool:
    return any(one.get("id") == ident for one in client.stanzas)


def converse(faulty: Faulty, texts: list[str]) -> list[Client]:
    """Alice writes *texts*, each until the ping behind it was answered."""
    clients: list[Client] = []
    client: Client | None = None
    for number, text in enumerate(texts):
        for _ in range(4):
            client = faulty.live(client)
            clients += [client] if client not in clients else []
            client.say(BOB, text, ident=f"m{number}")
            client.send(
                f"<iq type='get' id='p{number}'><ping xmlns='urn:xmpp:ping'/></iq>"
            )
            if answered(client, f"p{number}"):
                break
            # a person tries again a little later
            client.closed = True
            faulty.world.wait(20_000)
        else:
            raise AssertionError(f"{text} was never accepted: {faulty.a.faults}")
    return clients


TEXTS = ["one", "two", "three"]


def test_rel_14_a_failed_commit_sends_nothing_and_loses_nothing() -> None:
    """Each commit from the first login on is tried in turn."""
    nth, wrong = 0, []
    while True:
        nth += 1
        faulty = Faulty(nth)
        bob = faulty.world.login(faulty.b, BOB)
        clients = converse(faulty, TEXTS)
        if not faulty.failed:
            break
        bob.say(ALICE, f"back {nth}")
        client = faulty.live(clients[-1])
        wrong += [f"commit {nth}: {one}" for one in faulty.left]
        if bob.bodies != TEXTS:
            wrong.append(f"commit {nth}: {bob.bodies} arrived")
        if client.bodies[-1:] != [f"back {nth}"]:
            wrong.append(f"commit {nth}: alice cannot read any more")
        if not faulty.a.account(ALICE).publication.published:
            wrong.append(f"commit {nth}: the keys are not published")
    assert not wrong
    assert nth > 6


def test_rel_14_the_client_is_told() -> None:
    both = couple()
    both.a.refuse_commits = True
    both.alice.say(BOB, "not kept", ident="m1")
    assert both.alice.closed
    assert b"the disk is full" in both.alice.raw
    assert both.bob.bodies == ["first of alice"]
    both.a.refuse_commits = False
    again = both.world.login(both.a, ALICE)
    again.say(BOB, "kept", ident="m1")
    assert both.bob.bodies == ["first of alice", "kept"]


def test_rel_14_nothing_is_acknowledged_that_was_not_kept() -> None:
    """The server keeps its copy: no <a/> covers a message whose commit failed."""
    both = couple()
    upstream = both.alice.upstream
    before = bytes(upstream.raw)
    both.a.refuse_commits = True
    both.bob.say(ALICE, "not kept")
    assert bytes(upstream.raw) == before
    assert upstream.over
    assert "not kept" not in both.alice.bodies


def test_rel_14_a_look_up_that_a_failed_commit_cut_off_is_made_again() -> None:
    """Nobody waits for the answer to a question that never left."""
    world = World()
    a, b = world.tillie(), world.tillie()
    bob = world.login(b, BOB)
    alice = world.login(a, ALICE)
    world.pep_answers[BOB, KEY] = "silent"
    alice.say(BOB, "first", ident="m1")
    assert a.account(ALICE).looking_up(BOB)
    a.refuse_commits = True
    other = f"<message from='{CAROL}'><body>x</body></message>"
    world.deliver(alice.upstream, parsed(other))
    world.settle()
    assert alice.closed
    a.refuse_commits = False
    del world.pep_answers[BOB, KEY]
    again = world.login(a, ALICE)
    again.say(BOB, "third", ident="m3")
    assert not a.account(ALICE).looking_up(BOB)
    assert again.errors == []
    assert bob.bodies == ["third"]


# -- a server that goes silent (RES-10) -----------------------------------------


def test_rel_09_a_silent_server_is_noticed_and_left() -> None:
    """Half open: no byte comes and no end; probed at 40 s, given up at 60 s."""
    both = couple()
    upstream = both.alice.upstream
    count = len(both.world.upstreams)
    upstream.take = upstream.raw.extend  # type: ignore[method-assign]
    both.world.wait(41_000)
    assert b"urn:xmpp:ping" in upstream.raw[-400:]
    assert not upstream.over
    both.world.wait(20_000)
    assert upstream.over
    if both.alice.closed:
        assert b"stopped answering" in both.alice.raw
    else:
        assert len(both.world.upstreams) > count
