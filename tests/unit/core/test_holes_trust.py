"""Holes that a reading found where keys are believed, asked for and given away."""

from __future__ import annotations

from copy import deepcopy
from xml.etree.ElementTree import Element

import pytest

from proxy.core.account import Account
from proxy.core.directory import KEY
from proxy.core.identity import Standing
from proxy.core.publication import RETRY
from proxy.errors import TrustFault
from proxy.suites import lanes
from proxy.suites.fields import b64
from tests.support.scripted import PUBSUB
from tests.support.simulator import (
    ALICE,
    BOB,
    DAY,
    KEYREQ,
    LANE,
    MESSAGE,
    Client,
    Couple,
    Tillie,
    Upstream,
    World,
    carbon,
    couple,
    link,
    sealed,
)
from tests.support.world import impostor, keyreq, lane_of

GRANT = f".//{{{LANE}}}grant"
HOUR = 3600 * 1000


def granted(client: Client, since: int) -> list[Element]:
    """Keys that went out in messages of their own."""
    return [
        grant
        for one in client.upstream.stanzas[since:]
        if one.tag == MESSAGE and not sealed([one])
        for grant in one.findall(GRANT)
    ]


def learn(account: Account, other: Account, tillie: Tillie, now: int) -> None:
    with tillie.writing():
        account.contacts.learn(
            other.jid, other.identity.manifest, [other.identity.public_prekey()], now
        )


def from_own(content: str, resource: str = "") -> str:
    return f"<message from='{ALICE}{resource}' to='{ALICE}/one'>{content}</message>"


# -- 1: the own server as a device of the own account -------------------------------


@pytest.mark.parametrize("pinned", [False, True], ids=["looked-up", "pinned-before"])
@pytest.mark.parametrize("linked", [False, True], ids=["one-device", "two-devices"])
def test_own_server_gets_no_lane_keys_by_a_false_root(
    pinned: bool, linked: bool
) -> None:
    """The own server showed a root of its own for the own JID, which was pinned on
    first use like a contact's, and asked that "own device" for every lane key."""
    c = couple()
    if linked:
        other = c.world.tillie()
        c.world.login(other, ALICE, "two")
        link(c.a, other, ALICE)
    secret = c.capture("THE SECRET")
    c.world.inject(c.alice, secret)
    mine = deepcopy(sealed(c.alice.upstream.stanzas)[-1])
    false, items = impostor(ALICE)
    c.world.pep.update(items)
    if pinned:
        learn(c.account, false, c.a, c.world.now)
    since = len(c.alice.upstream.stanzas)
    bait = (
        f"<grants xmlns='{LANE}' device='{b64(false.identity.device.public)}' seq='9'>"
        f"<grant to='{ALICE}' device='{b64(c.account.identity.device.public)}'"
        " prekey='1'>AAAA</grant></grants>"
    )
    for resource in ("", "/server"):
        c.world.inject(c.alice, from_own(bait, resource))
        for owner, lane in ((BOB, lane_of(secret)), (ALICE, lane_of(mine))):
            for seq in (1, 9):
                request = keyreq(false, owner, lane, now=c.world.now, seq=seq)
                c.world.inject(c.alice, from_own(request, resource))
                c.world.wait(3_000)
    assert granted(c.alice, since) == []
    if not pinned:
        # it was asked, and what the server said was not believed
        assert any(
            one.get("to") == ALICE and one.find(f"{{{PUBSUB}}}pubsub") is not None
            for one in c.alice.upstream.stanzas[since:]
        )
        own = c.account.contacts.get(ALICE)
        assert own is None or own.pin.root == c.account.identity.fingerprint
    assert c.alice.bodies[-1] == "THE SECRET"


def test_own_device_does_not_answer_itself() -> None:
    """The own server handed a request that this very device had signed back to it."""
    c = couple()
    secret = c.capture("THE SECRET")
    c.world.inject(c.alice, secret)
    learn(c.account, c.account, c.a, c.world.now)
    since = len(c.alice.upstream.stanzas)
    request = keyreq(c.account, BOB, lane_of(secret), now=c.world.now)
    c.world.inject(c.alice, from_own(request))
    c.world.wait(3_000)
    assert granted(c.alice, since) == []


# -- 9, 10: what the own server says of the own keys --------------------------------


def not_linked(world: World) -> tuple[Tillie, Client]:
    """A second Tillie of Alice's that knows of her keys elsewhere."""
    second = world.tillie()
    client = world.login(second, ALICE, "two")
    assert second.account(ALICE).identity.standing is Standing.LINKING
    return second, client


