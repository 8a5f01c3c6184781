"""A gate's registry in a process of its own: told what to do, and killed.

    python -m tests.contract.gate URL vouch FILE    each line of FILE is a vouch
    python -m tests.contract.gate URL hang before|after FILE

`hang` answers the first, writes a line when it stands before or behind the commit,
and waits to be killed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from proxy.errors import StoreFault
from proxy.gate.admission import answer, prepare
from proxy.gate.questions import Issued, Question, Vouch
from proxy.keys import databases
from proxy.keys.registry import Interrupted, Registry

NOW = 1_795_000_000_000


def write(path: Path, questions: list[Question]) -> None:
    lines = []
    for one in questions:
        values = {name: getattr(one, name) for name in one.__slots__}
        coded = {
            name: {"hex": value.hex()} if isinstance(value, bytes) else value
            for name, value in values.items()
        }
        lines.append(json.dumps([type(one).__name__, coded]))
    path.write_text("\n".join(lines))


def read(path: Path) -> list[Question]:
    kinds = {"Vouch": Vouch, "Issued": Issued}
    questions = []
    for line in path.read_text().splitlines():
        name, coded = json.loads(line)
        values = {
            key: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
            for key, value in coded.items()
        }
        questions.append(kinds[name](**values))
    return questions


def ask_all(registry: Registry, questions: list[Question]) -> None:
    for question in questions:
        ready = prepare(question)
        for tries in (0, 1, 2):
            try:
                with registry.transaction():
                    said = answer(ready, registry, NOW)
                break
            except Interrupted:
                if tries == 2:
                    raise
        print(type(said).__name__, flush=True)


def hang() -> None:
    print("here", flush=True)
    time.sleep(600)


def main() -> int:
    url, what, *rest = sys.argv[1:]
    try:
        if what == "vouch":
            ask_all(databases.open_registry(url), read(Path(rest[0])))
        elif rest[0] == "before":
            registry = databases.open_registry(url, before_commit=hang)
            ask_all(registry, read(Path(rest[1])))
        else:
            registry = databases.open_registry(url)
            ask_all(registry, read(Path(rest[1])))
            hang()
    except StoreFault as fault:
        print(fault.text, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
