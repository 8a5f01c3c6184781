"""What the directory answers, and to whom (protocol.md, 16.1)."""

from __future__ import annotations

from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest

from proxy.gate.admission import answer
from proxy.gate.directory import A_MINUTE, A_MINUTE_OF_A_DOMAIN, MOST_OPEN
from proxy.gate.lookups import LARGEST
from proxy.gate.questions import Vouched
from proxy.keys import tokens
from proxy.keys.manifest import open_manifest
from proxy.keys.servers import leads_to, open_server
from proxy.wire.tree import serialise
from tests.support.asking import ADDRESS, DOMAIN, KEY, NS, STRANGER, Asking, condition
from tests.support.persons import DAY, JULIET, NOW, Person
from tests.support.signer import MemorySigner

NOBODY = f"nobody@{DOMAIN}"
RECORD = f"{{{NS}}}iq/{{{KEY}}}record"


@pytest.fixture
def asking() -> Asking:
    return Asking()


@pytest.fixture
def juliet(asking: Asking) -> Person:
    person = Person()
    asking.vouch(person)
    return person


def text(reply: Element, path: str) -> bytes:
    found = reply.findtext("/".join(f"{{{KEY}}}{name}" for name in path.split("/")))
    assert found is not None, serialise(reply)
    return found.encode()


def token_of(asking: Asking, reply: Element) -> tokens.Token:
    server = open_server(text(reply, "record/server/document"), DOMAIN)
    return tokens.open_token(text(reply, "record/token"), JULIET, server.keys)


def test_an_accounts_record_is_verified_from_the_answer_alone(
    asking: Asking, juliet: Person
) -> None:
    reply = asking.look_up(JULIET)
    manifest = open_manifest(text(reply, "record/manifest"), JULIET)
    token = token_of(asking, reply)
    assert manifest.digest == juliet.manifest.digest
    assert token.covers(manifest)
    assert token.current(asking.now)


def test_a_token_is_made_anew_when_it_is_a_day_old_and_not_before(
    asking: Asking, juliet: Person
) -> None:
    first = token_of(asking, asking.look_up(JULIET))
    asking.now += DAY - 1
    assert token_of(asking, asking.look_up(JULIET)).digest == first.digest
    asking.now += 2
    newer = token_of(asking, asking.look_up(JULIET))
    assert newer.digest != first.digest
    assert newer.issued > first.issued
    # and the registry has it, for the account's own next login
    assert token_of(asking, asking.look_up(JULIET)).digest == newer.digest
    assert asking.trace.count("sign tillie-token+jws") == 2


def test_a_record_shows_what_led_to_its_root(asking: Asking) -> None:
    """3.10: who holds the old root learns the new one from the answer alone."""
    old, new = Person(), Person()
    asking.vouch(old)
    with asking.registry.transaction():
        said = answer(
            new.vouch(rollover=old.rollover_to(new)), asking.registry, asking.now
        )
    assert isinstance(said, Vouched)
    record = asking.look_up(new.jid)[0]
    [rollover] = [one.text or "" for one in record.findall(f"{{{KEY}}}rollover")]
    roots = (old.manifest.root, new.manifest.root)
    assert leads_to(new.jid, *roots, [rollover.encode()])


def test_a_record_that_would_be_too_large_shows_less_of_its_past(
    asking: Asking,
) -> None:
    person = Person()
    asking.vouch(person)
    with asking.registry.transaction():
        held = asking.registry.account(person.jid)
        assert held is not None
        past = ("x" * 20_000, "y" * 9_000)
        asking.registry.put_account(replace(held, rollovers=past))
    record = asking.look_up(person.jid)[0]
    assert sum(map(len, record.itertext())) <= LARGEST
    assert [one.text for one in record.findall(f"{{{KEY}}}rollover")] == ["y" * 9_000]
    assert record.find(f"{{{KEY}}}server") is not None


def test_accounts_that_are_never_online_keep_a_valid_token(
    asking: Asking, juliet: Person
) -> None:
    for _ in range(30):
        asking.now += DAY
        assert token_of(asking, asking.look_up(JULIET)).current(asking.now)


def test_who_asks_at_once_waits_for_one_signature(
    asking: Asking, juliet: Person
) -> None:
    asking.held = []
    for n in range(5):
        asking.send(
            f"<iq type='get' id='{n}' from='{STRANGER}' to='{ADDRESS}'>"
            f"<lookup xmlns='{KEY}' jid='{JULIET}'/></iq>"
        )
    asking.let_go()
    assert len(asking.replies) == 5
    assert len({token_of(asking, reply).digest for reply in asking.replies}) == 1
    assert asking.trace.count("sign tillie-token+jws") == 1


def test_signed_absence(asking: Asking) -> None:
    reply = asking.look_up(NOBODY)
    server = open_server(text(reply, "absent/server/document"), DOMAIN)
    absence = tokens.open_absence(text(reply, "absent/document"), NOBODY, server.keys)
    assert absence.current(asking.now)


