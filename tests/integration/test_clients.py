"""Unmodified clients through Tillie: they know nothing of it and talk sealed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from ..support.bed import Bed
from ..support.clients import (
    Bot,
    Finch,
    Mcabber,
    Person,
    Poezio,
    Profanity,
    go_sendxmpp,
    sendxmpp,
)
from ..support.raw import RawClient, local_certificate, text_of
from ..support.tap import Way
from ..support.tillie import Tillie
from ..support.waiting import until
from .test_conversations import ALICE, BOB, MESSAGE, ready

STATES = "http://jabber.org/protocol/chatstates"
RECEIPTS = "urn:xmpp:receipts"
CORRECTION = "urn:xmpp:message-correct:0"
COMPOSING = (
    f"<message to='{BOB}' type='chat'><composing xmlns='{STATES}'/>"
    "<no-store xmlns='urn:xmpp:hints'/></message>"
)


@pytest.fixture
def two(bed: Bed) -> tuple[Bed, Tillie, Tillie]:
    bed.start(ALICE, BOB)
    return bed, bed.tillie("ta"), bed.tillie("tb")


def client_of(bed: Bed, name: str, port: int) -> Person:
    """Alice's client at a Tillie: NAME in plaintext, NAME-tls by STARTTLS.

    finch upgrades whenever it can; poezio takes PLAIN in STARTTLS only.
    """
    home, password = bed.home(name), bed.passwords[ALICE]
    match name.partition("-")[0]:
        case "mcabber":
            return Mcabber(home, ALICE, password, port, tls="tls" in name)
        case "profanity":
            return Profanity(home, ALICE, password, port, tls="tls" in name)
        case "finch":
            certificate = local_certificate(port, "a.test")
            return Finch(home, ALICE, password, port, certificate=certificate)
        case "poezio":
            return Poezio(home, ALICE, password, port, ca=local_ca(bed.tillies[0]))
        case _:
            return Bot(ALICE, password, port, tls="tls" in name)


def local_ca(tillie: Tillie) -> str:
    """Tillie's own CA, which is made when TLS is first asked for."""
    local_certificate(tillie.port, "a.test")
    return tillie.local_ca()


def child(message: Element, namespace: str, name: str) -> Element | None:
    return message.find(f"{{{namespace}}}{name}")


def with_child(client: RawClient, namespace: str, name: str) -> Element:
    """The next message that has this child."""
    return client.wait_for(
        lambda one: one.tag == MESSAGE and child(one, namespace, name) is not None,
        seconds=20,
    )


@pytest.mark.parametrize(
    "name",
    [
        "mcabber",
        "mcabber-tls",
        "profanity",
        "profanity-tls",
        "slixmpp",
        "slixmpp-tls",
        "finch",
        "poezio",
    ],
)
def test_each_client_talks_sealed_both_ways(
    two: tuple[Bed, Tillie, Tillie], name: str
) -> None:
    bed, ta, tb = two
    bot = bed.keep(Bot(BOB, bed.passwords[BOB], tb.port))
    bot.login()
    client = bed.keep(client_of(bed, name, ta.port))
    client.login()
    ready(ta)
    ready(tb)
    first, there, back = (bed.canaries.secret() for _ in range(3))
    # finch answers only; what poezio is typed before a tab is open was seen to vanish.
    begins = name not in ("finch", "poezio")
    if begins:
        client.say(BOB, f"{first} erstes 😀")
        assert bot.sees(first, seconds=20) == f"{first} erstes 😀"
    # The text behind the canary: finch's window is narrow and breaks lines.
    bot.say(ALICE, f"{there} Grüße 😀")
    client.sees(there, seconds=20)
    assert "Grüße 😀" in client.sees("Grüße")
    client.say(BOB, f"zurück 😀 {back}")
    assert bot.sees(back, seconds=20) == f"zurück 😀 {back}"
    assert len(bot.messages()) == 1 + begins
    client.logout()
    bot.logout()
    assert not bot.errors


@pytest.mark.parametrize("name", ["mcabber", "profanity", "slixmpp"])
def test_each_client_sees_what_came_while_it_was_away(
    two: tuple[Bed, Tillie, Tillie], name: str
) -> None:
    bed, ta, tb = two
    bob = bed.raw(BOB, tb.port)
    first = bed.keep(client_of(bed, name, ta.port))
    first.login()
    ready(ta)
    ready(tb)
    first.logout()
    text = bed.canaries.secret()
    bob.say(ALICE, text)
    bob.ping()
    again = bed.keep(client_of(bed, f"{name}-again", ta.port))
    again.login()
    assert text in again.sees(text, seconds=20)


