"""One client's stream and its stream to the server, joined.

Calls say what happened; :meth:`Session.take` gives the effects, which the
driver performs in order after the store has committed what the calls wrote.
The client's side is here; ``uplink`` is the server's, ``departures`` what goes
out, ``arrivals`` what comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from xml.etree.ElementTree import Element, SubElement

from ..errors import (
    REMOTE,
    EnvFault,
    Fault,
    LocalFault,
    TrustFault,
)
from ..suites.entropy import stanza_id, token
from ..wire import tree
from ..wire.framing import Skipped
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza
from . import directory, offers, senders
from .arrivals import Arrivals
from .clientleg import ClientLeg
from .departures import MOST, Departures
from .directory import Outcome
from .phase import NOTICES, Phase
from .questions import Then
from .registering import Registering
from .repeats import Repeats
from .senders import Resources
from .uplink import Uplink
from .vocabulary import (
    ClientClose,
    ClientOutput,
    ClientTls,
    Close,
    Effect,
    Ended,
    Incoming,
    Live,
    Login,
    Register,
    Send,
    StartTls,
    TlsFacts,
    ToClient,
)

if TYPE_CHECKING:
    from .account import Account
    from .house import House

DRAIN = 20_000
STOP = 3_000
LOGIN_TIME = 60_000
FORM_TIME = 300_000
"""A person fills in a form of registration."""
SAVE_EVERY = 5_000
_TO_CLIENT = (Phase.LIVE, Phase.CUT, Phase.LINKING)
# Logged in, and nothing was promised to the client yet.
_BEFORE_LIVE = (Phase.BINDING, Phase.VOUCHING, Phase.LINKING)


class Session:
    """One client connection; see the module.

    :param tls_available: whether STARTTLS is offered to the client.
    :param secure: whether the client's connection is TLS from its first byte.
    """

    def __init__(self, house: House, *, tls_available: bool, secure: bool) -> None:
        self.house = house
        self.phase = Phase.LOGIN
        self.account: Account | None = None
        self.jid: Jid | None = None
        self.available = False
        self.client_gone = False
        self.client = ClientLeg(
            tls_available=tls_available,
            secure=secure,
            stream_id=lambda: token(12).hex(),
        )
        self.uplink = Uplink(self)
        self.registering = Registering(self)
        self._departures = Departures(self)
        self._arrivals: Arrivals | None = None
        self.repeats: Repeats | None = None
        self._effects: list[Effect] = []
        self._drain_until = 0
        self._began = house.clock()
        self._resources = Resources()
        self._save_at = 0

    # -- what the edge asks ------

    def take(self) -> list[Effect]:
        """The effects since the last call."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def pending(self) -> bool:
        return bool(self._effects)

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    @property
    def congested(self) -> bool:
        """Whether reading from the client should pause."""
        return len(self._departures) >= MOST // 2 or self.uplink.congested

    # -- what the parts ask ------

    @property
    def own(self) -> Account:
        """The account that logs in here.

        :raises LocalFault: asked for before there is one.
        """
        if self.account is None:
            raise LocalFault("there is no account on this stream yet")
        return self.account

    @property
    def stream(self) -> str:
        """The name of this stream in the store, empty before login."""
        return self.uplink.stream

    @property
    def connected(self) -> bool:
        return self.phase is Phase.LIVE

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)
        self.house.touched(self)

    def ask(self, kind: str, to: str | None, payload: Element, then: Then) -> None:
        self.uplink.ask(kind, to, payload, then)

    def send_own(self, cleared: Cleared, *, kept: bool = True) -> None:
        self.uplink.send_own(cleared, kept=kept)

    def pump(self) -> None:
        """Something was learned: handle what waits."""
        self._departures.pump()
        self.drained()

    # -- the client's side ------

    def client_data(self, data: bytes) -> None:
        self._client_outputs(self.client.data(data))
        if self.client_gone and self.repeats is not None:
            # it said good-bye itself
            self.repeats.closed()
        self.drained()

    def client_secured(self) -> None:
        self._client_outputs(self.client.secured())

    def client_lost(self) -> None:
        self._client_outputs(self.client.lost())
        self._client_left()

    def _client_outputs(self, outputs: list[ClientOutput]) -> None:
        for output in outputs:
            match output:
                case Send(data=data):
                    self.do(ToClient(data))
                case StartTls():
                    self.do(ClientTls())
                case Close():
                    self.do(ClientClose())
                case Login():
                    self._log_in(output)
                case Register(stanza=stanza, domain=domain):
                    self._began = self.house.clock()
                    self.registering.ask(stanza, domain)
                case Live():
                    pass
                case Incoming(stanza=stanza):
                    self._departures.add(stanza)
                case Ended():
                    self._client_left()

    def _log_in(self, login: Login) -> None:
        self.registering.finish()
        self.account = self.house.account(str(Jid(login.local, login.domain, "")))
        self.uplink.log_in(login)

    def login_failed(self, fault: Fault) -> None:
        """The client is told why, and may try again."""
        self.phase = Phase.LOGIN
        if self.client_gone:
            self._finish(orderly=False)
            return
        text = f"{fault.text}; {fault.hint}" if fault.hint else fault.text
        refused = fault.condition in ("not-authorized", "credentials-expired")
        if isinstance(fault, TrustFault):
            self.own.notice(self.own.jid, f"login refused: {fault.text}")
        self.own.refused = fault.text
        self.own.turned_away = refused and self.uplink.gated
        condition = "not-authorized" if refused else "temporary-auth-failure"
        self.house.forget_if_unknown(self.own)
        self._client_outputs(self.client.refuse(condition, text))

    def admitted(self, features: list[Element]) -> None:
        """The server let the account in; so does the client's leg."""
        self._client_outputs(self.client.admit(offers.behind_login(features)))

    def bound(self, jid: Jid, result: Stanza) -> None:
        self.jid = jid
        self.phase = Phase.LIVE
        self.own.streams.append(self)
        self.receive_for(self.stream)
        live = {stream.stream for stream in self.own.streams}
        self.repeats = Repeats(self.house.store, self.own.jid, self.stream)
        self.repeats.load(live, self.house.clock())
        self.to_client(result.to_bytes())

    def linking(self, jid: Jid, result: Stanza) -> None:
        """The client is told that it is bound; until its device is linked, nothing
        of it leaves."""
        self.phase = Phase.LINKING
        self.receive_for(self.stream)
        self.to_client(result.to_bytes())
        self.pump()

    def vouch(self, then: Callable[[], None]) -> None:
        """Call *then* when the gate, if there is one, vouches for the own manifest."""
        self.uplink.vouching.before(then)

    def _client_left(self) -> None:
        if self.client_gone:
            return
        self.client_gone = True
        self.available = False
        if self.phase is Phase.LIVE:
            self.phase = Phase.DRAINING
            self._drain_until = self.house.clock() + DRAIN
            self.drained()
        elif self.phase is not Phase.OVER:
            self._finish(orderly=self.phase in _BEFORE_LIVE)

    def drained(self) -> None:
        """Close the server's stream when nothing of the gone client is under way."""
        if self.phase is not Phase.DRAINING:
            return
        if self.house.clock() < self._drain_until:
            if self._departures:
                return
            if self.uplink.messages_waiting:
                self.uplink.request_ack()
                return
        self._finish(orderly=not self.uplink.messages_waiting)

    def stop(self) -> None:
        """The program ends: the client is told, and what is under way gets 3 s."""
        self._tell_client(
            EnvFault("Tillie is being stopped", condition="system-shutdown")
        )
        self._client_left()
        self._drain_until = min(
            self._drain_until or self.house.clock(), self.house.clock() + STOP
        )

    def end(self, fault: Fault) -> None:
        """End both streams; the client is told *fault*."""
        self._tell_client(fault)
        self.client_gone = True
        live = self.phase in (Phase.LIVE, Phase.DRAINING, *_BEFORE_LIVE)
        self._finish(orderly=live and not self.uplink.messages_waiting)

    def _tell_client(self, fault: Fault) -> None:
        for output in self.client.end(fault):
            match output:
                case Send(data=data):
                    self.do(ToClient(data))
                case Close():
                    self.do(ClientClose())
                case _:
                    pass

    def fail(self, fault: Fault) -> None:
        """The store failed: end at once and write nothing.

        The server's stream is cut without good-bye, so the server keeps what
        was not acknowledged for the next login.
        """
        self.phase = Phase.OVER
        self._departures.clear()
        self.client_gone = True
        self._tell_client(fault)
        # also where the leg has said its last: the words for it were dropped
        self.do(ClientClose())
        self.uplink.abandon()
        self.house.left(self)

    def _finish(self, *, orderly: bool) -> None:
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        self.available = False
        self._departures.clear()
        self.registering.finish()
        self.uplink.finish(orderly=orderly)
        self.house.left(self)

    # -- the server's side ------

    @property
    def _server(self) -> Registering | Uplink:
        """Whose the connection to the server is now."""
        return self.registering if self.registering.active else self.uplink

    def server_connected(self, mode: Literal["starttls", "direct", "off"]) -> None:
        """TCP to the server is there."""
        self._server.connected(mode)

    def server_secured(self, facts: TlsFacts, server_key: bytes | None) -> None:
        """TLS is there and the certificate was checked; SHA-256 of its key."""
        if self.registering.active:
            self.registering.secured(facts)
        else:
            self.uplink.secured(facts, server_key)

    def server_data(self, data: bytes) -> None:
        self._server.data(data)
        self.drained()

    def derived(self, salted: bytes) -> None:
        """The answer to ``DeriveKey``."""
        self.uplink.derived(salted)

    def server_lost(self, fault: Fault | None) -> None:
        """The connection is gone, or could not be made."""
        self._server.lost(fault)

    def receive_for(self, stream: str) -> None:
        """Messages that come are for this client stream of the account."""
        self._arrivals = Arrivals(self.own, self, stream)

    def from_server(self, stanza: Stanza) -> None:
        """A stanza that answers no question of Tillie's."""
        if senders.spoofed(stanza):
            return
        if stanza.name == "message":
            self._arrived(stanza)
        elif self.phase is not Phase.RECOVERING:
            if stanza.name == "presence":
                self._resources.note(stanza, self.jid)
                if stanza.type == "subscribe" and self._arrivals is not None:
                    self._arrivals.introduced(stanza)
            elif self.repeats is not None and stanza.type in ("result", "error"):
                self.repeats.answered(stanza.id or "", self.house.clock())
            self.to_client(stanza.to_bytes())

    def _arrived(self, stanza: Stanza) -> None:
        """Whatever a contact sent, its faults end that message and nothing else."""
        if self._arrivals is None:
            return
        try:
            self._arrivals.message(stanza)
        except REMOTE as fault:
            who = senders.bare(stanza.from_) or self.own.jid
            self.own.notice(who, f"a message of {who} was left out: {fault.text}")

    def left_out(self, skipped: Skipped) -> None:
        """A peer's stanza beyond the limits is left out, not fatal (RES-15)."""
        who = senders.bare(skipped.attrs.get("from")) or "somebody"
        self.own.notice(
            self.own.jid,
            f"a {skipped.name} from {who} was left out: {skipped.reason}",
            show=False,
        )

    # -- to the client ------

    def now_available(self) -> None:
        """The client sent its initial presence: what waits is for it."""
        if not self.available:
            self.available = True
            if self._arrivals is not None:
                self._arrivals.client_ready()

    def deliver(self, data: bytes, row: str) -> bool:
        """To the client, if there is one; *row* may be forgotten once it left."""
        if self.client_gone or self.phase not in _TO_CLIENT:
            return False
        self.to_client(data, row)
        return True

    def to_client_early(self, data: bytes) -> None:
        """An answer to what the client asked before it logged in."""
        if not self.client_gone:
            self._client_outputs(self.client.early(data))

    def to_client(self, data: bytes, row: str = "") -> None:
        if self.client_gone:
            return
        for output in self.client.stanza(data):
            if isinstance(output, Send):
                self.do(ToClient(output.data, row))

    def retry(self, peer: str) -> None:
        """A key of *peer* came: what waits for it here."""
        if self._arrivals is not None:
            self._arrivals.retry(peer)

    def flushed(self, rows: list[str]) -> None:
        """The bytes of these rows left for the client."""
        if self._arrivals is not None:
            self._arrivals.delivered(rows)

    def show_notice(self, text: str) -> None:
        """A line from Tillie in the client; local, never on the network."""
        if self.jid is None or not self.available:
            return
        attributes = {
            "from": NOTICES,
            "to": str(self.jid),
            "type": "chat",
            "id": stanza_id(),
        }
        message = Element("{jabber:client}message", attributes)
        SubElement(message, "{jabber:client}body").text = text
        SubElement(message, "{urn:xmpp:hints}no-store")
        self.deliver(tree.serialise(message), "")

    # -- linking and time ------

    def join(self, with_record: Callable[[Outcome, list[str]], list[Cleared]]) -> None:
        """Read the own record and send the link requests that come of it."""

        def got(outcome: Outcome) -> None:
            for request in with_record(outcome, self._resources.others):
                self.send_own(request, kept=False)

        directory.look_up(self, self.own.jid, None, got)

    def rest(self) -> None:
        """To be called now and then: what is quiet takes less memory.

        Nothing that is stored changes by it.
        """
        self.client.rest()
        self.uplink.rest()

    def tick(self) -> None:
        """Deadlines; called about twice a second."""
        now = self.house.clock()
        self.uplink.expire(now)
        self.uplink.recovery.go_on()
        self.registering.tick(now)
        patience = FORM_TIME if self.registering.active else LOGIN_TIME
        if self.phase is Phase.LOGIN and now - self._began > patience:
            self.end(EnvFault("no login in time", condition="connection-timeout"))
            return
        if self.phase in (
            Phase.REACHING,
            Phase.RECOVERING,
            Phase.BINDING,
            Phase.VOUCHING,
            Phase.CUT,
        ):
            self.uplink.watch.login(now)
        if self.phase is Phase.LINKING:
            self.uplink.vouching.tick(now)
            self.uplink.watch.live(now)
        if self.phase is Phase.LIVE:
            if self._arrivals is not None:
                self._arrivals.tick(now)
            self.own.tick(self, now)
            self.uplink.vouching.tick(now)
            self.uplink.watch.live(now)
            if now >= self._save_at:
                self._save_at = now + SAVE_EVERY
                self.uplink.save_count()
        self.pump()
