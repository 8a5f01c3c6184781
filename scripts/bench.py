#!/usr/bin/env python3
"""Measure Tillie beside what it is compared with, in one run and as ratios.

    scripts/bench [--quick] [--json FILE] [NAME ...]

Everything is on loopback, in private instances on free ports, with bounded loops:
a Prosody, two slixmpp clients direct, behind two stunnels, behind two Tillies, and
with slixmpp-omemo. Candidates take turns; figures are medians of the rounds.
Absolute figures belong to the machine and the minute: quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmarks import (  # noqa: E402
    chat,
    gatelogins,
    gatelookups,
    gatestreams,
    idle,
    passing,
    starting,
    wire,
)
from benchmarks.machine import machine  # noqa: E402
from benchmarks.table import Table  # noqa: E402


def _gate(table: Table, quick: bool) -> None:
    gatelogins.gate(table, quick)
    gatelookups.look_ups(table, quick)
    gatestreams.streams(table, quick)


SECTIONS: dict[str, Callable[[Table, bool], None]] = {
    "machine": machine,
    "chat": chat.chat,
    "passing": passing.passing,
    "wire": wire.wire,
    "start": starting.start,
    "memory": idle.memory,
    "gate": _gate,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="measure Tillie beside its peers")
    parser.add_argument("--quick", action="store_true", help="one or two minutes")
    names = list(SECTIONS)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    parser.add_argument(
        "section", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    wanted = [*(options.only or ()), *options.section] or names
    if unknown := set(wanted) - set(names):
        parser.error(f"no section is called {', '.join(sorted(unknown))}")
    figures: dict[str, Any] = {}
    began = time.monotonic()
    for name, section in SECTIONS.items():
        if name not in wanted:
            continue
        table = Table(name)
        section(table, options.quick)
        table.show()
        figures[name] = table.figures
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\n{time.monotonic() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
