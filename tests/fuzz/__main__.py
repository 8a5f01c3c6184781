"""Run one target under atheris; see ``scripts/fuzz``.

    python -m tests.fuzz TARGET FOLDER [libFuzzer's options]

FOLDER takes what is found; the seeds and the target's corpus go into it first.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

from . import TARGETS, corpus

if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    with atheris.instrument_imports(include=["proxy"]):
        target = TARGETS[name]()
    folder.mkdir(parents=True, exist_ok=True)
    for data in [*target.seeds(), *corpus(name)]:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    atheris.Setup([sys.argv[0], *sys.argv[3:], str(folder)], target.one)
    atheris.Fuzz()
