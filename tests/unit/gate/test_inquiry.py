"""What proves to a gate that somebody elsewhere has no key (3.7, 16.2)."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from proxy.gate.inquiry import (
    KEYED_MS,
    KEYLESS_MS,
    UNPROVEN_MS,
    Finding,
    Inquiries,
    Proof,
)
from proxy.keys import tokens
from proxy.keys.documents import make_doc
from proxy.suites.entropy import token
from proxy.wire import tree
from proxy.wire.stanza import Stanza
from tests.support.persons import DAY, NOW, Person
from tests.support.signer import MemorySigner

ROMEO = "romeo@montague.example"
DOMAIN = "montague.example"
KEY = "urn:x-tillie:key:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
NS = "jabber:component:accept"
FORBIDDEN = "<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"


class Stage:
    def __init__(self) -> None:
        self.now = NOW
        self.sent: list[Element] = []
        self.told: list[Finding] = []
        self.signer = MemorySigner([DOMAIN], NOW)
        self.inquiries = Inquiries(
            "keys.capulet.example", self.sent.append, lambda: self.now
        )

    def ask(self) -> None:
        self.inquiries.ask(ROMEO, self.told.append)

    def answer(self, inner: str, *, kind: str = "result", by: str = "") -> bool:
        """The last question is answered."""
        query = self.sent[-1]
        text = (
            f"<iq type='{kind}' id='{query.get('id')}' from='{by or query.get('to')}' "
            f"to='keys.capulet.example'>{inner}</iq>"
        )
        return self.inquiries.take(Stanza.of(tree.parse(text.encode(), default=NS)))

    def items(self, inner: str) -> str:
        return f"<pubsub xmlns='{PUBSUB}'><items node='{KEY}'>{inner}</items></pubsub>"

    def absence(self, *, jid: str = ROMEO, age: int = 0) -> str:
        claims = tokens.absence_claims(jid, token(16), self.now - age)
        document = make_doc(claims, tokens.ABSENCE_TYP, self.signer.keys[DOMAIN])
        shown = self.signer.document(DOMAIN).document.document
        return (
            f"<absent xmlns='{KEY}'><document>{document}</document>"
            f"<server><document>{shown}</document></server></absent>"
        )


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.ask()
    return made


def record(person: Person) -> str:
    return f"<record xmlns='{KEY}'><manifest>{person.manifest.document}</manifest></record>"


def test_it_asks_the_bare_jid_in_the_components_name(stage: Stage) -> None:
    (query,) = stage.sent
    assert (query.get("from"), query.get("to")) == ("keys.capulet.example", ROMEO)


def test_a_record_in_its_node(stage: Stage) -> None:
    stage.answer(stage.items(f"<item id='current'>{record(Person(jid=ROMEO))}</item>"))
    assert stage.told == [Finding(Proof.KEY)]


def test_a_retired_manifest_says_that_there_is_no_key_any_more(stage: Stage) -> None:
    person = Person(jid=ROMEO)
    person.drop(person.device)
    stage.answer(stage.items(f"<item id='current'>{record(person)}</item>"))
    assert stage.told == [Finding(Proof.NONE)]


@pytest.mark.parametrize("how", ["item-not-found", "empty"])
def test_its_own_word_proves_that_there_is_none(stage: Stage, how: str) -> None:
    if how == "empty":
        stage.answer(stage.items(""))
    else:
        stage.answer(FORBIDDEN.replace("forbidden", how), kind="error")
    assert stage.told == [Finding(Proof.NONE)]
    assert len(stage.sent) == 1


@pytest.mark.parametrize("how", ["forbidden", "service-unavailable", "silence", "bad"])
def test_otherwise_the_directory_of_its_domain_is_asked(stage: Stage, how: str) -> None:
    if how == "silence":
        stage.now += 60_000
        stage.inquiries.expire()
    elif how == "bad":
        stage.answer(stage.items(f"<item><record xmlns='{KEY}'/></item>"))
    else:
        stage.answer(FORBIDDEN.replace("forbidden", how), kind="error")
    assert stage.told == []
    assert stage.sent[-1].get("to") == f"keys.{DOMAIN}"
    stage.answer(stage.absence())
    assert stage.told == [Finding(Proof.NONE)]


def test_the_directory_has_its_record(stage: Stage) -> None:
    stage.answer(FORBIDDEN, kind="error")
    stage.answer(record(Person(jid=ROMEO)))
    assert stage.told == [Finding(Proof.KEY)]


def _other_key(stage: Stage) -> str:
    good = stage.absence()
    stage.signer = MemorySigner([DOMAIN], NOW)
    shown = stage.signer.document(DOMAIN).document.document
    return good.partition("<server>")[0] + (
        f"<server><document>{shown}</document></server></absent>"
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda stage: stage.absence(jid=f"nurse@{DOMAIN}"),
        lambda stage: stage.absence(age=DAY),
        lambda stage: stage.absence(age=-DAY),
        _other_key,
        lambda stage: record(Person(jid="nurse@montague.example")),
        lambda stage: f"<absent xmlns='{KEY}'/>",
        lambda stage: f"<record xmlns='{KEY}'/>",
        lambda stage: "<x xmlns='urn:x'/>",
        lambda stage: "",
    ],
    ids=["other", "old", "future", "other-key", "foreign", "bare", "none", "x", ""],
)
def test_dir_01_what_proves_nothing(stage: Stage, answer: object) -> None:
    stage.answer(FORBIDDEN, kind="error")
    assert callable(answer)
    stage.answer(answer(stage))
    assert stage.told == [Finding(Proof.OPEN, "it answered forbidden")]


@pytest.mark.parametrize("by", ["evil.example", DOMAIN, f"{ROMEO}/x"])
def test_dir_07_an_answer_counts_from_who_was_asked(stage: Stage, by: str) -> None:
    stage.answer(stage.items(""), by=by)
    assert stage.told == []
    stage.answer(FORBIDDEN.replace("forbidden", "item-not-found"), kind="error")
    assert stage.told == [Finding(Proof.NONE)]
    # a second one comes too late
    stage.answer(stage.items(""))
    assert len(stage.told) == 1


def test_res_06_one_question_for_all_who_ask(stage: Stage) -> None:
    for _ in range(10):
        stage.ask()
    assert len(stage.sent) == 1
    stage.answer(stage.items(""))
    assert stage.told == [Finding(Proof.NONE)] * 11
    assert not stage.inquiries.pending


@pytest.mark.parametrize(
    ("inner", "kind", "lasts"),
    [
        ("record", "result", KEYED_MS),
        ("", "result", KEYLESS_MS),
        (FORBIDDEN, "error", UNPROVEN_MS),
    ],
)
def test_how_long_it_is_remembered(
    stage: Stage, inner: str, kind: str, lasts: int
) -> None:
    if inner == "record":
        inner = f"<item id='current'>{record(Person(jid=ROMEO))}</item>"
    stage.answer(stage.items(inner) if kind == "result" else inner, kind=kind)
    if kind == "error":
        stage.answer(inner, kind=kind)
    asked = len(stage.sent)
    stage.now += lasts - 1
    stage.ask()
    assert (len(stage.sent), len(stage.told)) == (asked, 2)
    stage.now += 1
    stage.ask()
    assert len(stage.sent) == asked + 1


def test_when_the_stream_is_gone_nobody_waits(stage: Stage) -> None:
    stage.inquiries.drop()
    assert not stage.inquiries.pending
    (finding,) = stage.told
    assert finding.proof is Proof.OPEN


def test_rel_27_an_answer_that_another_gate_got_is_asked_for_again(
    stage: Stage,
) -> None:
    """ejabberd gives it to any of the gates that are the same component."""
    first = stage.sent[0]
    asked = []
    for _ in range(11):
        stage.now += 1_000
        stage.inquiries.expire()
        asked.append(len(stage.sent))
    assert asked == [2, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4]
    assert {one.get("to") for one in stage.sent} == {ROMEO}
    assert len({one.get("id") for one in stage.sent}) == 4
    assert stage.told == []
    stage.answer(stage.items(""))
    assert stage.told == [Finding(Proof.NONE)]
    # the answer to the first one after all
    stage.sent.append(first)
    assert stage.answer(FORBIDDEN, kind="error")
    assert stage.told == [Finding(Proof.NONE)]
    assert not stage.inquiries.pending


def test_what_is_answered_is_not_asked_again(stage: Stage) -> None:
    stage.answer(FORBIDDEN, kind="error")
    stage.answer(stage.absence())
    sent = len(stage.sent)
    stage.now += 5_000
    stage.inquiries.expire()
    assert (len(stage.sent), stage.told) == (sent, [Finding(Proof.NONE)])


def test_silence_to_the_question_ends_it_whatever_was_repeated(stage: Stage) -> None:
    for second in range(24):
        stage.now += 1_000
        stage.inquiries.expire()
        # the node for 12 s, then the directory for as long
        assert bool(stage.told) == (second == 23), second


def test_res_06_silent_addresses_leave_room_for_others(stage: Stage) -> None:
    """Asked for again and again, a few of them would be all that can be asked."""
    for number in range(100):
        stage.inquiries.ask(f"n{number}@silent.example", lambda _: None)
    for _ in range(5):
        stage.now += 1_000
        stage.inquiries.expire()
    stage.inquiries.ask("late@montague.example", stage.told.append)
    assert stage.answer(stage.items(""))
    assert stage.told == [Finding(Proof.NONE)]
