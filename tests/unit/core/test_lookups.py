"""A contact's keys at its own address, then at its domain's directory (16.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.core import directory, lookups
from proxy.core.account import Account, Settings
from proxy.core.directory import KEY, Absent, Failed, Found, Outcome
from proxy.core.questions import Answer, Refused, Result, Silence
from proxy.core.servers import Servers, Shown
from proxy.keys import servers, tokens
from proxy.keys.documents import make_doc
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import Manifest, renamed
from proxy.keys.prekeys import PrekeyPrivate, sign_prekey
from proxy.keys.store import MemoryStore
from proxy.suites.entropy import token as random_bytes
from tests.support.persons import DAY, NOW, Person
from tests.support.simulator import ALICE, BOB, PUBSUB, couple, parsed

DOMAIN = BOB.partition("@")[2]
KEYS = f"keys.{DOMAIN}"
IN_PUBSUB = f"{{{PUBSUB}}}"
FORBIDDEN = Refused("forbidden")
HANDED = f"{BOB} (handed on)"


@dataclass
class Stage:
    """Alice asks for bob; `pep` and `keys` answer in bob's name and his domain's,
    `handed` what his server hands on.

    `asked` is whom was asked, in order; `allowed` for how many more there is a budget.
    While `late` is a list, what is answered to look-ups waits in it.
    """

    key: RootPrivate = field(default_factory=RootPrivate.generate)
    bob: Person = field(default_factory=lambda: Person(jid=BOB))
    now: int = NOW
    allowed: int = 100
    names: str | None = None
    pep: dict[str, Answer] = field(default_factory=dict)
    keys: Answer = field(default_factory=Silence)
    handed: Answer = field(default_factory=lambda: Refused("service-unavailable"))
    late: list[Callable[[], None]] | None = None
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self.servers = Servers(self.store)
        self.account = Account(
            ALICE, self.store, lambda: self.now, Settings(), self.servers
        )
        claims = servers.server_claims(
            DOMAIN, 1, self.key.public, NOW, directory=self.names
        )
        self.shown = Shown(make_doc(claims, servers.SERVER, self.key))
        prekey = PrekeyPrivate.generate(3)
        self.prekey = sign_prekey(prekey, self.bob.device, BOB, self.bob.fingerprint)
        self.pep[directory.PREKEY] = items(
            directory.PREKEY, directory.prekey_item(self.prekey, "item")
        )

    def ask(
        self, kind: str, to: str | None, payload: Element, then: Callable[..., None]
    ) -> None:
        assert kind == "get"
        if payload.tag != f"{{{KEY}}}lookup":
            assert to == BOB
            self.asked.append(BOB)
            then(self.pep.get(payload[0].get("node", ""), FORBIDDEN))
            return
        assert payload.attrib == {"jid": BOB}
        self.asked.append(HANDED if to == BOB else str(to))
        answer = self.handed if to == BOB else self.keys
        if self.late is None:
            then(answer)
        else:
            self.late.append(lambda: then(answer))

    def more(self) -> bool:
        self.allowed -= 1
        return self.allowed >= 0

    def gated(self) -> Stage:
        """The domain's key is pinned from its own mouth."""
        with self.store.transaction():
            self.servers.learn(DOMAIN, self.shown, self.now, "directory")
        return self

    def look_up(self) -> Outcome:
        got: list[Outcome] = []
        with self.store.transaction():
            lookups.look_up(self.account, self, BOB, got.append, self.more)
        (outcome,) = got
        return outcome

    # -- what bob and his domain say ------

    def token(self, manifest: Manifest | None = None, age: int = 0) -> str:
        claims = tokens.token_claims(
            manifest or self.bob.manifest, random_bytes(16), self.now - age
        )
        return make_doc(claims, tokens.TYP, self.key)

    def publish(self, token: str = "", manifest: Manifest | None = None) -> None:
        item = directory.record_item(manifest or self.bob.manifest, token)
        self.pep[KEY] = items(KEY, item)

    def record(self, manifest: Manifest | None = None, token: str = "") -> Result:
        item = directory.record_item(
            manifest or self.bob.manifest, token or self.token(manifest), self.shown
        )
        return Result(item[0])

    def absent(
        self, *, jid: str = BOB, age: int = 0, key: RootPrivate | None = None
    ) -> Result:
        claims = tokens.absence_claims(jid, random_bytes(16), self.now - age)
        absent = Element(f"{{{KEY}}}absent")
        document = make_doc(claims, tokens.ABSENCE_TYP, key or self.key)
        SubElement(absent, f"{{{KEY}}}document").text = document
        absent.append(self.shown.write())
        return Result(absent)


