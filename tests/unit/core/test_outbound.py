"""What goes out: sealed, allowed or returned, and never in the clear by accident."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from proxy.core import directory
from proxy.core.account import Settings
from proxy.errors import Fault
from proxy.keys.identity import RootPrivate
from proxy.keys.manifest import first_manifest, retired
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
    World,
    couple,
    payload_of,
    sealed,
)

KEY = (BOB, directory.KEY)
CHATSTATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
TEXT = "{jabber:client}error/{urn:ietf:params:xml:ns:xmpp-stanzas}text"


def messages(client: Client) -> list[Element]:
    """Messages that left on a client's stream."""
    return [one for one in client.upstream.stanzas if one.tag == MESSAGE]


def publish(c: Couple, item: Element) -> None:
    c.world.pep[KEY] = {"current": item}


def nonsense(c: Couple) -> None:
    publish(c, Element("{http://jabber.org/protocol/pubsub}item", {"id": "current"}))


def other_accounts_key(c: Couple) -> None:
    publish(c, directory.record_item(c.account.identity.manifest))


def bent_record(c: Couple) -> None:
    item = directory.record_item(c.b.account(BOB).identity.manifest)
    [text] = [one for one in item.iter() if one.text]
    text.text = (text.text or "").replace("A", "B", 1)
    publish(c, item)


def no_prekeys(c: Couple) -> None:
    c.world.pep.pop((BOB, directory.PREKEY))


def empty(c: Couple) -> None:
    c.world.pep[KEY] = {}


def gone(c: Couple) -> None:
    c.world.pep.pop(KEY)


# -- never in the clear ---------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "silent",
        "forbidden",
        "service-unavailable",
        "feature-not-implemented",
        "remote-server-not-found",
        "remote-server-timeout",
        "internal-server-error",
        "not-authorized",
        "resource-constraint",
    ],
    ids=lambda word: f"ENC-01-{word}",
)
@pytest.mark.parametrize("policy", ["ask", "require"])
def test_enc_01_look_up_that_fails_returns_the_message(word: str, policy: str) -> None:
    c = couple(talked=False, settings=Settings(unknown=policy))
    c.world.pep_answers[KEY] = word
    text = Canaries().secret()
    c.alice.say(BOB, text, ident="m1")
    c.world.wait(17_000)
    assert messages(c.alice) == []
    assert text.encode() not in c.world.wire
    [error] = c.alice.errors
    assert (error.get("id"), error.get("from")) == ("m1", BOB)
    assert (error.findtext(TEXT) or "").startswith("not sent: ")
    assert text not in render(error)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(nonsense, id="ENC-01-no-record"),
        pytest.param(other_accounts_key, id="ENC-01-key-of-another-account"),
        pytest.param(bent_record, id="ENC-01-signature-does-not-hold"),
        pytest.param(no_prekeys, id="ENC-01-no-prekeys"),
        pytest.param(empty, id="ENC-01-empty-node"),
        pytest.param(gone, id="ENC-01-no-key"),
    ],
)
def test_enc_01_unusable_keys_return_the_message(spoil) -> None:  # type: ignore[no-untyped-def]
    c = couple(talked=False)
    spoil(c)
    text = Canaries().secret()
    c.alice.say(BOB, text, ident="m1")
    c.world.wait(17_000)
    assert messages(c.alice) == []
    assert text.encode() not in c.world.wire
    assert [one.get("id") for one in c.alice.errors] == ["m1"]


@pytest.mark.parametrize("spoil", [bent_record, nonsense, no_prekeys])
def test_enc_01_allowed_contact_with_broken_keys_is_not_written_to_in_clear_after(
    spoil,  # type: ignore[no-untyped-def]
) -> None:
    """Whatever happened at first: once a key was pinned, never again in clear."""
    c = couple(settings=Settings(clear=("*",)))
    spoil(c)
    c.world.now += DAY + 1
    text = Canaries().secret()
    c.alice.say(BOB, text)
    c.world.wait(17_000)
    assert text.encode() not in c.world.wire


