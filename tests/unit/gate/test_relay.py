"""An open stream: what passes, byte for byte and stanza for stanza (clause 17)."""

from __future__ import annotations

import re
from xml.etree.ElementTree import fromstring

import pytest

from proxy.core.streams import SASL, TLS
from proxy.wire.framing import Framer, Limits, Received
from tests.unit.gate.staging import AUTH, DOMAIN, Stage, ended

SM = "urn:xmpp:sm:3"
PASSING = [
    "<message to='romeo@montague.example' id=\"1\"><body>&#x27;a&amp;\r\nb</body ></message>",
    "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>",
    "<presence/>",
    f"<r xmlns='{SM}'/>",
    f"<a xmlns='{SM}' h='4294967295'/>",
    "<active xmlns='urn:xmpp:csi:0'/>",
    "<x:y xmlns:x='urn:unknown' a='&lt;'/>",
    "<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>",
    "<message><body><![CDATA[<x>]]></body></message>",
]


@pytest.mark.parametrize("stanza", PASSING)
def test_what_no_rule_changes_passes_byte_for_byte(stanza: str) -> None:
    stage = Stage().open()
    assert stage.passed(stanza) == stanza.encode()
    assert stage.server(stanza) == stanza.encode()


@pytest.mark.parametrize("stanza", PASSING)
def test_behind_a_quiet_time_too(stanza: str) -> None:
    stage = Stage().open()
    for _ in range(3):
        stage.stream.rest()
    assert stage.passed(stanza) == stanza.encode()
    assert stage.server(stanza) == stanza.encode()


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_however_it_is_cut(cut: int) -> None:
    stage = Stage().open()
    data = "".join(PASSING).encode()
    before = len(stage.to_server)
    for at in range(0, len(data), cut):
        stage.client(data[at : at + cut])
    assert stage.to_server[before:] == data


@pytest.mark.parametrize(
    "sent",
    [
        f"<auth xmlns='{SASL}' mechanism='PLAIN'>AAAA</auth>",
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>",
        f"<starttls xmlns='{TLS}'/>",
    ],
)
def test_auth_15_no_second_login(sent: str) -> None:
    stage = Stage().open()
    assert stage.passed(sent) == b""
    assert ended(stage.to_client, "not-authorized")


def test_auth_15_no_success_from_a_server_that_was_not_asked() -> None:
    stage = Stage().open()
    assert ended(stage.server(f"<success xmlns='{SASL}'/>"), "internal-server-error")


def test_the_server_cannot_speak_as_the_gate() -> None:
    stage = Stage().open()
    assert stage.server(f"<vouched xmlns='{AUTH}'><token>x</token></vouched>") == b""
    assert not stage.closed


def test_nothing_of_the_gate_s_reaches_the_server() -> None:
    stage = Stage().open()
    assert stage.passed(f"<wanted xmlns='{AUTH}'/>") == b""
    assert stage.closed


@pytest.mark.parametrize(
    "stanza",
    [
        "<message to='a@b' from='c@d' type='chat' id='m1'>{}</message>",
        "<presence from='c@d'>{}</presence>",
        "<iq type='result' from='c@d' id='i1'>{}</iq>",
        "<iq type='error' from='c@d' id='i1'>{}</iq>",
        "<iq type='set' from='c@d' id='i1'>{}</iq>",
    ],
)
def test_res_15_a_stanza_over_the_limits_is_replaced_by_one(stanza: str) -> None:
    """XEP-0198 counts the same on both sides, and an iq still gets its answer."""
    stage = Stage().open()
    said = stage.server(stanza.format("<x>" + "y" * 300_000 + "</x>") + "<presence/>")
    events = [e for e in _framed(said) if isinstance(e, Received)]
    assert len(events) == 2
    assert len(said) < 500
    replaced = events[0].stanza
    if stanza.startswith("<iq"):
        assert (replaced.name, replaced.id) == ("iq", "i1")
    else:
        assert (replaced.name, replaced.from_) == ("message", DOMAIN)
        assert not replaced.tree().findall("{jabber:client}body")
    assert "left out" in stage.said[-1]
    assert not stage.closed


