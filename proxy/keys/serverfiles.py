"""The private key of a domain, in a file of its own beside the gate's registry.

``server-DOMAIN.key`` signs; ``server-DOMAIN.next.key`` will follow it.  One line
each, readable by its owner only.  The keys are nowhere else: a gate on another
machine needs a copy of the file.  Only the signing process and ``tillie gate
rotate`` read these files, and nothing is ever written over one.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..errors import PeerFault, StoreFault
from ..suites.entropy import token
from ..suites.fields import b64, unb64
from ..wire.jid import Jid
from .identity import RootPrivate

Which: TypeAlias = Literal["key", "next.key"]
_FORM: Final = "tillie-server-key-0"
_SIZE: Final = 200


def key_path(folder: Path, domain: str, which: Which = "key") -> Path:
    """:raises StoreFault: *domain* is no domain in its prepared form."""
    try:
        good = str(Jid.parse(domain)) == domain == Jid.parse(domain).domain
    except PeerFault:
        good = False
    if not good or "/" in domain:
        raise StoreFault(f"{domain!r} is no domain")
    return folder / f"server-{domain}.{which}"


def load(folder: Path, domain: str, which: Which = "key") -> RootPrivate | None:
    """The key in the file, None if there is no such file.

    :raises StoreFault: it is damaged, not ours, or others may read it.
    """
    path = key_path(folder, domain, which)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFault(
            f"the key file {path} cannot be read: {error.strerror or error}"
        ) from error
    try:
        _check_mode(path, os.fstat(handle))
        return _parsed(path, os.read(handle, _SIZE))
    finally:
        os.close(handle)


def make(folder: Path, domain: str, which: Which = "key") -> RootPrivate:
    """Make a new key and its file, which has its name only when it is complete.

    :raises StoreFault: there is one already, or the folder cannot be written.
    """
    path = key_path(folder, domain, which)
    key = RootPrivate.generate()
    fresh = folder / f".{path.name}.{token(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(fresh, flags, 0o600)
        try:
            os.fchmod(handle, 0o600)
            os.write(handle, f"{_FORM} {b64(key.to_bytes())}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        # unlike a rename, this never takes the place of another key
        os.link(fresh, path)
        sync(folder)
    except FileExistsError:
        raise StoreFault(f"the key file {path} exists already") from None
    except OSError as error:
        raise StoreFault(
            f"the key file {path} cannot be made: {error.strerror or error}",
            hint="make the state folder one that you own and can write",
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return key


def promote(folder: Path, domain: str) -> None:
    """The next key takes the place of the one before, which is gone with this.

    :raises StoreFault: the folder cannot be written.
    """
    path = key_path(folder, domain)
    try:
        key_path(folder, domain, "next.key").rename(path)
        sync(folder)
    except OSError as error:
        raise StoreFault(
            f"the key file {path} cannot be replaced: {error.strerror or error}"
        ) from error


def sync(folder: Path) -> None:
    """Make the names in *folder* durable.  :raises OSError: likewise."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_mode(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise StoreFault(
            f"the key file {path} is not a file of yours",
            hint="run this as the user that the gate runs as, for example with sudo -u",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreFault(
            f"others may read the key file {path}",
            hint=f"if nobody did: chmod 600 {path}; else make a new key: "
            "tillie gate rotate",
        )


def _parsed(path: Path, data: bytes) -> RootPrivate:
    form, _, coded = data.decode("ascii", "replace").rstrip("\n").partition(" ")
    try:
        if form == _FORM:
            return RootPrivate.from_bytes(unb64(coded))
    except (PeerFault, StoreFault):
        pass
    raise StoreFault(
        f"the key file {path} is damaged",
        hint="put it back from your backup, or copy it from another gate",
    )
