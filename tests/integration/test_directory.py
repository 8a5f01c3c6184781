"""The directory on a real Prosody's component port, and what a gate lets be said."""

from __future__ import annotations

import secrets
import time
from xml.etree.ElementTree import Element

import pytest

from proxy.keys.manifest import open_manifest
from proxy.keys.servers import open_server
from proxy.keys.tokens import open_absence, open_token
from proxy.rules import marks
from proxy.suites import lanes
from proxy.suites.fields import b64

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.raw import CLIENT, RawClient, text_of
from ..support.waiting import free_ports, until

ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@a.test"
KEYS = "keys.a.test"
KEY = "urn:x-tillie:key:0"
SEAL = "urn:x-tillie:seal:0"
ERRORS = "urn:x-tillie:errors:0"
SM = "urn:xmpp:sm:3"
SEALED = (
    f"<encrypted xmlns='{SEAL}'><payload>"
    f"{b64(bytes((0, 1, 0)) + bytes(lanes.SMALLEST))}</payload></encrypted>"
    f"<store xmlns='urn:xmpp:hints'/><body>{marks.FALLBACK_BODY}</body>"
)


@pytest.fixture
def gate(bed: Bed) -> Gate:
    """A Prosody for a.test and b.test with a gate before a.test, and its directory."""
    (port,) = free_ports(1)
    secret = secrets.token_hex(16)
    bed.start(
        ALICE,
        BOB,
        CAROL,
        require_encryption=False,
        options=f'component_ports = {{ {port} }}\nComponent "{KEYS}"\n'
        f'  component_secret = "{secret}"\n',
    )
    made = bed.gate(
        backends={"a.test": bed.server.starttls_port}, start=False
    ).use_directory(port, secret)
    made.start()
    until(lambda: f"{KEYS} is there" in made.errors, "the directory to be there")
    return made


def look_up(client: RawClient, jid: str) -> Element:
    answer = client.ask("get", f"<lookup xmlns='{KEY}' jid='{jid}'/>", to=KEYS)
    assert answer.get("from") == KEYS
    return answer


def text(answer: Element, path: str) -> bytes:
    found = answer.findtext("/".join(f"{{{KEY}}}{part}" for part in path.split("/")))
    assert found is not None
    return found.encode()


def entered(bed: Bed, gate: Gate, jid: str, **options: str) -> GateClient:
    client = bed.at_gate(gate, Person(jid))
    return client.enter(bed.passwords[jid], **options)


def test_strangers_get_records_and_signed_absence(bed: Bed, gate: Gate) -> None:
    alice = entered(bed, gate, ALICE)
    assert alice.server is not None
    assert alice.person is not None
    # somebody of another domain, while alice is not even online any more
    alice.close()
    bob = bed.raw(BOB, bed.server.starttls_port)
    record = look_up(bob, ALICE)
    server = open_server(text(record, "record/server/document"), "a.test")
    assert server.digest == alice.server.digest
    assert server.directory == KEYS
    manifest = open_manifest(text(record, "record/manifest"), ALICE)
    assert manifest.digest == alice.person.manifest.digest
    assert open_token(text(record, "record/token"), ALICE, server.keys).covers(manifest)
    for jid in (CAROL, "nobody@a.test"):
        absent = look_up(bob, jid)
        open_absence(text(absent, "absent/document"), jid, server.keys)
    assert text(look_up(bob, "a.test"), "record/server/document")
    items = bob.ask(
        "get", "<query xmlns='http://jabber.org/protocol/disco#items'/>", to="a.test"
    )
    assert KEYS in [item.get("jid") for item in items[0]]


def test_rel_28_the_directory_is_back_when_the_server_is(bed: Bed, gate: Gate) -> None:
    bed.server.restart()
    until(
        lambda: gate.errors.count(f"{KEYS} is there") == 2,
        "the directory to be back",
        seconds=20,
    )
    bob = bed.raw(BOB, bed.server.starttls_port)
    assert look_up(bob, CAROL).find(f"{{{KEY}}}absent") is not None


def refused(client: RawClient, ident: str) -> Element:
    return client.wait_for(
        lambda one: one.get("id") == ident and one.get("type") == "error"
    )


