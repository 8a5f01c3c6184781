from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import __version__
from proxy.app.config import Config
from proxy.errors import EnvFault

from .answering import ANSWERS, FINGERPRINT
from .conftest import Said

Tillie = Callable[..., Said]


def complaint(said: Said) -> tuple[str, str]:
    """The error and the hint of *said*, which printed nothing else."""
    assert said.out == ""
    error, hint = said.err.splitlines()
    assert error.startswith("tillie: error: ")
    assert hint.startswith("hint: ")
    return error.removeprefix("tillie: error: "), hint.removeprefix("hint: ")


# -- usage --------------------------------------------------------------------


def test_version(tillie: Tillie) -> None:
    assert tillie("--version") == Said(0, f"tillie {__version__}\n", "")


@pytest.mark.parametrize("argv", [["--help"], ["run", "-h"], ["gate", "--help"]])
def test_help(tillie: Tillie, argv: list[str]) -> None:
    said = tillie(*argv)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Usage: tillie")


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        ([], "missing command", "tillie --help shows what it takes"),
        (
            ["statsu"],
            "no such command 'statsu'. Did you mean 'status'?",
            "tillie --help",
        ),
        (["run", "--listn", "1"], "no such option", "tillie run --help"),
        (
            ["run", "extra"],
            "got unexpected extra argument (extra)",
            "tillie run --help",
        ),
        (["run", "--listen"], "option '--listen' requires an argument", "--help"),
        (["run", "--listen", "5222"], "HOST:PORT", "127.0.0.1:5222"),
        (["allow"], "missing argument 'JID'", "tillie allow --help"),
        (
            ["devices", "name"],
            "missing argument '[ID] NAME",
            "tillie devices name --help",
        ),
        (["devices", "name", "a", "b", "c"], "quotes", "tillie devices name --help"),
        (["devices", "burn"], "no such command 'burn'", "tillie devices --help"),
        (["\x1b[2J"], r"'\x1b[2J'", "--help"),
    ],
)
def test_wrong_usage_is_2(
    tillie: Tillie, argv: list[str], error: str, hint: str
) -> None:
    said = tillie(*argv)
    assert said.code == 2
    assert error in complaint(said)[0]
    assert hint in complaint(said)[1]


@pytest.mark.parametrize(
    "argv",
    [
        ["verify", "bob@e.org", "--fingerprint", "F"],
        ["export", "FILE"],
        ["import", "FILE", "--passphrase-file", "F"],
        ["service", "install"],
    ],
)
def test_what_is_not_built_says_so(tillie: Tillie, argv: list[str]) -> None:
    said = tillie(*argv)
    assert said.code == 1
    assert complaint(said)[0] == f"{argv[0]} is not built yet"


# -- tillie run ---------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configurations that the service was started with."""
    configs: list[Config] = []

    def run(config: Config) -> int:
        configs.append(config)
        if config.log_level == "error":
            raise EnvFault("port 5222 is taken\x1b[2J", hint="see tillie doctor")
        return 0

    service = types.ModuleType("proxy.app.service")
    service.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.app.service", service)
    return configs


def test_run_hands_over_what_it_was_told(
    tillie: Tillie, started: list[Config], tmp_path: Path
) -> None:
    said = tillie(
        *("run", "--listen-tls", "127.0.0.1:0", "--listen", "127.0.0.1:0"),
        *("--listen-tls", "[::1]:0", "--state", tmp_path, "--log-json"),
        *("--server", "e.org=127.0.0.1:1", "--server", "f.org=127.0.0.1:2"),
        *("--tls", "e.org=direct", "--resolver", "127.0.0.1:53"),
    )
    assert said == Said(0, "", "")
    (config,) = started
    assert [str(one) for one in config.listeners] == [
        "127.0.0.1:0 (tls)",
        "127.0.0.1:0 (starttls)",
        "[::1]:0 (tls)",
    ]
    assert (config.state, config.log_json) == (tmp_path, True)
    assert {domain: str(one) for domain, one in config.servers.items()} == {
        "e.org": "127.0.0.1:1",
        "f.org": "127.0.0.1:2",
    }
    assert (config.tls, str(config.resolver)) == ({"e.org": "direct"}, "127.0.0.1:53")


def test_loc_13_run_closes_the_umask_first(
    tillie: Tillie, started: list[Config], tmp_path: Path
) -> None:
    os.umask(0)
    tillie("run", "--state", tmp_path)
    assert os.umask(0o077) == 0o077


