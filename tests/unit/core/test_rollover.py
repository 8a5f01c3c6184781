"""An account changes its root, and its contacts follow (protocol.md, 3.10)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import cast
from xml.etree.ElementTree import Element

import pytest

from proxy.core import linking
from proxy.core.directory import KEY, record, record_item
from proxy.core.identity import Standing
from proxy.core.phase import Phase
from proxy.core.servers import Shown
from proxy.errors import Fault
from proxy.gate.questions import Refused, Unavailable
from proxy.keys.documents import make_doc
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import (
    Manifest,
    device_statement,
    renamed,
    rolled_over,
    with_device,
)
from proxy.keys.servers import ROLLOVER, rollover_claims
from tests.support.gated import AUTH, GatedWorld
from tests.support.raw import BIND, CLIENT, SASL
from tests.support.simulator import (
    ALICE,
    BOB,
    Client,
    Couple,
    Tillie,
    Upstream,
    World,
    couple,
    link,
    payload_of,
    sealed,
    with_payload,
)

A = "a.test"
NODE = (ALICE, KEY)


def acquainted() -> Couple:
    c = couple()
    c.alice.say(BOB, "hello")
    c.bob.say(ALICE, "hello yourself")
    assert (c.bob.bodies[-1], c.alice.bodies[-1]) == ("hello", "hello yourself")
    return c


def roll_over(world: World, tillie: Tillie, **args: object) -> dict[str, object]:
    """The command, and its answer once it came."""
    got: list[object] = []
    tillie.call(
        None,
        lambda: tillie.house.command(
            "devices-rollover", {"account": ALICE, **args}, got.append
        ),
    )
    world.settle()
    for _ in range(30):
        if got:
            break
        world.wait(1_000)
    if isinstance(got[0], Fault):
        raise got[0]
    return cast("dict[str, object]", got[0])


def root(tillie: Tillie) -> bytes:
    return tillie.account(ALICE).identity.fingerprint


def pinned(tillie: Tillie, jid: str = ALICE) -> bytes:
    contact = tillie.account(BOB).contacts.get(jid)
    assert contact is not None
    return contact.pin.root


def published(world: World) -> Manifest:
    item = world.pep[NODE]["current"]
    element = item if item.tag.endswith("record") else item[0]
    return record(element, ALICE).manifest


def notices(tillie: Tillie) -> list[str]:
    found = cast("list[dict[str, str]]", tillie.command("notices"))
    return [one["text"] for one in found]


# -- without a gate --------------------------------------------------------------------


def test_contacts_follow_to_the_new_root() -> None:
    c = acquainted()
    before = root(c.a)
    told = roll_over(c.world, c.a)
    assert told["done"] is True
    identity = c.account.identity
    assert identity.fingerprint != before
    assert told["fingerprint"] == identity.manifest.root.people()
    assert published(c.world).root.fingerprint == identity.fingerprint
    c.alice.say(BOB, "under the new one")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "under the new one"
    assert pinned(c.b) == identity.fingerprint
    assert any("the old ones vouch for the new" in one for one in notices(c.b))
    c.bob.say(ALICE, "and back")
    c.world.wait(20_000)
    assert c.alice.bodies[-1] == "and back"
    # nothing waits for a person
    [row] = cast("list[dict[str, object]]", c.b.command("contacts"))
    assert row["level"] == "seen"


def test_the_old_root_is_forgotten_and_numbers_go_on() -> None:
    c = acquainted()
    old = c.account.identity
    seeds, number, digest = old._get("root"), old.manifest.seq, old.manifest.digest
    roll_over(c.world, c.a)
    assert seeds not in c.a.rows().values()
    manifest = c.account.identity.manifest
    assert (manifest.seq, manifest.previous) == (number + 1, digest)
    c.a.restart()
    assert root(c.a) == manifest.root.fingerprint
    assert c.a.account(ALICE).identity.owner


def test_what_was_on_its_way_is_read() -> None:
    """Sealed to the old root on either side, read when both know the new one."""
    c = acquainted()
    with c.caught() as kept:
        c.bob.say(ALICE, "sealed to the old root", ident="m1")
        c.alice.say(BOB, "sealed under the old root", ident="m2")
    to_alice, to_bob = kept
    roll_over(c.world, c.a)
    c.alice.say(BOB, "news")
    c.world.wait(20_000)
    assert pinned(c.b) == root(c.a)
    c.world.inject(c.alice, to_alice)
    c.world.inject(c.bob, to_bob)
    assert c.alice.bodies[-1] == "sealed to the old root"
    assert c.bob.bodies[-1] == "sealed under the old root"


def test_a_key_that_is_asked_for_later_is_given() -> None:
    """The grant of a lane to the old root was lost: the request names the new one."""
    c = acquainted()
    with c.b.writing():
        c.b.account(BOB).ratchets.rotate(ALICE)
    with c.caught() as kept:
        c.bob.say(ALICE, "its grant is lost")
    roll_over(c.world, c.a)
    bare = with_payload(kept[0], payload_of(kept[0]))
    c.world.inject(c.alice, bare)
    c.world.wait(20_000)
    assert c.alice.bodies[-1] == "its grant is lost"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_who_was_away_follows_two_steps_and_no_more(times: int) -> None:
    c = acquainted()
    c.bob.close()
    for _ in range(times):
        roll_over(c.world, c.a)
    bob = c.world.login(c.b, BOB)
    c.world.now += 25 * 3600 * 1000
    bob.say(ALICE, "are you there?", ident="q")
    c.world.wait(20_000)
    followed = times < 3
    assert (pinned(c.b) == root(c.a)) is followed
    assert (c.alice.bodies[-1] == "are you there?") is followed
    assert ("q" in [one.get("id") for one in bob.errors]) is not followed


def test_what_was_sealed_between_two_steps_is_read() -> None:
    """Bob was away through both, and something of the time between waits for him."""
    c = acquainted()
    roll_over(c.world, c.a)
    with c.caught() as kept:
        c.alice.say(BOB, "between the two", ident="m1")
    roll_over(c.world, c.a)
    c.bob.say(ALICE, "you there?")
    c.world.now += 25 * 3600 * 1000
    c.bob.say(ALICE, "are you there?")
    c.world.wait(20_000)
    assert pinned(c.b) == root(c.a)
    c.world.inject(c.bob, kept[0])
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "between the two"


def served(c: Couple, manifest: Manifest, *rollovers: str) -> None:
    """What Alice's server shows from now on, to a Bob that looks."""
    c.world.pep[NODE]["current"] = record_item(manifest, rollovers=rollovers)
    c.world.now += 25 * 3600 * 1000
    c.bob.say(ALICE, "who are you?", ident="w")
    c.world.wait(20_000)


