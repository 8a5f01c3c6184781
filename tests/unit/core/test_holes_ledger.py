"""Holes that a reading found in what is sent again, and in how arrival is learned."""

from __future__ import annotations

from itertools import count

import pytest

from proxy.core import ledger
from proxy.core.account import Account, Settings
from proxy.core.directory import KEY
from tests.support.simulator import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    Client,
    Tillie,
    Upstream,
    World,
    parsed,
    sealed,
)
from tests.support.world import ResumingWorld, impostor

ALLOWED = Settings(clear=(CAROL,))


def learn(tillie: Tillie, other: Account, now: int) -> None:
    """Alice's Tillie gets to know the keys of *other*."""
    with tillie.writing():
        tillie.account(ALICE).contacts.learn(
            other.jid, other.identity.manifest, [other.identity.public_prekey()], now
        )


def key(world: World, tillie: Tillie) -> None:
    learn(tillie, impostor(CAROL)[0], world.now)


def require(_: World, tillie: Tillie) -> None:
    tillie.command("require", account=ALICE, jid=CAROL)


def configured(_: World, tillie: Tillie) -> None:
    tillie.house.reconfigure(Settings())


NO_LONGER = [
    pytest.param(key, id="contact-got-keys"),
    pytest.param(require, id="person-requires-keys"),
    pytest.param(configured, id="pattern-was-removed"),
]


def with_clear_message_on_its_way() -> tuple[ResumingWorld, Client]:
    """Alice wrote to Carol in clear, as she may, and the server has not answered."""
    world = ResumingWorld()
    tillie = world.tillie(ALLOWED)
    alice = world.login(tillie, ALICE)
    world.accounts.add(CAROL)
    alice.say(CAROL, "to have looked her up")
    line = world.line(alice)
    line.lossy = True
    alice.say(CAROL, "CANARY", ident="m1")
    assert b"CANARY" in line.raw
    return world, alice


# -- 3: clear rows of the ledger --------------------------------------------------


@pytest.mark.parametrize("change", NO_LONGER)
def test_clear_message_is_not_sent_again_on_a_new_stream(change) -> None:  # type: ignore[no-untyped-def]
    """What was once allowed in clear lay in the ledger as bytes like any other, and
    the next login sent it whatever had become of the permit."""
    world, alice = with_clear_message_on_its_way()
    tillie = alice.tillie
    tillie.restart()
    world.cut.clear()
    change(world, tillie)
    again = world.login(tillie, ALICE)
    assert b"CANARY" not in again.upstream.raw
    assert [one for one in tillie.command("notices") if "not sent again" in one["text"]]  # type: ignore[union-attr, attr-defined]
    assert not tillie.store.scan("ledger", ALICE)


def test_clear_message_is_sent_again_while_it_is_allowed() -> None:
    """The other side of it: a permit that still holds loses nothing."""
    world, alice = with_clear_message_on_its_way()
    tillie = alice.tillie
    tillie.restart()
    world.cut.clear()
    again = world.login(tillie, ALICE)
    assert again.upstream.raw.count(b"CANARY") == 1


@pytest.mark.parametrize("change", NO_LONGER)
def test_clear_message_is_not_sent_again_on_a_resumed_stream(change) -> None:  # type: ignore[no-untyped-def]
    """The same on a stream that goes on; the counts of both sides stay equal."""
    world, alice = with_clear_message_on_its_way()
    change(world, alice.tillie)
    bob = world.login(world.tillie(), BOB)
    world.break_line(alice)
    line = world.line(alice)
    assert world.resumed
    assert not alice.closed
    assert b"CANARY" not in line.raw
    alice.say(BOB, "counted well")
    alice.tillie.call(alice.session, alice.session.uplink.request_ack)
    world.settle()
    assert bob.bodies == ["counted well"]
    assert not alice.tillie.faults
    assert line.handled == alice.session.uplink.ledger.sent  # type: ignore[union-attr]
    assert not alice.session.uplink.messages_waiting


