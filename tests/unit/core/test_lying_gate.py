"""Honest Tillies at a gate and a directory that lie: the table of a lying server.

The rows are those of the design (E.1); docs/threats.md says how each ends.  Row 3,
other keys for other people, takes a log in which both would have to stand, and there
is none: nothing here notices it.  Rows 6 and 9 to 14 are not a gate's.
"""

from __future__ import annotations

import pytest

from proxy.core.account import Settings
from proxy.core.phase import Phase
from proxy.gate.questions import Stale
from proxy.keys import manifest as manifests
from proxy.keys.documents import make_doc
from proxy.keys.identity import RootPrivate
from proxy.keys.servers import ROLLOVER, rollover_claims
from tests.support.gated import GatedWorld
from tests.support.liar import Liar, Says
from tests.support.persons import Person
from tests.support.simulator import ALICE, BOB, DAY, Tillie, link, sealed

A, B = "a.test", "b.test"
SECRET = "THE SECRET"


class Scene:
    """Alice's domain is honest, Bob's is not; each has a Tillie that is."""

    def __init__(self, *, friends: bool, settings: Settings | None = None) -> None:
        self.world = GatedWorld()
        self.a, self.b = self.world.tillie(settings), self.world.tillie()
        self.alice = self.world.login(self.a, ALICE)
        self.bob = self.world.login(self.b, BOB)
        if friends:
            self.alice.say(BOB, "hello")
            self.bob.say(ALICE, "hello yourself")
            assert self.bob.bodies == ["hello"]
            assert self.alice.bodies == ["hello yourself"]
        else:
            self.pin_domain()
        self.liar = Liar(self.world, BOB)

    def pin_domain(self) -> None:
        """Alice's Tillie has met Bob's gate before: its key is pinned there."""
        other = self.world.login(self.a, f"alice@{B}")
        other.close()
        assert self.a.house.servers.gated(B)

    @property
    def real(self) -> manifests.Manifest:
        """What Bob signed last."""
        return self.b.account(BOB).identity.manifest

    @property
    def held(self) -> manifests.Manifest | None:
        """What Alice goes by."""
        contact = self.a.account(ALICE).contacts.get(BOB)
        return None if contact is None else contact.manifest

    @property
    def level(self) -> object:
        rows = self.a.command("contacts", account=ALICE)
        assert isinstance(rows, list)
        return next((row["level"] for row in rows if row["jid"] == BOB), None)

    @property
    def notices(self) -> list[str]:
        return notices(self.a, ALICE)

    def write(self) -> int:
        """Alice writes the secret behind a fresh look-up; how many seals left."""
        self.world.now += 2 * DAY
        before = self._seals
        self.alice.say(BOB, SECRET, ident="m1")
        self.world.wait(20_000)
        assert SECRET.encode() not in self.world.wire
        return self._seals - before

    @property
    def _seals(self) -> int:
        streams = [one for one in self.world.upstreams if one.tillie is self.a]
        return sum(len(sealed(one.stanzas)) for one in streams)

    @property
    def returned(self) -> bool:
        return any(one.get("id") == "m1" for one in self.alice.errors)

    def readers(self) -> set[bytes]:
        """The devices to which Alice's lanes are granted."""
        contact = self.a.account(ALICE).contacts.get(BOB)
        assert contact is not None
        return {device.public for device, _ in contact.readers}


def notices(tillie: Tillie, jid: str) -> list[str]:
    rows = tillie.command("notices", account=jid)
    return [one["text"] for one in rows]  # type: ignore[attr-defined]


# -- row 1: keys that the server made ------------------------------------------------------


def test_e1_row_1_a_first_contact_believes_what_the_domain_vouches_for() -> None:
    """It succeeds: only two people who compare fingerprints see it."""
    scene = Scene(friends=False)
    false = scene.liar.serve_own_keys()
    assert scene.write() == 1
    assert scene.level == "vouched"
    assert scene.held is not None
    assert scene.held.root == false.root
    assert scene.held.root.people() != scene.real.root.people()
    assert SECRET not in scene.bob.bodies


def test_e1_row_1_without_the_domains_word_a_first_contact_does_not() -> None:
    scene = Scene(friends=False)
    scene.liar.by = RootPrivate.generate()
    scene.liar.serve_own_keys()
    assert scene.write() == 0
    assert scene.returned
    assert scene.held is None


