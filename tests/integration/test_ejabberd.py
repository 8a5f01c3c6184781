"""The same against ejabberd: keys in its PEP, seals through it, its resumption."""

from __future__ import annotations

import pytest

from ..support.bed import Bed
from ..support.ejabberd import Ejabberd
from ..support.raw import RawClient, text_of
from ..support.tap import Way
from .test_conversations import ALICE, BOB, CAROL, error_of, ready
from .test_kills import pair

MAM = "urn:xmpp:mam:2"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def on_ejabberd(bed: Bed) -> Bed:
    """A bed whose server is ejabberd, for both domains."""
    server = Ejabberd(bed.folder / "ejabberd", bed.leaf, bed.domains)
    bed.server = server  # type: ignore[assignment]
    server.start()
    for jid in (ALICE, BOB, CAROL):
        bed.account(jid)
    return bed


def test_a_conversation_over_ejabberd(on_ejabberd: Bed) -> None:
    """First contact, both ways, one of them offline, and the archive afterwards; a
    contact without keys, a wrong password, the road by STARTTLS."""
    bed = on_ejabberd
    starttls = {"b.test": bed.server.starttls_port}
    ta = bed.tillie("a")
    tb = bed.tillie("b", servers=starttls, tls={"b.test": "starttls"})
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    there, back, later = (bed.canaries.secret() for _ in range(3))
    alice.say(BOB, there)
    assert text_of(bob.message(there, seconds=30)) == there
    bob.say(ALICE, back)
    assert text_of(alice.message(back, seconds=30)) == back
    bob.close()
    alice.say(BOB, later)
    alice.ping()
    again = bed.raw(BOB, tb.port)
    assert text_of(again.message(later, seconds=30)) == later
    [sent] = [tap.recorded(Way.OUT) for tap in bed.taps if tap.recorded(Way.OUT)]
    assert b"<encrypted xmlns='urn:x-tillie:seal:0'>" in sent
    page = again.ask("set", f"<query xmlns='{MAM}' queryid='q'/>", seconds=30)
    assert page.get("type") == "result"
    paged = [one for one in again.stanzas if one.find(f"{{{MAM}}}result") is not None]
    read = ["".join(one.itertext()) for one in paged]
    for text in (there, back, later):
        assert sum(text in one for one in read) == 1
    for tillie in (ta, tb):
        checks = tillie.json("doctor")
        assert [one for one in checks if not one["ok"]] == [], tillie.folder.name
    # its answer about a node that is not there proves that there is no key
    ident = alice.say(CAROL, bed.canaries.secret())
    assert "tillie allow" in error_of(alice, ident)
    with RawClient(ta.port, "a.test", seconds=20) as client:
        client.open_stream()
        with pytest.raises(AssertionError, match="not-authorized"):
            client.authenticate(ALICE, "this is not the password")


def test_rel_05_12_killed_and_cut_on_ejabberd(on_ejabberd: Bed) -> None:
    """A kill of one Tillie, then cut lines of both: resumed, nothing lost or twice."""
    both = pair(on_ejabberd)
    both.alice.say()
    both.bob.say()
    both.bob.tillie.kill()
    both.alice.say()
    both.alice.ping()
    both.settle()
    assert b"<resumed " in both.taps[1].recorded(Way.IN)
    for tap in both.taps:
        both.alice.say(1)
        both.bob.say(1)
        tap.cut()
    both.settle()
    assert both.broken_promises(killed={BOB}) == []
    assert len(both.alice.connections) == 1
