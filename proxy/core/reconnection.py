"""A live stream that was cut is resumed, unseen by its client (XEP-0198, 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EnvFault, Fault, PeerFault, TrustFault
from . import guard
from .management import ResumePoint
from .phase import Phase
from .questions import ping
from .resending import again
from .vocabulary import Connect, ServerClose

if TYPE_CHECKING:
    from .uplink import Uplink

RECONNECT_FOR = 300_000
# The server has ended the session itself: to come back would be to fight it.
_FINAL = frozenset({"conflict", "policy-violation", "not-authorized", "host-gone"})


class Reconnection:
    """The tries to come back to the server of *uplink*."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._session = uplink.session
        self._received = 0
        self._cut_at = 0
        self._tries = 0

    def note_received(self, count: int) -> None:
        """What the live stream received in all, before it goes."""
        if self._session.phase in (Phase.LIVE, Phase.DRAINING):
            self._received = count

    def cut(self, fault: Fault | None) -> None:
        """The server went away; resume if it lets us."""
        session, ledger = self._session, self._uplink.ledger
        session.do(ServerClose(abort=True))
        now = session.house.clock()
        first = session.phase is not Phase.CUT
        if first:
            self._cut_at, self._tries = now, 0
        resumable = ledger is not None and ledger.previd is not None
        session.phase = Phase.CUT
        if (
            not resumable
            or isinstance(fault, PeerFault | TrustFault)
            or (fault is not None and fault.condition in _FINAL)
            or session.client_gone
            or now - self._cut_at > RECONNECT_FOR
        ):
            if isinstance(fault, TrustFault):
                session.own.notice(session.own.jid, fault.text)
            self._given_up(fault)
            return
        delay = 0.0 if first else min(0.2 * 2.0**self._tries, 30.0)
        self._tries += 1
        session.do(Connect(self._uplink.domain, delay))

    def _given_up(self, fault: Fault | None) -> None:
        why = fault.text if fault is not None else "the server closed the connection"
        condition = "remote-connection-failed"
        if fault is not None and fault.condition in ("conflict", "policy-violation"):
            condition = fault.condition
        text = f"the connection to the server was lost: {why}"
        self._session.end(EnvFault(text, condition=condition))

    def resume_point(self) -> ResumePoint | None:
        """Where to resume, None where nothing can be."""
        ledger = self._uplink.ledger
        if ledger is None or ledger.previd is None:
            return None
        # <resume/> tells a count as <a/> does: none below it may follow
        ledger.received(self._received, save=True)
        return ResumePoint(ledger.previd, self._received, ledger.sent, ledger.acked)

    def resumed(self, h: int) -> None:
        """The stream goes on; what had not arrived is sent again, in order."""
        uplink, account = self._uplink, self._session.own
        if uplink.ledger is None:
            return
        uplink.ledger.acknowledge(h)
        self._session.phase = Phase.LIVE
        for one in uplink.ledger.unacknowledged():
            cleared = again(account, one.data, one.clear_to)
            if cleared is None:
                uplink.ledger.settle(one)
                # another stanza takes its place: both sides count the same
                cleared = guard.own_query(ping())
            uplink.send_uncounted(cleared)
        uplink.request_ack()
        self._session.pump()

    def failed(self, h: int | None) -> None:
        """The server has forgotten the stream, *h* is what it had handled."""
        if self._uplink.ledger is not None and h is not None:
            self._uplink.ledger.acknowledge(h)
