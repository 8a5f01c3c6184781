"""What comes in: forged, replayed, mutilated and misused messages."""

from __future__ import annotations

import base64
from copy import deepcopy
from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.core import inbound, verdicts
from proxy.rules import marks
from proxy.wire.framing import Framer
from proxy.wire.stanza import Stanza
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    CARBONS,
    DAY,
    FORWARD,
    KEYREQ,
    LANE,
    MESSAGE,
    NO,
    PAYLOAD,
    SEAL,
    SEALS,
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
from tests.support.world import reseal

FORGED = (
    f"<message from='{BOB}' to='{ALICE}' type='chat'><body>pay mallory</body></message>"
)
HTML = (
    "<html xmlns='http://jabber.org/protocol/xhtml-im'>"
    "<body xmlns='http://www.w3.org/1999/xhtml'>{}</body></html>"
)


def wrapped(word: str, *inner: str) -> str:
    forwarded = "".join(
        f"<forwarded xmlns='{FORWARD}'>{one}</forwarded>" for one in inner
    )
    return f"<{word} xmlns='{CARBONS}'>{forwarded}</{word}>"


def shown_to(client: Client, since: int) -> str:
    return "".join(render(one) for one in client.messages[since:])


class Watch:
    """What changed at a client and at its server since it was made."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._upstream = client.upstream
        self._shown = len(client.messages)
        self._sent = len(client.upstream.stanzas)

    @property
    def sent(self) -> list[Element]:
        """Stanzas that went to the server; acknowledgements are none."""
        return self._upstream.stanzas[self._sent :]

    @property
    def shown(self) -> list[Element]:
        return self._client.messages[self._shown :]

    @property
    def bodies(self) -> list[str]:
        return [one.findtext(BODY) or "" for one in self.shown]


# -- carbons --------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender",
    [
        pytest.param(f"from='{ALICE}/one'", id="ID-02-own-full-jid"),
        pytest.param("from='a.test'", id="ID-02-domain"),
        pytest.param("from='alice@a.test.evil.test'", id="ID-02-longer-domain"),
        pytest.param("from='mallory@x.test'", id="ID-01-stranger"),
        pytest.param("from='room@muc.a.test/nick' type='groupchat'", id="ID-02-room"),
        pytest.param("", id="ID-02-absent"),
        pytest.param("from='not @ a jid'", id="ID-02-no-address"),
    ],
)
@pytest.mark.parametrize("word", ["received", "sent"])
@pytest.mark.parametrize("beside", ["", "<result xmlns='urn:xmpp:mam:2'/>"])
def test_id_01_02_only_the_own_bare_jid_makes_carbons(
    sender: str, word: str, beside: str
) -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(
        c.alice,
        f"<message to='{ALICE}/one' {sender}>{beside}{wrapped(word, FORGED)}</message>",
    )
    assert "pay mallory" not in "".join(render(one) for one in watch.shown)
    assert watch.sent == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wrapped("received", FORGED, FORGED), id="ID-04-two-forwarded"),
        pytest.param(wrapped("received", FORGED) * 2, id="ID-04-two-carbons"),
        pytest.param(
            wrapped("received", FORGED) + wrapped("sent", FORGED), id="ID-04-both-words"
        ),
        pytest.param(
            wrapped("received", f"<message>{wrapped('received', FORGED)}</message>"),
            id="ID-04-carbon-in-carbon",
        ),
        pytest.param(
            wrapped(
                "received",
                f"<message from='{BOB}'><forwarded xmlns='{FORWARD}'>{FORGED}"
                "</forwarded></message>",
            ),
            id="ID-04-forwarded-in-forwarded",
        ),
        pytest.param(
            "<result xmlns='urn:xmpp:mam:2' id='1'>"
            f"<forwarded xmlns='{FORWARD}'><message from='{BOB}'>"
            f"{wrapped('received', FORGED)}</message></forwarded></result>",
            id="ID-04-carbon-in-archive",
        ),
        pytest.param(
            f"<received xmlns='{CARBONS}'><result xmlns='urn:xmpp:mam:2'>"
            f"<forwarded xmlns='{FORWARD}'>{FORGED}</forwarded></result></received>",
            id="ID-04-result-in-carbon",
        ),
        pytest.param(
            wrapped(
                "received", FORGED.replace("<message", "<message xmlns='jabber:server'")
            ),
            id="ID-04-other-namespace",
        ),
    ],
)
@pytest.mark.parametrize("sender", [ALICE, "mallory@x.test"])
def test_id_04_at_most_the_one_legal_nesting(content: str, sender: str) -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(
        c.alice, f"<message from='{sender}' to='{ALICE}/one'>{content}</message>"
    )
    assert "pay mallory" not in "".join(render(one) for one in watch.shown)


def test_id_03_carbon_of_a_foreign_domains_message_opens() -> None:
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    c.world.wait(1)
    c.bob.say(f"{ALICE}/one", "for both")
    [copy] = [one for one in second.messages if one.find(f"{{{CARBONS}}}received")]
    inner = copy.find(f".//{MESSAGE}")
    assert inner is not None
    assert inner.findtext(BODY) == "for both"
    assert inner.get("from") == f"{BOB}/one"
    assert inner.find(f".//{SEALS[0]}") is None


def test_sent_carbon_opens_on_the_other_stream() -> None:
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    c.alice.say(BOB, "written on one")
    assert "written on one" in shown_to(second, 0)


def test_sent_carbon_of_somebody_elses_message_is_dropped() -> None:
    c = couple()
    captured = c.capture()
    watch = Watch(c.alice)
    c.world.inject(c.alice, carbon(captured, "sent", ALICE, f"{ALICE}/one"))
    assert watch.shown == []


# -- addresses ------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("a@b/c@d/e", id="ID-13-slash-and-at-in-resource"),
        pytest.param("@b.test", id="ID-13-empty-local"),
        pytest.param("bob@", id="ID-13-empty-domain"),
        pytest.param("bob@b.test/", id="ID-13-empty-resource"),
        pytest.param("b" * 1024 + "@b.test", id="ID-13-long-local"),
        pytest.param("bo&apos;b@b.test", id="ID-13-quote"),
        pytest.param("bo\\40b@b.test", id="ID-13-xep-0106"),
        pytest.param("mallory@x.test/bob@b.test", id="ID-13-jid-in-resource"),
        pytest.param("bоb@b.test", id="ID-11-cyrillic-o"),
        pytest.param("bo\u00adb@b.test", id="ID-11-soft-hyphen"),
        pytest.param("bob@xn--b-.test", id="ID-11-bad-a-label"),
    ],
)
def test_id_13_nobody_else_is_taken_for_a_contact(address: str) -> None:
    """A seal of Bob's under any other address never shows as a message of his."""
    c = couple()
    captured = c.capture()
    captured.set("from", address)
    watch = Watch(c.alice)
    c.world.inject(c.alice, render(captured).replace("&amp;apos;", "&apos;"))
    assert "a captured text" not in "".join(render(one) for one in watch.shown)
    assert not c.a.faults


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("BOB@B.TEST/one", id="ID-11-upper-case"),
        pytest.param("bob@b.test./one", id="ID-11-trailing-dot"),
        pytest.param("bob@ｂ.test/one", id="ID-11-full-width"),
        pytest.param("bob@b.te\u200bst/one", id="ID-11-zero-width"),
    ],
)
def test_id_11_one_normal_form_is_one_contact(address: str) -> None:
    c = couple()
    captured = c.capture()
    captured.set("from", address)
    watch = Watch(c.alice)
    c.world.inject(c.alice, captured)
    assert watch.bodies == ["a captured text"]


