"""Holes that a reading found in what a client sends: gone in clear, lost, or fatal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest

from proxy.core.account import MOST_CAUSED, Settings
from proxy.core.contacts import Finding
from proxy.core.directory import KEY
from proxy.rules import envelope, marks
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    DAY,
    FORWARD,
    MESSAGE,
    SEALS,
    Client,
    World,
    couple,
    link,
    sealed,
)
from tests.support.world import impostor, keyreq

STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
RULE = "<rule action='drop' condition='x' value='y'/>"
MUC_USER = "http://jabber.org/protocol/muc#user"


def condition(error: Element) -> str:
    for part in error.iter():
        if part.tag.startswith(f"{{{STANZAS}}}") and not part.tag.endswith("}text"):
            return part.tag.partition("}")[2]
    raise AssertionError(render(error))


def left(client: Client, since: int) -> list[Element]:
    """Messages that reached the server."""
    return [one for one in client.upstream.stanzas[since:] if one.tag == MESSAGE]


def refused(client: Client, stanza: str) -> str:
    """The condition that *stanza* comes back with; nothing of it leaves, and the
    stream goes on."""
    since, errors = len(client.upstream.stanzas), len(client.errors)
    client.send(stanza)
    [error] = client.errors[errors:]
    assert left(client, since) == []
    assert "CANARY" not in bytes(client.upstream.raw).decode()
    assert client.tillie.faults == []
    assert not client.closed
    client.say(BOB, "the stream goes on")
    assert len(sealed(client.upstream.stanzas[since:])) == 1
    return condition(error)


# -- 2: look-ups used up by strangers --------------------------------------------


@pytest.mark.parametrize("what", ["keyreq", "grants", "seal"])
def test_strangers_do_not_use_up_the_look_ups(what: str) -> None:
    """64 strangers kept all look-ups busy; then "too many are under way" counted as
    an answer, and a message under a ``clear`` pattern went to a contact with keys."""
    world = World()
    a = world.tillie(Settings(clear=("*@b.test",)))
    alice, bob = world.login(a, ALICE), world.login(world.tillie(), BOB)
    stranger, _ = impostor("x@evil.test")
    own = a.account(ALICE).identity.device.public
    from proxy.suites.fields import b64
    from tests.support.world import unknown_seal

    for at in range(400):
        sender = f"x{at}@evil.test"
        world.pep_answers[sender, KEY] = "silent"
        content = {
            "keyreq": keyreq(stranger, ALICE, bytes(16), now=world.now),
            "grants": f"<grants xmlns='urn:x-tillie:lane:0' device='{b64(own)}' seq='1'>"
            f"<grant to='{ALICE}' device='{b64(own)}' prekey='1'>AAAA</grant></grants>",
            "seal": unknown_seal(at),
        }[what]
        world.inject(
            alice, f"<message from='{sender}' to='{ALICE}'>{content}</message>"
        )
    asked = [one for one in alice.upstream.stanzas if "evil.test" in one.get("to", "")]
    assert 0 < len(asked) <= MOST_CAUSED
    alice.say(BOB, "CANARY")
    world.wait(16_000)
    assert bob.bodies == ["CANARY"]
    assert b"CANARY" not in world.wire


def test_a_look_up_that_could_not_be_asked_is_no_answer() -> None:
    """What was refused for want of room is not remembered as a finding."""
    c = couple(talked=False)
    for _ in range(MOST_CAUSED):
        c.account._budget()
    assert not c.account.look_up(
        c.alice.session, "new@x.test", lambda: None, stranger=True
    )
    assert c.account.contacts.finding("new@x.test", c.world.now) is None
    assert not c.account.looking_up("new@x.test")


# -- 15: what the guard refuses ------------------------------------------------------


def test_guard_refusal_of_a_room_whose_service_shows_keys_bounces() -> None:
    """A room's own address publishes keys: the permit was refused by a fault that
    nobody expected, and the person's whole stream ended with it."""
    c = couple()
    room = "room@muc.test"
    false, _ = impostor(room)
    with c.a.writing():
        c.account.contacts.learn(
            room, false.identity.manifest, [false.identity.public_prekey()], c.world.now
        )
    c.a.command("allow", account=ALICE, jid=room)
    stanza = (
        f"<message to='{room}' type='groupchat' id='g'><body>CANARY</body></message>"
    )
    assert refused(c.alice, stanza) == "policy-violation"


