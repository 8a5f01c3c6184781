"""The rules of sealing that two Tillies keep together, by their number."""

from __future__ import annotations

from copy import deepcopy
from xml.etree.ElementTree import Element

import pytest

from proxy.core.account import Settings
from proxy.core.keyrequests import KEYREQ
from proxy.rules import classes
from proxy.suites.lanes import Header
from tests.support.canary import Canaries
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    DAY,
    GRANTS,
    MESSAGE,
    PAYLOAD,
    SEALS,
    Client,
    Couple,
    couple,
    link,
    payload_of,
    sealed,
    with_payload,
)


def headers(client: Client) -> list[Header]:
    return [Header.unpack(payload_of(one)) for one in sealed(client.upstream.stanzas)]


def restored(c: Couple, snapshot: dict[tuple[str, str, str], bytes]) -> Client:
    """Bob's Tillie begins again from an older state; Bob logs in."""
    c.b.store._rows = dict(snapshot)
    c.b.restart()
    return c.world.login(c.b, BOB, "restored")


def test_i07_restored_snapshot_repeats_an_index_but_no_key() -> None:
    """I7: both are opened, delivered, and share neither key nor nonce."""
    c = couple()
    snapshot = dict(c.b.store._rows)
    c.bob.say(ALICE, "before the snapshot was restored")
    again = restored(c, snapshot)
    again.say(ALICE, "after it was restored")
    one, two = headers(c.bob)[-1], headers(again)[-1]
    assert (one.lane, one.n) == (two.lane, two.n)
    assert one.random != two.random
    assert c.alice.bodies[-2:] == [
        "before the snapshot was restored",
        "after it was restored",
    ]


def test_i07_random_bytes_are_fresh_for_every_seal() -> None:
    c = couple()
    for _ in range(50):
        c.bob.say(ALICE, "the same text")
    assert len({one.random for one in headers(c.bob)}) == len(headers(c.bob))
    payloads = [payload_of(one) for one in sealed(c.bob.upstream.stanzas)]
    assert len({one[-32:] for one in payloads}) == len(payloads)


def test_i08_the_senders_clock_decides_nothing() -> None:
    """I8: a year ahead, a year behind: the message opens."""
    c = couple()
    now = c.world.now
    for wrong in (now + 400 * DAY, now - 400 * DAY):
        with c.caught() as kept:
            c.world.now = wrong
            with c.b.writing():
                c.b.account(BOB).ratchets.rotate(ALICE)
            c.bob.say(ALICE, f"sent at {wrong}")
        c.world.now = now
        for message in kept:
            c.world.inject(c.alice, message)
        assert c.alice.bodies[-1] == f"sent at {wrong}"


def test_i10_each_lane_has_a_fresh_key_of_its_own() -> None:
    """I10: nothing of an old lane is in a new one; healing rests on prekeys alone."""
    c = couple()
    account = c.b.account(BOB)
    lanes = []
    for _ in range(3):
        with c.b.writing():
            account.ratchets.rotate(ALICE)
        c.bob.say(ALICE, "x")
        lane = account.ratchets.current(ALICE)
        assert lane is not None
        lanes.append(lane)
    assert len({one.first.key for one in lanes}) == 3
    assert len({one.facts.public for one in lanes}) == 3
    assert len({one.lane for one in lanes}) == 3


def test_i13_index_chain_ciphertext_and_ledger_row_are_one_commit() -> None:
    """I13: what left stands in the ledger byte for byte, with the chain advanced."""
    c = couple()
    commits = c.a.commits
    sent: list[tuple[int, bytes]] = []

    def look(stream: object, stanza: Element) -> None:
        rows = c.a.store.scan("ledger", ALICE)
        if stanza.tag == MESSAGE:
            sent.append((c.a.commits, rows[-1][1]))

    c.world.leaving = look
    c.alice.say(BOB, "one")
    [(commit, row)] = sent
    assert commit == commits + 1
    assert row[row.index(b"<message") :] in bytes(c.alice.upstream.raw)
    lane = c.account.ratchets.current(BOB)
    assert lane is not None
    assert lane.chain.n == headers(c.alice)[-1].n + 1


