"""The state folder and the place of the control socket in it: ours alone, or refused.

What is checked on an open folder holds for what is named by it, whoever renames what.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreFault

NAME = "control"
"""The control socket's, in the folder."""


def own_folder(state: Path) -> None:
    """Make *state* exist and belong to this user alone (LOC-09, LOC-13).

    A folder that is missing is made, with its missing parents, mode 0700 under
    any umask.  An empty one of ours is tightened.  One that already holds files
    and is open to others is refused: what lies in it may be known or planted.

    :raises StoreFault: it cannot be made or written, or is not ours alone.
    """
    try:
        for folder in reversed([state, *state.parents]):
            if not folder.exists():
                # Not makedirs: its mode is for the last folder only.
                folder.mkdir(mode=0o700)
        with opened(state) as folder_fd:
            _tighten(state, folder_fd)
    except OSError as error:
        raise StoreFault(
            f"the state folder {state} cannot be used: {error.strerror}",
            hint="name another one with --state",
        ) from error


def _tighten(state: Path, folder_fd: int) -> None:
    facts = os.fstat(folder_fd)
    if facts.st_uid != os.geteuid() or state.lstat().st_uid != os.geteuid():
        raise StoreFault(
            f"the state folder {state} belongs to another user",
            hint="name another one with --state",
        )
    if facts.st_mode & 0o077:
        if os.listdir(folder_fd):
            raise StoreFault(
                f"the state folder {state} is open to other users of this machine",
                hint=f"if you trust what lies in it: chmod 700 {state}",
            )
        os.fchmod(folder_fd, 0o700)
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        raise StoreFault(
            f"the state folder {state} cannot be written",
            hint=f"chmod 700 {state}, or name another one with --state",
        )
    for parent in state.resolve().parents:
        mode = parent.stat().st_mode
        # Without the sticky bit anyone could rename our folder away and put
        # their own in its place.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StoreFault(
                f"the state folder {state} is not safe: every user of this machine"
                f" can rename what lies in {parent}",
                hint=f"chmod o-w {parent}, or name another folder with --state",
            )


@contextlib.contextmanager
def opened(state: Path) -> Iterator[int]:
    folder_fd = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


def socket_address(state: Path, folder_fd: int) -> str:
    """Name the socket by its open folder where the system can.

    A Unix address holds 107 bytes and a state folder's path may be longer; and
    what was checked on *folder_fd* holds for this name, whoever renames what.
    """
    by_descriptor = f"/proc/self/fd/{folder_fd}"
    if os.path.isdir(by_descriptor):
        return f"{by_descriptor}/{NAME}"
    return str(state / NAME)


def socket_facts(folder_fd: int) -> os.stat_result | None:
    try:
        return os.stat(NAME, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_ours(facts: os.stat_result) -> bool:
    return stat.S_ISSOCK(facts.st_mode) and facts.st_uid == os.geteuid()


def peer_uid(connection: socket.socket) -> int | None:
    """Return who is at the other end, None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    # struct ucred: pid, uid, gid (unix(7)).
    _, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    )
    return int(uid)


def clear_way(state: Path, folder_fd: int, address: str) -> None:
    facts = socket_facts(folder_fd)
    if facts is None:
        return
    if not is_ours(facts):
        raise StoreFault(
            f"something that is not a socket of yours lies at {state / NAME}",
            hint="look at it, and move it away if you do not need it",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live but busy one makes a non-blocking connect fail in another way.
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(NAME, dir_fd=folder_fd)
            return
        except BlockingIOError:
            pass
    raise StoreFault(
        f"a Tillie is already running with the state folder {state}",
        hint="use that one, or give this one another folder with --state",
    )
