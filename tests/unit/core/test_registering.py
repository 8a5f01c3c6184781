"""Accounts that are registered, changed and removed through Tillie (XEP-0077)."""

from __future__ import annotations

import pytest

from proxy.core.identity import Standing
from proxy.core.phase import Phase
from proxy.suites.fields import b64
from tests.support.gated import GatedWorld
from tests.support.raw import CLIENT, STREAM
from tests.support.simulator import ALICE, Client, Tillie

REGISTER = "jabber:iq:register"
FORM = "jabber:x:data"
FIELD = "urn:x-tillie:key:0#fingerprint"
A = "a.test"


def arrived(world: GatedWorld, tillie: Tillie) -> Client:
    """A client that has opened its stream and not logged in."""
    session = tillie.house.session(tls_available=False, secure=False)
    client = tillie.clients[session] = Client(tillie, session)
    client.send(
        f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
        f" xmlns:stream='{STREAM}' to='{A}' version='1.0'>"
    )
    return client


def fill(name: str = "alice", ident: str = "r2") -> str:
    return (
        f"<iq type='set' id='{ident}'><query xmlns='{REGISTER}'>"
        f"<username>{name}</username><password>secret-of-{name}</password>"
        "</query></iq>"
    )


def answer(client: Client, ident: str) -> str:
    [found] = [one for one in client.stanzas if one.get("id") == ident]
    return found.get("type", "")


@pytest.fixture
def world() -> GatedWorld:
    return GatedWorld()


def test_the_form_is_shown_without_the_key(world: GatedWorld) -> None:
    client = arrived(world, world.tillie())
    assert b"http://jabber.org/features/iq-register" in client.raw
    client.send(f"<iq type='get' id='r1'><query xmlns='{REGISTER}'/></iq>")
    assert answer(client, "r1") == "result"
    assert FIELD.encode() not in client.raw
    assert FORM.encode() not in client.raw
    assert b"<username" in client.raw


def test_a_new_account_has_its_key_at_the_gate_at_once(world: GatedWorld) -> None:
    tillie = world.tillie()
    client = arrived(world, tillie)
    client.send(fill())
    assert answer(client, "r2") == "result"
    identity = tillie.account(ALICE).identity
    assert identity.standing is Standing.READY
    held = world.domain(A).registry._rows.account[ALICE]
    assert held.root == identity.fingerprint
    # field and manifest were for the gate alone
    assert world.registered == [("alice", False)]
    alice = world.login(tillie, ALICE)
    assert alice.session.phase is Phase.LIVE
    assert world.domain(A).vouches == ["digest"]


def test_the_same_client_logs_in_behind_its_registration(world: GatedWorld) -> None:
    tillie = world.tillie()
    client = arrived(world, tillie)
    client.send(fill())
    client.send(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"
        + b64(b"\0alice\0secret-of-alice")
        + "</auth>"
    )
    assert b"<success" in client.raw


def test_a_name_that_is_taken_leaves_nothing_here(world: GatedWorld) -> None:
    tillie = world.tillie()
    world.taken.add("alice")
    client = arrived(world, tillie)
    client.send(fill())
    assert answer(client, "r2") == "error"
    assert not [one for one in tillie.rows() if one[0] == "own"]
    # neither at the gate
    assert ALICE not in world.domain(A).registry._rows.account
    client.send(fill("bob", "r3"))
    assert answer(client, "r3") == "result"


def test_rel_03_a_lost_answer_and_its_repetition_are_one_registration(
    world: GatedWorld,
) -> None:
    tillie = world.tillie()
    client = arrived(world, tillie)
    world.mute = True
    client.send(fill())
    root = tillie.account(ALICE).identity.fingerprint
    client.close()
    world.mute = False
    again = arrived(world, tillie)
    again.send(fill())
    # the server has the account already and says so; the keys are the gate's
    held = world.domain(A).registry._rows.account[ALICE]
    assert held.root == root
    alice = world.login(tillie, ALICE)
    assert alice.session.phase is Phase.LIVE
    assert tillie.account(ALICE).identity.fingerprint == root


def test_a_restart_between_does_not_change_the_key(world: GatedWorld) -> None:
    tillie = world.tillie()
    client = arrived(world, tillie)
    world.lose = True
    client.send(fill())
    root = tillie.account(ALICE).identity.fingerprint
    tillie.restart()
    world.lose = False
    again = arrived(world, tillie)
    again.send(fill())
    assert answer(again, "r2") == "result"
    assert world.domain(A).registry._rows.account[ALICE].root == root


def test_without_a_gate_the_form_passes_as_it_is(world: GatedWorld) -> None:
    world.domain(A).gone = True
    tillie = world.tillie()
    client = arrived(world, tillie)
    client.send(f"<iq type='get' id='r1'><query xmlns='{REGISTER}'/></iq>")
    client.send(fill())
    assert answer(client, "r2") == "result"
    assert world.registered == [("alice", False)]
    assert not tillie.rows()


def test_auth_09_a_gate_that_does_not_prove_itself_hears_no_password(
    world: GatedWorld,
) -> None:
    world.domain(A).bug = "unproved"
    client = arrived(world, world.tillie())
    client.send(fill())
    assert answer(client, "r2") == "error"
    assert b"did not prove" in client.raw
    assert b"secret-of-alice" not in world.wire


def test_a_silent_server_is_given_up(world: GatedWorld) -> None:
    client = arrived(world, world.tillie())
    world.lose = True
    client.send(fill())
    world.wait(31_000)
    assert answer(client, "r2") == "error"
    assert b"did not answer in time" in client.raw
    assert not client.closed


# -- on the open stream ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["result", "error"])
def test_a_new_password_counts_from_the_servers_result_on(
    world: GatedWorld, kind: str
) -> None:
    tillie = world.tillie()
    alice = world.login(tillie, ALICE)
    world.change = kind
    alice.send(
        f"<iq type='set' id='p1' to='{A}'><query xmlns='{REGISTER}'>"
        "<username>alice</username><password>the new one</password></query></iq>"
    )
    assert answer(alice, "p1") == kind
    world.break_line(alice)
    sent = b64(b"\0alice\0the new one").encode()
    assert (sent in world.gate_line(alice).raw) is (kind == "result")
    assert b"the new one" not in b"".join(tillie.rows().values())


def test_a_removed_account_leaves_no_keys(world: GatedWorld) -> None:
    tillie = world.tillie()
    alice = world.login(tillie, ALICE)
    old = tillie.account(ALICE).identity.fingerprint
    world.change = "result"
    alice.send(
        f"<iq type='set' id='p1'><query xmlns='{REGISTER}'><remove/></query></iq>"
    )
    assert answer(alice, "p1") == "result"
    assert not [one for one in tillie.rows() if one[0] == "own" and one[2] == "root"]
    alice.close()
    world.pep.clear()
    again = world.login(tillie, ALICE)
    assert again.session.phase is Phase.LIVE
    assert tillie.account(ALICE).identity.fingerprint != old
