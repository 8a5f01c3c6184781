"""Asking for a lane's key and answering (I19, I20, ENC-19)."""

from __future__ import annotations

import base64
from xml.etree.ElementTree import Element

import pytest

from proxy.core.keyrequests import KEYREQ
from proxy.rules import marks
from proxy.suites import lanes
from tests.support.simulator import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    GRANTS,
    Client,
    Couple,
    carbon,
    couple,
    link,
    parsed,
    payload_of,
    sealed,
    with_payload,
)


def lost_key(c: Couple, text: str = "the key is lost") -> Element:
    """A message of Bob whose lane Alice's Tillie does not have, without grants."""
    with c.caught() as kept:
        with c.b.writing():
            c.b.account(BOB).ratchets.rotate(ALICE)
        c.bob.say(ALICE, text)
    return with_payload(kept[0], payload_of(kept[0]))


def request(c: Couple, message: Element) -> Element:
    """What Alice's Tillie asks of Bob for *message*, kept from him."""
    held: list[Element] = []

    def keep(stream: object, stanza: Element) -> list[Element] | None:
        if stanza.find(KEYREQ) is None:
            return None
        held.append(parsed_copy(stanza))
        return []

    before, c.world.leaving = c.world.leaving, keep  # type: ignore[assignment]
    c.world.inject(c.alice, message)
    c.world.leaving = before
    [asked] = held
    asked.set("from", f"{ALICE}/one")
    return asked


def parsed_copy(stanza: Element) -> Element:
    from tests.support.scripted import render

    return parsed(render(stanza))


def grants_of(client: Client, since: int) -> list[Element]:
    return [
        one for one in client.upstream.stanzas[since:] if one.find(GRANTS) is not None
    ]


def answers(c: Couple, asked: Element, sender: str = f"{ALICE}/one") -> int:
    """How many grants Bob sends for *asked*; nothing else may leave."""
    since = len(c.bob.upstream.stanzas)
    asked.set("from", sender)
    c.world.inject(c.bob, asked)
    messages = [
        one for one in c.bob.upstream.stanzas[since:] if one.tag.endswith("message")
    ]
    assert messages == grants_of(c.bob, since)
    return len(messages)


def test_i20_lost_key_is_asked_for_and_the_message_shown() -> None:
    """I20: unsealed, signed, stored; answered with a grant that opens it."""
    c = couple()
    message = lost_key(c)
    since = len(c.alice.upstream.stanzas)
    c.world.inject(c.alice, message)
    [asked] = [
        one for one in c.alice.upstream.stanzas[since:] if one.tag.endswith("message")
    ]
    assert asked.get("to") == BOB
    assert [child.tag for child in asked] == [KEYREQ, "{urn:xmpp:hints}store"]
    assert c.alice.bodies[-1] == "the key is lost"


def test_requests_and_grants_are_not_shown_to_clients() -> None:
    c = couple()
    seen = len(c.bob.stanzas)
    c.world.inject(c.alice, lost_key(c))
    assert len(c.bob.stanzas) == seen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("n", "7", id="I20-index"),
        pytest.param("prekey", "1000", id="I20-prekey"),
        pytest.param("time", "1750000000001", id="I20-time"),
        pytest.param("nonce", "AAAAAAAAAAAAAAAAAAAAAA==", id="I20-nonce"),
        pytest.param("owner", CAROL, id="I20-owner"),
        pytest.param("root", base64.b64encode(bytes(32)).decode(), id="I20-root"),
        pytest.param("device", base64.b64encode(bytes(32)).decode(), id="I20-device"),
        pytest.param("lane", base64.b64encode(bytes(16)).decode(), id="I20-lane"),
        pytest.param("n", "-1", id="I20-negative"),
        pytest.param("n", "٣", id="I20-arabic-digit"),
        pytest.param("seq", "9" * 40, id="I20-huge-number"),
        pytest.param("lane", "!", id="I20-no-base64"),
        pytest.param("", "AAAA", id="I20-signature"),
    ],
)
def test_i20_what_was_not_signed_is_not_answered(name: str, value: str) -> None:
    c = couple()
    asked = request(c, lost_key(c))
    element = asked.find(KEYREQ)
    assert element is not None
    if name:
        element.set(name, value)
    else:
        element.text = value
    assert answers(c, asked) == 0
    assert not c.b.faults


@pytest.mark.parametrize("sender", [f"{CAROL}/one", "b.test", "mallory@x.test", BOB])
def test_i19_somebody_else_is_not_answered(sender: str) -> None:
    c = couple()
    c.world.login(c.world.tillie(), CAROL).say(BOB, "I am known to bob")
    asked = request(c, lost_key(c))
    assert answers(c, asked, sender) == 0


def test_i19_not_in_the_audience_is_not_answered() -> None:
    """Carol asks Bob, truthfully and signed, for the lane he writes to Alice on."""
    c = couple()
    tillie = c.world.tillie()
    carol = c.world.login(tillie, CAROL)
    carol.say(BOB, "I am known to bob")
    message = lost_key(c)
    header = lanes.Header.unpack(payload_of(message))
    with tillie.writing():
        [asked] = tillie.house.key_requests(tillie.account(CAROL)).ask(BOB, header)
    assert answers(c, parsed(asked.data.decode()), f"{CAROL}/one") == 0


