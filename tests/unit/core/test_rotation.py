"""A used index under another ciphertext asks for a new lane (I7; protocol.md, 6.8)."""

from __future__ import annotations

import base64
from copy import deepcopy
from xml.etree.ElementTree import Element

import pytest

from proxy.core.rotation import Rotations
from proxy.suites import lanes
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    GRANTS,
    ROTATE,
    Client,
    Couple,
    carbon,
    couple,
    parsed,
    payload_of,
    sealed,
    with_payload,
    without,
)


def rotations(client: Client, since: int = 0) -> list[Element]:
    """The requests for new lanes that the Tillie of *client* sent."""
    sent = client.upstream.stanzas[since:]
    return [one for one in sent if one.find(ROTATE) is not None]


def lane_of(message: Element) -> bytes:
    return lanes.Header.unpack(payload_of(message)).lane


def restored(c: Couple, *texts: str) -> Client:
    """Bob writes *texts*, and his Tillie is set back to where it was before."""
    before = deepcopy(c.b.store._rows)
    for text in texts:
        c.bob.say(ALICE, text)
    c.b.store._rows = before
    c.b.restart()
    return c.world.login(c.b, BOB)


def reused(c: Couple) -> Element:
    """A sealed message of Bob's under an index that Alice has read already."""
    bob = restored(c, "before the copy came back")
    with c.caught() as kept:
        bob.say(ALICE, "under a used index")
    c.bob = bob
    return kept[0]


def request(c: Couple) -> Element:
    """What Alice's Tillie asks of Bob's, kept from it."""
    message = reused(c)
    c.world.leaving = without(ROTATE)
    c.world.inject(c.alice, message)
    c.world.leaving = lambda _s, _x: None
    [asked] = rotations(c.alice)
    asked.set("from", f"{ALICE}/one")
    return parsed(render(asked))


def rotated(c: Couple, asked: Element, sender: str = f"{ALICE}/one") -> bool:
    """Whether Bob gives up his lane towards Alice because of *asked*, in silence."""
    asked.set("from", sender)
    since = len(c.bob.upstream.stanzas)
    before = c.b.account(BOB).ratchets.current(ALICE)
    assert before is not None
    c.world.inject(c.bob, asked)
    assert c.bob.upstream.stanzas[since:] == []
    assert not c.b.faults
    return c.b.account(BOB).ratchets.current(ALICE) is None


def test_i7_used_index_is_opened_and_a_new_lane_follows() -> None:
    """I7: the message of a restored snapshot is shown, and the next one is safe."""
    c = couple()
    bob = restored(c, "one", "two", "three")
    bob.say(ALICE, "again at the first index")
    [asked] = rotations(c.alice)
    assert asked.get("to") == BOB
    assert [child.tag for child in asked] == [ROTATE, "{urn:xmpp:hints}store"]
    bob.say(ALICE, "on a new lane")
    assert c.alice.bodies[-2:] == ["again at the first index", "on a new lane"]
    first, second = sealed(bob.upstream.stanzas)[-2:]
    assert lane_of(first) != lane_of(second)
    assert second.find(f".//{GRANTS}") is not None
    assert len(rotations(c.alice)) == 1
    told = c.b.command("notices", account=BOB)
    assert "restored from a copy" in str(told)


def test_i7_sender_that_is_offline_rotates_when_it_comes_back() -> None:
    c = couple()
    message = reused(c)
    c.bob.close()
    c.world.inject(c.alice, message)
    assert c.alice.bodies[-1] == "under a used index"
    bob = c.world.login(c.b, BOB)
    bob.say(ALICE, "back")
    [after] = sealed(bob.upstream.stanzas)
    assert lane_of(after) != lane_of(message)
    assert c.alice.bodies[-1] == "back"


def test_i7_one_request_for_many_used_indices() -> None:
    """A sender that does not rotate is asked again a minute later, five times."""
    c = couple()
    bob = restored(c, *(f"before {at}" for at in range(30)))
    c.world.leaving = without(ROTATE)
    for at in range(10):
        bob.say(ALICE, f"used {at}")
    assert len(rotations(c.alice)) == 1
    for at in range(10):
        c.world.now += 61_000
        bob.say(ALICE, f"used later {at}")
    assert len(rotations(c.alice)) == 5
    assert c.alice.bodies[-1] == "used later 9"


