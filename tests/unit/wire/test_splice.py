"""Children taken out and put in; every other byte stays."""

from __future__ import annotations

import pytest

from proxy.wire.framing import Framer, Limits, Received
from proxy.wire.splice import spliced
from proxy.wire.stanza import Stanza

HEADER = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
LIMITS = Limits(stanza=10_000, hard=10_000, depth=32)
DROP = {"{urn:b}b"}
ADDED = b"<n xmlns='urn:n'/>"


def framed(data: str, header: bytes = HEADER) -> Stanza:
    received = Framer(LIMITS).feed(header + data.encode())[1]
    assert isinstance(received, Received)
    return received.stanza


@pytest.mark.parametrize(
    ("given", "dropped", "added"),
    [
        ("<f/>", "<f/>", "<f><n xmlns='urn:n'/></f>"),
        ("<f a='/>'/>", "<f a='/>'/>", "<f a='/>'><n xmlns='urn:n'/></f>"),
        ("<f></f>", "<f></f>", "<f><n xmlns='urn:n'/></f>"),
        ("<f><a/></f>", "<f><a/></f>", "<f><a/><n xmlns='urn:n'/></f>"),
        ("<f><b xmlns='urn:b'/></f>", "<f></f>", "<f><n xmlns='urn:n'/></f>"),
        (
            "<f >\n<a>&lt;</a ><b xmlns='urn:b'><b/></b>\n<c x=\"'\"/></f >",
            '<f >\n<a>&lt;</a ><c x="\'"/></f >',
            "<f >\n<a>&lt;</a ><c x=\"'\"/><n xmlns='urn:n'/></f >",
        ),
        (
            "<f><b xmlns='urn:b'/><b/><x:b xmlns:x='urn:b'>]]&gt;</x:b></f>",
            "<f><b/></f>",
            "<f><b/><n xmlns='urn:n'/></f>",
        ),
        ("<f>t</f>", "<f>t</f>", "<f>t<n xmlns='urn:n'/></f>"),
    ],
)
def test_only_what_is_dropped_goes(given: str, dropped: str, added: str) -> None:
    stanza = framed(given)
    assert spliced(stanza, DROP.__contains__).decode() == dropped
    assert spliced(stanza, DROP.__contains__, ADDED).decode() == added


def test_foreign_prefixes_are_written_out() -> None:
    header = HEADER.replace(b"xmlns=", b"xmlns:z='urn:z' xmlns=")
    stanza = framed("<f><z:a/><b xmlns='urn:b'/></f>", header)
    assert spliced(stanza, DROP.__contains__) == b"<f><a xmlns='urn:z'/></f>"


def test_stream_elements_keep_their_prefix() -> None:
    stanza = framed("<stream:features><b xmlns='urn:b'/></stream:features>")
    assert spliced(stanza, DROP.__contains__, ADDED) == (
        b"<stream:features><n xmlns='urn:n'/></stream:features>"
    )
