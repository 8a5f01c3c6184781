"""What may be said in clear behind login (protocol.md, 17.1)."""

from __future__ import annotations

import re

import pytest

from proxy.gate.enforce import MARK, Enforcement, Inbound, Judgement, Outbound, judge
from proxy.gate.inquiry import Finding, Proof
from proxy.rules import marks
from proxy.suites import lanes
from proxy.suites.fields import b64
from proxy.wire import tree
from proxy.wire.stanza import Stanza
from tests.support.persons import Person
from tests.unit.gate.staging import DOMAIN, Stage

SEAL = "urn:x-tillie:seal:0"
LANE = "urn:x-tillie:lane:0"
PAYLOAD = b64(bytes((0, 1, 0)) + bytes(lanes.SMALLEST))
SEALED = f"<encrypted xmlns='{SEAL}'><payload>{PAYLOAD}</payload></encrypted>"
BODY = "<body>hello</body>"
AWAY = "romeo@montague.example"
STATE = "http://jabber.org/protocol/chatstates"


def message(content: str, *, to: str = AWAY, kind: str = "chat", more: str = "") -> str:
    return f"<message to='{to}' type='{kind}' id='m1'{more}>{content}</message>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # one seal as in 5.1, with what 4.2 lets stand there
        (message(SEALED), Judgement.FINE),
        (message(f"<store xmlns='urn:xmpp:hints'/>{SEALED}"), Judgement.FINE),
        (
            message(
                f"{SEALED}<body>{marks.FALLBACK_BODY}</body>"
                f"<fallback xmlns='urn:xmpp:fallback:0' for='{SEAL}'/>"
                f"<encryption xmlns='urn:xmpp:eme:0' namespace='{SEAL}' name='Tillie'/>"
            ),
            Judgement.FINE,
        ),
        (message(SEALED, more=" from='juliet@capulet.example/r'"), Judgement.FINE),
        (
            message(
                f"<transient xmlns='{SEAL}'><payload>{PAYLOAD}</payload></transient>"
                "<no-store xmlns='urn:xmpp:hints'/>"
            ),
            Judgement.FINE,
        ),
        # this layer's own
        (
            message(
                f"<keyreq xmlns='{LANE}' lane='AAAA' n='1'>AAAA</keyreq>"
                "<store xmlns='urn:xmpp:hints'/>",
                kind="normal",
            ),
            Judgement.FINE,
        ),
        (message(f"<grants xmlns='{LANE}' device='AA==' seq='1'/>"), Judgement.FINE),
        # nothing that a person says
        (message(""), Judgement.FINE),
        (message("<received xmlns='urn:xmpp:receipts' id='x'/>"), Judgement.FINE),
        (message(f"<composing xmlns='{STATE}'/>"), Judgement.FINE),
        (message("<private xmlns='urn:xmpp:carbons:2'/>"), Judgement.FINE),
        (
            message(
                "<x xmlns='http://jabber.org/protocol/muc#user'>"
                "<invite to='a@a.test'/></x>",
                to="room@conference.capulet.example",
            ),
            Judgement.FINE,
        ),
        # presence and iq: not in this version
        (f"<presence to='{AWAY}'><status>x</status></presence>", Judgement.FINE),
        (f"<iq to='{AWAY}' type='set' id='1'><x xmlns='u'/></iq>", Judgement.FINE),
        # content
        (message(BODY), Judgement.CLEAR),
        (message("text"), Judgement.CLEAR),
        (message("<thread>t</thread>"), Judgement.CLEAR),
        (message("<subject>s</subject>"), Judgement.CLEAR),
        (message("<x xmlns='jabber:x:oob'><url>u</url></x>"), Judgement.CLEAR),
        (message("<unknown xmlns='urn:x'/>"), Judgement.CLEAR),
        (message(f"<composing xmlns='{STATE}'>words</composing>"), Judgement.CLEAR),
        (
            message("<received xmlns='urn:xmpp:receipts' id='x'>words</received>"),
            Judgement.CLEAR,
        ),
        (message(f"{SEALED}{BODY}"), Judgement.CLEAR),
        (message(f"{BODY}{SEALED}"), Judgement.CLEAR),
        (message(f"{SEALED}{SEALED}"), Judgement.CLEAR),
        (message(SEALED, more=" xml:lang='de'"), Judgement.CLEAR),
        (message(f"<encrypted xmlns='{SEAL}'/>"), Judgement.CLEAR),
        (
            message(f"<encrypted xmlns='{SEAL}'><payload>hello</payload></encrypted>"),
            Judgement.CLEAR,
        ),
        (message(f"<keyreq xmlns='{LANE}'><body>x</body></keyreq>"), Judgement.CLEAR),
        (message(f"{BODY}<keyreq xmlns='{LANE}'>AAAA</keyreq>"), Judgement.CLEAR),
        (
            message(
                "<x xmlns='http://jabber.org/protocol/muc#user'>"
                "<invite to='a@a.test'><reason>words</reason></invite></x>"
            ),
            Judgement.CLEAR,
        ),
        # other encryption is not this one's seal
        (
            message("<encrypted xmlns='eu.siacs.conversations.axolotl'/>"),
            Judgement.CLEAR,
        ),
        # rooms, by their bare JID alone
        (message(BODY, kind="groupchat", to="r@conference.x.test"), Judgement.ROOM),
        (message(BODY, kind="groupchat", to=f"{AWAY}/orchard"), Judgement.CLEAR),
        (message(SEALED, kind="groupchat", to="r@conference.x.test"), Judgement.FINE),
        # errors
        (
            message(
                "<error type='cancel'><conflict "
                "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
                kind="error",
            ),
            Judgement.FINE,
        ),
        (message(f"{BODY}<error type='cancel'/>", kind="error"), Judgement.ECHO),
    ],
)
def test_enc_02_judged_by_structure(text: str, expected: Judgement) -> None:
    assert judge(Stanza.of(tree.parse(text.encode()))) is expected