def test_enc_01_full_disk_lets_nothing_out() -> None:
    c = couple()
    before = len(c.world.wire)
    c.a.refuse_commits = True
    text = Canaries().secret()
    c.alice.say(BOB, text)
    assert c.world.wire[before:].count(b"<message") == 0
    assert c.alice.closed


def test_a_look_up_cut_by_a_full_disk_is_made_again() -> None:
    c = couple(talked=False)
    c.world.pep_answers[KEY] = "silent"
    c.alice.say(BOB, "one")
    c.a.refuse_commits = True
    c.world.inject(c.alice, "<message from='x@y.test'><body>q</body></message>")
    assert c.alice.closed
    c.a.refuse_commits = False
    c.world.pep_answers.clear()
    again = c.world.login(c.a, ALICE, "two")
    again.say(BOB, "two")
    c.world.wait(5_000)
    assert c.bob.bodies == ["two"]


def test_own_keys_cut_by_a_full_disk_are_settled_by_the_next_login() -> None:
    world = World()
    tillie = world.tillie()
    world.pep_answers[ALICE, directory.KEY] = "silent"
    first = world.login(tillie, ALICE)
    tillie.refuse_commits = True
    world.inject(first, "<message from='x@y.test'><body>q</body></message>")
    assert first.closed
    tillie.refuse_commits = False
    world.pep_answers.clear()
    world.login(tillie, ALICE, "two")
    assert tillie.account(ALICE).identity.ready


@pytest.mark.parametrize("word", ["silent", "forbidden", "internal-server-error"])
def test_enc_01_own_keys_that_cannot_be_read(word: str) -> None:
    """A failure to read the own record is not "nothing there": no keys are made."""
    world = World()
    tillie = world.tillie()
    world.pep_answers[ALICE, directory.KEY] = word
    alice = world.login(tillie, ALICE)
    world.accounts.add(BOB)
    text = Canaries().secret()
    alice.say(BOB, text, ident="m1")
    world.wait(17_000)
    assert text.encode() not in world.wire
    assert [one.get("id") for one in alice.errors] == ["m1"]
    assert not tillie.account(ALICE).identity.has_manifest


def test_enc_23_withheld_key_stays_in_force() -> None:
    c = couple()
    for spoil in (gone, empty):
        c.world.pep.setdefault(KEY, {})
        spoil(c)
        c.world.now += DAY + 1
        c.alice.say(BOB, f"after {spoil.__name__}")
        assert c.bob.bodies[-1] == f"after {spoil.__name__}"
    assert b"after" not in c.world.wire
    assert any("says it has no keys" in text for text in c.alice.notices)


@pytest.mark.parametrize("policy", ["ask", "allow"])
def test_enc_23_withheld_key_is_no_permit(policy: str) -> None:
    """Withheld with the prekeys, and allowed: still nothing in clear."""
    c = couple()
    if policy == "allow":
        c.a.command("allow", account=ALICE, jid=BOB)
    c.world.pep.clear()
    c.world.now += 40 * DAY
    text = Canaries().secret()
    c.alice.say(BOB, text)
    c.world.wait(17_000)
    assert text.encode() not in c.world.wire


def new_root(c: Couple) -> Client:
    """Bob, or his server, begins anew with another root."""
    c.world.pep.pop(KEY)
    c.world.pep.pop((BOB, directory.PREKEY))
    return c.world.login(c.world.tillie(), BOB, "new")


def test_enc_22_other_root_holds_the_conversation() -> None:
    c = couple()
    new = new_root(c)
    c.world.now += DAY + 1
    texts = [Canaries().secret() for _ in range(3)]
    for text in texts:
        c.alice.say(BOB, text)
    assert [error.findtext(TEXT) for error in c.alice.errors] != []
    assert len(c.alice.errors) == 3
    assert "tillie forget" in (c.alice.errors[0].findtext(TEXT) or "")
    assert not set(texts) & set(new.bodies + c.bob.bodies)
    assert len([one for one in c.alice.notices if "were replaced" in one]) == 1
    for text in texts:
        assert text.encode() not in c.world.wire


