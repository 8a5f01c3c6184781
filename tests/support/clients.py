"""Real, unmodified clients, each pointed at a port on loopback.

What each needs was measured with Debian 12's packages; the reasons stand beside
the setting that they explain.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .terminal import Terminal
from .waiting import until

Event = dict[str, Any]


class Person(Protocol):
    """What a test or the demo asks of any client that a person could sit at."""

    name: str
    jid: str

    def login(self) -> None: ...
    def say(self, to: str, text: str) -> None: ...
    def sees(self, text: str, *, seconds: float = 10) -> str: ...
    def logout(self) -> None: ...
    def stop(self) -> None: ...


class Mcabber:
    """mcabber 1.1 (loudmouth), in plaintext or with STARTTLS.

    It breaks lines at about 170 columns, so texts to look for are shorter.
    """

    name = "mcabber"

    def __init__(
        self, home: Path, jid: str, password: str, port: int, *, tls: bool = False
    ) -> None:
        self.jid = jid
        folder = home / ".mcabber"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        configuration = folder / "mcabberrc"
        configuration.write_text(
            f"set jid = {jid}\nset password = {password}\n"
            f"set server = 127.0.0.1\nset port = {port}\n"
            f"set tls = {int(tls)}\nset ssl = 0\nset ssl_ignore_checks = 1\n"
            "set beep_on_message = 0\n"
        )
        configuration.chmod(0o600)
        self.terminal = Terminal(home, ["mcabber"])

    def login(self) -> None:
        """Start it and return when the server took the login."""
        self.terminal.start()
        self.terminal.wait("Your status has been set", seconds=30)

    def refused(self) -> str:
        """Start it and return what it shows when the login is refused."""
        self.terminal.start()
        return _behind_the_time(self.terminal.wait("Authentication failed", seconds=30))

    def say(self, to: str, text: str) -> None:
        """Type a message to a bare JID."""
        self.terminal.type(f"/say_to {to} {text}")

    def sees(self, text: str, *, seconds: float = 10) -> str:
        """Open what is unread until `text` shows; return the line that shows it."""

        def open_unread() -> None:
            self.terminal.type("/roster unread_first")
            # An empty line enters the conversation that the roster points at.
            self.terminal.press("Enter")

        return _look(self.terminal, text, seconds, open_unread)

    def logout(self) -> None:
        self.terminal.type("/quit")
        self.terminal.stop()

    def stop(self) -> None:
        self.terminal.stop()


class Profanity:
    """profanity 0.13 (libstrophe), in plaintext or with STARTTLS.

    It answers to the full JID that it last heard from, and keeps XEP-0198 on.
    """

    name = "profanity"

    def __init__(
        self, home: Path, jid: str, password: str, port: int, *, tls: bool = False
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.jid = jid
        self._password = password
        self._port = port
        self._mode = "trust" if tls else "disable"
        self._window = 1
        self.terminal = Terminal(home, ["profanity"])

    def login(self) -> None:
        """Start it, type /connect and the password, wait for the login."""
        self._connect()
        self.terminal.wait("logged in successfully", seconds=30)

    def refused(self) -> str:
        """Start it and return what it shows when the login is refused."""
        self._connect()
        return _behind_the_time(self.terminal.wait("Login failed", seconds=30))

    def _connect(self) -> None:
        self.terminal.start()
        self.terminal.wait("Type '/help'", seconds=30)
        self.terminal.type(
            f"/connect {self.jid} server 127.0.0.1 port {self._port} tls {self._mode}"
        )
        self.terminal.wait("Enter password:")
        self.terminal.type(self._password)

    def say(self, to: str, text: str) -> None:
        """Type a message; its window opens."""
        self.terminal.type(f"/msg {to} {text}")

    def sees(self, text: str, *, seconds: float = 10) -> str:
        """Turn through the windows until `text` shows; return its line."""

        def turn() -> None:
            self._window = self._window % 4 + 1
            self.terminal.type(f"/win {self._window}")

        return _look(self.terminal, text, seconds, turn)

    def logout(self) -> None:
        self.terminal.type("/quit")
        self.terminal.stop()

    def stop(self) -> None:
        self.terminal.stop()


class Finch:
    """finch 2.14 (libpurple): logs in by itself, answers in an open conversation.

    It upgrades whenever STARTTLS is offered and checks the certificate against
    the address it connects to; `certificate` (PEM) is what it is to trust.
    """

    name = "finch"

    def __init__(
        self, home: Path, jid: str, password: str, port: int, *, certificate: str = ""
    ) -> None:
        self.jid = jid
        folder = home / ".purple"
        peers = folder / "certificates" / "x509" / "tls_peers"
        peers.mkdir(parents=True, exist_ok=True)
        if certificate:
            (peers / "127.0.0.1").write_text(certificate)
        (folder / "accounts.xml").write_text(
            "<?xml version='1.0' encoding='UTF-8' ?><account version='1.0'><account>"
            f"<protocol>prpl-jabber</protocol><name>{jid}/finch</name>"
            f"<password>{password}</password>"
            "<settings><setting name='connect_server' type='string'>127.0.0.1"
            f"</setting><setting name='port' type='int'>{port}</setting>"
            "<setting name='connection_security' type='string'>opportunistic_tls"
            "</setting><setting name='auth_plain_in_clear' type='bool'>1</setting>"
            "</settings><settings ui='gnt-purple'>"
            "<setting name='auto-login' type='bool'>1</setting></settings>"
            "</account></account>"
        )
        self._in_front = False
        self.terminal = Terminal(home, ["finch"])

    def login(self) -> None:
        """Start it and return when the account shows in the buddy list."""
        self.terminal.start()
        self.terminal.wait("Buddy List", seconds=30)

    def say(self, to: str, text: str) -> None:
        """Answer in the conversation that `sees` brought to the front."""
        assert self._in_front, f"finch has no conversation with {to} yet"
        self.terminal.type(text)

    def sees(self, text: str, *, seconds: float = 10) -> str:
        """Wait until `text` shows; a message opens its conversation by itself."""
        if not self._in_front:
            self.terminal.wait(f"({self.jid}/finch", seconds=seconds)
            # The buddy list covers it and has the keys until one goes on.
            self.terminal.press("M-n")
            self._in_front = True
        return self.terminal.wait(text, seconds=seconds)

    def logout(self) -> None:
        self.terminal.stop()

    def stop(self) -> None:
        self.terminal.stop()


class Poezio:
    """poezio 0.14 (its own slixmpp 1.8): needs STARTTLS, refuses to run as root.

    `ca` (PEM) is what it is to trust; it has no switch to trust anything.
    """

    name = "poezio"

    def __init__(
        self, home: Path, jid: str, password: str, port: int, *, ca: str
    ) -> None:
        self.jid = jid
        folder = home / ".config" / "poezio"
        folder.mkdir(parents=True, exist_ok=True)
        (home / "ca.pem").write_text(ca)
        (folder / "poezio.cfg").write_text(
            f"[Poezio]\njid = {jid}\npassword = {password}\n"
            f"custom_host = 127.0.0.1\ncustom_port = {port}\n"
            f"ca_cert_path = {home}/ca.pem\nforce_encryption = true\n"
        )
        self.terminal = Terminal(home, _unprivileged(home, ["poezio"]))

    def login(self) -> None:
        """Start it and return when it says that it is connected."""
        self.terminal.start()
        self.terminal.wait("Authentication success", seconds=30)

    def say(self, to: str, text: str) -> None:
        """Type a message; its tab opens."""
        self.terminal.type(f"/message {to} {text}")

    def sees(self, text: str, *, seconds: float = 10) -> str:
        """Turn through the tabs until `text` shows; return its line."""
        return _look(self.terminal, text, seconds, lambda: self.terminal.press("F6"))

    def logout(self) -> None:
        self.terminal.type("/quit")
        self.terminal.stop()

    def stop(self) -> None:
        self.terminal.stop()


class Bot:
    """slixmpp in a process of its own; see bot.py for its commands and events."""

    name = "slixmpp bot"

    def __init__(
        self, jid: str, password: str, port: int, *, tls: bool = False
    ) -> None:
        self.jid = jid
        self._password = password
        self._arguments = [jid, str(port), "starttls" if tls else "plain"]
        self._process: subprocess.Popen[str] | None = None
        self._queue: queue.Queue[Event] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self.events: list[Event] = []
        self.errors: list[str] = []

    def login(self) -> None:
        """Start it and return when its session has begun."""
        self.start()
        self.wait("online", seconds=30)

    def start(self) -> None:
        """Start it and return at once."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bot.py")), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"},
        )
        self._readers = [
            threading.Thread(target=self._read, args=[self._process], daemon=True),
            threading.Thread(target=self._complain, args=[self._process], daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        assert self._process.stdin is not None
        self._process.stdin.write(self._password + "\n")
        self._process.stdin.flush()

    def say(self, to: str, text: str, *, ident: str = "") -> None:
        """Send a chat message."""
        self.do("send", to=to, body=text, id=ident)

    def raw(self, xml: str) -> None:
        """Send XML as it is."""
        self.do("raw", xml=xml)

    def ping(self, *, seconds: float = 10) -> None:
        """Return when the server answered a ping: all before it is accepted."""
        self.do("ping")
        self.wait("pong", seconds=seconds)

    def do(self, command: str, **values: Any) -> None:
        """Give it a command."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **values}) + "\n")
        self._process.stdin.flush()

    def sees(self, text: str, *, seconds: float = 10) -> str:
        """Wait until a body contains `text`, ever; return the body.

        As on the other clients' screens, what was seen once can be seen again.
        """
        return until(
            lambda: next((x for x in self._bodies() if text in x), ""),
            f"{self.jid}'s bot to be told {text!r}",
            seconds=seconds,
            also=self._explain,
        )

    def wait(
        self,
        event: str,
        matches: Callable[[Event], bool] = lambda _: True,
        *,
        seconds: float = 10,
    ) -> Event:
        """Return the first event of this kind that was not returned before."""

        def look() -> Event | None:
            self._take()
            for one in self.events:
                if one["event"] == event and not one.get("taken") and matches(one):
                    one["taken"] = True
                    return one
            return None

        return until(
            look,
            f"event {event!r} of {self.jid}'s bot",
            seconds=seconds,
            also=self._explain,
        )

    def messages(self) -> list[Event]:
        """Return all messages received so far."""
        self._take()
        return [one for one in self.events if one["event"] == "message"]

    def logout(self) -> None:
        """Close its stream politely and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self.do("quit")
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.stop()

    def stop(self) -> None:
        """End it at once, without a goodbye."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for reader in self._readers:
            reader.join(10)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _bodies(self) -> list[str]:
        return [str(one["body"]) for one in self.messages()]

    def _explain(self) -> str:
        return f"{self.events[-10:]}\n{''.join(self.errors[-20:])}"

    def _take(self) -> None:
        while not self._queue.empty():
            self.events.append(self._queue.get_nowait())

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._queue.put({"at": time.monotonic(), **json.loads(line)})

    def _complain(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.errors.extend(process.stderr)


def sendxmpp(
    home: Path, jid: str, password: str, port: int, to: str, text: str, *, tls: bool
) -> subprocess.CompletedProcess[str]:
    """Send one message with sendxmpp (Perl, Net::XMPP): an authzid, no id."""
    local, _, domain = jid.partition("@")
    command = ["sendxmpp", "-j", f"127.0.0.1:{port}", "-o", domain, "-u", local]
    command += ["-p", password, *(["--tls", "--no-tls-verify"] if tls else []), to]
    return _once(home, command, text)


def go_sendxmpp(
    home: Path, jid: str, password: str, port: int, to: str, text: str
) -> subprocess.CompletedProcess[str]:
    """Send one message with go-sendxmpp (Go): by STARTTLS, it refuses less."""
    command = ["go-sendxmpp", "-u", jid, "-p", password, "-j", f"127.0.0.1:{port}"]
    return _once(home, [*command, "-n", to], text)


def _once(
    home: Path, command: list[str], text: str
) -> subprocess.CompletedProcess[str]:
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        cwd=home,
        env=_environment(home),
        timeout=30,
        check=False,
    )


def _behind_the_time(line: str) -> str:
    """A line of a log window without its time, which is no word of the client's."""
    return re.sub(r"^\W*\d\d:\d\d(:\d\d)?\]?( -)?", "", line.strip()).strip()


def _environment(home: Path) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}


def _look(
    terminal: Terminal, text: str, seconds: float, turn: Callable[[], None]
) -> str:
    def look() -> str | None:
        lines = terminal.screen().splitlines()
        found = next((one for one in lines if text in one), None)
        if found is None:
            turn()
        return found

    return until(
        look,
        f"{terminal.command[0]} to show {text!r}",
        seconds=seconds,
        step=0.3,
        also=terminal.lines,
    )


def _unprivileged(home: Path, command: list[str]) -> list[str]:
    """Return the command as it is, or run as nobody if we are root."""
    if os.geteuid() != 0:
        return command
    nobody = pwd.getpwnam("nobody")
    for path in [home, *home.rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return [
        "setpriv",
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        *command,
    ]