def stage(outbound: Outbound = "keyless", inbound: Inbound = "pass") -> Stage:
    return Stage(enforcement=Enforcement(outbound, inbound)).open()


def refusal(made: Stage, sent: bytes) -> bytes:
    """The server answers the ping that went out in place of a stanza."""
    found = re.search(rb"<iq [^>]*id='(tillie-gate-[^']*)'", sent)
    assert found is not None, sent
    assert b"hello" not in sent
    pong = b"<iq type='result' from='%b' id='%b'/>" % (DOMAIN.encode(), found[1])
    return made.server(pong)


@pytest.mark.parametrize("outbound", ["refuse", "keyless", "pass"])
def test_what_is_sealed_passes_byte_for_byte(outbound: Outbound) -> None:
    made = stage(outbound)
    assert made.passed(message(SEALED)) == message(SEALED).encode()
    assert not made.sought


def test_clear_content_comes_back_with_words() -> None:
    made = stage("refuse")
    said = refusal(made, made.passed(message(BODY)))
    assert b"<policy-violation " in said
    assert b"<clear-refused xmlns='urn:x-tillie:errors:0'/>" in said
    assert b"sealed messages only" in said
    assert b"id='m1'" in said
    assert f"from='{AWAY}'".encode() in said
    assert [note.occasion for note in made.notes][-1] == "clear-refused"
    # and what comes behind it passes
    assert made.passed("<presence/>") == b"<presence/>"


def test_clear_content_for_an_own_account_with_a_key_comes_back() -> None:
    made = stage()
    nurse = Person(jid="nurse@capulet.example")
    with made.registry.transaction():
        from proxy.gate.admission import answer

        answer(nurse.vouch(), made.registry, made.clock.now)
    said = refusal(made, made.passed(message(BODY, to=nurse.jid)))
    assert b"nurse@capulet.example has a key" in said


@pytest.mark.parametrize("to", [f"guest@{DOMAIN}", f"guest@{DOMAIN}/phone", DOMAIN])
def test_clear_content_for_who_has_no_key_passes(to: str) -> None:
    made = stage()
    assert made.passed(message(BODY, to=to)) == message(BODY, to=to).encode()


def test_a_message_to_oneself_is_one_to_somebody_with_a_key() -> None:
    made = stage()
    assert b"<clear-refused" in refusal(
        made, made.passed(f"<message id='m1'>{BODY}</message>")
    )


def test_rel_29_where_the_registry_is_away_nothing_goes_in_clear() -> None:
    made = stage()
    made.away = True
    said = refusal(made, made.passed(message(BODY, to=f"guest@{DOMAIN}")))
    assert b"could not be learned" in said


@pytest.mark.parametrize(
    ("finding", "passes"),
    [
        (Finding(Proof.NONE), True),
        (Finding(Proof.KEY), False),
        (Finding(Proof.OPEN, "it answered forbidden"), False),
    ],
)
def test_another_domains_account_is_asked_for_and_order_is_kept(
    finding: Finding, passes: bool
) -> None:
    made = stage()
    assert made.passed(message(BODY) + "<presence/>") == b""
    before = len(made.to_server)
    made.find(finding)
    sent = made.to_server[before:]
    assert sent.endswith(b"<presence/>")
    if passes:
        assert sent == message(BODY).encode() + b"<presence/>"
    else:
        said = refusal(made, sent)
        assert (finding.text or "has a key").encode() in said