def test_clear_content_comes_back_and_counts_stay_true(bed: Bed, gate: Gate) -> None:
    """One account sends through the gate: sealed, clear, to who has a key and to who
    has none; Prosody's XEP-0198 counts what the client counts."""
    alice = entered(bed, gate, ALICE)
    carol = bed.raw(CAROL, bed.server.starttls_port)
    bob = bed.raw(BOB, bed.server.starttls_port)
    alice.send(f"<enable xmlns='{SM}'/>")
    alice.expect(f"{{{SM}}}enabled")
    hidden, open_ = bed.canaries.secret(), bed.canaries.clear()
    # to oneself, who has a key: back, with words, and nowhere on the server
    alice.say(ALICE, hidden, ident="c1")
    # carol of the own domain has none: the registry says so
    alice.say(CAROL, open_, ident="c2")
    alice.send(f"<message to='{CAROL}' type='chat' id='c3'>{SEALED}</message>")
    # bob's server says that he has no node, and there is no directory of b.test
    alice.say(BOB, hidden, ident="c4")
    error = refused(alice, "c1")
    assert error.find(f"{{{CLIENT}}}error/{{{ERRORS}}}clear-refused") is not None
    assert "has a key" in "".join(error.itertext())
    assert error.get("from") == ALICE
    assert text_of(carol.message(open_)) == open_
    assert carol.wait_for(lambda one: one.get("id") == "c3") is not None
    assert "could not be learned" in "".join(refused(alice, "c4").itertext())
    alice.send(f"<r xmlns='{SM}'/>")
    acknowledged = alice.wait_for(lambda one: one.tag == f"{{{SM}}}a")
    assert acknowledged.get("h") == "4"
    assert not bob.messages()
    alice.ping()


def test_a_contact_elsewhere_who_provably_has_no_key(bed: Bed, gate: Gate) -> None:
    """Bob's own address says so: he made the node and emptied it."""
    bob = bed.raw(BOB, bed.server.starttls_port)
    pubsub = "http://jabber.org/protocol/pubsub"
    options = (
        "<publish-options><x xmlns='jabber:x:data' type='submit'>"
        "<field var='FORM_TYPE' type='hidden'><value>"
        f"{pubsub}#publish-options</value></field>"
        "<field var='pubsub#access_model'><value>open</value></field></x></publish-options>"
    )
    made = bob.ask(
        "set",
        f"<pubsub xmlns='{pubsub}'><publish node='{KEY}'><item id='current'>"
        f"<x xmlns='urn:x'/></item></publish>{options}</pubsub>",
    )
    assert made.get("type") == "result"
    bob.ask(
        "set",
        f"<pubsub xmlns='{pubsub}'><retract node='{KEY}'><item id='current'/>"
        "</retract></pubsub>",
    )
    alice = entered(bed, gate, ALICE)
    words = bed.canaries.clear()
    alice.say(BOB, words, ident="o1")
    assert text_of(bob.message(words)) == words


def test_what_comes_in_clear_goes_back_if_the_domain_says_so(
    bed: Bed, gate: Gate
) -> None:
    gate.stop()
    gate.environment = {**gate.environment, "TILLIE_ENFORCE_INBOUND": "refuse"}
    gate.start()
    alice = entered(bed, gate, ALICE)
    alice.send("<presence/>")
    bob = bed.raw(BOB, bed.server.starttls_port)
    words = bed.canaries.clear()
    bob.say(ALICE, words, ident="b1")
    ping = alice.wait_for(
        lambda one: one.tag == f"{{{CLIENT}}}iq" and one.get("type") == "get"
    )
    alice.send(f"<iq type='result' to='a.test' id='{ping.get('id')}'/>")
    error = refused(bob, "b1")
    assert error.find(f"{{{CLIENT}}}error/{{{ERRORS}}}clear-refused") is not None
    bob.send(f"<message to='{ALICE}' type='chat' id='b2'>{SEALED}</message>")
    alice.wait_for(lambda one: one.get("id") == "b2")
    assert not [one for one in alice.messages() if words in text_of(one)]


def test_signed_absence_decides_first_contact_at_once(bed: Bed, gate: Gate) -> None:
    """Prosody answers strangers ``forbidden`` for a node that does not exist, which
    proves nothing; the directory says in one answer that carol has no key."""
    port = bed.server.starttls_port
    tillie = bed.tillie("tb", servers={"b.test": port}, tls={"b.test": "off"})
    bob = bed.raw(BOB, tillie.port)
    until(
        lambda: tillie.json("status")["accounts"][0]["published"],
        "bob's keys to be published",
        seconds=20,
    )
    hidden = bed.canaries.secret()
    began = time.monotonic()
    bob.say(CAROL, hidden, ident="f1")
    error = refused(bob, "f1")
    took = time.monotonic() - began
    words = "".join(error.itertext())
    assert f"{CAROL} has no key" in words
    # where it cannot be learned, Tillie tries again for 6 s
    assert took < 5
    # and what was allowed leaves without another question
    tillie.command("allow", CAROL)
    carol = bed.raw(CAROL, port)
    clear = bed.canaries.clear()
    bob.say(CAROL, clear)
    assert text_of(carol.message(clear)) == clear
