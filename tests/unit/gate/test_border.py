"""Domains without a key between servers: nothing goes there, nothing comes (17.2)."""

from __future__ import annotations

import re

import pytest

from proxy.gate import effects
from proxy.gate.between import Domains, Outcome
from proxy.gate.border import PAUSES_MS
from proxy.gate.enforce import Enforcement
from tests.support.persons import NOW
from tests.unit.gate.staging import DOMAIN, Clock, Stage

GOOD = Outcome(keyed=True)
BAD = Outcome(keyed=False, text="its certificate expired on 2026-01-01")
AWAY = "romeo@montague.example"


@pytest.fixture
def stage() -> Stage:
    clock = Clock(NOW)
    return Stage(clock=clock, others=Domains((DOMAIN,), clock)).open()


OUTGOING = [
    f"<message to='{AWAY}' id='o1'><body>hello</body></message>",
    f"<presence to='{AWAY}' type='subscribe' id='o1'/>",
    f"<iq to='{AWAY}/x' type='get' id='o1'><ping xmlns='urn:xmpp:ping'/></iq>",
]
INCOMING = [
    f"<message from='{AWAY}/x' id='i1'><body>hello</body></message>",
    f"<presence from='{AWAY}' type='subscribe'/>",
    f"<iq from='{AWAY}/x' type='set' id='i1'><x xmlns='urn:x'/></iq>",
    f"<iq from='{AWAY}/x' type='result' id='i1'/>",
]


def probed(stage: Stage) -> list[str]:
    return [one.domain for one in stage.sought if isinstance(one, effects.Probe)]


def returned(stage: Stage, sent: bytes) -> bytes:
    found = re.search(rb"<iq [^>]*id='(tillie-gate-[^']*)'", sent)
    assert found is not None, sent
    return stage.server(b"<iq type='result' id='%b'/>" % found[1])


@pytest.mark.parametrize("text", OUTGOING)
def test_what_goes_to_a_domain_with_a_key_passes_when_that_is_known(
    stage: Stage, text: str
) -> None:
    assert stage.passed(text + "<presence/>") == b""
    assert probed(stage) == ["montague.example"]
    before = len(stage.to_server)
    stage.find(GOOD)
    assert stage.to_server[before:] == text.encode() + b"<presence/>"


@pytest.mark.parametrize("text", OUTGOING)
def test_what_goes_to_a_domain_without_comes_back_with_words(
    stage: Stage, text: str
) -> None:
    stage.passed(text + "<presence/>")
    before = len(stage.to_server)
    stage.find(BAD)
    sent = stage.to_server[before:]
    assert b"hello" not in sent
    assert sent.endswith(b"<presence/>")
    said = returned(stage, sent)
    assert b"<not-allowed " in said
    assert b"<domain-unkeyed xmlns='urn:x-tillie:errors:0'/>" in said
    assert b"montague.example has no key" in said
    assert b"expired" in said
    assert b"id='o1'" in said


@pytest.mark.parametrize("text", INCOMING)
def test_what_comes_from_a_domain_without_is_dropped_one_for_one(
    stage: Stage, text: str
) -> None:
    assert stage.server(text + "<presence from='capulet.example'/>") == b""
    said = stage.find(BAD)
    assert b"hello" not in said
    assert len(re.findall(rb"<(?:message|iq|presence) ", said)) == 2
    assert "montague.example" in stage.said[-1]
    # towards the server nothing is said of it
    assert not stage.to_server.endswith(b"</message>")


@pytest.mark.parametrize("text", INCOMING)
def test_what_comes_from_a_domain_with_a_key_passes_in_order(
    stage: Stage, text: str
) -> None:
    assert stage.server(text + "<presence from='capulet.example'/>") == b""
    assert stage.find(GOOD) == text.encode() + b"<presence from='capulet.example'/>"


@pytest.mark.parametrize(
    "text",
    [
        "<message to='nurse@capulet.example'><body>x</body></message>",
        "<message to='room@conference.capulet.example'><body>x</body></message>",
        "<message><body>x</body></message>",
        "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>",
        "<presence/>",
    ],
)
def test_own_domains_and_what_lies_below_are_exempt(stage: Stage, text: str) -> None:
    assert stage.passed(text) == text.encode()
    back = text.replace("to=", "from=")
    assert stage.server(back) == back.encode()
    assert not stage.sought


def test_what_is_known_is_not_asked_again(stage: Stage) -> None:
    assert stage.others is not None
    stage.others.learn("montague.example", GOOD)
    assert stage.passed(OUTGOING[0]) == OUTGOING[0].encode()
    assert stage.server(INCOMING[0]) == INCOMING[0].encode()
    stage.others.learn("montague.example", BAD)
    assert b"<domain-unkeyed" in returned(stage, stage.passed(OUTGOING[0]))
    assert not stage.sought


def test_directions_do_not_wait_for_each_other(stage: Stage) -> None:
    stage.client(OUTGOING[0])
    assert stage.server("<presence from='capulet.example/x'/>") != b""
    stage.find(GOOD)
    stage.server(INCOMING[0].replace("montague", "verona"))
    assert stage.passed("<presence/>") == b"<presence/>"


def test_what_waits_behind_is_asked_for_meanwhile(stage: Stage) -> None:
    """Presence of many contacts at login: their domains are not probed one by one."""
    presence = "".join(f"<presence from='a@d{n}.example/x'/>" for n in range(10))
    stage.server(presence)
    stage.server("<presence from='a@late.example/x'/>")
    assert probed(stage) == [*(f"d{n}.example" for n in range(10)), "late.example"]
    assert [one.number > 0 for one in stage.sought] == [True] + [False] * 10


def test_res_06_a_stranger_with_many_dead_domains_stops_nobody(stage: Stage) -> None:
    """Waiting costs a minute's incoming stanzas so much and no more; behind that, an
    unknown domain's stanza is dropped, and the probe goes on without it."""
    waited = 0
    for n in range(20):
        said = stage.server(f"<message from='x@d{n}.example'><body>x</body></message>")
        if said:
            assert b"<body>" not in said
            break
        stage.clock.now += 4_000
        waited += 4_000
        stage.find(Outcome(keyed=False, text="no answer", reached=False))
    assert PAUSES_MS <= waited < PAUSES_MS + 4_000
    assert probed(stage)[-1] == f"d{n}.example"
    stage.clock.now += 60_000
    assert stage.server("<message from='x@new.example'><body>x</body></message>") == b""


def test_an_answer_to_a_domain_without_a_key_is_answered_by_nobody(
    stage: Stage,
) -> None:
    """RFC 6120, 8.3.1: no error for an error, none for a result."""
    assert stage.others is not None
    stage.others.learn("montague.example", BAD)
    for text in (
        f"<iq to='{AWAY}/x' type='result' id='o1'/>",
        f"<message to='{AWAY}' type='error' id='o1'><error type='cancel'/></message>",
    ):
        sent = stage.passed(text)
        assert sent.count(b"<iq ") == 1
        said = returned(stage, sent)
        assert b"error" not in said
        assert said.count(b"<message ") == 1


@pytest.mark.parametrize(
    "to", ["a@b@c", "ju\u00adliet@capulet.example", "juliet@capulet.example/x\u200b"]
)
def test_id_12_an_address_that_servers_could_read_otherwise_is_refused(to: str) -> None:
    """Older rules map U+00AD and U+200B to nothing: the text would reach juliet."""
    stage = Stage(enforcement=Enforcement("keyless", "pass")).open()
    text = f"<message to='{to}' id='o1'><body>x</body></message>"
    assert b"<body>" not in stage.passed(text)
