"""One client's stream through the gate: bytes and answers in, effects out.

No clock, no sockets.  Both directions are parsed; what is not touched passes as
the bytes that expat accepted.  What a client or a server does wrong is never an
exception: it is a stream error and a last ``Close``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

from ..core.streams import (
    END,
    SASL,
    STREAMS,
    shown,
)
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
from . import names
from .binding import Binding
from .door import Door
from .line import Line, World
from .names import SASL2
from .opening import Opening
from .phases import PATIENT, THEIRS, UNVOUCHED, WITHOUT_BACKEND, Phase
from .registration import Registration
from .relay import Relay
from .unvouched import Unvouched
from .vouching import Vouching

if TYPE_CHECKING:
    from ..keys.servers import ServerDocument
    from ..wire.framing import Event
    from ..wire.stanza import Stanza
    from .between import Outcome
    from .disclosure import DirectoryState
    from .effects import Effect
    from .inquiry import Finding
    from .questions import Answer

BUDGET: Final = 65_536
"""Bytes that a client may send before it is logged in."""
FORM_BUDGET: Final = 131_072
CLOSING_MS: Final = 5_000
AHEAD: Final = 64
"""Stanzas behind one that waits whose domains are probed meanwhile."""
SETTLING_MS: Final = 10_000
"""The server's word on an account that is being made or removed is waited for."""

# A filled form holds a manifest, which alone may have 32,768 bytes (14.14).
_FORM_LIMITS: Final = replace(BEFORE_LOGIN, stanza=40_960, hard=40_960)
# As in core.serverleg: the features of a large server pass 10,000 bytes.
_SERVER_LIMITS: Final = replace(BEFORE_LOGIN, stanza=65_536, hard=65_536)
_PRESENT: Final = (names.AUTH, "present")
# Before TLS and behind a farewell it is answered, or not, like anything else.
_PRESENTABLE: Final = WITHOUT_BACKEND | {Phase.DOOR, Phase.CLOSING}
_NOT_XML: Final = frozenset({"bad-format", "not-well-formed"})
_BEFORE_XML: Final = b" \t\r\n\xef\xbb\xbf"


