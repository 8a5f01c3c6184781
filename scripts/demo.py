#!/usr/bin/env python3
"""The demo: two people on two domains with gates, their unmodified clients.

    scripts/run demo [--keep] [--client mcabber|profanity]

Starts two private Prosodys on loopback (a.test and b.test, each with what "tillie
gate config" prints, certificates of a throw-away CA between them), a gate in front
of each, a tap between gate and server that records what the server sees, a Tillie
for each of two people, a packaged terminal client on one side and a slixmpp bot on
the other. One line a message: who typed what, what the server saw, what the other
client showed. Then a third person comes without Tillie, and is refused. Exit code 1
when a plaintext was on the server's side, a message is missing, a key is not vouched
for, or the third person gets in. Everything lies in one temporary folder, which goes
when the demo ends.
"""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.bed import Bed  # noqa: E402 (the checkout is not installed)
from tests.support.canary import encodings  # noqa: E402
from tests.support.clients import Bot, Mcabber, Person, Profanity  # noqa: E402
from tests.support.federation import directory  # noqa: E402
from tests.support.gate import Gate  # noqa: E402
from tests.support.tap import Tap, Way  # noqa: E402
from tests.support.tillie import Tillie  # noqa: E402
from tests.support.waiting import TooLateError, until  # noqa: E402

ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@a.test"
FIRST_MESSAGE = 25.0
LATER_MESSAGE = 15.0
WIDTH = 84
SHOWN = 8

_MESSAGE = re.compile(rb"<message\b[^>]*>.*?</message>", re.DOTALL)
_SEALED = re.compile(rb"<(?:\w+:)?encrypted\b.*", re.DOTALL)


@dataclass
class Side:
    """One person: client, Tillie, gate, and the tap between that and the server."""

    person: Person
    tillie: Tillie
    gate: Gate
    tap: Tap


@dataclass
class Demo:
    """The state of one run; `problems` empty at its end means that all went well."""

    bed: Bed
    alice: Side
    bob: Side
    client: type[Mcabber | Profanity] = Mcabber
    count: int = 0
    problems: list[str] = field(default_factory=list)

    def message(
        self,
        sender: Side,
        receiver: Side,
        text: str,
        *,
        between: Callable[[], None] | None = None,
    ) -> None:
        """Send one message, wait for it at the other client, print its line.

        `between` runs after the server has the message and before it is read.
        """
        self.count += 1
        # No other text of this run, or in any file, can be mistaken for it.
        text = f"{text} [{secrets.token_hex(6)}]"
        self.bed.canaries.add(text)
        self.bed.canaries.add(text[-13:-1])
        mark = time.monotonic()
        seconds = FIRST_MESSAGE if self.count == 1 else LATER_MESSAGE
        sender.person.say(receiver.person.jid, text)
        try:
            seen = until(
                lambda: server_saw(sender.tap, receiver.person.jid, mark),
                "a message at the server",
                seconds=seconds,
            )
            if between is not None:
                between()
            line = receiver.person.sees(text[-13:-1], seconds=seconds)
        except TooLateError as error:
            self.problems.append(f"message {self.count} did not arrive: {error}")
            print(f"{self.count}. {name(sender)} typed “{text}”: NOT ARRIVED")
            return
        if text not in line:
            self.problems.append(f"message {self.count} was shown changed: {line!r}")
        shown = text if text in line else line.strip()
        print(
            f"{self.count}. {name(sender)} typed “{text}” | "
            f"the server saw {seen} | {name(receiver)} showed “{shown}”",
            flush=True,
        )

    def verdict(self) -> int:
        """Search the server's side and all files, print the result, return 0 or 1."""
        places = self.bed.places()
        hits = self.bed.hits()
        self.problems += [f"readable where it must not be: {hit}" for hit in hits]
        wire = sum(len(one.recorded()) for one in self.bed.taps)
        print(
            f"\nSearched {wire:,} bytes recorded at the server, its storage, and"
            f" the files of both Tillies ({len(places)} places) for every text, in"
            f" {len(encodings(ALICE))} encodings."
        )
        if not self.problems:
            print(
                f"All {self.count} messages arrived. None could be read on the"
                " server's side."
            )
            return 0
        for problem in self.problems[:SHOWN]:
            print(f"demo: error: {problem}", file=sys.stderr)
        if len(self.problems) > SHOWN:
            print(f"demo: and {len(self.problems) - SHOWN} more", file=sys.stderr)
        return 1


def name(side: Side) -> str:
    return f"{side.person.name} ({side.person.jid})"


def server_saw(tap: Tap, to: str, mark: float) -> str | None:
    """Return a short cut of the last message to `to` that left since `mark`.

    Cut from the sealed element on if there is one, else from the start.
    """
    sent = b"".join(
        one.data for one in tap.chunks() if one.at >= mark and one.way is Way.OUT
    )
    address = re.compile(rb"\sto=.%s[/'\"]" % re.escape(to.encode()))
    found = [one for one in _MESSAGE.findall(sent) if address.search(one)]
    if not found:
        return None
    # Chat states are messages too; the text's is the one that weighs most.
    heaviest = max(found, key=len)
    sealed = _SEALED.search(heaviest)
    cut = (sealed[0] if sealed else heaviest).decode("utf-8", "replace")
    return f"“{cut[:WIDTH]}… ({len(heaviest):,} bytes)”"


