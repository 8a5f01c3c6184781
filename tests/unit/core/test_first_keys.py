"""Two Tillies make the first keys of one account at the same moment
(protocol.md, 3.9)."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest

from proxy.core.directory import KEY, PREKEY
from proxy.core.identity import Standing
from proxy.core.publication import RETRY
from tests.support.scripted import PUBSUB
from tests.support.simulator import (
    ALICE,
    BOB,
    Client,
    Tillie,
    Upstream,
    World,
    link,
    sealed,
)


def standing(tillie: Tillie) -> Standing:
    return tillie.account(ALICE).identity.standing


def root(tillie: Tillie) -> bytes:
    return tillie.account(ALICE).identity.fingerprint


def published_root(world: World) -> str:
    [item] = world.pep[ALICE, KEY].values()
    return "".join(item.itertext())


def is_publication(stanza: Element, node: str) -> bool:
    part = stanza.find(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}publish")
    return part is not None and part.get("node") == node


class Gap:
    """What a stream sends is held back from the first publication on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: list[tuple[Upstream, Element]] = []
        self._stream: Upstream | None = None
        world.leaving = self._leaving

    def _leaving(self, stream: Upstream, stanza: Element) -> list[Element] | None:
        if self._stream is None and is_publication(stanza, KEY):
            self._stream = stream
        if stream is not self._stream:
            return None
        self._held.append((stream, stanza))
        return []

    def end(self) -> None:
        self._world.leaving = lambda _s, _x: None
        for stream, stanza in self._held:
            self._world.route(stream, stanza)
        self._world.settle()


def race(world: World) -> tuple[Tillie, Client, Tillie, Client]:
    """Both read that nothing is there; the one that read it first writes last."""
    late, fast = world.tillie(), world.tillie()
    gap = Gap(world)
    one = world.login(late, ALICE, "late")
    assert standing(late) is Standing.NEW
    two = world.login(fast, ALICE, "fast")
    assert standing(fast) is Standing.READY
    gap.end()
    return late, one, fast, two


def test_keys_made_just_now_count_once_they_are_seen_to_stand_there() -> None:
    world = World()
    tillie = world.tillie()
    world.pep_answers[ALICE, KEY] = ""
    client = world.login(tillie, ALICE)
    assert standing(tillie) is Standing.READY
    sent = client.upstream.stanzas
    order = [
        "write" if one.get("type") == "set" else "read"
        for one in sent
        if any(part.get("node") == KEY for part in one.iter())
    ]
    assert order == ["read", "write", "read"]


def test_i24_who_wrote_first_and_was_overwritten_stops() -> None:
    """The late one's keys stand; the other finds out half a minute later, sends
    nothing more, overwrites nothing, and is linked by a code."""
    world = World()
    late, _, fast, two = race(world)
    assert standing(late) is Standing.READY
    record = published_root(world)
    world.wait(RETRY + 1_000)
    assert standing(fast) is Standing.ALARM
    assert any("another device of yours" in text for text in two.notices)
    two.say(BOB, "not sent")
    assert two.errors[-1].get("type") == "error"
    assert sealed(two.upstream.stanzas) == []
    assert published_root(world) == record
    link(late, fast, ALICE)
    assert standing(fast) is Standing.READY
    assert root(fast) == root(late)
    assert not fast.account(ALICE).identity.owner


def test_i24_who_was_overwritten_before_its_second_look_gives_way() -> None:
    """Both write before either reads again: one root is left, the other one was
    never used and goes, and its device waits to be linked."""
    world = World()
    first, second = world.tillie(), world.tillie()
    gap = Gap(world)
    one = world.login(first, ALICE, "one")
    world.leaving = _without_prekeys(gap._leaving)
    two = world.login(second, ALICE, "two")
    assert standing(second) is Standing.NEW
    gap.end()
    assert standing(first) is Standing.READY
    world.wait(RETRY + 13_000)
    assert standing(second) is Standing.LINKING
    assert not second.account(ALICE).identity.owner
    assert any("tillie link" in text for text in two.notices)
    assert not second.account(ALICE).publication.published
    link(first, second, ALICE)
    bob = world.login(world.tillie(), BOB)
    two.say(BOB, "from the linked one")
    one.say(BOB, "from the first one")
    assert bob.bodies == ["from the linked one", "from the first one"]


def _without_prekeys(
    hook: Callable[[Upstream, Element], list[Element] | None],
) -> Callable[[Upstream, Element], list[Element] | None]:
    def leaving(stream: Upstream, stanza: Element) -> list[Element] | None:
        return [] if is_publication(stanza, PREKEY) else hook(stream, stanza)

    return leaving


def test_what_waits_meanwhile_goes_under_the_keys_that_stand() -> None:
    world = World()
    tillie = world.tillie()
    bob = world.login(world.tillie(), BOB)
    gap = Gap(world)
    alice = world.login(tillie, ALICE)
    alice.say(BOB, "written at once")
    assert sealed(alice.upstream.stanzas) == []
    gap.end()
    assert bob.bodies == ["written at once"]


def test_a_kill_before_the_second_look_makes_no_second_root() -> None:
    world = World()
    tillie = world.tillie()
    gap = Gap(world)
    world.login(tillie, ALICE)
    mine = root(tillie)
    tillie.restart()
    gap.end()
    world.login(tillie, ALICE)
    assert standing(tillie) is Standing.READY
    assert root(tillie) == mine


@pytest.mark.parametrize("node", [KEY, PREKEY])
def test_a_server_that_takes_no_keys_does_not_stop_allowed_messages(node: str) -> None:
    """Without keys of its own an account still writes to whom it may in clear."""
    world = World()

    def leaving(stream: Upstream, stanza: Element) -> list[Element] | None:
        if not is_publication(stanza, node):
            return None
        world._refuse(stream, stanza, "resource-constraint")
        return []

    world.leaving = leaving
    tillie = world.tillie()
    alice = world.login(tillie, ALICE)
    world.accounts.add(BOB)
    tillie.command("allow", jid=BOB)
    alice.say(BOB, "allowed in clear")
    assert alice.errors == []
    assert b"allowed in clear" in world.wire


def test_a_server_that_takes_the_keys_and_hides_them_is_asked_in_peace() -> None:
    """Taken, and "nothing there" ever after: a few questions, no loop."""
    world = World()
    tillie = world.tillie()
    world.leaving = lambda _, stanza: [] if is_publication(stanza, KEY) else None
    client = world.login(tillie, ALICE)
    for stanza in client.upstream.stanzas:
        if is_publication(stanza, KEY):
            world.answer(client.upstream, stanza)
    world.settle()
    assert standing(tillie) is Standing.READY
    before = len(client.upstream.stanzas)
    assert before < 20
    world.wait(20_000)
    assert len(client.upstream.stanzas) == before