def test_xml_38_a_client_s_stanza_over_the_limits_ends_its_stream() -> None:
    stage = Stage().open()
    assert ended(stage.client("<message><body>" + "y" * 300_000), "policy-violation")


# -- refusing without losing count ---------------------------------------------


def refused(stage: Stage, stanza: str) -> tuple[str, bytes]:
    """Refuse a stanza as enforcement does: the ping that goes out, and what the
    client gets for its answer."""
    before = len(stage.to_server)
    (event,) = _framed(stanza.encode())[1:]
    assert isinstance(event, Received)
    stage.call(
        stage.stream._relay.refuse, event.stanza, "policy-violation", "clear-refused"
    )
    ping = stage.to_server[before:].decode()
    found = re.search(r"id='([^']*)'", ping)
    assert found is not None
    return found[1], stage.server(
        f"<iq type='result' id='{found[1]}' from='{DOMAIN}'/>"
    )


@pytest.mark.parametrize("kind", ["message", "presence", "iq"])
def test_what_is_refused_is_one_stanza_each_way(kind: str) -> None:
    stage = Stage().open()
    attributes = "to='romeo@montague.example' id='m&lt;1' type='chat'"
    _, said = refused(stage, f"<{kind} {attributes}><body>secret</body></{kind}>")
    error = fromstring(
        said.replace(
            b"<" + kind.encode(), b"<" + kind.encode() + b" xmlns='jabber:client'", 1
        )
    )
    assert error.tag == f"{{jabber:client}}{kind}"
    assert error.attrib == {
        "type": "error",
        "id": "m<1",
        "from": "romeo@montague.example",
        "to": "juliet@capulet.example/r",
    }
    assert b"<clear-refused xmlns='urn:x-tillie:errors:0'/>" in said
    assert b"secret" not in stage.to_server
    assert b"secret" not in said


def test_a_refusal_survives_a_resumption_elsewhere() -> None:
    """Nothing is remembered: the ping's answer says what to answer."""
    first = Stage().open()
    ident, _ = refused(first, "<message to='a@b' id='m1'/>")
    other = Stage().open()
    said = other.server(f"<iq type='error' id='{ident}' from='{DOMAIN}'/>")
    assert b"id='m1'" in said
    assert b"<clear-refused" in said


def test_two_refusals_have_two_ids() -> None:
    stage = Stage().open()
    idents = {refused(stage, "<message to='a@b' id='m1'/>")[0] for _ in range(3)}
    assert len(idents) == 3


def test_an_endless_address_does_not_make_an_endless_id() -> None:
    stage = Stage().open()
    ident, said = refused(stage, f"<message to='{'x' * 3000}@b' id='m1'/>")
    assert len(ident) < 300
    assert b"<clear-refused" in said


@pytest.mark.parametrize(
    "mark", ["tillie-gate-", "tillie-gate-AAAA", "tillie-gate-W10"]
)
def test_an_answer_with_a_made_up_mark_passes(mark: str) -> None:
    stage = Stage().open()
    answer = f"<iq type='result' id='{mark}' from='{DOMAIN}'/>"
    assert stage.server(answer) == answer.encode()


def test_a_stranger_s_answer_refuses_nothing() -> None:
    stage = Stage().open()
    ident, _ = refused(stage, "<message to='a@b' id='m1'/>")
    answer = f"<iq type='result' id='{ident}' from='mallory@evil.example'/>"
    assert stage.server(answer) == answer.encode()


def _framed(data: bytes) -> list[object]:
    framer = Framer(Limits(stanza=400_000, hard=400_000, depth=64))
    header = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    return list(framer.feed(header + data))