def test_run_reads_variables_and_the_file(
    tillie: Tillie,
    started: list[Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        'listen = "127.0.0.1:7"\nstate = "kept"\nclear = ["*@bots.example"]'
    )
    monkeypatch.setenv("TILLIE_LISTEN", "127.0.0.1:8")
    assert tillie("run", "--config", path).code == 0
    (config,) = started
    assert [one.port for one in config.listen] == [8]
    assert config.state == tmp_path / "kept"
    assert config.clear == ("*@bots.example",)


def test_loc_16_a_public_listener_needs_the_long_switch_and_warns_each_time(
    tillie: Tillie, started: list[Config], tmp_path: Path
) -> None:
    argv = ["run", "--state", tmp_path, "--listen", "0.0.0.0:0"]
    said = tillie(*argv)
    assert said.code == 1
    assert "other machines" in complaint(said)[0]
    assert "--listen-beyond-this-machine" in complaint(said)[1]
    assert started == []
    for _ in range(2):
        said = tillie(*argv, "--listen-beyond-this-machine")
        assert said.code == 0
        assert said.err.startswith("tillie: warning: listening on 0.0.0.0:0")
        assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ('listn = "x"', "listn is not a setting", "did you mean listen?"),
        ("listen = [", "is not TOML", "quotes"),
        ("x\n\x1b[2J", "is not TOML", "quotes"),
    ],
)
def test_a_bad_file_ends_the_start(
    tillie: Tillie,
    started: list[Config],
    tmp_path: Path,
    text: str,
    error: str,
    hint: str,
) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    said = tillie("run", "--state", tmp_path / "state", "--config", path)
    assert said.code == 1
    assert error in complaint(said)[0]
    assert hint in complaint(said)[1]
    assert started == []
    assert list(tmp_path.iterdir()) == [path], "nothing was made"


def test_a_fault_of_the_service_is_one_line_and_1(
    tillie: Tillie, started: list[Config], tmp_path: Path
) -> None:
    said = tillie("run", "--state", tmp_path, "--log-level", "error")
    assert said.code == 1
    assert complaint(said) == (r"port 5222 is taken\x1b[2J", "see tillie doctor")


# -- commands that ask --------------------------------------------------------

ASKING = [
    ["status"],
    ["contacts"],
    ["notices"],
    ["devices"],
    ["devices", "name", "d1", "desk"],
    ["devices", "remove", "d1"],
    ["link"],
    ["link", "ABCD"],
    ["allow", "bob@e.org"],
    ["require", "bob@e.org"],
    ["enrol", "bob@e.org", "CODE"],
    ["forget", "bob@e.org"],
    ["doctor"],
]


@pytest.mark.parametrize("argv", ASKING, ids=" ".join)
def test_not_running_is_3(tillie: Tillie, argv: list[str], tmp_path: Path) -> None:
    said = tillie(*argv, "--json", "--state", tmp_path)
    assert said.code == 3
    assert complaint(said) == (
        f"no Tillie is running with the state folder {tmp_path}",
        "start it with: tillie run; or name its folder with --state",
    )


@pytest.mark.parametrize("command", ["status", "contacts", "notices", "devices"])
def test_json_is_the_result_and_harmless(
    tillie: Tillie, answering: Path, command: str
) -> None:
    said = tillie(command, "--json", "--state", answering)
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out) == ANSWERS[command]
    assert said.out.replace("\n", "").isprintable()
    assert said.out.isascii()


def test_status(tillie: Tillie, answering: Path) -> None:
    assert tillie("status", "--state", answering).out == (
        "tillie 0.1.0\n"
        "listening on 127.0.0.1:5222 (starttls)\n"
        "jid                server          connected  gate  token expires\n"
        "alice@example.org  192.0.2.1:5222  yes        -     -\n"
        "2 notices; tillie notices shows them\n"
    )


def test_loc_10_contacts_are_escaped(tillie: Tillie, answering: Path) -> None:
    said = tillie("contacts", "--state", answering)
    lines = said.out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("jid ")
    assert lines[1].startswith("bob@example.org")
    assert lines[1].endswith(FINGERPRINT)
    assert lines[2].startswith(r"eve\x1b[2J\u202emoc@example.org")


def test_nothing_to_show_is_said(tillie: Tillie, answering: Path) -> None:
    assert tillie("notices", "--state", answering).out == "no notices\n"