def test_enc_19_nothing_but_a_used_index_asks_for_a_lane() -> None:
    """Replays, broken seals, gaps, carbons and archives are answered by silence."""
    c = couple()
    with c.caught() as kept:
        for at in range(3):
            c.bob.say(ALICE, f"in a row {at}")
    for message in (kept[2], kept[0], kept[1], kept[1], kept[0]):
        c.world.inject(c.alice, message)
    assert c.alice.bodies[-3:] == ["in a row 2", "in a row 0", "in a row 1"]
    message = reused(c)
    payload = payload_of(message)
    for at in range(0, len(payload) * 8, 37):
        bent = bytearray(payload)
        bent[at // 8] ^= 1 << at % 8
        if not 3 <= at // 8 < 19:
            c.world.inject(c.alice, with_payload(message, bytes(bent)))
    other = deepcopy(message)
    other.set("type", "normal")
    c.world.inject(c.alice, other)
    c.world.inject(c.alice, carbon(message, "received", ALICE, f"{ALICE}/one"))
    c.world.inject(
        c.alice,
        f"<message from='{ALICE}'><result xmlns='urn:xmpp:mam:2' id='r'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{render(message)}</forwarded>"
        "</result></message>",
    )
    assert rotations(c.alice) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("n", "7", id="I7-index"),
        pytest.param("time", "1750000000001", id="I7-time"),
        pytest.param("owner", CAROL, id="I7-owner"),
        pytest.param("root", base64.b64encode(bytes(32)).decode(), id="I7-root"),
        pytest.param("device", base64.b64encode(bytes(32)).decode(), id="I7-device"),
        pytest.param("lane", base64.b64encode(bytes(16)).decode(), id="I7-lane"),
        pytest.param("lane", "!", id="I7-no-base64"),
        pytest.param("n", "-1", id="I7-negative"),
        pytest.param("time", "9" * 40, id="I7-huge-number"),
        pytest.param("", "AAAA", id="I7-signature"),
    ],
)
def test_i7_what_was_not_signed_rotates_nothing(name: str, value: str) -> None:
    c = couple()
    asked = request(c)
    element = asked.find(ROTATE)
    assert element is not None
    if name:
        element.set(name, value)
    else:
        element.text = value
    assert not rotated(c, asked)


@pytest.mark.parametrize("sender", [f"{CAROL}/one", "b.test", "mallory@x.test", BOB])
def test_i7_somebody_else_rotates_nothing(sender: str) -> None:
    c = couple()
    c.world.login(c.world.tillie(), CAROL).say(BOB, "I am known to bob")
    assert not rotated(c, request(c), sender)


@pytest.mark.parametrize("days", [-15, 15])
def test_i7_request_out_of_date_rotates_nothing(days: int) -> None:
    c = couple()
    asked = request(c)
    c.world.now += days * DAY
    assert not rotated(c, asked)


def test_i7_request_inside_an_error_or_room_rotates_nothing() -> None:
    c = couple()
    asked = request(c)
    for kind in ("error", "groupchat"):
        asked.set("type", kind)
        assert not rotated(c, asked)
    asked.set("type", "normal")
    assert rotated(c, asked)


def test_i7_repeated_request_does_not_touch_the_next_lane() -> None:
    c = couple()
    asked = request(c)
    assert rotated(c, asked)
    c.bob.say(ALICE, "a new lane")
    assert not rotated(c, asked)


def test_i7_rotations_for_one_account_are_bounded() -> None:
    """A contact that asks without end costs six lanes an hour."""
    c = couple()
    alice, times = c.a.account(ALICE), 0
    for _ in range(30):
        c.bob.say(ALICE, "and another lane")
        c.world.now += 61_000
        header = lanes.Header.unpack(payload_of(sealed(c.bob.upstream.stanzas)[-1]))
        with c.a.writing():
            asked = Rotations(alice).ask(BOB, header)
        assert asked is not None
        times += rotated(c, parsed(asked.data.decode()))
    assert times == 6


def test_i7_strangers_leave_no_notices() -> None:
    """A notice for each made-up address would push the others out."""
    c = couple()
    asked = request(c)
    before = len(c.b.store.scan("notice", BOB))
    for at in range(20):
        assert not rotated(c, asked, f"x{at}@mallory.test/r")
        element = asked.find(ROTATE)
        assert element is not None
        element.set("time", "nonsense")
    assert len(c.b.store.scan("notice", BOB)) == before
