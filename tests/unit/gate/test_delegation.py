"""Questions at bare JIDs that the server hands on (XEP-0355), in the form in which
Debian's Prosody (mod_delegation) and ejabberd 23.01 were seen to write them."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from proxy.wire.tree import serialise
from tests.support.asking import ADDRESS, DOMAIN, KEY, NS, STRANGER, Asking, condition
from tests.support.persons import JULIET, Person

VERSIONS = ["urn:xmpp:delegation:1", "urn:xmpp:delegation:2"]
FORWARD = "urn:xmpp:forward:0"
LOOKUP = f"<lookup xmlns='{KEY}'/>"
CLIENT = "jabber:client"


@pytest.fixture
def asking() -> Asking:
    made = Asking()
    made.vouch(Person())
    return made


def handed(
    inner: str, *, ns: str = VERSIONS[1], by: str = DOMAIN, kind: str = "set"
) -> str:
    return (
        f"<iq type='{kind}' id='outer' from='{by}' to='{ADDRESS}'><delegation xmlns='{ns}'>"
        f"<forwarded xmlns='{FORWARD}'>{inner}</forwarded></delegation></iq>"
    )


def question(
    payload: str = LOOKUP, *, to: str = JULIET, by: str = STRANGER, kind: str = "get"
) -> str:
    return f"<iq xmlns='{CLIENT}' type='{kind}' id='q' from='{by}' to='{to}'>{payload}</iq>"


def unwrapped(reply: Element, ns: str = VERSIONS[1]) -> Element:
    assert (reply.get("type"), reply.get("id")) == ("result", "outer")
    assert (reply.get("from"), reply.get("to")) == (ADDRESS, DOMAIN)
    inner = reply.find(f"{{{ns}}}delegation/{{{FORWARD}}}forwarded/{{{CLIENT}}}iq")
    assert inner is not None, serialise(reply)
    return inner


@pytest.mark.parametrize("ns", VERSIONS)
def test_the_plans_words_an_iq_to_the_bare_jid_brings_the_key(
    asking: Asking, ns: str
) -> None:
    (reply,) = asking.send(handed(question(), ns=ns))
    inner = unwrapped(reply, ns)
    assert inner.attrib == {
        "type": "result",
        "id": "q",
        "from": JULIET,
        "to": STRANGER,
    }
    assert [child.tag.partition("}")[2] for child in inner[0]] == [
        "manifest",
        "token",
        "server",
    ]


def test_absence_at_the_bare_jid(asking: Asking) -> None:
    (reply,) = asking.send(handed(question(to=f"nobody@{DOMAIN}")))
    assert unwrapped(reply)[0].tag == f"{{{KEY}}}absent"


def test_the_domain_itself(asking: Asking) -> None:
    (reply,) = asking.send(handed(question(to=DOMAIN)))
    assert [child.tag for child in unwrapped(reply)[0]] == [f"{{{KEY}}}server"]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (question(kind="set"), "service-unavailable"),
        (question("<x xmlns='urn:x'/>"), "service-unavailable"),
        (question(f"<lookup xmlns='{KEY}' jid='nurse@{DOMAIN}'/>"), "bad-request"),
        (question(to="romeo@montague.example"), "not-allowed"),
        (question(to=f"{JULIET}/balcony"), "bad-request"),
    ],
)
def test_what_is_refused_is_refused_inside(
    asking: Asking, inner: str, expected: str
) -> None:
    (reply,) = asking.send(handed(inner))
    error = unwrapped(reply).find(f"{{{CLIENT}}}error")
    assert error is not None
    assert error[0].tag.partition("}")[2] == expected


def test_a_look_up_for_the_jid_that_it_goes_to_may_name_it(asking: Asking) -> None:
    (reply,) = asking.send(handed(question(f"<lookup xmlns='{KEY}' jid='{JULIET}'/>")))
    assert unwrapped(reply)[0].tag == f"{{{KEY}}}record"


@pytest.mark.parametrize(
    "by", [STRANGER, "montague.example", JULIET, f"{DOMAIN}/x", f"sub.{DOMAIN}"]
)
def test_dir_10_only_the_own_server_hands_on(asking: Asking, by: str) -> None:
    (reply,) = asking.send(handed(question(), by=by))
    assert condition(reply) == "service-unavailable"


@pytest.mark.parametrize(
    "text",
    [
        handed(question(), kind="get"),
        handed(""),
        handed(f"<message xmlns='{CLIENT}' from='{STRANGER}' to='{JULIET}'/>"),
        handed(question(), ns="urn:xmpp:delegation:9"),
    ],
)
def test_what_is_not_of_that_form(asking: Asking, text: str) -> None:
    (reply,) = asking.send(text)
    assert condition(reply) == "service-unavailable"


def test_dir_07_the_limit_is_the_askers_not_the_servers(asking: Asking) -> None:
    for _ in range(60):
        asking.send(handed(question()))
    (reply,) = asking.send(handed(question()))
    error = unwrapped(reply).find(f"{{{CLIENT}}}error")
    assert error is not None
    assert error[0].tag.endswith("}resource-constraint")
    (reply,) = asking.send(handed(question(by="nurse@capulet.example/x")))
    assert unwrapped(reply)[0].tag == f"{{{KEY}}}record"


def test_answers_that_wait_for_one_signature_go_back_each_in_its_own_form(
    asking: Asking,
) -> None:
    asking.held = []
    asking.send(handed(question()))
    asking.send(
        f"<iq type='get' id='plain' from='{STRANGER}' to='{ADDRESS}'>"
        f"<lookup xmlns='{KEY}' jid='{JULIET}'/></iq>"
    )
    asking.let_go()
    assert asking.trace.count("sign tillie-token+jws") == 1
    first, second = sorted(asking.replies, key=lambda one: str(one.get("id")))
    assert unwrapped(first)[0].tag == f"{{{KEY}}}record"
    assert second[0].tag == f"{{{KEY}}}record"
    assert second.get("to") == STRANGER


@pytest.mark.parametrize("ns", VERSIONS)
def test_what_the_server_shows_in_its_discovery(asking: Asking, ns: str) -> None:
    for kind, shown in (("::", False), (":bare:", True)):
        node = f"{ns}{kind}{KEY}"
        (reply,) = asking.send(
            f"<iq type='get' id='d' from='{DOMAIN}' to='{ADDRESS}'><query "
            f"xmlns='http://jabber.org/protocol/disco#info' node='{node}'/></iq>"
        )
        assert reply[0].get("node") == node
        said = serialise(reply)
        assert (f"<feature var='{KEY}'/>".encode() in said) is shown
        assert (f"<value>{ADDRESS}</value>".encode() in said) is shown


def test_others_are_shown_no_such_node(asking: Asking) -> None:
    query = (
        "<query xmlns='http://jabber.org/protocol/disco#info' "
        f"node='{VERSIONS[0]}:bare:{KEY}'/>"
    )
    assert condition(asking.ask(query)) == "item-not-found"


@pytest.mark.parametrize("ns", VERSIONS)
def test_the_servers_word_on_what_it_delegates_has_no_answer(
    asking: Asking, ns: str
) -> None:
    said = f"<delegation xmlns='{ns}'><delegated namespace='{KEY}'/></delegation>"
    assert (
        asking.send(f"<message from='{DOMAIN}' to='{ADDRESS}'>{said}</message>") == []
    )


def test_the_servers_own_ping_is_answered(asking: Asking) -> None:
    assert condition(asking.ask("<ping xmlns='urn:xmpp:ping'/>", by=DOMAIN)) == ""
    assert NS in asking.replies[-1].tag
