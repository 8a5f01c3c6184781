"""Through the real gate to a real Prosody: who comes in, and who does not."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from proxy.keys.tokens import open_token

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.persons import Person
from ..support.raw import SASL, RefusedError

ALICE, BOB = "alice@a.test", "bob@a.test"


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
