"""Through the real gate to a real Prosody: who comes in, and who does not."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from proxy.gate.admission import stream_digest
from proxy.keys import databases
from proxy.keys.identity import DevicePrivate
from proxy.keys.tokens import open_token
from proxy.suites.fields import b64

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.raw import SASL, RefusedError, StreamEndedError
from ..support.waiting import until

ALICE, BOB = "alice@a.test", "bob@a.test"
SM = "urn:xmpp:sm:3"
REGISTER = "jabber:iq:register"
LANE = "urn:x-tillie:lane:0"
FIELD = "urn:x-tillie:key:0#fingerprint"


def behind(bed: Bed, *accounts: str, **options: object) -> Gate:
    """A Prosody that takes clients without TLS, and a gate in front of it."""
    bed.start(*accounts, require_encryption=False)
    return bed.gate(**options)


def test_a_key_gets_in_and_a_token_comes_back(bed: Bed) -> None:
    gate = behind(bed, ALICE)
    alice = Person(ALICE)
    client = bed.at_gate(gate, alice).enter(bed.passwords[ALICE])
    assert client.server is not None
    token = open_token(client.token.encode(), ALICE, client.server.keys)
    assert token.covers(alice.manifest)
    client.ping()


def test_without_a_key_nobody_gets_in(bed: Bed) -> None:
    gate = behind(bed, BOB)
    client = bed.at_gate(gate, BOB)
    client.secure()
    assert client.policy == "keys-only"
    with pytest.raises(RefusedError) as refused:
        client.authenticate(BOB, bed.passwords[BOB])
    failure = ElementTree.fromstring(str(refused.value))
    assert failure.find(f"{{{SASL}}}not-authorized") is not None
    assert "Tillie" in (failure.findtext(f"{{{SASL}}}text") or "")
    assert "login refused from 127.0.0.1 (a.test)" in gate.errors


def test_optional_lets_old_clients_in_until_the_account_has_a_key(bed: Bed) -> None:
    gate = behind(bed, BOB, arguments=["--policy", "optional"])
    bob = Person(BOB)
    old = bed.at_gate(gate, BOB)
    old.secure()
    old.authenticate(BOB, bed.passwords[BOB])
    old.open_stream()
    old.bind()
    old.ping()
    bed.at_gate(gate, bob).enter(bed.passwords[BOB])
    again = bed.at_gate(gate, BOB)
    again.secure()
    again.authenticate(BOB, bed.passwords[BOB])
    again.open_stream()
    with pytest.raises(StreamEndedError):
        again.bind()
    assert b"<key-required" in again.received


def test_tls_16_a_cut_stream_is_resumed_by_its_own_device_alone(bed: Bed) -> None:
    gate = behind(bed, ALICE, BOB)
    alice, bob = Person(ALICE), Person(BOB)
    first = bed.at_gate(gate, alice).enter(bed.passwords[ALICE])
    first.send(f"<enable xmlns='{SM}' resume='true'/>")
    previd = first.expect(f"{{{SM}}}enabled").get("id")
    written_down(gate, previd)
    first.reset()
    thief = logged_in(bed, gate, bob)
    thief.send(f"<resume xmlns='{SM}' previd='{previd}' h='0'/>")
    thief.expect(f"{{{SM}}}failed")
    again = logged_in(bed, gate, alice)
    again.send(f"<resume xmlns='{SM}' previd='{previd}' h='0'/>")
    again.expect(f"{{{SM}}}resumed")
    again.jid = first.jid
    again.ping()
    again.vouch()


def test_rel_27_a_killed_gate_loses_nothing_that_the_server_has(bed: Bed) -> None:
    gate = behind(bed, ALICE, BOB)
    alice = Person(ALICE)
    first = bed.at_gate(gate, alice).enter(bed.passwords[ALICE])
    first.send(f"<enable xmlns='{SM}' resume='true'/><presence/>")
    previd = first.expect(f"{{{SM}}}enabled").get("id")
    first.ping()
    written_down(gate, previd)
    gate.kill()
    first.wait_closed()
    bob = bed.raw(BOB, bed.server.starttls_port)
    text = bed.canaries.clear()
    bob.say(first.jid, text)
    bob.ping()
    gate.start()
    again = logged_in(bed, gate, alice)
    again.send(f"<resume xmlns='{SM}' previd='{previd}' h='0'/>")
    again.expect(f"{{{SM}}}resumed")
    again.message(text)
    again.jid = first.jid
    again.vouch(sent=False)


def written_down(gate: Gate, previd: str | None) -> None:
    """Wait until the registry knows the stream: an open one does not wait for that, and
    a gate that is killed before has forgotten it."""
    assert previd is not None
    wanted = stream_digest("a.test", previd)
    registry = databases.open_registry(databases.default_url(gate.state))

    def known() -> bool:
        with registry.transaction(writing=False):
            return registry.stream(wanted) is not None

    until(known, "the stream's id in the registry", seconds=20)
    registry.close()


def logged_in(bed: Bed, gate: Gate, person: Person) -> GateClient:
    """SASL is done; nothing is bound."""
    client = bed.at_gate(gate, person)
    client.secure()
    client.present()
    client.scram(person.jid.partition("@")[0], bed.passwords[person.jid])
    client.open_stream()
    return client


def test_an_account_is_made_and_removed_through_the_gate(bed: Bed) -> None:
    bed.start(
        require_encryption=False,
        options="allow_registration = true\nmin_seconds_between_registrations = 0\n",
    )
    gate = bed.gate()
    carol = Person("carol@a.test")
    secret = bed.canaries.secret()
    client = bed.at_gate(gate, carol, account=False)
    client.secure()
    client.present()
    form = client.ask("get", f"<query xmlns='{REGISTER}'/>")
    names = [one.get("var") for one in form.iter("{jabber:x:data}field")]
    assert FIELD in names
    made = client.ask(
        "set",
        f"<query xmlns='{REGISTER}'><username>carol</username>"
        f"<password>{secret}</password><x xmlns='jabber:x:data' type='submit'>"
        f"<field var='{FIELD}'><value>{b64(carol.fingerprint)}</value></field></x>"
        f"<manifest xmlns='urn:x-tillie:auth:0'>{carol.manifest.document}</manifest>"
        "</query>",
    )
    assert made.get("type") == "result", ElementTree.tostring(made)
    client.scram("carol", secret)
    client.open_stream()
    client.bind()
    client.vouch(sent=False)
    changed = client.ask(
        "set",
        f"<query xmlns='{REGISTER}'><username>carol</username>"
        "<password>another</password></query>",
    )
    assert changed.get("type") == "result"
    removed = client.ask("set", f"<query xmlns='{REGISTER}'><remove/></query>")
    assert removed.get("type") == "result"
    assert "carol@a.test registered" in gate.errors
    assert "carol@a.test removed" in gate.errors
    bed.canaries.secrets.remove(secret)


def test_i5_a_device_is_linked_used_and_removed(bed: Bed) -> None:
    gate = behind(bed, ALICE)
    alice = Person(ALICE)
    old = bed.at_gate(gate, alice).enter(bed.passwords[ALICE], resource="old")
    old.send("<presence/>")
    device = DevicePrivate.generate()
    new = bed.at_gate(gate, alice, device=device)
    new.root = None
    new.secure()
    new.present()
    new.scram("alice", bed.passwords[ALICE])
    new.open_stream()
    new.bind("new")
    new.send(new.vouching(None))
    new.expect("{urn:x-tillie:auth:0}linking")
    request = f"<link-request xmlns='{LANE}' device='{b64(device.public)}'>AAAA</link-request>"
    new.send(f"<message to='{ALICE}' type='normal'>{request}</message>")
    asked = old.wait_for(lambda one: one.find(f"{{{LANE}}}link-request") is not None)
    old.vouch(alice.add(device))
    old.send(
        f"<message to='{asked.get('from')}' type='normal'>"
        f"<link-answer xmlns='{LANE}'>x</link-answer></message>"
    )
    new.wait_for(lambda one: one.find(f"{{{LANE}}}link-answer") is not None)
    new.vouch(alice.manifest, sent=False)
    new.ping()
    old.vouch(alice.drop(device))
    assert b"<unknown-device" in new.wait_closed()
    old.ping()