def test_enc_22_a_persons_word_accepts_the_other_root() -> None:
    c = couple()
    c.bob.close()
    new = new_root(c)
    c.world.now += DAY + 1
    c.alice.say(BOB, "held")
    c.a.command("forget", account=ALICE, jid=BOB)
    c.alice.say(BOB, "to the new keys")
    assert new.bodies[-1] == "to the new keys"
    assert "held" not in new.bodies


def test_i25_retired_manifest_leads_to_ask() -> None:
    """I25: a provable "no key"; then policy decides, and clear only by word."""
    c = couple()
    identity = c.b.account(BOB).identity
    root = RootPrivate.from_bytes(c.b.store.get("own", BOB, "root") or b"")
    c.bob.close()
    publish(c, directory.record_item(retired(identity.manifest, root, c.world.now)))
    c.world.now += DAY + 1
    c.alice.say(BOB, "asked about first", ident="m1")
    assert [one.get("id") for one in c.alice.errors] == ["m1"]
    assert b"asked about first" not in c.world.wire
    c.a.command("allow", account=ALICE, jid=BOB)
    c.alice.say(BOB, "by word")
    assert b"by word" in c.world.wire


def test_manifest_of_another_root_does_not_retire() -> None:
    c = couple()
    other = RootPrivate.generate()
    device = c.b.account(BOB).identity.device
    manifest = first_manifest(BOB, other, device, "x", c.world.now)
    publish(c, directory.record_item(retired(manifest, other, c.world.now)))
    c.world.now += DAY + 1
    c.a.command("allow", account=ALICE, jid=BOB)
    text = Canaries().secret()
    c.alice.say(BOB, text)
    assert text.encode() not in c.world.wire


def test_contact_that_gets_keys_is_never_clear_again() -> None:
    world = World()
    a = world.tillie()
    alice = world.login(a, ALICE)
    world.accounts.add(BOB)
    a.command("allow", account=ALICE, jid=BOB)
    alice.say(BOB, "still in clear")
    assert b"still in clear" in world.wire
    bob = world.login(world.tillie(), BOB)
    assert bob.bodies == ["still in clear"]
    world.now += 61_000
    alice.say(BOB, "sealed now")
    assert bob.bodies[-1] == "sealed now"
    assert b"sealed now" not in world.wire


# -- every position ---------------------------------------------------------------