def test_id_06_answer_of_somebody_else_is_not_taken() -> None:
    """Mallory knows the id of the look-up and answers first, with her own keys."""
    c = couple(talked=False)
    mallory = c.world.login(c.world.tillie(), "mallory@x.test")
    c.world.pep_answers[BOB, "urn:x-tillie:key:0"] = "silent"
    c.alice.say(BOB, "for bob alone")
    question = c.alice.upstream.stanzas[-1]
    assert question.get("to") == BOB
    forged = c.world.pep["mallory@x.test", "urn:x-tillie:key:0"]["current"]
    for sender in (
        "mallory@x.test/one",
        "mallory@x.test",
        f"{BOB}/one",
        "b.test",
        ALICE,
    ):
        c.world.inject(
            c.alice,
            f"<iq type='result' id='{question.get('id')}' from='{sender}' to='{ALICE}/one'>"
            "<pubsub xmlns='http://jabber.org/protocol/pubsub'>"
            f"<items node='urn:x-tillie:key:0'>{render(forged, 'http://jabber.org/protocol/pubsub')}"
            "</items></pubsub></iq>",
        )
    assert c.account.contacts.get(BOB) is None
    assert sealed(c.alice.upstream.stanzas) == []
    assert mallory.bodies == []
    c.world.wait(16_000)
    assert len(c.alice.errors) == 1


def test_id_06_answer_to_no_question_is_swallowed() -> None:
    c = couple()
    before = len(c.alice.stanzas)
    c.world.inject(c.alice, "<iq type='result' id='tillie-0' from='a.test'/>")
    assert len(c.alice.stanzas) == before


# -- seals that do not hold -----------------------------------------------------


def verdict_on(c: Couple, message: Element) -> verdicts.Verdict:
    with c.a.writing():
        return inbound.judge(c.account, Stanza.of(message))


def test_enc_09_each_flipped_bit_is_refused() -> None:
    """0 accepted, 0 exceptions, the state byte-identical."""
    c = couple()
    message = c.capture()
    payload = payload_of(message)
    before = c.a.rows()
    for at in range(8 * len(payload)):
        bent = bytearray(payload)
        bent[at // 8] ^= 1 << at % 8
        verdict = verdict_on(c, with_payload(message, bytes(bent)))
        assert isinstance(verdict, verdicts.Drop | verdicts.NeedKey), at
        # only a lane that is not here may be asked for
        assert isinstance(verdict, verdicts.Drop) or 3 <= at // 8 < 19, at
    assert c.a.rows() == before
    assert isinstance(verdict_on(c, message), verdicts.Deliver)


def test_enc_10_each_truncation_and_extension_is_refused() -> None:
    c = couple()
    message = c.capture()
    payload = payload_of(message)
    before = c.a.rows()
    for size in range(len(payload)):
        verdict = verdict_on(c, with_payload(message, payload[:size]))
        assert isinstance(verdict, verdicts.Drop), size
    for more in range(1, 65):
        verdict = verdict_on(c, with_payload(message, payload + bytes(more)))
        assert isinstance(verdict, verdicts.Drop), more
    assert c.a.rows() == before
    assert isinstance(verdict_on(c, message), verdicts.Deliver)


def test_enc_10_swapped_parts_are_refused() -> None:
    c = couple()
    first, second = c.capture("first"), c.capture("second")
    one, two = payload_of(first), payload_of(second)
    for cut in (47, 47 + 64, 47 + 64 + 32, len(one) - 16):
        for bent in (one[:cut] + two[cut:], two[:cut] + one[cut:]):
            assert isinstance(verdict_on(c, with_payload(first, bent)), verdicts.Drop)


def padded_capture(c: Couple) -> tuple[Element, str]:
    """A message whose payload's base64 ends in padding, and that base64."""
    for size in range(1, 200, 7):
        message = c.capture("x" * size)
        text = base64.b64encode(payload_of(message)).decode()
        if text.endswith("="):
            return message, text
    raise AssertionError("no payload with padding was made")


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(lambda text: text[:40] + "\n" + text[40:], id="ENC-11-line-break"),
        pytest.param(lambda text: " " + text, id="ENC-11-blank"),
        pytest.param(lambda text: text + "\n", id="ENC-11-end"),
        pytest.param(lambda text: text.rstrip("="), id="ENC-11-no-padding"),
        pytest.param(lambda text: text + "====", id="ENC-11-more-padding"),
        pytest.param(
            lambda text: text.replace("+", "-").replace("/", "_"), id="ENC-11-url-safe"
        ),
        pytest.param(lambda text: text + "!!", id="ENC-11-junk"),
        pytest.param(lambda text: "é" + text, id="ENC-11-not-ascii"),
    ],
)
def test_enc_11_another_spelling_is_refused(spelling) -> None:  # type: ignore[no-untyped-def]
    c = couple()
    message, text = padded_capture(c)
    assert spelling(text) != text
    verdict = verdict_on(c, with_payload(message, spelling(text)))
    assert isinstance(verdict, verdicts.Drop)


