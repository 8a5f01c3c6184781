"""The real gate as a process of its own, in front of a server on loopback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Leaf
from .tillie import Program
from .waiting import until

_LISTENING = re.compile(
    r"^tillie: listening on (?:[\d.]+|\[[\da-f:]+\]):(\d+) \((\w+)\)$", re.MULTILINE
)


@dataclass
class Gate(Program):
    """One `tillie gate run`.

    `backends` maps domains to loopback ports, `leaves` to their certificates. With
    `direct` there is a listener for direct TLS too. `port` and `direct_port` stay
    the same over restarts. Other domains' servers are not probed unless
    TILLIE_BETWEEN_PROBE in `environment` says so. `limit_files` is the process's RLIMIT_NOFILE.
    """

    folder: Path
    backends: Mapping[str, int]
    leaves: Mapping[str, Leaf]
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    direct: bool = False
    port: int = 0
    direct_port: int = 0
    limit_files: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _from: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environment = {"TILLIE_BETWEEN_PROBE": "no", **self.environment}

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def use_directory(self, port: int, secret: str) -> Gate:
        """Have it run `keys.DOMAIN` for each domain on the server's component port."""
        file = self.folder / "component-secret"
        file.write_text(secret)
        file.chmod(0o600)
        more = (
            "--component",
            f"127.0.0.1:{port}",
            "--component-secret-file",
            str(file),
        )
        self.arguments = (*self.arguments, *more)
        return self

    def start(self, *, seconds: float = 60) -> Gate:
        """Start it and return when it listens.

        Raises AssertionError with its standard error when it ends instead.
        """
        self.spawn(*self.run_arguments())
        ports = until(
            self._listening,
            "the gate to listen",
            seconds=seconds,
            also=lambda: self.errors[-3000:],
        )
        self.port = ports["starttls"]
        self.direct_port = ports.get("tls", 0)
        return self

    def run_arguments(self) -> list[str]:
        """Return the arguments of `tillie gate run` as the fields say."""
        arguments = ["gate", "run", "--listen", f"127.0.0.1:{self.port}"]
        if self.direct:
            arguments += ["--listen-tls", f"127.0.0.1:{self.direct_port}"]
        arguments += ["--state", str(self.state)]
        for domain, port in self.backends.items():
            arguments += ["--domain", domain]
            arguments += ["--backend", f"{domain}=127.0.0.1:{port}"]
            arguments += ["--cert", f"{domain}={self.leaves[domain].certificate}"]
            arguments += ["--key", f"{domain}={self.leaves[domain].key}"]
        return [*arguments, *self.arguments]

    def restart(self) -> Gate:
        """Kill it and start it with the same state and ports."""
        self.kill()
        return self.start()

    def _listening(self) -> dict[str, int] | None:
        found = _LISTENING.findall(self.output, self._from)
        if len(found) == 1 + self.direct:
            return {how: int(port) for port, how in found}
        if not self.running:
            raise AssertionError(f"the gate ended\n{self.errors[-3000:]}")
        return None