POSITIONS = {
    "body": "<body>{}</body>",
    "body-in-german": "<body>x</body><body xml:lang='de'>{}</body>",
    "subject": "<subject>{}</subject>",
    "thread": "<thread parent='{}'>t</thread>",
    "html": "<body>x</body><html xmlns='http://jabber.org/protocol/xhtml-im'>"
    "<body xmlns='http://www.w3.org/1999/xhtml'><img alt='{}'/></body></html>",
    "oob": "<x xmlns='jabber:x:oob'><url>http://x.test/{}</url></x>",
    "reference": "<reference xmlns='urn:xmpp:reference:0' uri='{}'/>",
    "reply": "<reply xmlns='urn:xmpp:reply:0' id='{}'/>",
    "reactions": "<reactions xmlns='urn:xmpp:reactions:0' id='{}'/>",
    "replace": "<replace xmlns='urn:xmpp:message-correct:0' id='{}'/><body>x</body>",
    "receipt-request-text": "<body>x</body><request xmlns='urn:xmpp:receipts'>{}</request>",
    "receipt-request-attribute": "<body>x</body><request xmlns='urn:xmpp:receipts' a='{}'/>",
    "receipt": "<received xmlns='urn:xmpp:receipts' id='{}'/>",
    "marker": "<displayed xmlns='urn:xmpp:chat-markers:0' id='{}'/>",
    "hint-text": "<body>x</body><store xmlns='urn:xmpp:hints'>{}</store>",
    "hint-attribute": "<body>x</body><no-copy xmlns='urn:xmpp:hints' a='{}'/>",
    "hint-child": "<body>x</body><store xmlns='urn:xmpp:hints'><z>{}</z></store>",
    "carbons-private": "<body>x</body><private xmlns='urn:xmpp:carbons:2' a='{}'/>",
    "origin-id-attribute": "<body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='o' a='{}'/>",
    "origin-id-text": "<body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='o'>{}</origin-id>",
    "invitation-reason": "<x xmlns='jabber:x:conference' jid='r@m.test' reason='{}'/>",
    "invitation-password": "<x xmlns='jabber:x:conference' jid='r@m.test' password='{}'/>",
    "amp-child": "<body>x</body><amp xmlns='http://jabber.org/protocol/amp'><z>{}</z></amp>",
    "amp-rule-text": "<body>x</body><amp xmlns='http://jabber.org/protocol/amp'>"
    "<rule action='drop' condition='deliver' value='none'>{}</rule></amp>",
    "noreply": "<body>x</body><noreply xmlns='urn:xmpp:noreply:0'>{}</noreply>",
    "address": "<body>x</body><addresses xmlns='http://jabber.org/protocol/address'>"
    "<address desc='{}'/></addresses>",
    "attention": "<attention xmlns='urn:xmpp:attention:0'>{}</attention>",
    "nick": "<body>x</body><nick xmlns='http://jabber.org/protocol/nick'>{}</nick>",
    "unknown-text": "<z xmlns='urn:example:z'>{}</z>",
    "unknown-attribute": "<z xmlns='urn:example:z' q='{}'/>",
    "unknown-name": "<z-{} xmlns='urn:example:z'/>",
    "unknown-namespace": "<z xmlns='urn:example:{}'/>",
    "prefixed-attribute": "<z xmlns='urn:example:z' xmlns:p='urn:p:{}' p:a='1'/>",
    "body-without-namespace": "<body xmlns='urn:not-xmpp'>{}</body>",
    "chat-state-text": "<body>x</body><composing xmlns='http://jabber.org/protocol/chatstates'>{}</composing>",
    "fallback": "<body>x</body><fallback xmlns='urn:xmpp:fallback:0' for='{}'/>",
    "encryption": "<body>x</body><encryption xmlns='urn:xmpp:eme:0' name='{}' namespace='q'/>",
    "text-between": "<body>x</body>{}<thread>t</thread>",
    "text-before": "{}<body>x</body>",
    "cdata": "<body><![CDATA[{}]]></body>",
    "forwarded": "<body>x</body><forwarded xmlns='urn:xmpp:forward:0'><message><body>{}</body></message></forwarded>",
    "XML-29-prefixed-body": "<c:body xmlns:c='jabber:client'>{}</c:body>",
    "XML-31-stanza-namespace-in-a-child": "<body>x</body>"
    "<x xmlns='urn:example:z'><body xmlns='jabber:client'>{}</body></x>",
    "XML-31-child-of-the-stanza-namespace": "<body>x</body>"
    "<x xmlns='jabber:client'><body>{}</body></x>",
    "openpgp": "<x xmlns='jabber:x:encrypted'>{}</x><body>x</body>",
    "omemo": "<encrypted xmlns='eu.siacs.conversations.axolotl'>{}</encrypted>",
    "muc-user": "<body>x</body><x xmlns='http://jabber.org/protocol/muc#user'><z>{}</z></x>",
    "stanza-id": "<body>x</body><stanza-id xmlns='urn:xmpp:sid:0' by='x' id='{}'/>",
    "own-seal": "<encrypted xmlns='urn:x-tillie:seal:0'><payload>{}</payload></encrypted>",
    "own-grants": "<grants xmlns='urn:x-tillie:lane:0'>{}</grants>",
    "own-keyreq": "<keyreq xmlns='urn:x-tillie:lane:0' owner='{}'/>",
    "own-unknown": "<z xmlns='urn:x-tillie:lane:0'>{}</z>",
    "invite-reason": "<x xmlns='http://jabber.org/protocol/muc#user'>"
    "<invite to='carol@c.test'><reason>{}</reason></invite></x>",
    "invite-to": "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='{} words'/></x>",
    "invite-password": "<x xmlns='http://jabber.org/protocol/muc#user'>"
    "<invite to='carol@c.test'/><password>{}</password></x>",
    "decline-reason": "<x xmlns='http://jabber.org/protocol/muc#user'>"
    "<decline to='carol@c.test'><reason>{}</reason></decline></x>",
}