def test_enc_11_trailing_bits_are_refused() -> None:
    c = couple()
    message, text = padded_capture(c)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = len(text.rstrip("=")) - 1
    bent = text[:last] + alphabet[alphabet.index(text[last]) ^ 1] + text[last + 1 :]
    assert base64.b64decode(bent) == payload_of(message)
    assert isinstance(verdict_on(c, with_payload(message, bent)), verdicts.Drop)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, 1, id="ENC-14-version-1"),
        pytest.param(0, 255, id="ENC-14-version-255"),
        pytest.param(1, 0, id="ENC-14-suite-none"),
        pytest.param(1, 2, id="ENC-14-suite-2"),
        pytest.param(2, 0x40, id="ENC-14-unknown-flag"),
        pytest.param(2, 0x80, id="ENC-14-critical-flag"),
        pytest.param(2, 0x01, id="ENC-14-kind-presence"),
        pytest.param(2, 0x10, id="ENC-14-transient-unsigned"),
    ],
)
def test_enc_14_another_version_suite_or_kind_is_refused(at: int, value: int) -> None:
    c = couple()
    message = c.capture()
    bent = bytearray(payload_of(message))
    bent[at] = value
    watch = Watch(c.alice)
    c.world.inject(c.alice, with_payload(message, bytes(bent)))
    assert (watch.shown, watch.sent) == ([], [])


@pytest.mark.parametrize("tag", [0, 1])
def test_enc_14_seal_of_another_kind_than_its_element_says(tag: int) -> None:
    """A content seal in <transient/>, and a typing seal in <encrypted/>."""
    c = couple()
    if tag:
        with c.caught() as kept:
            c.bob.send(
                f"<message to='{ALICE}' type='chat'>"
                "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
            )
        [message] = kept
    else:
        message = c.capture()
    seal = next(one for one in message if one.tag in SEALS)
    assert seal.tag == SEALS[tag]
    seal.tag = SEALS[1 - tag]
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    assert (watch.bodies, watch.sent) == ([], [])


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("normal", id="ENC-13-type-normal"),
        pytest.param("headline", id="ENC-13-type-headline"),
        pytest.param(None, id="ENC-13-type-absent"),
    ],
)
def test_i23_type_of_the_stanza_is_bound(kind: str | None) -> None:
    c = couple()
    message = c.capture()
    message.attrib.pop("type")
    if kind:
        message.set("type", kind)
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    assert (watch.shown, watch.sent) == ([], [])


def test_enc_18_good_bad_good() -> None:
    """ENC-18: what does not open moves nothing, and the good one opens behind it."""
    c = couple()
    good = c.capture("good one")
    bent = bytearray(payload_of(good))
    bent[-1] ^= 1
    c.world.inject(c.alice, c.capture("good before"))
    before = c.a.rows()
    watch = Watch(c.alice)
    c.world.inject(c.alice, with_payload(good, bytes(bent)))
    assert (c.a.rows(), watch.shown) == (before, [])
    c.world.inject(c.alice, good)
    assert watch.bodies == ["good one"]


def test_enc_17_far_index_is_refused_cheaply() -> None:
    """An index 2**31 ahead: no derivation, no change, the lane goes on."""
    c = couple()
    message = c.capture()
    before = c.a.rows()
    for n in (1_001, 5_000, 2**31, 2**32 - 1):
        bent = bytearray(payload_of(message))
        bent[19:23] = n.to_bytes(4, "big")
        verdict = verdict_on(c, with_payload(message, bytes(bent)))
        assert isinstance(verdict, verdicts.Drop)
    assert c.a.rows() == before


# -- replay ---------------------------------------------------------------------


def test_enc_12_replay_on_the_same_stream() -> None:
    c = couple()
    message = c.capture()
    watch = Watch(c.alice)
    for _ in range(3):
        c.world.inject(c.alice, message)
    message.set("id", "another id outside")
    message.set("from", f"{BOB}/another")
    c.world.inject(c.alice, message)
    assert watch.bodies == ["a captured text"]
    assert watch.sent == []


