"""Asking for a lane's key and answering (I19, I20, ENC-19)."""

from __future__ import annotations

import base64
from xml.etree.ElementTree import Element

import pytest

from proxy.core.keyrequests import KEYREQ, KeyRequests
from proxy.errors import TrustFault
from proxy.keys.identity import DevicePrivate
from proxy.rules import marks
from proxy.suites import lanes
from proxy.suites.fields import b64, fields, unb64
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    CAROL,
    DAY,
    GRANTS,
    MESSAGE,
    NO,
    Client,
    Couple,
    carbon,
    couple,
    link,
    parsed,
    payload_of,
    sealed,
    with_payload,
    without,
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
    return parsed(render(stanza))


def answers(c: Couple, asked: Element, sender: str = f"{ALICE}/one") -> int:
    """How many grants Bob sends for *asked*; nothing else may leave."""
    found = reactions(c, asked, sender)
    assert all(one.find(GRANTS) is not None for one in found)
    return len(found)


def reactions(c: Couple, asked: Element, sender: str = f"{ALICE}/one") -> list[Element]:
    """The messages that Bob sends because of *asked*."""
    since = len(c.bob.upstream.stanzas)
    asked.set("from", sender)
    c.world.inject(c.bob, asked)
    sent = c.bob.upstream.stanzas[since:]
    return [one for one in sent if one.tag == MESSAGE]


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
    assert reactions(c, parsed(asked.data.decode()), f"{CAROL}/one") == []


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


# -- refusals ---------------------------------------------------------------------


def lost_lane(c: Couple, text: str = "nobody has the key") -> Element:
    """As :func:`lost_key`, and Bob's Tillie does not know the lane any more either."""
    message = lost_key(c, text)
    forget_lanes(c)
    with c.caught():
        c.bob.say(ALICE, "on a lane that he knows")
    return message


def forget_lanes(c: Couple) -> None:
    with c.b.writing():
        c.b.account(BOB).ratchets.rotate(ALICE)
        for key, _ in c.b.store.scan("past", BOB):
            c.b.store.delete("past", BOB, key)


def refusal(c: Couple, message: Element) -> Element:
    """Bob's refusal of the key of *message*, kept from Alice."""
    held: list[Element] = []

    def keep(_: object, stanza: Element) -> list[Element] | None:
        if stanza.find(NO) is None:
            return None
        held.append(parsed_copy(stanza))
        return []

    c.world.leaving = keep
    c.world.inject(c.alice, message)
    c.world.leaving = lambda _s, _x: None
    [one] = held
    one.set("from", f"{BOB}/one")
    return one


def test_i20_refusal_ends_the_waiting_and_nothing_is_lost() -> None:
    """I20: the fixed text comes at once; the message is kept in case."""
    c = couple()
    message = lost_lane(c)
    since = len(c.bob.upstream.stanzas)
    c.world.inject(c.alice, message)
    [answer] = c.bob.upstream.stanzas[since:]
    assert [child.tag for child in answer] == [NO, "{urn:xmpp:hints}no-store"]
    assert answer.get("to") == ALICE
    assert c.alice.bodies[-1] == marks.UNREADABLE
    assert [one.shown for one in c.account.inbox.load_held()] == [True]
    c.bob.say(ALICE, "and on it goes")
    assert c.alice.bodies[-1] == "and on it goes"


def test_i20_what_comes_later_under_a_refused_lane_does_not_wait() -> None:
    c = couple()
    message = lost_lane(c)
    c.world.inject(c.alice, message)
    sent = len(c.alice.upstream.stanzas)
    bent = bytearray(payload_of(message))
    bent[-1] ^= 1
    c.world.inject(c.alice, with_payload(message, bytes(bent)))
    assert c.alice.bodies[-2:] == [marks.UNREADABLE] * 2
    c.world.wait(600_000)
    asked = c.alice.upstream.stanzas[sent:]
    assert not [one for one in asked if one.find(KEYREQ) is not None]


def test_i20_grant_after_a_refusal_shows_the_message() -> None:
    """A copy of the state comes back at the sender's: the key is there again."""
    c = couple()
    message = lost_key(c, "found again")
    rows = dict(c.b.store._rows)
    forget_lanes(c)
    with c.caught():
        c.bob.say(ALICE, "on a lane that he knows")
    c.world.inject(c.alice, message)
    assert c.alice.bodies[-1] == marks.UNREADABLE
    c.b.store._rows = rows
    c.b.restart()
    bob = c.world.login(c.b, BOB)
    bob.say(ALICE, "the same lane")
    assert c.alice.bodies[-2:] == ["found again", "the same lane"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("device", base64.b64encode(bytes(32)).decode(), id="I20-device"),
        pytest.param("lane", base64.b64encode(bytes(16)).decode(), id="I20-lane"),
        pytest.param("nonce", base64.b64encode(bytes(16)).decode(), id="I20-nonce"),
        pytest.param("nonce", "!", id="I20-no-base64"),
        pytest.param("", base64.b64encode(bytes(64)).decode(), id="I20-signature"),
    ],
)
def test_i20_refusal_that_was_not_signed_changes_nothing(name: str, value: str) -> None:
    c = couple()
    no = refusal(c, lost_lane(c))
    true = parsed_copy(no)
    if name:
        no[0].set(name, value)
    else:
        no[0].text = value
    c.world.inject(c.alice, no)
    assert c.alice.bodies[-1] == "first of bob"
    c.world.inject(c.alice, true)
    assert c.alice.bodies[-1] == marks.UNREADABLE


