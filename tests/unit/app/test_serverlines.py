"""`tillie gate config`: what it refuses, and that what it prints says what it was told.

That servers take it, and do what it means, is in tests/integration/test_federation.py.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Said

Tillie = Callable[..., Said]
SECRET = "a-secret-of-the-component"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
def test_what_it_was_told_stands_in_the_text(
    tillie: Tillie, secret: Path, server: str
) -> None:
    said = tillie(
        *("gate", "config", server, "--component-secret-file", secret),
        *("--domain", "A.example", "--domain", "bücher.example"),
        *("--c2s-port", "6000", "--component-port", "6001"),
    )
    assert (said.code, said.err) == (0, "")
    lines = [
        line.strip()
        for line in said.out.splitlines()
        if not line.lstrip().startswith(("#", "--"))
    ]
    settings = "\n".join(lines)
    for told in ('"keys.a.example"', '"keys.bücher.example"', "6000", "6001"):
        assert told in settings
    assert settings.count(SECRET) == 2
    # No listener but on loopback.
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", settings)) == {"127.0.0.1"}


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
def test_without_a_domain_the_lines_are_an_example(
    tillie: Tillie, secret: Path, server: str
) -> None:
    said = tillie("gate", "config", server, "--component-secret-file", secret)
    assert said.code == 0
    assert said.err == "hint: these are for example.org; --domain D names yours\n"
    assert '"keys.example.org"' in said.out


def test_a_server_that_is_not_named_is_asked_for_in_one_line(tillie: Tillie) -> None:
    said = tillie("gate", "config")
    assert said.code == 2
    assert said.err.splitlines()[0].endswith("Choose from: prosody, ejabberd")


def test_the_component_listener_of_prosody_is_left_alone(tillie: Tillie) -> None:
    said = tillie("gate", "config", "prosody", "--domain", "a.example")
    assert "component_ports" not in said.out
    assert "component_interfaces" not in said.out


def test_a_secret_is_made_once_for_its_owner_alone(
    tillie: Tillie, tmp_path: Path
) -> None:
    file = tmp_path / "new"
    command = ["gate", "config", "prosody", "--domain", "a.example"]
    command += ["--component-secret-file", str(file)]
    first, second = tillie(*command), tillie(*command)
    assert first == second
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f'component_secret = "{file.read_text().strip()}"' in first.out


def test_without_a_file_each_secret_is_new_and_that_is_said(tillie: Tillie) -> None:
    command = ("gate", "config", "ejabberd", "--domain", "a.example")
    first, second = tillie(*command), tillie(*command)
    assert first.out != second.out
    assert "--component-secret-file" in first.err


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
def test_a_gate_on_another_machine_is_warned_about(
    tillie: Tillie, secret: Path, server: str
) -> None:
    said = tillie(
        *("gate", "config", server, "--domain", "a.example", "--gate", "192.0.2.7"),
        *("--component-secret-file", secret),
    )
    assert said.code == 0
    assert said.err.startswith("tillie: warning: 192.0.2.7 is no loopback address")
    assert "WARNING: 192.0.2.7" in said.out
    assert said.out.count('"192.0.2.7"') == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--domain", "a@b.example"], '"a@b.example" is not a domain'),
        (["--domain", 'a"; os.execute("x")'], "is not a domain"),
        (["--domain", "192.0.2.7"], "is not a domain"),
        (["--domain", "a.example", "--domain", "A.example."], "is there twice"),
        (["--domain", "a.example", "--gate", "host"], "is not an IP address"),
        (
            ["--domain", "a.example", "--c2s-port", "7", "--component-port", "7"],
            "cannot share one port",
        ),
    ],
)
def test_what_cannot_be_configured_is_refused(
    tillie: Tillie, secret: Path, arguments: list[str], words: str
) -> None:
    said = tillie(
        "gate", "config", "prosody", "--component-secret-file", secret, *arguments
    )
    assert (said.code, said.out) == (1, "")
    assert words in said.err


@pytest.mark.parametrize(
    "text",
    ["", "short", 'with "quotes" in it', "x" * 300, "ünicode in a secret", "\xff"],
)
def test_a_secret_that_no_configuration_can_carry_is_refused(
    tillie: Tillie, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text.encode("latin-1"))
    said = tillie(
        *("gate", "config", "prosody", "--domain", "a.example"),
        *("--component-secret-file", file),
    )
    assert (said.code, said.out) == (1, "")
    assert "secret" in said.err


def test_a_secret_that_cannot_be_read_is_one_clear_line(
    tillie: Tillie, tmp_path: Path
) -> None:
    said = tillie(
        *("gate", "config", "prosody", "--domain", "a.example"),
        *("--component-secret-file", tmp_path / "no" / "folder"),
    )
    assert (said.code, said.out) == (1, "")
    assert "No such file or directory" in said.err
