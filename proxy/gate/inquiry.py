"""Whether an address of another domain has a key, asked by the directory's component.

First the bare JID's own node (PEP), then the directory of its domain.  Only what
clause 3.7 and 16.2 call a proof is one; whatever else comes leaves it unproven,
and what is unproven gets nothing in clear.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from ..core.questions import Answer, Questions, Refused, Result, Silence
from ..core.streams import shown
from ..errors import REMOTE, PeerFault
from ..keys.manifest import open_manifest
from ..keys.servers import open_server
from ..keys.tokens import in_time, open_absence
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .names import KEY, PING, PUBSUB

KEYED_MS: Final = 3_600_000
KEYLESS_MS: Final = 60_000
UNPROVEN_MS: Final = 10_000
AGAIN_MS: Final = (1_000, 2_000, 4_000)
"""When a question is asked again that has no answer: ejabberd gives an answer to any of
several gates that are one component, and half of them to another one."""
_KEPT: Final = 5_000
_LARGEST: Final = 48 * 1024


class Proof(Enum):
    """What an inquiry came to."""

    KEY = "has a key"
    NONE = "provably has none"
    OPEN = "it could not be learned"


@dataclass(frozen=True, slots=True)
class Finding:
    """*text* says what came instead of a proof."""

    proof: Proof
    text: str = ""


Told = Callable[[Finding], None]


class Findings:
    """What is remembered of addresses, as long as clause 3.7 lets it be.

    :param clock: Unix milliseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[Finding, int]] = OrderedDict()

    def known(self, account: str) -> Finding | None:
        finding, until = self._known.get(account, (None, 0))
        return finding if self._clock() < until else None

    def learn(self, account: str, finding: Finding) -> None:
        lasts = {
            Proof.KEY: KEYED_MS,
            Proof.NONE: KEYLESS_MS,
            Proof.OPEN: UNPROVEN_MS,
        }[finding.proof]
        self._known[account] = (finding, self._clock() + lasts)
        self._known.move_to_end(account)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)


class _Asked:
    """A question, each of whose repetitions may be answered; the first answer counts.

    :ivar repeats: when it is asked again, in Unix milliseconds.
    """

    def __init__(
        self, to: str, payload: Element, then: Callable[[Answer], None], now: int
    ) -> None:
        self.to = to
        self.payload = payload
        self.repeats = [now + after for after in AGAIN_MS]
        self.done = False
        self._then = then

    def answered(self, answer: Answer) -> None:
        """What came back to the question, its deadline too."""
        if not self.done:
            self.done = True
            self._then(answer)

    def answered_again(self, answer: Answer) -> None:
        """What came back to a repetition, whose silence says nothing."""
        if not isinstance(answer, Silence):
            self.answered(answer)