@pytest.mark.parametrize("sender", [f"{CAROL}/one", ALICE, "b.test"])
def test_i20_refusal_of_somebody_else_changes_nothing(sender: str) -> None:
    c = couple()
    no = refusal(c, lost_lane(c))
    no.set("from", sender)
    c.world.inject(c.alice, no)
    assert c.alice.bodies[-1] == "first of bob"


def test_i20_refusal_by_a_device_that_is_not_listed_changes_nothing() -> None:
    """Signed well, by a device that Bob removed or never had."""
    c = couple()
    no = refusal(c, lost_lane(c))
    mallory = DevicePrivate.generate()
    lane, nonce = (unb64(no[0].get(name) or "") for name in ("lane", "nonce"))
    reader = c.account.identity.device.public
    statement = fields("no", BOB, mallory.public, ALICE, reader, lane, nonce)
    no[0].set("device", b64(mallory.public))
    no[0].text = b64(mallory.sign(statement))
    c.world.inject(c.alice, no)
    assert c.alice.bodies[-1] == "first of bob"


def test_i20_refusal_of_another_request_changes_nothing() -> None:
    c = couple()
    first = refusal(c, lost_lane(c, "first"))
    c.world.inject(c.alice, first)
    assert c.alice.bodies.count(marks.UNREADABLE) == 1
    refusal(c, lost_lane(c, "second"))
    c.world.inject(c.alice, first)
    assert c.alice.bodies.count(marks.UNREADABLE) == 1


def test_i20_a_stranger_gets_no_refusal() -> None:
    """Carol has keys, writes to Bob and asks; Bob has never written to her."""
    c = couple()
    tillie = c.world.tillie()
    carol = c.world.login(tillie, CAROL)
    header = lanes.Header(0, bytes(16), 0, bytes(8), bytes(16))
    for known in (False, True):
        with tillie.writing():
            [asked] = KeyRequests(tillie.account(CAROL)).ask(BOB, header)
        assert reactions(c, parsed(asked.data.decode()), f"{CAROL}/one") == [], known
        carol.say(BOB, "now you know me")
    c.bob.say(CAROL, "and write to you")
    with tillie.writing():
        [asked] = KeyRequests(tillie.account(CAROL)).ask(BOB, header)
    [answer] = reactions(c, parsed(asked.data.decode()), f"{CAROL}/one")
    assert answer.find(NO) is not None


def test_i20_refusal_waits_for_the_client_to_be_there() -> None:
    c = couple()
    message = lost_lane(c)
    c.alice.close()
    c.alice = c.world.login(c.a, ALICE, available=False)
    # the refusal reaches it all the same
    c.alice.upstream.available = True
    c.world.inject(c.alice, message)
    assert c.alice.bodies == []
    c.alice.send("<presence/>")
    assert c.alice.bodies == [marks.UNREADABLE]


def test_i20_refusals_count_against_the_quota() -> None:
    c = couple()
    asked = request(c, lost_lane(c))
    alice = c.account
    answered = 0
    for at in range(60):
        with c.a.writing():
            [one] = KeyRequests(alice).ask(
                BOB, lanes.Header(0, at.to_bytes(16, "big"), 0, bytes(8), bytes(16))
            )
        answered += len(reactions(c, parsed(one.data.decode())))
    assert answered == 40
    assert reactions(c, asked) == []
    c.world.now += 3_600_001
    assert len(reactions(c, asked)) == 1


def test_i20_repeated_request_gets_the_same_refusal() -> None:
    c = couple()
    asked = request(c, lost_lane(c))
    [first], [second] = reactions(c, asked), reactions(c, asked)
    assert [one.attrib for one in first] == [one.attrib for one in second]
    assert first[0].text == second[0].text


def test_i20_device_that_may_not_know_leaves_the_refusal_to_others() -> None:
    """Bob has two devices, and the one that is asked has never had the lane."""
    c = couple()
    message = lost_key(c)
    asked = request(c, message)
    tillie = c.world.tillie()
    second = c.world.login(tillie, BOB, "two")
    link(c.b, tillie, BOB)
    since = len(second.upstream.stanzas)
    asked.set("from", f"{ALICE}/one")
    c.world.inject(second, asked)
    assert not [one for one in second.upstream.stanzas[since:] if one.find(NO)]
    assert len(answers_of(second, since)) == 0
    assert answers(c, asked) == 1


