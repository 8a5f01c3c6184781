"""Two clients of one account and a kill: nothing is lost, and no client is shown a
message twice (docs/protocol.md 5.12, docs/decisions/0006)."""

from __future__ import annotations

from copy import deepcopy
from xml.etree.ElementTree import Element

import pytest

from proxy.core.account import Settings
from tests.support.simulator import (
    ALICE,
    BOB,
    CAROL,
    Client,
    carbon,
    parsed,
    sealed,
)
from tests.support.world import Line, ResumingWorld

KINDS = ("sealed", "clear", "clear carbon")


class Scene:
    """Alice has two clients behind one Tillie.  Bob writes sealed, Carol in clear."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.world = ResumingWorld()
        self.a = self.world.tillie(Settings(clear=(CAROL,)))
        self.desk = self.world.login(self.a, ALICE, "desk")
        self.phone = self.world.login(self.a, ALICE, "phone")
        self.bob = self.world.login(self.world.tillie(), BOB)
        self.bob.say(ALICE, "hello alice")
        self.desk.say(BOB, "hello bob")
        assert self.desk.bodies[0] == self.phone.bodies[0] == "hello alice"
        self.lines = [self.world.line(self.desk), self.world.line(self.phone)]

    def write(self, text: str) -> list[Element]:
        """One message: the copy for the desk and the one for the phone."""
        if self.kind == "sealed":
            before, self.world.arriving = self.world.arriving, lambda *_: []
            start = len(self.bob.upstream.stanzas)
            self.bob.say(ALICE, text, ident=f"id of {text}")
            self.world.arriving = before
            [message] = sealed(self.bob.upstream.stanzas[start:])
            message.set("from", f"{BOB}/one")
        else:
            message = parsed(
                f"<message from='{CAROL}/x' to='{ALICE}' type='chat'"
                f" id='id of {text}'><body>{text}</body></message>"
            )
        return [message, self._carbon(message)]

    def _carbon(self, message: Element) -> Element:
        if self.kind != "clear carbon":
            return deepcopy(message)
        return carbon(message, "received", ALICE, f"{ALICE}/phone")

    def live(self, text: str) -> list[Element]:
        """Both clients are there and get it; the two copies."""
        copies = self.write(text)
        for client, copy in zip((self.desk, self.phone), copies, strict=True):
            self.world.inject(client, copy)
        return copies

    def outage(self, text: str) -> None:
        """Nobody is there; the server holds it for both streams."""
        for line, copy in zip(self.lines, self.write(text), strict=True):
            line.hold(copy)

    def kill(self) -> None:
        self.a.restart()

    def back(self, resource: str) -> Client:
        return self.world.login(self.a, ALICE, resource)


def shown(client: Client) -> list[str]:
    """The ids of what came from people, inside of carbons too."""
    return [
        part.get("id", "")
        for message in client.messages
        for part in message.iter()
        if part.tag == message.tag and part.get("id", "").startswith("id of")
    ]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def test_rel_34_what_both_streams_were_owed_is_shown_once(scene: Scene) -> None:
    """Killed before the bytes for either client had left: the store holds a copy for
    each, and the first client that came back was shown both."""
    for client in (scene.desk, scene.phone):
        client.session.flushed = lambda rows: None  # type: ignore[method-assign]
    scene.live("x")
    scene.kill()
    desk, phone = scene.back("desk"), scene.back("phone")
    assert shown(desk) == ["id of x"]
    assert shown(phone) == []
    assert scene.a.store.scan("inbox", ALICE) == []


def test_rel_34_what_the_server_held_for_both_is_shown_once(scene: Scene) -> None:
    for text in ("x", "y"):
        scene.outage(text)
    scene.kill()
    desk, phone = scene.back("desk"), scene.back("phone")
    assert shown(desk) == ["id of x", "id of y"]
    assert shown(phone) == []


def test_rel_34_equal_messages_are_not_taken_for_one(scene: Scene) -> None:
    """Bots reuse ids: the same text twice is two messages, however many clients."""
    for _ in range(2):
        scene.outage("x")
    scene.kill()
    assert shown(scene.back("desk")) == ["id of x", "id of x"]
    assert shown(scene.back("phone")) == []


def test_enc_12_what_both_were_shown_is_not_shown_again() -> None:
    """The server sends it again on the streams that a kill cut, acknowledged or not:
    it counted as still owed to a stream without a name."""
    scene = Scene("sealed")
    copies = scene.live("x")
    assert shown(scene.desk) == shown(scene.phone) == ["id of x"]
    scene.kill()
    for line, copy in zip(scene.lines, copies, strict=True):
        line.hold(copy)
    for resource in ("desk", "phone"):
        assert shown(scene.back(resource)) == []
    assert len(scene.world.resumed) == 2


def test_enc_12_a_cut_stream_is_no_way_to_show_an_old_message_again() -> None:
    """A server waits for a kill and sends on the cut stream what was shown before
    that stream was opened."""
    scene = Scene("sealed")
    [copy, _] = scene.write("x")
    scene.world.inject(scene.desk, copy)
    scene.phone.close()
    later = scene.back("tablet")
    line = scene.world.line(later)
    assert isinstance(line, Line)
    scene.kill()
    for old in (*scene.lines, line):
        old.hold(deepcopy(copy))
    assert shown(scene.back("desk")) == []


def test_rel_34_a_cut_stream_gets_what_the_other_client_was_shown() -> None:
    """The other side of it: what only the living client has is still owed."""
    scene = Scene("sealed")
    line = scene.lines[1]
    line.lossy = True
    scene.phone.say(BOB, "never acknowledged", ident="unsent")
    scene.phone.close()
    scene.world.wait(25_000)
    assert scene.phone.session.over
    [copy, held] = scene.write("x")
    scene.world.inject(scene.desk, copy)
    line.hold(held)
    assert shown(scene.back("phone")) == ["id of x"]
    assert shown(scene.desk) == ["id of x"]