@pytest.mark.parametrize("word", ["received", "sent"])
def test_enc_12_replay_by_carbon(word: str) -> None:
    c = couple()
    message = c.capture()
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    c.world.inject(c.alice, carbon(message, word, ALICE, f"{ALICE}/one"))
    assert len(watch.shown) == 1


def test_enc_12_replay_after_restart_and_thirty_days() -> None:
    c = couple()
    message = c.capture()
    c.world.inject(c.alice, message)
    c.a.restart()
    for later in (1, 30 * DAY):
        c.world.now += later
        again = c.world.login(c.a, ALICE, "later")
        c.world.inject(again, message)
        assert "a captured text" not in again.bodies
        again.close()


def test_enc_12_replay_in_the_other_direction() -> None:
    """Alice's own message comes back to her, as Bob's and as her own."""
    c = couple()
    c.alice.say(BOB, "mine")
    mine = deepcopy(sealed(c.alice.upstream.stanzas)[-1])
    watch = Watch(c.alice)
    for sender, to in ((f"{BOB}/one", ALICE), (BOB, BOB), (ALICE, ALICE)):
        mine.set("from", sender)
        mine.set("to", to)
        c.world.inject(c.alice, mine)
    assert "mine" not in watch.bodies
    # a lane that Bob is not known to have may be asked for; nothing else goes out
    assert all(one.find(KEYREQ) is not None for one in watch.sent)


def test_enc_12_replay_on_a_stream_opened_later() -> None:
    c = couple()
    message = c.capture()
    c.world.inject(c.alice, message)
    c.world.wait(1_000)
    second = c.world.login(c.a, ALICE, "two")
    c.world.inject(second, message)
    assert second.bodies == []


def test_i12_each_stream_that_was_there_gets_it_once() -> None:
    """I12: "opened" never suppresses; "delivered" is per client stream."""
    c = couple()
    second = c.world.login(c.a, ALICE, "two")
    c.world.wait(1_000)
    message = c.capture()
    for client in (c.alice, second, c.alice, second):
        c.world.inject(client, message)
    assert c.alice.bodies[-1:] == ["a captured text"] == second.bodies
    assert c.alice.bodies.count("a captured text") == 1


def test_id_18_same_stanza_ids_are_different_messages() -> None:
    c = couple()
    watch = Watch(c.alice)
    for text in ("one", "two", "three"):
        c.bob.say(ALICE, text, ident="same")
    carol = c.world.login(c.world.tillie(), "carol@c.test")
    carol.say(ALICE, "four", ident="same")
    assert watch.bodies == ["one", "two", "three", "four"]
    assert [one.get("id") for one in watch.shown] == ["same"] * 4


# -- misuse ---------------------------------------------------------------------


def test_enc_13_seal_under_another_name_is_not_delivered() -> None:
    c = couple()
    c.world.login(c.world.tillie(), "carol@c.test").say(ALICE, "I am carol")
    message = c.capture()
    watch = Watch(c.alice)
    for sender in ("carol@c.test/one", "mallory@x.test", ALICE):
        message.set("from", sender)
        c.world.inject(c.alice, message)
    assert "a captured text" not in watch.bodies


def test_id_10_surreptitious_forwarding() -> None:
    """Alice's message to Eve, re-sent to Bob: he never sees it as meant for him."""
    c = couple()
    eve = c.world.login(c.world.tillie(), "eve@e.test")
    c.alice.say("eve@e.test", "only between us")
    assert eve.bodies == ["only between us"]
    again = deepcopy(sealed(c.alice.upstream.stanzas)[-1])
    again.set("to", BOB)
    watch = Watch(c.bob)
    c.world.inject(c.bob, again)
    c.world.wait(31_000)
    c.world.wait(31_000)
    assert "only between us" not in watch.bodies


def test_a_resealed_message_is_delivered_where_nothing_is_wrong() -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(c.alice, reseal(c))
    assert watch.bodies == ["misused"]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"to": "eve@e.test"}, id="ID-10-inner-to-somebody-else"),
        pytest.param({"to": BOB}, id="ID-10-inner-to-the-sender"),
        pytest.param({"sender": "boss@x.test"}, id="ID-10-inner-from-somebody-else"),
        pytest.param({"sender": ALICE}, id="ID-10-inner-from-the-reader"),
        pytest.param(
            {"accounts": [(ALICE, bytes(32)), (BOB, bytes(32))]},
            id="I23-audience-of-other-roots",
        ),
        pytest.param(
            {"accounts": [(BOB, bytes(32))]}, id="I23-audience-without-reader"
        ),
    ],
)
def test_i21_i23_who_wrote_to_whom_has_to_agree(wrong: dict[str, object]) -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(c.alice, reseal(c, **wrong))  # type: ignore[arg-type]
    c.world.wait(5_000)
    assert "misused" not in "".join(render(one) for one in watch.shown)
    assert [one for one in watch.sent if one.tag == MESSAGE] == []
    # the audience is looked up once, then refused (I23)
    assert len(watch.sent) <= 2
    assert watch.bodies == [marks.UNREADABLE_OLD]


# -- devices --------------------------------------------------------------------


def with_second_device(c: Couple) -> Client:
    """Bob's second device, linked; Alice has read a message of it."""
    b2 = c.world.tillie()
    second = c.world.login(b2, BOB, "two")
    link(c.b, b2, BOB)
    second.say(ALICE, "from the second")
    # what others cause is looked up at most every few seconds
    c.world.wait(20_000)
    assert c.alice.bodies[-1] == "from the second"
    return second