def forged(c: Couple, signer: RootPrivate, sub: str = ALICE) -> tuple[Manifest, str]:
    """Another root for Alice's account, and a word for it by *signer*."""
    identity = c.account.identity
    fresh = RootPrivate.generate()
    claims = rollover_claims(sub, identity.fingerprint, fresh.public, c.world.now)
    manifest = rolled_over(identity.manifest, fresh, identity.device, c.world.now)
    return manifest, make_doc(claims, ROLLOVER, signer)


@pytest.mark.parametrize("what", ["nothing", "stranger", "other-account", "older"])
def test_dir_04_another_root_needs_the_word_of_the_pinned_one(what: str) -> None:
    c = acquainted()
    before = pinned(c.b)
    own = c.account.identity._owned()
    signer = RootPrivate.generate() if what == "stranger" else own
    sub = "romeo@a.test" if what == "other-account" else ALICE
    manifest, word = forged(c, signer, sub)
    if what == "older":
        # Bob has seen a higher number under the pinned root
        with c.a.writing():
            for name in ("one", "two"):
                c.account.identity.rename_device(
                    c.account.identity.device.id, name, c.world.now
                )
        served(c, c.account.identity.manifest)
        before = pinned(c.b)
    served(c, manifest, *([] if what == "nothing" else [word]))
    assert pinned(c.b) == before
    contact = c.b.account(BOB).contacts.get(ALICE)
    assert contact is not None
    assert contact.pin.held
    assert "w" in [one.get("id") for one in c.bob.errors]