def test_i13_failed_commit_sends_nothing_and_repeats_no_key() -> None:
    c = couple()
    before = len(c.world.wire)
    c.a.refuse_commits = True
    c.alice.say(BOB, "never committed")
    c.a.refuse_commits = False
    assert b"<message" not in c.world.wire[before:]
    again = c.world.login(c.a, ALICE, "again")
    again.say(BOB, "committed")
    assert c.bob.bodies[-1] == "committed"
    # what was sent before and not acknowledged comes again, unchanged
    out = sealed(c.alice.upstream.stanzas) + sealed(again.upstream.stanzas)
    payloads = {payload_of(one) for one in out}
    places = {(one.lane, one.n) for one in map(Header.unpack, payloads)}
    assert len(places) == len(payloads) == 2


def test_i13_resend_is_byte_identical_and_shown_once() -> None:
    """I13: after a kill, on a new stream, and after rotation."""
    c = couple()
    c.alice.say(BOB, "sent before the kill")
    first = render(sealed(c.alice.upstream.stanzas)[-1])
    c.a.restart()
    with c.a.writing():
        c.a.account(ALICE).ratchets.rotate(BOB)
    again = c.world.login(c.a, ALICE, "again")
    resent = [render(one) for one in sealed(again.upstream.stanzas)]
    assert first in resent
    assert c.bob.bodies.count("sent before the kill") == 1


def test_i13_same_text_and_id_twice_is_shown_twice() -> None:
    """Deduplication is by what was sealed; bots reuse stanza ids."""
    c = couple()
    for _ in range(2):
        c.bob.say(ALICE, "tick", ident="bot")
    assert c.alice.bodies[-2:] == ["tick", "tick"]


def test_i15_no_node_is_read_again_within_a_day() -> None:
    c = couple()

    def look_ups() -> int:
        return sum(
            one.get("to") == BOB and one.tag.endswith("iq")
            for one in c.alice.upstream.stanzas
        )

    first = look_ups()
    for _ in range(30):
        c.alice.say(BOB, "x")
        c.bob.say(ALICE, "y")
    assert look_ups() == first
    c.world.now += DAY + 1
    c.alice.say(BOB, "x")
    assert look_ups() == first + 2


def test_i15_nodes_are_published_open_and_never_pushed() -> None:
    c = couple()
    forms = [
        {
            field.get("var"): field.findtext("{jabber:x:data}value")
            for field in one.iter("{jabber:x:data}field")
        }
        for one in c.alice.upstream.stanzas
        if one.find(".//{http://jabber.org/protocol/pubsub}publish") is not None
    ]
    assert len(forms) == 2
    for form in forms:
        assert form["pubsub#access_model"] == "open"
        assert form["pubsub#persist_items"] == "true"
        assert form["pubsub#send_last_published_item"] == "never"


def test_i19_message_of_a_lost_state_is_readable_again() -> None:
    """I19, I20: Alice's state is a day old; what she cannot open is asked for."""
    c = couple(talked=False)
    snapshot = dict(c.a.store._rows)
    c.bob.say(ALICE, "one")
    c.alice.say(BOB, "answer")
    for at in range(5):
        c.bob.say(ALICE, f"more {at}")
    c.a.store._rows = snapshot
    c.a.restart()
    alice = c.world.login(c.a, ALICE, "later")
    c.bob.say(f"{ALICE}/later", "after the loss")
    c.world.wait(3_000)
    assert alice.bodies[-1] == "after the loss"


def test_i20_no_error_stanza_answers_what_cannot_be_opened() -> None:
    c = couple()
    message = c.capture()
    bent = bytearray(payload_of(message))
    since = len(c.alice.upstream.stanzas)
    for at in (0, 5, 50, 120, len(bent) - 1):
        bent[at] ^= 1
        c.world.inject(c.alice, with_payload(message, bytes(bent)))
    c.world.wait(61_000)
    sent = c.alice.upstream.stanzas[since:]
    assert not [one for one in sent if one.get("type") == "error"]
    assert all(one.find(KEYREQ) is not None for one in sent if one.tag == MESSAGE)


