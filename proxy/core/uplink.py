"""The session's stream to its server.

Everything that is sent goes to the ledger first and through the server leg,
which takes only what the guard has cleared.  The way in is ``entering``'s, at a
gate ``vouching``'s; cut streams of earlier sessions are ``recovery``'s, this one's
``reconnection``'s; a silent server is ``watch``'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, assert_never
from xml.etree.ElementTree import Element

from ..errors import EnvFault, Fault
from ..wire.jid import Jid
from ..wire.stanza import Cleared, Stanza
from . import guard
from .entering import Entering
from .ledger import Ledger
from .management import ResumePoint
from .passwords import Passwords
from .phase import Phase
from .presenting import Presenting, Vouched
from .questions import Questions, Then
from .reconnection import Reconnection
from .recovery import Recovery
from .serverfaults import Refusal
from .serverleg import ServerLeg
from .vocabulary import (
    Acked,
    Authenticated,
    Close,
    Derive,
    DeriveKey,
    Enabled,
    Ended,
    GateWord,
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
    Unauthenticated,
)
from .vouching import Vouching
from .watch import Watch

if TYPE_CHECKING:
    from .session import Session

MOST_UNACKNOWLEDGED = 500


class Uplink:
    """The server's side of *session*."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.recovery = Recovery(self)
        self.reconnection = Reconnection(self)
        self.entering = Entering(self)
        self.watch = Watch(self)
        self.vouching = Vouching(self)
        self.ledger: Ledger | None = None
        self.managed = False
        self._house = session.house
        self._leg: ServerLeg | None = None
        self._presenting: Presenting | None = None
        self._login: Login | None = None
        self._passwords: Passwords | None = None
        self._questions = Questions()
        self._server_key: bytes | None = None

    # -- what the session asks ------

    @property
    def stream(self) -> str:
        """The name of this stream in the store, empty before login."""
        return self.ledger.stream if self.ledger is not None else ""

    @property
    def congested(self) -> bool:
        return self.ledger is not None and self.ledger.waiting >= MOST_UNACKNOWLEDGED

    @property
    def messages_waiting(self) -> bool:
        """Whether messages are not acknowledged yet."""
        return self.ledger is not None and self.ledger.messages_waiting

    @property
    def reached(self) -> bool:
        """Whether there is a connection."""
        return self._leg is not None

    @property
    def gated(self) -> bool:
        """Whether a gate has proved itself on this stream."""
        return self._presenting is not None and self._presenting.proved

    @property
    def shown_root(self) -> bytes | None:
        """Fingerprint that was presented to the gate (14.3)."""
        return self._presenting.root if self._presenting is not None else None

    @property
    def domain(self) -> str:
        return self._login.domain if self._login is not None else ""

    def log_in(self, login: Login) -> None:
        """Reach the server for *login*; what earlier streams left comes first."""
        self._login = login
        self._passwords = Passwords(self.session.own.jid, login.domain)
        self.recovery.begin()

    def rest(self) -> None:
        """See :meth:`core.session.Session.rest`."""
        if self._leg is not None:
            self._leg.rest()

    def send(
        self, cleared: Cleared, *, kept: bool, clear_to: str = "", made: int = 0
    ) -> None:
        """To the server as soon as there is one; a *kept* one survives a kill.

        :param clear_to: the bare JIDs that it was permitted to in clear, or empty.
        :param made: when it was sent first, if that was on an earlier stream.
        """
        if self.ledger is None:
            return
        now = self._house.clock()
        self.ledger.add(cleared.data, now, kept=kept, clear_to=clear_to, made=made)
        if self._leg is not None and self.session.phase in (
            Phase.LIVE,
            Phase.DRAINING,
        ):
            self._outputs(self._leg.stanza(cleared))
        if kept and not self.managed:
            self.watch.confirm()

    def send_own(self, cleared: Cleared, *, kept: bool = True) -> None:
        """A stanza of Tillie's own making."""
        if self.session.phase in (Phase.LIVE, Phase.CUT, Phase.DRAINING):
            self.send(cleared, kept=kept)
        elif self.session.phase in (Phase.RECOVERING, Phase.VOUCHING, Phase.LINKING):
            self.send_uncounted(cleared)

    def vouch(self, keys: Vouched) -> None:
        """Vouch for the stream at the gate (14.7)."""
        if self._leg is not None:
            self._outputs(self._leg.vouch(keys))

    def object(self, due: int) -> None:
        """Object to the reset that is due at *due* (14.11)."""
        if self._leg is not None:
            self._outputs(self._leg.object(due))

    def send_uncounted(self, cleared: Cleared) -> None:
        """Outside the ledger: before binding, or on a stream being recovered."""
        if self._leg is not None:
            self._outputs(self._leg.stanza(cleared))

    def nonza(self, cleared: Cleared) -> None:
        if self._leg is not None:
            self._outputs(self._leg.nonza(cleared))

    def enable(self) -> None:
        """XEP-0198 is asked for; until the server says otherwise it is counted on."""
        self.managed = True
        if self._leg is not None:
            self._outputs(self._leg.enable())

    def request_ack(self) -> None:
        if self._leg is not None:
            self._outputs(self._leg.request_ack())

    def ask(self, kind: str, to: str | None, payload: Element, then: Then) -> None:
        """Ask *to* (None: the own account) and call *then* with the answer."""
        own = self.session.own.jid
        senders: frozenset[str | None] = frozenset({to})
        if to is None or to == own:
            domain = Jid.parse(own).domain
            senders = frozenset({None, own, str(self.session.jid), domain})
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
        self.session.do(ServerClose(abort=not orderly))
        if self.ledger is not None and orderly:
            self.ledger.ended()
        self._questions.drop()
        self._login = None

    def drop_questions(self) -> None:
        self._questions.drop()

    def leave(self) -> bool:
        """Close a stream that was only resumed to empty it; whether there is one."""
        leg, self._leg = self._leg, None
        if leg is None:
            return False
        self._last_words(leg)
        self.session.do(ServerClose())
        self._questions.drop()
        return True

    def drop(self, fault: Fault | None) -> None:
        """The server is gone, or given up without another word."""
        if self._leg is not None:
            self.reconnection.note_received(self._leg.received)
        self._leg = None
        self._ended(fault)

    def save_count(self) -> None:
        """Now and then what was not worth a commit is written down all the same."""
        if self._leg is not None and self.ledger is not None and self.managed:
            handled = self.ledger.received(self._leg.received, save=True)
            self._outputs(self._leg.acknowledge(handled))

    def _last_words(self, leg: ServerLeg) -> None:
        for output in [*leg.acknowledge(), *leg.close()]:
            if isinstance(output, Send):
                self.session.do(ToServer(output.data))

    def abandon(self) -> None:
        """The store failed: nothing more is written, the server keeps all."""
        self._leg = None
        self.session.do(ServerClose(abort=True))

    # -- what the edge tells ------

    def connected(self, mode: Literal["starttls", "direct", "off"]) -> None:
        if self._login is None or self.session.over:
            self.session.do(ServerClose(abort=True))
            return
        self.watch.heard()
        self._presenting = self.entering.presenting()
        self._leg = ServerLeg(
            account=Jid(self._login.local, self._login.domain, ""),
            password=self._login.password,
            tls=mode,
            floor=self.entering.floor(),
            presenting=self._presenting,
            resume=self._resume_point(),
        )
        self._outputs(self._leg.connected())

    def _resume_point(self) -> ResumePoint | None:
        if self.session.phase is Phase.RECOVERING and self.recovery.pending:
            return self.recovery.resume_point()
        if self.session.phase is Phase.CUT:
            return self.reconnection.resume_point()
        return None

    def secured(self, facts: TlsFacts, server_key: bytes | None) -> None:
        if self._leg is None:
            return
        self._server_key = server_key
        self._outputs(self._leg.secured(facts))

    def data(self, data: bytes) -> None:
        """Bytes came; they count as handled once this transaction commits."""
        if self._leg is None:
            return
        self.watch.heard()
        self._outputs(self._leg.data(data))
        self._count()
        self.recovery.leave_if_empty()

    def _count(self) -> None:
        """What came is acknowledged as far as it is written down, and no further:
        a server refuses to resume below what it was told."""
        leg = self._leg
        if leg is None:
            return
        handled = leg.received
        if self.recovery.emptying:
            self.recovery.received(handled)
        elif self.ledger is None or self.session.phase is Phase.CUT:
            # while it logs in again, the new leg has counted nothing yet
            return
        elif self.managed:
            handled = self.ledger.received(handled)
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
                    self.session.do(ToServer(data))
                case Incoming(stanza=stanza):
                    self._incoming(stanza)
                case TooBig():
                    self.session.left_out(output.skipped)
                case StartTls():
                    self.session.do(ServerTls())
                case Close():
                    self.session.do(ServerClose())
                case Derive():
                    self.session.do(DeriveKey(output))
                case _:
                    self._milestone(output)

    def perform(self, output: ServerOutput) -> None:
        """Bytes of a leg of this session's that is not this uplink's."""
        if isinstance(output, Send):
            self.session.do(ToServer(output.data))

    def _milestone(
        self,
        output: Authenticated
        | Unauthenticated
        | Enabled
        | NotEnabled
        | Resumed
        | ResumeFailed
        | GateWord
        | Acked
        | Ended,
    ) -> None:
        match output:
            case Authenticated():
                self.entering.authenticated(output, self._server_key)
            case GateWord(stanza=stanza):
                self.vouching.take(stanza)
            case Resumed(h=h):
                self.note_gate()
                self.vouching.resumed()
                self._resumption().resumed(h)
            case ResumeFailed(h=h):
                self._resumption().failed(h)
            case Ended(fault=fault):
                at_resume = self._leg is not None and self._leg.resuming
                recovering = self.session.phase is Phase.RECOVERING
                self.recovery.ended(at_resume=at_resume and recovering)
                if isinstance(fault, Refusal):
                    self.vouching.refused(fault)
                self.drop(fault)
            case NotEnabled():
                self._not_managed()
            case Unauthenticated():
                # asked for where nobody logs in: Registering
                pass
            case Enabled() | Acked():
                self._management(output)
            case _:
                assert_never(output)

    def _resumption(self) -> Recovery | Reconnection:
        recovering = self.session.phase is Phase.RECOVERING
        return self.recovery if recovering else self.reconnection

    def _management(self, output: Enabled | Acked) -> None:
        if self.ledger is None:
            return
        if isinstance(output, Enabled):
            self.ledger.enabled(output.previd, self._house.clock())
        else:
            self.ledger.acknowledge(output.h)

    def _not_managed(self) -> None:
        self.managed = False
        if self.ledger is not None:
            self.ledger.unmanaged()
            if self.ledger.messages_waiting:
                self.watch.confirm()

    def _incoming(self, stanza: Stanza) -> None:
        if self._questions.take(stanza) or self.entering.takes(stanza):
            return
        if self.session.phase is Phase.VOUCHING:
            self.vouching.hold(stanza)
        else:
            self._note_change(stanza)
            self.session.from_server(stanza)

    def instructed(self, stanza: Stanza) -> None:
        """The client's presence or IQ leaves as it is."""
        if self._passwords is not None:
            self._passwords.sent(stanza)
        self.send(guard.instruction(stanza), kept=False)

    def _note_change(self, stanza: Stanza) -> None:
        change = self._passwords.answered(stanza) if self._passwords else None
        if change is None or self._login is None:
            return
        if change.password is not None:
            self._login = replace(self._login, password=change.password)
        else:
            self.session.own.removed()

    def note_gate(self) -> None:
        """What the gate's proof told is for the person, now that it is theirs."""
        if self._presenting is not None:
            for text in self._presenting.notices:
                self.session.own.notice(self.domain, text)

    # -- the end, and after it ------

    def _ended(self, fault: Fault | None) -> None:
        match self.session.phase:
            case Phase.RECOVERING if self.recovery.resuming:
                self.recovery.given_up()
            case Phase.REACHING | Phase.RECOVERING:
                self.session.do(ServerClose(abort=True))
                self._questions.drop()
                self.recovery.release()
                self.session.login_failed(fault or _closed())
            case Phase.LIVE | Phase.CUT | Phase.DRAINING:
                self.reconnection.cut(fault)
            case Phase.OVER:
                return
            case _:
                self.session.end(fault or _closed())

    # -- time ------

    def expire(self, now: int) -> None:
        self._questions.expire(now)


def _closed() -> EnvFault:
    return EnvFault("the server closed the connection")