def test_i24_the_root_that_was_left_does_not_come_back() -> None:
    """Its old record is shown again: refused, told, and nothing stands still."""
    c = acquainted()
    old = c.world.pep[NODE]["current"]
    roll_over(c.world, c.a)
    c.alice.say(BOB, "news")
    c.world.wait(20_000)
    new = pinned(c.b)
    c.world.pep[NODE]["current"] = old
    c.world.now += 25 * 3600 * 1000
    c.bob.say(ALICE, "still you?")
    c.world.wait(20_000)
    assert pinned(c.b) == new
    assert c.alice.bodies[-1] == "still you?"
    # and the own Tillie puts its record back at the next login
    c.alice.close()
    c.world.login(c.a, ALICE)
    c.world.wait(1_000)
    assert published(c.world).root.fingerprint == new
    assert c.account.identity.standing is Standing.READY


@pytest.mark.parametrize("steps", range(8))
def test_rel_01_a_kill_at_any_moment_ends_with_one_root(steps: int) -> None:
    c = acquainted()
    before = root(c.a)
    c.a.call(
        None,
        lambda: c.a.house.command(
            "devices-rollover", {"account": ALICE}, lambda _: None
        ),
    )
    for _ in range(steps):
        if c.world._work:
            c.world._work.popleft()()
    c.a.restart()
    c.world.settle()
    identity = c.a.account(ALICE).identity
    here = {identity.fingerprint}
    if identity.pending:
        assert identity.fingerprint == before
        assert identity._owned().public.fingerprint == before
        here.add(identity.pending.manifest.root.fingerprint)
    # whatever the server shows, the key to it is here
    assert published(c.world).root.fingerprint in here
    alice = c.world.login(c.a, ALICE)
    c.world.wait(40_000)
    identity = c.a.account(ALICE).identity
    assert identity.pending is None
    assert identity.standing is Standing.READY
    assert identity.fingerprint != before
    assert identity._owned().public.fingerprint == identity.fingerprint
    assert published(c.world).root.fingerprint == identity.fingerprint
    alice.say(BOB, "still me")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "still me"


def test_a_server_that_does_not_take_it_leaves_the_old_root_in_force() -> None:
    c = acquainted()
    before = root(c.a)

    def refuse(stream: object, stanza: Element) -> list[Element] | None:
        text = [
            one.get("node") for one in stanza.iter() if one.tag.endswith("}publish")
        ]
        return [] if KEY in text else None

    honest, c.world.leaving = c.world.leaving, refuse
    told = roll_over(c.world, c.a)
    assert told["done"] is False
    assert root(c.a) == before
    c.alice.say(BOB, "under the old one")
    assert c.bob.bodies[-1] == "under the old one"
    c.world.leaving = honest
    c.world.wait(60_000)
    assert root(c.a) != before
    assert any("has new keys, signed by the old ones" in one for one in notices(c.a))


def test_without_a_client_it_is_written_down_and_done_at_the_next_login() -> None:
    c = acquainted()
    before = root(c.a)
    c.alice.close()
    assert roll_over(c.world, c.a)["done"] is False
    assert root(c.a) == before
    c.world.login(c.a, ALICE)
    c.world.wait(2_000)
    assert root(c.a) != before


# -- other devices ---------------------------------------------------------------------


def test_other_devices_leave_only_if_that_is_said_and_are_linked_again() -> None:
    c = acquainted()
    second = c.world.tillie()
    laptop = c.world.login(second, ALICE, "two")
    link(c.a, second, ALICE)
    laptop.say(BOB, "from the laptop")
    c.world.wait(20_000)
    before = root(c.a)
    with pytest.raises(Fault) as fault:
        roll_over(c.world, c.a)
    assert "--alone" in fault.value.hint
    assert c.account.identity.pending is None
    roll_over(c.world, c.a, alone=True)
    assert root(c.a) != before
    laptop.close()
    laptop = c.world.login(second, ALICE, "two")
    assert second.account(ALICE).identity.standing is Standing.LINKING
    assert any("were changed on another device" in one for one in notices(second))
    link(c.a, second, ALICE)
    laptop.say(BOB, "linked again")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "linked again"
    # a record that this device publishes keeps what leads to the root
    assert second.account(ALICE).identity.leading == c.account.identity.leading


