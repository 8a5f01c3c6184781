"""Our stream to the local client: we are its server (RFC 6120, 4 to 6).

Bytes and calls in, outputs of ``core.vocabulary`` back; no clock, no sockets.
What the client does wrong is never an exception: it is a stream error and a
last ``Ended``.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias, assert_never
from xml.etree.ElementTree import Element, SubElement

from ..errors import Fault, LocalFault, PeerFault
from ..wire.framing import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    Broken,
    Closed,
    Framer,
    Opened,
    Received,
    Skipped,
)
from ..wire.jid import Jid
from ..wire.stanza import stream_error
from ..wire.tree import serialise
from .credentials import Unacceptable, credentials, failure
from .streams import (
    COMPRESSION,
    END,
    MANAGEMENT,
    SASL,
    STANZA_CONDITIONS,
    STATE_INDICATION,
    STREAM_CONDITIONS,
    STREAMS,
    TLS,
    header,
    read_error,
    sasl_condition,
    shown,
    speaks_xmpp,
    stream_condition,
)
from .vocabulary import Close, Ended, Incoming, Live, Register, Send, StartTls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..wire.framing import Event, Limits
    from ..wire.stanza import Stanza
    from .vocabulary import ClientOutput

Outputs: TypeAlias = "list[ClientOutput]"

ATTEMPTS = 3
"""So many logins may fail on one connection (RFC 6120, 6.4.5)."""

REGISTRATION = "http://jabber.org/features/iq-register"
_PROCEED = f"<proceed xmlns='{TLS}'/>".encode()
_NO_TLS = f"<failure xmlns='{TLS}'/>".encode() + END
_CHALLENGE = f"<challenge xmlns='{SASL}'/>".encode()
_SUCCESS = f"<success xmlns='{SASL}'/>".encode()
_NO_MANAGEMENT = (
    f"<failed xmlns='{MANAGEMENT}'>"
    f"<feature-not-implemented xmlns='{STANZA_CONDITIONS}'/></failed>"
).encode()
_NO_COMPRESSION = (
    f"<failure xmlns='{COMPRESSION}'><unsupported-method/></failure>".encode()
)
_LIVE_NONZAS: dict[tuple[str, str], bytes | None] = {
    (MANAGEMENT, "enable"): _NO_MANAGEMENT,
    (MANAGEMENT, "resume"): _NO_MANAGEMENT,
    (MANAGEMENT, "r"): b"",
    (MANAGEMENT, "a"): b"",
    (COMPRESSION, "compress"): _NO_COMPRESSION,
    (STATE_INDICATION, "active"): None,
    (STATE_INDICATION, "inactive"): None,
}
"""What is answered with these bytes; None is passed on as it is."""

_NOT_XML = frozenset({"bad-format", "not-well-formed"})
_BEFORE_XML = b" \t\r\n\xef\xbb\xbf"


class Awaiting(Enum):
    """What this leg waits for."""

    HEADER = auto()
    NEGOTIATION = auto()
    HANDSHAKE = auto()
    RESPONSE = auto()
    DECISION = auto()
    RESTART = auto()
    STANZAS = auto()
    NOTHING = auto()


class ClientLeg:
    """One connection of a local client, from TCP to live stanzas.

    :param tls_available: whether STARTTLS is offered (never required).
    :param secure: whether the connection is TLS from its first byte.
    :param stream_id: gives a fresh, unguessable id for each stream header.

    ``domain`` is what the client's header names, normalised, None before.
    Whether a client binds a resource before it sends stanzas is the session's
    affair.
    """

    def __init__(
        self, *, tls_available: bool, secure: bool, stream_id: Callable[[], str]
    ) -> None:
        self.domain: str | None = None
        self._tls_available = tls_available
        self._secure = secure
        self._stream_id = stream_id
        self._failures = 0
        self._features: tuple[Element, ...] = ()
        self._framer, self._opened, self._first = Framer(BEFORE_LOGIN), False, b""
        self._awaiting = Awaiting.HEADER
        self._negotiation: dict[tuple[str, str], Callable[[Stanza], Outputs]] = {
            (TLS, "starttls"): self._on_starttls,
            (SASL, "auth"): self._on_auth,
            (SASL, "response"): self._on_response,
            (SASL, "abort"): self._on_abort,
            (COMPRESSION, "compress"): self._on_compress,
            (STREAMS, "error"): self._on_error,
        }

    # -- what the edge reports ------

    @property
    def over(self) -> bool:
        """True once ``Ended`` was given; every call is without effect from then on."""
        return self._awaiting is Awaiting.NOTHING

    def rest(self) -> None:
        """See :meth:`wire.framing.Framer.rest`."""
        self._framer.rest()

    def data(self, data: bytes) -> Outputs:
        """Bytes came from the client."""
        if self.over:
            return []
        if self._awaiting is Awaiting.HANDSHAKE:
            return self._pipelined()
        out: Outputs = []
        framer = self._framer
        paused = self._paused()
        if not self._first:
            self._first = data.lstrip(_BEFORE_XML)[:1]
        for event in framer.feed(data):
            if self._framer is not framer or (self._paused() and not paused):
                return self._pipelined()
            out += self._event(event)
            if out and isinstance(out[-1], Ended):
                return out
        if (self._framer is not framer or self._paused()) and not framer.clean:
            return self._pipelined()
        return out

    def _restart(self, limits: Limits) -> None:
        self._framer, self._opened, self._first = Framer(limits), False, b""

    def _paused(self) -> bool:
        """Tell whether the client has to wait for us: what it sends now is too early.

        It would cross from one stream into the next, or be done in the name of an
        account that is not logged in yet.
        """
        return self._awaiting is Awaiting.DECISION

    def secured(self) -> Outputs:
        """TLS is up behind ``StartTls``; the client opens a new stream."""
        if self.over:
            return []
        self._expect(Awaiting.HANDSHAKE)
        self._secure = True
        self._awaiting = Awaiting.HEADER
        return []

    def lost(self) -> Outputs:
        """The connection is gone; half a stanza in the parser goes with it."""
        if self.over:
            return []
        self._awaiting = Awaiting.NOTHING
        return [Ended(None)]

    # -- what the session asks for ------

    def admit(self, features: Sequence[Element]) -> Outputs:
        """Let the client of the last ``Login`` in.

        :param features: what is offered behind the restart of the stream.
        """
        if self.over:
            return []
        self._expect(Awaiting.DECISION)
        self._features = tuple(features)
        self._restart(AFTER_LOGIN)
        self._awaiting = Awaiting.RESTART
        return [Send(_SUCCESS)]

    def refuse(self, condition: str, text: str) -> Outputs:
        """Answer the last ``Login`` with a failure; the client may try again.

        :param condition: of RFC 6120, 6.5; any other becomes
            ``temporary-auth-failure``.
        """
        if self.over:
            return []
        self._expect(Awaiting.DECISION)
        return self._failure(sasl_condition(condition), text)

    def stanza(self, data: bytes) -> Outputs:
        """Send something to the client, which must be live."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(data)]

    def end(self, fault: Fault | None) -> Outputs:
        """End the stream, with a stream error if there is a fault."""
        if fault is None:
            return self._finish(None, END if self._opened else b"")
        return self._fail(fault)

    # -- events ------

    def _event(self, event: Event) -> Outputs:
        match event:
            case Received(stanza=stanza):
                return self._on_element(stanza)
            case Opened():
                return self._on_header(event)
            case Closed():
                return self._finish(None, END)
            case Skipped(reason=reason):
                return self._error("policy-violation", reason)
            case Broken(condition=condition, text=text):
                return self._on_broken(condition, text)
        assert_never(event)

    def _on_broken(self, condition: str, text: str) -> Outputs:
        fault = PeerFault(text, condition=condition)
        if not self._opened and (self._first != b"<" or condition in _NOT_XML):
            # A browser or a TLS client has the wrong port.  Whatever we answered,
            # a web page's script could count it.
            return self._finish(fault, b"")
        return self._fail(fault)

    def _on_element(self, stanza: Stanza) -> Outputs:
        if self._awaiting is Awaiting.STANZAS:
            return self._on_live(stanza)
        if self._registers(stanza):
            assert self.domain is not None
            return [Register(stanza, self.domain)]
        handler = self._negotiation.get((stanza.ns, stanza.name))
        if handler is None:
            return self._error(
                "not-authorized", "log in first; nothing was done with what was sent"
            )
        return handler(stanza)

    def _registers(self, stanza: Stanza) -> bool:
        """XEP-0077, before login; the domain is the stream's, whoever is addressed."""
        return (
            self._awaiting is Awaiting.NEGOTIATION
            and stanza.name == "iq"
            and stanza.is_stanza
            and stanza.type in ("get", "set")
            and stanza.children == ("{jabber:iq:register}query",)
        )

    def early(self, data: bytes) -> Outputs:
        """Answer a :class:`Register`, if the client still waits for that."""
        waits = self._awaiting in (Awaiting.NEGOTIATION, Awaiting.RESPONSE)
        return [Send(data)] if waits else []

    # -- stream header ------

    def _on_header(self, opened: Opened) -> Outputs:
        if not speaks_xmpp(opened.attrs.get("version")):
            return self._error("unsupported-version", "XMPP 1.0 is needed here")
        to = opened.attrs.get("to")
        if not to:
            return self._error(
                "improper-addressing",
                "the stream header has no 'to'; set the account's domain in the client",
            )
        domain = _domain(to)
        if domain is None or domain != (self.domain or domain):
            return self._error(
                "host-unknown", "the stream header's 'to' is not the account's domain"
            )
        self.domain = domain
        hello = self._header(opened.attrs.get("from"))
        if self._awaiting is Awaiting.RESTART:
            self._awaiting = Awaiting.STANZAS
            return [Send(hello + _features(self._features)), Live()]
        self._awaiting = Awaiting.NEGOTIATION
        return [Send(hello + _features(self._offers()))]

    def _header(self, to: str | None = None) -> bytes:
        self._opened = True
        return header(to=to, from_=self.domain, stream_id=self._stream_id())

    def _offers(self) -> list[Element]:
        offers = []
        if self._tls_available and not self._secure:
            offers.append(Element(f"{{{TLS}}}starttls"))
        offers.append(Element(f"{{{REGISTRATION}}}register"))
        mechanisms = Element(f"{{{SASL}}}mechanisms")
        SubElement(mechanisms, f"{{{SASL}}}mechanism").text = "PLAIN"
        return [*offers, mechanisms]

    # -- negotiation ------

    def _on_starttls(self, stanza: Stanza) -> Outputs:
        if self._awaiting is not Awaiting.NEGOTIATION:
            return self._error("not-authorized", "<starttls/> is out of order")
        if self._secure or not self._tls_available:
            return self._finish(PeerFault("TLS was asked for but not offered"), _NO_TLS)
        # What the old parser holds came in clear, from anyone.
        self._restart(BEFORE_LOGIN)
        self._awaiting = Awaiting.HANDSHAKE
        return [Send(_PROCEED), StartTls()]

    def _on_auth(self, stanza: Stanza) -> Outputs:
        if self._awaiting is not Awaiting.NEGOTIATION:
            return self._error("not-authorized", "<auth/> is out of order")
        if self._failures >= ATTEMPTS:
            return self._error("policy-violation", "too many logins failed")
        if stanza.attrs.get("mechanism") != "PLAIN":
            return self._failure("invalid-mechanism", "only PLAIN is offered here")
        if stanza.children or stanza.tree().text:
            return self._login(stanza)
        self._awaiting = Awaiting.RESPONSE
        return [Send(_CHALLENGE)]

    def _on_response(self, stanza: Stanza) -> Outputs:
        if self._awaiting is not Awaiting.RESPONSE:
            return self._error("not-authorized", "<response/> is out of order")
        return self._login(stanza)

    def _login(self, stanza: Stanza) -> Outputs:
        assert self.domain is not None
        try:
            login = credentials(stanza, self.domain)
        except Unacceptable as refusal:
            return self._failure(refusal.condition, refusal.text)
        self._awaiting = Awaiting.DECISION
        return [login]

    def _on_abort(self, stanza: Stanza) -> Outputs:
        if self._awaiting is not Awaiting.DECISION:
            return self._failure("aborted", "the login was given up")
        # The decision under way must not meet a later login of the same stream.
        said = failure("aborted", "the login was given up")
        return self._finish(None, said + END)

    def _on_compress(self, stanza: Stanza) -> Outputs:
        return [Send(_NO_COMPRESSION)]

    def _on_error(self, stanza: Stanza) -> Outputs:
        condition, _, text = read_error(stanza.tree(), STREAM_CONDITIONS)
        what = ": ".join(part for part in (condition, text) if part)
        fault = PeerFault(
            f"the client ended the stream ({what or 'no reason given'})",
            condition=stream_condition(condition),
        )
        return self._finish(fault, END if self._opened else b"")

    def _failure(self, condition: str, text: str) -> Outputs:
        self._failures += 1
        self._awaiting = Awaiting.NEGOTIATION
        return [Send(failure(condition, text))]

    # -- live ------

    def _on_live(self, stanza: Stanza) -> Outputs:
        if stanza.is_stanza:
            return [Incoming(stanza)]
        key = (stanza.ns, stanza.name)
        if key in _LIVE_NONZAS:
            answer = _LIVE_NONZAS[key]
            if answer is None:
                return [Incoming(stanza)]
            return [Send(answer)] if answer else []
        if key == (STREAMS, "error"):
            return self._on_error(stanza)
        if stanza.ns == SASL:
            return self._error("not-authorized", "the login is already done")
        if stanza.name in ("message", "presence", "iq"):
            return self._error(
                "invalid-namespace",
                f"<{stanza.name}/> is not in the namespace jabber:client",
            )
        return self._error(
            "unsupported-stanza-type", f"<{shown(stanza.name)}/> is not known here"
        )

    # -- the end ------

    def _pipelined(self) -> Outputs:
        if self._awaiting is Awaiting.HANDSHAKE:
            fault = PeerFault(
                "the client sent data before TLS was up, so it was disconnected",
                condition="policy-violation",
            )
            return self._finish(fault, b"")
        return self._error(
            "not-authorized", "data came before the login was answered; log in first"
        )

    def _error(self, condition: str, text: str) -> Outputs:
        return self._fail(PeerFault(text, condition=condition))

    def _fail(self, fault: Fault) -> Outputs:
        if self._awaiting in (Awaiting.NOTHING, Awaiting.HANDSHAKE):
            return self._finish(fault, b"")
        text = f"{fault.text}; {fault.hint}" if fault.hint else fault.text
        farewell = stream_error(stream_condition(fault.condition), text)
        if not self._opened:
            farewell = self._header() + farewell
        return self._finish(fault, farewell)

    def _finish(self, fault: Fault | None, farewell: bytes) -> Outputs:
        if self.over:
            return []
        self._awaiting = Awaiting.NOTHING
        said: Outputs = [Send(farewell)] if farewell else []
        return [*said, Close(), Ended(fault)]

    def _expect(self, state: Awaiting) -> None:
        if self._awaiting is not state:
            raise LocalFault(
                f"the client leg was called for {state.name} "
                f"while it awaits {self._awaiting.name}"
            )


def _domain(to: str) -> str | None:
    """Normalise the header's ``to``, which must be a bare domain."""
    try:
        jid = Jid.parse(to)
    except PeerFault:
        return None
    return None if jid.local or jid.resource else jid.domain


def _features(offers: Sequence[Element]) -> bytes:
    # The prefix is declared by the stream header that goes before.
    inner = b"".join(serialise(offer) for offer in offers)
    return b"<stream:features>" + inner + b"</stream:features>"