@pytest.mark.parametrize("restarted", [False, True])
def test_no_second_root_where_keys_were_seen_once(restarted: bool) -> None:
    """The server first showed the account's keys and then said that there are none:
    the device that was not linked made a second root and published it."""
    world = World()
    world.login(world.tillie(), ALICE)
    world.wait(RETRY + 1_000)
    second, client = not_linked(world)
    before = dict(world.pep[ALICE, KEY])
    del world.pep[ALICE, KEY]
    if restarted:
        second.restart()
        world.now += DAY
    else:
        client.close()
    again = world.login(second, ALICE, "three")
    world.wait(40_000)
    identity = second.account(ALICE).identity
    assert identity.standing is Standing.LINKING
    assert not identity.has_manifest
    assert not identity.owner
    assert (ALICE, KEY) not in world.pep
    again.say(BOB, "nothing leaves")
    assert sealed(again.upstream.stanzas) == []
    assert "tillie link" in again.raw.decode()
    assert before


def alarmed(c: Couple) -> Client:
    """Somebody's keys stand in Alice's own record, and her Tillie has noticed."""
    false, items = impostor(ALICE)
    c.world.pep[ALICE, KEY] = items[ALICE, KEY]
    client = c.world.login(c.a, ALICE, "later")
    assert c.account.identity.standing is Standing.ALARM
    assert false.identity.fingerprint != c.account.identity.fingerprint
    return client


def test_alarm_keeps_reading_what_it_can() -> None:
    """One false record, and every message that came meanwhile was shown as unreadable
    and could not be had again."""
    c = couple()
    later = alarmed(c)
    c.bob.say(ALICE, "still readable")
    assert later.bodies[-1:] == c.alice.bodies[-1:] == ["still readable"]
    later.say(BOB, "nothing leaves")
    assert "other keys" in later.raw.decode()
    assert c.bob.bodies == ["first of alice"]


@pytest.mark.parametrize("way", ["republished", "absent", "forget"])
def test_alarm_ends(way: str) -> None:
    """Nothing ended it: neither the own record, nor none, nor the person's word."""
    c = couple()
    good = c.world.pep[ALICE, KEY]
    later = alarmed(c)
    if way == "republished":
        c.world.pep[ALICE, KEY] = good
    elif way == "absent":
        del c.world.pep[ALICE, KEY]
    else:
        c.a.command("forget", account=ALICE, jid=ALICE)
    if way != "forget":
        later.close()
        later = c.world.login(c.a, ALICE, "last")
    assert c.account.identity.standing is Standing.READY
    later.say(BOB, "all is well")
    assert c.bob.bodies[-1] == "all is well"
    [record] = c.world.pep[ALICE, KEY].values()
    manifest = record.findtext(f"{{{KEY}}}record/{{{KEY}}}manifest")
    assert manifest == c.account.identity.manifest.document


def test_only_the_person_forgets_the_own_alarm() -> None:
    """``forget`` of somebody else says nothing about the own keys."""
    c = couple()
    alarmed(c)
    c.a.command("forget", account=ALICE, jid=BOB)
    assert c.account.identity.standing is Standing.ALARM


# -- 14: what a new device may read ---------------------------------------------------


def test_i19_linked_device_does_not_get_what_was_written_before() -> None:
    """Of an own lane the new device got all, since its reader's place never moves:
    a code that was looked over a shoulder opened the past."""
    c = couple()
    for at in range(3):
        c.alice.say(BOB, f"old {at}")
    c.bob.say(ALICE, "old of bob")
    mine = [deepcopy(one) for one in sealed(c.alice.upstream.stanzas)[-3:]]
    his = deepcopy(sealed(c.bob.upstream.stanzas)[-1])
    second = c.world.tillie()
    phone = c.world.login(second, ALICE, "two")
    link(c.a, second, ALICE)
    for one in mine:
        one.set("from", f"{ALICE}/one")
        c.world.inject(phone, carbon(one, "sent", ALICE, f"{ALICE}/two"))
    his.set("from", f"{BOB}/one")
    c.world.inject(phone, his)
    c.world.wait(40_000)
    asked = [one for one in phone.upstream.stanzas if one.find(KEYREQ) is not None]
    assert asked
    shown = phone.raw.decode()
    assert "old" not in shown.replace("older", "")
    c.alice.say(BOB, "new of alice")
    c.bob.say(ALICE, "new of bob")
    c.world.wait(20_000)
    assert "new of alice" in phone.raw.decode()
    assert "new of bob" in phone.raw.decode()
    assert "old" not in phone.raw.decode()


# -- 19, 20: who asks for keys --------------------------------------------------------