def test_only_where_the_root_is() -> None:
    c = acquainted()
    second = c.world.tillie()
    c.world.login(second, ALICE, "two")
    link(c.a, second, ALICE)
    with pytest.raises(Fault) as fault:
        roll_over(c.world, second)
    assert "where they were made" in fault.value.text


def test_the_device_with_the_root_raises_the_alarm_if_it_did_not_do_it() -> None:
    """Somebody has the root, and signed: that is no ordinary change."""
    c = acquainted()
    manifest, word = forged(c, c.account.identity._owned())
    c.world.pep[NODE]["current"] = record_item(manifest, rollovers=[word])
    c.alice.close()
    c.world.login(c.a, ALICE)
    assert c.account.identity.standing is Standing.ALARM


# -- at a gate -------------------------------------------------------------------------


def gated() -> tuple[GatedWorld, Tillie, Client, Tillie, Client]:
    world = GatedWorld()
    a, b = world.tillie(), world.tillie()
    alice, bob = world.login(a, ALICE), world.login(b, BOB)
    alice.say(BOB, "hello")
    bob.say(ALICE, "hello yourself")
    assert alice.bodies == ["hello yourself"]
    return world, a, alice, b, bob


BIND_TWO = (
    f"<iq type='set' id='bind'><bind xmlns='{BIND}'>"
    "<resource>two</resource></bind></iq>"
)


def presented(world: GatedWorld, tillie: Tillie) -> Client:
    """A client that is logged in and not bound."""
    session = tillie.house.session(tls_available=False, secure=False)
    client = tillie.clients[session] = Client(tillie, session)
    header = (
        f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
        f" xmlns:stream='http://etherx.jabber.org/streams' to='{A}' version='1.0'>"
    )
    plain = base64.b64encode(b"\0alice\0secret-of-alice").decode()
    client.send(header)
    client.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>")
    client.send(header)
    assert session.phase is Phase.BINDING
    return client


def begun(world: GatedWorld, tillie: Tillie) -> None:
    """The command is given, and the gate has been asked."""
    tillie.call(
        None,
        lambda: tillie.house.command(
            "devices-rollover", {"account": ALICE}, lambda _: None
        ),
    )
    world.settle()
    world.now += 1_000
    tillie.tick()
    world.settle()


def held(world: GatedWorld) -> bytes:
    return world.domain(A).registry._rows.account[ALICE].root


def test_the_gate_follows_and_the_client_notices_nothing() -> None:
    world, a, alice, b, bob = gated()
    before = root(a)
    assert roll_over(world, a)["done"] is True
    assert held(world) == root(a) != before
    assert alice.session.phase is Phase.LIVE
    assert not alice.closed
    token = a.account(ALICE).token.current
    assert token is not None
    assert token.covers(a.account(ALICE).identity.manifest)
    alice.say(BOB, "under the new one")
    world.wait(20_000)
    assert bob.bodies[-1] == "under the new one"
    assert pinned(b) == root(a)
    [row] = cast("list[dict[str, object]]", b.command("contacts"))
    assert row["level"] == "vouched"


def test_the_directory_shows_what_led_to_the_root() -> None:
    world, a, *_ = gated()
    roll_over(world, a)
    account = world.domain(A).registry._rows.account[ALICE]
    assert account.rollovers == a.account(ALICE).identity.leading


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("steps", [*range(8), *range(10, 17)])
def test_rel_01_a_kill_at_any_moment_ends_with_one_root_at_the_gate(
    steps: int, answered: bool
) -> None:
    """Up to 7 steps bring the stream back; from the 10th on, a second has passed and
    the new root is vouched for.  Without an answer, only the gate knows of that."""
    world, a, _, _, bob = gated()
    before = root(a)
    a.call(
        None,
        lambda: a.house.command("devices-rollover", {"account": ALICE}, lambda _: None),
    )
    world.domain(A).bug = "" if answered else "mute"
    if steps >= 10:
        world.settle()
        world.now += 1_000
        a.tick()
    for _ in range(steps % 10):
        world.step()
    a.restart()
    world.settle()
    world.domain(A).bug = ""
    identity = a.account(ALICE).identity
    here = {identity.fingerprint}
    if identity.pending:
        here.add(identity.pending.manifest.root.fingerprint)
    assert held(world) in here
    alice = world.login(a, ALICE)
    world.wait(40_000)
    identity = a.account(ALICE).identity
    assert identity.pending is None
    assert before != identity.fingerprint == held(world)
    assert published(world).root.fingerprint == identity.fingerprint
    alice.say(BOB, "still me")
    world.wait(20_000)
    assert bob.bodies[-1] == "still me"