def answers_of(client: Client, since: int) -> list[Element]:
    return [one for one in client.upstream.stanzas[since:] if one.tag == MESSAGE]


def test_i20_refusal_is_not_the_last_word_while_own_devices_may_know() -> None:
    """Alice's other device was asked too: the message waits its 30 s."""
    c = couple()
    second_of_alice(c)
    message = lost_lane(c)
    c.world.inject(c.alice, message)
    c.world.wait(10_000)
    assert [one for one in c.bob.upstream.stanzas if one.find(NO) is not None]
    assert c.alice.bodies[-1] == "first of bob"
    c.world.wait(21_000)
    assert c.alice.bodies[-1] == marks.UNREADABLE


# -- archive pages ----------------------------------------------------------------


def page(c: Couple, message: Element) -> str:
    """The text that Alice's client is shown for *message* in her archive."""
    seen = len(c.alice.stanzas)
    c.world.inject(
        c.alice,
        f"<message from='{ALICE}'><result xmlns='urn:xmpp:mam:2' id='r'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{render(message)}</forwarded>"
        "</result></message>",
    )
    [result] = c.alice.stanzas[seen:]
    return result.findtext(f".//{BODY}") or ""


def asked_keys(c: Couple, since: int = 0) -> list[Element]:
    sent = c.alice.upstream.stanzas[since:]
    return [one for one in sent if one.find(KEYREQ) is not None]


def test_i20_archive_page_is_asked_for_once_and_opens_when_read_again() -> None:
    c = couple()
    with c.caught() as kept:
        with c.b.writing():
            c.b.account(BOB).ratchets.rotate(ALICE)
        for at in range(3):
            c.bob.say(ALICE, f"from the archive {at}")
    bare = [with_payload(one, payload_of(one)) for one in kept]
    assert page(c, bare[0]) == marks.UNREADABLE_OLD
    assert [page(c, one) for one in bare] == [
        f"from the archive {at}" for at in range(3)
    ]
    assert len(asked_keys(c)) == 1


def test_i20_archive_page_that_stays_shut_is_asked_for_five_times() -> None:
    c = couple()
    message = lost_key(c)
    c.world.leaving = without(KEYREQ)
    for _ in range(20):
        assert page(c, message) == marks.UNREADABLE_OLD
    assert len(asked_keys(c)) == 1
    for _ in range(20):
        c.world.now += 61_000
        page(c, message)
    assert len(asked_keys(c)) == 5


def test_enc_19_made_up_pages_make_few_requests() -> None:
    """The own server writes the archive: it gets 40 requests an hour out of it."""
    c = couple()
    message = c.capture()
    for at in range(300):
        bent = bytearray(payload_of(message))
        bent[3:19] = at.to_bytes(16, "big")
        page(c, with_payload(message, bytes(bent)))
    assert len(asked_keys(c)) == 40


def test_a_page_of_the_only_device_asks_nobody() -> None:
    """What an earlier installation wrote: there is no other device to ask."""
    c = couple()
    c.alice.say(BOB, "of an earlier installation")
    [own] = sealed(c.alice.upstream.stanzas)[-1:]
    bent = bytearray(payload_of(own))
    bent[3:19] = bytes(16)
    own.set("from", f"{ALICE}/one")
    since = len(c.alice.upstream.stanzas)
    assert page(c, with_payload(own, bytes(bent))) == marks.UNREADABLE_OLD
    assert c.alice.upstream.stanzas[since:] == []


def test_enc_19_pages_of_strangers_cost_no_request_and_no_look_up() -> None:
    c = couple()
    message = c.capture()
    bent = bytearray(payload_of(message))
    bent[3:19] = bytes(16)
    message.set("from", f"{CAROL}/one")
    since = len(c.alice.upstream.stanzas)
    assert page(c, with_payload(message, bytes(bent))) == marks.UNREADABLE_OLD
    assert c.alice.upstream.stanzas[since:] == []


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


@pytest.mark.parametrize(
    ("name", "size"),
    [("nonce", 45_000), ("nonce", 15), ("lane", 45_000), ("device", 33), ("root", 31)],
)
def test_i20_parts_of_a_request_have_their_size(name: str, size: int) -> None:
    """A refusal echoes some of them: one that is too large to send would end the
    stream, and the request would come again with the next one."""
    c = couple()
    asked = request(c, lost_key(c))[0]
    requests = c.b.house.key_requests(c.b.account(BOB))
    assert requests.read(asked, ALICE)
    asked.set(name, b64(bytes(size)))
    with pytest.raises(TrustFault, match="malformed"):
        requests.read(asked, ALICE)
