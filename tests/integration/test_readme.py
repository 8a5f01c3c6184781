"""The README's session is run, and says what the README says it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.bed import Bed
from ..support.tillie import ROOT
from ..support.waiting import until
from .test_conversations import ready

ALICE, BOB, CAROL = "alice@example.org", "bob@example.net", "carol@example.org"

# what differs from run to run, and stands for itself in a shape
VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\d{5}(?: \d{5}){11}", "FINGERPRINT"),
    (r"\[[0-9a-f]{12}\]", "[ID]"),
    (r"<payload>[^ ]*…", "<payload>…"),
    (r"\([\d,]+ bytes\)", "(N bytes)"),
    (r" {2,}", "  "),
    (r" +$", ""),
)


def shape(text: str) -> str:
    """A text without what varies, columns moved together."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.strip()


def session() -> dict[str, str]:
    """By command: its output as the README shows it, under "What it looks like"."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## What it looks like", 1)[1].split("\n## ", 1)[0]
    found: dict[str, str] = {}
    for block in re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found[command] = output.strip()
    return found


def test_the_readmes_session_is_what_one_sees() -> None:
    shown = session()
    del shown["scripts/run demo"]
    bed = Bed(("example.org", "example.net"))
    bed.start(ALICE, BOB, CAROL)
    taps = [bed.tap(domain) for domain in bed.domains]
    tillie, other = bed.tillie("a", taps=taps[:1]), bed.tillie("b", taps=taps[1:])
    alice, bob = bed.raw(ALICE, tillie.port), bed.raw(BOB, other.port)
    ready(tillie)
    ready(other)
    text = bed.canaries.secret()
    alice.say(BOB, text)
    bob.message(text, seconds=20)
    until(lambda: tillie.json("contacts"), "the contact to be known")
    assert shape(tillie.output) == shape(shown.pop("tillie run"))
    for command, expected in shown.items():
        done = tillie.command(*command.removeprefix("tillie ").split())
        assert (done.returncode, done.stderr) == (0, ""), command
        assert shape(done.stdout) == shape(expected), command
    assert len(shown) == 4


@pytest.mark.timeout(300)
def test_the_readmes_demo_is_what_one_sees() -> None:
    """Some of its lines, says the README: each of them is there, and it ends well.

    Without `scripts/run`, which would set up an environment of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [shape(line) for line in done.stdout.splitlines()]
    for line in session()["scripts/run demo"].splitlines():
        assert shape(line) in lines, done.stdout


def test_what_the_readme_names_is_there() -> None:
    """Its links lead to files, and its unit is the one in the tree."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^):]+)\)", text)
    assert links
    for link in links:
        assert Path(ROOT, link.partition("#")[0]).exists(), link
    unit = re.search(r"```ini\n(\[Unit\].*?)```", text, re.DOTALL)
    assert unit is not None
    assert (ROOT / "docs" / "tillie.service").read_text().endswith(unit[1])