def test_e1_row_1_who_knows_the_contact_is_not_moved() -> None:
    scene = Scene(friends=True)
    scene.liar.serve_own_keys()
    assert scene.write() == 0
    assert scene.returned
    assert scene.held is not None
    assert scene.held.root == scene.real.root
    assert any("were replaced; nothing is sent" in one for one in scene.notices)


def test_e1_row_1_the_owner_does_not_go_on_with_keys_that_are_not_his() -> None:
    scene = Scene(friends=False)
    scene.bob.close()
    scene.world.verdict = Stale(Person(BOB).manifest.document)
    client = scene.world.login(scene.b, BOB)
    assert client.closed
    assert b"<jid>" not in client.raw
    assert any("not its own" in one for one in notices(scene.b, BOB))


# -- row 2: a device that nobody added -----------------------------------------------------


@pytest.mark.parametrize("friends", [True, False], ids=["known", "first"])
def test_e1_row_2_a_ghost_device_is_granted_nothing(friends: bool) -> None:
    """The root signs the list; the server's best is another root's signature."""
    scene = Scene(friends=friends)
    ghost, devices = scene.liar.ghost(scene.real)
    scene.liar.serve_changed(scene.real, devices=devices, seq=2)
    left = scene.write()
    if friends:
        # by the list that is held
        assert ghost.public not in scene.readers()
        assert left == 1
        assert scene.bob.bodies[-1] == SECRET
    else:
        assert left == 0
        assert scene.returned
        assert scene.held is None


def test_e1_row_2_a_ghost_device_under_the_true_list_is_passed_over() -> None:
    """Its prekey lies beside the others, and no list names it."""
    scene = Scene(friends=False)
    ghost, _ = scene.liar.ghost(scene.real)
    scene.liar.serve_manifest(scene.real)
    assert scene.write() == 1
    assert ghost.public not in scene.readers()
    assert scene.bob.bodies[-1] == SECRET


# -- row 4: an older list ------------------------------------------------------------------


def removed_a_device(scene: Scene) -> manifests.Manifest:
    """Bob had a second device and removed it; the list in which it still is."""
    laptop = scene.world.tillie()
    scene.world.login(laptop, BOB, "laptop")
    link(scene.b, laptop, BOB)
    old = scene.real
    assert len(old.active) == 2
    device = laptop.account(BOB).identity.device
    scene.b.command("devices-remove", id=device.id.hex(), account=BOB)
    assert len(scene.real.active) == 1
    return old


def test_e1_row_4_an_older_list_is_refused_by_its_number() -> None:
    scene = Scene(friends=True)
    old = removed_a_device(scene)
    scene.world.now += 2 * DAY
    scene.alice.say(BOB, "behind the removal")
    assert scene.held is not None
    assert scene.held.seq == scene.real.seq
    scene.liar.serve_manifest(old)
    left = scene.write()
    assert scene.held.seq == scene.real.seq
    assert scene.readers() == {one.public for one in scene.real.active}
    assert left == 1
    assert scene.bob.bodies[-1] == SECRET
    assert any("older" in one for one in scene.notices)


def test_e1_row_4_the_owner_is_not_talked_back_into_an_older_list() -> None:
    scene = Scene(friends=False)
    old = removed_a_device(scene)
    scene.bob.close()
    scene.world.verdict = Stale(old.document)
    client = scene.world.login(scene.b, BOB)
    assert client.closed
    assert any("older list" in one for one in notices(scene.b, BOB))


def test_e1_row_4_a_newcomer_learns_the_newer_list_from_a_grant() -> None:
    """Partly stopped: who never met the account takes the old list, which is signed;
    the first seal of the account names a higher number."""
    scene = Scene(friends=False)
    old = removed_a_device(scene)
    new = scene.real
    scene.liar.serve_manifest(old)
    assert scene.write() == 1
    assert scene.held is not None
    assert scene.held.seq == old.seq
    scene.liar.serve_manifest(new)
    scene.bob.say(ALICE, "from the newer list")
    assert scene.alice.bodies[-1] == "from the newer list"
    assert scene.held.seq == new.seq


# -- row 5: nothing, or a lie about nothing ------------------------------------------------

WITHHOLDING: dict[str, tuple[str, Says]] = {
    "silence": ("silent", "silent"),
    "errors": ("service-unavailable", "error"),
    "unsigned absence": ("item-not-found", "silent"),
    "signed absence": ("forbidden", "absent"),
}


