"""Much at once, and stanzas that no limit of ours lets through (RES-05, -06, -15)."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from ..support.bed import Bed
from ..support.raw import RawClient, text_of
from ..support.tap import Way
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_conversations import ALICE, BOB, CAROL, MESSAGE, error_of, ready

FLOOD = int(os.environ.get("TILLIE_TEST_FLOOD", "1200"))
PEERS = int(os.environ.get("TILLIE_TEST_PEERS", "200"))
PUBSUB = "http://jabber.org/protocol/pubsub"
MAM = "urn:xmpp:mam:2"


def memory(tillie: Tillie) -> int:
    """Resident bytes of the running program."""
    lines = Path(f"/proc/{tillie.pid}/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmRSS"))


def pings(client: RawClient, while_: threading.Thread) -> list[float]:
    """How long answers took, one after the other, while a thread was running."""
    took = []
    while while_.is_alive():
        began = time.monotonic()
        client.ping(seconds=60)
        took.append(time.monotonic() - began)
    return took


@pytest.mark.timeout(120 + FLOOD // 4)
def test_res_05_a_client_that_writes_as_fast_as_it_can(bed: Bed) -> None:
    """The server stops reading, so Tillie does; memory stays, the order is kept, and
    somebody else on the same Tillie is answered meanwhile."""
    bed.start(ALICE, BOB, CAROL)
    [tap] = [bed.tap("a.test")]
    tillie = bed.tillie("a", taps=[tap])
    reader = bed.tillie("b")
    alice, bob = bed.raw(ALICE, tillie.port), bed.raw(BOB, reader.port)
    ready(tillie)
    ready(reader)
    canary = bed.canaries.secret()
    alice.say(BOB, f"{canary} hello")
    bob.message("hello", seconds=20)
    before, written = memory(tillie), 0
    filling = "x" * 10_000
    tap.pause(Way.OUT)

    def flood() -> None:
        nonlocal written
        for at in range(FLOOD):
            alice.send(
                f"<message to='{BOB}' type='chat' id='f{at}'>"
                f"<body>{canary} {at} {filling}</body></message>"
            )
            written = at + 1

    alice._socket.settimeout(None)
    writer = threading.Thread(target=flood, daemon=True)
    writer.start()
    until(lambda: stands(lambda: written), "the flood to stand", seconds=60)
    assert 0 < written < FLOOD, "nothing held the client back"
    assert memory(tillie) - before < 96 * 1024 * 1024
    tap.resume(Way.OUT)
    carol = bed.raw(CAROL, tillie.port)
    quiet = statistics.median(timed_pings(carol, 5))
    took = pings(carol, writer)
    until(lambda: not writer.is_alive(), "the rest to be written", seconds=FLOOD / 5)
    bob.message(f" {FLOOD - 1} ", seconds=FLOOD / 5)
    texts = [text_of(one).split()[1] for one in bob.messages()]
    assert texts == ["hello", *map(str, range(FLOOD))]
    if took:
        slowest = statistics.quantiles([*took, *took], n=100)[98]
        assert slowest < max(0.25, 40 * quiet), (slowest, quiet)
    assert memory(tillie) - before < 96 * 1024 * 1024


def stands(look: object) -> bool:
    """Whether a number stays the same for a second."""
    assert callable(look)
    first = look()
    time.sleep(1)
    return bool(first) and look() == first


def timed_pings(client: RawClient, count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.monotonic()
        client.ping(seconds=60)
        took.append(time.monotonic() - began)
    return took


def test_res_06_a_first_message_to_each_of_many_people(bed: Bed) -> None:
    """Each is looked up once, however often it is written to, and comes back with the
    reason; a contact is written to as ever in between."""
    server = bed.scripted("a.test", ALICE, CAROL)
    ports, modes = {"a.test": server.port}, {"a.test": "starttls"}
    tillie, other = (bed.tillie(one, servers=ports, tls=modes) for one in "ac")
    alice, carol = bed.raw(ALICE, tillie.port), bed.raw(CAROL, other.port)
    ready(tillie)
    ready(other)
    before, canary = memory(tillie), bed.canaries.secret()
    people = [f"p{at}@a.test" for at in range(PEERS)]
    for turn in range(2):
        for person in people:
            alice.say(person, canary, ident=f"{turn} {person}")
        alice.say(CAROL, f"{canary} {turn}")
        carol.message(f"{canary} {turn}", seconds=60)
    for turn in range(2):
        for person in people:
            assert "no key" in error_of(alice, f"{turn} {person}")
    asked = [
        one.get("to")
        for jid, one in server.stanzas
        if jid.startswith(ALICE) and one.find(f"{{{PUBSUB}}}pubsub") is not None
    ]
    assert [asked.count(person) for person in people] == [1] * PEERS
    assert memory(tillie) - before < 32 * 1024 * 1024


# -- what an honest server hands on and no limit of ours lets through ----------------

OVER = {
    "deep": "<a>" * 300 + "</a>" * 300,
    "attributes": "<a" + "".join(f" a{at}=''" for at in range(9_000)) + "/>",
    "children": "<b/>" * 5_000,
}


def test_res_15_what_a_server_accepts_and_we_refuse_is_left_out(bed: Bed) -> None:
    """Live, on resumption, from the offline store and the archive: messages before
    and after it arrive, it is acknowledged, and no stream ends for it."""
    bed.start(ALICE, BOB)
    tap = bed.tap("b.test")
    tillie = bed.tillie("b", taps=[tap])
    bob = bed.raw(BOB, tillie.port)
    ready(tillie)
    # Alice has no Tillie; what she sends is hers to choose
    alice = RawClient(bed.server.starttls_port, "a.test")
    bed._raw.append(alice)
    alice.login(
        ALICE, bed.passwords[ALICE], tls=bed.authority.client_context(alpn=False)
    )
    live = round_of(alice, "live")
    assert arrived(bob, "live") == live
    tap.refuse()
    tap.cut()
    resumed = round_of(alice, "resumed")
    tap.accept()
    assert arrived(bob, "resumed") == resumed
    bob.ping()
    assert tap.accepted == 2, "a stream ended for it"
    bob.close()
    stored = round_of(alice, "stored")
    again = bed.raw(BOB, tillie.port)
    assert arrived(again, "stored") == stored
    again.ping()
    assert tap.accepted == 3, "a stream ended for it"
    page = again.ask("set", f"<query xmlns='{MAM}' queryid='q'/>", seconds=30)
    assert page.get("type") == "result"
    paged = [one for one in again.stanzas if one.find(f"{{{MAM}}}result") is not None]
    bodies = ["".join(one.itertext()) for one in paged]
    assert [
        sum(f"{name} last" in body for body in bodies) for name in ("live", "stored")
    ] == [1, 1]
    assert tap.accepted == 3
    told = [one["text"] for one in tillie.json("notices") if "left out" in one["text"]]
    assert 1 <= len(told) <= len(OVER) * 4
    assert tillie.running


def round_of(alice: RawClient, name: str) -> list[str]:
    """A good message, one of each kind that is over the limits, and a good one."""
    alice.say(BOB, f"{name} first")
    for kind, content in OVER.items():
        alice.send(
            f"<message to='{BOB}' type='chat' id='{name} {kind}'>"
            f"<body>{name} {kind}</body>{content}</message>"
        )
    alice.say(BOB, f"{name} last")
    alice.ping(seconds=60)
    return [f"{name} first", f"{name} last"]


def arrived(bob: RawClient, name: str) -> list[str]:
    """The round's texts at Bob's client, up to the last."""
    bob.message(f"{name} last", seconds=30)
    return [
        text_of(one)
        for one in bob.stanzas
        if one.tag == MESSAGE and text_of(one).startswith(f"{name} ")
    ]
