"""SASL through a gate, where TLS ends before the server (15.1.1; AUTH-04, AUTH-05)."""

from __future__ import annotations

import pytest

from proxy.core.servers import Shown
from tests.support.gated import GatedWorld
from tests.support.simulator import ALICE, Client, Tillie

from .test_registering import REGISTER, arrived

A = "a.test"
PLUS, BARE = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"
LISTS = {
    "plus": (PLUS, BARE, "PLAIN"),
    "plus_stripped": (BARE, "PLAIN"),
}


def entered() -> tuple[GatedWorld, Tillie]:
    world = GatedWorld()
    tillie = world.tillie()
    world.login(tillie, ALICE).close()
    return world, tillie


def reached(tillie: Tillie, mechanism: str) -> None:
    """The account has logged in with *mechanism* before."""
    with tillie.writing():
        tillie.store.put("own", ALICE, "mechanism", mechanism.encode())


def failure(client: Client) -> str:
    return client.raw.decode().rpartition("<failure")[2]


@pytest.mark.parametrize("bindings", [(), ("tls-exporter", "tls-server-end-point")])
@pytest.mark.parametrize("mechanisms", LISTS.values(), ids=LISTS)
def test_auth_04_nothing_is_bound_to_the_gates_tls(
    mechanisms: tuple[str, ...], bindings: tuple[str, ...]
) -> None:
    """Bound to the gate's TLS, or with ``y`` at a server that offers -PLUS, the login
    would fail like one with a wrong password."""
    world, tillie = entered()
    domain = world.domain(A)
    domain.mechanisms, domain.bindings = mechanisms, bindings
    world.login(tillie, ALICE)
    mechanism, words = domain.words[-1]
    assert mechanism == BARE
    assert words.startswith("n,,n=alice,r=")


def test_auth_05_a_known_gate_stands_for_the_binding_and_for_no_more() -> None:
    """Its proof is over this very channel; the password still leaves by SCRAM only."""
    world, tillie = entered()
    domain = world.domain(A)
    reached(tillie, BARE)
    domain.mechanisms = LISTS["plus_stripped"]
    world.login(tillie, ALICE)
    assert domain.words[-1][0] == BARE
    before = domain.passwords
    domain.mechanisms = ("PLAIN",)
    refused = world.login(tillie, ALICE)
    assert domain.passwords == before
    assert "SCRAM-SHA-256 before; the password was not sent" in failure(refused)


@pytest.mark.parametrize("way", ["form", "other account", "directory"])
def test_auth_05_a_key_that_was_pinned_in_passing_is_no_known_gate(way: str) -> None:
    """Whoever stands in front for a while has that much of it, without a password."""
    world = GatedWorld()
    tillie, domain = world.tillie(), world.domain(A)
    domain.gone = True
    world.login(tillie, ALICE).close()
    reached(tillie, PLUS)
    domain.gone = False
    if way == "form":
        client = arrived(world, tillie)
        client.send(f"<iq type='get' id='r1'><query xmlns='{REGISTER}'/></iq>")
    elif way == "other account":
        world.login(tillie, "alise@a.test")
    else:
        with tillie.writing():
            shown = Shown(domain.document)
            tillie.house.servers.learn(A, shown, world.now, "directory")
    assert tillie.house.servers.gated(A)
    domain.mechanisms = LISTS["plus"]
    domain.words.clear()
    refused = world.login(tillie, ALICE)
    assert domain.words == []
    assert "tillie forget a.test" in failure(refused)


def test_auth_05_a_gate_that_nobody_knew_is_no_way_around_the_binding() -> None:
    """Somebody on the way with a certificate would be one at once."""
    world = GatedWorld()
    tillie = world.tillie()
    world.domain(A).gone = True
    world.login(tillie, ALICE).close()
    reached(tillie, PLUS)
    domain = world.domain(A)
    domain.gone = False
    domain.mechanisms = LISTS["plus"]
    refused = world.login(tillie, ALICE)
    assert domain.words == []
    assert "shows a gate for the first time" in failure(refused)
    assert "tillie forget a.test" in failure(refused)
    # that it was there and proved itself makes it no older at the next try
    assert "shows a gate for the first time" in failure(world.login(tillie, ALICE))
    assert domain.words == []
    # a person decides, and gives up the binding alone
    tillie.command("forget", jid=A)
    world.login(tillie, ALICE)
    assert [mechanism for mechanism, _ in domain.words] == [BARE]
    domain.mechanisms = ("PLAIN",)
    world.login(tillie, ALICE)
    assert [mechanism for mechanism, _ in domain.words] == [BARE]


def test_the_binding_is_forgotten_for_that_domain_alone() -> None:
    world, tillie = entered()
    world.login(tillie, "bob@b.test").close()
    reached(tillie, PLUS)
    tillie.command("forget", jid="b.test")
    assert tillie.store.get("own", ALICE, "mechanism") == PLUS.encode()
