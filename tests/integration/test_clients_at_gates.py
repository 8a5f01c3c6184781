"""Unmodified clients whose server has a gate: with Tillie nobody notices it."""

from __future__ import annotations

import pytest

from ..support.bed import Bed
from ..support.clients import Bot, Profanity
from ..support.gate import Gate
from ..support.raw import text_of
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_clients import client_of, send_once
from .test_gatekeys import ALICE, BOB, behind, gated, published, status

Two = tuple[Bed, Gate, Tillie, Tillie]


@pytest.fixture
def two(bed: Bed) -> Two:
    gate = gated(bed, ALICE, BOB)
    return bed, gate, behind(bed, gate, "ta"), behind(bed, gate, "tb")


@pytest.mark.parametrize(
    "name", ["mcabber", "profanity-tls", "finch", "poezio", "slixmpp-tls"]
)
def test_each_client_talks_through_a_gate(two: Two, name: str) -> None:
    bed, _, ta, tb = two
    bot = bed.keep(Bot(BOB, bed.passwords[BOB], tb.port))
    bot.login()
    client = bed.keep(client_of(bed, name, ta.port))
    client.login()
    published(ta)
    published(tb)
    there, back = (bed.canaries.secret() for _ in range(2))
    # whose window opens only by what comes cannot begin
    bot.say(ALICE, there)
    client.sees(there, seconds=20)
    client.say(BOB, back)
    assert bot.sees(back, seconds=20) == back
    assert status(ta)["gate"] is True
    [contact] = ta.json("contacts")
    until(lambda: ta.json("contacts")[0]["level"] == "vouched", str(contact))
    client.logout()
    bot.logout()
    assert not bot.errors


@pytest.mark.parametrize("name", ["sendxmpp", "go-sendxmpp"])
def test_what_a_one_shot_sender_sends_passes_a_gate(two: Two, name: str) -> None:
    """Its first login ever: the key is shown and vouched for while it is there."""
    bed, _, ta, tb = two
    bob = bed.raw(BOB, tb.port)
    published(tb)
    text = bed.canaries.secret()
    send_once(bed.home("sender"), bed, name, ta.port, text)
    assert text_of(bob.message(text, seconds=20)).strip() == text


def test_a_password_is_changed_in_a_client_through_a_gate(two: Two) -> None:
    """profanity asks for the new one twice, and sends it by XEP-0077."""
    bed, _, ta, _ = two
    changed = bed.canaries.secret()
    client = bed.keep(
        Profanity(bed.home("one"), ALICE, bed.passwords[ALICE], ta.port, tls=True)
    )
    client.login()
    client.terminal.type("/changepassword")
    client.terminal.wait("Enter password:")
    client.terminal.type(changed)
    client.terminal.wait("Confirm password:")
    client.terminal.type(changed)
    client.terminal.wait("Password successfully changed", seconds=20)
    client.logout()
    again = bed.keep(Profanity(bed.home("two"), ALICE, changed, ta.port, tls=True))
    again.login()
    # it stands in the server's account store, where passwords are not hashed
    bed.canaries.secrets.remove(changed)