@pytest.mark.parametrize("kind", ["chat", "normal", "headline", ""])
@pytest.mark.parametrize("place", POSITIONS, ids=lambda place: f"ENC-02-{place}")
def test_enc_02_canary_in_each_position(place: str, kind: str, talking: Couple) -> None:
    c = talking
    canaries = Canaries()
    text = canaries.secret()
    word = f" type='{kind}'" if kind else ""
    c.alice.send(f"<message to='{BOB}'{word}>{POSITIONS[place].format(text)}</message>")
    assert canaries.search({"the wire": c.world.wire}) == []
    assert not c.a.faults


@pytest.fixture(scope="module")
def talking() -> Couple:
    """Shared by the many positions; nothing of one message matters to another."""
    return couple()


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param("xml:lang='{}'", id="ENC-02-language"),
        pytest.param("other='{}'", id="ENC-02-unknown-attribute"),
        pytest.param("xmlns:p='urn:p' p:a='{}'", id="ENC-02-prefixed-attribute"),
        pytest.param("xmlns:p='urn:p:{}'", id="ENC-02-unused-namespace"),
    ],
)
def test_enc_02_attributes_of_the_stanza(attributes: str) -> None:
    c = couple()
    canaries = Canaries()
    text = canaries.secret()
    c.alice.send(
        f"<message to='{BOB}' type='chat' {attributes.format(text)}><body>b</body></message>"
    )
    assert c.bob.bodies[-1] == "b"
    assert canaries.search({"the wire": c.world.wire}) == []


@pytest.mark.parametrize(
    "error",
    [
        pytest.param("<body>{}</body><error type='cancel'/>", id="ID-19-echo"),
        pytest.param(
            "<error type='cancel'><text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>{}</text></error>",
            id="ID-19-text",
        ),
        pytest.param("<error type='{}'/>", id="ID-19-type"),
        pytest.param("<error type='cancel' by='{}'/>", id="ID-19-by"),
        pytest.param(
            "<error type='cancel'><x-{} xmlns='urn:x'/></error>", id="ID-19-name"
        ),
        pytest.param(
            "<error type='cancel'><z xmlns='urn:x:{}'/></error>", id="ID-19-namespace"
        ),
        pytest.param(
            "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>{}</gone></error>",
            id="ID-19-gone",
        ),
    ],
)
def test_id_19_error_of_the_client_echoes_nothing(error: str) -> None:
    c = couple()
    canaries = Canaries()
    text = canaries.secret()
    c.alice.send(
        f"<message to='{BOB}/one' type='error' id='e'>{error.format(text)}</message>"
    )
    assert canaries.search({"the wire": c.world.wire}) == []
    assert not c.a.faults


CONTENT_QUERIES = [
    "<request xmlns='urn:xmpp:http:upload:0' filename='{}' size='1'/>",
    "<jingle xmlns='urn:xmpp:jingle:1' action='session-initiate' sid='{}'/>",
    "<data xmlns='http://jabber.org/protocol/ibb' seq='0' sid='s'>{}</data>",
    "<si xmlns='http://jabber.org/protocol/si'><file name='{}'/></si>",
    "<query xmlns='jabber:iq:oob'><url>{}</url></query>",
    "<data xmlns='urn:xmpp:bob' cid='{}'/>",
]


@pytest.mark.parametrize(
    "query", CONTENT_QUERIES, ids=lambda q: "ENC-03-" + q.split("'")[1]
)
@pytest.mark.parametrize("kind", ["get", "set", "result"])
@pytest.mark.parametrize("to", [f"to='{BOB}/one'", "to='upload.a.test'", ""])
def test_enc_03_files_and_calls_do_not_leave(
    query: str, kind: str, to: str, talking: Couple
) -> None:
    canaries = Canaries()
    content = query.format(canaries.secret())
    talking.alice.send(f"<iq type='{kind}' id='q' {to}>{content}</iq>")
    assert canaries.search({"the wire": talking.world.wire}) == []