def test_an_absence_is_not_shown_any_more_once_there_is_a_key(asking: Asking) -> None:
    assert asking.look_up(JULIET).find(f"{{{KEY}}}absent") is not None
    asking.vouch(Person())
    assert asking.look_up(JULIET).find(f"{{{KEY}}}record") is not None


def test_an_absence_has_half_an_hour_to_go_at_least(asking: Asking) -> None:
    for _ in range(10):
        asking.now += 10 * 60_000
        reply = asking.look_up(NOBODY)
        server = open_server(text(reply, "absent/server/document"), DOMAIN)
        absence = tokens.open_absence(
            text(reply, "absent/document"), NOBODY, server.keys
        )
        assert absence.expires - asking.now >= 29 * 60_000
    assert asking.trace.count("sign tillie-absence+jws") == 4


def _shape(element: Element) -> object:
    return element.tag, sorted(element.attrib), [_shape(child) for child in element]


def test_dir_08_auth_16_unknown_and_keyless_get_one_answer_in_the_same_steps() -> None:
    """The registry knows an account only by its key: a name that the server has and
    one that it has not are the same to it, and so are a removed account's."""
    answers = []
    for name in ("keyless", "unknown"):
        asking = Asking()
        reply = asking.look_up(f"{name}@{DOMAIN}")
        answers.append((_shape(reply), asking.trace))
        again = asking.look_up(f"{name}@{DOMAIN}")
        answers.append((_shape(again), asking.trace[: len(answers[0][1])]))
    assert answers.count(answers[0]) == len(answers)


@pytest.mark.parametrize("jid", [DOMAIN, f"conference.{DOMAIN}", ADDRESS])
def test_domain_and_components_have_the_domains_key(asking: Asking, jid: str) -> None:
    reply = asking.look_up(jid)
    (record,) = reply
    assert [child.tag for child in record] == [f"{{{KEY}}}server"]
    open_server(text(reply, "record/server/document"), DOMAIN)


@pytest.mark.parametrize(
    "jid",
    [
        "romeo@montague.example",
        "montague.example",
        "example",
        f"evil{DOMAIN}",
        f"room@conference.{DOMAIN}",
        "other.capulet.example",
    ],
)
def test_dir_10_it_answers_for_nobody_elses_addresses(jid: str) -> None:
    asking = Asking(siblings=frozenset({"other.capulet.example"}))
    assert condition(asking.look_up(jid)) == "not-allowed"
    assert asking.trace == ["reply"]


@pytest.mark.parametrize(
    ("jid", "expected"),
    [
        ("", "jid-malformed"),
        ("@capulet.example", "jid-malformed"),
        ("juliet@@capulet.example", "jid-malformed"),
        ("ju liet@capulet.example", "jid-malformed"),
        (f"{JULIET}/balcony", "bad-request"),
    ],
)
def test_an_address_that_is_none(asking: Asking, jid: str, expected: str) -> None:
    assert condition(asking.look_up(jid)) == expected


def test_an_address_is_prepared_before_it_is_looked_up(
    asking: Asking, juliet: Person
) -> None:
    token_of(asking, asking.look_up("JULIET@Capulet.Example"))


def test_dir_07_res_06_one_asker_has_sixty_questions_a_minute(asking: Asking) -> None:
    asked = [
        condition(asking.look_up(f"a{n}@{DOMAIN}", by=f"{STRANGER}{n}"))
        for n in range(100)
    ]
    assert asked.count("") == A_MINUTE
    assert set(asked[A_MINUTE:]) == {"resource-constraint"}
    asking.now += 60_000
    assert condition(asking.look_up(NOBODY)) == ""


def test_dir_07_one_domain_has_six_hundred(asking: Asking) -> None:
    asked = [
        condition(
            asking.ask("<ping xmlns='urn:xmpp:ping'/>", by=f"u{n}@montague.example/x")
        )
        for n in range(A_MINUTE_OF_A_DOMAIN + 10)
    ]
    assert asked.count("") == A_MINUTE_OF_A_DOMAIN
    assert set(asked[A_MINUTE_OF_A_DOMAIN:]) == {"resource-constraint"}
    # others and the own people are not the worse for it
    assert condition(asking.look_up(NOBODY, by="tybalt@verona.example/x")) == ""
    assert condition(asking.look_up(NOBODY, by=f"nurse@{DOMAIN}/x")) == ""


def test_dir_07_what_waits_is_bounded(asking: Asking) -> None:
    asking.held = []
    for n in range(MOST_OPEN + 5):
        asking.send(
            f"<iq type='get' id='{n}' from='u{n}@{DOMAIN}/x' to='{ADDRESS}'>"
            f"<lookup xmlns='{KEY}' jid='a{n}@{DOMAIN}'/></iq>"
        )
    assert [condition(reply) for reply in asking.replies] == ["resource-constraint"] * 5
    asking.signer.away = True
    asking.let_go()
    asking.signer.away = False
    assert condition(asking.look_up(NOBODY)) == ""


def test_dir_07_a_look_up_never_leads_to_another(asking: Asking) -> None:
    """Whatever comes in, nothing goes out but one answer to who asked."""
    asking.look_up(JULIET)
    asking.look_up("romeo@montague.example")
    assert {reply.get("to") for reply in asking.replies} == {STRANGER}
    assert {reply.get("type") for reply in asking.replies} <= {"result", "error"}


