"""Every file in ``tests/vectors/keys/documents`` gives the verdict in its header."""

from __future__ import annotations

import base64
import json
import pathlib
from dataclasses import dataclass

import pytest

from proxy.errors import PeerFault, TrustFault
from proxy.keys import documents

DIRECTORY = pathlib.Path(__file__).parents[2] / "vectors" / "keys" / "documents"
FAULTS = {"bad-form": PeerFault, "not-valid": TrustFault}


@dataclass(frozen=True)
class Vector:
    header: dict[str, str]
    artefact: bytes


def read(name: str) -> Vector:
    head, _, artefact = (DIRECTORY / name).read_bytes().partition(b"\n\n")
    lines = head.decode().splitlines()
    return Vector(dict(line.split(": ", 1) for line in lines if ": " in line), artefact)


def unb64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


SIGNER = json.loads((DIRECTORY / "signer.json").read_text())
KEYS = unb64url(SIGNER["ed25519"]), unb64url(SIGNER["mldsa65"])
NAMES = sorted(path.name for path in DIRECTORY.glob("*.vector"))


@pytest.mark.parametrize("name", NAMES)
def test_i4_vector(name: str) -> None:
    vector = read(name)
    expect = vector.header["expect"]
    if expect == "good":
        documents.open_doc(vector.artefact, SIGNER["typ"], *KEYS)
        return
    with pytest.raises(FAULTS[expect], match=vector.header["says"]) as caught:
        documents.open_doc(vector.artefact, SIGNER["typ"], *KEYS)
    assert type(caught.value) is FAULTS[expect]


@pytest.mark.parametrize("name", NAMES)
def test_i4_peek_refuses_the_same_forms(name: str) -> None:
    vector = read(name)
    if vector.header["expect"] == "bad-form":
        with pytest.raises(PeerFault, match=vector.header["says"]):
            documents.peek_doc(vector.artefact, SIGNER["typ"])
    else:
        assert documents.peek_doc(vector.artefact, SIGNER["typ"])["a"] is not None


def test_the_families_are_all_there() -> None:
    families = {name.split("-")[0] for name in NAMES}
    wanted = {"good", "ed", "mldsa", "entries", "shape", "base64", "header", "claims"}
    assert wanted <= families
    assert len(NAMES) > 120
