"""Whatever server, store and clock do: what should be sealed never leaves in clear."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from proxy.core import directory
from proxy.core.account import Settings
from proxy.wire import tree
from tests.support.canary import Canaries
from tests.support.simulator import ALICE, BOB, DAY, MESSAGE, Client, World
from tests.support.strategies import elements

CAROL = "carol@c.test"
ROOM = "room@muc.test"
DAVE = "dave@d.test"
TEMPLATES = (
    "<body>{}</body>",
    "<subject>{}</subject>",
    "<thread>{}</thread>",
    "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>{}</body></html>",
    "<x xmlns='jabber:x:oob'><url>{}</url></x>",
    "<request xmlns='urn:xmpp:receipts'>{}</request>",
    "<store xmlns='urn:xmpp:hints'>{}</store>",
    "<no-store xmlns='urn:xmpp:hints' a='{}'/>",
    "<composing xmlns='http://jabber.org/protocol/chatstates'>{}</composing>",
    "<x xmlns='jabber:x:conference' jid='r@m.test' reason='{}'/>",
    "<noreply xmlns='urn:xmpp:noreply:0'>{}</noreply>",
    "<encrypted xmlns='urn:x-tillie:seal:0'><payload>{}</payload></encrypted>",
    "<keyreq xmlns='urn:x-tillie:lane:0' lane='{}'/>",
    "<x xmlns='http://jabber.org/protocol/muc#user'><decline to='a@b.test'><reason>{}</reason></decline></x>",
    "<z-{} xmlns='urn:z'/>",
)
ANSWERS = (
    "",
    "",
    "silent",
    "forbidden",
    "item-not-found",
    "service-unavailable",
    "remote-server-timeout",
    "internal-server-error",
)
NODES = st.tuples(
    st.sampled_from((BOB, BOB, BOB, ALICE, CAROL, DAVE)),
    st.sampled_from((directory.KEY, directory.PREKEY)),
)


def salted(element: Element, canary: str) -> Element:
    """*element* with the canary in each text and attribute."""
    for part in element.iter():
        part.text = f"{part.text or ''}{canary}"
        for name, value in part.attrib.items():
            part.set(name, value + canary)
    return element


class NeverClear(RuleBasedStateMachine):
    """Bob has a Tillie, Carol has none, Dave gets one late, and there is a room."""

    @initialize(policy=st.sampled_from(("ask", "require")))
    def begin(self, policy: str) -> None:
        self.world = World()
        self.canaries = Canaries()
        self.world.accounts |= {BOB, CAROL, DAVE}
        self.a = self.world.tillie(Settings(unknown=policy))
        self.b = self.world.tillie()
        self.d = self.world.tillie()
        self.bob = self.world.login(self.b, BOB)
        self.alice: Client = self.world.login(self.a, ALICE)
        self.searched = 0
        self.alice.say(BOB, self.canaries.secret())

    def log_in(self) -> None:
        if self.alice.closed:
            self.alice = self.world.login(self.a, ALICE)

    def may_be_clear(self, to: str) -> bool:
        contacts = self.a.account(ALICE).contacts
        contact = contacts.get(to)
        return contacts.policy(to) == "clear" and contact is None

    @rule(
        to=st.sampled_from((BOB, BOB, CAROL, DAVE, ROOM, ALICE)),
        kind=st.sampled_from(("chat", "normal", "headline", "groupchat", "error", "")),
        known=st.lists(st.sampled_from(TEMPLATES), max_size=3),
        unknown=st.lists(elements(depth=1), max_size=2),
        language=st.booleans(),
    )
    def say(
        self,
        to: str,
        kind: str,
        known: list[str],
        unknown: list[Element],
        language: bool,
    ) -> None:
        self.log_in()
        clear = self.may_be_clear(to)
        text = self.canaries.clear() if clear else self.canaries.secret()
        message = Element(MESSAGE, {"to": to})
        if kind:
            message.set("type", kind)
        if language:
            message.set("{http://www.w3.org/XML/1998/namespace}lang", text)
        message.extend(tree.parse(one.format(text).encode()) for one in known)
        message.extend(salted(one, text) for one in unknown)
        self.alice.send(tree.serialise(message))

    @rule(known=st.sampled_from(TEMPLATES))
    def say_to_bob(self, known: str) -> None:
        self.say(BOB, "chat", [known], [], False)

    @rule(node=NODES, answer=st.sampled_from(ANSWERS))
    def answer(self, node: tuple[str, str], answer: str) -> None:
        self.world.pep_answers[node] = answer

    @rule(node=NODES)
    def withhold(self, node: tuple[str, str]) -> None:
        self.world.pep.pop(node, None)
        self.world.now += DAY + 1

    @rule(node=NODES, other=NODES)
    def swap(self, node: tuple[str, str], other: tuple[str, str]) -> None:
        if other in self.world.pep:
            self.world.pep[node] = self.world.pep[other]

    @rule()
    def disk_fills_and_empties(self) -> None:
        self.log_in()
        self.a.refuse_commits = True
        text = self.canaries.secret()
        self.alice.say(BOB, text)
        self.a.refuse_commits = False

    @rule(to=st.sampled_from((CAROL, DAVE, ROOM)))
    def allow(self, to: str) -> None:
        self.a.command("allow", account=ALICE, jid=to)

    @rule(seconds=st.sampled_from((1, 3, 13, 16)))
    def wait(self, seconds: int) -> None:
        self.world.wait(1_000 * seconds)

    @rule(days=st.sampled_from((-1, 1, 3)))
    def days_pass(self, days: int) -> None:
        self.world.now += days * DAY + 1

    @rule()
    def bob_answers(self) -> None:
        self.bob.say(ALICE, self.canaries.secret())

    @rule()
    def dave_gets_keys(self) -> None:
        self.world.login(self.d, DAVE, available=False).close()

    @rule()
    def killed_and_started_again(self) -> None:
        self.a.restart()
        self.alice = self.world.login(self.a, ALICE)

    @rule()
    def another_connection(self) -> None:
        self.alice.close()
        self.alice = self.world.login(self.a, ALICE)

    @invariant()
    def no_secret_was_sent(self) -> None:
        wire = self.world.wire
        new = wire[max(0, self.searched - 64) :]
        self.searched = len(wire)
        for secret in self.canaries.secrets:
            assert secret.encode() not in new

    def teardown(self) -> None:
        if hasattr(self, "world"):
            hits = self.canaries.search({"the wire": self.world.wire})
            assert hits == []


TestNeverClear = NeverClear.TestCase
TestNeverClear.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