@pytest.mark.parametrize(
    "stanza",
    [
        "<iq type='set' id='q'><jingle xmlns='urn:xmpp:jingle:1'/></iq>",
        "<message type='groupchat'><body>to nobody</body></message>",
        f"<message type='groupchat' to='{BOB}'><body>to a person</body></message>",
    ],
    ids=["ENC-03-query-to-nobody", "room-without-address", "room-that-is-a-person"],
)
def test_what_the_guard_refuses_comes_back_and_the_stream_lives(stanza: str) -> None:
    c = couple(settings=Settings(clear=("*",)))
    before = len(c.alice.upstream.stanzas)
    c.alice.send(stanza)
    assert len(c.alice.upstream.stanzas) == before
    assert len(c.alice.errors) == 1
    assert not c.alice.closed
    c.alice.say(BOB, "alive")
    assert c.bob.bodies[-1] == "alive"


def test_nothing_goes_to_a_room_before_allow() -> None:
    c = couple()
    c.alice.send(
        "<message type='groupchat' to='r@m.test' id='g'><body>hello room</body></message>"
    )
    c.alice.send(f"<message type='groupchat' to='r@m.test'>{CHATSTATE}</message>")
    assert messages(c.alice)[-1].get("to") != "r@m.test"
    assert "tillie allow r@m.test" in (c.alice.errors[0].findtext(TEXT) or "")
    c.a.command("allow", account=ALICE, jid="r@m.test")
    c.alice.send("<message type='groupchat' to='r@m.test'><body>now</body></message>")
    assert messages(c.alice)[-1].findtext(BODY) == "now"


# -- identity ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender",
    ["boss@x.test", "bob@b.test", "alice@a.test/other", "a.test", "", "not a jid@"],
    ids=lambda sender: f"ID-09-{sender or 'empty'}",
)
@pytest.mark.parametrize("name", ["message", "presence", "iq"])
def test_id_09_client_cannot_speak_for_another(sender: str, name: str) -> None:
    c = couple()
    before = len(c.world.wire)
    content = {
        "message": "<body>x</body>",
        "presence": "",
        "iq": "<query xmlns='jabber:iq:roster'/>",
    }[name]
    kind = " type='get' id='1'" if name == "iq" else ""
    c.alice.send(f"<{name} to='{BOB}' from='{sender}'{kind}>{content}</{name}>")
    assert f"<{name} ".encode() not in c.world.wire[before:]


@pytest.mark.parametrize("sender", [ALICE, f"{ALICE}/one", "ALICE@a.test/one"])
def test_id_09_own_address_is_taken(sender: str) -> None:
    c = couple()
    c.alice.send(f"<message to='{BOB}' from='{sender}'><body>mine</body></message>")
    assert c.bob.bodies[-1] == "mine"
    assert c.bob.messages[-1].get("from") == f"{ALICE}/one"


@pytest.mark.parametrize(
    "to", ["@b.test", "bob@", "bob@b.test/", "b ob@b.test", "a@b@c..d"]
)
def test_id_13_message_to_no_address_comes_back(to: str) -> None:
    c = couple()
    before = len(messages(c.alice))
    c.alice.send(f"<message to='{to}' id='m'><body>x</body></message>")
    assert len(messages(c.alice)) == before
    [error] = c.alice.errors
    assert (
        error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}jid-malformed") is not None
    )


# -- shape ------------------------------------------------------------------------


def test_enc_25_one_and_two_hundred_letters_look_alike() -> None:
    c = couple()
    sizes = set()
    for size in (1, 2, 20, 100, 200):
        c.alice.say(BOB, "x" * size)
        sizes.add(len(payload_of(sealed(c.alice.upstream.stanzas)[-1])))
    assert len(sizes) == 1