@pytest.mark.parametrize("field", ["to", "from", "type"])
def test_i23_the_inside_says_who_and_to_whom(field: str) -> None:
    """I23: what a server rewrites outside is refused or has no effect."""
    c = couple()
    message = c.capture()
    other = {"to": "eve@e.test", "from": "eve@e.test/x", "type": "headline"}[field]
    message.set(field, other)
    shown = len(c.alice.messages)
    c.world.inject(c.alice, message)
    for one in c.alice.messages[shown:]:
        assert (
            one.findtext(BODY) != "a captured text" or one.get("from") == f"{BOB}/one"
        )
        assert field != "type"


def test_i23_the_id_inside_wins() -> None:
    c = couple()
    message = c.capture("text")
    message.set("id", "rewritten")
    c.world.inject(c.alice, message)
    assert c.alice.messages[-1].get("id") == "id of text"


def test_i24_manifest_with_the_same_number_is_not_taken() -> None:
    """I24: equal number, other content: the pinned one stays, with a notice."""
    from proxy.core.directory import KEY, record_item
    from proxy.keys.manifest import renamed

    c = couple()
    b = c.b.account(BOB).identity
    old = b.manifest
    with c.b.writing():
        c.b.account(BOB).identity.rename_device(b.device.id, "one", c.world.now)
    one = b.manifest
    two = renamed(old, b._owned(), b.device.id, "two", c.world.now)
    assert one.seq == two.seq
    for manifest in (one, two):
        c.world.pep[BOB, KEY] = {"current": record_item(manifest)}
        c.world.now += DAY + 1
        c.alice.say(BOB, "x")
    contact = c.account.contacts.get(BOB)
    assert contact is not None
    assert contact.manifest.digest == one.digest
    assert [text for text in c.alice.notices if "same number" in text]


def test_i28_the_suite_of_a_seal_is_the_first_that_all_have() -> None:
    """I28: with one suite that is suite 1, named in the clear of the header."""
    c = couple()
    for message in sealed(c.alice.upstream.stanzas):
        assert payload_of(message)[:2] == b"\x00\x01"


def test_i28_contact_without_our_suite_is_not_sealed_to() -> None:
    """A manifest that offers other suites only: returned, and never in clear."""
    from proxy.core.directory import KEY, record_item
    from proxy.keys import manifest as manifests

    c = couple(talked=False)
    identity = c.b.account(BOB).identity
    entry = identity.manifest.devices
    other = manifests._sign(
        BOB, identity._owned(), 2, identity.manifest.digest, entry, (7,), c.world.now
    )
    c.world.pep[BOB, KEY] = {"current": record_item(other)}
    text = Canaries().secret()
    c.alice.say(BOB, text, ident="m")
    c.world.wait(17_000)
    assert [one.get("id") for one in c.alice.errors] == ["m"]
    assert sealed(c.alice.upstream.stanzas) == []
    assert text.encode() not in c.world.wire


# -- conversations ----------------------------------------------------------------


def test_first_contact_to_somebody_offline() -> None:
    c = couple(talked=False)
    c.bob.close()
    for at in range(5):
        c.alice.say(BOB, f"message {at}")
    bob = c.world.login(c.b, BOB, "back")
    assert bob.bodies == [f"message {at}" for at in range(5)]


def test_first_contact_from_both_sides_at_once() -> None:
    c = couple(talked=False)
    with c.caught() as kept:
        c.alice.say(BOB, "from alice")
        c.bob.say(ALICE, "from bob")
    c.world.inject(c.bob, kept[0])
    c.world.inject(c.alice, kept[1])
    assert (c.alice.bodies, c.bob.bodies) == (["from bob"], ["from alice"])


def test_messages_out_of_order_and_with_gaps_open() -> None:
    """A server that reorders and loses: what arrives is shown."""
    c = couple()
    with c.caught() as kept:
        for at in range(20):
            c.bob.say(ALICE, f"m{at}")
    order = [19, 3, 7, 0, 12, 11]
    for at in order:
        c.world.inject(c.alice, kept[at])
    assert c.alice.bodies[1:] == [f"m{at}" for at in order]


