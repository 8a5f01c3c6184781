"""A real gate beside real servers: domains without a key between servers (17.2)."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.federation import Federation, names
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.raw import CLIENT
from ..support.waiting import until

A = "a.test"
ALICE = f"alice@{A}"
ERRORS = "urn:x-tillie:errors:0"
GOOD, EXPIRED, ANOTHER, SELF, MISSING, NOBODY = (
    "good.test",
    "expired.test",
    "another.test",
    "self.test",
    "missing.test",
    "nobody.test",
)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def alice(federation: Federation, tmp_path: Path) -> Iterator[GateClient]:
    """Logged in through a gate that probes, before a Prosody with the printed lines;
    the others' servers are one Prosody each."""
    ca = federation.authority
    leaves = {
        A: federation.leaf(A),
        GOOD: federation.leaf(GOOD),
        EXPIRED: ca.leaf(
            *names(EXPIRED), label="expired", lasts=datetime.timedelta(days=-1)
        ),
        ANOTHER: ca.leaf("c.test", label="another"),
        SELF: ca.self_signed(*names(SELF), label="self"),
        MISSING: None,
    }
    for domain, leaf in leaves.items():
        federation.prosody(domain, leaf)
    federation.start()
    server = federation.servers[A]
    server.add_account(ALICE, "a password")
    leaf = leaves[A]
    assert leaf is not None
    gate = Gate(
        tmp_path / "gate",
        {A: server.starttls_port},
        {A: leaf},
        arguments=("--resolver", f"127.0.0.1:{federation.names.port}"),
        environment={
            "TILLIE_BETWEEN_PROBE": "yes",
            "TILLIE_BETWEEN_CA": str(ca.ca),
            # what is said is another test's; here everything but the domain is fine
            "TILLIE_ENFORCE_OUTBOUND": "pass",
        },
    )
    try:
        # five servers start beside it
        gate.start(seconds=60)
        client = GateClient(gate.port, A, ca.ca, Person(ALICE), seconds=30)
        yield client.enter("a password")
        client.abort()
    finally:
        gate.kill()


def test_no_key_no_link(alice: GateClient, federation: Federation) -> None:
    """One message to each; order is kept, and what comes back says why."""
    bob = federation.login(f"bob@{GOOD}")
    wanted = {
        EXPIRED: "expired",
        ANOTHER: "another name",
        SELF: "self-signed",
        MISSING: "TLS",
        NOBODY: "no address",
    }
    for domain in [*wanted, GOOD]:
        alice.say(f"bob@{domain}", "hello", ident=domain)
    for domain, word in wanted.items():
        error = alice.wait_for(
            lambda one, domain=domain: one.get("id") == domain, seconds=20
        )
        assert error.get("type") == "error"
        assert error.find(f"{{{CLIENT}}}error/{{{ERRORS}}}domain-unkeyed") is not None
        words = "".join(error.itertext())
        assert f"{domain} has no key between servers" in words
        assert word in words, words
    assert bob.message("hello", seconds=20).get("from") == alice.jid
    # what is known now is not probed again
    asked = sum(federation.names.asked.values())
    alice.say(f"bob@{EXPIRED}", "hello", ident="again")
    alice.wait_for(lambda one: one.get("id") == "again")
    assert sum(federation.names.asked.values()) == asked


def test_what_comes_from_a_good_domain_passes(
    alice: GateClient, federation: Federation
) -> None:
    alice.send("<presence/>")
    alice.ping()
    bob = federation.login(f"bob@{GOOD}")
    bob.say(ALICE, "good evening")
    assert alice.message("good evening", seconds=20).get("from") == bob.jid
    until(
        lambda: federation.names.asked["_xmpp-server._tcp.good.test", "SRV"], "a probe"
    )