def test_enc_25_longer_messages_fall_into_few_buckets() -> None:
    c = couple()
    sizes = set()
    for size in range(250, 2_000, 10):
        c.alice.say(BOB, "x" * size)
        sizes.add(len(payload_of(sealed(c.alice.upstream.stanzas)[-1])))
    assert len(sizes) <= 40


def test_fallback_body_says_nothing_and_can_be_off() -> None:
    for on in (True, False):
        c = couple(settings=Settings(fallback=on))
        out = sealed(c.alice.upstream.stanzas)[-1]
        bodies = [one.text for one in out.findall(BODY)]
        assert len(bodies) == on
        assert "first of alice" not in bodies


def test_limits_message_that_fits_no_seal_comes_back() -> None:
    c = couple()
    before = len(messages(c.alice))
    c.alice.say(BOB, "x" * 60_000, ident="big")
    assert len(messages(c.alice)) == before
    assert [one.get("id") for one in c.alice.errors] == ["big"]
    c.alice.say(BOB, "y" * 30_000)
    assert c.bob.bodies[-1] == "y" * 30_000
    assert max(len(render(one)) for one in messages(c.alice)) <= 60_000


# -- waiting ----------------------------------------------------------------------


def test_messages_do_not_overtake_one_that_waits() -> None:
    c = couple(talked=False)
    carol = c.world.login(c.world.tillie(), "carol@c.test")
    c.world.pep_answers[KEY] = "silent"
    c.alice.say(BOB, "first")
    c.alice.say("carol@c.test", "second")
    c.alice.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert carol.bodies == []
    assert not [one for one in c.alice.stanzas if one.get("id") == "p"]
    c.world.wait(17_000)
    assert carol.bodies == ["second"]
    assert [one.get("id") for one in c.alice.stanzas].index("p") > 0


def test_i09_typing_before_the_first_message_is_suppressed() -> None:
    """I9: only content opens a lane; typing on an unknown one stays here."""
    c = couple(talked=False)
    c.alice.send(f"<message to='{BOB}' type='chat'>{CHATSTATE}</message>")
    assert messages(c.alice) == []
    assert c.alice.errors == []
    assert c.account.ratchets.current(BOB) is None


def test_i09_typing_eats_no_grants_and_does_not_count() -> None:
    c = couple(talked=False)
    c.alice.say(BOB, "one")
    lane = c.account.ratchets.current(BOB)
    assert lane is not None
    granted, count = dict(lane.granted), lane.count
    for _ in range(5):
        c.alice.send(f"<message to='{BOB}' type='chat'>{CHATSTATE}</message>")
    typing = messages(c.alice)[-1]
    assert [child.tag for child in typing] == [SEALS[1], "{urn:xmpp:hints}no-store"]
    assert [child.tag for child in typing[0]] == [PAYLOAD]
    lane = c.account.ratchets.current(BOB)
    assert lane is not None
    assert (dict(lane.granted), lane.count) == (granted, count)
    assert (
        c.bob.messages[-1].find("{http://jabber.org/protocol/chatstates}composing")
        is not None
    )


def test_i09_grants_ride_with_the_first_three_until_an_answer() -> None:
    c = couple(talked=False)
    for at in range(5):
        c.alice.say(BOB, str(at))
    with_grants = [
        one[0].find(GRANTS) is not None for one in sealed(c.alice.upstream.stanzas)
    ]
    assert with_grants == [True, True, True, False, False]
    c = couple(talked=False)
    c.alice.say(BOB, "one")
    c.bob.say(ALICE, "answer")
    c.alice.say(BOB, "two")
    with_grants = [
        one[0].find(GRANTS) is not None for one in sealed(c.alice.upstream.stanzas)
    ]
    assert with_grants == [True, False]


def test_commands_refuse_nonsense() -> None:
    c = couple()
    with pytest.raises(Fault):
        c.a.command("allow", account=ALICE, jid="@@")
    with pytest.raises(Fault):
        c.a.command("nothing", account=ALICE)