def set_up(bed: Bed, client: str) -> Demo:
    """Start servers, gates, taps, Tillies and clients, and log both people in."""
    bed.federate(ALICE, BOB, CAROL)
    kind = Mcabber if client == "mcabber" else Profanity
    sides = []
    for jid, label in ((ALICE, "alice"), (BOB, "bob")):
        domain = jid.partition("@")[2]
        tap = bed.tap(domain, plain=True)
        gate = bed.gate(
            f"gate-{domain}",
            backends={domain: tap.port},
            arguments=directory(
                bed.server_of(domain).behind_gate, bed.folder / f"gate-{domain}"
            ),
        )
        print(
            f"Server: Prosody for {domain}, recorded, behind a gate on 127.0.0.1:"
            f"{gate.port}: no key, no login."
        )
        tillie = bed.tillie(
            f"tillie-{label}", servers={domain: gate.port}, tls={domain: "starttls"}
        )
        person: Person
        if jid == BOB:
            person = Bot(jid, bed.account(jid), tillie.port)
        else:
            person = kind(bed.home("alice"), jid, bed.account(jid), tillie.port)
        sides.append(Side(bed.keep(person), tillie, gate, tap))
        person.login()
        print(f"Login:  {name(sides[-1])} through its Tillie on port {tillie.port}.")
    for side in sides:
        own = fingerprint(side)
        print(f"Keys:   {side.person.jid} has published its own, {own[:23]}…")
    print(flush=True)
    return Demo(bed, alice=sides[0], bob=sides[1], client=kind)


def fingerprint(side: Side) -> str:
    """Return the fingerprint of the person's root key, once it is published."""

    def published() -> str:
        accounts = side.tillie.json("status")["accounts"]
        own = [one for one in accounts if one["jid"] == side.person.jid]
        return str(own[0]["fingerprint"]) if own and own[0]["published"] else ""

    return until(published, f"{name(side)} to have keys", seconds=20)


def conversation(demo: Demo) -> None:
    """The messages of the demo, one while the receiver is offline."""
    alice, bob = demo.alice, demo.bob
    demo.message(alice, bob, "Hello Bob, can you read this?")
    demo.message(bob, alice, "Every word. Nobody else can.")
    demo.message(alice, bob, "Grüße aus Köln: Äpfel, Öl, süß 🍏")
    demo.message(bob, alice, "Да, ありがとう, 👍🏽 <b>&amp;</b>")

    def bob_comes_back() -> None:
        # What the server has stored by now is what it sends when he returns.
        bob.tillie.start()
        bob.person.login()

    bob.person.logout()
    bob.tillie.stop()
    print("   (Bob's client and his Tillie are off now: the server stores.)")
    demo.message(
        alice, bob, "This one waits for you at the server.", between=bob_comes_back
    )
    print("   (They are back.)")
    demo.message(bob, alice, "It waited, and I have it 🎉")


def vouched(demo: Demo) -> None:
    """Each domain's gate has signed for its side's key, and the other side knows."""
    for side, other in ((demo.alice, demo.bob), (demo.bob, demo.alice)):
        contacts = side.tillie.json("contacts")
        levels = [one["level"] for one in contacts if one["jid"] == other.person.jid]
        print(f"Keys:   {side.person.jid} has {other.person.jid} as {levels[0]}.")
        if levels != ["vouched"]:
            text = f"{other.person.jid} is not vouched for to {side.person.jid}"
            demo.problems.append(text)


def refused(demo: Demo) -> None:
    """A third person comes without Tillie, with the right password: in vain."""
    bed, gate, tap = demo.bed, demo.alice.gate, demo.alice.tap
    print("\nCarol has no Tillie. Her password is right; her clients go to the gate.")
    before = len(tap.recorded(Way.OUT))
    bot = bed.keep(Bot(CAROL, bed.account(CAROL), gate.port, tls=True))
    bot.start()
    person = bed.keep(
        demo.client(bed.home("carol"), CAROL, bed.account(CAROL), gate.port, tls=True)
    )
    try:
        said = bot.wait("failed", seconds=LATER_MESSAGE)
        print(f"{bot.name} ({CAROL}) was refused and told: “{said['text']}”")
        if "Tillie" not in said["text"]:
            demo.problems.append("the refusal does not say what to do")
        shown = person.refused()
        print(f"{person.name} ({CAROL}) was refused and shows only: “{shown}”")
    except TooLateError as error:
        demo.problems.append(f"the client without Tillie was not refused: {error}")
    finally:
        bot.stop()
        person.stop()
    if b"<auth" in tap.recorded(Way.OUT)[before:]:
        demo.problems.append("the login without a key reached the server")
    else:
        print("Neither of her passwords was tried at the server.", flush=True)


def how_to_attach(demo: Demo) -> str:
    """Return what a person needs to log in with a client of their own."""
    lines = ["", "It runs on. To look at it or to join with a client of your own:"]
    for side in (demo.alice, demo.bob):
        jid = side.person.jid
        lines += [
            f"  {jid}: password {demo.bed.account(jid)}, server 127.0.0.1 port"
            f" {side.tillie.port} (no TLS or STARTTLS)",
            f"    keys and state: scripts/run contacts --state {side.tillie.state}",
        ]
    home = demo.bed.folder / "home" / "alice"
    lines += [
        f"  {demo.alice.person.name} on your screen:"
        f" TMUX_TMPDIR={shlex.quote(str(home))} tmux -L bed attach",
        "Ctrl-C ends it and removes everything.",
    ]
    return "\n".join(lines)


def interrupted(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/run demo")
    parser.add_argument("--keep", action="store_true", help="leave it running")
    parser.add_argument("--client", choices=["mcabber", "profanity"], default="mcabber")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    bed = Bed()
    try:
        demo = set_up(bed, arguments.client)
        conversation(demo)
        vouched(demo)
        refused(demo)
        code = demo.verdict()
        if arguments.keep:
            print(how_to_attach(demo), flush=True)
            signal.pause()
    except AssertionError as error:
        for label, text in bed.report().items():
            print(f"--- end of the log of {label}\n{text}", file=sys.stderr)
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    finally:
        bed.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