def test_a_gate_that_refuses_ends_it_and_the_old_root_stays() -> None:
    world, a, _, _, bob = gated()
    before = root(a)
    world.verdict = Refused("root-changed", "the account has another key")
    with pytest.raises(Fault) as fault:
        roll_over(world, a)
    assert "refused the new keys" in fault.value.text
    assert root(a) == before
    assert a.account(ALICE).identity.pending is None
    world.verdict = None
    alice = world.login(a, ALICE)
    alice.say(BOB, "as before")
    assert bob.bodies[-1] == "as before"


@pytest.mark.parametrize("asked", ["after", "before"])
def test_a_no_to_a_stream_of_before_loses_no_key(asked: str) -> None:
    """A second client is on its way in when the root is changed, and showed the old
    one; what the gate answered to the first client is still under way."""
    world, a, *_ = gated()
    second = presented(world, a)
    domain = world.domain(A)
    domain.bug = "mute"
    if asked == "before":
        second.send(BIND_TWO)
    begun(world, a)
    identity = a.account(ALICE).identity
    assert identity.pending is not None
    assert held(world) == identity.pending.manifest.root.fingerprint
    domain.bug = ""
    if asked == "before":
        second.upstream.send(f"<wanted xmlns='{AUTH}'/>")
        world.settle()
    else:
        second.send(BIND_TWO)
    assert second.closed
    world.wait(120_000)
    assert identity.pending is None
    assert root(a) == held(world)
    assert identity.owner


def test_another_device_at_the_gate_is_linked_again() -> None:
    world, a, _, _, bob = gated()
    other = world.tillie()
    laptop = world.login(other, ALICE, "two")
    link(a, other, ALICE)
    laptop = world.login(other, ALICE, "two")
    laptop.say(BOB, "the first of the laptop")
    world.wait(20_000)
    bob.say(ALICE, "before it left")
    assert laptop.bodies[-1] == "before it left"
    waits: list[Element] = []

    def keep(stream: Upstream, stanza: Element) -> list[Element] | None:
        mine = stream.session is laptop.session and sealed([stanza])
        waits.extend(sealed([stanza]) if mine else [])
        return [] if mine else None

    honest, world.arriving = world.arriving, keep
    bob.say(ALICE, "waits for the laptop")
    world.arriving = honest
    laptop.close()
    roll_over(world, a, alone=True)
    assert world.login(other, ALICE, "two").session.phase is not Phase.LIVE
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    with pytest.raises(Fault):
        other.command("link", account=ALICE, code=code)
    waiting = world.login(other, ALICE, "two")
    assert waiting.session.phase is Phase.LINKING
    assert other.command("link", account=ALICE, code=code) == {"joined": True}
    laptop = world.login(other, ALICE, "two")
    laptop.say(BOB, "linked again")
    world.wait(20_000)
    assert bob.bodies[-1] == "linked again"
    # what it could read before, it still can (7.4)
    for one in waits:
        world.inject(laptop, one)
    assert laptop.bodies[-1] == "waits for the laptop"


