"""`tillie doctor` on gates: what it says, and what to do, for each thing that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.app.gatedoctor import gate_rows
from tests.support.persons import NOW

ACCOUNT = {
    "jid": "juliet@capulet.example",
    "server": "capulet.example",
    "state": "ready",
}
WELL: dict[str, Any] = {
    "gated": True,
    "key": "ab" * 32,
    "since": NOW,
    "source": "stream",
    "alarm": "",
    "current": True,
    "token": NOW + 1,
    "covers": True,
    "login": NOW,
    "proved": True,
    "refused": "",
}


def rows(**changed: object) -> dict[str, dict[str, object]]:
    account = {**ACCOUNT, "state": changed.pop("state", "ready")}
    found = gate_rows(account, {**WELL, **changed}, NOW)
    return {str(one["check"]): one for one in found}


def test_all_is_well() -> None:
    found = rows()
    assert list(found) == ["gate", "gate-proof", "gate-token"]
    assert all(one["ok"] is True and one["hint"] == "" for one in found.values())
    assert "ab" * 32 in str(found["gate"]["text"])
    assert "pinned since 20" in str(found["gate"]["text"])


def test_a_domain_without_a_gate_is_no_fault() -> None:
    found = rows(gated=False)
    assert list(found) == ["gate"]
    assert found["gate"]["ok"] is True


@pytest.mark.parametrize(
    ("check", "hint", "changed"),
    [
        ("gate", "tillie forget capulet.example", {"alarm": "server-key-changed"}),
        ("gate", "tillie forget capulet.example", {"alarm": "server-fork"}),
        ("gate", "log in again", {"current": False}),
        ("gate-proof", "operator of capulet.example", {"refused": "the gate is false"}),
        ("gate-proof", "log in again", {"proved": False}),
        ("gate-token", "log in with your client", {"token": 0}),
        ("gate-token", "tillie link CODE", {"token": 0, "state": "linking"}),
        ("gate-token", "tillie notices", {"covers": False, "state": "alarm"}),
        ("gate-token", "log in with your client", {"token": NOW}),
    ],
)
def test_what_is_wrong_says_what_to_do(
    check: str, hint: str, changed: dict[str, Any]
) -> None:
    found = rows(**changed)
    assert [name for name, one in found.items() if not one["ok"]] == [check]
    assert hint in str(found[check]["hint"])