@pytest.mark.parametrize(
    "payload",
    [
        "<data xmlns='urn:xmpp:bob' cid='CANARY'/>",
        "<query xmlns='jabber:iq:oob'><url>CANARY</url></query>",
    ],
)
def test_guard_refusal_of_a_query_without_an_address_bounces(payload: str) -> None:
    """Permitted by ``clear = *``, but to whom? The same end of the stream."""
    c = couple(settings=Settings(clear=("*",)))
    got = refused(c.alice, f"<iq type='get' id='q'>{payload}</iq>")
    assert got in ("policy-violation", "not-acceptable")


@pytest.mark.parametrize(
    "child",
    [
        f"<origin-id xmlns='urn:xmpp:sid:0' id='{'a' * 30_000}'/>",
        f"<x xmlns='jabber:x:conference' jid='{'a' * 50_000}@muc.test'/>",
        "<amp xmlns='http://jabber.org/protocol/amp'>" + 900 * RULE + "</amp>",
    ],
)
def test_guard_refusal_of_what_is_too_large_bounces(child: str) -> None:
    """It stood inside and outside, and only the inside was measured."""
    c = couple(settings=Settings(fallback=False))
    stanza = (
        f"<message to='{BOB}' type='chat' id='m'><body>CANARY</body>{child}</message>"
    )
    assert refused(c.alice, stanza) == "policy-violation"


def test_refused_message_burns_no_state_that_a_reader_would_miss() -> None:
    """An index was used for what never left: the next one has to open all the same."""
    c = couple(settings=Settings(fallback=False))
    c.alice.send(
        f"<message to='{BOB}' type='chat' id='m'><body>x</body>"
        f"<origin-id xmlns='urn:xmpp:sid:0' id='{'a' * 30_000}'/></message>"
    )
    c.alice.say(BOB, "behind it")
    assert c.bob.bodies[-1] == "behind it"


# -- 16: what is part of a message, and what only servers make -------------------------


def test_forwarded_message_is_sealed_whole() -> None:
    """XEP-0297 as people use it: the forwarded text was left in clear, or dropped."""
    c = couple()
    c.alice.send(
        f"<message to='{BOB}' type='chat' id='m'><body>look</body><forwarded xmlns='{FORWARD}'>"
        "<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>"
        "<message xmlns='jabber:client' from='x@y' type='chat'><body>CANARY</body>"
        "<stanza-id xmlns='urn:xmpp:sid:0' by='y' id='1'/></message></forwarded></message>"
    )
    assert b"CANARY" not in c.world.wire
    got = c.bob.messages[-1]
    inner = got.find(f"{{{FORWARD}}}forwarded/{MESSAGE}")
    assert inner is not None
    assert inner.findtext(BODY) == "CANARY"
    assert got.findtext(BODY) == "look"


@pytest.mark.parametrize(
    "child",
    [
        pytest.param(
            "<stanza-id xmlns='urn:xmpp:sid:0' by='a.test' id='1'/>", id="stanza-id"
        ),
        pytest.param("<result xmlns='urn:xmpp:mam:2' id='1'/>", id="archive-result"),
        pytest.param("<sent xmlns='urn:xmpp:carbons:2'/>", id="carbon"),
        pytest.param(f"<x xmlns='{MUC_USER}'><item jid='a@b'/></x>", id="room"),
        pytest.param("<message><body>CANARY</body></message>", id="message-in-message"),
        pytest.param("<grants xmlns='urn:x-tillie:lane:0'/>", id="own-layer"),
        pytest.param(
            f"<encrypted xmlns='{SEALS[0][1:].partition('}')[0]}'/>", id="seal"
        ),
    ],
)
@pytest.mark.parametrize("body", ["<body>CANARY</body>", ""])
def test_what_only_servers_make_is_returned(child: str, body: str) -> None:
    """It was left out in silence: the client believed that it had been sent."""
    c = couple()
    stanza = f"<message to='{BOB}' type='chat' id='m'>{body}{child}</message>"
    assert refused(c.alice, stanza) == "policy-violation"


def test_room_subject_can_be_cleared() -> None:
    """An empty subject is the whole message there (XEP-0045, 8.1); it was left out
    as one that legacy clients send beside each body."""
    c = couple(settings=Settings(clear=("room@muc.test",)))
    since = len(c.alice.upstream.stanzas)
    c.alice.send(
        "<message to='room@muc.test' type='groupchat' id='s'><subject/></message>"
    )
    [one] = left(c.alice, since)
    assert one.find("{jabber:client}subject") is not None
    assert one.get("type") == "groupchat"


