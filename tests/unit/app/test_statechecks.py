"""What `tillie gate check` makes of what the gates of a domain say of themselves."""

from __future__ import annotations

from dataclasses import replace

from proxy.app.checking import Place
from proxy.app.statechecks import State, findings
from tests.support.persons import NOW

from ..gate.staging import DOMAIN, server_document

WEEK = NOW + 7 * 24 * 3600 * 1000
DOCUMENT = replace(server_document(DOMAIN), directory=f"keys.{DOMAIN}")
ONE = Place("one", "192.0.2.1", 5222, direct=False)
TWO = Place("two", "192.0.2.2", 5222, direct=False)


def told(*states: State) -> dict[str, tuple[bool | None, str]]:
    return {one.check: (one.ok, one.text) for one in findings(DOCUMENT, states, NOW)}


def test_of_several_gates_one_is_the_directory() -> None:
    """Prosody takes one component of a name (docs/gate.md, several gates)."""
    found = told(State(ONE, "away", WEEK), State(TWO, "answering", WEEK + 1))
    ok, text = found["directory"]
    assert ok
    assert text == f"directory answering; another gate than the one at {ONE.name}"
    assert found["tokens"][0]


def test_one_gate_that_cannot_sign_is_a_failure_where_the_other_can() -> None:
    found = findings(
        DOCUMENT, [State(ONE, "answering", 0), State(TWO, "answering", WEEK)], NOW
    )
    assert [(one.ok, one.where) for one in found if one.check == "tokens"] == [
        (False, ONE.name)
    ]


def test_who_asks_too_often_has_tried_nothing() -> None:
    found = told(State(ONE, unasked="too many questions"))
    assert found["directory"] == (None, "the gate does not say: too many questions")
    assert found["tokens"][0] is None


def test_a_wrong_answer_is_a_failure() -> None:
    found = told(State(ONE, fault="it signed for another domain"))
    assert found["directory"][0] is False
    assert "signed for another domain" in found["tokens"][1]


def test_tokens_are_over_with_the_domains_key() -> None:
    assert told(State(ONE, "answering", NOW - 1))["tokens"][0] is False


def test_without_a_proof_nothing_is_believed() -> None:
    found = findings(None, [State(ONE, "answering", WEEK)], NOW)
    assert [one.ok for one in found] == [None, None]


def test_a_domain_without_a_directory_is_told_so() -> None:
    found = findings(server_document(DOMAIN), [State(ONE, "none", WEEK)], NOW)
    assert found[0].ok is False
    assert "names none" in found[0].text
