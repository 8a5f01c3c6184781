"""Finding a contact's keys: at its own address, then at its domain's directory.

The own node (PEP) is asked first (3.7).  Where it gave no usable answer, or a gated
domain's token that does not count, two are asked at once (16.2): the domain's
directory, and the contact's bare JID, which answers where its server hands such
questions on (XEP-0355).  An answer of the very address that was asked brings the record
with a token of today, or the signed word that there is none.  It moves no pin, and
never takes the place of what the contact itself published with a higher number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ..errors import REMOTE
from ..keys.tokens import open_absence
from ..wire.jid import Jid
from . import directory, vouchers
from .directory import KEY, Absent, Asker, Failed, Found, Outcome
from .questions import Answer, Result
from .servers import Shown

if TYPE_CHECKING:
    from .account import Account

Then = Callable[[Outcome], None]


def look_up(
    account: Account, asker: Asker, jid: str, then: Then, more: Callable[[], bool]
) -> None:
    """Look *jid* up and tell *then* what came of it.

    :param more: whether one more question may be asked, if it should be.
    """

    def found(outcome: Outcome) -> None:
        if jid == account.jid or not _short(account, jid, outcome):
            then(outcome)
        else:
            _Beyond(account, asker, jid, outcome, then).ask(more)

    directory.look_up(asker, jid, jid, found)


class _Beyond:
    """What is asked where *jid*'s own node left something open.

    Both questions leave at once: a server that hands nothing on costs no time.
    """

    def __init__(
        self, account: Account, asker: Asker, jid: str, outcome: Outcome, then: Then
    ) -> None:
        self._account = account
        self._asker = asker
        self._jid = jid
        self._outcome = outcome
        self._then = then
        self._open = 0
        self._published = isinstance(outcome, Found)
        self._settled = False

    def ask(self, more: Callable[[], bool]) -> None:
        # the directory first: where the budget is for one, it is there more often
        places = (_address(self._account, self._jid), self._jid)
        allowed = [place for place in places if more()]
        self._open = len(allowed)
        for place in allowed:
            self._asker.ask(
                "get",
                place,
                Element(f"{{{KEY}}}lookup", {"jid": self._jid}),
                self._handed_on if place == self._jid else self._by_directory,
            )
        if not allowed:
            self._settle()

    def _by_directory(self, answer: Answer) -> None:
        payload = _payload(answer)
        try:
            if payload is not None:
                # also behind the other's answer: it says whose key is the domain's
                _learn(self._account, self._jid, _shown(payload))
        except REMOTE:
            payload = None
        self._answered(payload)

    def _handed_on(self, answer: Answer) -> None:
        # by whom is not proven: what it shows of the domain counts as a record's
        self._answered(_payload(answer))

    def _answered(self, payload: Element | None) -> None:
        self._open -= 1
        if self._settled:
            return
        try:
            if payload is not None:
                self._take(payload)
        except REMOTE:
            pass  # an answer that proves nothing is none
        if not self._open or not _short(self._account, self._jid, self._outcome):
            self._settle()

    def _take(self, payload: Element) -> None:
        """:raises PeerFault, TrustFault: what was answered is not sound."""
        if payload.tag == f"{{{KEY}}}record":
            record = directory.record(payload, self._jid)
            self._outcome = self._joined(record)
        elif not self._published and _absent(self._account, self._jid, payload):
            self._outcome = Absent()

    def _joined(self, record: Found) -> Found:
        """What the own node said, with what a record from elsewhere adds to it."""
        known = self._outcome
        if not self._published or not isinstance(known, Found):
            # an earlier answer, if there was one, left something open
            return record
        own, theirs = known.manifest, record.manifest
        if theirs.digest == own.digest:
            return replace(known, token=record.token, server=record.server)
        same_root = theirs.root.fingerprint == own.root.fingerprint
        if same_root and theirs.seq > own.seq:
            return replace(record, prekeys=known.prekeys)
        return known

    def _settle(self) -> None:
        self._settled = True
        outcome = self._outcome
        if isinstance(outcome, Found) and not self._published:
            directory.prekeys(self._asker, self._jid, outcome, self._then)
        else:
            self._then(outcome)


def _payload(answer: Answer) -> Element | None:
    return answer.payload if isinstance(answer, Result) else None


def _shown(payload: Element) -> Shown | None:
    """The domain's key beside a record or an absence."""
    return Shown.read(payload.find(f"{{{KEY}}}server"))


def _address(account: Account, jid: str) -> str:
    """The directory that the domain's pinned document names, else the usual one."""
    domain = Jid.parse(jid).domain
    pin = account.servers.pin(domain)
    # an account's own record may not say whom to ask about others (13.4)
    said = pin is not None and pin.gated and pin.trusted
    named = pin.held.directory if pin is not None and said else None
    return named or f"keys.{domain}"


def _short(account: Account, jid: str, outcome: Outcome) -> bool:
    """Whether *outcome* leaves something to be asked of the directory.

    Silence does not: a server that does not answer has none that would, and the
    message waits for no second silence.
    """
    match outcome:
        case Failed(silent=silent):
            return not silent
        case Found(manifest=manifest, token=document):
            if not account.servers.gated(Jid.parse(jid).domain):
                return False
            token = vouchers.read(account, jid, document)
            return (
                token is None
                or not token.covers(manifest)
                or not token.current(account.clock())
            )
        case Absent():
            return False


def _absent(account: Account, jid: str, payload: Element) -> bool:
    """Whether the domain's key signed, in time, that *jid* has none.

    :raises PeerFault, TrustFault: no such document, or not by that key.
    """
    if payload.tag != f"{{{KEY}}}absent":
        return False
    pin = account.servers.pin(Jid.parse(jid).domain)
    if pin is None or not pin.gated or not pin.trusted:
        return False
    document = payload.findtext(f"{{{KEY}}}document") or ""
    absence = open_absence(document.encode(), jid, pin.held.keys)
    return absence.current(account.clock())


def _learn(account: Account, jid: str, shown: Shown | None) -> None:
    """The directory's word on its domain's key; its address has shown whose it is.

    :raises PeerFault, TrustFault: the document is not sound.
    """
    if shown is None:
        return
    domain = Jid.parse(jid).domain
    verdict = account.servers.learn(domain, shown, account.clock(), "directory")
    if verdict.notice:
        account.notice(domain, verdict.notice)