def test_forged_request_of_a_known_device_causes_no_look_up() -> None:
    """Each of 20 forged requests cost two questions; the signature is looked at first."""
    c = couple()
    c.world.wait(RETRY + 1_000)
    bob = c.b.account(BOB)
    since = len(c.alice.upstream.stanzas)
    lane = bytes(16)
    for at in range(20):
        text = keyreq(bob, ALICE, lane, now=c.world.now, seq=1000 + at, prekey=99)
        forged = text.replace(f"seq='{1000 + at}'", f"seq='{2000 + at}'")
        assert forged != text
        c.world.inject(
            c.alice, f"<message from='{BOB}/one' to='{ALICE}'>{forged}</message>"
        )
        c.world.wait(5_000)
    assert c.alice.upstream.stanzas[since:] == []


def test_requests_of_many_strangers_cause_a_bounded_number_of_look_ups() -> None:
    """One made-up address each: at most 30 a minute, whoever they say they are."""
    c = couple()
    c.world.wait(RETRY + 1_000)
    since = len(c.alice.upstream.stanzas)
    stranger, _ = impostor("x@evil.test")
    for at in range(100):
        text = keyreq(stranger, ALICE, bytes(16), now=c.world.now)
        c.world.inject(
            c.alice, f"<message from='x{at}@evil.test' to='{ALICE}'>{text}</message>"
        )
    c.world.wait(50_000)
    questions = c.alice.upstream.stanzas[since:]
    assert 0 < len(questions) <= 31


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "answering"])
def test_i19_stale_requester_is_refused_until_it_was_looked_up(silent: bool) -> None:
    """A look-up that was never answered counted as one: a removed device got keys."""
    c = couple()
    c.alice.say(BOB, "one more")
    lane = lane_of(sealed(c.alice.upstream.stanzas)[-1])
    c.world.now += DAY + HOUR
    if silent:
        c.world.pep_answers[BOB, KEY] = "silent"
    since = len(c.alice.upstream.stanzas)
    request = keyreq(c.b.account(BOB), ALICE, lane, now=c.world.now)
    c.world.inject(
        c.alice, f"<message from='{BOB}/one' to='{ALICE}'>{request}</message>"
    )
    c.world.wait(20_000)
    assert len(granted(c.alice, since)) == (0 if silent else 1)


# -- 23: a held contact ---------------------------------------------------------------


def test_i24_held_contact_is_released_by_its_own_root() -> None:
    """One false answer held a conversation for good: nobody looked again."""
    c = couple()
    good = c.world.pep[BOB, KEY]
    _, items = impostor(BOB)
    c.world.pep[BOB, KEY] = items[BOB, KEY]
    c.world.now += DAY + HOUR
    c.alice.say(BOB, "held back", ident="m1")
    contact = c.account.contacts.get(BOB)
    assert contact is not None
    assert contact.pin.held
    assert [one.get("id") for one in c.alice.errors] == ["m1"]
    c.world.wait(30_000)
    c.alice.say(BOB, "still held back", ident="m2")
    assert [one.get("id") for one in c.alice.errors] == ["m1", "m2"]
    c.world.pep[BOB, KEY] = good
    c.world.wait(30_000)
    c.alice.say(BOB, "released")
    # his own stream did not outlive the day
    assert c.world.login(c.b, BOB, "next").bodies == ["released"]
    assert c.bob.bodies == ["first of alice"]
    assert c.b.account(BOB).identity.fingerprint == contact.pin.root


# -- 25: lanes by way of an own device ------------------------------------------------


class Granted:
    """A lane of Bob's and grants of it to Alice's device."""

    def __init__(self) -> None:
        self.c = couple()
        bob = self.c.b.account(BOB).identity
        self.new = lanes.open_lane(
            BOB,
            bob.fingerprint,
            bob.device.public,
            [(ALICE, bytes(32))],
            self.c.world.now,
        )
        self.bob = bob

    def take(self, chain: lanes.Chain, *, forwarded: bool) -> None:
        """:raises TrustFault: the grant is not taken."""
        granter = self.c.account.identity if forwarded else self.bob
        own = self.c.account.identity
        # any signed device serves as the one that forwards: the caller checks it
        parties = lanes.Parties(
            ALICE if forwarded else BOB,
            granter.device.public,
            ALICE,
            own.device.public,
            1,
        )
        grant = lanes.Grant(self.new.facts, chain, 1)
        signature = granter.device.sign(lanes.grant_signature_input(grant, parties))
        box = lanes.box(
            lanes.pack_grant(grant, signature),
            own.public_prekey().hpke(),
            parties.info(),
        )
        with self.c.a.writing():
            self.c.account.ratchets.take_grant(box, parties, self.c.world.now)

    def base(self, *, fresh: bool) -> lanes.Chain:
        ratchets = self.c.account.ratchets
        if fresh:
            ratchets.forget_caches()
        header = lanes.Header(0, self.new.facts.lane, 0, bytes(8), bytes(16))
        lane = ratchets.find(header, BOB)
        assert lane.top.n >= lane.base.n
        assert lane.base.at(lane.top.n) == lane.top
        return lane.base


