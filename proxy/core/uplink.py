"""The session's stream to its server: reached, logged in, resumed, recovered.

Everything that is sent goes to the ledger first and through the server leg,
which takes only what the guard has cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never
from xml.etree.ElementTree import Element

from ..errors import EnvFault, Fault, PeerFault, TrustFault
from ..suites.entropy import stanza_id
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza
from . import guard, ledger, sasl
from .ledger import Cut, Ledger
from .phase import Phase
from .questions import Answer, Questions, Silence, Then
from .serverleg import ResumePoint, ServerLeg
from .vocabulary import (
    Acked,
    Authenticated,
    Close,
    Connect,
    Derive,
    DeriveKey,
    Enabled,
    Ended,
    Incoming,
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
    TooBig,
    ToServer,
)

if TYPE_CHECKING:
    from .session import Session

QUIET = 40_000
DEAD = 60_000
LOGIN = 30_000
# The server has ended the session itself: to come back would be to fight it.
_FINAL = frozenset({"conflict", "policy-violation", "not-authorized", "host-gone"})
RECONNECT_FOR = 300_000
MOST_UNACKNOWLEDGED = 500
MOST_SENT = 2**30
_BIND = "urn:ietf:params:xml:ns:xmpp-bind"
_PING = "{urn:xmpp:ping}ping"


class Uplink:
    """The server's side of *session*."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._house = session.house
        self._leg: ServerLeg | None = None
        self._login: Login | None = None
        self._ledger: Ledger | None = None
        self._questions = Questions()
        self._recovering: list[Cut] = []
        self._emptying: Cut | None = None
        self._hung_up_at_resume = False
        self._is_empty = False
        self._in_line = False
        self._bind_id: str | None = None
        self._server_key: bytes | None = None
        self._managed = False
        self._confirming = False
        self._received = 0
        self._cut_at = 0
        self._tries = 0
        self._heard = 0
        self._probed = False

    # -- what the session asks ------

    @property
    def stream(self) -> str:
        """The name of this stream in the store, empty before login."""
        return self._ledger.stream if self._ledger is not None else ""

    @property
    def binding(self) -> bool:
        """Whether a bind request is under way."""
        return self._bind_id is not None

    @property
    def congested(self) -> bool:
        return self._ledger is not None and self._ledger.waiting >= MOST_UNACKNOWLEDGED

    @property
    def messages_waiting(self) -> bool:
        """Whether messages are not acknowledged yet."""
        return self._ledger is not None and self._ledger.messages_waiting

    @property
    def recovering(self) -> set[str]:
        """Cut streams that are this session's to empty."""
        cuts = [*self._recovering, *([self._emptying] if self._emptying else [])]
        return {cut.stream for cut in cuts}

    def _taken(self) -> set[str]:
        """Streams of the account that are live, or another session's to empty."""
        account = self._session.own
        taken = {stream.stream for stream in account.streams}
        for one in self._house.sessions:
            if one.account is account and one is not self._session and not one.over:
                taken |= one.uplink.recovering
        return taken

    def log_in(self, login: Login) -> None:
        """Reach the server for *login*; what earlier streams left comes first."""
        self._login = login
        account = self._session.own
        self._recovering = ledger.cuts(self._house.store, account.jid, self._taken())
        self._session.phase = Phase.REACHING
        self._in_line = True
        self.go_on()

    def go_on(self) -> None:
        """Begin once no other session empties an old stream of the account: to bind
        a resource that such a stream holds would throw it away."""
        others = self._others()
        if self._in_line and not any(one.recovering for one in others):
            self._in_line = False
            self._reach()

    def _others(self) -> list[Uplink]:
        return [
            one.uplink
            for one in self._house.sessions
            if one is not self._session
            and one.account is self._session.account
            and not one.over
            and not one.uplink.in_line
        ]

    @property
    def in_line(self) -> bool:
        return self._in_line

    def _reach(self) -> None:
        session = self._session
        session.phase = Phase.RECOVERING if self._recovering else Phase.REACHING
        session.do(Connect(self._domain))
        if not self._recovering:
            for one in list(self._house.sessions):
                one.uplink.go_on()

    @property
    def _domain(self) -> str:
        return self._login.domain if self._login is not None else ""

    def send(
        self, cleared: Cleared, *, kept: bool, clear_to: str = "", made: int = 0
    ) -> None:
        """To the server as soon as there is one; a *kept* one survives a kill.

        :param clear_to: the bare JID that it was permitted to in clear, or empty.
        :param made: when it was sent first, if that was on an earlier stream.
        """
        if self._ledger is None:
            return
        now = self._house.clock()
        self._ledger.add(cleared.data, now, kept=kept, clear_to=clear_to, made=made)
        if self._leg is not None and self._session.phase in (
            Phase.LIVE,
            Phase.DRAINING,
        ):
            self._outputs(self._leg.stanza(cleared))
        if kept and not self._managed:
            self._confirm()

    def send_own(self, cleared: Cleared, *, kept: bool = True) -> None:
        """A stanza of Tillie's own making."""
        if self._session.phase in (Phase.LIVE, Phase.CUT, Phase.DRAINING):
            self.send(cleared, kept=kept)
        elif self._session.phase is Phase.RECOVERING:
            self.send_uncounted(cleared)

    def send_uncounted(self, cleared: Cleared) -> None:
        """Outside the ledger: before binding, or on a stream being recovered."""
        if self._leg is not None:
            self._outputs(self._leg.stanza(cleared))

    def bind_requested(self, id_: str) -> None:
        self._bind_id = id_
        self._heard = self._house.clock()

    def nonza(self, cleared: Cleared) -> None:
        if self._leg is not None:
            self._outputs(self._leg.nonza(cleared))

    def request_ack(self) -> None:
        if self._leg is not None:
            self._outputs(self._leg.request_ack())

    def ask(self, kind: str, to: str | None, payload: Element, then: Then) -> None:
        """Ask *to* (None: the own account) and call *then* with the answer."""
        own = self._session.own.jid
        senders: frozenset[str | None] = frozenset({to})
        if to is None or to == own:
            domain = Jid.parse(own).domain
            senders = frozenset({None, own, str(self._session.jid), domain})
        query = self._questions.ask(
            kind, to, payload, senders=senders, now=self._house.clock(), then=then
        )
        if query is not None:
            self.send_own(guard.own_query(query), kept=False)

    def finish(self, *, orderly: bool) -> None:
        """The end: what was received is acknowledged, then the stream is closed.

        Not *orderly*: the server keeps the session, and the next login resumes
        it to learn what arrived.
        """
        leg, self._leg = self._leg, None
        if leg is not None and orderly:
            self._last_words(leg)
        self._session.do(ServerClose(abort=not orderly))
        if self._ledger is not None and orderly:
            self._ledger.ended()
        self._questions.drop()
        self._login = None

    def save_count(self) -> None:
        """Now and then what was not worth a commit is written down all the same."""
        if self._leg is not None and self._ledger is not None and self._managed:
            handled = self._ledger.received(self._leg.received, save=True)
            self._outputs(self._leg.acknowledge(handled))

    def _last_words(self, leg: ServerLeg) -> None:
        for output in [*leg.acknowledge(), *leg.close()]:
            if isinstance(output, Send):
                self._session.do(ToServer(output.data))

    def abandon(self) -> None:
        """The store failed: nothing more is written, the server keeps all."""
        self._leg = None
        self._session.do(ServerClose(abort=True))

    # -- what the edge tells ------

    def connected(self, mode: Literal["starttls", "direct", "off"]) -> None:
        if self._login is None or self._session.over:
            self._session.do(ServerClose(abort=True))
            return
        self._heard = self._house.clock()
        self._leg = ServerLeg(
            account=Jid(self._login.local, self._login.domain, ""),
            password=self._login.password,
            tls=mode,
            floor=self._floor(),
            resume=self._resume_point(),
        )
        self._outputs(self._leg.connected())

    def _floor(self) -> str | None:
        data = self._house.store.get("own", self._session.own.jid, "mechanism")
        return data.decode() if data else None

    def _resume_point(self) -> ResumePoint | None:
        if self._session.phase is Phase.RECOVERING and self._recovering:
            cut = self._recovering[0]
            # how much was sent is not written down with each stanza: whatever
            # the server says that it handled is possible
            sent = (cut.acked + MOST_SENT) % 2**32
            return ResumePoint(cut.previd, cut.received, sent, cut.acked)
        if (
            self._session.phase is Phase.CUT
            and self._ledger is not None
            and self._ledger.previd is not None
        ):
            # <resume/> tells a count as <a/> does: none below it may follow
            self._ledger.received(self._received, save=True)
            sent, acked = self._ledger.sent, self._ledger.acked
            return ResumePoint(self._ledger.previd, self._received, sent, acked)
        return None

    def secured(self, facts: TlsFacts, server_key: bytes | None) -> None:
        if self._leg is None:
            return
        self._server_key = server_key
        self._outputs(self._leg.secured(facts))

    def _note_server_key(self, server_key: bytes) -> None:
        """A certificate with another key than last time is told (TLS-08).

        Only behind a login: nothing is stored for whoever merely tries one.
        """
        account, store = self._session.own, self._house.store
        known = store.get("own", account.jid, "server-key")
        if known == server_key:
            return
        store.put("own", account.jid, "server-key", server_key)
        if known is not None:
            account.notice(
                self._domain,
                f"the server {self._domain} shows another certificate key than "
                "before; its certificate is valid, and most often it was renewed",
            )

    def data(self, data: bytes) -> None:
        """Bytes came; they count as handled once this transaction commits."""
        if self._leg is None:
            return
        self._heard, self._probed = self._house.clock(), False
        self._outputs(self._leg.data(data))
        self._count()
        if self._is_empty:
            self._leave_recovered()

    def _count(self) -> None:
        """What came is acknowledged as far as it is written down, and no further:
        a server refuses to resume below what it was told."""
        leg = self._leg
        if leg is None:
            return
        handled = leg.received
        if self._emptying is not None:
            account = self._session.own.jid
            ledger.emptied(self._house.store, account, self._emptying, handled)
        elif self._ledger is None or self._session.phase is Phase.CUT:
            # while it logs in again, the new leg has counted nothing yet
            return
        elif self._managed:
            handled = self._ledger.received(handled)
        self._outputs(leg.acknowledge(handled))

    def derived(self, salted: bytes) -> None:
        if self._leg is not None:
            self._outputs(self._leg.derived(salted))

    def lost(self, fault: Fault | None) -> None:
        """The connection is gone, or could not be made."""
        if self._leg is not None:
            self._outputs(self._leg.lost(fault))
        else:
            self._ended(fault)

    # -- what the leg says ------

    def _outputs(self, outputs: list[ServerOutput]) -> None:
        leg = self._leg
        for output in outputs:
            if self._leg is not leg:
                # what a leg that was given up has still to say concerns nobody
                return
            match output:
                case Send(data=data):
                    self._session.do(ToServer(data))
                case Incoming(stanza=stanza):
                    self._incoming(stanza)
                case TooBig():
                    self._session.left_out(output.skipped)
                case StartTls():
                    self._session.do(ServerTls())
                case Close():
                    self._session.do(ServerClose())
                case Derive():
                    self._session.do(DeriveKey(output))
                case _:
                    self._milestone(output)

    def _milestone(
        self,
        output: Authenticated
        | Enabled
        | NotEnabled
        | Resumed
        | ResumeFailed
        | Acked
        | Ended,
    ) -> None:
        match output:
            case Authenticated():
                self._authenticated(output)
            case Resumed(h=h):
                self._resumed(h)
            case ResumeFailed(h=h):
                self._resume_failed(h)
            case Ended(fault=fault):
                self._hung_up_at_resume = (
                    self._leg is not None
                    and self._leg.resuming
                    and self._session.phase is Phase.RECOVERING
                )
                if self._leg is not None and self._session.phase in (
                    Phase.LIVE,
                    Phase.DRAINING,
                ):
                    self._received = self._leg.received
                self._leg = None
                self._ended(fault)
            case NotEnabled():
                self._not_managed()
            case Enabled() | Acked():
                self._management(output)
            case _:
                assert_never(output)

    def _management(self, output: Enabled | Acked) -> None:
        if self._ledger is None:
            return
        if isinstance(output, Enabled):
            self._ledger.enabled(output.previd, self._house.clock())
        else:
            self._ledger.acknowledge(output.h)

    def _not_managed(self) -> None:
        self._managed = False
        if self._ledger is not None:
            self._ledger.unmanaged()
            if self._ledger.messages_waiting:
                self._confirm()

    def _incoming(self, stanza: Stanza) -> None:
        if self._questions.take(stanza):
            return
        if (
            self._session.phase is Phase.BINDING
            and stanza.name == "iq"
            and self._bind_id is not None
            and (stanza.id or "") == self._bind_id
        ):
            self._bind_id = None
            if stanza.type == "result":
                self._bound(stanza)
                return
        self._session.from_server(stanza)

    def _authenticated(self, done: Authenticated) -> None:
        account = self._session.own
        if self._server_key is not None:
            self._note_server_key(self._server_key)
        floor = sasl.stronger(self._floor(), done.mechanism)
        if floor != self._floor():
            self._house.store.put("own", account.jid, "mechanism", floor.encode())
        if self._session.phase is Phase.CUT:
            # the server forgot the session: the client has to begin anew
            self._session.end(
                EnvFault(
                    "the connection to the server was lost and the server has "
                    "closed the session; connect again",
                    condition="reset",
                )
            )
            return
        self._session.phase = Phase.BINDING
        self._ledger = Ledger(self._house.store, account.jid)
        self._heard = self._house.clock()
        self._session.admitted(list(done.features))

    def _bound(self, stanza: Stanza) -> None:
        """The server's word on who is logged in; nothing else is believed."""
        text = stanza.tree().findtext(f"{{{_BIND}}}bind/{{{_BIND}}}jid") or ""
        try:
            jid = Jid.parse(text)
        except PeerFault:
            self._session.end(PeerFault("the server bound an address that is none"))
            return
        if str(jid.bare) != self._session.own.jid:
            fault = TrustFault(
                f"the server logged in {jid.bare} instead", condition="conflict"
            )
            self._session.end(fault)
            return
        self._session.bound(jid, stanza)
        self._managed = True
        if self._leg is not None:
            self._outputs(self._leg.enable())
        self._send_left_over()
        self._session.own.settle_own(self._session)
        self._session.pump()

    def _send_left_over(self) -> None:
        """Messages of ended streams whose arrival is not known: the same bytes."""
        account, store = self._session.own, self._house.store
        now = self._house.clock()
        for one in ledger.left_over(store, account.jid, self._taken()):
            store.delete("ledger", account.jid, one.row)
            if now - one.made > ledger.KEPT:
                account.notice(
                    account.jid,
                    "a message that waited for 14 days was given up; it may not "
                    "have arrived",
                )
                continue
            cleared = self._again(one.data, one.clear_to)
            if cleared is not None:
                self.send(cleared, kept=True, clear_to=one.clear_to, made=one.made)

    def _again(self, data: bytes, clear_to: str) -> Cleared | None:
        """The bytes once more; clear ones only if they are still allowed."""
        if not clear_to:
            return guard.again(data)
        account = self._session.own
        try:
            permit = account.contacts.permit(clear_to)
        except TrustFault as fault:
            account.notice(clear_to, f"a message was not sent again: {fault.text}")
            return None
        return guard.permitted_again(data, clear_to, permit)

    # -- the end, and after it ------

    def _ended(self, fault: Fault | None) -> None:
        match self._session.phase:
            case Phase.RECOVERING if self._resuming:
                self._not_recovered()
            case Phase.REACHING | Phase.RECOVERING:
                self._session.do(ServerClose(abort=True))
                self._questions.drop()
                self._session.login_failed(fault or _closed())
            case Phase.LIVE | Phase.CUT | Phase.DRAINING:
                self._cut(fault)
            case Phase.OVER:
                return
            case _:
                self._session.end(fault or _closed())

    @property
    def _resuming(self) -> bool:
        """Whether the login itself went well and only the old session did not."""
        return self._emptying is not None or self._hung_up_at_resume

    def _not_recovered(self) -> None:
        """The server hung up over an old session: it is given up, and the login
        goes on without it; its messages are sent again as they were."""
        self._session.do(ServerClose(abort=True))
        self._questions.drop()
        account, store = self._session.own, self._house.store
        cut = self._emptying or self._recovering.pop(0)
        ledger.closed(store, account.jid, cut)
        self._emptying, self._hung_up_at_resume = None, False
        self._is_empty = False
        self._reach()

    def _cut(self, fault: Fault | None) -> None:
        """The server went away; resume if it lets us, unseen by the client."""
        self._session.do(ServerClose(abort=True))
        now = self._house.clock()
        first = self._session.phase is not Phase.CUT
        if first:
            self._cut_at, self._tries = now, 0
        resumable = self._ledger is not None and self._ledger.previd is not None
        self._session.phase = Phase.CUT
        if (
            not resumable
            or isinstance(fault, PeerFault | TrustFault)
            or (fault is not None and fault.condition in _FINAL)
            or self._session.client_gone
            or now - self._cut_at > RECONNECT_FOR
        ):
            self._given_up(fault)
            return
        delay = 0.0 if first else min(0.2 * 2.0**self._tries, 30.0)
        self._tries += 1
        self._session.do(Connect(self._domain, delay))

    def _given_up(self, fault: Fault | None) -> None:
        why = fault.text if fault is not None else "the server closed the connection"
        condition = "remote-connection-failed"
        if fault is not None and fault.condition in ("conflict", "policy-violation"):
            condition = fault.condition
        text = f"the connection to the server was lost: {why}"
        self._session.end(EnvFault(text, condition=condition))

    def _resumed(self, h: int) -> None:
        if self._session.phase is Phase.RECOVERING:
            self._recovered(h)
            return
        if self._ledger is None or self._leg is None:
            return
        self._ledger.acknowledge(h)
        self._session.phase = Phase.LIVE
        for one in self._ledger.unacknowledged():
            cleared = self._again(one.data, one.clear_to)
            if cleared is None:
                self._ledger.settle(one)
                # another stanza takes its place: both sides count the same
                cleared = guard.own_query(ping())
            self._outputs(self._leg.stanza(cleared))
        self._outputs(self._leg.request_ack())
        self._session.pump()

    def _recovered(self, h: int) -> None:
        """A stream that a kill cut goes on, for as long as it takes to empty it.

        The ping's answer comes behind everything that the server still held.
        """
        account = self._session.own
        self._emptying = self._recovering.pop(0)
        ledger.arrived(self._house.store, account.jid, self._emptying, h)
        ledger.emptied(
            self._house.store, account.jid, self._emptying, self._emptying.received
        )
        self._session.receive_for(account)
        self.ask("get", None, Element(_PING), lambda _: self._emptied())

    def _leave_recovered(self) -> None:
        """All that the cut stream held is committed with this read: close it."""
        self._is_empty = False
        leg, self._leg = self._leg, None
        if leg is None or self._emptying is None:
            return
        self._last_words(leg)
        self._session.do(ServerClose())
        self._questions.drop()
        ledger.closed(self._house.store, self._session.own.jid, self._emptying)
        self._emptying = None
        self._reach()

    def _emptied(self) -> None:
        """Not before the rest of this read was handled: it is acknowledged too."""
        self._is_empty = self._session.phase is Phase.RECOVERING

    def _resume_failed(self, h: int | None) -> None:
        """That session is gone; what is older is gone by now, too."""
        account, store = self._session.own, self._house.store
        if self._session.phase is Phase.RECOVERING:
            ledger.arrived(store, account.jid, self._recovering[0], h)
            for cut in self._recovering:
                ledger.closed(store, account.jid, cut)
            self._recovering = []
        elif self._ledger is not None and h is not None:
            self._ledger.acknowledge(h)

    # -- time ------

    def expire(self, now: int) -> None:
        self._questions.expire(now)

    def watch_login(self, now: int) -> None:
        """A server that accepts and then says nothing holds nobody up (RES-10)."""
        if self._leg is None or now - self._heard <= LOGIN:
            return
        if self._session.phase is Phase.BINDING and not self.binding:
            return
        self._leg = None
        text = f"the server of {self._domain} did not answer in {LOGIN // 1000} s"
        self._ended(EnvFault(text, condition="remote-server-timeout"))

    def watch(self, now: int) -> None:
        """Notice a server that went away without a word within a minute (RES-10)."""
        quiet = now - self._heard
        if quiet > DEAD:
            self._heard = now
            if self._leg is not None:
                self._received = self._leg.received
            self._leg = None
            self._cut(EnvFault("the server stopped answering"))
        elif quiet > QUIET and not self._probed:
            self._probed = True
            self.request_ack()
            self.ask("get", None, Element(_PING), lambda _: None)

    def _confirm(self) -> None:
        """Without XEP-0198 a ping behind the messages tells that they arrived."""
        if self._confirming or self._leg is None or self._ledger is None:
            return
        self._confirming = True
        number = self._ledger.sent

        def answered(answer: Answer) -> None:
            self._confirming = False
            # an error is an answer too: the server has read what came before it
            if self._managed or self._ledger is None or isinstance(answer, Silence):
                return
            self._ledger.acknowledge(number)
            if self._ledger.messages_waiting:
                self._confirm()
            self._session.drained()

        self.ask("get", None, Element(_PING), answered)


def ping() -> Element:
    """A ping that nobody waits for the answer of."""
    query = Element("{jabber:client}iq", {"type": "get", "id": stanza_id()})
    query.append(Element(_PING))
    return query


def _closed() -> EnvFault:
    return EnvFault("the server closed the connection")
