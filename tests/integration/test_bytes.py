"""The byte cases of docs/threats.md through the running program, from both sides.

    client (this test)  ->  Tillie  ->  a scripted server that records every byte

Each case is sent in four chunkings: whole, byte by byte, cut inside tags and
characters, and in two records of TLS.  In each of them the stream ends with the same
condition and nothing of the case reaches the server; somebody else's stream goes on.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import pytest

from ..support import bed as beds
from ..support.badxml import BEHIND, FIRST, FORMAT, PASSED, POLICY
from ..support.bed import Bed
from ..support.raw import STREAM, RawClient, StreamEndedError
from ..support.scripted import STREAMS, Scripted
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_conversations import ALICE, CAROL, ready
from .test_login import behind, trusting

CANARY = b"<message to='carol@a.test' type='chat'><body>%s</body>"
CHUNKINGS = ("whole", "bytewise", "inside", "records")

# one of each kind is enough for the long way; all of them are read by the framer
LIVE = {
    name: case
    for name, case in BEHIND.items()
    if name.startswith(("XML-0", "XML-1", "XML-2", "XML-3")) and case[1] != POLICY
}
OVER = {
    "XML-37": b"<message>" + b"<a>" * 70,
    "XML-37-20000": b"<a>" * 20_000,
    "XML-38-text": b"<message><body>" + b"x" * 300_000,
    "XML-38-attribute": b"<message a='" + b"x" * 300_000,
    "XML-38-name": b"<" + b"x" * 300_000,
    "XML-38-short-name": b"<message><" + b"x" * 513 + b"/>",
    "XML-39-attributes": b"<message"
    + b"".join(b" a%d=''" % n for n in range(65))
    + b">",
    "XML-39-children": b"<message>" + b"<b/>" * 1_100 + b"</message>",
    "XML-47": b"<a/>" * 50,
}


@dataclass
class Place:
    """One Tillie before one recording server, for all cases of this module."""

    bed: Bed
    server: Scripted
    tillie: Tillie
    tls: ssl.SSLContext
    bystander: RawClient

    def connect(self, chunking: str) -> RawClient:
        client = RawClient(self.tillie.port, "a.test")
        self.bed._raw.append(client)
        return client

    def login(self, chunking: str) -> RawClient:
        """Alice logs in, inside TLS where two records are to be sent."""
        client = self.connect(chunking)
        tls = self.tls if chunking == "records" else None
        return client.login(ALICE, self.bed.passwords[ALICE], resource="desk", tls=tls)

    def alive(self) -> None:
        """Somebody else's stream is answered."""
        self.bystander.ping(seconds=10)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    bed = Bed()
    # it outlives single tests, so this fixture searches and closes it
    beds.OPEN.remove(bed)
    try:
        server = bed.scripted("a.test", ALICE, CAROL)
        tillie = behind(bed, server)
        bystander = bed.raw(CAROL, tillie.port, resource="by")
        ready(tillie)
        yield Place(bed, server, tillie, trusting(tillie), bystander)
        assert tillie.running
        assert "Traceback" not in tillie.errors
        assert "unexpected" not in tillie.errors
        assert bed.hits() == []
    finally:
        bed.close()


