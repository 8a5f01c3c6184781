"""What a stream of the gate asks the registry, and what it may be told.

A question is carried to where the registry is (it may block), answered there
inside one transaction by ``gate.admission``, and its answer brought back to the
stream that asked.  Accounts are bare JIDs, normalised; times are Unix
milliseconds.  Behind each answer the registry's writes are durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..keys.registry import Server

# -- questions ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MayTry:
    """May a login as *account* be relayed for this device (14.6)?  → ``Yes``, ``No``"""

    account: str
    device: bytes
    root: bytes | None


@dataclass(frozen=True, slots=True)
class Vouch:
    """The server bound *account*: judge what its device shows (14.9, 14.10).

    :param manifest: the JWS, None where only its digest was sent.
    :param digest: SHA-256 of the manifest's payload; None: it waits to be linked.
    :param rollover: a rollover from the held root, if one was sent.
    :param code: the one-time code of an enrolment, if one was sent.
    :returns: ``Vouched``, ``Wanted``, ``Stale``, ``Linking`` or ``Refused``.
    """

    account: str
    device: bytes
    root: bytes | None
    digest: bytes | None
    manifest: bytes | None = None
    rollover: bytes | None = None
    code: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token was signed for *account* and is to be kept.  → ``Yes``"""

    account: str
    token: str
    digest: bytes
    manifest: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """The server gave the stream of *account* the id *previd* (XEP-0198).  → ``Yes``

    :param jid: the full JID as bound, which ``Resumable`` gives back: what vouches
        on the resumed stream is signed over it (14.7).
    """

    account: str
    previd: str
    jid: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """May the stream *previd* be resumed by this device (14.13)?
    → ``Resumable`` or ``No``"""

    previd: str
    domain: str
    device: bytes
    root: bytes | None


@dataclass(frozen=True, slots=True)
class Object:
    """A device in use objects to the reset due at *due*.  → ``Yes`` or ``No``"""

    account: str
    device: bytes
    due: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """*account* is being registered with this manifest (14.14).
    → ``Yes`` or ``Refused``"""

    account: str
    device: bytes
    root: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Registered:
    """The server said how the registration of *account* ended.  → ``Yes``"""

    account: str
    root: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """The server removed *account*: a tombstone stays.  → ``Yes``"""

    account: str


@dataclass(frozen=True, slots=True)
class Seen:
    """*account* logged in without a key, which its policy allows (14.5).
    → ``Yes``, or ``Refused`` where it has one: then the stream ends"""

    account: str


@dataclass(frozen=True, slots=True)
class LookUp:
    """What is held of *account*, for the directory.  → ``Record`` or ``No``"""

    account: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Whose devices changed at *since* or later, at any gate?  → ``Changed``

    To be asked every few seconds, from a minute before the last time: streams of
    devices that are not in use any more end, and those without a device where there
    is a key now.
    """

    since: int


@dataclass(frozen=True, slots=True)
class Served:
    """What does *domain* say of itself?  → ``Serving`` or ``No``"""

    domain: str


@dataclass(frozen=True, slots=True)
class Publish:
    """*server* is to follow upon the document with digest *upon*.

    :param upon: None where there is none yet.
    :returns: ``Yes``, or ``No`` where another one has followed already.
    """

    server: Server
    upon: bytes | None


Question: TypeAlias = (
    MayTry
    | Vouch
    | Issued
    | Streamed
    | Resume
    | Object
    | Allocate
    | Registered
    | Removed
    | Seen
    | LookUp
    | Changes
    | Served
    | Publish
)

# -- answers ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Yes:
    """Done, or allowed."""


@dataclass(frozen=True, slots=True)
class No:
    """Not allowed, or nothing there."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """The manifest is in force.

    :param token: one that covers it and has half its life left, empty if a new
        one has to be signed.
    :param previous: digest of the newest token, if there was one.
    :param removed: public keys of devices of the account that are not in use any
        more, whenever that was: streams of theirs that are open end.
    :param reset: when a reset of the account is due, 0 for none.
    :param first: whether the account had no key before.
    """

    manifest: str
    digest: bytes
    token: str = ""
    previous: bytes | None = None
    removed: tuple[bytes, ...] = ()
    reset: int = 0
    first: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """The manifest is not held here: it has to be sent."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A newer manifest of the same root is held, or another with its number."""

    manifest: str


@dataclass(frozen=True, slots=True)
class Linking:
    """The account has keys, and this device is not among them."""

    manifest: str


@dataclass(frozen=True, slots=True)
class Refused:
    """*condition* of ``urn:x-tillie:errors:0`` (17.3), *text* for the person."""

    condition: Literal["root-changed", "unknown-device", "bad-proof", "key-required"]
    text: str


@dataclass(frozen=True, slots=True)
class Resumable:
    """The stream belongs to *account*, and was bound to the full JID *jid*."""

    account: str
    jid: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """An account that is vouched for.

    :param token: the newest, empty if none was signed yet.
    :param expires: when that ends.
    :param rollovers: what led to the root, oldest first.
    """

    account: str
    manifest: str
    digest: bytes
    token: str
    token_digest: bytes | None
    expires: int
    rollovers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """Accounts, each with the public keys of the devices that it has in use now;
    None where it has no key (any more)."""

    accounts: tuple[tuple[str, tuple[bytes, ...] | None], ...]


@dataclass(frozen=True, slots=True)
class Serving:
    """The newest document of a domain, and what stands beside it."""

    server: Server


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The registry cannot be asked now: no login goes on (fail closed)."""

    text: str


Answer: TypeAlias = (
    Yes
    | No
    | Vouched
    | Wanted
    | Stale
    | Linking
    | Refused
    | Resumable
    | Record
    | Changed
    | Serving
    | Unavailable
)
