"""Our side of a component stream (XEP-0114)."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.core.vocabulary import Close, Ended, Incoming, Send
from proxy.errors import EnvFault, LocalFault, PeerFault
from proxy.gate.componentleg import ComponentLeg, ComponentOutput, Ready
from proxy.wire.stanza import error_reply
from tests.unit.wire.streams import CHUNKINGS

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream="
    b"'http://etherx.jabber.org/streams' xmlns='jabber:component:accept' "
    b"from='keys.capulet.example' id='3BF96D32'>"
)
IQ = b"<iq type='get' id='1' from='a@a.test/x' to='keys.capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>"


def leg() -> ComponentLeg:
    made = ComponentLeg("keys.capulet.example", b"test")
    (header,) = made.connected()
    assert isinstance(header, Send)
    assert b"to='keys.capulet.example'>" in header.data
    return made


def ready() -> ComponentLeg:
    made = leg()
    made.data(HEADER)
    assert made.data(b"<handshake/>") == [Ready()]
    return made


def sent(outputs: list[ComponentOutput]) -> bytes:
    return b"".join(one.data for one in outputs if isinstance(one, Send))


def ended(outputs: list[ComponentOutput]) -> Ended:
    (end,) = [one for one in outputs if isinstance(one, Ended)]
    return end


def test_the_handshake_is_xep_0114s_own_example() -> None:
    # XEP-0114, example 3: the digest of "3BF96D32" and "test"
    assert sent(leg().data(HEADER)) == (
        b"<handshake>aaee83c26aeeafcbabeabfcbcd50df997e0a2a1e</handshake>"
    )


@pytest.mark.parametrize("cut", CHUNKINGS.values(), ids=CHUNKINGS)
def test_stanzas_come_out_however_they_are_cut(
    cut: Callable[[bytes], list[bytes]],
) -> None:
    made = leg()
    outputs = []
    for piece in cut(HEADER + b"<handshake></handshake>" + IQ + b"\n" + IQ):
        outputs += made.data(piece)
    kinds = [type(one) for one in outputs]
    assert kinds == [Send, Ready, Incoming, Incoming]


def test_nothing_is_taken_for_a_stanza_before_the_handshake_is() -> None:
    made = leg()
    made.data(HEADER)
    outputs = made.data(IQ)
    assert isinstance(ended(outputs).fault, PeerFault)
    assert not [one for one in outputs if isinstance(one, Incoming)]
    assert made.data(b"<handshake/>" + IQ) == []


def test_a_refusal_says_what_to_do() -> None:
    made = leg()
    made.data(HEADER)
    end = ended(
        made.data(
            b"<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            b"</stream:error></stream:stream>"
        )
    )
    assert isinstance(end.fault, EnvFault)
    assert end.fault.condition == "not-authorized"
    assert "secret" in end.fault.hint


@pytest.mark.parametrize(
    "data",
    [
        HEADER.replace(b"id='3BF96D32'", b""),
        HEADER.replace(b"jabber:component:accept", b"jabber:client"),
        HEADER + b"<handshake>&x;</handshake>",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        HEADER + b"<handshake>" + b"x" * 20_000,
    ],
    ids=["no-id", "a-client-port", "not-xml", "not-xmpp", "endless"],
)
def test_a_server_that_is_none_ends_it(data: bytes) -> None:
    made = leg()
    outputs = made.data(data)
    assert made.over
    assert ended(outputs).fault is not None
    assert Close() in outputs


def test_res_15_a_strangers_stanza_over_the_limits_is_left_out() -> None:
    made = ready()
    deep = b"<x>" * 100 + b"</x>" * 100
    outputs = made.data(b"<message from='x@x.test'>" + deep + b"</message>" + IQ)
    assert [type(one) for one in outputs] == [Incoming]


@pytest.mark.parametrize(
    "element",
    [b"<iq xmlns='jabber:client' id='1' type='get'/>", b"<route to='x'/>"],
)
def test_xml_30_what_is_no_stanza_of_this_stream_is_passed_over(
    element: bytes,
) -> None:
    assert ready().data(element) == []


def test_a_clients_stanza_is_put_into_the_streams_namespace() -> None:
    made = ready()
    iq = Element("{jabber:client}iq", {"type": "get", "id": "1", "to": "x@x.test"})
    SubElement(iq, "{urn:x}y")
    assert sent(made.send(iq)) == (
        b"<iq type='get' id='1' to='x@x.test'><y xmlns='urn:x'/></iq>"
    )
    (incoming,) = made.data(IQ)
    assert isinstance(incoming, Incoming)
    reply = error_reply(incoming.stanza, "service-unavailable", "")
    assert b"jabber:client" not in sent(made.send(reply))


def test_nothing_is_sent_but_stanzas_on_a_stream_that_is_ready() -> None:
    iq = Element("{jabber:client}iq")
    with pytest.raises(LocalFault):
        leg().send(iq)
    with pytest.raises(LocalFault):
        ready().send(Element("{jabber:client}handshake"))


def test_an_orderly_end_and_a_cut() -> None:
    made = ready()
    assert made.close() == [Send(b"</stream:stream>"), Close(), Ended(None)]
    assert made.lost() == []
    made = ready()
    (end,) = made.lost()
    assert isinstance(end, Ended)
    assert end.fault is not None
    made = ready()
    outputs = made.data(b"</stream:stream>")
    assert sent(outputs) == b"</stream:stream>"
    assert ended(outputs).fault is not None
