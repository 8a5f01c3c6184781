"""The signing process: it has the private keys of a gate's domains, and signs.

Started by ``net.signer`` with a pipe each way and nothing else.  It reads the key
files, gives away what a process can do without, and answers until its input ends.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import Fault, StoreFault
from ..gate.publishing import Held
from ..gate.signframes import answer, frame, frames, ready
from ..gate.signing import MAKE, Signing
from ..keys import serverfiles
from ..keys.identity import RootPrivate

_READ: Final = 256 * 1024
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNET: Final = 0x40000000


def main(folder: str, domains: list[str]) -> int:
    """Read keys, confine, answer; 1 if there are no keys.

    :param domains: each behind :data:`MAKE` where it may have a new key.
    """
    # It ends when its gate does, which may have logins to finish first.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    try:
        keys = load(Path(folder), domains)
    except Fault as fault:
        _write(1, frame("broken", fault.text, fault.hint))
        return 1
    said = ready(
        {domain: Held(*(one.public for one in held)) for domain, held in keys.items()}
    )
    signing = Signing(keys)
    confine()
    with suppress(BrokenPipeError):
        _write(1, said)
        serve(signing, 0, 1)
    return 0


# -- keys -----------------------------------------------------------------------


def load(folder: Path, domains: list[str]) -> dict[str, list[RootPrivate]]:
    """The keys of *domains*, made where that is allowed.

    :raises StoreFault: a file is missing, damaged or readable by others.
    """
    return {
        named.removeprefix(MAKE): _keys(
            folder, named.removeprefix(MAKE), may_make=named.startswith(MAKE)
        )
        for named in domains
    }


def _keys(folder: Path, domain: str, *, may_make: bool) -> list[RootPrivate]:
    key = serverfiles.load(folder, domain)
    following = serverfiles.load(folder, domain, "next.key")
    if key is None and may_make and following is None:
        key = serverfiles.make(folder, domain)
    if key is None:
        raise StoreFault(
            f"the key of {domain} is not in {folder}, and it had one before",
            hint=f"copy {serverfiles.key_path(folder, domain).name} from another "
            "gate or from your backup",
        )
    return [key] if following is None else [key, following]


# -- the process ------------------------------------------------------------------


def confine() -> None:
    """Give away what signing needs not, as far as this system lets us."""
    libc = ctypes.CDLL(None, use_errno=True)
    # no core file, no debugger of the same user, no way back to more rights
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # an empty network, for whoever may have one of his own
    libc.unshare(_CLONE_NEWNET)
    os.closerange(3, 4096)
    # nothing more is opened: no file, no socket, no library
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def serve(signing: Signing, into: int, out: int) -> None:
    """Answer until the input ends."""
    buffer = bytearray()
    while data := os.read(into, _READ):
        buffer += data
        now = time.time_ns() // 1_000_000
        answers = [answer(signing, *one, now) for one in frames(buffer)]
        _write(out, b"".join(answers))


def _write(out: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(out, rest) :]
