"""Look-ups in PEP: what counts as an answer, and what as "no key"."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.core import directory
from proxy.core.directory import Absent, Failed, Found, Outcome
from proxy.core.questions import MOST, Answer, Questions, Refused, Result, Silence
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import Manifest, first_manifest
from proxy.keys.prekeys import PrekeyPrivate, sign_prekey
from proxy.wire import tree
from proxy.wire.stanza import Stanza
from tests.support.simulator import BOB

ROOT, DEVICE = RootPrivate.generate(), DevicePrivate.generate()
MANIFEST = first_manifest(BOB, ROOT, DEVICE, "one", 1_750_000_000_000)
PREKEY = sign_prekey(PrekeyPrivate.generate(3), DEVICE, BOB, MANIFEST.root.fingerprint)
PUBSUB = f"{{{directory.PUBSUB}}}"


class Asker:
    """Answers from a list, in order; what it was asked is kept."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str | None, Element]] = []

    def ask(
        self,
        kind: str,
        to: str | None,
        payload: Element,
        then: Callable[[Answer], None],
    ) -> None:
        self.asked.append((kind, to, payload))
        then(self._answers.pop(0))


def items(node: str, *each: Element) -> Result:
    pubsub = Element(f"{PUBSUB}pubsub")
    SubElement(pubsub, f"{PUBSUB}items", {"node": node}).extend(each)
    return Result(pubsub)


def record(manifest: Manifest = MANIFEST) -> Result:
    return items(directory.KEY, directory.record_item(manifest))


def prekeys() -> Result:
    return items(directory.PREKEY, directory.prekey_item(PREKEY, "item"))


def outcome(*answers: Answer) -> Outcome:
    got: list[Outcome] = []
    directory.look_up(Asker(*answers), BOB, BOB, got.append)
    [one] = got
    return one


def test_record_and_prekeys_are_found() -> None:
    found = outcome(record(), prekeys())
    assert isinstance(found, Found)
    assert found.manifest == MANIFEST
    assert found.prekeys == [PREKEY]


@pytest.mark.parametrize("answer", [Refused("item-not-found"), items(directory.KEY)])
def test_two_answers_alone_prove_that_there_is_no_key(answer: Answer) -> None:
    assert outcome(answer) == Absent()


@pytest.mark.parametrize(
    "answer",
    [
        Silence(),
        Result(None),
        Result(Element("{urn:x}other")),
        Result(Element(f"{PUBSUB}pubsub")),
        items("urn:other"),
        *[
            Refused(condition)
            for condition in (
                "forbidden",
                "not-allowed",
                "service-unavailable",
                "feature-not-implemented",
                "remote-server-not-found",
                "remote-server-timeout",
                "internal-server-error",
                "resource-constraint",
                "undefined-condition",
                "gone",
            )
        ],
    ],
)
def test_enc_01_everything_else_is_no_answer(answer: Answer) -> None:
    assert isinstance(outcome(answer), Failed)


def _bent(change: Callable[[str], str]) -> Result:
    item = directory.record_item(MANIFEST)
    [text] = [one for one in item.iter() if one.text]
    text.text = change(text.text or "")
    return items(directory.KEY, item)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_bent(lambda t: ""), id="empty-record"),
        pytest.param(_bent(lambda t: t[:-1]), id="cut-record"),
        pytest.param(_bent(lambda t: "x" * 60_000), id="large-record"),
        pytest.param(_bent(lambda t: "é" + t), id="not-ascii"),
        pytest.param(_bent(lambda t: t.replace("a", "b", 1)), id="changed-record"),
        pytest.param(
            record(first_manifest("eve@e.test", ROOT, DEVICE, "x", 0)),
            id="record-of-another-account",
        ),
    ],
)
def test_enc_01_bad_record_is_no_answer(answer: Answer) -> None:
    assert isinstance(outcome(answer, prekeys()), Failed)


@pytest.mark.parametrize("answer", [Silence(), Refused("forbidden"), Result(None)])
def test_prekeys_that_cannot_be_read_leave_the_record(answer: Answer) -> None:
    found = outcome(record(), answer)
    assert isinstance(found, Found)
    assert found.prekeys == []


@pytest.mark.parametrize("name", ["number", "device", "key", "signature", "everything"])
def test_one_bad_prekey_does_not_hide_the_others(name: str) -> None:
    bad = directory.prekey_item(PREKEY, "bad")
    element = bad[0]
    if name in element.attrib:
        element.set(name, "٣")
    for child in element:
        if child.tag.endswith(name):
            child.text = "AAAA" if name == "key" else "!"
    if name == "everything":
        bad.clear()
    good = directory.prekey_item(PREKEY, "good")
    found = outcome(record(), items(directory.PREKEY, bad, good))
    assert isinstance(found, Found)
    assert found.prekeys == [PREKEY]


def test_number_of_prekeys_is_bounded() -> None:
    many = [directory.prekey_item(PREKEY, str(at)) for at in range(200)]
    found = outcome(record(), items(directory.PREKEY, *many))
    assert isinstance(found, Found)
    assert len(found.prekeys) <= 64


# -- publishing -------------------------------------------------------------------


def published(*answers: Answer) -> tuple[str, Asker]:
    asker, got = Asker(*answers), list[str]()
    directory.publish(asker, directory.KEY, directory.record_item(MANIFEST), got.append)
    [condition] = got
    return condition, asker


def test_i15_refused_options_lead_to_one_configuration() -> None:
    """I15: reconfigured once, then published without options."""
    condition, asker = published(Refused("conflict"), Result(None), Result(None))
    assert condition == ""
    kinds = [payload[0].tag.partition("}")[2] for _, _, payload in asker.asked]
    assert kinds == ["publish", "configure", "publish"]
    assert len(asker.asked[2][2]) == 1