@pytest.mark.parametrize("then", ["kept", "removed"])
def test_a_lost_answer_to_a_link_request_locks_nobody_out(then: str) -> None:
    """The gate lists the device, which has no manifest yet; its person tries again."""
    world, a, _, _, bob = gated()
    other = world.tillie()
    world.login(other, ALICE, "two")

    def lose(_: Upstream, stanza: Element) -> list[Element] | None:
        answers = [one for one in stanza if one.tag == linking.ANSWER]
        return [] if answers else None

    honest, world.arriving = world.arriving, lose
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    assert not other.command("link", account=ALICE, code=code)
    world.wait(30_000)
    world.arriving = honest
    device = other.account(ALICE).identity.device
    assert a.account(ALICE).identity.manifest.device(device.public) is not None
    other.restart()
    if then == "removed":
        a.command("devices-remove", account=ALICE, id=device.id.hex())
        world.wait(5_000)
    waiting = world.login(other, ALICE, "two")
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    if then == "removed":
        with pytest.raises(Fault):
            other.command("link", account=ALICE, code=code)
        waiting = world.login(other, ALICE, "two")
    assert waiting.session.phase is Phase.LINKING
    assert other.command("link", account=ALICE, code=code) == {"joined": True}
    laptop = world.login(other, ALICE, "two")
    assert laptop.session.phase is Phase.LIVE
    laptop.say(BOB, "linked at last")
    world.wait(20_000)
    assert bob.bodies[-1] == "linked at last"


# -- what a rollover must not wash away ----------------------------------------------


def test_i08_a_removed_device_stays_removed_behind_a_rollover() -> None:
    """Its lanes are open still, and the new root lists it nowhere."""
    c = acquainted()
    second = c.world.tillie()
    laptop = c.world.login(second, ALICE, "two")
    link(c.a, second, ALICE)
    laptop.say(BOB, "from the laptop")
    c.world.wait(20_000)
    with c.caught() as kept:
        laptop.say(BOB, "from who stole it")
    device = second.account(ALICE).identity.device
    c.a.command("devices-remove", account=ALICE, id=device.id.hex())
    roll_over(c.world, c.a)
    c.alice.say(BOB, "news")
    c.world.wait(20_000)
    assert pinned(c.b) == root(c.a)
    c.world.inject(c.bob, kept[0])
    assert c.bob.bodies[-1] == "[Tillie: from a removed device] from who stole it"


def test_dir_04_a_gated_domain_has_to_vouch_for_the_new_root() -> None:
    """Who stole the root is not followed where the gate holds another one: it may have
    been reset, and a lying server shows what it likes."""
    world, a, _, b, bob = gated()
    with b.writing():
        shown = Shown(world.domain(A).document)
        b.house.servers.learn(A, shown, world.now, "directory")
    before, identity = pinned(b), a.account(ALICE).identity
    fresh = RootPrivate.generate()
    claims = rollover_claims(ALICE, identity.fingerprint, fresh.public, world.now)
    manifest = rolled_over(identity.manifest, fresh, identity.device, world.now)
    word = make_doc(claims, ROLLOVER, identity._owned())
    honest = world.pep[NODE]["current"]
    world.pep[NODE]["current"] = record_item(manifest, rollovers=[word])
    world.now += 25 * 3600 * 1000
    bob.say(ALICE, "who are you?", ident="w")
    world.wait(20_000)
    assert pinned(b) == before
    assert "w" in [one.get("id") for one in bob.errors]
    # the one that the gate took is followed at once, without a person
    world.pep[NODE]["current"] = honest
    roll_over(world, a)
    world.wait(60_000)
    bob.say(ALICE, "and now?")
    world.wait(20_000)
    assert pinned(b) == root(a) != before


def stuck(c: Couple) -> Callable[[], None]:
    """A rollover whose publication the server does not answer; call it to end that."""
    honest = c.world.leaving

    def refuse(_: object, stanza: Element) -> list[Element] | None:
        nodes = [
            one.get("node") for one in stanza.iter() if one.tag.endswith("}publish")
        ]
        return [] if KEY in nodes else None

    def answer() -> None:
        c.world.leaving = honest

    c.world.leaving = refuse
    assert roll_over(c.world, c.a)["done"] is False
    return answer


def test_who_joins_other_keys_by_a_code_gives_its_own_change_up() -> None:
    """Another Tillie made new keys for the account while the server did not take those
    that were to follow here; the person links this one to it."""
    c = acquainted()
    answer = stuck(c)
    c.alice.close()
    answer()
    for key in [key for key in c.world.pep if key[0] == ALICE]:
        del c.world.pep[key]
    other = c.world.tillie()
    c.world.login(other, ALICE, "other")
    c.world.login(c.a, ALICE)
    identity = c.account.identity
    assert identity.standing is Standing.ALARM
    link(other, c.a, ALICE)
    c.world.wait(90_000)
    assert identity.pending is None
    assert not identity.owner
    assert root(c.a) == root(other) == published(c.world).root.fingerprint


