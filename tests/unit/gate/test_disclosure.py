"""What a gate says of itself to who is not logged in (protocol.md, 14.15)."""

from __future__ import annotations

import pytest

from proxy.gate.disclosure import A_MINUTE, A_MINUTE_IN_ALL, SPECIMEN, DirectoryState
from proxy.gate.names import AUTH, KEY
from proxy.gate.questions import LookUp
from proxy.keys.tokens import TOKEN_MS, open_absence
from proxy.wire import tree
from tests.support.persons import Person

from .staging import DOMAIN, Stage, ended, server_document

STATE = f"<state xmlns='{AUTH}'/>"


def said(stage: Stage) -> tuple[str, str | None, str | None]:
    """Ask; what is said of directory and tokens, and the address that is absent.

    What it is signed with is checked.
    """
    answer = tree.parse(stage.client(STATE))
    assert answer.tag == f"{{{AUTH}}}state"
    absent = answer.find(f"{{{KEY}}}absent")
    jid = None if absent is None else absent.get("jid")
    if absent is not None and jid is not None:
        document = absent.findtext(f"{{{KEY}}}document") or ""
        keys = server_document(DOMAIN).keys
        assert open_absence(document.encode(), jid, keys).current(stage.clock.now)
    return answer.get("directory", ""), answer.get("tokens"), jid


@pytest.mark.parametrize("directory", ["answering", "away", "none"])
def test_a_stranger_is_told_how_the_gate_is(directory: DirectoryState) -> None:
    stage = Stage(person=None, directory=directory).presented()
    there, tokens, jid = said(stage)
    assert there == directory
    assert tokens == str(stage.clock.now + TOKEN_MS)
    assert jid is not None
    assert jid.startswith(SPECIMEN)
    assert jid.endswith(f"@{DOMAIN}")
    # the server hears nothing of it, and a login may follow
    assert stage.to_server.count(b"<") == 2
    assert not stage.closed


def test_res_06_who_shows_nothing_is_told_nothing() -> None:
    stage = Stage().at_door()
    assert ended(stage.client(STATE), "not-authorized", "key-required")
    assert stage.asked == []


def test_once_on_a_stream() -> None:
    stage = Stage().presented()
    said(stage)
    assert ended(stage.client(STATE), "policy-violation")


def test_dir_08_no_account_is_named_and_none_matters() -> None:
    """The same for a device of an account that is here and for one of nobody."""
    person = Person()
    known = Stage(person=person).open()
    again = Stage(person=person, registry=known.registry, world=known.world).presented()
    nobody = Stage(
        person=Person(), registry=known.registry, world=known.world
    ).presented()
    assert said(again) == said(nobody)
    looked = [one for one in again.asked + nobody.asked if isinstance(one, LookUp)]
    assert looked
    assert all(one.account.startswith(SPECIMEN) for one in looked)


def test_a_gate_that_cannot_look_up_or_sign_does_not_say_that_it_can() -> None:
    stage = Stage(away=True).presented()
    assert said(stage) == ("answering", None, None)
    stage = Stage(signs=False).presented()
    assert said(stage) == ("answering", None, None)


def test_res_06_one_signature_a_minute_and_ten_answers_for_an_address() -> None:
    first = Stage(person=None)
    world, signed = first.world, 0
    for _ in range(A_MINUTE):
        stage = Stage(None, world=world, clock=first.clock).presented()
        said(stage)
        signed += stage.signatures
    assert signed == 1
    stage = Stage(None, world=world, clock=first.clock).presented()
    assert ended(stage.client(STATE), "resource-constraint")
    assert not [one for one in stage.asked if isinstance(one, LookUp)]
    other = Stage(None, world=world, clock=first.clock, address="192.0.2.9").presented()
    said(other)
    first.clock.now += 60_000
    stage = Stage(None, world=world, clock=first.clock).presented()
    said(stage)
    assert stage.signatures == 1


def test_res_06_a_crowd_of_addresses_has_a_limit_of_its_own() -> None:
    first = Stage(person=None)
    world = first.world
    for n in range(A_MINUTE_IN_ALL):
        address = f"2001:db8:0:{n:x}::1"
        said(Stage(None, world=world, clock=first.clock, address=address).presented())
    stage = Stage(None, world=world, clock=first.clock, address="192.0.2.9").presented()
    assert ended(stage.client(STATE), "resource-constraint")