def test_a_hundred_messages_rotate_the_lane_and_all_arrive() -> None:
    c = couple()
    for at in range(120):
        c.bob.say(ALICE, f"m{at}")
    assert c.alice.bodies[1:] == [f"m{at}" for at in range(120)]
    lanes = [one.lane for one in headers(c.bob)]
    assert len(set(lanes)) == 2
    assert lanes.count(lanes[0]) == 100


def test_a_day_rotates_the_lane() -> None:
    c = couple()
    c.bob.say(ALICE, "today")
    c.world.now += DAY
    c.bob.say(ALICE, "tomorrow")
    lanes = [one.lane for one in headers(c.bob)]
    assert lanes[-1] != lanes[-2]
    assert c.alice.bodies[-1] == "tomorrow"


def test_device_added_in_the_middle_reads_on_and_removed_one_does_not() -> None:
    c = couple()
    tillie = c.world.tillie()
    second = c.world.login(tillie, BOB, "two")
    link(c.b, tillie, BOB)
    c.bob.say(ALICE, "I have two devices now")
    c.world.wait(20_000)
    c.alice.say(BOB, "to both")
    assert c.bob.bodies[-1] == "to both"
    assert second.bodies[-1] == "to both"
    device = tillie.account(BOB).identity.device
    c.b.command("devices-remove", account=BOB, id=device.id.hex())
    c.bob.say(ALICE, "one again")
    c.world.wait(20_000)
    c.alice.say(BOB, "to the first alone")
    c.world.wait(61_000)
    assert "to the first alone" in c.bob.bodies
    assert "to the first alone" not in second.raw.decode()


def test_notes_to_oneself_are_sealed_and_come_back() -> None:
    c = couple()
    text = Canaries().secret()
    c.alice.say(ALICE, text)
    assert c.alice.bodies[-1] == text
    assert text.encode() not in c.world.wire


def test_own_other_device_reads_sent_copies() -> None:
    c = couple()
    tillie = c.world.tillie()
    second = c.world.login(tillie, ALICE, "two")
    link(c.a, tillie, ALICE)
    c.world.wait(3_000)
    c.alice.say(BOB, "read on both of my devices")
    c.world.wait(3_000)
    assert "read on both of my devices" in second.raw.decode()
    assert SEALS[0] not in {one.tag for copy in second.messages for one in copy.iter()}


@pytest.mark.parametrize(
    ("fallback", "beside"),
    [
        (True, {BODY, f"{{{classes.FALLBACK}}}fallback"}),
        (
            False,
            {
                "{urn:xmpp:hints}store",
                "{urn:xmpp:receipts}request",
                "{urn:xmpp:sid:0}origin-id",
            },
        ),
    ],
)
def test_servers_go_by_the_fallback_body_or_by_what_stands_in_its_place(
    fallback: bool, beside: set[str]
) -> None:
    c = couple(settings=Settings(fallback=fallback))
    c.alice.send(
        f"<message to='{BOB}' type='chat' id='1'><body>b</body>"
        "<request xmlns='urn:xmpp:receipts'/>"
        "<origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>"
    )
    out = sealed(c.alice.upstream.stanzas)[-1]
    shown = {child.tag for child in out}
    assert shown == {SEALS[0], f"{{{classes.EME}}}encryption"} | beside
    inside = {child.tag for child in c.bob.messages[-1]}
    assert {
        "{urn:xmpp:receipts}request",
        "{urn:xmpp:sid:0}origin-id",
    } <= inside


def test_seal_has_no_more_outside_than_the_table_allows() -> None:
    c = couple()
    c.alice.send(
        f"<message to='{BOB}' type='chat' id='1'><body>b</body>"
        "<request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/>"
        "<origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>"
    )
    out = deepcopy(sealed(c.alice.upstream.stanzas)[-1])
    assert [child.tag for child in out[0]][:1] == [PAYLOAD]
    assert {child.tag for child in out} <= {
        SEALS[0],
        "{urn:xmpp:hints}store",
        "{urn:xmpp:receipts}request",
        "{urn:xmpp:sid:0}origin-id",
        f"{{{classes.EME}}}encryption",
        f"{{{classes.FALLBACK}}}fallback",
        BODY,
    }
    assert out[0].find(GRANTS) is None
