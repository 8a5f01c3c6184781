"""Our stream to the account's server: TLS, SASL, XEP-0198 (RFC 6120, 4 to 6).

Bytes and calls in, outputs of ``core.vocabulary`` back; no clock, no sockets.
What the server does wrong is never an exception: it is a last ``Ended``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never
from xml.etree.ElementTree import Element

from ..errors import EnvFault, Fault, LocalFault, PeerFault, TrustFault
from ..suites.fields import b64, unb64
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
from ..wire.stanza import stream_error
from ..wire.tree import serialise
from . import sasl
from .streams import (
    BINDINGS,
    END,
    MANAGEMENT,
    SASL,
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
from .vocabulary import (
    Acked,
    Authenticated,
    Close,
    Enabled,
    Ended,
    Incoming,
    NotEnabled,
    Resumed,
    ResumeFailed,
    Send,
    StartTls,
    TooBig,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.framing import Event
    from ..wire.jid import Jid
    from ..wire.stanza import Cleared, Stanza
    from .vocabulary import ServerOutput, TlsFacts

Outputs: TypeAlias = "list[ServerOutput]"

REQUEST_EVERY = 10
"""After so many stanzas of ours the server is asked what it has handled."""

# The features of a large server pass 10,000 bytes with some certificates' worth
# of mechanisms and upgrade tasks; 64 KiB are still nothing to keep.
_LIMITS = replace(BEFORE_LOGIN, stanza=65_536, hard=65_536)
_MODULUS = 2**32
_COUNT = re.compile("[0-9]{1,10}", re.ASCII)
_STARTTLS = f"<starttls xmlns='{TLS}'/>".encode()
_REQUEST = f"<r xmlns='{MANAGEMENT}'/>".encode()
_ENABLE = f"<enable xmlns='{MANAGEMENT}' resume='true'/>".encode()


class Awaiting(Enum):
    """What this leg waits for."""

    CONNECTION = auto()
    TLS_OFFER = auto()
    PROCEED = auto()
    HANDSHAKE = auto()
    MECHANISMS = auto()
    CHALLENGE = auto()
    SALTED_PASSWORD = auto()
    OUTCOME = auto()
    FEATURES = auto()
    RESUMPTION = auto()
    STANZAS = auto()
    NOTHING = auto()


_BEFORE_TLS = frozenset(
    {Awaiting.CONNECTION, Awaiting.TLS_OFFER, Awaiting.PROCEED, Awaiting.HANDSHAKE}
)
# Nothing is read and nothing may be written here: the line is not a stream now.
_NO_STREAM = frozenset({Awaiting.CONNECTION, Awaiting.HANDSHAKE})


class Management(Enum):
    """Where XEP-0198 stands on this stream."""

    OFF = auto()
    ASKED = auto()
    ON = auto()


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where an earlier stream was cut (XEP-0198, 5); all counts modulo 2**32.

    :param previd: the id that the server gave with ``<enabled/>``.
    :param received: stanzas of the server that were committed here.
    :param sent: stanzas sent on the earlier stream.
    :param acked: how many of them the server acknowledged.
    """

    previd: str
    received: int
    sent: int
    acked: int


