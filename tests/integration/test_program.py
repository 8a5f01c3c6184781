"""The command line as scripts outside rely on it: words, codes, signals, files."""

from __future__ import annotations

import configparser
import contextlib
import importlib.metadata
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy import __version__

from ..support.bed import Bed
from ..support.raw import STREAM, RawClient, local_certificate, text_of
from ..support.scripted import STREAMS
from ..support.tillie import ROOT, Tillie
from ..support.waiting import free_ports, listens, until
from .test_conversations import ALICE, BOB, CAROL, error_of, ready

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
LOCAL = "127.0.0.1"


def tillie(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, without a terminal, a home or a variable."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **(environment or {})},
        timeout=30,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of an error, which may be followed by one hint."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("tillie: error: "), done.stderr
    assert not first.endswith(".")
    assert [one.partition(" ")[0] for one in rest] in ([], ["hint:"])
    return done.stderr


def naked(bed: Bed, jid: str) -> RawClient:
    """A client without Tillie."""
    return bed.raw(
        jid, bed.server.direct_port, tls=bed.authority.client_context(), direct=True
    )


# What is installed, and how it is called.


def test_the_entry_point_is_there_from_the_first_day() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    [script] = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    assert [one.strip() for one in script.split("=")] == [
        "tillie",
        "proxy.app.cli:main",
    ]
    entry = importlib.metadata.EntryPoint("tillie", script.split("=")[1].strip(), "")
    main = entry.load()
    assert main(["--version"]) == 0


def test_version_and_help_are_done() -> None:
    version = tillie("--version")
    assert (version.returncode, version.stdout) == (0, f"tillie {__version__}\n")
    for words in (["--help"], ["run", "--help"], ["devices", "remove", "-h"]):
        done = tillie(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: tillie")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["run", "--no-such-option"],
        ["run", "--listen"],
        ["run", "--listen", "5222"],
        ["run", "--listen", "127.0.0.1:70000"],
        ["run", "--server", "a.test"],
        ["run", "--tls", "a.test=maybe"],
        ["run", "--log-level", "loud"],
        ["allow"],
        ["devices", "name", "a", "b", "c"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments: list[str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    complaint(tillie(*arguments, environment={"TILLIE_STATE": str(state)}), 2)
    assert not state.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["contacts", "--json"],
        ["notices"],
        ["devices"],
        ["doctor", "--json"],
        ["allow", "bob@b.test"],
        ["link"],
    ],
    ids=" ".join,
)
def test_not_running_is_3(arguments: list[str], tmp_path: Path) -> None:
    text = complaint(tillie(*arguments, "--state", str(tmp_path / "none")), 3)
    assert "hint: start it with: tillie run" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("listne = '127.0.0.1:0'", "did you mean listen?"),
        ("[policy]\nunkown = 'ask'", "did you mean policy.unknown?"),
        ("[servers.'a.test']\nserve = 'x:1'", "did you mean"),
        ("listen = ", "is not TOML"),
        ("listen = 5222", "text"),
        ("listen = '0.0.0.0:5222'", "can be reached from other machines"),
        ("log-json = 'yes'", "true or false"),
        ("clear = ['bob@b.test/desk']", "not a pattern"),
        ("[servers.'a.test']\ntls = 'off'", "TLS cannot be off for a.test"),
        ("ca = 'nowhere.pem'", "does not exist"),
    ],
)
def test_a_malformed_configuration_is_1_and_changes_nothing(
    toml: str, words: str, tmp_path: Path
) -> None:
    file, state = tmp_path / "tillie.toml", tmp_path / "state"
    file.write_text(toml)
    done = tillie("run", "--config", str(file), "--state", str(state))
    assert words in complaint(done, 1)
    assert not state.exists()