def test_room_subject_is_not_cleared_against_the_policy() -> None:
    """The other side of it: a room is a room."""
    c = couple()
    stanza = "<message to='room@muc.test' type='groupchat' id='s'><subject>CANARY</subject></message>"
    assert refused(c.alice, stanza) == "policy-violation"


@pytest.mark.parametrize("word", ["invite", "decline"])
def test_invitation_with_a_text_is_returned(word: str) -> None:
    """The room is no reader: the body went along in clear, or was lost in silence."""
    c = couple()
    invitation = f"<x xmlns='{MUC_USER}'><{word} to='{BOB}'/></x>"
    stanza = (
        f"<message to='room@muc.test' id='i'><body>CANARY</body>{invitation}</message>"
    )
    assert refused(c.alice, stanza) == "policy-violation"


def test_invitation_without_a_text_leaves_without_its_reason() -> None:
    """The other side of it: who is invited, and nothing that a person wrote."""
    c = couple()
    since = len(c.alice.upstream.stanzas)
    c.alice.send(
        f"<message to='room@muc.test' id='i'><x xmlns='{MUC_USER}'><invite to='{BOB}'>"
        "<reason>CANARY</reason></invite><password>CANARY</password></x></message>"
    )
    [one] = left(c.alice, since)
    assert one.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite") is not None
    assert "CANARY" not in render(one)


# -- 17: one type outside, another inside ---------------------------------------------


@contextmanager
def saying(monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[None]:
    """Bob's Tillie writes another type inside than it shows outside."""
    write = envelope.write

    def lying(inside: envelope.Envelope, now: int) -> bytes:
        return write(replace(inside, type=kind), now)

    with monkeypatch.context() as patch:
        patch.setattr(envelope, "write", lying)
        yield


@pytest.mark.parametrize("kind", ["groupchat", "error", "headline", "normal", ""])
def test_i23_type_inside_has_to_be_the_type_outside(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contact's seal came out as a room's message, or as an error that says that
    something could not be delivered."""
    c = couple()
    with saying(monkeypatch, kind):
        c.bob.say(ALICE, "another type")
    assert c.alice.bodies[-1] == marks.UNREADABLE_OLD
    assert "another type" not in c.alice.raw.decode()
    c.bob.say(ALICE, "as it should be")
    assert c.alice.bodies[-1] == "as it should be"


# -- 18: typing on a lane whose readers changed ---------------------------------------


TYPING = (
    f"<message to='{BOB}' type='chat'>"
    "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
)
RTT = (
    f"<message to='{BOB}' type='chat'><rtt xmlns='urn:xmpp:rtt:0' event='new'>"
    "<t>CANARY</t></rtt></message>"
)


@pytest.mark.parametrize("stanza", [TYPING, RTT], ids=["typing", "real-time-text"])
@pytest.mark.parametrize("worn", ["device-removed", "a-day-old", "contact-held"])
def test_i9_transient_stanzas_do_not_go_on_a_worn_lane(stanza: str, worn: str) -> None:
    """Each letter of a real-time text was readable to the device that the contact had
    just removed: only messages looked whether the lane may still be used."""
    c = couple()
    second = c.world.tillie()
    phone = c.world.login(second, BOB, "two")
    link(c.b, second, BOB)
    phone.say(ALICE, "from the phone")
    c.world.wait(20_000)
    c.alice.say(BOB, "to both devices")
    since = len(c.alice.upstream.stanzas)
    c.alice.send(stanza)
    assert len(left(c.alice, since)) == 1
    if worn == "device-removed":
        device = second.account(BOB).identity.device
        c.b.command("devices-remove", account=BOB, id=device.id.hex())
        bob = c.b.account(BOB).identity
        with c.a.writing():
            c.account.contacts.learn(
                BOB, bob.manifest, [bob.public_prekey()], c.world.now
            )
    elif worn == "a-day-old":
        c.world.now += DAY
    else:
        false, _ = impostor(BOB)
        with c.a.writing():
            c.account.contacts.learn(BOB, false.identity.manifest, [], c.world.now)
            c.account.contacts.failed(BOB, Finding.FAILED, "held", c.world.now)
    since = len(c.alice.upstream.stanzas)
    c.alice.send(stanza)
    assert left(c.alice, since) == []
    assert b"CANARY" not in c.world.wire
    assert c.alice.errors == []