@pytest.mark.parametrize("settings", [None, Settings(clear=("*",))], ids=["", "clear"])
@pytest.mark.parametrize("how", WITHHOLDING)
def test_e1_row_5_who_had_keys_is_never_written_to_in_clear(
    how: str, settings: Settings | None
) -> None:
    scene = Scene(friends=True, settings=settings)
    scene.liar.pep, scene.liar.directory = WITHHOLDING[how]
    assert scene.write() == 1
    assert scene.bob.bodies[-1] == SECRET
    assert scene.held is not None
    assert scene.held.root == scene.real.root
    told = any("says it has no keys" in one for one in scene.notices)
    assert told == ("absence" in how)


@pytest.mark.parametrize("how", WITHHOLDING)
def test_e1_row_5_a_first_contact_waits_for_a_persons_word(how: str) -> None:
    scene = Scene(friends=False)
    scene.liar.pep, scene.liar.directory = WITHHOLDING[how]
    assert scene.write() == 0
    assert scene.returned
    assert scene.held is None


def test_e1_row_5_an_absence_that_another_key_signed_proves_nothing() -> None:
    """Under a policy that would send in clear to who provably has none."""
    scene = Scene(friends=False)
    scene.liar.pep, scene.liar.directory = "forbidden", "absent"
    scene.liar.by = RootPrivate.generate()
    assert scene.write() == 0
    assert scene.liar.asked
    assert scene.returned


# -- row 7: another key of the domain ------------------------------------------------------


def test_e1_row_7_no_password_goes_to_a_stolen_domain() -> None:
    scene = Scene(friends=False)
    scene.bob.close()
    passwords = scene.liar.domain.passwords
    scene.liar.domain.replace_key()
    for _ in range(2):
        client = scene.world.login(scene.b, BOB)
        assert scene.liar.domain.passwords == passwords
        assert "another key than before" in client.raw.decode()
        assert "tillie forget b.test" in client.raw.decode()
    scene.b.command("forget", jid=B)
    assert scene.world.login(scene.b, BOB).session.phase is Phase.LIVE


def test_e1_row_7_its_tokens_count_for_nothing() -> None:
    scene = Scene(friends=True)
    assert scene.level == "vouched"
    scene.liar.domain.replace_key()
    scene.liar.serve_manifest(scene.real)
    left = scene.write()
    assert scene.level == "seen"
    assert left == 1
    assert scene.bob.bodies[-1] == SECRET
    assert any("another key" in one for one in scene.notices)


def test_e1_row_7_keys_that_it_vouches_for_are_not_a_first_contacts() -> None:
    scene = Scene(friends=False)
    scene.liar.domain.replace_key()
    scene.liar.serve_own_keys()
    assert scene.write() == 0
    assert scene.returned
    assert scene.held is None


def test_e1_row_7_a_rollover_that_the_old_key_did_not_sign_leads_nowhere() -> None:
    scene = Scene(friends=False)
    domain = scene.liar.domain
    old = domain.key.public
    domain.replace_key()
    claims = rollover_claims(B, old.fingerprint, domain.key.public, scene.world.now)
    domain.rollovers = [make_doc(claims, ROLLOVER, domain.key)]
    scene.bob.close()
    passwords = domain.passwords
    client = scene.world.login(scene.b, BOB)
    assert domain.passwords == passwords
    assert "another key than before" in client.raw.decode()


# -- row 8: another suite ------------------------------------------------------------------


@pytest.mark.parametrize("friends", [True, False], ids=["known", "first"])
@pytest.mark.parametrize("suites", [[7], [7, 1], [1, 7]], ids=str)
def test_e1_row_8_suites_are_the_roots_to_name(
    suites: list[int], friends: bool
) -> None:
    scene = Scene(friends=friends)
    scene.liar.serve_changed(scene.real, suites=suites, seq=2)
    left = scene.write()
    if friends:
        assert scene.held is not None
        assert scene.held.suites == scene.real.suites
        assert left == 1
        assert scene.bob.bodies[-1] == SECRET
    else:
        assert scene.held is None
        assert left == 0
        assert scene.returned


def test_e1_row_8_an_unknown_suite_is_not_answered_with_a_weaker_one() -> None:
    """Signed by the root and vouched for: there is no common suite, and so no seal."""
    scene = Scene(friends=False)
    identity, real = scene.b.account(BOB).identity, scene.real
    other = manifests._sign(
        BOB, identity._owned(), 2, real.digest, real.devices, (7,), scene.world.now
    )
    scene.liar.serve_manifest(other)
    assert scene.write() == 0
    assert scene.returned
