"""What is made of answers to `tillie gate check`: a gate's, and a server's without one."""

from __future__ import annotations

import pytest

from proxy.core.streams import MANAGEMENT, SASL, STREAM_CONDITIONS, STREAMS
from proxy.gate import around, names
from proxy.gate.names import ERRORS, SASL2
from proxy.gate.outside import (
    NO_MECHANISM,
    Answer,
    Road,
    judge_road,
    mechanisms,
    offers_keys,
    roads,
    sasl_refusal,
)
from proxy.wire import tree
from proxy.wire.stanza import Stanza

FEATURES = (
    f"<features xmlns='{STREAMS}'><mechanisms xmlns='{SASL}'>"
    "<mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism>"
    "<mechanism>no'such</mechanism></mechanisms>"
    f"<authentication xmlns='{SASL2}'><mechanism>HT-SHA-256-NONE</mechanism>"
    "</authentication></features>"
)
WORDS = "No key, no login."


def stanza(text: str) -> Stanza:
    return Stanza.of(tree.parse(text.encode()))


def road(name: str) -> Road:
    return next(one for one in roads(stanza(FEATURES)) if one.name.endswith(name))


def failure(condition: str, text: str = "", ns: str = SASL) -> str:
    said = f"<text xmlns='{ns}'>{text}</text>" if text else ""
    return f"<failure xmlns='{ns}'><{condition} xmlns='{SASL}'/>{said}</failure>"


def error(condition: str, application: str = "", text: str = WORDS) -> str:
    ns = "urn:ietf:params:xml:ns:xmpp-stanzas"
    extra = f"<{application} xmlns='{ERRORS}'/>" if application else ""
    return (
        f"<iq type='error' id='tillie-check'><error type='auth'>"
        f"<{condition} xmlns='{ns}'/><text xmlns='{ns}'>{text}</text>{extra}"
        "</error></iq>"
    )


def test_every_road_that_is_offered_is_tried_and_those_that_never_are() -> None:
    tried = [one.name for one in roads(stanza(FEATURES))]
    assert tried == [
        f"SASL {NO_MECHANISM}",
        "SASL SCRAM-SHA-1",
        "SASL PLAIN",
        "SASL HT-SHA-256-NONE",
        "SASL ANONYMOUS",
        "SASL2",
        "registration, the form",
        "registration",
        "XEP-0078",
        "binding before login",
        "resumption",
    ]


def test_a_mechanism_whose_name_would_be_markup_is_left_out() -> None:
    assert "no'such" not in mechanisms(stanza(FEATURES))


@pytest.mark.parametrize("one", roads(stanza(FEATURES)), ids=lambda one: one.name)
def test_what_is_sent_on_a_road_is_one_element(one: Road) -> None:
    tree.parse(one.data)


def test_the_words_of_a_gate_are_a_closed_road() -> None:
    said = names.sasl_failure(SASL, "not-authorized", names.NO_KEY)
    first = Answer(Stanza.of(tree.parse(said)))
    ok, text = judge_road(road(NO_MECHANISM), first)
    assert ok
    assert names.NO_KEY in text
    words = sasl_refusal(stanza(said.decode()))[1]
    assert words == names.NO_KEY
    ok, text = judge_road(road("PLAIN"), first, words)
    assert ok
    assert text.endswith("refused with the same words")