FALSE = lanes.Chain(2, b"F" * 32)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 7])
def test_i19_direct_grant_replaces_a_forwarded_one(at: int) -> None:
    """A false key from an own device kept the owner's own, later grant away, and the
    messages on that lane could not be opened any more."""
    g = Granted()
    g.take(FALSE, forwarded=True)
    g.take(g.new.chain.at(at), forwarded=False)
    for fresh in (False, True):
        assert g.base(fresh=fresh) == g.new.chain.at(at)
    g.take(lanes.Chain(1, b"G" * 32), forwarded=True)
    for fresh in (False, True):
        assert g.base(fresh=fresh) == g.new.chain.at(at)


@pytest.mark.parametrize("forwarded", [False, True])
def test_an_earlier_start_that_contradicts_the_known_key_is_refused(
    forwarded: bool,
) -> None:
    """It would have replaced the right chain by one that opens nothing."""
    g = Granted()
    g.take(g.new.chain.at(5), forwarded=forwarded)
    with pytest.raises(TrustFault):
        g.take(FALSE, forwarded=forwarded)
    assert g.base(fresh=True) == g.new.chain.at(5)
    g.take(g.new.chain.at(3), forwarded=forwarded)
    assert g.base(fresh=True) == g.new.chain.at(3)


@pytest.mark.parametrize(
    "size", [0, 1, 16, 100, 1119, 1120, 1121, 1135, 1136, 1137, 2000]
)
def test_a_box_of_any_size_is_refused_in_one_way(size: int) -> None:
    """The library raises several kinds of errors; one that nobody expects is fatal."""
    identity = impostor(ALICE)[0].identity
    prekey = identity.prekey(1)
    assert prekey is not None
    with pytest.raises(TrustFault):
        lanes.unbox(bytes(size), prekey.hpke(), b"info")


# -- 34: linking ----------------------------------------------------------------------


@pytest.mark.parametrize("rewritten", [False, True])
def test_i5_link_request_is_bound_to_the_root(rewritten: bool) -> None:
    """The server shows the new device a root of its own and puts the right one into
    the request: the code's MAC did not cover it, so the old device agreed."""
    world = World()
    a, second = world.tillie(), world.tillie()
    world.login(a, ALICE)
    phone = world.login(second, ALICE, "two")
    good = world.pep[ALICE, KEY]
    identity = a.account(ALICE).identity
    _, items = impostor(ALICE)
    world.pep[ALICE, KEY] = items[ALICE, KEY]

    def rewrite(_: Upstream, stanza: Element) -> None:
        request = stanza.find(f"{{{LANE}}}link-request")
        if request is not None and rewritten:
            request.set("root", b64(identity.fingerprint))

    world.leaving = rewrite
    offer = a.command("link", account=ALICE)
    with pytest.raises(TrustFault, match="did not take the code"):
        second.command("link", account=ALICE, code=offer["code"])  # type: ignore[index, call-overload]
    world.leaving = lambda _stream, _stanza: None
    assert len(identity.manifest.active) == 1
    assert not second.account(ALICE).identity.ready
    world.pep[ALICE, KEY] = good
    assert not phone.closed
    link(a, second, ALICE)
    assert second.account(ALICE).identity.ready


# -- 36: addresses that servers read in two ways -----------------------------------------


@pytest.mark.parametrize(
    ("jid", "plain"),
    [
        pytest.param("straße@b.test", False, id="ID-11-sharp-s"),
        pytest.param("bob@straße.test", False, id="ID-11-sharp-s-in-the-domain"),
        pytest.param("οδός@b.test", False, id="ID-11-final-sigma"),
        pytest.param("οδοσ@b.test", True, id="ID-11-one-reading-beyond-ascii"),
        pytest.param("müller@b.test", True, id="ID-11-umlaut"),
    ],
)
def test_no_permit_for_an_address_that_older_servers_read_otherwise(
    jid: str, plain: bool
) -> None:
    """RFC 6122 folds what RFC 7622 keeps: ``straße`` was looked up as one account
    and delivered, in clear, to ``strasse``."""
    c = couple()
    c.a.command("allow", account=ALICE, jid=jid)
    c.world.accounts.add(jid)
    c.alice.say(jid, "CANARY", ident="m1")
    assert (b"CANARY" in bytes(c.alice.upstream.raw)) == plain
    assert len(c.alice.errors) == (0 if plain else 1)