def items(node: str, *each: Element) -> Result:
    pubsub = Element(f"{IN_PUBSUB}pubsub")
    SubElement(pubsub, f"{IN_PUBSUB}items", {"node": node}).extend(each)
    return Result(pubsub)


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- when the directory is asked, and when not --------------------------------------


def test_a_record_of_a_domain_without_a_gate_is_enough(stage: Stage) -> None:
    stage.publish()
    found = stage.look_up()
    assert isinstance(found, Found)
    assert found.prekeys == [stage.prekey]
    assert KEYS not in stage.asked


@pytest.mark.parametrize("answer", [Refused("item-not-found"), items(KEY)])
def test_the_contacts_own_word_that_there_is_none_is_enough(
    stage: Stage, answer: Answer
) -> None:
    stage.gated().pep[KEY] = answer
    assert stage.look_up() == Absent()
    assert stage.asked == [BOB]


def test_a_server_that_says_nothing_is_not_waited_for_twice(stage: Stage) -> None:
    stage.gated().pep[KEY] = Silence()
    outcome = stage.look_up()
    assert isinstance(outcome, Failed)
    assert stage.asked == [BOB]


def test_a_record_with_a_good_token_is_enough(stage: Stage) -> None:
    stage.gated().publish(stage.token())
    assert isinstance(stage.look_up(), Found)
    assert KEYS not in stage.asked


def test_res_06_without_a_budget_nobody_else_is_asked(stage: Stage) -> None:
    stage.gated().allowed = 0
    assert isinstance(stage.look_up(), Failed)
    assert stage.asked == [BOB]


def test_res_06_with_a_budget_for_one_the_directory_is_asked(stage: Stage) -> None:
    stage.gated().allowed = 1
    assert isinstance(stage.look_up(), Failed)
    assert stage.asked == [BOB, KEYS]


@pytest.mark.parametrize("named", [None, "directory.b.test"])
def test_the_directory_is_the_one_that_the_domain_names(named: str | None) -> None:
    stage = Stage(names=named)
    stage.gated().look_up()
    assert stage.asked == [BOB, named or KEYS, HANDED]


# -- what it proves -----------------------------------------------------------------


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "never-met"])
@pytest.mark.parametrize(
    "pep", [FORBIDDEN, Refused("service-unavailable"), Result(None), items("urn:other")]
)
def test_signed_absence_decides_first_contact_at_once(
    stage: Stage, gated: bool, pep: Answer
) -> None:
    """Prosody answers ``forbidden`` to strangers for a node that does not exist."""
    if gated:
        stage.gated()
    stage.pep[KEY] = pep
    stage.keys = stage.absent()
    assert stage.look_up() == Absent()
    pin = stage.servers.pin(DOMAIN)
    assert pin is not None
    assert (pin.source, stage.servers.gated(DOMAIN)) == ("directory", True)


def _stranger(stage: Stage) -> Result:
    return stage.absent(key=RootPrivate.generate())


@pytest.mark.parametrize(
    "answer",
    [
        lambda stage: stage.absent(jid=f"carol@{DOMAIN}"),
        lambda stage: stage.absent(age=2 * 3600 * 1000),
        lambda stage: stage.absent(age=-DAY),
        _stranger,
        lambda _: Result(Element(f"{{{KEY}}}absent")),
        lambda _: Result(Element("{urn:x}x")),
        lambda _: Result(None),
        lambda _: Refused("item-not-found"),
        lambda _: Refused("remote-server-not-found"),
        lambda _: Refused("resource-constraint"),
        lambda _: Silence(),
    ],
    ids=[
        "other",
        "old",
        "future",
        "key",
        "bare",
        "x",
        "empty",
        "inf",
        "rsnf",
        "rc",
        "no",
    ],
)
def test_enc_01_whatever_else_comes_proves_nothing(
    stage: Stage, answer: Callable[[Stage], Answer]
) -> None:
    stage.keys = answer(stage)
    outcome = stage.look_up()
    assert isinstance(outcome, Failed)
    assert "forbidden" in outcome.text


