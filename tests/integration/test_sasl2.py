"""SASL2 and Bind 2 (XEP-0388, XEP-0386) of a real Prosody, through a gate.

Debian 12's prosody-modules have them; neither its Prosody 0.12.3 nor its ejabberd does.
mod_sasl2_fast and mod_sasl2_sm are there too, but want a newer Prosody: offering FAST
ends in a traceback, and of mod_smacks functions are called that 0.12 does not have. So
FAST and resumption inside SASL2 are the scripted servers' (unit/gate/test_roads,
test_vouching).
"""

from __future__ import annotations

import base64
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
import scramp

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.gateclient import AUTH, GateClient
from ..support.persons import Person
from ..support.raw import STREAM

ALICE, BOB = "alice@a.test", "bob@b.test"
SASL2 = "urn:xmpp:sasl:2"
BIND2 = "urn:xmpp:bind:0"
MODULES = ("sasl2", "sasl2_bind2")
BIND = (
    f"<bind xmlns='{BIND2}'><tag>raw</tag><enable xmlns='urn:xmpp:carbons:2'/></bind>"
)


@pytest.fixture
def gate(bed: Bed) -> Gate:
    bed.start(ALICE, BOB, require_encryption=False, modules=MODULES)
    return bed.gate()


class Sasl2Client(GateClient):
    """A client that logs in with SASL2; `success` is what the server said in the end."""

    success: Element | None = None

    def authenticate2(self, mechanism: str, first: bytes, inside: str) -> Element:
        """Begin; the element that answers."""
        initial = base64.b64encode(first).decode()
        self.send(
            f"<authenticate xmlns='{SASL2}' mechanism='{mechanism}'>"
            f"<initial-response>{initial}</initial-response>{inside}</authenticate>"
        )
        return self.read()

    def enter2(self, password: str, inside: str = BIND) -> Sasl2Client:
        """Present, log in with SCRAM, and vouch for what was bound."""
        assert self.person is not None
        self.secure()
        self.present()
        scram = scramp.ScramClient(
            ["SCRAM-SHA-1"], self.person.jid.partition("@")[0], password
        )
        first = scram.get_client_first().encode()
        challenge = self.authenticate2("SCRAM-SHA-1", first, inside)
        assert challenge.tag == f"{{{SASL2}}}challenge", ElementTree.tostring(challenge)
        scram.set_server_first(base64.b64decode(challenge.text or "").decode())
        final = base64.b64encode(scram.get_client_final().encode()).decode()
        self.send(f"<response xmlns='{SASL2}'>{final}</response>")
        success = self.vouched()
        proof = base64.b64decode(success.findtext(f"{{{SASL2}}}additional-data") or "")
        scram.set_server_final(proof.decode())
        return self

    def vouched(self) -> Element:
        """The gate's word comes before the server's (14.8)."""
        self.jid = self.expect(f"{{{AUTH}}}bound").get("jid") or ""
        assert b"<success" not in self.received
        self.vouch()
        self.success = self.expect(f"{{{SASL2}}}success")
        self.expect(f"{{{STREAM}}}features")
        named = self.success.findtext(f"{{{SASL2}}}authorization-identifier")
        assert named == self.jid
        return self.success


def client(bed: Bed, gate: Gate, person: Person) -> Sasl2Client:
    made = Sasl2Client(gate.port, "a.test", bed.authority.ca, person, seconds=20)
    bed.keep_raw(made)
    return made


def test_auth_07_sasl2_without_a_presentation(bed: Bed, gate: Gate) -> None:
    one = client(bed, gate, Person(ALICE))
    features = one.secure()
    offered = features.find(f"{{{SASL2}}}authentication")
    assert offered is not None
    assert offered.find(f"{{{SASL2}}}inline/{{{BIND2}}}bind") is not None
    secret = f"\0alice\0{bed.passwords[ALICE]}".encode()
    answer = one.authenticate2("PLAIN", secret, BIND)
    assert answer.tag == f"{{{SASL2}}}failure"
    assert "Run Tillie" in (answer.findtext(f"{{{SASL2}}}text") or "")


def test_a_login_with_bind_2(bed: Bed, gate: Gate) -> None:
    alice = Person(ALICE)
    one = client(bed, gate, alice).enter2(bed.passwords[ALICE])
    assert one.jid.startswith(f"{ALICE}/raw~")
    assert one.success is not None
    bound = one.success.find(f"{{{BIND2}}}bound")
    assert bound is not None
    assert bound.find("{urn:xmpp:carbons:2}enabled") is not None
    one.send("<presence/>")
    bob = bed.raw(BOB, bed.server.starttls_port)
    text = bed.canaries.clear()
    bob.say(one.jid, text)
    one.message(text)
    one.ping()


def test_auth_07_another_key_never_sees_the_success(bed: Bed, gate: Gate) -> None:
    client(bed, gate, Person(ALICE)).enter2(bed.passwords[ALICE])
    thief = client(bed, gate, Person(ALICE))
    with pytest.raises(AssertionError, match="not-authorized"):
        thief.enter2(bed.passwords[ALICE])
    assert b"<success" not in thief.received


def test_without_bind_2_a_resource_is_bound_behind_it(bed: Bed, gate: Gate) -> None:
    one = client(bed, gate, Person(ALICE)).enter2(bed.passwords[ALICE], "")
    assert one.jid == ALICE
    assert one.bind("raw") == f"{ALICE}/raw"
    one.ping()