@pytest.mark.parametrize("days", [-15, 15])
def test_i20_request_out_of_date_is_not_answered(days: int) -> None:
    c = couple()
    asked = request(c, lost_key(c))
    c.world.now += days * DAY
    assert answers(c, asked) == 0


def test_i20_fresh_request_is_answered_within_its_time() -> None:
    c = couple()
    asked = request(c, lost_key(c))
    c.world.now += 5 * DAY
    assert answers(c, asked) == 1


def test_i20_quota_counts_distinct_requests() -> None:
    """I20: a repetition gets its answer again and uses nothing up."""
    c = couple()
    first = request(c, lost_key(c, "first"))
    for _ in range(60):
        answers(c, first)
    assert answers(c, request(c, lost_key(c, "second"))) == 1


def test_i20_forged_requests_use_nothing_up() -> None:
    c = couple()
    asked = request(c, lost_key(c))
    for at in range(60):
        forged = parsed_copy(asked)
        forged[0].set("nonce", base64.b64encode(at.to_bytes(16, "big")).decode())
        assert answers(c, forged) == 0
    assert answers(c, asked) == 1


def test_i20_request_inside_an_error_or_room_is_not_answered() -> None:
    c = couple()
    asked = request(c, lost_key(c))
    for kind in ("error", "groupchat"):
        asked.set("type", kind)
        assert answers(c, asked) == 0
    asked.set("type", "normal")
    assert answers(c, asked) == 1


def test_enc_19_requests_are_bounded_over_many_lanes() -> None:
    """A peer's (or its server's) random lanes make few requests, not one each."""
    c = couple()
    message = c.capture()
    since = len(c.alice.upstream.stanzas)
    for at in range(300):
        bent = bytearray(payload_of(message))
        bent[3:19] = at.to_bytes(16, "big")
        c.world.inject(c.alice, with_payload(message, bytes(bent)))
    c.world.wait(61_000)
    asked = [
        one for one in c.alice.upstream.stanzas[since:] if one.find(KEYREQ) is not None
    ]
    assert 1 <= len(asked) <= 200
    assert {one.get("to") for one in asked} == {BOB}


def test_a_request_for_a_stranger_goes_out_after_the_look_up_alone() -> None:
    """First contact under an unknown key: the sender's keys, then one request."""
    c = couple(talked=False)
    message = lost_key(c, "first contact")
    c.world.inject(c.alice, message)
    c.world.wait(1_000)
    assert c.alice.bodies == ["first contact"]


def test_what_stays_unanswered_shows_as_a_placeholder_and_later_opens() -> None:
    c = couple()
    message = lost_key(c)
    c.world.leaving = lambda _s, stanza: [] if stanza.find(KEYREQ) is not None else None
    c.world.inject(c.alice, message)
    c.world.wait(29_000)
    assert c.alice.bodies[-1] == "first of bob"
    c.world.wait(3_000)
    assert c.alice.bodies[-1] == marks.UNREADABLE
    c.world.leaving = lambda _s, _x: None
    c.world.wait(61_000)
    c.world.inject(c.alice, lost_key(c, "another"))
    c.world.wait(61_000)
    assert "another" in c.alice.bodies


# -- own devices ------------------------------------------------------------------


def second_of_alice(c: Couple) -> Client:
    tillie = c.world.tillie()
    second = c.world.login(tillie, ALICE, "two")
    link(c.a, tillie, ALICE)
    return second


def test_i19_linked_device_does_not_get_what_was_written_before() -> None:
    """I19: history only by a person's yes; a request gives none of it."""
    c = couple()
    for text in ("old one", "old two"):
        c.alice.say(BOB, text)
    old = sealed(c.alice.upstream.stanzas)[-2:]
    second = second_of_alice(c)
    for message in old:
        message.set("from", f"{ALICE}/one")
        c.world.inject(second, carbon(message, "sent", ALICE, f"{ALICE}/two"))
    c.world.wait(61_000)
    shown = "".join(second.raw.decode())
    assert "old one" not in shown
    assert "old two" not in shown


def test_i19_linked_device_does_not_get_what_was_received_before() -> None:
    c = couple()
    with c.caught() as kept:
        c.bob.say(ALICE, "old from bob")
    c.world.inject(c.alice, kept[0])
    second = second_of_alice(c)
    c.world.inject(second, carbon(kept[0], "received", ALICE, f"{ALICE}/two"))
    c.world.wait(61_000)
    assert "old from bob" not in second.raw.decode()


def test_linked_device_reads_what_comes_from_now_on() -> None:
    c = couple()
    second = second_of_alice(c)
    c.world.wait(3_000)
    c.alice.say(BOB, "sent by the first")
    c.bob.say(ALICE, "from bob to both")
    c.world.wait(61_000)
    assert "sent by the first" in second.raw.decode()
    assert "from bob to both" in second.raw.decode()


def test_i19_contacts_new_device_gets_the_lane_from_now_on() -> None:
    """Bob's second device asks for the lane Alice writes on: from here, not before."""
    c = couple()
    with c.caught() as kept:
        c.alice.say(BOB, "before the second was there")
    tillie = c.world.tillie()
    second = c.world.login(tillie, BOB, "two")
    link(c.b, tillie, BOB)
    c.world.inject(second, kept[0])
    c.world.wait(61_000)
    assert "before the second was there" not in second.raw.decode()
