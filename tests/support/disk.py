"""A disk that fails or is slow, for one running process: strace changes its calls."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from .waiting import until

SYNC = "fsync,fdatasync"
WRITE = "pwrite64"


class Disk:
    """What the kernel answers to `calls` of a process, as strace(1) says it.

    `fault` is `error=EIO`, `delay_enter=3s` and so on, with `:when=1` for the first
    call alone. From the constructor's return until :meth:`stop` it holds.
    """

    def __init__(self, pid: int, calls: str, fault: str, folder: Path) -> None:
        self._file = folder / f"strace-{pid}"
        self._errors = folder / f"strace-{pid}-errors"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *("strace", "-f", "-p", str(pid), "-o", str(self._file)),
                    *("-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        until(self._attached, "strace to attach", also=self._errors.read_text)

    def _attached(self) -> bool:
        assert self._process.poll() is None, self._errors.read_text()
        return "attached" in self._errors.read_text()

    @property
    def injected(self) -> list[str]:
        """The calls that were answered by the fault so far."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [line for line in lines if "(INJECTED)" in line or "(DELAYED)" in line]

    @property
    def calls(self) -> list[str]:
        """All the calls so far."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [line for line in lines if "(" in line and "+++" not in line]

    def stop(self) -> None:
        """The disk is well again."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
