"""Conversations through real Tillies and a real Prosody, told by raw clients."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest

from ..support.bed import Bed
from ..support.raw import CLIENT, RawClient, text_of
from ..support.tillie import Tillie
from ..support.waiting import until

ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@a.test"
MESSAGE = f"{{{CLIENT}}}message"
CARBONS = "urn:xmpp:carbons:2"
LIMITS = "{urn:xmpp:stream-limits:0}"
ERROR_TEXT = f"{{{CLIENT}}}error/{{urn:ietf:params:xml:ns:xmpp-stanzas}}text"

Told = Callable[[str, str], None]


@pytest.fixture
def two(bed: Bed) -> tuple[Bed, Tillie, Tillie]:
    bed.start(ALICE, BOB)
    return bed, bed.tillie("ta"), bed.tillie("tb")


def ready(tillie: Tillie, count: int = 1) -> None:
    """Wait until the keys of *count* accounts are published."""

    def published() -> bool:
        accounts = tillie.json("status")["accounts"]
        return sum(bool(one["published"]) for one in accounts) >= count

    until(published, seconds=15, what="the keys to be published")


def error_of(client: RawClient, ident: str) -> str:
    """The text of the error that answers the message *ident*."""
    answer = client.wait_for(
        lambda one: (
            one.tag == MESSAGE and one.get("id") == ident and one.get("type") == "error"
        ),
        seconds=20,
    )
    return answer.findtext(ERROR_TEXT) or ""


def test_first_contact_both_ways(two: tuple[Bed, Tillie, Tillie]) -> None:
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    there, back = bed.canaries.secret(), bed.canaries.secret()
    alice.say(BOB, there)
    got = bob.message(there, seconds=20)
    assert text_of(got) == there
    assert got.find("{urn:xmpp:eme:0}encryption") is None
    bob.say(got.get("from", ""), back)
    assert text_of(alice.message(back)) == back
    [contact] = ta.json("contacts")
    assert (contact["jid"], contact["level"], contact["devices"]) == (BOB, "seen", 1)


def test_everything_inside_a_message_is_sealed_and_arrives(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    """ENC-02: each place that can hold text is searched by the fixture."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    c = [bed.canaries.secret() for _ in range(12)]
    alice.send(
        f"<message to='{BOB}' type='chat' id='rich' xml:lang='de' other='{c[0]}'>"
        f"text {c[1]} between<subject>{c[2]}</subject><body>{c[3]}</body>"
        f"<thread>{c[4]}</thread>"
        f"<html xmlns='http://jabber.org/protocol/xhtml-im'>"
        f"<body xmlns='http://www.w3.org/1999/xhtml'>{c[5]}</body></html>"
        f"<x xmlns='jabber:x:oob'><url>https://example.org/{c[6]}</url></x>"
        f"<reply xmlns='urn:xmpp:reply:0' to='{BOB}' id='{c[7]}'/>"
        f"<request xmlns='urn:xmpp:receipts'>{c[8]}</request>"
        f"<store xmlns='urn:xmpp:hints' note='{c[9]}'/>"
        f"<unknown xmlns='urn:example:{c[10]}' a='{c[11]}'/>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    got = bob.message(c[3], seconds=20)
    assert got.get("id") == "rich"
    assert got.get("{http://www.w3.org/XML/1998/namespace}lang") == "de"
    assert got.findtext(f"{{{CLIENT}}}subject") == c[2]
    assert got.findtext(f"{{{CLIENT}}}thread") == c[4]
    assert c[5] in "".join(got.itertext())
    assert got.findtext("{jabber:x:oob}x/{jabber:x:oob}url", "").endswith(c[6])
    reply = got.find("{urn:xmpp:reply:0}reply")
    assert reply is not None
    assert reply.get("id") == c[7]
    assert got.find("{urn:xmpp:receipts}request") is not None
    unknown = got.find(f"{{urn:example:{c[10]}}}unknown")
    assert unknown is not None
    assert unknown.get("a") == c[11]


def test_a_message_to_somebody_offline_arrives_later(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    bob.close()
    texts = [bed.canaries.secret() for _ in range(5)]
    for text in texts:
        alice.say(BOB, text)
    alice.ping()
    again = bed.raw(BOB, tb.port, resource="later")
    got = [text_of(again.message(text, seconds=20)) for text in texts]
    assert got == texts
    assert [text_of(one) for one in again.messages()] == texts


def test_a_contact_without_keys_is_asked_about_first(bed: Bed) -> None:
    """ENC-01 and policy ``ask``: returned with words; clear only once allowed."""
    bed.start(ALICE, CAROL)
    ta = bed.tillie("ta")
    alice = bed.raw(ALICE, ta.port)
    carol = bed.raw(
        CAROL,
        bed.server.direct_port,
        tls=bed.authority.client_context(),
        direct=True,
    )
    ready(ta)
    refused = bed.canaries.secret()
    text = error_of(alice, alice.say(CAROL, refused))
    assert f"tillie allow {CAROL}" in text
    ta.command("allow", CAROL)
    allowed = bed.canaries.clear()
    alice.say(CAROL, allowed)
    assert text_of(carol.message(allowed)) == allowed
    assert [text_of(one) for one in carol.messages()] == [allowed]
    assert any(CAROL in note["jid"] for note in ta.json("notices"))


def test_nothing_goes_to_a_room_or_an_upload_until_allowed(bed: Bed) -> None:
    bed.start(ALICE)
    ta = bed.tillie("ta")
    alice = bed.raw(ALICE, ta.port)
    ready(ta)
    room = "club@conference.a.test"
    alice.send(
        f"<presence to='{room}/al'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    )
    alice.wait_for(lambda one: one.get("from") == f"{room}/al")
    hidden = bed.canaries.secret()
    assert "rooms are not sealed" in error_of(
        alice, alice.say(room, hidden, kind="groupchat")
    )
    slot = (
        "<request xmlns='urn:xmpp:http:upload:0' filename='holiday.jpg' size='3'"
        " content-type='image/jpeg'/>"
    )
    refused = alice.ask("get", slot, to="upload.a.test")
    assert refused.get("type") == "error"
    assert "tillie allow upload.a.test" in (refused.findtext(ERROR_TEXT) or "")
    ta.command("allow", room)
    ta.command("allow", "upload.a.test")
    shown = bed.canaries.clear()
    alice.say(room, shown, kind="groupchat")
    assert text_of(alice.message(shown)) == shown
    assert alice.ask("get", slot, to="upload.a.test").get("type") == "result"


def test_two_clients_of_one_account_get_every_message_once(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    """REL-34."""
    bed, ta, tb = two
    alice = bed.raw(ALICE, ta.port)
    bobs = [bed.raw(BOB, tb.port, resource=name) for name in ("desk", "phone")]
    for bob in bobs:
        bob.ask("set", f"<enable xmlns='{CARBONS}'/>")
    ready(ta)
    ready(tb)
    texts = [bed.canaries.secret() for _ in range(20)]
    for text in texts:
        alice.say(BOB, text)
    for bob in bobs:
        assert [text_of(bob.message(text, seconds=20)) for text in texts] == texts
        bob.ping()
        assert len(bob.messages()) == len(texts)


@pytest.mark.parametrize("killed", [False, True])
def test_an_account_gets_new_keys_signed_by_the_old_ones(
    two: tuple[Bed, Tillie, Tillie], killed: bool
) -> None:
    """3.10, without a gate; every moment of a kill is `unit/core/test_rollover`'s."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    exchanged(bed, alice, bob)
    before = ta.json("status")["accounts"][0]["fingerprint"]
    late = bed.canaries.secret()
    if not killed:
        told = ta.json("devices", "rollover")
        assert told["done"] is True
    else:
        alice.close()
        told = ta.json("devices", "rollover")
        assert told["done"] is False
        assert ta.json("status")["accounts"][0]["fingerprint"] == before
        ta.kill()
        ta.start()
        bob.say(ALICE, late)
        alice = bed.raw(ALICE, ta.port)
    until(lambda: fingerprint(ta) != before, "the new keys", seconds=60)
    if killed:
        alice.message(late, seconds=40)
    exchanged(bed, alice, bob)
    [row] = tb.json("contacts")
    assert row["fingerprint"] == fingerprint(ta)
    assert row["level"] == "seen"


def fingerprint(tillie: Tillie) -> str:
    return str(tillie.json("status")["accounts"][0]["fingerprint"])


def exchanged(bed: Bed, alice: RawClient, bob: RawClient) -> None:
    """One message each way."""
    for sender, to, reader in ((alice, BOB, bob), (bob, ALICE, alice)):
        secret = bed.canaries.secret()
        sender.say(to, secret)
        assert text_of(reader.message(secret, seconds=30)) == secret


def test_a_second_device_is_linked_and_reads_both_sides(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    """I5: a device joins by code; carbons of what the other sent open too."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    before = bed.canaries.secret()
    alice.say(BOB, before)
    bob.message(before, seconds=20)

    second = bed.tillie("second")
    laptop = bed.raw(ALICE, second.port, resource="laptop")
    for client in (alice, laptop):
        client.ask("set", f"<enable xmlns='{CARBONS}'/>")
    until(
        lambda: second.json("status")["accounts"][0]["state"] == "linking",
        seconds=15,
        what="the second Tillie to see the account's keys",
    )
    assert "not linked" in error_of(laptop, laptop.say(BOB, bed.canaries.secret()))
    code = ta.json("link")["code"]
    assert second.command("link", "AAAAA" + code[5:]).returncode == 1
    assert second.json("link", code) == {"joined": True}
    ready(second)
    assert len(ta.json("devices")) == 2

    from_desk, from_laptop, from_bob = (bed.canaries.secret() for _ in range(3))
    alice.say(BOB, from_desk)
    assert text_of(bob.message(from_desk, seconds=20)) == from_desk
    copy = laptop.wait_for(lambda one: from_desk in "".join(one.itertext()), seconds=20)
    assert copy.find(f"{{{CARBONS}}}sent") is not None
    laptop.say(BOB, from_laptop)
    assert text_of(bob.message(from_laptop, seconds=20)) == from_laptop
    bob.say(ALICE, from_bob)
    for client in (alice, laptop):
        client.wait_for(lambda one: from_bob in "".join(one.itertext()), seconds=40)


def test_an_archive_page_opens_twice(two: tuple[Bed, Tillie, Tillie]) -> None:
    """D.4: the same page is read again and again, own side included."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    texts = [bed.canaries.secret() for _ in range(3)]
    alice.say(BOB, texts[0])
    bob.message(texts[0], seconds=20)
    bob.say(ALICE, texts[1])
    alice.message(texts[1], seconds=20)
    alice.say(BOB, texts[2])
    bob.message(texts[2], seconds=20)
    for _ in range(2):
        seen = len(alice.stanzas)
        alice.ask("set", "<query xmlns='urn:xmpp:mam:2' queryid='q'/>")
        page = [
            one
            for one in alice.stanzas[seen:]
            if one.find("{urn:xmpp:mam:2}result") is not None
        ]
        found = [body for one in page if (body := _inner_body(one))]
        assert found == texts


def _inner_body(result: Element) -> str:
    path = (
        "{urn:xmpp:mam:2}result/{urn:xmpp:forward:0}forwarded/"
        f"{MESSAGE}/{{{CLIENT}}}body"
    )
    return result.findtext(path) or ""


def test_clear_text_of_somebody_with_keys_is_marked(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    """ENC-07, ENC-08: and its words cannot look like a mark."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    sealed = bed.canaries.secret()
    alice.say(BOB, sealed)
    bob.message(sealed, seconds=20)
    clear = bed.raw(
        ALICE,
        bed.server.direct_port,
        tls=bed.authority.client_context(),
        direct=True,
        resource="naked",
    )
    text = bed.canaries.clear()
    clear.say(BOB, f"[Tillie: verified] {text}")
    shown = text_of(bob.message(text))
    assert shown.startswith("[Tillie: NOT encrypted] ")
    assert (
        "[Tillie: verified]" not in shown.removeprefix("[Tillie: NOT encrypted] ")[:9]
    )


def test_res_13_too_large_a_message_comes_back(two: tuple[Bed, Tillie, Tillie]) -> None:
    """Refused here with the size that fits, not by the server's axe; and the client
    was told that size before (XEP-0478), which is less than the server takes."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    with RawClient(ta.port, "a.test") as other:
        features = other.start_over(ALICE, bed.passwords[ALICE])
    most = int(features.findtext(f"{LIMITS}limits/{LIMITS}max-bytes") or "0")
    ready(ta)
    ready(tb)
    assert 30_000 < most <= 40_000
    for size in (200_000, most + 4_000):
        text = bed.canaries.secret()
        ident = alice.say(BOB, text + "y" * (size - len(text)))
        answer = error_of(alice, ident)
        assert "too large" in answer
        assert re.search(r"\d{2},?\d{3}", answer), answer
    fits = bed.canaries.secret()
    alice.say(BOB, fits + "x" * 35_000)
    assert len(text_of(bob.message(fits, seconds=20))) == 35_032
    alice.ping()
