"""Accounts that are made and removed through the gate (XEP-0077; clause 14.14)."""

from __future__ import annotations

import re
from xml.etree.ElementTree import fromstring

import pytest

from proxy.gate.policy import Policies
from proxy.gate.questions import Registered
from proxy.suites.fields import b64
from tests.support.persons import JULIET, Person, ask
from tests.unit.gate.staging import AUTH, Stage

FIELD = "urn:x-tillie:key:0#fingerprint"
GET = "<iq type='get' id='g1'><query xmlns='jabber:iq:register'/></iq>"
LEGACY = "<instructions>Choose</instructions><username/><password/>"
FORM = (
    "<x xmlns='jabber:x:data' type='form'><field type='hidden' var='FORM_TYPE'>"
    "<value>jabber:iq:register</value></field>"
    "<field type='text-single' var='username'><required/></field>"
    "<field type='text-private' var='password'><required/></field></x>"
)
DONE = "<iq type='result' id='r1'/>"
CONFLICT = (
    "<iq type='error' id='r1'><error type='cancel'>"
    "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
)


def form(inside: str, kind: str = "result") -> str:
    return f"<iq type='{kind}' id='g1'><query xmlns='jabber:iq:register'>{inside}</query></iq>"


def filled(
    person: Person,
    *,
    user: str = "juliet",
    fingerprint: bytes | None = None,
    manifest: str | None = None,
    more: str = "",
) -> str:
    root = person.fingerprint if fingerprint is None else fingerprint
    document = person.manifest.document if manifest is None else manifest
    field = f"<field var='{FIELD}'><value>{b64(root)}</value></field>" if root else ""
    shown = f"<manifest xmlns='{AUTH}'>{document}</manifest>" if document else ""
    return (
        "<iq type='set' id='r1'><query xmlns='jabber:iq:register'>"
        f"<username>{user}</username><password>pencil</password>"
        f"<x xmlns='jabber:x:data' type='submit'>{field}{more}</x>{shown}</query></iq>"
    )


def asked(stage: Stage, inside: str = LEGACY) -> bytes:
    assert stage.passed(GET) == GET.encode()
    return stage.server(form(inside))


@pytest.mark.parametrize("inside", [LEGACY, LEGACY + FORM], ids=["fields", "form"])
def test_the_form_gains_one_required_field(inside: str) -> None:
    said = asked(Stage().presented(), inside)
    query = fromstring(said.decode().replace("<iq", "<iq xmlns='jabber:client'", 1))[0]
    (x,) = query.findall("{jabber:x:data}x")
    fields = {one.get("var"): one for one in x.findall("{jabber:x:data}field")}
    assert fields[FIELD].find("{jabber:x:data}required") is not None
    assert "FORM_TYPE" in fields
    assert query.find("{jabber:iq:register}username") is not None


@pytest.mark.parametrize("inside", [LEGACY, LEGACY + FORM], ids=["fields", "form"])
def test_field_and_manifest_never_reach_the_server(inside: str) -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage, inside)
    kept = "<field var='email'><value>j@x</value></field>" if inside != LEGACY else ""
    sent = stage.passed(filled(stage.person, more=kept))
    assert b"<username>juliet</username><password>pencil</password>" in sent
    assert b"urn:x-tillie" not in sent
    assert (b"jabber:x:data" in sent) == (inside != LEGACY)
    assert (b"j@x" in sent) == (inside != LEGACY)


def test_a_form_with_nothing_else_in_it_is_left_out() -> None:
    """Prosody shows fields and a form, and reads an empty form before the fields."""
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage, LEGACY + FORM)
    assert b"jabber:x:data" not in stage.passed(filled(stage.person))


def test_the_key_is_the_account_s_first_when_the_server_says_so() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    assert not stage.keyed
    assert stage.server(DONE) == DONE.encode()
    assert stage.keyed == [JULIET]
    assert stage.passed("<iq type='get' id='x'/>") == b""