def remove_second(c: Couple, second: Client) -> None:
    device = second.tillie.account(BOB).identity.device
    c.b.command("devices-remove", account=BOB, id=device.id.hex())
    # a message of the first device carries the new manifest's number
    c.bob.say(ALICE, "it is gone")
    c.world.wait(20_000)
    assert c.alice.bodies[-1] == "it is gone"
    contact = c.account.contacts.get(BOB)
    assert contact is not None
    assert len(contact.manifest.active) == 1


def test_i08_removed_device_is_shown_as_such() -> None:
    """I8: on a lane that was known before, shown "from a removed device"."""
    c = couple()
    second = with_second_device(c)
    with c.caught() as kept:
        second.say(ALICE, "written before")
    remove_second(c, second)
    watch = Watch(c.alice)
    c.world.inject(c.alice, kept[0])
    assert watch.bodies == ["[Tillie: from a removed device] written before"]


def test_enc_13_new_lane_of_a_removed_device_is_not_taken() -> None:
    c = couple()
    second = with_second_device(c)
    remove_second(c, second)
    account = second.tillie.account(BOB)
    with second.tillie.writing():
        account.ratchets.rotate_all()
    with c.caught() as kept:
        second.say(ALICE, "written after")
    # its own Tillie may have noticed and refused; then it has said nothing
    watch = Watch(c.alice)
    for message in kept:
        c.world.inject(c.alice, message)
    c.world.wait(31_000)
    assert "written after" not in "".join(watch.bodies)


def test_enc_22_new_device_under_the_pinned_root_is_used_at_once() -> None:
    c = couple()
    second = with_second_device(c)
    c.world.now += DAY + 1
    c.alice.say(BOB, "for both devices")
    assert "for both devices" in second.bodies + [
        one.findtext(f".//{BODY}") for one in second.messages
    ]
    assert c.bob.bodies[-1] == "for both devices"


# -- nothing tells the network ---------------------------------------------------


@pytest.mark.parametrize(
    "bend",
    [
        pytest.param(
            lambda p: p[:60] + bytes([p[60] ^ 1]) + p[61:], id="ENC-19-signature"
        ),
        pytest.param(lambda p: p[:-1] + bytes([p[-1] ^ 1]), id="ENC-19-tag"),
        pytest.param(lambda p: p[:30], id="ENC-19-short"),
        pytest.param(lambda p: b"\x01" + p[1:], id="ENC-19-version"),
    ],
)
def test_enc_19_bad_seal_has_no_echo(bend) -> None:  # type: ignore[no-untyped-def]
    """ENC-19, ENC-21: no request, receipt or error, and nothing to see."""
    c = couple()
    with c.caught() as kept:
        c.bob.send(
            f"<message to='{ALICE}' type='chat' id='r'><body>text</body>"
            "<request xmlns='urn:xmpp:receipts'/></message>"
        )
    watch = Watch(c.alice)
    c.world.inject(c.alice, with_payload(kept[0], bend(payload_of(kept[0]))))
    c.world.wait(31_000)
    c.world.wait(61_000)
    assert [one for one in watch.sent if one.tag == MESSAGE] == []
    assert watch.shown == []


def test_enc_19_unknown_lane_gets_one_bounded_request() -> None:
    c = couple()
    message = c.capture()
    bent = bytearray(payload_of(message))
    bent[3:19] = bytes(16)
    unknown = with_payload(message, bytes(bent))
    watch = Watch(c.alice)
    c.world.leaving = without(NO)
    for _ in range(20):
        c.world.inject(c.alice, unknown)
    [request] = watch.sent
    assert request.find(KEYREQ) is not None
    assert request.get("to") == BOB
    assert watch.shown == []
    for _ in range(100):
        c.world.wait(61_000)
    requests = [one for one in watch.sent if one.find(KEYREQ) is not None]
    assert len(requests) <= 5


def test_enc_20_flood_of_bad_seals() -> None:
    """ENC-20: one notice, no bytes upstream, and the next good one opens."""
    c = couple()
    message = c.capture()
    payload = payload_of(message)
    watch = Watch(c.alice)
    notices = len(c.alice.notices)
    for at in range(500):
        bent = bytearray(payload)
        bent[47 + at % (len(payload) - 47)] ^= 1 + at % 255
        c.world.inject(c.alice, with_payload(message, bytes(bent)))
    assert watch.sent == []
    assert watch.shown == []
    assert len(c.alice.notices) - notices == 1
    assert len(c.a.store.scan("notice", ALICE)) <= 5
    c.world.inject(c.alice, message)
    assert watch.bodies == ["a captured text"]


@pytest.mark.parametrize("what", ["grants", "keyreq"])
def test_enc_20_flood_cannot_make_us_look_up_without_end(what: str) -> None:
    """Each names a higher manifest number than is known: bounded, not 2 IQs each."""
    c = couple()
    device = base64.b64encode(c.account.identity.device.public).decode()
    watch = Watch(c.alice)
    for at in range(100):
        if what == "grants":
            content = (
                f"<grants xmlns='{LANE}' device='{device}' seq='{1000 + at}'>"
                f"<grant to='{ALICE}' device='{device}' prekey='1'>AAAA</grant></grants>"
            )
        else:
            content = (
                f"<keyreq xmlns='{LANE}' owner='{ALICE}' root='{device}' lane='AAAA'"
                f" device='{device}' n='0' prekey='1' seq='{1000 + at}'"
                f" time='{c.world.now}' nonce='AAAA'>AAAA</keyreq>"
            )
        c.world.inject(
            c.alice, f"<message from='{BOB}/one' to='{ALICE}'>{content}</message>"
        )
    assert len(watch.sent) <= 10


