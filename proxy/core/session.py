"""One client's stream and its stream to the server, joined.

Calls say what happened; :meth:`Session.take` gives the effects, which the
driver performs in order after the store has committed what the calls wrote.
Everything the client sends goes through one queue, in order: a stanza that
has to wait holds back what is behind it, so nothing overtakes (RFC 6120, 10.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal
from xml.etree.ElementTree import Element, SubElement

from ..errors import EnvFault, Fault, PeerFault, TrustFault
from ..suites.entropy import stanza_id, token
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza, error_reply
from . import directory, guard, ledger, outbound, sasl
from .arrivals import Arrivals
from .clientleg import ClientLeg
from .directory import Outcome
from .ledger import Cut, Ledger
from .questions import Answer, Questions, Result, Then
from .serverleg import ResumePoint, ServerLeg
from .vocabulary import (
    Acked,
    Authenticated,
    ClientClose,
    ClientOutput,
    ClientTls,
    Close,
    Connect,
    Derive,
    DeriveKey,
    Effect,
    Enabled,
    Ended,
    Incoming,
    Live,
    Login,
    NotEnabled,
    Resumed,
    ResumeFailed,
    Send,
    ServerClose,
    ServerOutput,
    ServerTls,
    StartTls,
    TlsFacts,
    ToClient,
    TooBig,
    ToServer,
)

if TYPE_CHECKING:
    from .account import Account
    from .house import House

LOCAL_DOMAIN = "proxy.invalid"
NOTICES = f"tillie@{LOCAL_DOMAIN}"
HOLD = 15_000
MOST_QUEUED = 1_000
MOST_QUEUED_BYTES = 16 * 1024 * 1024
MOST_UNACKNOWLEDGED = 500
DRAIN = 20_000
QUIET = 40_000
DEAD = 60_000
RECONNECT_FOR = 300_000
_BIND = "urn:ietf:params:xml:ns:xmpp-bind"
_PING = "{urn:xmpp:ping}ping"

# features behind SASL that concern the client and that this proxy passes whole
_PASSED = frozenset(
    {
        f"{{{_BIND}}}bind",
        "{urn:ietf:params:xml:ns:xmpp-session}session",
        "{urn:xmpp:features:rosterver}ver",
        "{urn:xmpp:features:pre-approval}sub",
        "{http://jabber.org/protocol/caps}c",
        "{urn:xmpp:csi:0}csi",
    }
)


class Phase(Enum):
    """What the session waits for."""

    LOGIN = "the client's login"
    REACHING = "the server, for that login"
    RECOVERING = "what an earlier, cut stream still holds"
    BINDING = "the client's resource"
    LIVE = "nothing: stanzas flow"
    CUT = "the server again; the client notices nothing yet"
    DRAINING = "acknowledgements; the client is gone"
    OVER = "nothing more"


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
        self.bound_at = 0
        self.available = False
        self.client_paused = False
        self.client = ClientLeg(
            tls_available=tls_available,
            secure=secure,
            stream_id=lambda: token(12).hex(),
        )
        self._client_gone = False
        self._leg: ServerLeg | None = None
        self._login: Login | None = None
        self._features: Sequence[Element] = ()
        self._effects: list[Effect] = []
        self._questions = Questions()
        self._queue: deque[tuple[int, Stanza]] = deque()
        self._queued_bytes = 0
        self._pumping = False
        self._bind_id: str | None = None
        self._ledger: Ledger | None = None
        self._arrivals: Arrivals | None = None
        self._recovering: list[Cut] = []
        self._cut_at = 0
        self._tries = 0
        self._drain_until = 0
        self._heard = 0
        self._probed = False
        self._confirming = False
        self._managed = False
        self._began = house.clock()
        self._others: set[str] = set()
        self._resume_received = 0

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
    def stream(self) -> str:
        """The name of this stream in the store, empty before login."""
        return self._ledger.stream if self._ledger is not None else ""

    @property
    def connected(self) -> bool:
        return self.phase in (Phase.LIVE, Phase.BINDING)

    @property
    def congested(self) -> bool:
        """Whether reading from the client should pause."""
        waiting = self._ledger.waiting if self._ledger is not None else 0
        return len(self._queue) >= MOST_QUEUED // 2 or waiting >= MOST_UNACKNOWLEDGED

    # -- the client's side ------

    def client_data(self, data: bytes) -> None:
        self._client_outputs(self.client.data(data))

    def client_secured(self) -> None:
        self._client_outputs(self.client.secured())

    def client_lost(self) -> None:
        self._client_outputs(self.client.lost())
        self._client_is_gone()

    def _client_outputs(self, outputs: list[ClientOutput]) -> None:
        for output in outputs:
            match output:
                case Send(data=data):
                    self._do(ToClient(data))
                case StartTls():
                    self._do(ClientTls())
                case Close():
                    self._do(ClientClose())
                case Login():
                    self._on_login(output)
                case Live():
                    pass
                case Incoming(stanza=stanza):
                    self._enqueue(stanza)
                case Ended():
                    self._client_is_gone()

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)
        self.house.touched(self)

    def _client_is_gone(self) -> None:
        if self._client_gone:
            return
        self._client_gone = True
        self.available = False
        if self.phase in (Phase.LIVE, Phase.CUT):
            self._drain_until = self.house.clock() + DRAIN
            if self.phase is Phase.LIVE:
                self.phase = Phase.DRAINING
            self._drained()
        elif self.phase is not Phase.OVER:
            self._finish()

    def end(self, fault: Fault | None) -> None:
        """End both streams; the client is told *fault*."""
        self._client_outputs(self.client.end(fault))
        self._client_gone = True
        self._finish()

    def fail(self, fault: Fault) -> None:
        """The store failed: end at once and write nothing.

        The server's stream is cut without good-bye, so the server keeps what
        was not acknowledged for the next login.
        """
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        self._leg = None
        self._queue.clear()
        self._do(ServerClose(abort=True))
        if not self._client_gone:
            self._client_gone = True
            for output in self.client.end(fault):
                if isinstance(output, Send):
                    self._do(ToClient(output.data))
            self._do(ClientClose())
        self.house.left(self)

    def _drained(self) -> None:
        """Close the server's stream when nothing of the client's is under way."""
        if self.phase is not Phase.DRAINING:
            return
        late = self.house.clock() >= self._drain_until
        waiting = self._ledger is not None and self._ledger.messages_waiting
        if not late and (self._queue or waiting):
            if waiting and self._leg is not None:
                self._server_outputs(self._leg.request_ack())
            return
        self._finish()

    def _finish(self) -> None:
        """The end: what was received is acknowledged, the server's stream closed."""
        if self.phase is Phase.OVER:
            return
        live = self.phase in (Phase.LIVE, Phase.DRAINING, Phase.BINDING)
        self.phase = Phase.OVER
        if self._leg is not None:
            leg, self._leg = self._leg, None
            outputs = leg.acknowledge() + leg.close() if live else leg.close()
            for output in outputs:
                if isinstance(output, Send):
                    self._do(ToServer(output.data))
            self._do(ServerClose())
        if self._ledger is not None and live:
            self._ledger.ended()
        self._questions.drop()
        self.house.left(self)

    # -- login ------

    def _on_login(self, login: Login) -> None:
        self._login = login
        bare = Jid(login.local, login.domain, "")
        self.account = self.house.account(str(bare))
        live = {stream.stream for stream in self.account.streams}
        self._recovering = ledger.cuts(self.house.store, self.account.jid, live)
        self._reach()

    def _reach(self) -> None:
        self.phase = Phase.RECOVERING if self._recovering else Phase.REACHING
        assert self._login is not None
        self._do(Connect(self._login.domain))

    def server_connected(self, mode: Literal["starttls", "direct", "off"]) -> None:
        """TCP to the server is there."""
        if self.phase is Phase.OVER or self._login is None or self.account is None:
            self._do(ServerClose(abort=True))
            return
        self._leg = ServerLeg(
            account=Jid(self._login.local, self._login.domain, ""),
            password=self._login.password,
            tls=mode,
            floor=self._floor(),
            resume=self._resume_point(),
        )
        self._server_outputs(self._leg.connected())

    def _floor(self) -> str | None:
        assert self.account is not None
        data = self.house.store.get("own", self.account.jid, "mechanism")
        return data.decode() if data else None

    def _resume_point(self) -> ResumePoint | None:
        if self.phase is Phase.RECOVERING and self._recovering:
            cut = self._recovering[0]
            # counts in the store may lag behind what was sent: be generous
            return ResumePoint(cut.previd, cut.received, cut.sent + 10_000, cut.acked)
        if self.phase is Phase.CUT and self._ledger and self._ledger.previd:
            return ResumePoint(
                self._ledger.previd,
                self._resume_received,
                self._ledger.sent,
                self._ledger.acked,
            )
        return None

    def server_secured(self, facts: TlsFacts, server_key: bytes | None) -> None:
        if self._leg is None:
            return
        if server_key is not None and self.account is not None:
            self._note_server_key(server_key)
        self._server_outputs(self._leg.secured(facts))

    def _note_server_key(self, server_key: bytes) -> None:
        """A certificate with another key than last time is told (TLS-08)."""
        assert self.account is not None
        store, jid = self.house.store, self.account.jid
        known = store.get("own", jid, "server-key")
        if known == server_key:
            return
        store.put("own", jid, "server-key", server_key)
        if known is not None:
            domain = Jid.parse(jid).domain
            self.account.notice(
                domain,
                f"the server {domain} shows another certificate key than before; "
                "its certificate is valid, and most often it was renewed",
            )

    def server_data(self, data: bytes) -> None:
        if self._leg is not None:
            self._heard, self._probed = self.house.clock(), False
            self._server_outputs(self._leg.data(data))
            self._after_read()

    def derived(self, salted: bytes) -> None:
        if self._leg is not None:
            self._server_outputs(self._leg.derived(salted))

    def server_lost(self, fault: Fault | None) -> None:
        """The connection is gone, or could not be made."""
        if self._leg is not None:
            self._server_outputs(self._leg.lost(fault))
        else:
            self._on_server_end(fault)

    def _after_read(self) -> None:
        """Count what this read brought; it is acknowledged behind the commit."""
        leg = self._leg
        if leg is None or self._ledger is None:
            return
        if self._managed:
            self._ledger.received(leg.received)
        self._server_outputs(leg.acknowledge())
        self._drained()

    def _server_outputs(self, outputs: list[ServerOutput]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self._do(ToServer(output.data))
            elif isinstance(output, Incoming):
                self._from_server(output.stanza)
            elif isinstance(output, TooBig):
                self._too_big(output)
            else:
                self._server_output(output)

    def _server_output(self, output: ServerOutput) -> None:
        match output:
            case StartTls():
                self._do(ServerTls())
            case Close():
                self._do(ServerClose())
            case Derive():
                self._do(DeriveKey(output))
            case Authenticated():
                self._on_authenticated(output)
            case Enabled(previd=previd):
                self._managed = True
                assert self._ledger is not None
                self._ledger.enabled(previd)
            case NotEnabled():
                self._managed = False
            case Resumed(h=h):
                self._on_resumed(h)
            case ResumeFailed(h=h):
                self._on_resume_failed(h)
            case Acked(h=h):
                self._on_acked(h)
            case Ended(fault=fault):
                if self._leg is not None:
                    self._resume_received = self._leg.received
                self._leg = None
                self._on_server_end(fault)

    def _on_authenticated(self, done: Authenticated) -> None:
        assert self.account is not None and self._login is not None
        floor = sasl.stronger(self._floor(), done.mechanism)
        if floor != self._floor():
            key = (self.account.jid, "mechanism")
            self.house.store.put("own", *key, floor.encode())
        if self.phase is Phase.CUT:
            # the server forgot the session: the client has to begin anew
            self.end(
                EnvFault(
                    "the connection to the server was lost and the server has "
                    "closed the session; connect again",
                    condition="reset",
                )
            )
            return
        self.phase = Phase.BINDING
        self._ledger = Ledger(self.house.store, self.account.jid)
        self._features = [
            feature for feature in done.features if feature.tag in _PASSED
        ]
        self._client_outputs(self.client.admit([*self._features, _limits()]))

    def _on_server_end(self, fault: Fault | None) -> None:
        match self.phase:
            case Phase.REACHING | Phase.RECOVERING:
                self._login_failed(fault)
            case Phase.LIVE | Phase.CUT | Phase.DRAINING:
                self._cut(fault)
            case Phase.OVER:
                return
            case _:
                self.end(fault or _closed())

    def _login_failed(self, fault: Fault | None) -> None:
        fault = fault or _closed()
        self._do(ServerClose(abort=True))
        self.phase = Phase.LOGIN
        text = f"{fault.text}; {fault.hint}" if fault.hint else fault.text
        condition = (
            "not-authorized"
            if fault.condition in ("not-authorized", "credentials-expired")
            else "temporary-auth-failure"
        )
        if isinstance(fault, TrustFault) and self.account is not None:
            self.account.notice(self.account.jid, f"login refused: {fault.text}")
        self._client_outputs(self.client.refuse(condition, text))

    # -- recovering a stream that a kill cut ------

    def _on_resumed(self, h: int) -> None:
        if self.phase is Phase.CUT:
            self._resumed(h)
            return
        assert self.account is not None
        cut = self._recovering.pop(0)
        ledger.settle(self.house.store, self.account.jid, cut, h)
        self._ledger = None
        self._arrivals = Arrivals(self.account, self)
        ping = Element(_PING)
        self.ask("get", None, ping, lambda _: self._recovery_done())

    def _recovery_done(self) -> None:
        """Everything that the cut stream held has come: close it, log in anew."""
        if self.phase is not Phase.RECOVERING or self._leg is None:
            return
        leg, self._leg = self._leg, None
        for output in [*leg.acknowledge(), *leg.close()]:
            if isinstance(output, Send):
                self._do(ToServer(output.data))
        self._do(ServerClose())
        self._questions.drop()
        self._arrivals = None
        self._reach()

    def _on_resume_failed(self, h: int | None) -> None:
        if self.phase is Phase.RECOVERING and self.account is not None:
            cut = self._recovering.pop(0)
            ledger.settle(self.house.store, self.account.jid, cut, h)
            for stale in self._recovering:
                # a session that is older than the one just refused is gone too
                ledger.settle(self.house.store, self.account.jid, stale, None)
            self._recovering = []
        elif self._ledger is not None and h is not None:
            self._ledger.acknowledge(h)

    # -- a cut while live ------

    def _cut(self, fault: Fault | None) -> None:
        """The server went away; resume if it lets us, unseen by the client."""
        self._questions.drop()
        self._do(ServerClose(abort=True))
        now = self.house.clock()
        resumable = self._ledger is not None and self._ledger.previd
        if not resumable or isinstance(fault, PeerFault) or self._client_gone:
            self._lost(fault)
            return
        if self.phase is not Phase.CUT:
            self.phase = Phase.CUT
            self._cut_at, self._tries = now, 0
        if now - self._cut_at > RECONNECT_FOR:
            self._lost(fault)
            return
        delay = min(0.2 * 2**self._tries, 30.0)
        self._tries += 1
        assert self._login is not None
        self._do(Connect(self._login.domain, delay if self._tries > 1 else 0.0))

    def _lost(self, fault: Fault | None) -> None:
        why = fault.text if fault is not None else "the server closed the connection"
        condition = "remote-connection-failed"
        if fault is not None and fault.condition in ("conflict", "policy-violation"):
            condition = fault.condition
        self.end(
            EnvFault(
                f"the connection to the server was lost: {why}", condition=condition
            )
        )

    def _resumed(self, h: int) -> None:
        assert self._ledger is not None and self._leg is not None
        self._ledger.acknowledge(h)
        self.phase = Phase.DRAINING if self._client_gone else Phase.LIVE
        for data in self._ledger.unacknowledged():
            self._server_outputs(self._leg.stanza(guard.again(data)))
        self._server_outputs(self._leg.request_ack())
        self.pump()

    def _on_acked(self, h: int) -> None:
        if self._ledger is not None:
            self._ledger.acknowledge(h)

    # -- binding ------

    def _on_bound(self, stanza: Stanza) -> None:
        """The server's word on who is logged in; nothing else is believed."""
        assert self._ledger is not None and self.account is not None
        text = stanza.tree().findtext(f"{{{_BIND}}}bind/{{{_BIND}}}jid") or ""
        try:
            jid = Jid.parse(text)
        except PeerFault:
            self.end(PeerFault("the server bound an address that is none"))
            return
        if str(jid.bare) != self.account.jid:
            self.end(
                TrustFault(
                    f"the server logged in {jid.bare} instead", condition="conflict"
                )
            )
            return
        self.jid, self.bound_at = jid, self.house.clock()
        self.phase = Phase.LIVE
        account = self.account
        account.streams.append(self)
        self._arrivals = Arrivals(account, self)
        self._deliver_bytes(stanza.to_bytes())
        if self._leg is not None:
            self._server_outputs(self._leg.enable())
        self._send_left_over()
        account.settle_own(self)

    def _send_left_over(self) -> None:
        assert self.account is not None
        store, jid, now = self.house.store, self.account.jid, self.house.clock()
        live = {stream.stream for stream in self.account.streams}
        for row, data in ledger.left_over(store, jid, live, now):
            store.delete("ledger", jid, row)
            made = int(row.split("/")[1])
            if now - made < ledger.KEPT:
                self._send(guard.again(data), kept=True)

    # -- out ------

    def _enqueue(self, stanza: Stanza) -> None:
        size = len(stanza.raw or b"") or 1_000
        if len(self._queue) >= MOST_QUEUED or (
            self._queued_bytes + size > MOST_QUEUED_BYTES
        ):
            self._bounce(stanza, "resource-constraint", "too much is waiting", "wait")
            return
        self._queued_bytes += size
        self._queue.append((self.house.clock(), stanza))
        self.pump()

    def pump(self) -> None:
        """Handle what waits, in order, as far as it goes."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and self._may_send(self._queue[0][1]):
                since, stanza = self._queue[0]
                if not self._handle(stanza, since):
                    break
                self._queue.popleft()
                self._queued_bytes -= len(stanza.raw or b"") or 1_000
                if self.phase is Phase.OVER:
                    return
        finally:
            self._pumping = False
        self._drained()

    def _may_send(self, stanza: Stanza) -> bool:
        if self.phase is Phase.BINDING:
            return self._bind_id is None and stanza.name == "iq"
        return self.phase in (Phase.LIVE, Phase.DRAINING)

    def _handle(self, stanza: Stanza, since: int) -> bool:
        """Whether *stanza* is done with."""
        try:
            if self.phase is Phase.BINDING:
                return self._handle_unbound(stanza)
            if not self._address_is_own(stanza):
                self.end(
                    PeerFault("that is not your address", condition="invalid-from")
                )
                return True
            if self._is_local(stanza):
                return True
            if stanza.ns == "urn:xmpp:csi:0":
                self._nonza(stanza)
                return True
            if stanza.name == "message":
                return self._message(stanza, since)
            self._instruction(stanza)
        except PeerFault as fault:
            self._bounce(stanza, fault.condition, fault.text, "modify")
        return True

    def _handle_unbound(self, stanza: Stanza) -> bool:
        if f"{{{_BIND}}}bind" in stanza.children:
            self._bind_id = stanza.id or ""
        if self._leg is not None:
            self._server_outputs(self._leg.stanza(guard.instruction(stanza)))
        return True

    def _address_is_own(self, stanza: Stanza) -> bool:
        """ID-09: a client speaks for itself only."""
        if stanza.from_ is None or self.jid is None:
            return True
        try:
            return Jid.parse(stanza.from_) in (self.jid, self.jid.bare)
        except PeerFault:
            return False

    def _is_local(self, stanza: Stanza) -> bool:
        """What is addressed to Tillie itself stays here."""
        if not stanza.to or Jid.parse(stanza.to).domain != LOCAL_DOMAIN:
            return False
        if stanza.name == "iq" and stanza.type in ("get", "set"):
            self._bounce(
                stanza, "service-unavailable", "nothing is asked here", "cancel"
            )
        elif stanza.name == "message" and stanza.type != "error":
            self.show_notice("Tillie takes no words here yet; use its command line.")
        return True

    def _nonza(self, stanza: Stanza) -> None:
        if self._leg is not None:
            self._server_outputs(self._leg.nonza(guard.nonza(stanza)))

    def _instruction(self, stanza: Stanza) -> None:
        assert self.account is not None
        if guard.needs_permit(stanza) and stanza.type in ("get", "set"):
            self._content_query(stanza)
            return
        if stanza.name == "iq" and guard.needs_permit(stanza):
            self._bounce_answer(stanza)
            return
        self._send(guard.instruction(stanza), kept=False)
        if stanza.name == "presence" and not stanza.to and stanza.type is None:
            self._now_available()

    def _content_query(self, stanza: Stanza) -> None:
        """Files and calls are not sealed yet: by permit only (ENC-03)."""
        assert self.account is not None
        peer = str(Jid.parse(stanza.to).bare) if stanza.to else self.account.jid
        if self.account.contacts.policy(peer) == "clear":
            try:
                permit = self.account.contacts.permit(peer)
            except TrustFault as fault:
                self._refuse(stanza, outbound.Return(fault.condition, fault.text))
                return
            self._send(guard.permitted(stanza, permit), kept=False)
            return
        text = "not sent: files and calls are not sealed yet"
        hint = f"to allow them unencrypted: tillie allow {peer}"
        self._refuse(stanza, outbound.Return("policy-violation", text, hint))

    def _bounce_answer(self, stanza: Stanza) -> None:
        """A result that would carry content: the asker gets an error instead."""
        reply = Element("{jabber:client}iq", {"type": "error", "id": stanza.id or ""})
        if stanza.to:
            reply.set("to", stanza.to)
        error = SubElement(reply, "{jabber:client}error", {"type": "cancel"})
        SubElement(error, "{urn:ietf:params:xml:ns:xmpp-stanzas}not-acceptable")
        self._send(guard.own_query(reply), kept=False)

    def _message(self, stanza: Stanza, since: int) -> bool:
        account = self.account
        assert account is not None
        verdict = outbound.decide(account, stanza)
        now = self.house.clock()
        match verdict:
            case outbound.Go(stanzas=stanzas, kept=kept):
                for cleared in stanzas:
                    self._send(cleared, kept=kept)
            case outbound.Return():
                self._refuse(stanza, verdict)
            case outbound.Drop():
                pass
            case outbound.LookUp(jid=jid):
                if now - since >= HOLD:
                    self._too_late(stanza, f"the keys of {jid} did not come in time")
                    return True
                if not account.looking_up(jid):
                    account.look_up(self, jid, self.pump)
                return False
            case outbound.Wait(text=text):
                if now - since >= HOLD:
                    self._too_late(stanza, text)
                    return True
                return False
        return True

    def _too_late(self, stanza: Stanza, text: str) -> None:
        self._refuse(
            stanza,
            outbound.Return("remote-server-timeout", f"not sent: {text}"),
        )

    def _send(self, cleared: Cleared, *, kept: bool) -> None:
        assert self._ledger is not None
        self._ledger.add(cleared.data, self.house.clock(), kept=kept)
        if self._leg is not None and self.phase in (Phase.LIVE, Phase.DRAINING):
            self._server_outputs(self._leg.stanza(cleared))
        if kept and not self._managed:
            self._confirm()

    def send_own(self, cleared: Cleared, *, kept: bool = True) -> None:
        """A stanza of Tillie's own making."""
        if self.phase in (Phase.LIVE, Phase.CUT, Phase.DRAINING):
            self._send(cleared, kept=kept)
        elif self.phase is Phase.RECOVERING and self._leg is not None:
            self._server_outputs(self._leg.stanza(cleared))

    def _confirm(self) -> None:
        """Without XEP-0198 a ping behind the messages tells that they arrived."""
        if self._confirming or self._leg is None or self._ledger is None:
            return
        self._confirming = True
        number = self._ledger.sent

        def answered(answer: Answer) -> None:
            self._confirming = False
            if self._managed or self._ledger is None or not isinstance(answer, Result):
                return
            self._ledger.acknowledge(number)
            if self._ledger.messages_waiting:
                self._confirm()
            self._drained()

        self.ask("get", None, Element(_PING), answered)

    # -- refusals ------

    def _refuse(self, stanza: Stanza, verdict: outbound.Return) -> None:
        text = f"{verdict.text} ({verdict.hint})" if verdict.hint else verdict.text
        self._bounce(stanza, verdict.condition, text, "auth")
        if self.account is not None and stanza.name == "message":
            about = stanza.to or self.account.jid
            self.account.notice(about, text)

    def _bounce(self, stanza: Stanza, condition: str, text: str, kind: str) -> None:
        """Back to the client; never for errors, results and nonzas."""
        if stanza.type in ("error", "result") or not stanza.is_stanza:
            return
        reply = error_reply(
            stanza,
            condition,
            text,
            kind=kind,
            from_=stanza.to or (str(self.jid.bare) if self.jid else None),
        )
        if self.jid is not None:
            reply.set("to", str(self.jid))
        self._deliver_bytes(tree.serialise(reply))

    # -- in ------

    def _from_server(self, stanza: Stanza) -> None:
        if self._questions.take(stanza):
            return
        if self.phase is Phase.BINDING:
            self._while_binding(stanza)
        elif stanza.name == "message" and self._arrivals is not None:
            self._arrivals.message(stanza)
        elif self.phase is not Phase.RECOVERING and not _spoofed(stanza):
            if stanza.name == "presence":
                self._note_own_resource(stanza)
            self._deliver_bytes(stanza.to_bytes())

    def _note_own_resource(self, stanza: Stanza) -> None:
        """The own other resources, for linking; bounded like a roster entry is."""
        try:
            sender = Jid.parse(stanza.from_ or "x")
        except PeerFault:
            return
        if self.jid is None or sender.bare != self.jid.bare or sender == self.jid:
            return
        if stanza.type == "unavailable":
            self._others.discard(str(sender))
        elif stanza.type is None and len(self._others) < 64:
            self._others.add(str(sender))

    def _while_binding(self, stanza: Stanza) -> None:
        if stanza.name != "iq" or (stanza.id or "") != (self._bind_id or ""):
            self._deliver_bytes(stanza.to_bytes())
        elif stanza.type == "result":
            self._on_bound(stanza)
            self.pump()
        else:
            self._bind_id = None
            self._deliver_bytes(stanza.to_bytes())

    def _too_big(self, output: TooBig) -> None:
        """A peer's stanza beyond the limits is left out, not fatal (RES-15)."""
        skipped = output.skipped
        if self.account is not None:
            sender = skipped.attrs.get("from", "somebody")
            self.account.notice(
                self.account.jid,
                f"a {skipped.name} from {sender} was left out: {skipped.reason}",
            )

    def _now_available(self) -> None:
        if not self.available:
            self.available = True
            if self._arrivals is not None:
                self._arrivals.client_ready()

    def deliver(self, message: Element | bytes, row: str) -> bool:
        """To the client, if there is one; *row* may be forgotten once it left."""
        if self._client_gone or self.phase not in (Phase.LIVE, Phase.CUT):
            return False
        data = message if isinstance(message, bytes) else tree.serialise(message)
        self._deliver_bytes(data, row)
        return True

    def _deliver_bytes(self, data: bytes, row: str = "") -> None:
        if self._client_gone:
            return
        for output in self.client.stanza(data):
            if isinstance(output, Send):
                self._do(ToClient(output.data, row))

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
        self.deliver(message, "")

    # -- questions ------

    def ask(self, kind: str, to: str | None, payload: Element, then: Then) -> None:
        """Ask *to* (None: the own account) and call *then* with the answer."""
        own = self.account.jid if self.account is not None else ""
        senders: frozenset[str | None]
        if to is None or to == own:
            domain = Jid.parse(own).domain if own else ""
            senders = frozenset({None, own, str(self.jid), domain})
        else:
            senders = frozenset({to})
        query = self._questions.ask(
            kind, to, payload, senders=senders, now=self.house.clock(), then=then
        )
        if query is not None:
            self.send_own(guard.own_query(query), kept=False)

    def join(
        self, with_record: Callable[[Outcome, list[str]], list[Cleared]]
    ) -> None:
        """Read the own record and send the link request that comes of it."""
        assert self.account is not None

        def got(outcome: Outcome) -> None:
            for request in with_record(outcome, sorted(self._others)):
                self.send_own(request, kept=False)

        directory.look_up(self, self.account.jid, None, got)

    # -- time ------

    def tick(self) -> None:
        """Deadlines; called about twice a second."""
        now = self.house.clock()
        self._questions.expire(now)
        if self._arrivals is not None:
            self._arrivals.tick(now)
        if self.phase is Phase.LOGIN and now - self._began > 60_000:
            self.end(EnvFault("no login for a minute", condition="connection-timeout"))
            return
        if self.phase is Phase.LIVE and self.account is not None:
            self.account.tick(self, now)
            self._watch(now)
        self.pump()

    def _watch(self, now: int) -> None:
        """Notice a server that went away without a word within a minute (RES-10)."""
        quiet = now - self._heard
        if quiet > DEAD:
            self._heard = now
            leg, self._leg = self._leg, None
            if leg is not None:
                self._resume_received = leg.received
            self._cut(EnvFault("the server stopped answering"))
        elif quiet > QUIET and not self._probed and self._leg is not None:
            self._probed = True
            self._server_outputs(self._leg.request_ack())
            self.ask("get", None, Element(_PING), lambda _: None)


def _closed() -> EnvFault:
    return EnvFault("the server closed the connection")


def _spoofed(stanza: Stanza) -> bool:
    """Nobody on the network speaks as Tillie."""
    try:
        return Jid.parse(stanza.from_ or "x").domain == LOCAL_DOMAIN
    except PeerFault:
        return False


def _limits() -> Element:
    """What fits a seal (XEP-0478), which is less than what the server takes."""
    limits = Element("{urn:xmpp:stream-limits:0}limits")
    most = SubElement(limits, "{urn:xmpp:stream-limits:0}max-bytes")
    most.text = str(outbound.LARGEST_PLAIN)
    return limits