def test_rooms_pass_where_keyless_ones_do() -> None:
    text = message(BODY, kind="groupchat", to="room@conference.capulet.example")
    assert stage("keyless").passed(text) == text.encode()
    made = stage("refuse")
    assert b"<clear-refused" in refusal(made, made.passed(text))


def test_id_19_an_error_goes_without_its_echo() -> None:
    made = stage()
    sent = made.passed(
        message(
            f"{BODY}<error type='cancel'><text>hello</text><conflict "
            "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
            kind="error",
        )
    )
    assert b"hello" not in sent
    assert b"<conflict " in sent


# -- inbound ----------------------------------------------------------------------

FROM = "romeo@montague.example/orchard"


def incoming(content: str, *, by: str = FROM, kind: str = "chat") -> str:
    return (
        f"<message from='{by}' to='juliet@capulet.example/r' type='{kind}' id='i1'>"
        f"{content}</message>"
    )


@pytest.mark.parametrize("inbound", ["pass", "mark", "refuse"])
@pytest.mark.parametrize(
    "text",
    [
        incoming(f"{SEALED}<body>anything</body>"),
        incoming(BODY, kind="groupchat", by="room@conference.x.test/nick"),
        incoming(f"{BODY}<error type='cancel'/>", kind="error"),
        incoming(BODY, by=DOMAIN),
        incoming(BODY, by="juliet@capulet.example"),
        incoming(
            "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
            f"<message xmlns='jabber:client'>{BODY}</message></forwarded></received>",
            by="juliet@capulet.example",
        ),
        incoming(f"<composing xmlns='{STATE}'/>"),
        incoming("<event xmlns='http://jabber.org/protocol/pubsub#event'/>"),
        incoming(f"<keyreq xmlns='{LANE}'>AAAA</keyreq>"),
        f"<presence from='{FROM}'><status>hello</status></presence>",
    ],
)
def test_what_is_not_said_in_clear_by_somebody_passes(
    inbound: Inbound, text: str
) -> None:
    assert stage("keyless", inbound).server(text) == text.encode()


def test_inbound_clear_content_is_marked() -> None:
    said = stage("keyless", "mark").server(
        incoming(
            "<subject>s</subject><body>a<b xmlns='u'>c</b></body>"
            "<html xmlns='http://jabber.org/protocol/xhtml-im'><body "
            "xmlns='http://www.w3.org/1999/xhtml'>hello</body></html>"
        )
    )
    assert f"<body>{MARK}ac</body>".encode() in said
    assert f"<subject>{MARK}s</subject>".encode() in said
    assert b"hello" not in said
    # a client's own Tillie does not take it for an imitation of its marks
    assert marks.defused(MARK + "hello") == MARK + "hello"


def test_inbound_clear_content_is_sent_back_one_stanza_for_one() -> None:
    made = stage("keyless", "refuse")
    said = made.server(incoming(BODY))
    assert b"hello" not in said
    found = re.search(rb"<iq [^>]*id='([^']*)'", said)
    assert found is not None
    assert said.count(b"<iq ") == 1
    for kind in ("result", "error"):
        sent = made.passed(
            f"<iq type='{kind}' to='{DOMAIN}' id='{found[1].decode()}'/>"
        )
        assert sent.startswith(b"<message ")
        assert f"to='{FROM}'".encode() in sent
        assert b"type='error'" in sent
        assert b"id='i1'" in sent
        assert b"<clear-refused" in sent


@pytest.mark.parametrize(
    "sent",
    [
        "<iq type='get' id='{mark}'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq type='result' id='{mark}' to='romeo@montague.example/x'/>",
        "<iq type='result' id='tillie-gate-AAAA'/>",
        "<iq type='result' id='tillie-gate-'/>",
        "<iq type='result' id='other'/>",
    ],
)
def test_id_06_other_answers_are_no_answers_to_that_ping(sent: str) -> None:
    made = stage("keyless", "refuse")
    said = made.server(incoming(BODY))
    found = re.search(rb"<iq [^>]*id='([^']*)'", said)
    assert found is not None
    text = sent.format(mark=found[1].decode())
    assert made.passed(text) == text.encode()
