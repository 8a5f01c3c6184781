"""A directory over a registry in memory: stanzas in, the answers it gives out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from proxy.errors import EnvFault
from proxy.gate.admission import answer
from proxy.gate.directory import Directory
from proxy.gate.lookups import Ask, Effect, Effects, Reply, Sign
from proxy.gate.questions import Answer, Unavailable
from proxy.keys.documents import make_doc
from proxy.keys.registry import MemoryRegistry
from proxy.net.signer import Published
from proxy.wire import tree
from proxy.wire.stanza import Stanza

from .persons import NOW, Person
from .signer import MemorySigner

NS = "jabber:component:accept"
KEY = "urn:x-tillie:key:0"
DOMAIN = "capulet.example"
ADDRESS = f"keys.{DOMAIN}"
STRANGER = "romeo@montague.example/orchard"


@dataclass
class Asking:
    """`trace` names the effects in order; `held` keeps them back while it is a list;
    `shown` is what the domain shows, if not what its signer does."""

    now: int = NOW
    siblings: frozenset[str] = frozenset()
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    registry_away: bool = False
    held: list[Effect] | None = None
    shown: Published | None = None
    trace: list[str] = field(default_factory=list)
    replies: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signer = MemorySigner([DOMAIN], self.now)
        self.directory = Directory(
            DOMAIN,
            ADDRESS,
            lambda: self.shown or self.signer.document(DOMAIN),
            lambda: self.now,
            siblings=self.siblings,
        )

    def vouch(self, person: Person) -> None:
        """Put *person* into the registry, as a login does."""
        with self.registry.transaction():
            answer(person.vouch(), self.registry, self.now)

    def stanza(self, text: str) -> Stanza:
        return Stanza.of(tree.parse(text.encode(), default=NS))

    def send(self, text: str) -> list[Element]:
        """One stanza of the server's; the replies that it caused."""
        before = len(self.replies)
        self.perform(self.directory.received(self.stanza(text)))
        return self.replies[before:]

    def ask(
        self, payload: str, *, by: str = STRANGER, to: str = ADDRESS, kind: str = "get"
    ) -> Element:
        """An IQ, which has exactly one answer."""
        iq = f"<iq type='{kind}' id='q' from='{by}' to='{to}'>{payload}</iq>"
        (reply,) = self.send(iq)
        assert (reply.get("id"), reply.get("to")) == ("q", by)
        assert reply.get("from") == to
        return reply

    def look_up(self, jid: str, *, by: str = STRANGER) -> Element:
        return self.ask(f"<lookup xmlns='{KEY}' jid='{jid}'/>", by=by)

    def perform(self, effects: Effects) -> None:
        todo: deque[Effect] = deque(effects)
        while todo:
            effect = todo.popleft()
            if self.held is not None and not isinstance(effect, Reply):
                self.held.append(effect)
                continue
            todo.extend(self._one(effect))

    def let_go(self) -> None:
        """Perform what was held back, and hold nothing more."""
        held, self.held = self.held or [], None
        self.perform(held)

    def _one(self, effect: Effect) -> Effects:
        match effect:
            case Reply(stanza=stanza):
                self.trace.append("reply")
                self.replies.append(stanza)
                return []
            case Ask(question=question, then=then):
                self.trace.append(type(question).__name__)
                return then(self._answer(effect))
            case Sign(typ=typ, claims=claims, then=then):
                self.trace.append(f"sign {typ}")
                if self.signer.away:
                    return then(EnvFault("the signing process is away"))
                return then(make_doc(claims, typ, self.signer.keys[DOMAIN]))

    def _answer(self, effect: Ask) -> Answer:
        if self.registry_away:
            return Unavailable("no database")
        with self.registry.transaction():
            return answer(effect.question, self.registry, self.now)


def condition(reply: Element) -> str:
    """The condition of an error; empty for a result."""
    error = reply.find(f"{{{NS}}}error")
    return "" if error is None else error[0].tag.partition("}")[2]