def test_dir_06_another_key_than_the_pinned_proves_nothing_and_is_told(
    stage: Stage,
) -> None:
    stage.gated()
    liar = Stage(bob=stage.bob)
    stage.keys = liar.absent()
    assert isinstance(stage.look_up(), Failed)
    rows = stage.store.scan("notice", ALICE)
    assert any(b"another key" in data for _, data in rows)


def test_a_record_where_the_own_node_says_nothing(stage: Stage) -> None:
    stage.keys = stage.record()
    found = stage.look_up()
    assert isinstance(found, Found)
    assert found.manifest.digest == stage.bob.manifest.digest
    assert found.token
    # the devices' prekeys are at the contact's own address alone
    assert found.prekeys == [stage.prekey]
    assert stage.asked == [BOB, KEYS, BOB, HANDED]


@pytest.mark.parametrize("age", [8 * DAY, None], ids=["expired", "none"])
def test_i14_a_token_of_today_for_one_that_does_not_count(
    stage: Stage, age: int | None
) -> None:
    stage.gated().publish("" if age is None else stage.token(age=age))
    stage.keys = stage.record()
    found = stage.look_up()
    assert isinstance(found, Found)
    token = tokens.open_token(found.token.encode(), BOB, stage.key.public)
    assert token.current(stage.now)
    assert found.prekeys == [stage.prekey]


def test_a_newer_list_of_devices_is_taken_an_older_one_is_not(stage: Stage) -> None:
    older = stage.bob.manifest
    newer = stage.bob.add(DevicePrivate.generate())
    stage.gated().publish(manifest=older)
    stage.keys = stage.record(newer)
    found = stage.look_up()
    assert isinstance(found, Found)
    assert found.manifest.seq == newer.seq
    assert found.prekeys == [stage.prekey]
    stage.publish(manifest=newer)
    stage.keys = stage.record(older)
    found = stage.look_up()
    assert isinstance(found, Found)
    assert found.manifest.seq == newer.seq


def test_enc_22_another_root_of_the_directorys_is_not_put_before_the_own_record(
    stage: Stage,
) -> None:
    """It would hold the conversation though the contact's own node confirms the pin."""
    stage.gated().publish()
    thief = Person(jid=BOB)
    newer = renamed(thief.manifest, thief.root, thief.device.id, "other", NOW)
    assert newer.seq > stage.bob.manifest.seq
    stage.keys = stage.record(newer)
    outcome = stage.look_up()
    assert isinstance(outcome, Found)
    assert outcome.manifest.digest == stage.bob.manifest.digest


def test_dir_10_a_record_does_not_say_whom_to_ask_about_others() -> None:
    """Anybody with an account there could name a directory for the whole domain, whose
    word would then make the domain gated and its accounts keyless."""
    stage = Stage(names="keys.evil.example")
    with stage.store.transaction():
        stage.servers.learn(DOMAIN, stage.shown, NOW, "record")
    stage.keys = stage.absent()
    stage.look_up()
    assert stage.asked == [BOB, KEYS, HANDED]


def test_absence_says_nothing_against_a_record_of_the_contact(stage: Stage) -> None:
    """Whether that is believed at first contact is another question (15.3)."""
    stage.gated().publish()
    stage.keys = stage.absent()
    assert isinstance(stage.look_up(), Found)


def test_dir_01_a_record_of_somebody_else_is_none(stage: Stage) -> None:
    carol = Person(jid=f"carol@{DOMAIN}")
    stage.keys = stage.record(carol.manifest)
    assert isinstance(stage.look_up(), Failed)


# -- what the server of a bare JID hands on (16.3) ----------------------------------


@pytest.mark.parametrize("keys", [Silence(), Refused("remote-server-not-found")])
def test_the_plans_words_a_bare_jid_answers_where_the_directory_does_not(
    stage: Stage, keys: Answer
) -> None:
    stage.keys, stage.handed = keys, stage.record()
    found = stage.look_up()
    assert isinstance(found, Found)
    assert found.manifest.digest == stage.bob.manifest.digest
    assert found.prekeys == [stage.prekey]


def test_a_token_of_today_comes_from_there_too(stage: Stage) -> None:
    stage.gated().publish(stage.token(age=8 * DAY))
    stage.handed = stage.record()
    found = stage.look_up()
    assert isinstance(found, Found)
    token = tokens.open_token(found.token.encode(), BOB, stage.key.public)
    assert token.current(stage.now)


