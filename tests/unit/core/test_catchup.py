"""Old private prekeys go behind a catch-up (I11; protocol.md, 3.3.1)."""

from __future__ import annotations

from typing import cast
from xml.etree.ElementTree import Element

import pytest

from proxy.core.catchup import PAUSE, SETTLED, CatchUp
from proxy.core.identity import PREKEY_LIFE
from proxy.core.session import Session
from proxy.wire.stanza import Stanza
from tests.support.simulator import (
    ALICE,
    BOB,
    DAY,
    GRANT,
    Client,
    Couple,
    Upstream,
    couple,
    parsed,
    sealed,
    without,
)

PING = "{urn:xmpp:ping}ping"
MINUTE = 60_000


def has(c: Couple, number: int = 1) -> bool:
    return c.account.identity.prekey(number) is not None


def superseded(c: Couple, days: int) -> None:
    """Alice's first prekey was superseded *days* ago; her Tillie was off since."""
    c.world.now += PREKEY_LIFE
    with c.a.writing():
        assert c.account.identity.rotate_prekey(c.world.now)
    c.alice.close()
    c.a.restart()
    c.world.now += days * DAY


def come_back(c: Couple, presence: str = "<presence/>") -> Client:
    c.alice = c.world.login(c.a, ALICE, available=False)
    c.alice.send(presence)
    return c.alice


def test_i11_prekey_goes_once_the_client_was_there_for_a_while() -> None:
    c = couple()
    superseded(c, 31)
    come_back(c)
    c.world.wait(SETTLED - 5_000)
    assert has(c)
    c.world.wait(10_000)
    assert not has(c)
    assert has(c, 2)


def test_i11_prekey_stays_for_thirty_days() -> None:
    c = couple()
    superseded(c, 29)
    come_back(c)
    c.world.wait(SETTLED + 10_000)
    assert has(c)


def test_i11_mail_that_lay_there_for_months_opens() -> None:
    """I11: sealed to the old prekey by somebody who did not look again; the device
    was online once since, long ago, and deletes nothing before it has its mail."""
    c = couple()
    superseded(c, 0)
    come_back(c)
    c.world.wait(SETTLED + 10_000)
    assert has(c)
    c.alice.close()
    c.world.pep_answers[ALICE, "urn:x-tillie:key:0"] = "remote-server-timeout"
    c.bob.close()
    c.bob = c.world.login(c.b, BOB)
    with c.b.writing():
        c.b.account(BOB).ratchets.rotate(ALICE)
    c.bob.say(ALICE, "to the old prekey")
    [grant] = c.world.offline[ALICE][0].iter(GRANT)
    assert grant.get("prekey") == "1"
    c.world.now += 100 * DAY
    c.alice = c.world.login(c.a, ALICE, available=False)
    c.world.wait(SETTLED + 10_000)
    assert has(c)
    c.alice.send("<presence/>")
    assert c.alice.bodies == ["to the old prekey"]
    c.world.wait(SETTLED + 10_000)
    assert not has(c)


@pytest.mark.parametrize(
    "presence",
    [
        pytest.param("<presence><priority>-1</priority></presence>", id="RFC6121-8.5"),
        pytest.param("<presence type='unavailable'/>", id="unavailable"),
        pytest.param(f"<presence to='{BOB}'/>", id="directed"),
    ],
)
def test_i11_a_client_that_gets_no_mail_is_no_catch_up(presence: str) -> None:
    c = couple()
    superseded(c, 31)
    come_back(c, presence)
    c.world.wait(SETTLED + 10_000)
    assert has(c)
    c.alice.send("<presence><priority>5</priority></presence>")
    c.world.wait(SETTLED + 10_000)
    assert not has(c)


def test_i11_five_minutes_begin_anew_with_each_presence_behind_a_break() -> None:
    c = couple()
    superseded(c, 31)
    come_back(c)
    for _ in range(3):
        c.world.wait(SETTLED - 60_000)
        c.alice.send("<presence type='unavailable'/>")
        c.alice.send("<presence><priority>nonsense</priority></presence>")
    c.world.wait(SETTLED - 60_000)
    assert has(c)
    c.alice.send("<presence><show>away</show></presence>")
    c.world.wait(70_000)
    assert not has(c)


def test_i11_a_server_that_does_not_answer_keeps_the_prekey() -> None:
    c = couple()
    superseded(c, 31)
    come_back(c)
    c.world.leaving = without(PING)
    c.world.wait(SETTLED + 30_000)
    assert has(c)
    c.world.leaving = lambda _s, _x: None
    c.world.wait(PAUSE + 10_000)
    assert not has(c)


def test_i11_an_error_is_an_answer() -> None:
    """XEP-0199 is not everywhere; the answer came behind the mail all the same."""
    c = couple()
    superseded(c, 31)
    come_back(c)

    def leaving(_: Upstream, stanza: Element) -> None:
        if stanza.find(PING) is not None:
            stanza[0].tag = "{urn:unknown}ping"

    c.world.leaving = leaving
    c.world.wait(SETTLED + 10_000)
    assert not has(c)


def test_enc_12_a_replay_after_months_is_known_while_its_prekey_is_here() -> None:
    """Lane and prekeys outlive nothing that was seen: a device that was off for 100
    days still has the prekey, and the server a message with its grant."""
    c = couple(talked=False)
    c.bob.say(ALICE, "seen long ago")
    [old] = sealed(c.bob.upstream.stanzas)
    assert old.find(f".//{GRANT}") is not None
    old.set("from", f"{BOB}/one")
    assert c.alice.bodies == ["seen long ago"]
    superseded(c, 100)
    come_back(c)
    c.world.wait(2_000)
    assert has(c)
    assert c.a.store.scan("lane", ALICE) == []
    c.world.inject(c.alice, old)
    assert c.alice.bodies == []
    c.world.wait(SETTLED + 10_000)
    assert not has(c)
    c.world.inject(c.alice, old)
    assert "seen long ago" not in c.alice.bodies


class Line:
    """A stream on which nothing but questions is looked at."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, *_: object) -> None:
        self.asked += 1


def test_i11_nothing_is_asked_where_nothing_is_due() -> None:
    c = couple()
    line, now = cast("Session", Line()), c.world.now
    catch_up = CatchUp(c.account.identity, lambda: now)
    catch_up.presence(line, Stanza.of(parsed("<presence/>")))
    with c.a.writing():
        for minutes in range(0, 300, 10):
            catch_up.tick(line, now + minutes * MINUTE)
        assert cast("Line", line).asked == 0
        assert c.account.identity.rotate_prekey(now + 2 * DAY)
        for minutes in range(0, 300, 10):
            catch_up.tick(line, now + 33 * DAY + minutes * MINUTE)
    assert cast("Line", line).asked == 5
