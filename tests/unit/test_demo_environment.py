"""The demo runs with what its own extra installs, not with what tests need."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..support.tillie import ROOT

IMPORT = """
import json, sys
foreign = set(json.loads(sys.argv[1]))

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in foreign:
            raise ModuleNotFoundError(f"the demo's environment has no {name}")

sys.meta_path.insert(0, Refuse())
sys.path[:0] = sys.argv[2:]
import demo
import tests.support.bot
"""


def needed(name: str, extras: set[str], found: set[str]) -> set[str]:
    """Names of the distributions that come with *name*, itself included."""
    found.add(canonicalize_name(name))
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        marker = wanted.marker
        if marker and not any(marker.evaluate({"extra": e}) for e in (*extras, "")):
            continue
        if canonicalize_name(wanted.name) not in found:
            needed(wanted.name, set(wanted.extras), found)
    return found


def test_the_demo_imports_nothing_that_only_tests_have() -> None:
    there = needed("tillie", {"demo"}, set())
    foreign = [
        module
        for module, owners in packages_distributions().items()
        if not there & {canonicalize_name(one) for one in owners}
    ]
    assert {"pytest", "lxml", "hypothesis"} <= set(foreign)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            IMPORT,
            json.dumps([one for one in foreign if one not in ("tests", "scripts")]),
            str(ROOT),
            str(ROOT / "scripts"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