UNKNOWN_OPTION = ("resource-constraint", "bad-request", "not-acceptable")


@pytest.mark.parametrize("condition", UNKNOWN_OPTION)
def test_i15_unknown_options_lead_to_a_node_that_is_made_first(condition: str) -> None:
    """ejabberd 23.01 refuses `send_last_published_item` among them; published without
    any, the node would be open to contacts with presence only."""
    told, asker = published(Refused(condition), Result(None), Result(None))
    assert told == ""
    kinds = [payload[0].tag.partition("}")[2] for _, _, payload in asker.asked]
    assert kinds == ["publish", "create", "publish"]
    values = {
        one.get("var"): "".join(one.itertext())
        for one in asker.asked[1][2].iter("{jabber:x:data}field")
    }
    assert values["pubsub#access_model"] == "open"
    assert values["FORM_TYPE"].endswith("#node_config")
    assert len(asker.asked[2][2]) == 1


def test_i15_a_node_that_is_there_already_is_configured_instead() -> None:
    told, asker = published(
        Refused("resource-constraint"), Refused("conflict"), Result(None), Result(None)
    )
    assert told == ""
    kinds = [payload[0].tag.partition("}")[2] for _, _, payload in asker.asked]
    assert kinds == ["publish", "create", "configure", "publish"]


def test_i15_a_node_that_cannot_be_made_is_not_published_to() -> None:
    """The server would make one of its own, which contacts cannot read; so it is tried
    a few times, and then said."""
    unknown, failure = Refused("resource-constraint"), Refused("internal-server-error")
    told, asker = published(unknown, failure, failure, Result(None), Result(None))
    assert told == ""
    kinds = [payload[0].tag.partition("}")[2] for _, _, payload in asker.asked]
    assert kinds == ["publish", "create", "create", "create", "publish"]
    told, asker = published(unknown, *[failure] * 4)
    assert told == "internal-server-error"
    kinds = [payload[0].tag.partition("}")[2] for _, _, payload in asker.asked]
    assert kinds == ["publish", *["create"] * 4]
    assert published(unknown, Silence())[0] == directory.NO_ANSWER


def test_i15_what_cannot_be_published_says_so() -> None:
    assert published(Refused("forbidden"))[0] == "forbidden"
    assert published(Silence())[0] != ""
    refused = published(Refused("conflict"), Refused("forbidden"), Refused("conflict"))
    assert refused[0] == "conflict"


# -- questions --------------------------------------------------------------------


def question(questions: Questions, got: list[Answer], now: int = 0) -> Element:
    query = questions.ask(
        "get",
        BOB,
        Element("{urn:x}q"),
        senders=frozenset({BOB}),
        now=now,
        then=got.append,
    )
    assert query is not None
    return query


def answer(
    ident: str | None, sender: str, kind: str = "result", inner: str = ""
) -> Stanza:
    return Stanza.of(
        tree.parse(
            f"<iq type='{kind}' id='{ident}' from='{sender}'>{inner}</iq>".encode()
        )
    )


@pytest.mark.parametrize(
    "sender",
    ["mallory@x.test", f"{BOB}/phone", "b.test", "bob@b.test.evil", "bоb@b.test", "@"],
    ids=lambda sender: f"ID-06-{sender}",
)
@pytest.mark.parametrize("kind", ["result", "error"])
def test_id_06_another_sender_answers_nothing(sender: str, kind: str) -> None:
    questions, got = Questions(), list[Answer]()
    ident = question(questions, got).get("id")
    assert questions.take(answer(ident, sender, kind))
    assert got == []
    assert questions.take(answer(ident, BOB, inner="<a xmlns='urn:x'/>"))
    assert isinstance(got[0], Result)
    assert len(got) == 1


def test_id_06_ids_do_not_repeat_and_are_not_guessable() -> None:
    questions, got = Questions(), list[Answer]()
    ids = {question(questions, got).get("id") or "" for _ in range(100)}
    assert len(ids) == 100
    assert min(len(one) for one in ids) >= len("tillie-") + 32


def test_question_is_answered_once() -> None:
    questions, got = Questions(), list[Answer]()
    ident = question(questions, got).get("id")
    for _ in range(3):
        assert questions.take(answer(ident, BOB))
    assert got == [Result(None)]


def test_ids_of_the_client_are_left_alone() -> None:
    questions = Questions()
    assert not questions.take(answer("disco", BOB))
    assert not questions.take(answer("tillie-1", BOB, kind="get"))


def test_late_question_ends_in_silence() -> None:
    questions, got = Questions(), list[Answer]()
    question(questions, got, now=0)
    questions.expire(11_999)
    assert got == []
    questions.expire(12_000)
    assert got == [Silence()]


def test_stream_that_ends_answers_with_silence() -> None:
    questions, got = Questions(), list[Answer]()
    for _ in range(3):
        question(questions, got)
    questions.drop()
    assert got == [Silence()] * 3


def test_questions_are_bounded() -> None:
    questions, got = Questions(), list[Answer]()
    for _ in range(MOST):
        question(questions, got)
    more = questions.ask(
        "get",
        BOB,
        Element("{urn:x}q"),
        senders=frozenset({BOB}),
        now=0,
        then=got.append,
    )
    assert more is None
    assert got == [Silence()]


def test_condition_of_an_error_is_read_wherever_it_stands() -> None:
    questions, got = Questions(), list[Answer]()
    ident = question(questions, got).get("id")
    inner = (
        "<query xmlns='urn:x'/><error type='cancel'><precondition-not-met"
        " xmlns='http://jabber.org/protocol/pubsub#errors'/>"
        "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    )
    questions.take(answer(ident, BOB, "error", inner))
    assert got == [Refused("conflict")]
