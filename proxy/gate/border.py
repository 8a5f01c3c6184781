"""What crosses an open stream, and what does not: 17.1 and 17.2.

Each stanza is judged on its way; what has to be found out first holds back all
that comes behind it in its direction, so that no order changes (RFC 6120, 10.1)
and XEP-0198's counts stay true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import PeerFault
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from ..wire.tree import serialise
from . import enforce
from .between import HOLD_MS, Domains, Outcome, words
from .effects import Probe
from .enforce import Judgement
from .inquiry import Finding, Proof
from .questions import LookUp, No, Record

if TYPE_CHECKING:
    from .line import Line
    from .questions import Answer

PAUSES_MS: Final = HOLD_MS
"""What waiting for probes may cost a client's incoming stanzas in a minute: a
stranger with many domains that never answer could stop them for good."""
_MINUTE: Final = 60_000

ONLY_SEALED: Final = (
    "Not sent: this server takes sealed messages only; write through Tillie."
)
HAS_KEY: Final = (
    "Not sent: {} has a key, so this server takes sealed messages for it only; "
    "write through Tillie."
)
UNPROVEN: Final = (
    "Not sent: whether {} has a key could not be learned ({}), and what is not sealed "
    "goes only to who provably has none."
)

NO_ADDRESS: Final = "Not sent: its address is not a valid one."

Refuse = Callable[[Stanza, str, str, str], None]


class Border:
    """The judge of one stream.

    :param refuse: sends a client's stanza back: condition, application, text.
    :param leave_out: gives the client an empty stanza for one of the server's.
    :param bounce: the same, and its sender is told.
    """

    def __init__(
        self,
        line: Line,
        refuse: Refuse,
        leave_out: Callable[[Stanza], None],
        bounce: Callable[[Stanza], None],
    ) -> None:
        self._line = line
        self._refuse = refuse
        self._leave_out = leave_out
        self._bounce = bounce
        self._paused = 0
        self._minute = 0

    # -- outward ------

    def outward(self, stanza: Stanza, go: Callable[[bytes], None]) -> None:
        """Judge what the client sends; *go* passes it on."""
        domains = self._line.world.terms.domains
        try:
            domain = domains.concerned(stanza.to) if domains is not None else None
        except PeerFault:
            self._no_address(stanza)
            return
        if domains is None or domain is None:
            self._said(stanza, go)
            return

        def known(outcome: Outcome) -> None:
            if outcome.keyed:
                self._said(stanza, go)
            elif stanza.type == "error" or _is_answer(stanza):
                # nobody waits for the answer to an answer
                self._silently(stanza, f"{domain} has no key between servers")
            else:
                text = words(domain, outcome)
                self._line.note("domain-unkeyed")
                self._refuse(stanza, "not-allowed", "domain-unkeyed", text)

        outcome = domains.known(domain)
        if outcome is None:
            self._line.probe(domain, known, inward=False)
        else:
            known(outcome)

    def _said(self, stanza: Stanza, go: Callable[[bytes], None]) -> None:
        wanted = self._line.world.terms.enforcement.outbound
        if wanted == "pass":
            go(stanza.to_bytes())
            return
        match enforce.judge(stanza):
            case Judgement.FINE:
                go(stanza.to_bytes())
            case Judgement.ECHO:
                go(serialise(enforce.without_echo(stanza)))
            case Judgement.ROOM if wanted == "keyless":
                go(stanza.to_bytes())
            case Judgement.CLEAR if wanted == "keyless":
                self._clear(stanza, go)
            case _:
                self._not_clear(stanza, ONLY_SEALED)

    def _clear(self, stanza: Stanza, go: Callable[[bytes], None]) -> None:
        """In clear to somebody: who has no key may get it, if that is proven."""
        line = self._line
        try:
            to = Jid.parse(stanza.to or line.account).bare
        except PeerFault:
            self._no_address(stanza)
            return
        if not to.local:
            # keys are of accounts: a service has none
            go(stanza.to_bytes())
        elif to.domain in line.world.domains:
            line.ask(LookUp(str(to)), lambda said: self._own(stanza, to, said, go))
        else:
            line.inquire(str(to), lambda found: self._other(stanza, to, found, go))

    def _own(
        self, stanza: Stanza, to: Jid, said: Answer, go: Callable[[bytes], None]
    ) -> None:
        match said:
            case No():
                go(stanza.to_bytes())
            case Record():
                self._not_clear(stanza, HAS_KEY.format(to))
            case _:
                why = "the gate's registry cannot be asked now"
                self._not_clear(stanza, UNPROVEN.format(to, why))

    def _other(
        self, stanza: Stanza, to: Jid, found: Finding, go: Callable[[bytes], None]
    ) -> None:
        match found.proof:
            case Proof.NONE:
                go(stanza.to_bytes())
            case Proof.KEY:
                self._not_clear(stanza, HAS_KEY.format(to))
            case Proof.OPEN:
                self._not_clear(stanza, UNPROVEN.format(to, found.text))

    def _no_address(self, stanza: Stanza) -> None:
        """Servers of older rules (RFC 6122) may read an address where there is none
        here, and whose that is, nobody has judged."""
        self._line.note("clear-refused")
        self._refuse(stanza, "jid-malformed", "clear-refused", NO_ADDRESS)

    def _not_clear(self, stanza: Stanza, text: str) -> None:
        self._line.note("clear-refused")
        self._refuse(stanza, "policy-violation", "clear-refused", text)

    def _silently(self, stanza: Stanza, why: str) -> None:
        self._line.note("domain-unkeyed", f"an answer was dropped: {why}")
        self._refuse(stanza, "", "", "")

    # -- inward ------

    def inward(self, stanza: Stanza, go: Callable[[bytes], None]) -> None:
        """Judge what the server sends; *go* passes it on."""
        domains = self._line.world.terms.domains
        domain = _sender(domains, stanza) if domains is not None else None
        if domains is None or domain is None:
            self._heard(stanza, go)
            return
        outcome = domains.known(domain)
        if outcome is None and self._may_pause():
            began = self._line.world.now()

            def known(found: Outcome) -> None:
                self._paused += self._line.world.now() - began
                self._from(stanza, domain, found, go)

            self._line.probe(domain, known, inward=True)
        elif outcome is None:
            self._line.effects.append(Probe(0, domain))
            waiting = Outcome(False, "too many others are being asked", reached=False)
            self._from(stanza, domain, waiting, go)
        else:
            self._from(stanza, domain, outcome, go)

    def warm(self, stanza: Stanza) -> None:
        """*stanza* waits behind another: have its domain probed meanwhile."""
        domains = self._line.world.terms.domains
        domain = _sender(domains, stanza) if domains is not None else None
        if domains is not None and domain is not None and domains.known(domain) is None:
            self._line.effects.append(Probe(0, domain))

    def _may_pause(self) -> bool:
        now = self._line.world.now()
        if not self._minute <= now < self._minute + _MINUTE:
            self._minute, self._paused = now, 0
        return self._paused < PAUSES_MS

    def _from(
        self,
        stanza: Stanza,
        domain: str,
        outcome: Outcome,
        go: Callable[[bytes], None],
    ) -> None:
        if outcome.keyed:
            self._heard(stanza, go)
            return
        text = f"a stanza from {domain} was dropped: {outcome.text}"
        self._line.note("domain-unkeyed", text)
        self._leave_out(stanza)

    def _heard(self, stanza: Stanza, go: Callable[[bytes], None]) -> None:
        wanted = self._line.world.terms.enforcement.inbound
        if wanted == "pass" or not enforce.came_clear(stanza, self._line.account):
            go(stanza.to_bytes())
        elif wanted == "mark":
            go(serialise(enforce.marked(stanza)))
        else:
            self._line.note("clear-refused")
            self._bounce(stanza)


def _is_answer(stanza: Stanza) -> bool:
    return stanza.name == "iq" and stanza.type in ("result", "error")


def _sender(domains: Domains, stanza: Stanza) -> str | None:
    """The other domain that a stanza is from; a server's words are not refused."""
    try:
        return domains.concerned(stanza.from_)
    except PeerFault:
        return None
