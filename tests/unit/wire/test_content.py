"""Streams with another content namespace than a client's (RFC 6120, 4.8.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.wire.framing import (
    AFTER_LOGIN,
    COMPONENT_NS,
    SERVER_NS,
    Broken,
    Closed,
    Framer,
    Opened,
    Received,
)
from proxy.wire.stanza import error_reply
from proxy.wire.tree import serialise

from .streams import CHUNKINGS, HEADER

IQ = b"<iq type='get' id='1' from='a@a.test/x' to='keys.b.test'><ping xmlns='urn:xmpp:ping'/></iq>"


def header(content: str) -> bytes:
    return HEADER.replace(b"jabber:client", content.encode())


@pytest.mark.parametrize("content", [COMPONENT_NS, SERVER_NS])
@pytest.mark.parametrize("cut", CHUNKINGS.values(), ids=CHUNKINGS)
def test_stanzas_are_of_the_streams_namespace(
    content: str, cut: Callable[[bytes], list[bytes]]
) -> None:
    framer = Framer(AFTER_LOGIN, content=content)
    data = header(content) + b" " + IQ + b"<handshake/>" + b"</stream:stream>"
    events = [event for piece in cut(data) for event in framer.feed(piece)]
    opened, iq, handshake, closed = events
    assert isinstance(opened, Opened)
    assert opened.default_ns == content
    assert isinstance(iq, Received)
    assert (iq.stanza.ns, iq.stanza.name, iq.stanza.id) == (content, "iq", "1")
    assert iq.stanza.children == ("{urn:xmpp:ping}ping",)
    assert iq.stanza.tree().tag == f"{{{content}}}iq"
    assert iq.stanza.raw is None
    assert isinstance(handshake, Received)
    assert handshake.stanza.ns == content
    assert isinstance(closed, Closed)


@pytest.mark.parametrize("content", [COMPONENT_NS, SERVER_NS])
def test_xml_30_a_client_stanza_on_it_is_not_taken_for_one_of_its_own(
    content: str,
) -> None:
    framer = Framer(AFTER_LOGIN, content=content)
    events = framer.feed(header(content) + b"<iq xmlns='jabber:client' id='1'/>")
    received = events[-1]
    assert isinstance(received, Received)
    assert received.stanza.ns == "jabber:client"


@pytest.mark.parametrize("content", [COMPONENT_NS, SERVER_NS])
def test_xml_30_another_content_namespace_ends_it(content: str) -> None:
    (broken,) = Framer(AFTER_LOGIN, content=content).feed(HEADER)
    assert isinstance(broken, Broken)
    assert broken.condition == "invalid-namespace"


def test_an_error_is_of_the_namespace_of_what_it_answers() -> None:
    events = Framer(AFTER_LOGIN, content=COMPONENT_NS).feed(header(COMPONENT_NS) + IQ)
    assert isinstance(events[1], Received)
    reply = error_reply(events[1].stanza, "service-unavailable", "no")
    assert b"xmlns='jabber:" not in serialise(reply, inherited=COMPONENT_NS)
