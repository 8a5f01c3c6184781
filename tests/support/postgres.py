"""A private PostgreSQL: its cluster in a temporary folder, a Unix socket, no TCP.

Debian's package is needed (`scripts/test` installs it); that it lacks is a failure.
PostgreSQL does not run as root: there, the cluster runs as the package's user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from .waiting import until

_SETTINGS = {
    "listen_addresses": "''",
    "max_connections": "30",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "autovacuum": "off",
}


class Postgres:
    """Starts on construction; `stop` ends it, `remove` its folder as well.

    `of` makes it the standby of another one, which follows it until `promote`.
    """

    def __init__(self, of: Postgres | None = None) -> None:
        self._programs = programs()
        self._user = "postgres" if os.getuid() == 0 else None
        # a socket's path has to be short
        self.folder = Path(tempfile.mkdtemp(prefix="tillie-pg-", dir="/tmp"))
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if of is None:
            self._run(
                "initdb",
                *("-D", str(self.data), "-U", "gate", "-A", "trust", "--no-sync"),
                *("-E", "UTF8", "--locale", "C.UTF-8"),
            )
        else:
            self._run(
                "pg_basebackup",
                *("-D", str(self.data), "-U", "gate", "-h", str(of.folder)),
                *("-R", "-c", "fast", "--no-sync"),
            )
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in _SETTINGS.items():
                file.write(f"{name} = {value}\n")
            file.write(f"unix_socket_directories = '{self.folder}'\n")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                cwd="/",
            )
        until(self._answers, "PostgreSQL", seconds=60, also=self._said)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is its "fast", SIGQUIT its "immediate" way to end."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(60)

    def kill(self) -> None:
        """As after a power loss, but for the disk's cache."""
        process, self._process = self._process, None
        assert process is not None
        children = _children(process.pid)
        process.kill()
        process.wait(60)
        for child in children:
            until(lambda pid=child: not _runs(pid), "its processes", seconds=60)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def promote(self) -> None:
        """Let a standby write from now on."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, 60)")

    def position(self) -> int:
        """How far it has written, or followed."""
        ask = (
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn"
        )
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            row = connection.execute(ask).fetchone()
        assert row is not None
        return int(row[0])

    def database(self) -> str:
        """The URL of a new and empty database."""
        self._databases += 1
        name = f"d{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, user: str = "gate") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended: {self._said()}")
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")


def programs() -> Path:
    """The folder of `postgres` and `initdb`, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    named = shutil.which("postgres")
    if not found and named is None:
        raise AssertionError("PostgreSQL is missing: apt-get install postgresql")
    return found[-1].parent if found else Path(str(named)).resolve().parent


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
