"""The filter for fail2ban reads the lines that a gate writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.core.streams import SASL
from tests.unit.gate.staging import Stage, plain

FILTER = Path(__file__).parents[3] / "docs" / "fail2ban" / "tillie-gate.conf"
HOST = r"(?P<host>[\d.]+|[\da-fA-F:]+)"


def pattern() -> re.Pattern[str]:
    line = next(
        one for one in FILTER.read_text().splitlines() if one.startswith("failregex")
    )
    return re.compile(line.partition("=")[2].strip().replace("<HOST>", HOST))


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_auth_14_a_wrong_password_is_counted(address: str) -> None:
    stage = Stage(address=address).presented()
    stage.client(plain("juliet", "wrong"))
    stage.server(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
    found = pattern().search(f"tillie: {stage.said[-1]}")
    assert found is not None
    assert found["host"] == address


def test_a_wrong_proof_is_counted() -> None:
    stage = Stage().at_door()
    stage.client("<present xmlns='urn:x-tillie:auth:0'/>")
    assert pattern().search(f"tillie: {stage.said[-1]}")


def test_a_client_without_a_key_is_not() -> None:
    stage = Stage(person=None).at_door()
    stage.client(plain("juliet", "x"))
    assert not pattern().search(f"tillie: {stage.said[-1]}")