def test_sasl2_is_refused_in_the_same_words() -> None:
    said = names.sasl_failure(SASL2, "not-authorized", WORDS)
    assert judge_road(road("SASL2"), Answer(Stanza.of(tree.parse(said))), WORDS)[0]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        # What Prosody and ejabberd say to these.
        (NO_MECHANISM, failure("invalid-mechanism")),
        (NO_MECHANISM, failure("invalid-mechanism", "Unknown")),
        ("PLAIN", failure("not-authorized", "Unable to authorize you")),
        ("PLAIN", failure("not-authorized")),
        ("PLAIN", failure("malformed-request", WORDS)),
        ("SCRAM-SHA-1", f"<challenge xmlns='{SASL}'>cj0x</challenge>"),
        ("ANONYMOUS", f"<success xmlns='{SASL}'/>"),
        ("SASL2", f"<continue xmlns='{SASL2}'/>"),
        ("SASL2", failure("not-authorized", "other", SASL2)),
        ("form", "<iq type='result' id='1'><query xmlns='jabber:iq:register'/></iq>"),
        ("registration", error("not-acceptable")),
        ("registration", error("not-authorized")),
        ("XEP-0078", error("service-unavailable")),
        ("binding before login", "<iq type='result' id='1'/>"),
        ("resumption", f"<failed xmlns='{MANAGEMENT}'/>"),
        ("resumption", f"<resumed xmlns='{MANAGEMENT}' h='0'/>"),
    ],
)
def test_an_answer_of_the_server_is_an_open_road(name: str, answer: str) -> None:
    ok, text = judge_road(road(name), Answer(stanza(answer)), WORDS)
    assert not ok, text


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("form", error("not-authorized", "key-required")),
        ("XEP-0078", error("service-unavailable", "key-required")),
        (
            "resumption",
            names.managed_failure(
                MANAGEMENT, "not-authorized", "key-required"
            ).decode(),
        ),
        (
            "PLAIN",
            f"<error xmlns='{STREAMS}'><policy-violation"
            f" xmlns='{STREAM_CONDITIONS}'/></error>",
        ),
    ],
)
def test_what_a_gate_says_elsewhere_is_a_closed_road(name: str, answer: str) -> None:
    assert judge_road(road(name), Answer(stanza(answer)), WORDS)[0]


def test_silence_proves_nothing() -> None:
    ok, text = judge_road(road("PLAIN"), Answer(None, "no answer in 10 s"), WORDS)
    assert not ok
    assert "no answer in 10 s" in text


def test_the_offer_of_a_gate() -> None:
    keys = f"<keys xmlns='{names.AUTH}' nonce='bm9uY2U=' policy='optional'/>"
    features = FEATURES.replace("</features>", f"{keys}</features>")
    assert offers_keys(stanza(features)) == ("bm9uY2U=", "optional")
    assert offers_keys(stanza(FEATURES)) is None


# -- around the gate --------------------------------------------------------


@pytest.mark.parametrize("domain", ["a.test", f"{'long.' * 30}test"])
def test_the_frame_of_an_opening_is_whole(domain: str) -> None:
    """RFC 6455, 5.2: final, text, masked, with its length."""
    frame = around.opening(domain)
    assert frame[0] == 0x81
    size, at = frame[1] & 0x7F, 2
    if size == 126:
        size, at = int.from_bytes(frame[2:4]), 4
    assert frame[1] & 0x80
    mask, masked = frame[at : at + 4], frame[at + 4 :]
    assert len(masked) == size
    text = bytes(one ^ mask[n % 4] for n, one in enumerate(masked))
    assert tree.parse(text).get("to") == domain


@pytest.mark.parametrize(
    ("answer", "open_"),
    [
        (FEATURES.encode(), True),
        (f"<starttls xmlns='{'urn:ietf:params:xml:ns:xmpp-tls'}'/>".encode(), True),
        (FEATURES.encode() + f"<keys xmlns='{names.AUTH}'/>".encode(), False),
        (b"<body type='terminate' condition='host-unknown'/>", False),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"", False),
    ],
)
def test_who_offers_a_login_and_asks_for_no_key_lets_in(
    answer: bytes, open_: bool
) -> None:
    assert around.lets_in(answer) is open_


@pytest.mark.parametrize(
    ("answer", "open_"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\n", True),
        (b"HTTP/1.1 400 Bad Request\r\nX: 101 \r\n", False),
        (b"", False),
        (b"101", False),
    ],
)
def test_a_websocket_is_open_by_its_status_line(answer: bytes, open_: bool) -> None:
    assert around.upgraded(answer) is open_