def test_a_state_folder_that_cannot_be_is_1(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("precious")
    for state in (taken, taken / "below", Path("/proc/tillie")):
        complaint(tillie("run", "--listen", f"{LOCAL}:0", "--state", str(state)), 1)
    assert taken.read_text() == "precious"


# Listening.


def test_listeners_are_told_in_the_order_given_and_then_serve(bed: Bed) -> None:
    order = ["--listen-tls", "--listen", "--listen-tls", "--listen"]
    one = bed.tillie("t", servers={}, start=False)
    arguments = [word for name in order for word in (name, f"{LOCAL}:0")]
    one.spawn("run", *arguments, "--state", str(one.state))
    until(lambda: len(one.output.splitlines()) == 4, "four lines", seconds=20)
    shown = re.findall(
        r"^tillie: listening on 127\.0\.0\.1:(\d+) \((\w+)\)$", one.output, re.MULTILINE
    )
    kinds = ["tls", "starttls", "tls", "starttls"]
    assert [kind for _, kind in shown] == kinds
    ports = [int(port) for port, _ in shown]
    assert 0 not in ports
    assert all(map(listens, ports))
    listeners = one.json("status")["listeners"]
    assert [f"tillie: listening on {each}" for each in listeners] == (
        one.output.splitlines()
    )


def test_ipv6_loopback_is_written_in_brackets(bed: Bed) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
    one = bed.tillie("t", servers={}, arguments=["--listen", "[::1]:0"])
    last = one.output.splitlines()[-1]
    assert re.fullmatch(r"tillie: listening on \[::1\]:\d+ \(starttls\)", last)


def test_without_a_word_it_listens_on_5222(tmp_path: Path) -> None:
    """Seen by taking that port first, whoever else may have it already."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind((LOCAL, 5222))
            taken.listen()
        done = tillie("run", "--state", str(tmp_path / "state"))
    text = complaint(done, 1)
    assert "cannot listen on 127.0.0.1:5222: Address already in use" in text
    assert "--listen" in text


def test_a_taken_port_is_one_line_and_closes_what_was_opened(bed: Bed) -> None:
    running = bed.tillie("t", servers={})
    [free] = free_ports(1)
    other = bed.folder / "other"
    done = tillie(
        *("run", "--state", str(other), "--listen", f"{LOCAL}:{free}"),
        *("--listen", f"{LOCAL}:{running.port}"),
    )
    assert f"{LOCAL}:{running.port}" in complaint(done, 1)
    assert not listens(free)
    assert listens(running.port)


def test_one_state_folder_has_one_tillie(bed: Bed) -> None:
    running = bed.tillie("t", servers={})
    state = str(running.state)
    complaint(tillie("run", "--state", state, "--listen", f"{LOCAL}:0"), 1)
    assert running.json("status")["listeners"] == [f"{LOCAL}:{running.port} (starttls)"]


# Signals and kills.


def test_rel_06_sigterm_ends_cleanly_with_clients_connected(bed: Bed) -> None:
    bed.start(ALICE, BOB)
    one = bed.tillie("t")
    clients = [bed.raw(jid, one.port) for jid in (ALICE, BOB)]
    ready(one, 2)
    begun = time.monotonic()
    assert one.stop(seconds=5) == 0
    assert time.monotonic() - begun < 5
    for client in clients:
        error = client.wait_for(lambda each: each.tag == f"{{{STREAM}}}error")
        assert error[0].tag == f"{{{STREAMS}}}system-shutdown"
        client.wait_closed()
        assert client.received.endswith(b"</stream:stream>")
    assert "unexpected" not in one.errors
    assert "Traceback" not in one.errors


def test_sigterm_does_not_wait_for_a_silent_client_or_server(bed: Bed) -> None:
    bed.start(ALICE)
    one = bed.tillie("t")
    half = RawClient(one.port, "a.test")
    half.open_stream()
    bed.raw(ALICE, one.port)
    ready(one)
    bed.server.suspend()
    try:
        assert one.stop(seconds=5) == 0
    finally:
        bed.server.resume()
        half.abort()


def test_sigint_ends_it_as_well(bed: Bed) -> None:
    one = bed.tillie("t", servers={})
    one.send_signal(signal.SIGINT)
    assert one.wait(seconds=5) == 0


def test_sighup_reloads_the_policy(bed: Bed) -> None:
    bed.start(ALICE, CAROL)
    file = bed.folder / "tillie.toml"
    file.write_text("")
    one = bed.tillie("t", arguments=["--config", str(file)])
    alice, carol = bed.raw(ALICE, one.port), naked(bed, CAROL)
    ready(one)
    assert "tillie allow" in error_of(alice, alice.say(CAROL, bed.canaries.secret()))
    reload(one, file, f"clear = ['{CAROL}', '*@bots.test']\n")
    allowed = bed.canaries.clear()
    alice.say(CAROL, allowed)
    assert text_of(carol.message(allowed)) == allowed
    reload(one, file, "clear = [\n", "was not reloaded")
    still = bed.canaries.clear()
    alice.say(CAROL, still)
    assert text_of(carol.message(still)) == still
    reload(one, file, f"[policy]\nunknown = 'require'\nrequire = ['{CAROL}']\n")
    assert "not sent" in error_of(alice, alice.say(CAROL, bed.canaries.secret()))
    carol.ping()
    assert [text_of(each) for each in carol.messages()] == [allowed, still]


def reload(one: Tillie, file: Path, toml: str, words: str = "reloaded") -> None:
    file.write_text(toml)
    seen = len(one.errors)
    one.send_signal(signal.SIGHUP)
    until(lambda: words in one.errors[seen:], "the reload to be told")


def test_killed_and_started_at_once_on_the_same_port_and_state(bed: Bed) -> None:
    bed.start(ALICE, BOB)
    one = bed.tillie("t")
    port, fingerprint = one.port, ""
    for turn in range(3):
        alice = bed.raw(ALICE, one.port, resource=f"a{turn}")
        bob = bed.raw(BOB, one.port, resource=f"b{turn}")
        ready(one, 2)
        text = bed.canaries.secret()
        alice.say(BOB, text)
        bob.message(text, seconds=20)
        found = one.json("status", "--account", ALICE)["accounts"][0]["fingerprint"]
        assert found == fingerprint or not fingerprint
        fingerprint = found
        one.kill()
        assert one.command("status").returncode == 3
        one.start()
        assert one.port == port


# What the asking commands say.


def test_the_shapes_of_json(bed: Bed) -> None:
    bed.start(ALICE, BOB, CAROL)
    one = bed.tillie("t")
    alice, bob = bed.raw(ALICE, one.port), bed.raw(BOB, one.port)
    ready(one, 2)
    text = bed.canaries.secret()
    alice.say(BOB, text)
    bob.message(text, seconds=20)
    error_of(alice, alice.say(CAROL, bed.canaries.secret()))

    status = one.json("status")
    assert {"version", "accounts", "listeners", "notices"} <= set(status)
    assert status["version"] == __version__
    assert status["listeners"] == [f"{LOCAL}:{one.port} (starttls)"]
    assert status["notices"] == len(one.json("notices")) > 0
    assert [each["jid"] for each in status["accounts"]] == [ALICE, BOB]
    for account in status["accounts"]:
        assert {"jid", "server", "connected", "gate", "token_expires"} <= set(account)
        assert account["server"] == account["jid"].partition("@")[2]
        assert (account["connected"], account["token_expires"]) == (True, None)

    contacts = one.json("contacts", "--account", ALICE)
    [contact] = [each for each in contacts if each["jid"] == BOB]
    assert set(contact) >= {
        *("jid", "level", "fingerprint", "since", "devices", "policy", "last_seen_key")
    }
    assert (contact["level"], contact["devices"]) == ("seen", 1)
    for moment in (contact["since"], contact["last_seen_key"]):
        assert TIME.fullmatch(moment)
    bobs = one.json("status", "--account", BOB)["accounts"]
    assert [each["jid"] for each in bobs] == [BOB]
    assert contact["fingerprint"] == bobs[0]["fingerprint"]

    notices = one.json("notices", "--account", ALICE)
    assert any(CAROL in each["jid"] for each in notices)
    for notice in notices:
        assert {"time", "account", "jid", "text"} <= set(notice)
        assert TIME.fullmatch(notice["time"])
        assert notice["account"] == ALICE

    [device] = one.json("devices", "--account", ALICE)
    assert {"id", "name", "added", "removed", "this"} <= set(device)
    assert (device["this"], device["removed"]) == (True, None)
    assert TIME.fullmatch(device["added"])
    named = one.json("devices", "name", "my desk", "--account", ALICE)
    assert named == {"id": device["id"], "name": "my desk"}
    assert one.json("devices", "--account", ALICE)[0]["name"] == "my desk"

    doctor = one.json("doctor")
    assert all({"check", "ok", "text", "hint"} == set(each) for each in doctor)
    assert [each["check"] for each in doctor if not each["ok"]] == []
    assert {"port", "dns", "certificate", "pep", "gate"} == {
        each["check"] for each in doctor
    }

    link = one.json("link", "--account", ALICE)
    assert set(link) == {"code", "fingerprint"}


def test_decisions_show_in_contacts(bed: Bed) -> None:
    bed.start(ALICE)
    one = bed.tillie("t")
    bed.raw(ALICE, one.port)
    ready(one)
    friend = "friend@c.test"
    for command, word in (
        ("allow", "clear"),
        ("require", "require"),
        ("forget", "ask"),
    ):
        answer = one.json(command, friend)
        assert answer == {"jid": friend, "policy": word}
        rows = {each["jid"]: each["policy"] for each in one.json("contacts")}
        assert rows.get(friend, "ask") == word
    assert one.command("allow", "not an address").returncode == 1
    assert one.command("contacts", "--account", "nobody@a.test").returncode == 1
    assert one.command("devices", "remove", "no-such").returncode == 1


def test_what_people_read_says_the_same(bed: Bed) -> None:
    bed.start(ALICE)
    one = bed.tillie("t")
    assert one.command("doctor").returncode == 1
    bed.raw(ALICE, one.port)
    ready(one)
    for command, words in (
        ("status", ALICE),
        ("contacts", "no contacts yet"),
        ("notices", "no notices"),
        ("devices", "Tillie on "),
        ("doctor", "ok     port: listening on 127.0.0.1:"),
    ):
        done = one.command(command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert words in done.stdout
        assert "\x1b" not in done.stdout


def test_doctor_names_what_is_wrong(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE)
    server.switches.pep_errors[ALICE, "urn:x-tillie:key:0"] = "forbidden"
    one = bed.tillie("t", servers={"a.test": server.port}, tls={"a.test": "starttls"})
    [_, nobody] = doctor(one)
    assert (nobody["check"], nobody["ok"]) == ("account", False)
    alice = bed.raw(ALICE, one.port)
    until(lambda: one.json("notices"), "a notice", seconds=15)
    wrong = [each for each in doctor(one) if not each["ok"]]
    assert [each["check"] for each in wrong] == ["pep"]
    assert wrong[0]["hint"]
    alice.close()
    server.stop()
    texts = {each["check"]: str(each["text"]) for each in doctor(one) if not each["ok"]}
    assert "refused the connection" in texts["certificate"]


def doctor(one: Tillie) -> list[dict[str, object]]:
    """What doctor finds where something is wrong: its exit code is 1 then."""
    done = one.command("doctor", "--json")
    assert done.returncode == 1, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


# Where settings come from.


def test_every_option_has_a_variable(bed: Bed) -> None:
    bed.start(ALICE)
    one = bed.tillie("t", servers={}, start=False)
    tap = bed.tap("a.test")
    one.environment = {
        "TILLIE_LISTEN": f"{LOCAL}:0",
        "TILLIE_LISTEN_TLS": f"{LOCAL}:0",
        "TILLIE_STATE": str(one.state),
        "TILLIE_SERVER": f"a.test={LOCAL}:{tap.port}",
        "TILLIE_TLS": "a.test=direct",
        "TILLIE_CA": str(bed.authority.ca),
        "TILLIE_RESOLVER": f"{LOCAL}:5353",
        "TILLIE_LOG_LEVEL": "debug",
        "TILLIE_LOG_JSON": "1",
        "TILLIE_CLEAR": "*@bots.test, bob@b.test",
        "TILLIE_FALLBACK": "no",
    }
    one.spawn("run")
    until(lambda: len(one.output.splitlines()) == 2, "two listeners", seconds=20)
    one.port = int(re.findall(r":(\d+) \(starttls\)", one.output)[0])
    bed.raw(ALICE, one.port)
    asked = tillie("status", "--json", environment={"TILLIE_STATE": str(one.state)})
    assert [each["jid"] for each in json.loads(asked.stdout)["accounts"]] == [ALICE]
    one.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in one.errors, "the reload to be told")
    for line in one.errors.splitlines():
        assert set(json.loads(line)) >= {"time", "level", "text"}


def test_an_option_beats_a_variable_and_that_beats_the_file(bed: Bed) -> None:
    ports = free_ports(3)
    file = bed.folder / "tillie.toml"
    one = bed.tillie("t", servers={}, start=False)
    file.write_text(
        f'listen = ["{LOCAL}:{ports[0]}"]\nstate = "{one.state}"\nlog-level = "error"\n'
        f'fallback = false\nclear = ["*@bots.example"]\n'
        f'[servers."a.test"]\nserver = "{LOCAL}:{ports[0]}"\ntls = "off"\n'
    )
    one.environment = {"TILLIE_CONFIG": str(file)}
    for extra, arguments, port in (
        ({}, [], ports[0]),
        ({"TILLIE_LISTEN": f"{LOCAL}:{ports[1]}"}, [], ports[1]),
        (
            {"TILLIE_LISTEN": f"{LOCAL}:{ports[1]}"},
            ["--listen", f"{LOCAL}:{ports[2]}"],
            ports[2],
        ),
    ):
        one.environment = {"TILLIE_CONFIG": str(file), **extra}
        one.spawn("run", *arguments)
        line = f"tillie: listening on {LOCAL}:{port} (starttls)\n"
        wait_for_output(one, line)
        # TLS that is off is said at each start.
        assert "TLS is off towards the server of a.test" in one.errors
        assert one.stop() == 0


def wait_for_output(one: Tillie, end: str) -> None:
    until(lambda: one.output.endswith(end), end, seconds=20, also=lambda: one.errors)


def test_a_misspelt_variable_is_warned_about(bed: Bed) -> None:
    one = bed.tillie("t", servers={}, environment={"TILLIE_LISTEM": "x"})
    assert (
        "tillie: warning: TILLIE_LISTEM is not a setting; did you mean TILLIE_LISTEN?"
    ) in one.errors


def test_nothing_is_written_but_the_state_folder(bed: Bed) -> None:
    bed.start(ALICE)
    home, temporary = bed.home("empty"), bed.home("temporary")
    one = bed.tillie(
        "t",
        environment={
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "XDG_RUNTIME_DIR": str(temporary),
        },
    )
    local_certificate(one.port, "a.test")
    bed.raw(ALICE, one.port)
    ready(one)
    one.stop()
    assert [*home.iterdir(), *temporary.iterdir()] == []
    assert {each.name for each in one.folder.iterdir()} == {"state", "output", "errors"}
    assert stat.S_ISDIR(one.state.stat().st_mode)


def test_its_default_folder_is_the_platforms(tmp_path: Path) -> None:
    """Asked for a running one there, it names the folder it looked in."""
    done = tillie("status", environment={"HOME": str(tmp_path)})
    assert str(tmp_path / ".local" / "state" / "tillie") in complaint(done, 3)
