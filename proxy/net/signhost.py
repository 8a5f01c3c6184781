"""The signing process: it has the private keys of a gate's domains, and signs.

Started by ``net.signer`` with a pipe each way and nothing else.  It reads the key
files, gives away what a process can do without, and answers until its input ends.
Frames are a length (4 bytes, big-endian) and ``fields``:

=========  ==========================================================
ready      per domain: name, and of the key and of the next one (each
           absent where there is none) Ed25519 and ML-DSA-65
broken     text, hint: there are no keys; the process ends
sign       number, fingerprint, typ, claims as JSON
prove      number, fingerprint, statement
done       number, JWS or signature
refused    number, text
=========  ==========================================================
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import Fault, PeerFault, StoreFault
from ..gate.signing import Signing
from ..keys import serverfiles
from ..keys.identity import RootPrivate
from ..suites.fields import fields, split

LONGEST: Final = 64 * 1024
MAKE: Final = "+"
"""Before a domain's name: it may have a new key, if it has none."""
_READ: Final = 256 * 1024
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNET: Final = 0x40000000


def frame(label: str, *parts: bytes | str | int | None) -> bytes:
    data = fields(label, *parts)
    return len(data).to_bytes(4, "big") + data


def frames(buffer: bytearray) -> Iterator[list[bytes | None]]:
    """Take the complete frames off the front of *buffer*; label and parts each.

    :raises PeerFault: a frame is longer than any of ours.
    """
    while len(buffer) >= 4:
        size = int.from_bytes(buffer[:4], "big")
        if size > LONGEST:
            raise PeerFault("a frame on the signer's pipe is too long")
        if len(buffer) < 4 + size:
            return
        data = bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
        yield split(data)


def number_of(part: bytes | None) -> int:
    return int.from_bytes(part or b"", "big")


def label_of(part: bytes | None) -> str:
    return (part or b"").decode().removeprefix("tillie/0 ")


# -- keys -------------------------------------------------------------------


def load(folder: Path, domains: list[str]) -> dict[str, list[RootPrivate]]:
    """The keys of *domains*, made where the name allows that (:data:`MAKE`).

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


def _ready(keys: dict[str, list[RootPrivate]]) -> bytes:
    parts: list[bytes | str | None] = []
    for domain, held in keys.items():
        parts.append(domain)
        for at in (0, 1):
            public = held[at].public if at < len(held) else None
            parts.append(public.ed25519 if public else None)
            parts.append(public.mldsa65 if public else None)
    return frame("ready", *parts)


# -- answering --------------------------------------------------------------


def answer(signing: Signing, parts: list[bytes | None], now: int) -> bytes:
    """The frame that answers one."""
    label, number, *rest = [part or b"" for part in parts]
    said = number_of(number)
    try:
        signed = _signed(signing, label_of(label), rest, now)
    except Fault as fault:
        return frame("refused", said, fault.text)
    except (ValueError, RecursionError):
        return frame("refused", said, "what is to be signed is not well-formed")
    return frame("done", said, signed)


def _signed(signing: Signing, what: str, parts: list[bytes], now: int) -> bytes:
    if what == "prove" and len(parts) == 2:
        return signing.prove(parts[1], parts[0], now)
    if what == "sign" and len(parts) == 3:
        claims = json.loads(parts[2])
        if isinstance(claims, dict):
            return signing.sign(parts[1].decode(), claims, parts[0], now).encode()
    raise PeerFault("nothing else is answered here")


def serve(signing: Signing, into: int, out: int) -> None:
    """Answer until the input ends."""
    buffer = bytearray()
    while data := os.read(into, _READ):
        buffer += data
        now = time.time_ns() // 1_000_000
        _write(out, b"".join(answer(signing, one, now) for one in frames(buffer)))


def _write(out: int, data: bytes) -> None:
    at = memoryview(data)
    while at:
        at = at[os.write(out, at) :]


# -- the process --------------------------------------------------------------


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


def main(folder: str, domains: list[str]) -> int:
    """Read keys, confine, answer; 1 if there are no keys."""
    # It ends when its gate does, which may have logins to finish first.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    try:
        keys = load(Path(folder), domains)
    except Fault as fault:
        _write(1, frame("broken", fault.text, fault.hint))
        return 1
    ready = _ready(keys)
    signing = Signing(keys)
    confine()
    _write(1, ready)
    with suppress(BrokenPipeError):
        serve(signing, 0, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
