"""Finding a contact's keys: at its own address, then at its domain's directory.

The own node (PEP) is asked first (3.7).  Where it gave no usable answer, or a gated
domain's token that does not count, the directory is (16.2): an answer of that very
address brings the record with a token of today, or the signed word that there is
none.  What a directory says moves no pin, and never takes the place of what the
contact itself published with a higher number.
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

    :param more: whether the directory may be asked too, if it should be.
    """

    def found(outcome: Outcome) -> None:
        if jid == account.jid or not _short(account, jid, outcome) or not more():
            then(outcome)
            return
        lookup = Element(f"{{{KEY}}}lookup", {"jid": jid})
        asker.ask(
            "get",
            _address(account, jid),
            lookup,
            lambda answer: _heard(account, asker, jid, outcome, answer, then),
        )

    directory.look_up(asker, jid, jid, found)


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


def _heard(
    account: Account,
    asker: Asker,
    jid: str,
    outcome: Outcome,
    answer: Answer,
    then: Then,
) -> None:
    payload = answer.payload if isinstance(answer, Result) else None
    if payload is None:
        then(outcome)
        return
    try:
        if payload.tag == f"{{{KEY}}}record":
            _recorded(account, asker, jid, outcome, payload, then)
            return
        if isinstance(outcome, Failed) and _absent(account, jid, payload):
            then(Absent())
            return
    except REMOTE:
        pass  # an answer that proves nothing is none
    then(outcome)


def _recorded(
    account: Account,
    asker: Asker,
    jid: str,
    outcome: Outcome,
    payload: Element,
    then: Then,
) -> None:
    """:raises PeerFault, TrustFault: the record is not sound."""
    theirs = directory.record(payload, jid)
    _learn(account, jid, theirs.server)
    if isinstance(outcome, Found):
        own = outcome.manifest
        if theirs.manifest.digest == own.digest:
            then(replace(outcome, token=theirs.token, server=theirs.server))
        elif (
            theirs.manifest.root.fingerprint == own.root.fingerprint
            and theirs.manifest.seq > own.seq
        ):
            then(replace(theirs, prekeys=outcome.prekeys))
        else:
            then(outcome)
    else:
        directory.prekeys(asker, jid, theirs, then)


def _absent(account: Account, jid: str, payload: Element) -> bool:
    """Whether the domain's key signed, in time, that *jid* has none.

    :raises PeerFault, TrustFault: no such document, or not by that key.
    """
    if payload.tag != f"{{{KEY}}}absent":
        return False
    domain = Jid.parse(jid).domain
    _learn(account, jid, Shown.read(payload.find(f"{{{KEY}}}server")))
    pin = account.servers.pin(domain)
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