class Inquiries:
    """The questions of one component to other domains.

    :param send: takes an IQ for the component's stream.
    """

    def __init__(
        self, address: str, send: Callable[[Element], None], clock: Callable[[], int]
    ) -> None:
        self.findings = Findings(clock)
        self._address = address
        self._send = send
        self._clock = clock
        self._questions = Questions()
        self._waiting: dict[str, list[Told]] = {}
        self._asked: list[_Asked] = []
        self._pings = 0

    @property
    def pending(self) -> bool:
        return bool(self._waiting) or self._pings > 0

    def ask(self, account: str, then: Told) -> None:
        """Find out about *account*, a bare JID; once for all who ask at a time."""
        known = self.findings.known(account)
        if known is not None:
            then(known)
        elif account in self._waiting:
            self._waiting[account].append(then)
        else:
            self._waiting[account] = [then]
            pubsub = Element(f"{{{PUBSUB}}}pubsub")
            SubElement(pubsub, f"{{{PUBSUB}}}items", {"node": KEY})
            self._ask(account, pubsub, lambda answer: self._node(account, answer))

    def ping(self, then: Callable[[bool], None]) -> None:
        """Send this component a ping by way of its server; whether it came back."""

        def told(answer: Answer) -> None:
            self._pings -= 1
            # our own word to who asks too often came the same way
            then(isinstance(answer, Result) or answer == Refused("resource-constraint"))

        self._pings += 1
        self._ask(self._address, Element(f"{{{PING}}}ping"), told)

    def take(self, stanza: Stanza) -> bool:
        """Whether *stanza* answers a question of ours: by its id and its sender."""
        return self._questions.take(stanza)

    def expire(self) -> None:
        """Give up what was not answered in time, and repeat what may be lost."""
        now = self._clock()
        self._questions.expire(now)
        self._asked = [one for one in self._asked if one.repeats and not one.done]
        for one in self._asked:
            # whose server is silent does not use up what is for the others
            if one.repeats[0] <= now and not self._questions.crowded:
                del one.repeats[0]
                self._put(one, one.answered_again)

    def drop(self) -> None:
        """The stream is gone, and the answers with it."""
        self._asked.clear()
        # what gives up on one question may have another, which is as vain
        while self.pending:
            self._questions.drop()

    def _ask(self, to: str, payload: Element, then: Callable[[Answer], None]) -> None:
        asked = _Asked(to, payload, then, self._clock())
        self._asked.append(asked)
        self._put(asked, asked.answered)

    def _put(self, asked: _Asked, then: Callable[[Answer], None]) -> None:
        query = self._questions.ask(
            "get",
            asked.to,
            asked.payload,
            senders=frozenset({asked.to}),
            now=self._clock(),
            then=then,
        )
        if query is not None:
            query.set("from", self._address)
            self._send(query)

    def _node(self, account: str, answer: Answer) -> None:
        finding = _of_node(account, answer)
        if finding.proof is not Proof.OPEN:
            self._settle(account, finding)
            return
        directory = f"keys.{Jid.parse(account).domain}"
        lookup = Element(f"{{{KEY}}}lookup", {"jid": account})

        def told(last: Answer) -> None:
            found = _of_directory(account, last, self._clock())
            self._settle(account, finding if found is None else found)

        self._ask(directory, lookup, told)

    def _settle(self, account: str, finding: Finding) -> None:
        self.findings.learn(account, finding)
        for then in self._waiting.pop(account, []):
            then(finding)


def _of_node(account: str, answer: Answer) -> Finding:
    match answer:
        case Refused(condition="item-not-found"):
            return Finding(Proof.NONE)
        case Refused(condition=condition):
            return Finding(Proof.OPEN, f"it answered {shown(condition)}")
        case Result(payload=payload):
            items = None if payload is None else payload.find(f"{{{PUBSUB}}}items")
            if items is None or items.get("node") != KEY:
                return Finding(Proof.OPEN, "it answered something else")
            if not len(items):
                return Finding(Proof.NONE)
            return _of_record(account, items[-1].find(f"{{{KEY}}}record"))
    return Finding(Proof.OPEN, "it did not answer in time")


def _of_record(account: str, record: Element | None) -> Finding:
    text = "" if record is None else record.findtext(f"{{{KEY}}}manifest") or ""
    if len(text) > _LARGEST:
        return Finding(Proof.OPEN, "its record is too large")
    try:
        manifest = open_manifest(text.encode(), account)
    except REMOTE:
        return Finding(Proof.OPEN, "what it shows is no valid key")
    return Finding(Proof.NONE if manifest.retired else Proof.KEY)


def _of_directory(account: str, answer: Answer, now: int) -> Finding | None:
    """What the directory of its domain says, if that proves something."""
    if not isinstance(answer, Result) or answer.payload is None:
        return None
    if answer.payload.tag == f"{{{KEY}}}record":
        found = _of_record(account, answer.payload)
        return None if found.proof is Proof.OPEN else found
    try:
        absent = _signed_absence(account, answer.payload, now)
    except REMOTE:
        return None
    return Finding(Proof.NONE) if absent else None


def _signed_absence(account: str, absent: Element, now: int) -> bool:
    """Whether the domain's key signed that *account* has none.

    The key is the one that stands beside it: the link between the servers has shown
    whose word it is, and its pins are the proxies' (13.4).
    """
    if absent.tag != f"{{{KEY}}}absent":
        raise PeerFault("no answer to a look-up")
    texts = [
        absent.findtext(path) or ""
        for path in (f"{{{KEY}}}server/{{{KEY}}}document", f"{{{KEY}}}document")
    ]
    if any(len(text) > _LARGEST for text in texts):
        raise PeerFault("a document is too large")
    server = open_server(texts[0].encode(), Jid.parse(account).domain)
    absence = open_absence(texts[1].encode(), account, server.keys)
    return absence.current(now) and in_time(server.issued, server.expires, now)