@pytest.mark.parametrize("drawn", ["before", "meanwhile"])
def test_nothing_is_changed_under_a_root_that_is_about_to_be_left(drawn: str) -> None:
    """A device that was linked meanwhile would see strangers' keys in its account's."""
    c = acquainted()
    c.a.command("link", account=ALICE)
    answer = stuck(c)
    seq = c.account.identity.manifest.seq
    second = c.world.tillie()
    laptop = c.world.login(second, ALICE, "two")
    if drawn == "before":
        offer = c.a.house.linking(c.account)._offer
        assert offer is not None
        code = linking.show_code(offer.code)
        assert not second.command("link", account=ALICE, code=code)
    else:
        for command in ("link", "devices-name", "devices-remove"):
            device = c.account.identity.device.id.hex()
            with pytest.raises(Fault) as fault:
                c.a.command(command, account=ALICE, id=device)
            assert "are being changed" in fault.value.text
    assert c.account.identity.manifest.seq == seq
    answer()
    c.world.wait(60_000)
    assert c.account.identity.pending is None
    link(c.a, second, ALICE)
    laptop.say(BOB, "linked under the new one")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "linked under the new one"


def test_dir_04_who_has_the_old_root_does_not_get_the_account_back() -> None:
    """It was stolen: a list under it with any number, and a device of the thief's, is
    shown to the owner's own Tillie."""
    c = acquainted()
    old, stolen = c.account.identity.manifest, c.account.identity._owned()
    roll_over(c.world, c.a)
    identity = c.account.identity
    new, thief = identity.fingerprint, DevicePrivate.generate()
    statement = device_statement(ALICE, old.root.fingerprint, thief.public)
    ghost = with_device(
        old, stolen, thief.public, thief.sign(statement), "Tillie", c.world.now
    )
    for name in ("one", "two"):
        ghost = renamed(ghost, stolen, thief.id, name, c.world.now)
    assert ghost.seq > identity.manifest.seq
    c.world.pep[NODE]["current"] = record_item(ghost)
    c.alice.close()
    c.world.login(c.a, ALICE)
    c.world.wait(2_000)
    assert identity.fingerprint == new
    assert identity.owner
    assert identity.manifest.device(thief.public) is None
    # and the own record is put back
    assert published(c.world).root.fingerprint == new


def test_the_new_root_is_not_shown_before_the_gate_has_vouched_for_it() -> None:
    """It cannot judge just now, and something else is to be published meanwhile."""
    world, a, alice, *_ = gated()
    before, account = root(a), a.account(ALICE)
    world.verdict = Unavailable("its registry is away")
    assert roll_over(world, a)["done"] is False
    assert alice.session.phase is Phase.LIVE
    a.call(alice.session, lambda: account.publication.publish(alice.session))
    world.wait(30_000)
    assert root(a) == before == held(world)
    assert published(world).root.fingerprint == before
    world.verdict = None
    world.wait(120_000)
    assert before != root(a) == held(world)
    assert published(world).root.fingerprint == root(a)


def test_i24_a_copy_from_before_the_gates_word_goes_on_with_the_new_root() -> None:
    """The state is put back to where the new root was only written down; meanwhile it
    came into force and went on."""
    world, a, alice, _, bob = gated()
    a.call(
        None,
        lambda: a.house.command("devices-rollover", {"account": ALICE}, lambda _: None),
    )
    copy = dict(a.store._rows)
    world.settle()
    world.wait(30_000)
    other = world.tillie()
    world.login(other, ALICE, "two")
    link(a, other, ALICE)
    alice.close()
    a.store._rows.clear()
    a.store._rows.update(copy)
    a.restart()
    assert root(a) != held(world)
    alice = world.login(a, ALICE)
    world.wait(40_000)
    assert alice.session.phase is Phase.LIVE
    assert root(a) == held(world)
    assert len(a.account(ALICE).identity.manifest.active) == 2
    alice.say(BOB, "still me")
    world.wait(20_000)
    assert bob.bodies[-1] == "still me"