@pytest.mark.parametrize(
    "unknown_first",
    [
        pytest.param(False, id="I12-contact-not-looked-up-yet"),
        pytest.param(True, id="I12-first-one-under-an-unknown-key"),
    ],
)
def test_i12_burst_behind_a_held_message_loses_nothing(unknown_first: bool) -> None:
    """I12: at most 200 are held; of those beyond, each has its place in the chat."""
    c = couple(talked=unknown_first)
    with c.caught() as kept:
        for at in range(250):
            c.bob.say(ALICE, f"burst {at}", ident=f"burst-{at}")
    if unknown_first:
        bent = bytearray(payload_of(kept[0]))
        bent[3:19] = bytes(16)
        kept.insert(0, with_payload(kept[0], bytes(bent)))
    watch = Watch(c.alice)
    c.alice.upstream.send("".join(render(one) for one in kept))
    c.world.settle()
    c.world.wait(31_000)
    texts = [body for body in watch.bodies if body.startswith("burst")]
    assert len(set(texts)) == len(texts) >= 199
    notes = sum(body == marks.UNREADABLE for body in watch.bodies)
    assert len(texts) + notes >= len(kept)


def test_enc_21_receipt_request_is_shown_only_with_the_message() -> None:
    """A placeholder asks the client for no receipt."""
    c = couple()
    with c.caught() as kept:
        c.bob.send(
            f"<message to='{ALICE}' type='chat' id='r'><body>text</body>"
            "<request xmlns='urn:xmpp:receipts'/>"
            "<markable xmlns='urn:xmpp:chat-markers:0'/></message>"
        )
    bent = bytearray(payload_of(kept[0]))
    bent[3:19] = bytes(16)
    watch = Watch(c.alice)
    c.world.inject(c.alice, with_payload(kept[0], bytes(bent)))
    c.world.wait(31_000)
    [placeholder] = watch.shown
    assert placeholder.findtext(BODY) == marks.UNREADABLE
    assert [child.tag for child in placeholder] == [BODY]
    c.world.inject(c.alice, kept[0])
    assert watch.shown[-1].find("{urn:xmpp:receipts}request") is not None


# -- what stands around a seal ----------------------------------------------------

CLEAR_SIBLINGS = [
    pytest.param("<body>CLEAR</body>", id="ENC-04-body"),
    pytest.param("<body xml:lang='de'>CLEAR</body>", id="ENC-04-body-in-german"),
    pytest.param("<subject>CLEAR</subject>", id="ENC-05-subject"),
    pytest.param(HTML.format("CLEAR"), id="ENC-05-html"),
    pytest.param("<x xmlns='jabber:x:oob'><url>CLEAR</url></x>", id="ENC-05-oob"),
    pytest.param(
        "<replace xmlns='urn:xmpp:message-correct:0' id='CLEAR'/>", id="ENC-05-replace"
    ),
    pytest.param("<thread>CLEAR</thread>", id="ENC-05-thread"),
    pytest.param(
        "<nick xmlns='http://jabber.org/protocol/nick'>CLEAR</nick>", id="ENC-05-nick"
    ),
    pytest.param("<unknown xmlns='urn:example'>CLEAR</unknown>", id="ENC-05-unknown"),
    pytest.param(
        "<request xmlns='urn:xmpp:receipts'>CLEAR</request>", id="ENC-05-receipt"
    ),
    pytest.param(
        "<delay xmlns='urn:xmpp:delay' from='mallory@x.test' stamp='CLEAR'/>",
        id="ENC-05-delay",
    ),
    pytest.param(
        "<stanza-id xmlns='urn:xmpp:sid:0' by='mallory@x.test' id='CLEAR'/>",
        id="ENC-05-stanza-id",
    ),
    pytest.param(
        "<x xmlns='http://jabber.org/protocol/muc#user'><item jid='CLEAR'/></x>",
        id="ENC-05-muc",
    ),
    pytest.param("<error type='cancel'><text>CLEAR</text></error>", id="ENC-05-error"),
    pytest.param("CLEAR", id="ENC-05-text-between"),
]


@pytest.mark.parametrize("sibling", CLEAR_SIBLINGS)
def test_enc_04_05_clear_siblings_of_a_seal_are_dropped(sibling: str) -> None:
    c = couple()
    message = c.capture()
    text = render(message)
    at = text.index("</message>")
    watch = Watch(c.alice)
    c.world.inject(c.alice, text[:at] + sibling + text[at:])
    assert watch.bodies == ["a captured text"]
    assert "CLEAR" not in render(watch.shown[0])


def test_what_the_own_server_makes_stays() -> None:
    c = couple()
    message = c.capture()
    made = parsed(f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ALICE}' id='77'/>")
    message.append(made)
    message.append(
        parsed(
            "<delay xmlns='urn:xmpp:delay' from='a.test' stamp='2026-01-01T00:00:00Z'/>"
        )
    )
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    [shown] = watch.shown
    assert [child.tag.partition("}")[2] for child in shown] == [
        "body",
        "stanza-id",
        "delay",
    ]