def test_clear_message_goes_on_with_a_resumed_stream_while_it_is_allowed() -> None:
    """The other side of it."""
    world, alice = with_clear_message_on_its_way()
    world.break_line(alice)
    assert world.line(alice).raw.count(b"CANARY") == 1


def test_room_message_is_not_sent_again_after_require() -> None:
    """A room's text is clear too, and its row has to say so."""
    world = ResumingWorld()
    tillie = world.tillie(Settings(clear=("room@muc.test",)))
    alice = world.login(tillie, ALICE)
    world.line(alice).lossy = True
    alice.say("room@muc.test", "CANARY", kind="groupchat")
    assert b"CANARY" in alice.upstream.raw
    tillie.command("require", account=ALICE, jid="room@muc.test")
    world.break_line(alice)
    assert b"CANARY" not in alice.upstream.raw


# -- 26: a kill while an earlier stream is emptied ----------------------------------


def killed_with_messages(
    texts: list[str],
) -> tuple[ResumingWorld, Tillie, list[Client]]:
    """Alice's Tillie was killed with two clients on; the server holds *texts* of Bob
    for both streams, and has not got what Alice wrote last on each."""
    world = ResumingWorld()
    a, b = world.tillie(), world.tillie()
    one = world.login(a, ALICE, "one")
    bob = world.login(b, BOB)
    bob.say(ALICE, "hello")
    one.say(BOB, "hello bob")
    world.wait(5_000)
    two = world.login(a, ALICE, "two")
    two.say(BOB, "hello again")
    bob.say(ALICE, "to both")
    lines = [world.line(one), world.line(two)]
    for at, (client, line) in enumerate(zip((one, two), lines, strict=True)):
        line.lossy = True
        client.say(BOB, f"last on {at}", ident=f"last-{at}")
    a.restart()
    for at, text in enumerate(texts):
        before, world.arriving = world.arriving, lambda _line, _stanza: []
        start = len(bob.upstream.stanzas)
        bob.say(ALICE, text)
        world.arriving = before
        [stanza] = sealed(bob.upstream.stanzas[start:])
        stanza.set("from", f"{BOB}/one")
        lines[at % 2].hold(stanza)
    world.offline.clear()
    return world, a, [bob, one, two]