class ServerLeg:
    """One connection to the server, from TCP to live stanzas.

    :param account: bare JID.
    :param tls: ``off`` only towards loopback.
    :param floor: strongest mechanism that this account ever used, None for none;
        keep ``sasl.stronger(floor, Authenticated.mechanism)`` for the next login.
    :param resume: if given and on offer, the old session is resumed before
        anything else; then come ``Resumed``, or ``ResumeFailed`` and
        ``Authenticated``.

    ``received`` and ``sent`` count stanzas modulo 2**32 as XEP-0198 does: from
    ``<enabled/>`` and from ``<enable/>`` on.
    ``ack_wanted`` says that the server asked, answer by :meth:`acknowledge`
    after the commit.  After ``Resumed(h)``, ``sent`` is *h*: what the server has
    not handled is given to :meth:`stanza` again, in order, and takes its old
    numbers.
    """

    def __init__(
        self,
        *,
        account: Jid,
        password: str,
        tls: Literal["starttls", "direct", "off"],
        floor: str | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        self.received = 0
        self.sent = 0
        self.ack_wanted = False
        self.resuming = False
        self._account = account
        self._password = password
        self._tls = tls
        self._floor = floor
        self._resume = resume
        self._facts: TlsFacts | None = None
        self._scram: sasl.Scram | None = None
        self._proved = False
        self._mechanism = ""
        self._features = Element(f"{{{STREAMS}}}features")
        self._management = Management.OFF
        self._acked = 0
        self._told = 0
        self._awaiting = Awaiting.CONNECTION
        self._framer = Framer(_LIMITS)
        self._handlers: dict[Awaiting, Callable[[Stanza], Outputs]] = {
            Awaiting.TLS_OFFER: self._on_tls_offer,
            Awaiting.PROCEED: self._on_proceed,
            Awaiting.MECHANISMS: self._on_mechanisms,
            Awaiting.CHALLENGE: self._on_challenge,
            Awaiting.SALTED_PASSWORD: self._on_early,
            Awaiting.OUTCOME: self._on_outcome,
            Awaiting.FEATURES: self._on_features,
            Awaiting.RESUMPTION: self._on_resumption,
            Awaiting.STANZAS: self._on_nonza,
        }

    # -- what the edge reports ------

    def connected(self) -> Outputs:
        """TCP is up."""
        self._expect(Awaiting.CONNECTION)
        if self._tls == "direct":
            self._awaiting = Awaiting.HANDSHAKE
            return []
        if self._tls == "starttls":
            self._awaiting = Awaiting.TLS_OFFER
            # Who logs in is nobody's business before TLS (RFC 6120, 4.7.1).
            return [Send(header(to=self._account.domain))]
        self._awaiting = Awaiting.MECHANISMS
        return [self._header()]

    def secured(self, facts: TlsFacts) -> Outputs:
        """TLS is up and the certificate is good for the account's domain."""
        if self.over:
            return []
        self._expect(Awaiting.HANDSHAKE)
        self._facts = facts
        self._awaiting = Awaiting.MECHANISMS
        return [self._header()]

    @property
    def over(self) -> bool:
        """True once ``Ended`` was given; every call is without effect from then on."""
        return self._awaiting is Awaiting.NOTHING

    def data(self, data: bytes) -> Outputs:
        """Bytes came from the server."""
        if self.over:
            return []
        if self._awaiting in _NO_STREAM:
            return self._pipelined()
        framer = self._framer
        out: Outputs = []
        for event in framer.feed(data):
            if self._framer is not framer:
                return self._pipelined()
            out += self._event(event)
            if out and isinstance(out[-1], Ended):
                return out
        if self._framer is not framer and not framer.clean:
            return self._pipelined()
        return out

    def derived(self, salted: bytes) -> Outputs:
        """Take the answer to ``Derive``: PBKDF2's output, of the hash's length."""
        if self.over:
            return []
        self._expect(Awaiting.SALTED_PASSWORD)
        assert self._scram is not None
        self._awaiting = Awaiting.OUTCOME
        return [_sasl("response", self._scram.final(salted))]

    def lost(self, fault: Fault | None) -> Outputs:
        """The connection is gone; half a stanza in the parser goes with it."""
        if self.over:
            return []
        if fault is None and self._awaiting is not Awaiting.STANZAS:
            fault = self._cut()
        self._awaiting = Awaiting.NOTHING
        return [Ended(fault)]

    # -- what the session asks for ------

    def enable(self) -> Outputs:
        """Ask for XEP-0198, once, behind resource binding; counting starts here."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        if self._management is not Management.OFF:
            raise LocalFault("stream management was asked for twice")
        if not self._offers_management():
            return [NotEnabled()]
        self._management = Management.ASKED
        self.sent = self._acked = 0
        return [Send(_ENABLE)]

    def stanza(self, cleared: Cleared) -> Outputs:
        """Send a stanza and count it; now and then ask what was handled."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        out: Outputs = [Send(cleared.data)]
        self.sent = (self.sent + 1) % _MODULUS
        if self.sent % REQUEST_EVERY == 0:
            out += self.request_ack()
        return out

    def nonza(self, cleared: Cleared) -> Outputs:
        """Send what XEP-0198 does not count, for instance a client state."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(cleared.data)]

    def acknowledge(self, handled: int | None = None) -> Outputs:
        """Tell the server what is committed here.

        :param handled: how many of its stanzas; all that came if None.
        """
        h = self.received if handled is None else handled
        if not self._managed() or not (self.ack_wanted or h != self._told):
            return []
        self.ack_wanted = False
        self._told = h
        return [Send(f"<a xmlns='{MANAGEMENT}' h='{h}'/>".encode())]

    def request_ack(self) -> Outputs:
        """Ask the server what it has handled, if XEP-0198 runs."""
        return [Send(_REQUEST)] if self._managed() else []

    def close(self) -> Outputs:
        """End the stream in good order."""
        return self._end(None, END)

    # -- events ------

    def _event(self, event: Event) -> Outputs:
        match event:
            case Received(stanza=stanza):
                return self._on_element(stanza)
            case Skipped():
                return self._on_skipped(event)
            case Opened():
                return self._on_header(event)
            case Closed():
                return self._on_closed()
            case Broken(condition=condition, text=text):
                return self._fail(
                    PeerFault(
                        f"{self._who()} sent what is not XMPP ({shown(text)})",
                        condition=condition,
                    )
                )
        assert_never(event)

    def _on_header(self, opened: Opened) -> Outputs:
        if speaks_xmpp(opened.attrs.get("version")):
            return []
        return self._fail(
            EnvFault(
                f"{self._who()} does not speak XMPP 1.0",
                condition="unsupported-version",
            )
        )

    def _on_closed(self) -> Outputs:
        live = self._awaiting is Awaiting.STANZAS
        return self._end(None if live else self._cut(), END)

    def _on_skipped(self, skipped: Skipped) -> Outputs:
        if self._awaiting is not Awaiting.STANZAS:
            return self._unexpected(skipped.name)
        if skipped.ns != "jabber:client" or skipped.name not in (
            "message",
            "presence",
            "iq",
        ):
            return []
        self._count()
        return [TooBig(skipped)]

    def _on_element(self, stanza: Stanza) -> Outputs:
        if self._awaiting is Awaiting.STANZAS and stanza.is_stanza:
            self._count()
            return [Incoming(stanza)]
        if (stanza.ns, stanza.name) == (STREAMS, "error"):
            return self._on_stream_error(stanza)
        return self._handlers[self._awaiting](stanza)

    def _count(self) -> None:
        self.received = (self.received + 1) % _MODULUS

    # -- STARTTLS ------

    def _on_tls_offer(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (STREAMS, "features"):
            return self._unexpected(stanza.name)
        if f"{{{TLS}}}starttls" not in stanza.children:
            return self._fail(self._no_tls("offers no TLS"))
        self._awaiting = Awaiting.PROCEED
        return [Send(_STARTTLS)]

    def _on_proceed(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) == (TLS, "proceed"):
            # What the old parser holds came in clear, from anyone.
            self._framer = Framer(_LIMITS)
            self._awaiting = Awaiting.HANDSHAKE
            return [StartTls()]
        if (stanza.ns, stanza.name) == (TLS, "failure"):
            return self._fail(self._no_tls("offers TLS but refused to start it"))
        return self._unexpected(stanza.name)

    def _no_tls(self, what: str) -> EnvFault:
        return EnvFault(
            f"{self._who()} {what}, so the password was not sent",
            hint="ask the server's operator; someone on the way may also have "
            "removed it, so try from another network",
        )

    # -- SASL ------

    def _on_mechanisms(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (STREAMS, "features"):
            return self._unexpected(stanza.name)
        offer = _offer(stanza.tree())
        try:
            choice = sasl.choose(offer, self._facts, self._floor)
        except Fault as fault:
            return self._fail(fault)
        self._mechanism = choice.mechanism
        if choice.mechanism == "PLAIN":
            self._awaiting = Awaiting.OUTCOME
            message = sasl.plain(self._account.local, self._password)
        else:
            self._awaiting = Awaiting.CHALLENGE
            self._scram = sasl.Scram(choice, offer, self._account.local, self._password)
            message = self._scram.first()
        return [_sasl("auth", message, mechanism=choice.mechanism)]

    def _on_challenge(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (SASL, "challenge"):
            return self._on_outcome(stanza)
        assert self._scram is not None
        try:
            derive = self._scram.challenge(_payload(stanza))
        except Fault as fault:
            return self._fail(fault)
        self._awaiting = Awaiting.SALTED_PASSWORD
        return [derive]

    def _on_early(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) == (SASL, "failure"):
            return self._on_failure(stanza)
        return self._unexpected(stanza.name)

    def _on_outcome(self, stanza: Stanza) -> Outputs:
        if stanza.ns == SASL and stanza.name == "failure":
            return self._on_failure(stanza)
        if stanza.ns != SASL or stanza.name not in ("challenge", "success"):
            return self._unexpected(stanza.name)
        try:
            self._check_proof(stanza)
        except Fault as fault:
            return self._fail(fault)
        if stanza.name == "challenge":
            return [_sasl("response", b"")]
        self._framer = Framer(AFTER_LOGIN, skip_over_limits=True)
        self._awaiting = Awaiting.FEATURES
        self._scram = None
        return [self._header()]

    def _check_proof(self, stanza: Stanza) -> None:
        """Take the server's signature, in a challenge or in the success itself.

        :raises Fault: it is wrong, or success came without it.
        """
        if self._scram is None:
            if stanza.name == "challenge":
                raise PeerFault(f"{self._who()} asked for more than a password")
            return
        if self._proved and stanza.name == "success":
            return
        self._scram.verify(_payload(stanza))
        self._proved = True

    def _on_failure(self, stanza: Stanza) -> Outputs:
        condition, _, text = read_error(stanza.tree(), SASL)
        said = f": {text}" if text else ""
        if condition == "not-authorized":
            return self._fail(
                PeerFault(
                    f"{self._who()} did not accept the password of "
                    f"{self._account}{said}",
                    condition=condition,
                    hint="check account name and password in the client",
                )
            )
        return self._fail(
            EnvFault(
                f"{self._who()} refused the login of {self._account} "
                f"({condition or 'no reason given'}){said}",
                condition=sasl_condition(condition),
            )
        )

    # -- behind SASL ------

    def _on_features(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (STREAMS, "features"):
            return self._unexpected(stanza.name)
        self._features = stanza.tree()
        if self._resume is None:
            return self._authenticated()
        if not self._offers_management():
            return [ResumeFailed(None), *self._authenticated()]
        self._awaiting = Awaiting.RESUMPTION
        self.resuming = True
        attributes = {"previd": self._resume.previd, "h": str(self._resume.received)}
        return [Send(serialise(Element(f"{{{MANAGEMENT}}}resume", attributes)))]

    def _authenticated(self) -> Outputs:
        self._awaiting = Awaiting.STANZAS
        return [Authenticated(self._features, self._mechanism)]

    def _on_resumption(self, stanza: Stanza) -> Outputs:
        if stanza.ns != MANAGEMENT or stanza.name not in ("resumed", "failed"):
            return self._unexpected(stanza.name)
        point = self._resume
        assert point is not None
        h = _count(stanza.attrs.get("h"))
        possible = h is not None and _within(h, point.acked, point.sent)
        if stanza.name == "failed":
            self.resuming = False
            # A count that cannot be is no reason to believe anything was handled.
            return [ResumeFailed(h if possible else None), *self._authenticated()]
        if h is None or stanza.attrs.get("previd") != point.previd:
            return self._fail(
                PeerFault(f"{self._who()} resumed another stream than was asked for")
            )
        if not possible:
            return self._too_high(h, point.sent)
        self.resuming = False
        self._management = Management.ON
        self.received = self._told = point.received
        self.sent = self._acked = h
        self._awaiting = Awaiting.STANZAS
        return [Resumed(h)]

    def _on_nonza(self, stanza: Stanza) -> Outputs:
        if stanza.ns != MANAGEMENT:
            return []
        if self._management is Management.ASKED:
            return self._on_enabled(stanza)
        if self._management is Management.ON and stanza.name == "r":
            self.ack_wanted = True
        elif self._management is Management.ON and stanza.name == "a":
            return self._on_ack(stanza)
        return []

    def _on_enabled(self, stanza: Stanza) -> Outputs:
        if stanza.name == "failed":
            self._management = Management.OFF
            return [NotEnabled()]
        if stanza.name != "enabled":
            return []
        self._management = Management.ON
        self.received = self._told = 0
        resumable = stanza.attrs.get("resume") in ("true", "1")
        previd = stanza.attrs.get("id") if resumable else None
        seconds = _count(stanza.attrs.get("max")) if previd else None
        return [Enabled(previd or None, seconds)]

    def _on_ack(self, stanza: Stanza) -> Outputs:
        h = _count(stanza.attrs.get("h"))
        if h is None:
            return self._fail(PeerFault(f"{self._who()} acknowledged without a count"))
        if not _within(h, self._acked, self.sent):
            return self._too_high(h, self.sent)
        self._acked = h
        return [Acked(h)]

    def _too_high(self, h: int, sent: int) -> Outputs:
        error = (
            f"<stream:error><undefined-condition xmlns='{STREAM_CONDITIONS}'/>"
            f"<text xmlns='{STREAM_CONDITIONS}' xml:lang='en'>"
            f"{h} stanzas were acknowledged but {sent} were sent</text>"
            f"<handled-count-too-high xmlns='{MANAGEMENT}' h='{h}'"
            f" send-count='{sent}'/></stream:error></stream:stream>"
        )
        fault = PeerFault(
            f"{self._who()} acknowledged {h} stanzas but {sent} were sent",
            condition="undefined-condition",
        )
        return self._end(fault, error.encode())

    # -- the end ------

    def _on_stream_error(self, stanza: Stanza) -> Outputs:
        condition, content, text = read_error(stanza.tree(), STREAM_CONDITIONS)
        what = f"{self._who()} ended the stream ({condition or 'no reason given'})"
        if self._awaiting in _BEFORE_TLS:
            # Anyone on the way can have written it: neither its text nor another
            # host's name is shown to a person or acted on.
            return self._end(EnvFault(f"{what} before TLS was up"), END)
        if content:
            what += f", naming {content}"
        if text:
            what += f": {text}"
        return self._end(EnvFault(what, condition=stream_condition(condition)), END)

    def _unexpected(self, name: str) -> Outputs:
        return self._fail(
            PeerFault(
                f"{self._who()} sent <{shown(name)}/> out of order during login",
                condition="not-authorized",
            )
        )

    def _pipelined(self) -> Outputs:
        """Drop the connection: bytes came where a new layer was to begin."""
        fault = TrustFault(
            f"{self._who()} sent data across the start of a new stream, which is "
            "how commands are smuggled past TLS; the connection was dropped",
            hint="try from another network, then ask the server's operator",
        )
        self._awaiting = Awaiting.NOTHING
        return [Close(), Ended(fault)]

    def _fail(self, fault: Fault) -> Outputs:
        if isinstance(fault, PeerFault):
            condition = stream_condition(fault.condition)
            return self._end(fault, stream_error(condition, fault.text))
        return self._end(fault, END)

    def _end(self, fault: Fault | None, farewell: bytes) -> Outputs:
        if self.over:
            return []
        silent = self._awaiting in _NO_STREAM
        self._awaiting = Awaiting.NOTHING
        self._scram = None
        said: Outputs = [] if silent else [Send(farewell)]
        return [*said, Close(), Ended(fault)]

    def _cut(self) -> EnvFault:
        if self._awaiting is Awaiting.PROCEED:
            return self._no_tls("hung up when TLS was to start")
        return EnvFault(f"{self._who()} hung up before the login was done")

    # -- small things ------

    def _header(self) -> Send:
        return Send(header(to=self._account.domain, from_=str(self._account)))

    def _who(self) -> str:
        return f"the server of {self._account.domain}"

    def _managed(self) -> bool:
        live = self._awaiting is Awaiting.STANZAS
        return live and self._management is Management.ON

    def _offers_management(self) -> bool:
        return self._features.find(f"{{{MANAGEMENT}}}sm") is not None

    def _expect(self, state: Awaiting) -> None:
        if self._awaiting is not state:
            raise LocalFault(
                f"the server leg was called for {state.name} "
                f"while it awaits {self._awaiting.name}"
            )


def _sasl(name: str, message: bytes, **attributes: str) -> Send:
    element = Element(f"{{{SASL}}}{name}", attributes)
    if message:
        element.text = b64(message)
    return Send(serialise(element))


def _payload(stanza: Stanza) -> bytes:
    """Decode what a SASL element carries; ``=`` stands for nothing (RFC 6120, 6.4.2).

    :raises PeerFault: it is not canonical base64.
    """
    text = stanza.tree().text or ""
    return b"" if text in ("", "=") else unb64(text)


def _offer(features: Element) -> sasl.Offer:
    names = features.findall(f"{{{SASL}}}mechanisms/{{{SASL}}}mechanism")
    listed = features.find(f"{{{BINDINGS}}}sasl-channel-binding")
    types = None
    if listed is not None:
        bindings = listed.findall(f"{{{BINDINGS}}}channel-binding")
        types = tuple(binding.get("type", "") for binding in bindings)
    return sasl.Offer(tuple(name.text or "" for name in names), types)


def _count(text: str | None) -> int | None:
    if text is None or _COUNT.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number < _MODULUS else None


def _within(h: int, acked: int, sent: int) -> bool:
    """Tell whether *h* lies from *acked* to *sent*, going round at 2**32."""
    return (h - acked) % _MODULUS <= (sent - acked) % _MODULUS
