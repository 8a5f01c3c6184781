"""Views of stanzas, and error answers."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.wire.framing import AFTER_LOGIN, Framer, Received
from proxy.wire.stanza import Stanza, error_reply, stream_error
from proxy.wire.tree import parse, serialise

from .streams import HEADER

CHAT = b"<message from='a@a.test/x' to='b@b.test' id='1' type='chat'><body>CANARY</body></message>"


def received(data: bytes) -> Stanza:
    event = Framer(AFTER_LOGIN).feed(HEADER + data)[1]
    assert isinstance(event, Received)
    return event.stanza


def test_received_stanza_leaves_as_it_came() -> None:
    stanza = received(CHAT)
    assert stanza.raw == CHAT
    assert stanza.to_bytes() is stanza.raw
    assert (stanza.to, stanza.from_) == ("b@b.test", "a@a.test/x")
    assert (stanza.id, stanza.type) == ("1", "chat")
    assert stanza.is_stanza


def test_tree_is_parsed_once() -> None:
    stanza = received(CHAT)
    tree = stanza.tree()
    assert tree.findtext("{jabber:client}body") == "CANARY"
    assert stanza.tree() is tree


def test_tree_of_our_own_is_written_when_asked() -> None:
    tree = parse(CHAT)
    stanza = Stanza.of(tree)
    assert stanza.raw is None
    assert stanza.tree() is tree
    assert stanza.children == ("{jabber:client}body",)
    assert stanza.to_bytes() == CHAT
    assert stanza.raw == CHAT


def test_absent_attributes_are_none() -> None:
    stanza = received(b"<presence/>")
    assert (stanza.to, stanza.from_, stanza.id, stanza.type) == (None,) * 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<iq/>", True),
        (b"<presence/>", True),
        (b"<Message/>", False),
        (b"<message xmlns='jabber:server'/>", False),
        (b"<r xmlns='urn:xmpp:sm:3'/>", False),
        (b"<message xmlns=''/>", False),
    ],
)
def test_is_stanza_by_namespace_and_name(data: bytes, expected: bool) -> None:
    assert received(data).is_stanza is expected


def test_repr_tells_no_content() -> None:
    assert "CANARY" not in repr(received(CHAT))
    assert "b.test" not in repr(received(CHAT))


def test_error_reply() -> None:
    reply = error_reply(received(CHAT), "not-acceptable", "there is no key <yet>")
    assert serialise(reply) == (
        b"<message type='error' from='b@b.test' to='a@a.test/x' id='1'>"
        b"<error type='cancel'>"
        b"<not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        b"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>"
        b"there is no key &lt;yet&gt;</text></error></message>"
    )


def test_id_19_error_reply_echoes_nothing() -> None:
    assert b"CANARY" not in serialise(error_reply(received(CHAT), "gone", "x"))


def test_error_reply_says_only_what_is_known() -> None:
    reply = error_reply(received(b"<iq/>"), "wait", "", kind="wait", from_="a.test")
    assert reply.attrib == {"type": "error", "from": "a.test"}
    assert [child.tag.rpartition("}")[2] for child in reply[0]] == ["wait"]


def test_no_error_for_an_error() -> None:
    with pytest.raises(ValueError, match="error"):
        error_reply(received(b"<message type='error'/>"), "gone", "x")


def test_error_text_may_quote_anything() -> None:
    reply = error_reply(received(CHAT), "gone", "a\0b\ud800")
    assert "a\ufffdb\ufffd" in serialise(reply).decode()


def test_stream_error_is_read_by_a_framer() -> None:
    data = stream_error("policy-violation", "it's <too> long\x07")
    assert data.startswith(b"<stream:error><policy-violation xmlns='urn:ietf:")
    _, event, _closed = Framer(AFTER_LOGIN).feed(HEADER + data)
    assert isinstance(event, Received)
    error = event.stanza.tree()
    assert error.tag == "{http://etherx.jabber.org/streams}error"
    assert error[1].text == "it's <too> long\ufffd"
    assert b"<text" not in stream_error("reset", "")


def test_wrapping_keeps_attributes_from_change() -> None:
    element = Element("{jabber:client}iq", {"id": "1"})
    SubElement(element, "x")
    attrs = Stanza.of(element).attrs
    with pytest.raises(TypeError):
        attrs["id"] = "2"  # type: ignore[index]