def test_a_client_is_told_why_a_message_was_not_sent(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    """ENC-01: what mcabber's person sees of policy ``ask``."""
    bed, ta, _ = two
    client = bed.keep(client_of(bed, "mcabber", ta.port))
    client.login()
    ready(ta)
    client.say(BOB, bed.canaries.secret())
    # Long lines are broken at about 170 columns: a part that stands in one.
    assert "not sent" in client.sees("not sent", seconds=20)


# One-shot senders: the process is gone when the keys are looked up.


def send_once(home: Path, bed: Bed, name: str, port: int, text: str) -> None:
    """Send to Bob as a cron job would, from a home that it may have used before."""
    password = bed.passwords[ALICE]
    if name == "go-sendxmpp":
        done = go_sendxmpp(home, ALICE, password, port, BOB, text)
    else:
        tls = name.endswith("tls")
        done = sendxmpp(home, ALICE, password, port, BOB, text, tls=tls)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["sendxmpp", "sendxmpp-tls", "go-sendxmpp"])
def test_what_a_one_shot_sender_sends_arrives(
    two: tuple[Bed, Tillie, Tillie], name: str
) -> None:
    """Its first login ever: keys are made, published and looked up behind it."""
    bed, ta, tb = two
    bob = bed.raw(BOB, tb.port)
    ready(tb)
    home = bed.home("sender")
    for _ in range(2):
        text = bed.canaries.secret()
        send_once(home, bed, name, ta.port, text)
        assert text_of(bob.message(text, seconds=20)).strip() == text
    assert len(bob.messages()) == 2


def test_what_a_one_shot_sender_sends_waits_for_its_reader(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    bed, ta, tb = two
    reader = bed.raw(BOB, tb.port)
    ready(tb)
    reader.close()
    text = bed.canaries.secret()
    send_once(bed.home("sender"), bed, "sendxmpp", ta.port, text)
    bob = bed.raw(BOB, tb.port, resource="later")
    assert text_of(bob.message(text, seconds=20)).strip() == text


@pytest.mark.parametrize("how", ["starttls", "direct"])
def test_a_strict_tls_client_takes_the_local_ca(bed: Bed, how: str) -> None:
    """go-sendxmpp checks the certificate against the domain, by SSL_CERT_FILE."""
    bed.start(ALICE, BOB)
    ta = bed.tillie("ta", arguments=["--listen-tls", "127.0.0.1:0"])
    tb = bed.tillie("tb")
    bob = bed.raw(BOB, tb.port)
    ready(tb)
    authority = bed.home("strict") / "ca.pem"
    authority.write_text(local_ca(ta))
    port = ta.port if how == "starttls" else direct_port(ta)
    text = bed.canaries.secret()
    done = strict_go_sendxmpp(bed, authority, port, text, direct=how == "direct")
    assert done.returncode == 0, done.stderr
    assert text_of(bob.message(text, seconds=20)).strip() == text
    # The same with a CA that is not Tillie's: the check above did check.
    other = strict_go_sendxmpp(
        bed, bed.authority.ca, port, bed.canaries.secret(), direct=how == "direct"
    )
    assert other.returncode != 0
    assert "certificate" in other.stderr


def direct_port(tillie: Tillie) -> int:
    """The port of the one ``--listen-tls``."""
    line = next(x for x in tillie.output.splitlines() if x.endswith("(tls)"))
    return int(line.rpartition(":")[2].split()[0])


def strict_go_sendxmpp(
    bed: Bed, authority: Path, port: int, text: str, *, direct: bool
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "go-sendxmpp",
            *("-u", ALICE, "-p", bed.passwords[ALICE], "-j", f"127.0.0.1:{port}"),
            *(["-t"] if direct else []),
            BOB,
        ],
        input=text,
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(authority.parent),
            "SSL_CERT_FILE": str(authority),
            "SSL_CERT_DIR": "/nonexistent",
        },
        timeout=30,
        check=False,
    )


# What clients send beside texts.


