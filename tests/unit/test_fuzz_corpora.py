"""Every fuzz target holds its invariant for its seeds, its corpus, and bent ones."""

from __future__ import annotations

import random

import pytest

from ..fuzz import CORPUS, NAMES, TARGETS, corpus

BENT = 3


@pytest.mark.parametrize("name", NAMES)
def test_corpus(name: str) -> None:
    """What atheris once found, or nearly, stays refused; without atheris."""
    target = TARGETS[name]()
    seeds, kept = target.seeds(), corpus(name)
    assert seeds
    assert kept, f"nothing in {CORPUS / name}"
    dice = random.Random(name)
    for data in [*seeds, *kept]:
        target.one(data)
        for _ in range(BENT):
            target.one(_bent(data, dice))


def _bent(data: bytes, dice: random.Random) -> bytes:
    """One byte changed, some removed, or another input's habit put in."""
    at = dice.randrange(len(data) + 1)
    match dice.randrange(4):
        case 0:
            return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return (
                data[:at]
                + dice.choice((b"<", b"&", b"]]>", b"\0", b"\xff"))
                + data[at:]
            )
        case _:
            return data[at:] + data[:at]


@pytest.mark.parametrize("name", NAMES)
def test_the_invariant_stands_first(name: str) -> None:
    target = TARGETS[name]()
    with open(target.__file__) as file:
        assert file.readline().startswith("# ")