def test_discovery_names_the_feature_and_lists_nobody(
    asking: Asking, juliet: Person
) -> None:
    info = asking.ask("<query xmlns='http://jabber.org/protocol/disco#info'/>")
    assert f"var='{KEY}'".encode() in serialise(info)
    items = asking.ask("<query xmlns='http://jabber.org/protocol/disco#items'/>")
    assert len(items[0]) == 0
    for what in ("info", "items"):
        query = f"<query xmlns='http://jabber.org/protocol/disco#{what}' node='x'/>"
        assert condition(asking.ask(query)) == "item-not-found"


@pytest.mark.parametrize(
    ("payload", "kind", "expected"),
    [
        ("<ping xmlns='urn:xmpp:ping'/>", "get", ""),
        ("<query xmlns='jabber:iq:version'/>", "get", "service-unavailable"),
        ("<query xmlns='jabber:iq:register'/>", "set", "service-unavailable"),
        (f"<lookup xmlns='{KEY}' jid='{NOBODY}'/>", "set", "service-unavailable"),
        ("", "get", "bad-request"),
        ("<a xmlns='u'/><b xmlns='u'/>", "get", "bad-request"),
    ],
)
def test_other_questions(
    asking: Asking, payload: str, kind: str, expected: str
) -> None:
    assert condition(asking.ask(payload, kind=kind)) == expected


@pytest.mark.parametrize("to", [f"x@{ADDRESS}", f"{ADDRESS}/x", "other.example"])
def test_nobody_else_lives_there(asking: Asking, to: str) -> None:
    query = f"<lookup xmlns='{KEY}' jid='{NOBODY}'/>"
    assert condition(asking.ask(query, to=to)) == "service-unavailable"


@pytest.mark.parametrize(
    "stanza",
    [
        f"<presence from='{STRANGER}' to='{ADDRESS}' type='subscribe'/>",
        f"<presence from='{STRANGER}' to='{ADDRESS}' type='probe'/>",
        f"<presence from='{STRANGER}' to='{ADDRESS}'/>",
        f"<iq from='{STRANGER}' to='{ADDRESS}' type='result' id='x'/>",
        f"<iq from='{STRANGER}' to='{ADDRESS}' type='error' id='x'><error/></iq>",
        f"<message from='{STRANGER}' to='{ADDRESS}' type='error'><error/></message>",
        f"<iq to='{ADDRESS}' type='get' id='x'><ping xmlns='urn:xmpp:ping'/></iq>",
        f"<iq from='a@b@c' to='{ADDRESS}' type='get' id='x'><ping xmlns='urn:xmpp:ping'/></iq>",
    ],
)
def test_dir_14_no_answer_at_all(asking: Asking, stanza: str) -> None:
    assert asking.send(stanza) == []


def test_a_message_is_returned_without_what_it_said(asking: Asking) -> None:
    (reply,) = asking.send(
        f"<message from='{STRANGER}' to='{ADDRESS}'><body>secret</body></message>"
    )
    assert condition(reply) == "service-unavailable"
    assert b"secret" not in serialise(reply)


@pytest.mark.parametrize("known", [True, False], ids=["account", "nobody"])
def test_rel_29_the_registry_is_away(known: bool) -> None:
    asking = Asking()
    if known:
        asking.vouch(Person())
    asking.registry_away = True
    assert condition(asking.look_up(JULIET)) == "internal-server-error"
    asking.registry_away = False
    assert condition(asking.look_up(JULIET)) == ""


def test_the_signing_process_is_away(asking: Asking, juliet: Person) -> None:
    """A token that is still valid is shown; where nothing is signed, nothing is said."""
    first = token_of(asking, asking.look_up(JULIET))
    asking.signer.away = True
    asking.now += 2 * DAY
    assert token_of(asking, asking.look_up(JULIET)).digest == first.digest
    assert condition(asking.look_up(NOBODY)) == "internal-server-error"
    asking.now += 6 * DAY
    assert condition(asking.look_up(JULIET)) == "internal-server-error"
    asking.signer.away = False
    assert token_of(asking, asking.look_up(JULIET)).current(asking.now)


def test_after_a_change_of_the_domains_key_nothing_of_the_old_one_is_shown(
    asking: Asking, juliet: Person
) -> None:
    token_of(asking, asking.look_up(JULIET))
    asking.look_up(NOBODY)
    asking.signer = MemorySigner([DOMAIN], NOW)
    assert token_of(asking, asking.look_up(JULIET)).current(asking.now)
    reply = asking.look_up(NOBODY)
    server = open_server(text(reply, "absent/server/document"), DOMAIN)
    tokens.open_absence(text(reply, "absent/document"), NOBODY, server.keys)


def test_dir_01_a_token_by_another_key_than_is_shown_goes_to_nobody(
    asking: Asking, juliet: Person
) -> None:
    asking.shown = MemorySigner([DOMAIN], NOW).document(DOMAIN)
    assert condition(asking.look_up(JULIET)) == "internal-server-error"
