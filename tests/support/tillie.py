"""The real program, started, asked, stopped and killed from outside."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .waiting import until

ROOT = Path(__file__).resolve().parents[2]
_LISTENING = re.compile(r"^tillie: listening on [\d.]+:(\d+) \((\w+)\)$", re.MULTILINE)


class Program:
    """A process of `python -m proxy`, or of another module with its arguments.

    Output and errors are collected in files in `folder`, over restarts.
    """

    folder: Path
    state: Path
    environment: Mapping[str, str]
    module = "proxy"
    limit_files = 0
    _process: subprocess.Popen[bytes] | None
    _from: int

    @property
    def output(self) -> str:
        """Standard output of all runs."""
        return _text(self.folder / "output")

    @property
    def errors(self) -> str:
        """Standard error of all runs: the log."""
        return _text(self.folder / "errors")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the program with these arguments and do not wait for it."""
        assert not self.running, "it runs already"
        self._from = len(self.output)
        with (
            (self.folder / "output").open("ab") as output,
            (self.folder / "errors").open("ab") as errors,
        ):
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=ROOT,
                env=self._environment(),
                preexec_fn=self._limit if self.limit_files else None,
            )
        return self._process

    def stop(self, *, seconds: float = 10) -> int:
        """Send SIGTERM and return the exit code."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> int:
        """Send SIGKILL and return when the process is gone."""
        return self._end(signal.SIGKILL, 10)

    def send_signal(self, number: signal.Signals) -> None:
        """Send any signal, as SIGSTOP, SIGCONT or SIGHUP."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, *, seconds: float = 10) -> int:
        """Wait until it ends by itself and return the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit_files, self.limit_files))

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }

    def _end(self, how: signal.Signals, seconds: float) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
            raise AssertionError(
                f"it runs on {seconds:g} s after {how.name}\n{self.errors[-3000:]}"
            ) from None

    def command(
        self, *arguments: str, given: str = "", seconds: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command such as `contacts` against this state folder."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", *arguments, "--state", str(self.state)],
            input=given,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment(),
            timeout=seconds,
            check=False,
        )


@dataclass
class Tillie(Program):
    """One `tillie run` with its own state folder.

    `servers` maps domains to loopback ports, `tls` domains to starttls, direct
    or off. Output and errors are collected in files in `folder`, over restarts.
    """

    folder: Path
    ca: Path
    servers: Mapping[str, int] = field(default_factory=dict)
    tls: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _from: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, *, seconds: float = 20) -> Tillie:
        """Start it and return when it listens; the same port over restarts.

        Raises AssertionError with its standard error when it ends instead.
        """
        self.spawn(*self.run_arguments())
        self.port = until(
            self._listening,
            "Tillie to listen",
            seconds=seconds,
            also=lambda: self.errors[-3000:],
        )
        return self

    def run_arguments(self) -> list[str]:
        """Return the arguments of `tillie run` as the fields say."""
        arguments = ["run", "--listen", f"127.0.0.1:{self.port}"]
        arguments += ["--state", str(self.state), "--ca", str(self.ca)]
        for domain, port in self.servers.items():
            arguments += ["--server", f"{domain}=127.0.0.1:{port}"]
        for domain, mode in self.tls.items():
            arguments += ["--tls", f"{domain}={mode}"]
        return [*arguments, *self.arguments]

    def restart(self) -> Tillie:
        """Kill it and start it with the same state and port."""
        self.kill()
        return self.start()

    def json(self, *arguments: str) -> Any:
        """Run a command with --json, which must succeed, and return its answer."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def local_ca(self) -> str:
        """Return the CA (PEM) of its local leg; it is made at the first STARTTLS."""
        return next(self.state.rglob("ca.pem")).read_text()

    def _listening(self) -> int | None:
        found = _LISTENING.search(self.output, self._from)
        if found:
            return int(found[1])
        if not self.running:
            assert self._process is not None
            code = self._process.returncode
            raise AssertionError(f"tillie ended with {code}\n{self.errors[-3000:]}")
        return None


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.exists() else ""
