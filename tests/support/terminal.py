"""Terminal programs in a private tmux server, driven by keys and screen text."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .waiting import TooLateError, until


class Terminal:
    """One program in one window of 200 columns and 50 lines.

    `home` becomes its HOME and holds tmux's socket, so its path must be short
    (a Unix socket's name has 107 bytes). Nothing of the caller's environment
    reaches the program but PATH.
    """

    def __init__(
        self,
        home: Path,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.command = command
        self._environment = {
            "PATH": os.environ["PATH"] + ":/usr/games",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "TERM": "screen",
            "TMUX_TMPDIR": str(home),
            **(environment or {}),
        }

    def start(self) -> None:
        """Start the program; its screen stays readable after it has ended."""
        self._tmux(
            "-f",
            "/dev/null",
            "-u",
            "new-session",
            "-d",
            "-s",
            "main",
            "-x",
            "200",
            "-y",
            "50",
            shlex.join(self.command),
            ";",
            "set-option",
            "-g",
            "remain-on-exit",
            "on",
        )

    def stop(self) -> None:
        """End the program and its tmux server.

        With SIGKILL: mcabber was seen to hang for ever in its SIGHUP handler.
        """
        pane = self._tmux("display", "-p", "-t", "main", "#{pane_pid}", check=False)
        self._tmux("kill-server", check=False)
        if pane.strip().isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pane), signal.SIGKILL)

    def type(self, text: str) -> None:
        """Type text and Enter."""
        self._tmux("send-keys", "-t", "main", "-l", "--", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names, as Enter or F6."""
        self._tmux("send-keys", "-t", "main", *keys)

    def screen(self) -> str:
        """Return the text of the window and of what scrolled out of it."""
        return self._tmux(
            "capture-pane", "-p", "-J", "-S", "-2000", "-t", "main", check=False
        )

    def lines(self) -> str:
        """Return the screen without what only draws windows."""
        lines = (one.rstrip() for one in self.screen().splitlines())
        return "\n".join(one for one in lines if any(map(str.isalnum, one)))

    def wait(self, text: str, *, seconds: float = 10) -> str:
        """Return the first screen line that contains `text`."""
        return until(
            lambda: next((x for x in self.screen().splitlines() if text in x), None),
            f"{self.command[0]} to show {text!r}",
            seconds=seconds,
            step=0.05,
            also=self.lines,
        )

    def shows(self, text: str, *, seconds: float = 10) -> bool:
        """Whether the screen shows `text` before the deadline."""
        try:
            self.wait(text, seconds=seconds)
        except TooLateError:
            return False
        return True

    def _tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-L", "bed", *arguments],
            env=self._environment,
            cwd=self.home,
            capture_output=True,
            timeout=10,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"tmux {arguments}: {done.stderr.decode()}")
        return done.stdout.decode("utf-8", "replace")
