"""What cut streams of the account still hold at the server, fetched before a login.

A kill leaves streams that the server keeps for a while.  The next login resumes
each, empties it and closes it, and only then binds a resource of its own: to
bind the one that such a stream holds would throw it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from . import ledger
from .ledger import Cut
from .management import ResumePoint
from .phase import Phase
from .questions import PING
from .vocabulary import Connect, ServerClose

if TYPE_CHECKING:
    from .uplink import Uplink

MOST_SENT = 2**30


class Recovery:
    """The cut streams that are the session of *uplink*'s to empty."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._session = uplink.session
        self._house = uplink.session.house
        self._cuts: list[Cut] = []
        self._emptying: Cut | None = None
        self._hung_up_at_resume = False
        self._is_empty = False
        self._in_line = False

    # -- one session after the other ------

    @property
    def streams(self) -> set[str]:
        """The names of the streams in the store."""
        cuts = [*self._cuts, *([self._emptying] if self._emptying else [])]
        return {cut.stream for cut in cuts}

    @property
    def in_line(self) -> bool:
        """Whether another session's recovery is waited for."""
        return self._in_line

    def taken(self) -> set[str]:
        """Streams of the account that are live, or another session's to empty."""
        account = self._session.own
        taken = {stream.stream for stream in account.streams}
        for one in self._house.sessions:
            if one.account is account and one is not self._session and not one.over:
                taken |= one.uplink.recovery.streams
        return taken

    def begin(self) -> None:
        """A login wants the server; what earlier streams left comes first."""
        account = self._session.own
        self._cuts = ledger.cuts(self._house.store, account.jid, self.taken())
        self._session.phase = Phase.REACHING
        self._in_line = True
        self.go_on()

    def go_on(self) -> None:
        """Begin once no other session empties an old stream of the account."""
        if self._in_line and not any(one.streams for one in self._others()):
            self._in_line = False
            self._reach()

    def _others(self) -> list[Recovery]:
        return [
            one.uplink.recovery
            for one in self._house.sessions
            if one is not self._session
            and one.account is self._session.account
            and not one.over
            and not one.uplink.recovery.in_line
        ]

    def _reach(self) -> None:
        session = self._session
        session.phase = Phase.RECOVERING if self._cuts else Phase.REACHING
        session.do(Connect(self._uplink.domain))
        if not self._cuts:
            for one in list(self._house.sessions):
                one.uplink.recovery.go_on()

    # -- one cut stream after the other ------

    def resume_point(self) -> ResumePoint:
        cut = self._cuts[0]
        # how much was sent is not written down with each stanza: whatever
        # the server says that it handled is possible
        sent = (cut.acked + MOST_SENT) % 2**32
        return ResumePoint(cut.previd, cut.received, sent, cut.acked)

    @property
    def pending(self) -> bool:
        """Whether there is a cut stream to resume next."""
        return bool(self._cuts)

    @property
    def emptying(self) -> bool:
        return self._emptying is not None

    @property
    def resuming(self) -> bool:
        """Whether the login itself went well and only the old session did not."""
        return self._emptying is not None or self._hung_up_at_resume

    def ended(self, *, at_resume: bool) -> None:
        """The stream ended, *at_resume* while the answer to that was due."""
        self._hung_up_at_resume = at_resume

    def resumed(self, h: int) -> None:
        """A stream that a kill cut goes on, for as long as it takes to empty it.

        The ping's answer comes behind everything that the server still held.
        """
        account = self._session.own
        self._emptying = self._cuts.pop(0)
        ledger.arrived(self._house.store, account.jid, self._emptying, h)
        self.received(self._emptying.received)
        self._session.receive_for(self._emptying.stream)
        self._uplink.ask("get", None, Element(PING), lambda _: self._emptied())

    def received(self, count: int) -> None:
        """Stanzas that it still held are committed, up to *count*."""
        if self._emptying is not None:
            account = self._session.own.jid
            ledger.emptied(self._house.store, account, self._emptying, count)

    def _emptied(self) -> None:
        """Not before the rest of this read was handled: it is acknowledged too."""
        self._is_empty = self._session.phase is Phase.RECOVERING

    def leave_if_empty(self) -> None:
        """All that the cut stream held is committed with this read: close it."""
        if not self._is_empty:
            return
        self._is_empty = False
        if self._emptying is None or not self._uplink.leave():
            return
        ledger.closed(self._house.store, self._session.own.jid, self._emptying)
        self._emptying = None
        self._reach()

    def failed(self, h: int | None) -> None:
        """That session is gone; what is older is gone by now, too."""
        account, store = self._session.own.jid, self._house.store
        ledger.arrived(store, account, self._cuts[0], h)
        for cut in self._cuts:
            ledger.closed(store, account, cut)
        self._cuts = []

    def release(self) -> None:
        """The login failed: what is cut is the next one's to empty, whose client may
        come while this one still thinks about its password."""
        self._cuts, self._emptying = [], None
        self._is_empty = False

    def given_up(self) -> None:
        """The server hung up over an old session: it is given up, and the login
        goes on without it; its messages are sent again as they were."""
        self._session.do(ServerClose(abort=True))
        self._uplink.drop_questions()
        cut = self._emptying or self._cuts.pop(0)
        ledger.closed(self._house.store, self._session.own.jid, cut)
        self._emptying, self._hung_up_at_resume = None, False
        self._is_empty = False
        self._reach()