def pieces(data: bytes, chunking: str) -> list[bytes]:
    """What is written with one call each; the kernel may join what follows at once."""
    if chunking == "bytewise" and len(data) < 3_000:
        return [data[at : at + 1] for at in range(len(data))]
    if chunking == "bytewise":
        return [data[at : at + 97] for at in range(0, len(data), 97)]
    if chunking == "inside":
        cuts = [
            one.end() for one in re.finditer(rb"[<&/!?\[]|.(?=[>;\x80-\xbf])", data)
        ]
        return [
            data[a:b]
            for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)
            if b > a
        ]
    return (
        [data[: len(data) // 2], data[len(data) // 2 :]]
        if chunking == "records"
        else [data]
    )


def write(client: RawClient, data: bytes, chunking: str) -> None:
    """Send it; the other side may have hung up before the end."""
    try:
        for piece in pieces(data, chunking):
            client.send(piece)
    except (OSError, ssl.SSLError):
        return


def ended_with(client: RawClient) -> str:
    """The condition of the stream error before the other side closed; '' for none."""
    try:
        error = client.wait_for(lambda one: one.tag == f"{{{STREAM}}}error", seconds=5)
    except StreamEndedError:
        return ""
    client.wait_closed(seconds=2)
    return error[0].tag.removeprefix(f"{{{STREAMS}}}")


@pytest.mark.parametrize(("data", "condition"), FIRST.values(), ids=FIRST)
def test_first_bytes_of_a_connection(place: Place, data: bytes, condition: str) -> None:
    """Before login.  What is no XMPP at all gets no answer; LOC-02, LOC-03."""
    before = place.server.connections
    for chunking in CHUNKINGS:
        client = place.connect(chunking)
        write(client, data, "whole" if chunking == "records" else chunking)
        assert ended_with(client) in ("", condition), chunking
    assert place.server.connections == before
    place.alive()


@pytest.mark.parametrize(("data", "condition"), BEHIND.values(), ids=BEHIND)
def test_behind_a_header_before_login(
    place: Place, data: bytes, condition: str
) -> None:
    before = place.server.connections
    for chunking in CHUNKINGS:
        client = place.connect(chunking)
        if chunking == "records":
            client.open_stream()
            client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            client.read()
            client.start_tls(place.tls)
        client.open_stream()
        write(client, data, chunking)
        assert ended_with(client) == condition, chunking
    assert place.server.connections == before
    place.alive()


@pytest.mark.parametrize(("data", "condition"), LIVE.values(), ids=LIVE)
def test_in_a_live_stream(place: Place, data: bytes, condition: str) -> None:
    """Inside of a message, where there is room; the message never leaves (I1)."""
    canary = place.bed.canaries.secret()
    if data.startswith((b"<m>", b"<message>")):
        data = CANARY % canary.encode() + data.partition(b">")[2]
    for chunking in CHUNKINGS:
        client = place.login(chunking)
        stanzas = len(place.server.stanzas)
        write(client, data, chunking)
        assert ended_with(client) == condition, chunking
        assert messages(place, stanzas) == [], chunking
    place.alive()


@pytest.mark.parametrize("data", OVER.values(), ids=OVER)
def test_over_the_limits_in_a_live_stream(place: Place, data: bytes) -> None:
    """Ended when the limit is passed, not at the end of what never ends."""
    for chunking in CHUNKINGS:
        client = place.login(chunking)
        stanzas = len(place.server.stanzas)
        write(client, data, chunking)
        expected = "unsupported-stanza-type" if data == OVER["XML-47"] else POLICY
        assert ended_with(client) == expected, chunking
        assert messages(place, stanzas) == [], chunking
    place.alive()


def messages(place: Place, since: int) -> list[Element]:
    """What the server got from Alice besides presence and Tillie's own questions."""
    return [
        one
        for jid, one in place.server.stanzas[since:]
        if jid.startswith(ALICE) and one.tag.endswith("}message")
    ]


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
def test_what_passes_passes_byte_for_byte(place: Place, data: bytes) -> None:
    """An IQ is not touched: what the server's parser reads is what the client wrote."""
    for chunking in CHUNKINGS:
        client = place.login(chunking)
        ident = client.next_id().encode()
        stanza = b"<iq type='get' id='%s' to='carol@a.test/by'>%s</iq>" % (ident, data)
        start = len(place.server.received)
        write(client, stanza, chunking)
        until(
            lambda s=stanza, at=start: s in bytes(place.server.received[at:]),  # type: ignore[misc]
            "the stanza",
        )
        client.close()
    place.alive()


# -- the same from the server ---------------------------------------------------


FROM_SERVER = {
    name: case for name, case in LIVE.items() if case[1] not in (FORMAT,)
} | {"XML-38-never-ends": (b"<message from='x@y'><body>" + b"x" * 2_200_000, POLICY)}


@pytest.mark.parametrize("name", FROM_SERVER)
def test_from_the_server(place: Place, name: str) -> None:
    """The server's stream is not read on; its client is told, and can come back."""
    data = FROM_SERVER[name][0]
    client = place.login("whole")
    until(lambda: place.server._sessions_of(f"{ALICE}/desk"), "the session")
    client.ping()
    seen = len(client.stanzas)
    place.server.send_raw(f"{ALICE}/desk", data)
    error = client.wait_for(lambda one: one.tag == f"{{{STREAM}}}error", seconds=10)
    text = error.findtext(f"{{{STREAMS}}}text") or ""
    assert "server" in text
    assert [one.tag for one in client.stanzas[seen:]] == [error.tag]
    client.wait_closed(seconds=2)
    again = place.login("whole")
    again.ping()
    assert "admin@x" not in again.received.decode()
    again.close()
    place.alive()
