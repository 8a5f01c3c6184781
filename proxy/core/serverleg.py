"""Our stream to the account's server: TLS, SASL, XEP-0198 (RFC 6120, 4 to 6).

Bytes and calls in, outputs of ``core.vocabulary`` back; no clock, no sockets.
What the server does wrong is never an exception: it is a last ``Ended``.  The
login is ``core.authentication``'s, the counts are ``core.management``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never
from xml.etree.ElementTree import Element

from ..errors import EnvFault, Fault, LocalFault, PeerFault, TrustFault
from ..wire.framing import (
    AFTER_LOGIN,
    Broken,
    Closed,
    Framer,
    Opened,
    Received,
    Skipped,
)
from ..wire.stanza import stream_error
from .authentication import Authentication
from .management import Management, ResumePoint, TooHigh
from .presenting import AUTH, Presenting, Vouched
from .serverfaults import no_tls, smuggled, stream_fault
from .serverstates import BEFORE_TLS, NEGOTIATION, NO_STREAM, STARTTLS, Awaiting
from .streams import (
    END,
    MANAGEMENT,
    STREAM_CONDITIONS,
    STREAMS,
    TLS,
    header,
    out_of_order,
    read_error,
    shown,
    speaks_xmpp,
    stream_condition,
)
from .vocabulary import (
    Authenticated,
    Close,
    Ended,
    GateWord,
    Incoming,
    NotEnabled,
    ResumeFailed,
    Send,
    StartTls,
    TooBig,
    Unauthenticated,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.framing import Event
    from ..wire.jid import Jid
    from ..wire.stanza import Cleared, Stanza
    from .vocabulary import ServerOutput, TlsFacts

Outputs: TypeAlias = "list[ServerOutput]"


class ServerLeg:
    """One connection to the server, from TCP to live stanzas.

    :param account: bare JID.
    :param password: None where there is to be no login: ``Unauthenticated`` comes
        in its place.
    :param tls: ``off`` only towards loopback.
    :param floor: strongest mechanism that this account ever used, None for none;
        keep ``sasl.stronger(floor, Authenticated.mechanism)`` for the next login.
    :param presenting: what a gate is shown, and has to prove.
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
        password: str | None,
        tls: Literal["starttls", "direct", "off"],
        presenting: Presenting,
        floor: str | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        self._account = account
        self._tls = tls
        self._resume = resume
        self._facts: TlsFacts | None = None
        self._presenting = presenting
        self._login = (
            None
            if password is None
            else Authentication(account, password, floor, self._who())
        )
        self._management = Management(resume, self._who())
        self._features = Element(f"{{{STREAMS}}}features")
        self._awaiting = Awaiting.CONNECTION
        self._framer = Framer(NEGOTIATION)
        self._handlers: dict[Awaiting, Callable[[Stanza], Outputs]] = {
            Awaiting.TLS_OFFER: self._on_tls_offer,
            Awaiting.PROCEED: self._on_proceed,
            Awaiting.MECHANISMS: self._on_mechanisms,
            Awaiting.PROOF: self._on_proof,
            Awaiting.LOGIN: self._on_login,
            Awaiting.FEATURES: self._on_features,
            Awaiting.RESUMPTION: self._on_resumption,
            Awaiting.STANZAS: self._on_nonza,
        }

    @property
    def received(self) -> int:
        return self._management.received

    @property
    def sent(self) -> int:
        return self._management.sent

    @property
    def ack_wanted(self) -> bool:
        return self._management.ack_wanted

    @property
    def resuming(self) -> bool:
        """Whether the answer to ``<resume/>`` is due."""
        return self._management.resuming

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

    def rest(self) -> None:
        """See :meth:`wire.framing.Framer.rest`."""
        self._framer.rest()

    def data(self, data: bytes) -> Outputs:
        """Bytes came from the server."""
        if self.over:
            return []
        if self._awaiting in NO_STREAM:
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
        self._expect(Awaiting.LOGIN)
        return self._login.derived(salted) if self._login is not None else []

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
        if not self._offers_management():
            return [NotEnabled()]
        return self._management.enable()

    def stanza(self, cleared: Cleared) -> Outputs:
        """Send a stanza and count it; now and then ask what was handled."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(cleared.data), *self._management.count_sent()]

    def nonza(self, cleared: Cleared) -> Outputs:
        """Send what XEP-0198 does not count, for instance a client state."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(cleared.data)]

    def vouch(self, keys: Vouched) -> Outputs:
        """Vouch for the stream at the gate (14.7)."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(self._presenting.vouch(keys))]

    def object(self, due: int) -> Outputs:
        """Object to the reset of the account that is due at *due* (14.11)."""
        if self.over:
            return []
        self._expect(Awaiting.STANZAS)
        return [Send(self._presenting.objection(str(self._account), due))]

    def acknowledge(self, handled: int | None = None) -> Outputs:
        """Tell the server what is committed here.

        :param handled: how many of its stanzas; all that came if None.
        """
        return self._management.acknowledge(handled) if self._live() else []

    def request_ack(self) -> Outputs:
        """Ask the server what it has handled, if XEP-0198 runs."""
        return self._management.request() if self._live() else []

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
        self._management.count_received()
        return [TooBig(skipped)]

    def _on_element(self, stanza: Stanza) -> Outputs:
        if self._awaiting is Awaiting.STANZAS and stanza.is_stanza:
            self._management.count_received()
            return [Incoming(stanza)]
        if (stanza.ns, stanza.name) == (STREAMS, "error"):
            return self._on_stream_error(stanza)
        try:
            return self._handlers[self._awaiting](stanza)
        except TooHigh as fault:
            return self._end(fault, fault.farewell)
        except (EnvFault, PeerFault, TrustFault) as fault:
            return self._fail(fault)

    # -- STARTTLS ------

    def _on_tls_offer(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (STREAMS, "features"):
            return self._unexpected(stanza.name)
        if f"{{{TLS}}}starttls" not in stanza.children:
            return self._fail(no_tls(self._account.domain, "offers no TLS"))
        self._awaiting = Awaiting.PROCEED
        return [Send(STARTTLS)]

    def _on_proceed(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) == (TLS, "proceed"):
            # What the old parser holds came in clear, from anyone.
            self._framer = Framer(NEGOTIATION)
            self._awaiting = Awaiting.HANDSHAKE
            return [StartTls()]
        if (stanza.ns, stanza.name) == (TLS, "failure"):
            return self._fail(
                no_tls(self._account.domain, "offers TLS but refused to start it")
            )
        return self._unexpected(stanza.name)

    # -- SASL ------

    def _on_mechanisms(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (STREAMS, "features"):
            return self._unexpected(stanza.name)
        self._features = stanza.tree()
        out = self._presenting.begin(self._features, self._facts)
        if out:
            self._awaiting = Awaiting.PROOF
            return out
        return self._log_in()

    def _on_proof(self, stanza: Stanza) -> Outputs:
        self._presenting.take(stanza)
        return self._log_in()

    def _log_in(self) -> Outputs:
        if self._login is None:
            self._awaiting = Awaiting.STANZAS
            return [Unauthenticated(self._features)]
        self._awaiting = Awaiting.LOGIN
        if self._presenting.proved:
            return self._login.begin_at_gate(self._features)
        return self._login.begin(self._features, self._facts)

    def _on_login(self, stanza: Stanza) -> Outputs:
        assert self._login is not None
        out = self._login.take(stanza)
        if not self._login.done:
            return out
        self._framer = Framer(AFTER_LOGIN, skip_over_limits=True)
        self._awaiting = Awaiting.FEATURES
        return [self._header()]

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
        return self._management.resume()

    def _authenticated(self) -> Outputs:
        assert self._login is not None
        self._awaiting = Awaiting.STANZAS
        return [Authenticated(self._features, self._login.mechanism)]

    def _on_resumption(self, stanza: Stanza) -> Outputs:
        answer = self._management.take_answer(stanza)
        if isinstance(answer, ResumeFailed):
            return [answer, *self._authenticated()]
        self._awaiting = Awaiting.STANZAS
        return [answer]

    def _on_nonza(self, stanza: Stanza) -> Outputs:
        if stanza.ns == AUTH and self._presenting.proved:
            return [GateWord(stanza)]
        return self._management.take(stanza)

    # -- the end ------

    def _on_stream_error(self, stanza: Stanza) -> Outputs:
        if self._awaiting in BEFORE_TLS:
            # Anyone on the way can have written it: neither its text nor another
            # host's name is shown to a person or acted on.
            condition, _, _ = read_error(stanza.tree(), STREAM_CONDITIONS)
            what = f"{self._who()} ended the stream ({condition or 'no reason given'})"
            return self._end(EnvFault(f"{what} before TLS was up"), END)
        proved = self._presenting.proved
        fault = stream_fault(self._account.domain, stanza.tree(), gate=proved)
        return self._end(fault, END)

    def _unexpected(self, name: str) -> Outputs:
        return self._fail(out_of_order(self._who(), name))

    def _pipelined(self) -> Outputs:
        """Drop the connection: bytes came where a new layer was to begin."""
        fault = smuggled(self._account.domain)
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
        silent = self._awaiting in NO_STREAM
        self._awaiting = Awaiting.NOTHING
        if self._login is not None:
            self._login.forget()
        said: Outputs = [] if silent else [Send(farewell)]
        return [*said, Close(), Ended(fault)]

    def _cut(self) -> EnvFault:
        if self._awaiting is Awaiting.PROCEED:
            return no_tls(self._account.domain, "hung up when TLS was to start")
        return EnvFault(f"{self._who()} hung up before the login was done")

    # -- small things ------

    def _header(self) -> Send:
        named = str(self._account) if self._login is not None else None
        return Send(header(to=self._account.domain, from_=named))

    def _who(self) -> str:
        return f"the server of {self._account.domain}"

    def _live(self) -> bool:
        return self._awaiting is Awaiting.STANZAS

    def _offers_management(self) -> bool:
        return self._features.find(f"{{{MANAGEMENT}}}sm") is not None

    def _expect(self, state: Awaiting) -> None:
        if self._awaiting is not state:
            raise LocalFault(
                f"the server leg was called for {state.name} "
                f"while it awaits {self._awaiting.name}"
            )