@pytest.mark.parametrize(
    "twist",
    [
        pytest.param(lambda m: m.append(deepcopy(m[0])), id="ENC-06-two-seals"),
        pytest.param(lambda m: m[0].append(deepcopy(m[0])), id="ENC-06-seal-in-seal"),
        pytest.param(
            lambda m: m[0].insert(0, deepcopy(m[0].find(PAYLOAD))),
            id="ENC-06-two-payloads",
        ),
        pytest.param(
            lambda m: m.append(SubElement(Element("x"), SEALS[1])),
            id="ENC-06-both-kinds",
        ),
        pytest.param(lambda m: m[0].remove(m[0].find(PAYLOAD)), id="ENC-06-no-payload"),
    ],
)
def test_enc_06_one_seal_or_none(twist) -> None:  # type: ignore[no-untyped-def]
    """One opens once, or the placeholder stands there; never two, never ciphertext."""
    c = couple()
    message = c.capture()
    twist(message)
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    assert len(watch.shown) <= 1
    assert set(watch.bodies) <= {"a captured text", marks.UNREADABLE_OLD}
    assert SEAL not in "".join(render(one) for one in watch.shown)
    assert watch.sent == []


INNER = [
    pytest.param(
        "<iq xmlns='jabber:client' type='set'><query xmlns='jabber:iq:roster'/></iq>",
        id="ENC-28-iq",
    ),
    pytest.param(
        "<presence xmlns='jabber:client' type='unavailable'/>", id="ENC-28-presence"
    ),
    pytest.param(
        "<message xmlns='jabber:client'><body>BAD</body></message>", id="ENC-28-message"
    ),
    pytest.param(wrapped("received", FORGED), id="ENC-28-carbon"),
    pytest.param("<result xmlns='urn:xmpp:mam:2'/>", id="ENC-28-archive"),
    pytest.param(
        "<x xmlns='http://jabber.org/protocol/muc#user'><item jid='boss@x.test'/></x>",
        id="ENC-28-muc",
    ),
    pytest.param(
        f"<encrypted xmlns='{SEAL}'><payload>AAAA</payload></encrypted>",
        id="ENC-28-seal",
    ),
    pytest.param(f"<grants xmlns='{LANE}'/>", id="ENC-28-grants"),
    pytest.param(f"<link-request xmlns='{LANE}'/>", id="ENC-28-link-request"),
    pytest.param(
        "<event xmlns='http://jabber.org/protocol/pubsub#event'/>", id="ENC-28-event"
    ),
    pytest.param(
        "<stanza-id xmlns='urn:xmpp:sid:0' by='alice@a.test' id='1'/>",
        id="ENC-28-stanza-id",
    ),
    pytest.param(
        "<delay xmlns='urn:xmpp:delay' from='a.test' stamp='x'/>",
        id="ENC-28-delay-of-a-server",
    ),
    pytest.param("<error xmlns='jabber:client' type='cancel'/>", id="ENC-28-error"),
    pytest.param("<no-store xmlns='urn:xmpp:hints'/>", id="ENC-28-hint"),
]


@pytest.mark.parametrize("inner", INNER)
def test_enc_28_only_message_content_comes_out_of_a_seal(inner: str) -> None:
    """A peer that breaks the rules seals what only servers make."""
    from proxy.rules import envelope
    from proxy.wire import tree

    bad = tree.parse(inner.encode())
    body = Element(BODY)
    body.text = "beside it"
    data = envelope.write(
        envelope.Envelope(
            "chat", "m", BOB, ALICE, (bad, body), {"from": "boss@x.test"}
        ),
        0,
    )
    inside = envelope.read(data)
    restored = envelope.restore(inside, {"from": f"{BOB}/one", "to": ALICE})
    assert [child.tag for child in restored] == [BODY]
    assert restored.get("from") == f"{BOB}/one"


# -- clear ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("<body>evil</body>", id="ENC-07-body"),
        pytest.param(
            "<body>evil</body>" + HTML.format("evil"), id="ENC-07-body-and-html"
        ),
        pytest.param(HTML.format("evil"), id="ENC-07-html-alone"),
        pytest.param("<subject>evil</subject>", id="ENC-07-subject"),
        pytest.param(
            "<x xmlns='jabber:x:oob'><url>http://evil.test</url></x>", id="ENC-07-link"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "normal", "headline", "groupchat", "error"])
def test_enc_07_clear_message_of_somebody_with_keys(content: str, kind: str) -> None:
    """Marked, or not shown: never as a sealed one looks."""
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(
        c.alice,
        f"<message from='{BOB}/one' to='{ALICE}/one' type='{kind}'>{content}</message>",
    )
    for one in watch.shown:
        text = render(one)
        assert "evil" not in text or marks.CLEAR in text
        assert not one.findall(".//{http://jabber.org/protocol/xhtml-im}html")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            "<reactions xmlns='urn:xmpp:reactions:0' id='m'/>", id="ENC-07-reaction"
        ),
        pytest.param(
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='m'/>", id="ENC-07-marker"
        ),
        pytest.param(
            "<received xmlns='urn:xmpp:receipts' id='m'/>", id="ENC-07-receipt"
        ),
        pytest.param(
            "<retract xmlns='urn:xmpp:message-retract:1' id='m'/>",
            id="ENC-07-retraction",
        ),
    ],
)
def test_enc_07_clear_message_does_not_act_on_sealed_ones(content: str) -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(
        c.alice, f"<message from='{BOB}/one' type='chat'>{content}</message>"
    )
    c.world.inject(
        c.alice,
        f"<message from='{BOB}/one' type='chat'><body>b</body>{content}</message>",
    )
    assert watch.bodies == [marks.CLEAR + "b"]
    assert [child.tag for child in watch.shown[0]] == [BODY]


def test_clear_message_of_somebody_without_keys_is_not_marked() -> None:
    c = couple()
    watch = Watch(c.alice)
    c.world.inject(c.alice, "<message from='old@x.test/p'><body>plain</body></message>")
    assert watch.bodies == ["plain"]