def test_dir_10_no_domain_is_gated_by_it_and_no_first_absence_proven(
    stage: Stage,
) -> None:
    stage.handed = stage.absent()
    assert isinstance(stage.look_up(), Failed)
    assert stage.servers.pin(DOMAIN) is None
    stage.gated()
    assert stage.look_up() == Absent()


def _elsewhere(stage: Stage) -> Answer:
    return Stage(bob=stage.bob).absent()


def _unvouched(stage: Stage) -> Answer:
    thief = Person(jid=BOB)
    return stage.record(thief.manifest, Stage(bob=thief).token())


@pytest.mark.parametrize("lie", [_elsewhere, _unvouched], ids=["absence", "record"])
@pytest.mark.parametrize("first", [0, 1], ids=["directory-first", "bare-jid-first"])
def test_enc_01_what_is_not_signed_for_does_not_stand_before_what_is(
    stage: Stage, lie: Callable[[Stage], Answer], first: int
) -> None:
    """Whichever of the two comes first: nothing of a lie, and no alarm by it."""
    stage.gated().keys = stage.record()
    stage.handed = lie(stage)
    stage.late = []
    got: list[Outcome] = []
    with stage.store.transaction():
        lookups.look_up(stage.account, stage, BOB, got.append, stage.more)
        assert got == []
        stage.late[first]()
        assert len(got) == (first == 0)
        stage.late[1 - first]()
    (found,) = got
    assert isinstance(found, Found)
    assert found.manifest.digest == stage.bob.manifest.digest
    assert list(stage.store.scan("notice", ALICE)) == []


def test_who_answers_well_is_not_kept_waiting_for_the_other(stage: Stage) -> None:
    """And what the directory says of its domain's key is learned all the same."""
    stage.keys = stage.handed = stage.record()
    stage.late = []
    got: list[Outcome] = []
    with stage.store.transaction():
        lookups.look_up(stage.account, stage, BOB, got.append, stage.more)
        by_directory, by_bare_jid = stage.late
        by_bare_jid()
        assert isinstance(got[0], Found)
        assert not stage.servers.gated(DOMAIN)
        by_directory()
    assert len(got) == 1
    assert stage.servers.gated(DOMAIN)


def test_the_own_account_is_asked_of_nobody_else(stage: Stage) -> None:
    got: list[Outcome] = []
    asker = stage
    asker.pep[KEY] = FORBIDDEN

    class Own:
        def ask(
            self, kind: str, to: str | None, payload: Element, then: object
        ) -> None:
            assert to == ALICE
            assert callable(then)
            then(FORBIDDEN)

    lookups.look_up(stage.account, Own(), ALICE, got.append, lambda: True)
    assert isinstance(got[0], Failed)


# -- who is just subscribing ----------------------------------------------------------


def test_the_plans_words_who_asks_to_subscribe_is_looked_up() -> None:
    """The keys of somebody unknown are there before the first message; the presence
    is shown at once, for it waits for nothing.  Somebody known is not asked again."""
    c = couple(talked=False)
    assert c.account.contacts.get(BOB) is None
    since = len(c.alice.upstream.stanzas)
    subscribe = f"<presence from='{BOB}' to='{ALICE}' type='subscribe'/>"
    c.world.inject(c.alice, parsed(subscribe))
    assert c.alice.stanzas[-1].get("type") == "subscribe"
    asked = [one.get("to") for one in c.alice.upstream.stanzas[since:]]
    assert asked == [BOB, BOB]
    assert c.account.contacts.get(BOB) is not None
    c.world.inject(c.alice, parsed(subscribe))
    assert len(c.alice.upstream.stanzas) == since + 2


@pytest.mark.parametrize("by", ["b.test", ALICE, f"{ALICE}/x", ""])
def test_services_and_the_own_account_are_not(by: str) -> None:
    c = couple(talked=False)
    since = len(c.alice.upstream.stanzas)
    c.world.inject(c.alice, parsed(f"<presence from='{by}' type='subscribe'/>"))
    assert len(c.alice.upstream.stanzas) == since


def test_res_06_many_subscribers_stay_within_the_budget() -> None:
    c = couple(talked=False)
    since = len(c.alice.upstream.stanzas)
    for n in range(100):
        c.world.inject(
            c.alice, parsed(f"<presence from='x{n}@b.test' type='subscribe'/>")
        )
    assert len(c.alice.upstream.stanzas) - since <= 30