class Stream:
    """One connection of a client, and the connection to the server behind it.

    :param address: the client's IP address.
    :param direct: whether TLS comes before the first byte (XEP-0368).
    """

    def __init__(self, world: World, address: str, *, direct: bool) -> None:
        self.line = line = Line(world, address)
        self._registration = Registration(line)
        self._unvouched = Unvouched(line, self._opened)
        self._vouching = Vouching(line, self._unvouched)
        self._binding = Binding(line, self._unvouched)
        self._door = Door(line, self._registration)
        self._opening = Opening(line, self._door)
        self._relay = Relay(line, self._registration, self._vouching)
        self._client = Framer(BEFORE_LOGIN)
        # made with the connection: strangers cost one parser
        self._server: Framer | None = None
        self._from_client: deque[Event] = deque()
        self._from_server: deque[Event] = deque()
        self._spent = 0
        self._first = b""
        self._gone = False
        if direct:
            line.handshake()

    # -- for the edge ------

    def take(self) -> list[Effect]:
        """What is to be done, in order; it is given once."""
        effects, self.line.effects = self.line.effects, []
        if self.line.over:
            self._client.close()
            if self._server is not None:
                self._server.close()
        return effects

    @property
    def over(self) -> bool:
        """Whether every call is without effect from now on."""
        return self.line.over

    @property
    def known(self) -> bool:
        """Whether somebody has logged in: it does not count as waiting at the door."""
        return not self.line.unknown

    @property
    def hurried(self) -> bool:
        """Whether :meth:`tick` is to be called."""
        return self.line.phase not in PATIENT

    @property
    def hears_client(self) -> bool:
        """Whether the client's socket is to be read."""
        line = self.line
        return not line.client_waits and line.phase not in THEIRS

    @property
    def hears_server(self) -> bool:
        """Whether the server's socket is to be read."""
        return not self.line.backend_waits

    # -- what the edge reports ------

    def client_data(self, data: bytes) -> None:
        """Bytes came from the client; in TLS, out of it."""
        line = self.line
        if line.over:
            return
        if line.phase is Phase.HANDSHAKE:
            self.line.smuggled()
            return
        if line.unknown and not self._affords(len(data)):
            return
        if not self._first:
            self._first = data.lstrip(_BEFORE_XML)[:1]
        self._from_client.extend(self._client.feed(data))
        self._drain_client()

    def client_secured(self, exporter: bytes, domain: str) -> None:
        """TLS is up.

        :param exporter: of 14.1, 32 bytes.
        :param domain: whose certificate was shown.
        """
        if self.line.phase is Phase.HANDSHAKE:
            self._client.close()
            self._client, self._first = Framer(BEFORE_LOGIN), b""
            self._opening.secured(exporter, domain)

    def client_lost(self) -> None:
        """The client's connection is gone; half a stanza goes with it (TLS-13)."""
        line = self.line
        self._gone = True
        self._door.abandoned()
        if self._registration.unsettled and not line.over:
            line.phase = Phase.CLOSING
            line.hurry(SETTLING_MS)
        else:
            line.drop()

    def backend_up(self) -> None:
        """The connection that ``Reach`` asked for is there."""
        if self.line.phase is Phase.BACKEND:
            self._server = Framer(_SERVER_LIMITS, skip_over_limits=True)
            self.line.to_backend(self._opening.greeting)

    def backend_data(self, data: bytes) -> None:
        """Bytes came from the server."""
        if self._server is not None and not self.line.over:
            events = self._server.feed(data)
            if not self.hears_server:
                self._warm(events)
            self._from_server.extend(events)
            self._drain_server()

    def backend_lost(self) -> None:
        """The server's connection is gone, or could not be had."""
        line = self.line
        if line.phase is Phase.BACKEND:
            line.complain(names.NO_STREAM if self._server else names.NO_SERVER)
            line.end("remote-connection-failed", names.BACKEND_DOWN)
        elif line.phase is Phase.CLOSING:
            line.to_client(END)
            line.drop()
        else:
            line.end("system-shutdown", names.BACKEND_GONE)

    def answered(self, number: int, answer: Answer) -> None:
        """The registry's answer to ``Ask``."""
        self._answer(number, answer)

    def proved(
        self,
        number: int,
        proof: bytes | None,
        server: ServerDocument | None,
        rollovers: tuple[str, ...] = (),
    ) -> None:
        """The answer to ``Prove``; None where the signing process is away."""
        self._answer(number, proof, server, rollovers)

    def found(self, number: int, finding: Outcome | Finding | DirectoryState) -> None:
        """The answer to ``Probe``, ``Inquire`` or ``Hear``."""
        self._answer(number, finding)

    def signed(self, number: int, document: str | None) -> None:
        """The answer to ``Sign``; None where the signing process is away."""
        self._answer(number, document)

    def due(self, number: int) -> None:
        """The time of ``Later`` has passed."""
        self._answer(number)

    def tick(self) -> None:
        """Time has passed."""
        line = self.line
        if line.phase is Phase.HANDSHAKE and line.world.now() > line.tls_by:
            line.drop()
            return
        if line.phase in PATIENT or line.world.now() - line.since <= line.patience:
            return
        if line.phase is Phase.CLOSING:
            line.drop()
        elif line.phase is Phase.BOUND:
            line.refused("no vouching in time")
            line.end("policy-violation", names.NOT_YET, "key-required")
        else:
            line.end("connection-timeout", "the login took too long")

    def stop(self) -> None:
        """The gate is going down."""
        self.line.end("system-shutdown", "the gate is being restarted; connect again")

    def revoke(self, devices: tuple[bytes, ...]) -> None:
        """These devices of its account are not in use any more."""
        shown = self.line.shown
        if shown is not None and shown.device in devices:
            self._dismiss()

    def keep_only(self, devices: tuple[bytes, ...]) -> None:
        """These devices of its account are in use, and no others."""
        line = self.line
        used = line.shown is None or line.shown.device in devices
        if line.phase is Phase.OPEN and not used:
            self._dismiss()

    def _dismiss(self) -> None:
        self.line.note(
            "refused", f"device of {self.line.account} removed: stream ended"
        )
        self.line.end("not-authorized", names.OTHER_DEVICE, "unknown-device")

    def _answer(self, number: int, *values: object) -> None:
        self.line.answer(number, *values)
        self._drain_client()
        self._drain_server()

    # -- one thing after the other ------

    def _affords(self, size: int) -> bool:
        """Take *size* bytes from what a stranger may send."""
        self._spent += size
        form = self._registration.shown
        if self._spent <= (FORM_BUDGET if form else BUDGET):
            return True
        self.line.end("policy-violation", "too many bytes before login")
        return False

    def _drain_client(self) -> None:
        while self._from_client and self.hears_client and not self.line.over:
            self._client_event(self._from_client.popleft())

    def _drain_server(self) -> None:
        while self._from_server and self.hears_server and not self.line.over:
            self._server_event(self._from_server.popleft())
            if self.line.backend_waits:
                self._warm(islice(self._from_server, AHEAD))
        if self._gone and not self._registration.unsettled:
            self.line.drop()

    def _warm(self, events: Iterable[Event]) -> None:
        """What waits behind another may be asked for meanwhile."""
        if self.line.phase is Phase.OPEN:
            for event in events:
                if isinstance(event, Received):
                    self._relay.border.warm(event.stanza)

    def _restart(self) -> bool:
        """A new stream begins on both sides; whether nothing crossed into it."""
        if not self._client_clean:
            self.line.smuggled()
            return False
        assert self._server is not None
        if self._from_server or not self._server.clean:
            self.line.out_of_step(
                "the server sent data across the start of a new stream"
            )
            return False
        self._client.close()
        self._server.close()
        self._client = Framer(AFTER_LOGIN)
        self._server = Framer(AFTER_LOGIN, skip_over_limits=True)
        return True

    @property
    def _client_clean(self) -> bool:
        """Whether nothing of the client's waits, not even half a tag."""
        return not self._from_client and self._client.clean

    # -- the client ------

    def _client_event(self, event: Event) -> None:
        line = self.line
        match event:
            case Received(stanza=stanza):
                self._on_client(stanza)
            case Opened():
                self._opening.on_client_header(event)
            case Closed():
                self._on_client_closed()
            case Skipped(reason=reason):
                line.end("policy-violation", f"a stanza {reason}")
            case Broken(condition=condition, text=text):
                if not line.opened and (self._first != b"<" or condition in _NOT_XML):
                    # A browser or a TLS client has the wrong port (TLS-18).
                    line.drop()
                else:
                    line.end(condition, text)
            case _:
                assert_never(event)

    def _on_client_closed(self) -> None:
        line = self.line
        if line.phase in WITHOUT_BACKEND or line.phase is Phase.BACKEND:
            line.to_client(END)
            line.drop()
        elif line.phase in UNVOUCHED:
            # what the server still says is not for who was never vouched for
            line.to_backend(END)
            line.to_client(END)
            line.drop()
        else:
            line.to_backend(END)
            line.phase = Phase.CLOSING
            line.hurry(CLOSING_MS)

    def _on_client(self, stanza: Stanza) -> None:
        line = self.line
        if (stanza.ns, stanza.name) == (STREAMS, "error"):
            line.drop()
        elif (stanza.ns, stanza.name) == _PRESENT and line.phase not in _PRESENTABLE:
            self._door.bad_proof()
        else:
            self._on_phase(stanza)

    def _on_phase(self, stanza: Stanza) -> None:
        """What is made of it depends on where the stream stands."""
        line = self.line
        match line.phase:
            case Phase.STARTTLS:
                self._opening.on_starttls(stanza, clean=self._client_clean)
            case Phase.DOOR:
                self._door.on_client(stanza)
                if self._registration.shown:
                    self._client.limits = _FORM_LIMITS
            case Phase.SASL:
                self._door.on_client_in_sasl(stanza)
            case Phase.BINDING:
                self._binding.on_client(stanza)
            case Phase.BOUND | Phase.LINKING:
                self._on_unvouched(stanza)
            case Phase.OPEN:
                self._relay.on_client(stanza)
            case Phase.CLOSING:
                pass
            case _:
                line.end("not-authorized", "out of order")

    def _on_unvouched(self, stanza: Stanza) -> None:
        if (stanza.ns, stanza.name) == (names.AUTH, "vouch"):
            self._vouching.on_vouch(stanza)
        else:
            self._unvouched.on_client(stanza)

    # -- the server ------

    def _server_event(self, event: Event) -> None:
        line = self.line
        match event:
            case Received(stanza=stanza):
                self._on_server(stanza)
            case Opened():
                self._opening.on_server_header(event)
            case Closed():
                line.to_client(END)
                line.drop()
            case Skipped():
                self._on_skipped(event)
            case Broken(text=text):
                self.line.out_of_step(
                    f"the server sent what is not XMPP ({shown(text)})"
                )
            case _:
                assert_never(event)

    def _on_skipped(self, skipped: Skipped) -> None:
        line = self.line
        line.note("left-out", f"a stanza that {skipped.reason} was left out")
        if line.phase is Phase.OPEN and skipped.ns == "jabber:client":
            self._relay.leave_out(skipped)
        elif line.unknown:
            self.line.out_of_step("the server's stanza is over the limits before login")

    def _on_server(self, stanza: Stanza) -> None:
        line = self.line
        if (stanza.ns, stanza.name) == (STREAMS, "error"):
            if line.phase is Phase.BACKEND:
                line.complain(names.NO_STREAM)
            line.to_client(stanza.to_bytes() + END)
            line.drop()
        elif line.phase in UNVOUCHED:
            self._unvouched.on_backend(stanza)
        elif (stanza.ns, stanza.name) == (STREAMS, "features"):
            self._opening.on_features(stanza)
            self._drain_client()
        elif line.phase is Phase.OPEN:
            self._relay.on_backend(stanza)
        elif line.phase is Phase.SASL:
            self._on_sasl(stanza)
        elif stanza.ns in (SASL, SASL2):
            self.line.out_of_step("the server ended a login that nobody asked for")
        elif line.phase in (Phase.BINDING, Phase.RESUMING):
            self._binding.on_backend(stanza)
        else:
            self._on_answer(stanza)

    def _on_answer(self, stanza: Stanza) -> None:
        data: bytes | None = stanza.to_bytes()
        if stanza.is_stanza and stanza.name == "iq":
            data = self._registration.on_backend(stanza)
        if data is not None:
            self.line.to_client(data)

    def _on_sasl(self, stanza: Stanza) -> None:
        line = self.line
        attempt = self._door.attempt
        assert attempt is not None
        if stanza.ns != attempt.ns:
            if stanza.ns in (SASL, SASL2):
                self.line.out_of_step("the server answered another login")
            else:
                self._on_answer(stanza)
        elif stanza.name == "failure":
            line.to_client(stanza.to_bytes())
            self._door.failed()
        elif stanza.name != "success":
            line.to_client(stanza.to_bytes())
        else:
            self._door.succeeded()
            self._on_success(stanza, attempt.ns)

    def _on_success(self, stanza: Stanza, ns: str) -> None:
        line = self.line
        if ns == SASL2:
            assert self._server is not None
            self._client.limits = self._server.limits = AFTER_LOGIN
            name = f"{{{SASL2}}}authorization-identifier"
            jid = stanza.tree().findtext(name) or ""
            self._unvouched.named(jid, stanza, shown=False)
        elif self._restart():
            line.to_client(stanza.to_bytes())
            line.opened = False
            line.phase = Phase.RESTART
            line.hurry(30_000)

    def _opened(self, held: list[Stanza]) -> None:
        for stanza in held:
            if not self.line.over:
                self._on_server(stanza)
