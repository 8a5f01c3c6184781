"""What a stream of the gate asks of the edge; ``net.gate`` performs it in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .questions import Question

Occasion: TypeAlias = Literal[
    "presented",
    "refused",
    "failed",
    "vouched",
    "linking",
    "unkeyed",
    "resumed",
    "registered",
    "removed",
    "first-key",
    "left-out",
    "clear-refused",
    "domain-unkeyed",
    "trouble",
]
"""What is counted, and for what is said of it by the log's level."""


@dataclass(frozen=True, slots=True)
class ToClient:
    """Bytes for the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToBackend:
    """Bytes for the server behind the gate."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reach:
    """A connection to the server of *domain* is wanted: ``Stream.backend_up``."""

    domain: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client's connection turns to TLS now, with the certificate of *domain*
    unless the client names another; nothing read before counts after it."""

    domain: str


@dataclass(frozen=True, slots=True)
class Close:
    """The client's connection is flushed and closed; the server's is dropped.

    Dropped, not closed in good order: a server with XEP-0198 then keeps what it
    has not been acknowledged for the resumption.
    """


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for the registry; the answer goes to ``Stream.answered``."""

    number: int
    question: Question


@dataclass(frozen=True, slots=True)
class Prove:
    """The server key of *domain* signs *statement*, and its document is wanted as it
    stands on the wire (13.3); both go to ``Stream.proved``."""

    number: int
    domain: str
    statement: bytes


@dataclass(frozen=True, slots=True)
class Sign:
    """A token with these claims is wanted; it goes to ``Stream.signed``."""

    number: int
    domain: str
    typ: str
    claims: dict[str, object]


@dataclass(frozen=True, slots=True)
class Later:
    """``Stream.due`` is to be called after so many milliseconds."""

    number: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Has *domain* a key between servers (17.2)?  The outcome goes to
    ``Stream.found``; with number 0 nobody waits for it."""

    number: int
    domain: str


@dataclass(frozen=True, slots=True)
class Inquire:
    """Has *account*, of another domain, a key (17.1)?  The component of *domain* asks;
    the finding goes to ``Stream.found``."""

    number: int
    domain: str
    account: str


@dataclass(frozen=True, slots=True)
class Hear:
    """Does the server bring to the directory of *domain* what is sent to it (14.15)?
    The word goes to ``Stream.found``."""

    number: int
    domain: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """Open streams of these devices of *account* end, on this gate too."""

    account: str
    devices: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Something to count, and to say in the log if there is a *text* (no content,
    no password, no token)."""

    occasion: Occasion
    text: str = ""


Effect: TypeAlias = (
    ToClient
    | ToBackend
    | Reach
    | StartTls
    | Close
    | Ask
    | Prove
    | Sign
    | Later
    | Probe
    | Inquire
    | Hear
    | Revoke
    | Note
)