def test_typing_is_seen_once_there_is_a_lane(two: tuple[Bed, Tillie, Tillie]) -> None:
    """A transient alone opens no lane, and never goes in clear."""
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    alice.send(COMPOSING)
    text = bed.canaries.secret()
    alice.say(BOB, text)
    bob.message(text, seconds=20)
    early = [one for one in bob.stanzas if child(one, STATES, "composing") is not None]
    assert early == []
    alice.send(COMPOSING)
    typing = with_child(bob, STATES, "composing")
    assert text_of(typing) == ""
    sent = b"".join(tap.recorded(Way.OUT) for tap in bed.taps)
    assert STATES.encode() not in sent


def test_receipts_and_corrections_cross(two: tuple[Bed, Tillie, Tillie]) -> None:
    bed, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    ready(ta)
    ready(tb)
    wrong, right = bed.canaries.secret(), bed.canaries.secret()
    alice.send(
        f"<message to='{BOB}' type='chat' id='first'><body>{wrong}</body>"
        f"<request xmlns='{RECEIPTS}'/></message>"
    )
    got = with_child(bob, RECEIPTS, "request")
    assert (text_of(got), got.get("id")) == (wrong, "first")
    bob.send(
        f"<message to='{got.get('from')}' type='chat' id='receipt'>"
        f"<received xmlns='{RECEIPTS}' id='first'/></message>"
    )
    received = child(with_child(alice, RECEIPTS, "received"), RECEIPTS, "received")
    assert received is not None
    assert received.get("id") == "first"
    alice.send(
        f"<message to='{BOB}' type='chat' id='second'><body>{right}</body>"
        f"<replace xmlns='{CORRECTION}' id='first'/></message>"
    )
    corrected = with_child(bob, CORRECTION, "replace")
    replaced = child(corrected, CORRECTION, "replace")
    assert replaced is not None
    assert (text_of(corrected), replaced.get("id")) == (right, "first")
    sent = b"".join(tap.recorded(Way.OUT) for tap in bed.taps)
    for namespace in (RECEIPTS, CORRECTION):
        assert f"<received xmlns='{namespace}'".encode() not in sent
        assert f"<replace xmlns='{namespace}'".encode() not in sent


def test_profanity_answers_receipts_types_and_corrects(
    two: tuple[Bed, Tillie, Tillie],
) -> None:
    bed, ta, tb = two
    bob = bed.raw(BOB, tb.port)
    alice = Profanity(bed.home("p"), ALICE, bed.passwords[ALICE], ta.port)
    bed.keep(alice).login()
    ready(ta)
    ready(tb)
    for setting in ("/receipts send on", "/correction on", "/composing on"):
        alice.terminal.type(setting)
    text, wrong, right = (bed.canaries.secret() for _ in range(3))
    bob.send(
        f"<message to='{ALICE}' type='chat' id='asked'><body>{text}</body>"
        f"<request xmlns='{RECEIPTS}'/></message>"
    )
    alice.sees(text, seconds=20)
    received = child(with_child(bob, RECEIPTS, "received"), RECEIPTS, "received")
    assert received is not None
    assert received.get("id") == "asked"
    alice.say(BOB, wrong)
    first = bob.message(wrong, seconds=20)
    alice.terminal.type(f"/correct {right}")
    corrected = bob.message(right, seconds=20)
    replaced = child(corrected, CORRECTION, "replace")
    assert replaced is not None
    assert replaced.get("id") == first.get("id")


def test_no_client_is_confused_by_a_short_cut(two: tuple[Bed, Tillie, Tillie]) -> None:
    """profanity's stream lives on while Tillie resumes the server's (XEP-0198)."""
    bed, ta, tb = two
    bob = bed.raw(BOB, tb.port)
    alice = Profanity(bed.home("p"), ALICE, bed.passwords[ALICE], ta.port)
    bed.keep(alice).login()
    ready(ta)
    ready(tb)
    before, after, back = (bed.canaries.secret() for _ in range(3))
    alice.say(BOB, before)
    bob.message(before, seconds=20)
    tap = next(one for one in bed.taps if one.label == "ta a.test")
    seen = tap.accepted
    tap.cut()
    until(lambda: tap.accepted > seen, "Tillie to come back", seconds=15)
    alice.say(BOB, after)
    bob.message(after, seconds=20)
    bob.say(ALICE, back)
    alice.sees(back, seconds=20)
    assert "Lost connection" not in alice.terminal.screen()