def test_the_result_waits_until_the_key_is_written_down() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    stage.held = True
    assert stage.server(DONE) == b""
    assert stage.release() == DONE.encode()


def test_a_refusal_of_the_server_forgets_the_key() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    assert stage.server(CONFLICT) == CONFLICT.encode()
    assert not stage.keyed
    assert stage.asked[-1] == Registered(JULIET, stage.person.fingerprint, done=False)


def test_a_lost_answer_is_no_other_registration() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    stage.call(stage.stream.client_lost)
    assert not stage.closed, "the server's word is waited for"
    stage.server(DONE)
    assert stage.closed
    assert stage.keyed == [JULIET]
    again = Stage(person=stage.person, registry=stage.registry).presented()
    asked(again)
    assert again.passed(filled(stage.person))
    again.server(CONFLICT)
    assert again.keyed == [JULIET]


def test_the_server_s_word_is_not_waited_for_for_ever() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    stage.call(stage.stream.client_lost)
    stage.wait(11_000)
    assert stage.closed


WRONG = {
    "no-key": lambda p: filled(p, fingerprint=b"", manifest=""),
    "no-manifest": lambda p: filled(p, manifest=""),
    "no-field": lambda p: filled(p, fingerprint=b""),
    "other-root": lambda p: filled(p, fingerprint=bytes(32)),
    "other-manifest": lambda p: filled(p, manifest=Person(JULIET).manifest.document),
    "other-account": lambda p: filled(p, user="romeo"),
    "no-account": lambda p: filled(p, user="a@b"),
    "no-jws": lambda p: filled(p, manifest="{}"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_key_that_does_not_fit_registers_nothing(wrong: object) -> None:
    stage = Stage().presented()
    asked(stage)
    assert callable(wrong)
    assert stage.passed(wrong(stage.person)) == b""
    assert b"urn:x-tillie:errors:0" in stage.to_client
    assert not stage.closed


def test_a_name_that_has_a_key_is_not_given_another() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    ask(stage.registry, Person(JULIET).vouch())
    asked(stage)
    assert stage.passed(filled(stage.person)) == b""
    assert b"<root-changed" in stage.to_client


def test_dir_11_no_registration_while_the_registry_is_away() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.away = True
    assert stage.passed(filled(stage.person)) == b""
    assert b"<resource-constraint" in stage.to_client


def test_a_person_has_time_to_fill_the_form() -> None:
    stage = Stage().presented()
    asked(stage)
    stage.wait(240_000)
    assert not stage.closed
    stage.wait(70_000)
    assert stage.closed


def test_optional_registers_without_a_key() -> None:
    stage = Stage(person=None, policies=Policies(default="optional")).at_door()
    said = asked(stage)
    assert said == form(LEGACY).encode()
    plain = filled(Person(JULIET), fingerprint=b"", manifest="")
    assert stage.passed(plain) == plain.encode()


# -- behind login --------------------------------------------------------------


REMOVE = (
    "<iq type='set' id='x1'><query xmlns='jabber:iq:register'><remove/></query></iq>"
)


def removing(stage: Stage, request: str = REMOVE) -> str:
    """Ask for the removal; the id under which the server was asked."""
    passed = stage.passed(request).decode()
    found = re.search("id=['\"]([^'\"]+)['\"]", passed)
    assert found
    return found[1]


def test_removal_leaves_a_tombstone() -> None:
    stage = Stage().open()
    asked_as = removing(stage)
    assert asked_as != "x1"
    assert stage.keyed == [JULIET]
    told = stage.server(f"<iq type='result' id='{asked_as}'/>")
    assert b"x1" in told
    assert asked_as.encode() not in told
    assert stage.keyed == []
    again = Stage(person=stage.person, registry=stage.registry).bound()
    assert b"root-changed" in again.client(again.vouch())


@pytest.mark.parametrize(
    "request_",
    [
        REMOVE.replace("set", "get"),
        REMOVE.replace("<remove/>", "<username>juliet</username><remove/>"),
        REMOVE.replace("<remove/>", "<x xmlns='u'><remove/></x>"),
    ],
)
def test_what_only_looks_like_a_removal_removes_no_key(request_: str) -> None:
    """Servers answer such queries with a result and keep the account."""
    stage = Stage().open()
    assert removing(stage, request_) == "x1"
    stage.server("<iq type='result' id='x1'/>")
    assert stage.keyed == [JULIET]


@pytest.mark.parametrize("source", ["", "from='capulet.example'", f"from='{JULIET}/a'"])
def test_a_result_under_the_clients_own_id_removes_no_key(source: str) -> None:
    """It may answer something else, or come from the client itself."""
    stage = Stage().open()
    stage.client("<iq type='get' id='x1'><ping xmlns='urn:xmpp:ping'/></iq>")
    removing(stage)
    stage.server(f"<iq type='result' id='x1' {source}/>")
    assert stage.keyed == [JULIET]


def test_a_removal_that_the_server_refused_removes_nothing() -> None:
    stage = Stage().open()
    stage.server(f"<iq type='error' id='{removing(stage)}'/>")
    assert stage.keyed == [JULIET]


@pytest.mark.parametrize("to", ["gateway.example", "romeo@capulet.example"])
def test_leaving_another_service_removes_nothing(to: str) -> None:
    stage = Stage().open()
    stage.client(
        f"<iq type='set' id='x1' to='{to}'><query xmlns='jabber:iq:register'>"
        "<remove/></query></iq>"
    )
    stage.server(f"<iq type='result' id='x1' from='{to}'/>")
    assert stage.keyed == [JULIET]


def test_a_stranger_s_result_removes_nothing() -> None:
    stage = Stage().open()
    asked_as = removing(stage)
    stage.server(f"<iq type='result' id='{asked_as}' from='mallory@evil.example'/>")
    assert stage.keyed == [JULIET]


def test_a_removal_is_written_down_though_its_client_has_gone() -> None:
    stage = Stage().open()
    asked_as = removing(stage)
    stage.call(stage.stream.client_lost)
    stage.server(f"<iq type='result' id='{asked_as}'/>")
    assert stage.keyed == []
    assert stage.closed


def test_a_password_is_changed() -> None:
    stage = Stage().open()
    change = (
        "<iq type='set' id='x1'><query xmlns='jabber:iq:register'>"
        "<username>juliet</username><password>new</password></query></iq>"
    )
    assert stage.passed(change) == change.encode()
    assert stage.server("<iq type='result' id='x1'/>")
    assert stage.keyed == [JULIET]


def test_no_password_is_in_the_log() -> None:
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    stage.client(filled(stage.person))
    stage.server(DONE)
    assert not re.search("pencil", "".join(stage.said))


@pytest.mark.parametrize(
    ("user", "more"),
    [
        ("juliet", "<field var='username'><value>bob77</value></field>"),
        ("juliet<b/>bob", ""),
        ("juliet</username><username>bob77", ""),
        (
            "juliet",
            "<field var='username'><value>juliet</value></field>"
            "<field var='username'><value>bob77</value></field>",
        ),
        (
            "juliet",
            "<field var='username'><value>juliet</value><value>b</value></field>",
        ),
        ("juliet", "</x><x xmlns='jabber:x:data' type='submit'>"),
    ],
)
def test_auth_12_a_name_that_can_be_read_in_two_ways_is_none(
    user: str, more: str
) -> None:
    """Prosody reads the form where there is one, others what stands beside it: the key
    would be kept for one account while the server makes another."""
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    assert stage.passed(filled(stage.person, user=user, more=more)) == b""
    stage.server(DONE)
    assert stage.keyed == []


def test_auth_12_an_id_that_is_waited_for_is_not_taken_twice() -> None:
    """The answer for one name would count for another."""
    stage = Stage().presented()
    assert stage.person is not None
    asked(stage)
    assert stage.passed(filled(stage.person))
    assert stage.passed(filled(stage.person)) == b""