def test_cut_streams_are_recovered_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They came by their names: when an old one was first, and gone at the server,
    which is usual, the younger ones were given up with all that they held."""
    names = count(1)
    monkeypatch.setattr(ledger, "token", lambda size: next(names).to_bytes(size, "big"))
    world, a, [bob, one, two] = killed_with_messages(["r0", "r1", "r2", "r3"])
    newest, oldest = world.line(two).previd, world.line(one).previd
    # the server forgot the older one by now
    del world.cut[oldest]
    again = world.login(a, ALICE, "three")
    assert world.resumed == [newest, oldest]
    assert [text for text in again.bodies if text.startswith("r")] == ["r1", "r3"]
    assert sorted(bob.bodies[2:]) == ["last on 0", "last on 1"]
    assert a.store.scan("stream", ALICE) == [
        row for row in a.store.scan("stream", ALICE) if row[0] == again.session.stream
    ]


def test_a_kill_at_each_step_of_the_recovery_loses_nothing() -> None:
    """The record of a cut stream was dropped before it was emptied, so a second kill
    lost what the server still held for it."""
    texts = [f"r{at}" for at in range(6)]
    steps, tried = 0, 0
    while True:
        world, a, [bob, *_] = killed_with_messages(texts)
        second = world.begin_login(a, ALICE, "three")
        more = all(world.step() for _ in range(steps))
        a.restart()
        world.settle()
        world.now += 1_000
        third = world.login(a, ALICE, "four")
        world.wait(2_000)
        shown = [text for text in second.bodies + third.bodies if text in texts]
        assert sorted(set(shown)) == texts, f"killed after {steps} steps"
        assert len(set(third.bodies)) == len(third.bodies)
        arrived = [text for text in bob.bodies if text.startswith("last")]
        assert sorted(arrived) == ["last on 0", "last on 1"], f"after {steps} steps"
        assert not a.faults
        tried += 1
        if not more:
            break
        steps += 1
    assert tried > 10
    assert len(world.resumed) >= 2


def test_no_more_is_acknowledged_than_a_kill_leaves_written_down() -> None:
    """A stream was resumed at a lower count than its own acknowledgements had said:
    Prosody refuses that, and what it held for the stream is bounced."""
    world = ResumingWorld()
    a, b = world.tillie(), world.tillie()
    alice, bob = world.login(a, ALICE), world.login(b, BOB)
    bob.say(ALICE, "hello")
    for _ in range(3):
        alice.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        world.inject(alice, f"<presence from='{BOB}/one'/>")
    line = world.line(alice)
    a.restart()
    [(stream, record)] = a.store.scan("stream", ALICE)
    line.hold(f"<message from='{CAROL}' to='{ALICE}'><body>held</body></message>")
    again = world.login(a, ALICE, "two")
    assert world.resumed == [line.previd]
    assert again.bodies == ["held"], (stream, record, line.told)
    assert not again.closed


# -- 27, 28: without XEP-0198, and for a long time ----------------------------------


def test_a_ping_answered_with_an_error_confirms_what_came_before_it() -> None:
    """A server without XEP-0198 and without XEP-0199: its error was no answer, the
    rows stayed for ever, and each login sent all of them again."""
    world = World(sm=False)
    a = world.tillie()
    alice = world.login(a, ALICE)
    bob = world.login(world.tillie(), BOB)

    def no_ping(stream: Upstream, stanza):  # type: ignore[no-untyped-def]
        if stanza.find("{urn:xmpp:ping}ping") is None:
            return None
        ident, to = stanza.get("id"), stanza.get("to", ALICE)
        world.deliver(
            stream,
            parsed(
                f"<iq type='error' id='{ident}' from='{to}'><error type='cancel'>"
                "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
                "</error></iq>"
            ),
        )
        return []

    world.leaving = no_ping
    for at in range(3):
        alice.say(BOB, f"text {at}")
    assert bob.bodies == ["text 0", "text 1", "text 2"]
    assert not alice.session.uplink.messages_waiting
    alice.close()
    assert a.store.scan("ledger", ALICE) == []
    again = world.login(a, ALICE)
    assert sealed(again.upstream.stanzas) == []


def test_without_any_answer_nothing_is_confirmed() -> None:
    """The other side of it: silence is no answer."""
    world = World(sm=False)
    a = world.tillie()
    alice = world.login(a, ALICE)
    world.login(world.tillie(), BOB)
    world.leaving = lambda _, stanza: (
        [] if stanza.find("{urn:xmpp:ping}ping") is not None else None
    )
    alice.say(BOB, "text")
    world.wait(14_000)
    assert len(a.store.scan("ledger", ALICE)) == 1


def test_giving_up_after_14_days_is_told() -> None:
    """It was deleted in silence; and each new attempt counted as a new beginning."""
    world = ResumingWorld()
    a = world.tillie()
    alice = world.login(a, ALICE)
    bob = world.login(world.tillie(), BOB)
    world.line(alice).lossy = True
    learn(a, bob.tillie.account(BOB), world.now)
    alice.say(BOB, "never arrives", ident="m1")
    for days, expected in ((10, 1), (5, 0), (1, 0)):
        a.restart()
        world.cut.clear()
        world.now += days * DAY
        world.pep_answers[ALICE, KEY] = "silent"
        again = world.begin_login(a, ALICE, f"after-{days}")
        # lost on the way again, each time
        while world.step():
            world.line(again).lossy = again.session.jid is not None or (
                bool(again.upstream.jid)
            )
        assert len(sealed_bytes(again)) == expected, days
        a.call(again.session, again.session.tick)
        told = [one["text"] for one in a.command("notices")]  # type: ignore[union-attr, attr-defined]
        assert sum("14 days" in text for text in told) == 1 - expected
    assert a.store.scan("ledger", ALICE) == []
    assert bob.bodies == []


def sealed_bytes(client: Client) -> list[bytes]:
    """The seals among the bytes that a client's Tillie wrote."""
    return bytes(client.upstream.raw).split(b"<encrypted ")[1:]
