"""The commands of `tillie gate` that work in the registry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from proxy.app import gateadmin
from proxy.app.cli import main
from proxy.gate.admission import answer
from proxy.gate.publishing import ANNOUNCED_MS, draft, opened
from proxy.gate.publishing import Held as Keys
from proxy.gate.questions import Question, Refused, Seen, Vouched
from proxy.keys import databases, serverfiles, servers
from proxy.keys.documents import make_doc
from proxy.keys.registry import Server
from tests.support.persons import JULIET, ROMEO, Person

DOMAIN = "capulet.example"


class Command:
    """`tillie gate …` on one state folder; the last output is kept."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state = state
        self.url = databases.default_url(state)
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        code = main(["gate", *arguments, "--state", str(self.state)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def ask(self, question: Question) -> object:
        """As a running gate does, now."""
        registry = databases.open_registry(self.url)
        try:
            with registry.transaction():
                return answer(question, registry, gateadmin.now())
        finally:
            registry.close()

    def server(self) -> Server:
        registry = databases.open_registry(self.url)
        try:
            with registry.transaction(writing=False):
                found = registry.server(DOMAIN)
        finally:
            registry.close()
        assert found is not None
        return found

    def publish(self) -> Server:
        """The first start of a gate: a key, and its document."""
        key = serverfiles.make(self.state, DOMAIN)
        wanted = draft(DOMAIN, None, Keys(key.public), None, gateadmin.now())
        assert wanted is not None
        made = wanted.server(DOMAIN, make_doc(wanted.claims, servers.SERVER, key))
        registry = databases.open_registry(self.url)
        with registry.transaction():
            registry.put_server(made)
        registry.close()
        return made


@pytest.fixture
def gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name in [one for one in os.environ if one.startswith("TILLIE_")]:
        monkeypatch.delenv(name)
    command = Command(tmp_path / "state", capsys)
    assert command("migrate") == 0
    return command


def test_migrate_creates_and_then_finds_it(gate: Command) -> None:
    assert gate("migrate") == 0
    assert "already" in gate.out
    assert (gate.state.stat().st_mode & 0o777) == 0o700


def test_rel_18_a_registry_that_was_lost_is_not_made_anew(gate: Command) -> None:
    gate.publish()
    (gate.state / databases.FILE).unlink()
    for command in ("migrate", "accounts"):
        assert gate(command) == 1
        assert databases.FILE in gate.err
    assert not (gate.state / databases.FILE).exists()


def test_accounts_are_listed_with_their_keys(gate: Command) -> None:
    assert gate("accounts") == 0
    assert gate.out == "no accounts\n"
    juliet, romeo = Person(), Person(ROMEO)
    for one in (romeo, juliet):
        assert isinstance(gate.ask(one.vouch()), Vouched)
    assert gate("accounts", "--json") == 0
    first, second = json.loads(gate.out)
    assert [first["jid"], second["jid"]] == [JULIET, ROMEO]
    assert first["fingerprint"] == juliet.manifest.root.people()
    assert (first["devices"], first["seq"], first["reset_due"]) == (1, 1, None)
    assert gate("accounts") == 0
    assert gate.out.splitlines()[1].startswith(JULIET)


def test_accounts_without_key_are_those_that_would_be_locked_out(gate: Command) -> None:
    for jid in (JULIET, ROMEO):
        gate.ask(Seen(jid))
    gate.ask(Person().vouch())
    assert gate("accounts", "--without-key", "--json") == 0
    (only,) = json.loads(gate.out)
    assert only["jid"] == ROMEO
    assert only["seen"].endswith("Z")
    gate.ask(Person(ROMEO).vouch())
    assert gate("accounts", "--without-key") == 0
    assert gate.out == "none that is known\n"
    # what it cannot know is said with every list
    assert "compare with the server's own list" in gate.err


def test_reset_is_due_in_three_days_or_now(gate: Command) -> None:
    assert gate("reset", JULIET) == 1
    assert "no key" in gate.err
    gate.ask(Person().vouch())
    assert gate("reset", "Juliet@CAPULET.example") == 0
    due = gate.out.split()[-2]
    said = gate.ask(Person().vouch())
    assert isinstance(said, Refused)
    assert "72 hours" in said.text
    assert gate("accounts", "--json") == 0
    assert json.loads(gate.out)[0]["reset_due"] == due
    assert gate("reset", JULIET, "--cancel") == 0
    assert gate("reset", JULIET, "--cancel") == 1
    assert gate("reset", JULIET, "--now") == 0
    assert isinstance(gate.ask(Person().vouch()), Vouched)


def test_enrol_prints_a_code_that_works_once(gate: Command) -> None:
    assert gate("enrol", JULIET) == 0
    code = gate.out.strip()
    assert len(code.replace("-", "")) == 26
    assert isinstance(gate.ask(Person().vouch()), Refused)
    assert isinstance(gate.ask(Person().vouch(code=code.lower())), Vouched)
    assert gate("enrol", JULIET) == 1
    assert f"gate reset {JULIET}" in gate.err
    assert gate("enrol", ROMEO) == 0
    assert gate("enrol", ROMEO, "--withdraw") == 0
    assert isinstance(gate.ask(Person(ROMEO).vouch()), Vouched)
    assert gate("enrol", ROMEO, "--withdraw") == 1


@pytest.mark.parametrize("jid", [DOMAIN, f"{JULIET}/desk", "", "a b@c", "@"])
def test_what_is_no_account_is_told(gate: Command, jid: str) -> None:
    assert gate("reset", jid) == 1
    assert "address" in gate.err


def test_rotate_announces_then_waits_then_hands_over(
    gate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate("rotate", "--domain", DOMAIN) == 1
    first = gate.publish()
    assert gate("rotate") == 1
    assert "--domain" in gate.err
    assert gate("rotate", "--domain", DOMAIN) == 0
    assert "announced" in gate.out
    following = serverfiles.load(gate.state, DOMAIN, "next.key")
    assert following is not None
    announced = gate.server()
    assert opened(announced).next == following.public.fingerprint
    # again too early: nothing changes
    assert gate("rotate", "--domain", DOMAIN) == 0
    assert gate.server() == announced
    later = gateadmin.now() + ANNOUNCED_MS + 1000
    monkeypatch.setattr(gateadmin, "now", lambda: later)
    assert gate("rotate", "--domain", DOMAIN) == 0
    assert "in force" in gate.out
    server = gate.server()
    assert server.key == following.public.fingerprint
    assert (server.seq, len(server.rollovers), server.announced) == (3, 1, 0)
    assert serverfiles.load(gate.state, DOMAIN) == following
    assert serverfiles.load(gate.state, DOMAIN, "next.key") is None
    pin = servers.judge(None, opened(first), (), later).pin
    chain = [one.encode() for one in server.rollovers]
    assert servers.judge(pin, opened(server), chain, later).taken


def test_rotate_now_needs_no_announcement(gate: Command) -> None:
    first = gate.publish()
    assert gate("rotate", "--domain", DOMAIN, "--now") == 0
    second = gate.server()
    assert second.key != first.key
    assert gate("rotate", "--domain", DOMAIN, "--now") == 0
    assert len(gate.server().rollovers) == 2


def test_rotate_goes_on_where_it_was_cut_off(
    gate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the commit, before the file has its name."""
    gate.publish()
    with monkeypatch.context() as patched:
        patched.setattr(serverfiles, "promote", lambda *_: None)
        assert gate("rotate", "--domain", DOMAIN, "--now") == 0
    turned = serverfiles.load(gate.state, DOMAIN, "next.key")
    assert turned is not None
    assert gate.server().key == turned.public.fingerprint
    assert gate("rotate", "--domain", DOMAIN, "--now") == 0
    assert len(gate.server().rollovers) == 2
    key = serverfiles.load(gate.state, DOMAIN)
    assert key is not None
    assert gate.server().key == key.public.fingerprint


def test_rotate_refuses_where_another_key_lies(gate: Command) -> None:
    gate.publish()
    serverfiles.key_path(gate.state, DOMAIN).unlink()
    assert gate("rotate", "--domain", DOMAIN) == 1
    serverfiles.make(gate.state, DOMAIN)
    before = gate.server()
    assert gate("rotate", "--domain", DOMAIN, "--now") == 1
    assert gate.server() == before


def test_what_was_done_is_in_the_log(gate: Command) -> None:
    gate.publish()
    gate.ask(Person().vouch())
    for arguments in (
        ("reset", JULIET),
        ("reset", JULIET, "--now"),
        ("reset", JULIET, "--cancel"),
        ("enrol", ROMEO),
        ("rotate", "--domain", DOMAIN),
        ("rotate", "--domain", DOMAIN, "--now"),
    ):
        assert gate(*arguments) == 0
    registry = databases.open_registry(gate.url)
    with registry.transaction(writing=False):
        events = registry.events()
    registry.close()
    assert [(one.account, one.what) for one in events] == [
        (JULIET, "first-key"),
        (JULIET, "reset-begun"),
        (JULIET, "reset-forced"),
        (JULIET, "reset-cancelled"),
        (ROMEO, "enrolled"),
        (DOMAIN, "server-next"),
        (DOMAIN, "server-key"),
    ]