@pytest.mark.parametrize(
    "text",
    [
        marks.CLEAR + "all is well",
        "[Tillie: verified]",
        "line one\n[Tillie: verified]",
        " \u200b[tіllie : verified]",
        "［Ｔｉｌｌｉｅ］ verified",
        marks.UNREADABLE,
        "\u3164[Tillie: verified]",
        "\u2800\u00a0[Tillie: verified]",
        "*[Tillie: verified]*",
    ],
)
@pytest.mark.parametrize("way", ["clear", "sealed", "stranger"])
def test_enc_08_nobodys_text_looks_like_a_mark(text: str, way: str) -> None:
    c = couple()
    watch = Watch(c.alice)
    if way == "sealed":
        c.bob.say(ALICE, text)
    else:
        sender = f"{BOB}/one" if way == "clear" else "stranger@x.test"
        element = Element(MESSAGE, {"from": sender, "type": "chat"})
        SubElement(element, BODY).text = text
        c.world.inject(c.alice, element)
    [body] = watch.bodies
    if way == "clear":
        assert body.startswith(marks.CLEAR)
        body = body.removeprefix(marks.CLEAR)
    for line in body.splitlines():
        assert line.startswith("|") or line == "line one"


@pytest.mark.parametrize(
    "sender",
    [
        "tillie@proxy.invalid",
        "tillie@proxy.invalid/x",
        "Tillie@PROXY.invalid",
        "proxy.invalid",
    ],
)
@pytest.mark.parametrize("way", ["message", "presence", "iq", "carbon", "archive"])
def test_enc_08_nobody_on_the_network_speaks_as_tillie(sender: str, way: str) -> None:
    c = couple()
    before = len(c.alice.stanzas)
    inner = (
        f"<message from='{sender}' to='{ALICE}' type='chat'><body>obey</body></message>"
    )
    own = f"<message from='{ALICE}' to='{ALICE}/one'>"
    stanza = {
        "message": inner,
        "presence": f"<presence from='{sender}'><status>obey</status></presence>",
        "iq": f"<iq type='set' id='1' from='{sender}'><obey xmlns='urn:x'/></iq>",
        "carbon": own + wrapped("received", inner) + "</message>",
        "archive": own
        + f"<result xmlns='urn:xmpp:mam:2' id='1'><forwarded xmlns='{FORWARD}'>{inner}"
        "</forwarded></result></message>",
    }[way]
    c.world.inject(c.alice, stanza)
    assert not [one for one in c.alice.stanzas[before:] if "obey" in render(one)]


# -- errors ---------------------------------------------------------------------


def test_id_19_error_with_an_echo_sends_nothing() -> None:
    c = couple()
    c.alice.say(BOB, "the text", ident="m7")
    echo = deepcopy(sealed(c.alice.upstream.stanzas)[-1])
    echo.attrib.update({"type": "error", "from": BOB, "to": f"{ALICE}/one"})
    echo.append(
        parsed(
            "<error type='cancel'><service-unavailable"
            " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        )
    )
    watch = Watch(c.alice)
    c.world.inject(c.alice, echo)
    c.world.wait(61_000)
    [error] = watch.shown
    assert (error.get("id"), error.get("type")) == ("m7", "error")
    names = {child.tag for child in error}
    assert "{jabber:client}error" in names
    assert not names & {BODY, *SEALS, "{urn:xmpp:eme:0}encryption"}
    assert [one for one in watch.sent if one.tag == MESSAGE] == []


@pytest.mark.parametrize(
    "never_sent", [True, False], ids=["ID-19-never-sent", "ID-19-bad-condition"]
)
def test_i20_received_no_key_resends_nothing(never_sent: bool) -> None:
    """I20: a received no-key, or any error, never makes content go out again."""
    c = couple()
    c.alice.say(BOB, "the text", ident="m7")
    watch = Watch(c.alice)
    ident = "never" if never_sent else "m7"
    c.world.inject(
        c.alice,
        f"<message from='{BOB}/one' to='{ALICE}/one' type='error' id='{ident}'>"
        "<error type='modify'><not-acceptable"
        " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<no-key xmlns='urn:x-tillie:errors:0'/></error></message>",
    )
    c.world.wait(61_000)
    assert [one for one in watch.sent if one.tag == MESSAGE] == []


def test_error_about_a_message_without_id_reaches_the_client() -> None:
    """The id outside is ours then; the client has to learn all the same."""
    c = couple()
    c.world.accounts.discard(BOB)
    c.alice.send(f"<message to='{BOB}' type='chat'><body>nobody there</body></message>")
    assert [one.get("from") for one in c.alice.errors] == [BOB]


# -- a room ---------------------------------------------------------------------


def test_seal_in_a_room_is_a_placeholder() -> None:
    c = couple()
    message = c.capture()
    message.attrib.update({"type": "groupchat", "from": "room@muc.test/bob"})
    watch = Watch(c.alice)
    c.world.inject(c.alice, message)
    assert watch.bodies == [marks.UNREADABLE_OLD]
    assert watch.sent == []


def test_messages_behind_a_quiet_time(monkeypatch: pytest.MonkeyPatch) -> None:
    c = couple()
    for client in (c.alice, c.bob):
        for _ in range(3):
            client.session.rest()
    c.alice.say(BOB, "good morning")
    assert c.bob.bodies[-1] == "good morning"
    rested: list[Framer] = []
    monkeypatch.setattr(Framer, "rest", lambda framer: rested.append(framer))
    c.alice.session.rest()
    leg = c.alice.session.uplink._leg
    assert leg is not None
    assert rested == [c.alice.session.client._framer, leg._framer]
