"""What the two legs tell the session, and what the session asks of the edge.

Frozen records, one sentence each.  ``core.clientleg`` and ``core.serverleg``
return *outputs*; ``core.session`` turns them into *effects*, which
``net.driver`` performs in order, after the store has committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from ..errors import Fault
    from ..wire.framing import Skipped
    from ..wire.stanza import Stanza


@dataclass(frozen=True, slots=True)
class Send:
    """These bytes go out on the leg's own connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """The connection turns to TLS now; nothing read before counts after it."""


@dataclass(frozen=True, slots=True)
class Close:
    """What was sent is flushed, then the connection is closed."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A stanza (or, on the client's side, a nonza that is to be passed on) came."""

    stanza: Stanza


@dataclass(frozen=True, slots=True)
class TooBig:
    """A well-formed stanza beyond the limits came and was left out."""

    skipped: Skipped


# -- server leg -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What the TLS session offers for channel binding, and for a login at a gate.

    :param version: as the library names it, for instance ``TLSv1.3``.
    :param exporter: 32 bytes of ``EXPORTER-Channel-Binding`` (RFC 9266), TLS 1.3.
    :param end_point: hash of the server's certificate (RFC 5929, 4.1).
    :param login: 32 bytes of the exporter of clause 14.1, TLS 1.3.
    """

    version: str
    exporter: bytes | None
    end_point: bytes | None
    login: bytes | None = None


@dataclass(frozen=True, slots=True)
class Derive:
    """PBKDF2 is wanted off the reactor thread; answer with ``ServerLeg.derived``."""

    hash_name: str
    password: bytes = field(repr=False)
    salt: bytes
    iterations: int


@dataclass(frozen=True, slots=True)
class Authenticated:
    """SASL is done, the stream restarted, and these are the features behind it."""

    features: Element
    mechanism: str


@dataclass(frozen=True, slots=True)
class Unauthenticated:
    """The stream is secure, and a gate has proved itself; no login was asked for."""

    features: Element


@dataclass(frozen=True, slots=True)
class Enabled:
    """XEP-0198 runs; *previd* is None where the server will not resume."""

    previd: str | None
    seconds: int | None


@dataclass(frozen=True, slots=True)
class NotEnabled:
    """The server refused or does not offer XEP-0198."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The old session goes on; the server has handled *h* of our stanzas in all."""

    h: int


@dataclass(frozen=True, slots=True)
class ResumeFailed:
    """The old session is gone; *h* is what the server had handled, if it says so."""

    h: int | None


@dataclass(frozen=True, slots=True)
class GateWord:
    """The gate said something about keys on the live stream (clause 14.9)."""

    stanza: Stanza


@dataclass(frozen=True, slots=True)
class Acked:
    """The server has handled *h* of our stanzas (modulo 2**32)."""

    h: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The leg is over; *fault* says why, None for an orderly end."""

    fault: Fault | None


ServerOutput: TypeAlias = (
    Send
    | StartTls
    | Close
    | Derive
    | Authenticated
    | Unauthenticated
    | Enabled
    | NotEnabled
    | Resumed
    | ResumeFailed
    | GateWord
    | Acked
    | Incoming
    | TooBig
    | Ended
)


# -- client leg -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Login:
    """The client asks to log in; answer with ``ClientLeg.admit`` or ``refuse``.

    :param local: localpart of the account, prepared (RFC 7622).
    :param domain: domainpart, from the stream header's ``to``.
    :param password: UTF-8 text, as the client sent it.
    """

    local: str
    domain: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Register:
    """The client asks about an account before it logs in (XEP-0077)."""

    stanza: Stanza
    domain: str


@dataclass(frozen=True, slots=True)
class Live:
    """The client has restarted its stream after SASL; stanzas may flow."""


ClientOutput: TypeAlias = (
    Send | StartTls | Close | Login | Register | Live | Incoming | Ended
)


# -- effects ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToClient:
    """Bytes for the client; *row* names what may be forgotten once they left."""

    data: bytes
    row: str = ""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The client's connection turns to TLS."""


@dataclass(frozen=True, slots=True)
class ClientClose:
    """The client's connection is flushed and closed."""


@dataclass(frozen=True, slots=True)
class Connect:
    """A connection to the server of *domain* is wanted, after *delay* seconds."""

    domain: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class ToServer:
    """Bytes for the server; made by the server leg alone."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's connection turns to TLS."""


@dataclass(frozen=True, slots=True)
class ServerClose:
    """The server's connection is closed; *abort* where nothing is worth flushing."""

    abort: bool = False


@dataclass(frozen=True, slots=True)
class DeriveKey:
    """PBKDF2 off the reactor thread; the answer is ``Session.derived``."""

    request: Derive


Effect: TypeAlias = (
    ToClient
    | ClientTls
    | ClientClose
    | Connect
    | ToServer
    | ServerTls
    | ServerClose
    | DeriveKey
)