def test_devices(tillie: Tillie, answering: Path) -> None:
    said = tillie("devices", "--state", answering)
    assert said.out.splitlines()[1].split() == [
        "d1",
        "desk",
        "2026-11-22T21:00:00Z",
        "-",
        "yes",
    ]
    said = tillie("devices", "name", "laptop", "--state", answering)
    assert said == Said(0, "d1: laptop\n", "")
    said = tillie("devices", "name", "d2", "laptop", "--state", answering)
    assert said == Said(0, "d2: laptop\n", "")
    said = tillie("devices", "--state", answering, "remove", "d2")
    assert said == Said(0, "d2: removed\n", "")
    said = tillie("devices", "--state", answering, "--json", "remove", "d2")
    assert json.loads(said.out) == {"id": "d2", "removed": True}


def test_link(tillie: Tillie, answering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tillie("link", "--state", answering)
    assert said.out == (
        f"code: ABCD\nfingerprint: {FINGERPRINT}\n"
        "on the other device: tillie link CODE\n"
    )
    said = tillie("link", "ABCD", "--state", answering)
    assert said == Said(0, "this device now belongs to the account\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("ABCD\n"))
    said = tillie("link", "-", "--json", "--state", answering)
    assert json.loads(said.out) == {"joined": True}
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert tillie("link", "-", "--state", answering).code == 2


@pytest.mark.parametrize("command", ["allow", "require", "forget"])
def test_decisions(tillie: Tillie, answering: Path, command: str) -> None:
    said = tillie(command, "bob@e.org", "--state", answering)
    assert said == Said(0, f"bob@e.org: {command}\n", "")
    said = tillie(command, "not a jid", "--state", answering)
    assert said.code == 1
    assert complaint(said) == ("that is no address", "for example bob@e.org")


def test_doctor_ends_with_1_if_a_check_fails(
    tillie: Tillie, answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tillie("doctor", "--state", answering)
    assert said == Said(
        1,
        "ok     port: 127.0.0.1:5222 is ours\n"
        "wrong  dns: no answer\n"
        "       hint: try --resolver\n",
        "",
    )
    monkeypatch.setattr(
        "proxy.app.cli.ask", lambda *_, **__: [{"check": "a", "ok": True, "text": "b"}]
    )
    assert tillie("doctor", "--state", answering).code == 0


def test_state_and_account_by_variable(
    tillie: Tillie, answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "proxy.app.cli.ask",
        lambda *args, **named: (
            asked.append((args, named)) or {"jid": "b", "policy": "x"}
        ),
    )
    monkeypatch.setenv("TILLIE_STATE", str(answering))
    assert tillie("allow", "b@e.org").code == 0
    assert tillie("allow", "b@e.org", "--account", "a@e.org").code == 0
    monkeypatch.setenv("TILLIE_ACCOUNT", "c@e.org")
    monkeypatch.setenv("TILLIE_JSON", "1")
    assert tillie("allow", "b@e.org").out.startswith("{")
    assert asked == [
        ((answering, "allow"), {"account": account, "jid": "b@e.org"})
        for account in (None, "a@e.org", "c@e.org")
    ]


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["contacts"], {"jid": "b"}),
        (["contacts"], [{"jid": "b"}]),
        (["contacts"], ["b"]),
        (["status"], {}),
        (["status"], None),
        (["allow", "b"], []),
        (["link"], {"code": None, "fingerprint": None}),
        (["doctor"], {"a": 1}),
        (["doctor"], None),
        (["doctor"], [{"ok": True}]),
    ],
)
def test_an_answer_of_another_version_is_no_traceback(
    tillie: Tillie,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    answer: object,
) -> None:
    monkeypatch.setattr("proxy.app.cli.ask", lambda *_, **__: answer)
    said = tillie(*argv, "--state", tmp_path)
    assert said.code == 1
    assert complaint(said)[0] == "Tillie's answer was not understood"


# -- the real process ---------------------------------------------------------


def test_python_m_proxy_with_a_closed_pipe_and_a_poor_terminal(
    answering: Path,
) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    # closed before it begins: a busy machine lets it write into an open one else
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run(
        [sys.executable, "-m", "proxy", "contacts", "--json", "--state", answering],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environ,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (closed.returncode, closed.stderr) == (1, b"")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "王"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert r"\u738b" in done.stderr
