"""What the registry answers to a stream (protocol.md, 14.6 and 14.9 to 14.14)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.errors import LocalFault
from proxy.gate.administration import begin_reset, cancel_reset, enrol, withdraw
from proxy.gate.admission import ALLOCATION_MS, STREAM_MS, answer
from proxy.gate.questions import (
    Answer,
    Changed,
    Changes,
    Issued,
    Linking,
    LookUp,
    MayTry,
    No,
    Object,
    Question,
    Record,
    Refused,
    Registered,
    Removed,
    Resumable,
    Resume,
    Seen,
    Stale,
    Streamed,
    Vouch,
    Vouched,
    Wanted,
    Yes,
)
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import without_device
from proxy.keys.registry import MemoryRegistry, Registry
from proxy.keys.tokens import TOKEN_MS
from tests.support.persons import DAY, HOUR, JULIET, NOW, ROMEO, Person, ask

DUE = NOW + 72 * HOUR


@pytest.fixture
def registry() -> Registry:
    return MemoryRegistry()


def held(registry: Registry, jid: str = JULIET) -> bytes | None:
    """The digest of the manifest in force."""
    record = ask(registry, LookUp(jid))
    return record.digest if isinstance(record, Record) else None


def happened(registry: Registry) -> list[str]:
    with registry.transaction(writing=False):
        return [one.what for one in registry.events()]


def refused(said: Answer) -> str:
    assert isinstance(said, Refused), said
    return said.condition


def vouched(said: Answer) -> Vouched:
    assert isinstance(said, Vouched), said
    return said


def reset(
    registry: Registry, *, now: int = NOW, at_once: bool = False, jid: str = JULIET
) -> int:
    with registry.transaction():
        return begin_reset(registry, jid, now, at_once=at_once).due


# -- the first key ------------------------------------------------------------


def test_the_first_key_is_taken_and_then_known_by_its_digest(
    registry: Registry,
) -> None:
    juliet = Person()
    assert ask(registry, juliet.vouch(sent=False)) == Wanted()
    first = vouched(ask(registry, juliet.vouch()))
    assert (first.first, first.token, first.previous) == (True, "", None)
    again = vouched(ask(registry, juliet.vouch(sent=False)))
    assert (again.first, again.digest) == (False, juliet.manifest.digest)
    assert again.manifest == juliet.manifest.document
    assert happened(registry) == ["first-key"]


def test_a_device_without_a_root_brings_the_one_that_it_made(
    registry: Registry,
) -> None:
    """It presented none (14.3): it made the keys behind the binding (14.7)."""
    juliet = Person()
    assert vouched(ask(registry, replace(juliet.vouch(), root=None))).first


def test_a_device_that_waits_where_nobody_has_a_key_is_told_what_to_do(
    registry: Registry,
) -> None:
    new = Vouch(JULIET, b"d" * 32, None, None)
    assert refused(ask(registry, new)) == "unknown-device"


def test_an_account_is_never_its_neighbour(registry: Registry) -> None:
    juliet, romeo = Person(), Person(ROMEO)
    ask(registry, juliet.vouch())
    assert ask(registry, romeo.vouch(sent=False)) == Wanted()
    assert refused(ask(registry, replace(juliet.vouch(), account=ROMEO))) == "bad-proof"
    assert held(registry, ROMEO) is None


@pytest.mark.parametrize(
    "account",
    [
        "JULIET@capulet.example",
        "capulet.example",
        f"{JULIET}/desk",
        "",
        "a b@capulet.example",
        "juliet@capulet.example\0",
    ],
)
def test_dir_05_an_address_that_is_not_prepared_is_a_bug_of_ours(
    registry: Registry, account: str
) -> None:
    for question in (LookUp(account), replace(Person().vouch(), account=account)):
        with pytest.raises(LocalFault):
            ask(registry, question)


# -- what is shown does not hold ------------------------------------------------


def test_auth_10_what_does_not_fit_together_is_a_bad_proof(registry: Registry) -> None:
    juliet, other = Person(), Person()
    good = juliet.vouch()
    manifest = good.manifest or b""
    for wrong in (
        replace(good, manifest=manifest[:-1]),
        replace(good, manifest=manifest.replace(b'"payload":"ey', b'"payload":"fy')),
        replace(good, manifest=b"{}"),
        replace(good, manifest=other.manifest.document.encode()),
        replace(good, digest=other.manifest.digest),
        replace(good, root=other.fingerprint),
        replace(good, manifest=Person(ROMEO).manifest.document.encode()),
        replace(good, digest=None),
    ):
        assert refused(ask(registry, wrong)) == "bad-proof"
    assert refused(ask(registry, replace(good, device=b"d" * 32))) == "unknown-device"
    assert held(registry) is None
    assert happened(registry) == []


def test_auth_10_another_root_than_the_one_presented_is_a_bad_proof(
    registry: Registry,
) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    wrong = replace(juliet.vouch(sent=False), root=b"r" * 32)
    assert refused(ask(registry, wrong)) == "bad-proof"


def test_auth_10_another_root_is_refused(registry: Registry) -> None:
    juliet, thief = Person(), Person()
    ask(registry, juliet.vouch())
    assert refused(ask(registry, thief.vouch())) == "root-changed"
    assert ask(registry, thief.vouch(sent=False)) == Wanted()
    waiting = Vouch(JULIET, thief.device.public, thief.fingerprint, None)
    assert refused(ask(registry, waiting)) == "root-changed"
    assert held(registry) == juliet.manifest.digest


def test_dir_04_an_older_manifest_is_stale(registry: Registry) -> None:
    juliet = Person()
    older = juliet.manifest
    newer = juliet.add(DevicePrivate.generate())
    ask(registry, juliet.vouch(newer))
    assert ask(registry, juliet.vouch(older)) == Stale(newer.document)
    assert held(registry) == newer.digest


def test_dir_06_another_manifest_with_the_same_number_is_stale_too(
    registry: Registry,
) -> None:
    """Who lost the race applies what it did to the one that is held (I24)."""
    juliet = Person()
    first = juliet.manifest
    mine = juliet.add(DevicePrivate.generate())
    theirs = juliet.add(DevicePrivate.generate(), upon=first)
    assert mine.seq == theirs.seq
    ask(registry, juliet.vouch(mine))
    assert ask(registry, juliet.vouch(theirs)) == Stale(mine.document)
    assert held(registry) == mine.digest


def test_a_number_may_be_skipped(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    juliet.add(DevicePrivate.generate())
    juliet.add(DevicePrivate.generate())
    vouched(ask(registry, juliet.vouch()))
    assert held(registry) == juliet.manifest.digest


# -- devices ------------------------------------------------------------------------


def test_a_removed_device_is_refused_and_named(registry: Registry) -> None:
    juliet, lost = Person(), DevicePrivate.generate()
    both = juliet.add(lost)
    ask(registry, juliet.vouch(both))
    alone = juliet.drop(lost)
    said = vouched(ask(registry, juliet.vouch()))
    assert said.removed == (lost.public,)
    assert vouched(ask(registry, juliet.vouch(sent=False))).removed == (lost.public,)
    for shown in (both, alone):
        question = juliet.vouch(shown, device=lost)
        assert refused(ask(registry, question)) == "unknown-device"
    waiting = Vouch(JULIET, lost.public, None, None)
    assert refused(ask(registry, waiting)) == "unknown-device"


def test_a_removed_device_never_comes_back_under_its_key(registry: Registry) -> None:
    """Not even by a manifest that the root signed (3.5)."""
    juliet, lost = Person(), DevicePrivate.generate()
    both = juliet.add(lost)
    ask(registry, juliet.vouch(both))
    ask(registry, juliet.vouch(juliet.drop(lost)))
    # with more numbers than the removal had, and without it
    revived = both
    for _ in range(3):
        revived = juliet.add(DevicePrivate.generate(), upon=revived)
    assert revived.seq > 3
    assert refused(ask(registry, juliet.vouch(revived))) == "bad-proof"
    assert held(registry) != revived.digest


def test_a_device_that_is_not_listed_waits_to_be_linked(registry: Registry) -> None:
    juliet, new = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch())
    linking = Linking(juliet.manifest.document)
    for question in (
        Vouch(JULIET, new.public, None, None),
        Vouch(JULIET, new.public, juliet.fingerprint, None),
        juliet.vouch(device=new, sent=False),
    ):
        assert ask(registry, question) == linking
    ask(registry, juliet.vouch(juliet.add(new)))
    vouched(ask(registry, juliet.vouch(device=new, sent=False)))
    vouched(ask(registry, Vouch(JULIET, new.public, None, None)))


def test_a_linked_device_may_bring_the_manifest_itself(registry: Registry) -> None:
    juliet, new = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch())
    juliet.add(new)
    vouched(ask(registry, juliet.vouch(device=new)))
    assert held(registry) == juliet.manifest.digest


def test_a_newer_manifest_without_its_bearer_is_not_taken(registry: Registry) -> None:
    juliet, new = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch())
    newer = juliet.add(DevicePrivate.generate())
    assert refused(ask(registry, juliet.vouch(device=new))) == "unknown-device"
    assert held(registry) != newer.digest


def test_a_device_does_not_remove_itself_by_vouching(registry: Registry) -> None:
    juliet, other = Person(), DevicePrivate.generate()
    both = juliet.add(other)
    ask(registry, juliet.vouch(both))
    gone = without_device(both, juliet.root, juliet.device.id, NOW)
    assert refused(ask(registry, juliet.vouch(gone))) == "unknown-device"
    vouched(ask(registry, juliet.vouch(gone, device=other)))


def test_changes_name_the_devices_in_use(registry: Registry) -> None:
    juliet, romeo, lost = Person(), Person(ROMEO), DevicePrivate.generate()
    ask(registry, juliet.vouch(juliet.add(lost)))
    ask(registry, romeo.vouch())
    assert ask(registry, Changes(NOW + 1)) == Changed(())
    ask(registry, juliet.vouch(juliet.drop(lost)), NOW + DAY)
    changed = Changed(((JULIET, (juliet.device.public,)),))
    assert ask(registry, Changes(NOW + DAY)) == changed
    ask(registry, Removed(ROMEO), NOW + DAY)
    assert ask(registry, Changes(NOW + DAY)) == Changed(
        (*changed.accounts, (ROMEO, None))
    )


# -- the filter before a password is tried (14.6) ----------------------------------------


def test_the_filter_keeps_other_devices_from_trying_the_password(
    registry: Registry,
) -> None:
    juliet, thief = Person(), Person()
    assert ask(registry, MayTry(JULIET, thief.device.public, b"r" * 32)) == Yes()
    ask(registry, juliet.vouch())
    own = MayTry(JULIET, juliet.device.public, juliet.fingerprint)
    other = MayTry(JULIET, thief.device.public, thief.fingerprint)
    new = MayTry(JULIET, thief.device.public, None)
    assert [ask(registry, one) for one in (own, other, new)] == [Yes(), No(), Yes()]


def test_the_filter_lets_a_due_reset_through(registry: Registry) -> None:
    juliet, second = Person(), Person()
    ask(registry, juliet.vouch())
    new = MayTry(JULIET, second.device.public, second.fingerprint)
    due = reset(registry)
    assert ask(registry, new, due - 1) == No()
    assert ask(registry, new, due) == Yes()


def test_the_filter_stops_a_removed_device(registry: Registry) -> None:
    juliet, lost = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch(juliet.add(lost)))
    ask(registry, juliet.vouch(juliet.drop(lost)))
    assert ask(registry, MayTry(JULIET, lost.public, juliet.fingerprint)) == No()


# -- rollover -------------------------------------------------------------------------


def test_a_rollover_from_the_held_root_is_taken(registry: Registry) -> None:
    old, new = Person(), Person()
    ask(registry, old.vouch())
    leading = old.rollover_to(new)
    said = vouched(ask(registry, new.vouch(rollover=leading)))
    assert not said.first
    assert held(registry) == new.manifest.digest
    assert refused(ask(registry, old.vouch())) == "root-changed"
    assert happened(registry) == ["first-key", "rollover"]
    # what is not of the new root ends, and the record shows what led to it
    assert said.removed == (old.device.public,)
    with registry.transaction():
        account = registry.account(new.jid)
    assert account is not None
    assert account.rollovers == (leading.decode(),)


def test_rollovers_stay_beside_the_root_two_at_most(registry: Registry) -> None:
    people = [Person() for _ in range(4)]
    ask(registry, people[0].vouch())
    steps = [old.rollover_to(new) for old, new in pairwise(people)]
    for person, step in zip(people[1:], steps, strict=True):
        vouched(ask(registry, person.vouch(rollover=step)))
    last = people[-1]
    vouched(ask(registry, last.vouch(last.add(DevicePrivate.generate()))))
    with registry.transaction():
        account = registry.account(last.jid)
    assert account is not None
    assert account.rollovers == tuple(one.decode() for one in steps[-2:])


def test_auth_10_a_rollover_that_leads_elsewhere_is_not(registry: Registry) -> None:
    old, new, thief = Person(), Person(), Person()
    romeo = Person(ROMEO)
    ask(registry, old.vouch())
    kept = old.manifest.digest
    for rollover in (
        thief.rollover_to(new),
        old.rollover_to(thief),
        new.rollover_to(old),
        romeo.rollover_to(new),
        b"{}",
        new.manifest.document.encode(),
    ):
        question = new.vouch(rollover=rollover)
        assert refused(ask(registry, question)) == "bad-proof"
    assert held(registry) == kept


def test_i24_a_rollover_made_upon_an_older_manifest_is_not_taken(
    registry: Registry,
) -> None:
    """Its device came back from a copy: whoever saw the newer one would not follow."""
    old, new = Person(), Person()
    ask(registry, old.vouch())
    leading, made = old.rollover_to(new), new.manifest
    more = [DevicePrivate.generate() for _ in range(2)]
    for one in more:
        ask(registry, old.vouch(old.add(one)))
    question = new.vouch(made, rollover=leading)
    assert refused(ask(registry, question)) == "bad-proof"
    assert held(registry) == old.manifest.digest
    vouched(ask(registry, new.vouch(rollover=old.rollover_to(new))))


def test_a_root_that_was_replaced_never_comes_back(registry: Registry) -> None:
    old, new = Person(), Person()
    ask(registry, old.vouch())
    ask(registry, new.vouch(rollover=old.rollover_to(new)))
    back = old.vouch(rollover=new.rollover_to(old))
    assert refused(ask(registry, back)) == "root-changed"
    due = reset(registry, at_once=True)
    assert refused(ask(registry, old.vouch(), due)) == "root-changed"
    assert held(registry) == new.manifest.digest


def test_a_rollover_brings_no_removed_device_along(registry: Registry) -> None:
    old, lost = Person(), DevicePrivate.generate()
    ask(registry, old.vouch(old.add(lost)))
    ask(registry, old.vouch(old.drop(lost)))
    new = Person(device=lost)
    question = new.vouch(rollover=old.rollover_to(new))
    assert refused(ask(registry, question)) == "bad-proof"


# -- reset --------------------------------------------------------------------------------


def test_a_reset_is_taken_when_it_is_due_and_once(registry: Registry) -> None:
    juliet, second, third = Person(), Person(), Person()
    ask(registry, juliet.vouch())
    due = reset(registry)
    assert due == DUE
    assert vouched(ask(registry, juliet.vouch(sent=False))).reset == due
    early = ask(registry, second.vouch(), due - 1)
    assert refused(early) == "root-changed"
    assert isinstance(early, Refused)
    assert "1 hour" in early.text
    said = vouched(ask(registry, second.vouch(), due))
    assert set(said.removed) == {juliet.device.public}
    assert said.reset == 0
    assert refused(ask(registry, juliet.vouch(), due)) == "root-changed"
    assert refused(ask(registry, third.vouch(), due)) == "root-changed"
    assert happened(registry) == ["first-key", "reset-begun", "reset-done"]


def test_a_reset_lets_in_who_came_by_rollovers_from_elsewhere(
    registry: Registry,
) -> None:
    """The registry came back from an older copy: what is held is two steps behind, and
    the last rollover, which is shown with the keys, does not begin there."""
    first, second, third = Person(), Person(), Person()
    ask(registry, first.vouch())
    first.rollover_to(second)
    question = third.vouch(rollover=second.rollover_to(third))
    assert refused(ask(registry, question)) == "bad-proof"
    due = reset(registry)
    assert refused(ask(registry, question, due - 1)) == "bad-proof"
    vouched(ask(registry, question, due))
    assert held(registry) == third.manifest.digest
    assert refused(ask(registry, first.vouch(), due)) == "root-changed"


def test_a_device_in_use_objects_to_a_reset(registry: Registry) -> None:
    juliet, second = Person(), Person()
    ask(registry, juliet.vouch())
    due = reset(registry)
    device = juliet.device.public
    assert ask(registry, Object(JULIET, device, due - 1)) == No()
    assert ask(registry, Object(JULIET, second.device.public, due)) == No()
    assert ask(registry, Object(ROMEO, device, due)) == No()
    assert ask(registry, Object(JULIET, device, due)) == Yes()
    assert ask(registry, Object(JULIET, device, due)) == No()
    assert refused(ask(registry, second.vouch(), due)) == "root-changed"
    assert vouched(ask(registry, juliet.vouch(sent=False))).reset == 0
    assert happened(registry)[-1] == "reset-objected"


def test_a_removed_device_does_not_object(registry: Registry) -> None:
    juliet, lost = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch(juliet.add(lost)))
    ask(registry, juliet.vouch(juliet.drop(lost)))
    assert ask(registry, Object(JULIET, lost.public, reset(registry))) == No()


def test_an_administrator_may_have_it_at_once(registry: Registry) -> None:
    juliet, second = Person(), Person()
    ask(registry, juliet.vouch())
    due = reset(registry, at_once=True)
    assert due == NOW
    assert ask(registry, Object(JULIET, juliet.device.public, due)) == No()
    vouched(ask(registry, juliet.vouch(sent=False)))
    vouched(ask(registry, second.vouch()))
    assert happened(registry) == ["first-key", "reset-forced", "reset-done"]


def test_a_reset_that_is_asked_for_again_comes_no_later(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    reset(registry)
    assert reset(registry, now=NOW + HOUR) == DUE
    assert reset(registry, now=NOW + HOUR, at_once=True) == NOW + HOUR
    assert reset(registry, now=NOW + 2 * HOUR) == NOW + HOUR
    with registry.transaction():
        cancel_reset(registry, JULIET, NOW)
    assert reset(registry) == DUE


def test_a_reset_outlives_a_rollover_and_ends_with_the_account(
    registry: Registry,
) -> None:
    """Who has a stolen device cannot roll over to escape it."""
    thief, escape, juliet = Person(), Person(), Person()
    ask(registry, thief.vouch())
    due = reset(registry)
    ask(registry, escape.vouch(rollover=thief.rollover_to(escape)))
    assert vouched(ask(registry, escape.vouch(sent=False))).reset == due
    vouched(ask(registry, juliet.vouch(), due))
    reset(registry)
    ask(registry, Removed(JULIET))
    with registry.transaction():
        assert registry.reset(JULIET) is None


def test_a_device_of_the_old_root_may_belong_to_the_new_one(
    registry: Registry,
) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    due = reset(registry)
    second = Person(device=juliet.device)
    assert vouched(ask(registry, second.vouch(), due)).removed == ()


# -- enrolment ------------------------------------------------------------------------------


def test_an_enrolled_account_takes_its_first_key_with_the_code_only(
    registry: Registry,
) -> None:
    juliet, thief = Person(), Person()
    with registry.transaction():
        enrol(registry, JULIET, "ABCDE-FGHIJ", NOW)
    for code in ("", "ABCDE-FGHIK", "ABCDE"):
        assert refused(ask(registry, thief.vouch(code=code))) == "bad-proof"
    assert refused(ask(registry, thief.allocate())) == "key-required"
    assert vouched(ask(registry, juliet.vouch(code="abcde fghij"))).first
    # used up: the key is what counts now
    vouched(ask(registry, juliet.vouch(sent=False)))
    refusal = ask(registry, thief.vouch(code="ABCDE-FGHIJ"))
    assert refused(refusal) == "root-changed"


def test_a_code_of_one_account_is_none_of_another(registry: Registry) -> None:
    romeo = Person(ROMEO)
    with registry.transaction():
        enrol(registry, JULIET, "ABCDE-FGHIJ", NOW)
        enrol(registry, ROMEO, "KLMNO-PQRST", NOW)
    assert refused(ask(registry, romeo.vouch(code="ABCDE-FGHIJ"))) == "bad-proof"


def test_a_code_is_kept_as_a_digest_and_may_be_withdrawn(registry: Registry) -> None:
    juliet = Person()
    with registry.transaction():
        enrol(registry, JULIET, "ABCDE-FGHIJ", NOW)
        kept = registry.enrolment(JULIET)
        assert kept is not None
        assert b"ABCDE" not in kept.code
        withdraw(registry, JULIET, NOW)
    vouched(ask(registry, juliet.vouch()))


# -- registration and removal (14.14) -----------------------------------------------------------


def test_a_registered_account_has_its_key_at_once(registry: Registry) -> None:
    juliet, thief = Person(), Person()
    assert ask(registry, juliet.allocate()) == Yes()
    assert held(registry) is None
    ask(registry, Registered(JULIET, juliet.fingerprint, done=True))
    assert held(registry) == juliet.manifest.digest
    assert refused(ask(registry, thief.vouch())) == "root-changed"
    assert happened(registry) == ["registered"]


def test_a_registration_whose_answer_was_lost_is_the_same_again(
    registry: Registry,
) -> None:
    juliet = Person()
    for _ in range(2):
        assert ask(registry, juliet.allocate()) == Yes()
    for _ in range(2):
        ask(registry, Registered(JULIET, juliet.fingerprint, done=True))
        assert ask(registry, juliet.allocate()) == Yes()
    assert held(registry) == juliet.manifest.digest
    assert happened(registry) == ["registered"]


def test_whoever_the_server_registered_has_the_name(registry: Registry) -> None:
    """Two at once: nobody keeps a name from others by asking for it."""
    juliet, other = Person(), Person()
    assert ask(registry, other.allocate()) == Yes()
    assert ask(registry, juliet.allocate()) == Yes()
    ask(registry, Registered(JULIET, other.fingerprint, done=False))
    ask(registry, Registered(JULIET, juliet.fingerprint, done=True))
    assert held(registry) == juliet.manifest.digest
    ask(registry, Registered(JULIET, other.fingerprint, done=True))
    assert held(registry) == juliet.manifest.digest
    assert refused(ask(registry, other.allocate())) == "root-changed"


def test_a_refused_registration_leaves_nothing(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.allocate())
    ask(registry, Registered(JULIET, juliet.fingerprint, done=False))
    ask(registry, Registered(JULIET, juliet.fingerprint, done=True))
    assert held(registry) is None


def test_an_allocation_ends_after_ten_minutes(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.allocate())
    late = NOW + ALLOCATION_MS
    ask(registry, Registered(JULIET, juliet.fingerprint, done=True), late)
    assert held(registry) is None
    # its first login brings the same key
    assert vouched(ask(registry, juliet.vouch(), late)).first


def test_a_registration_that_does_not_fit_together_is_refused(
    registry: Registry,
) -> None:
    juliet, other = Person(), Person()
    good = juliet.allocate()
    for wrong, condition in (
        (replace(good, root=other.fingerprint), "bad-proof"),
        (replace(good, manifest=b"{}"), "bad-proof"),
        (replace(good, device=other.device.public), "unknown-device"),
        (replace(good, account=ROMEO), "bad-proof"),
    ):
        assert refused(ask(registry, wrong)) == condition
    ask(registry, Registered(JULIET, other.fingerprint, done=True))
    assert held(registry) is None


def test_a_removed_account_takes_a_new_root_and_never_the_old_one(
    registry: Registry,
) -> None:
    juliet, second = Person(), Person()
    same_device = Person(device=juliet.device)
    ask(registry, juliet.vouch())
    ask(registry, Streamed(JULIET, "id-1", f"{JULIET}/desk"))
    for _ in range(2):
        assert ask(registry, Removed(JULIET)) == Yes()
    assert held(registry) is None
    device = juliet.device.public
    assert ask(registry, Resume("id-1", "capulet.example", device, None)) == No()
    assert refused(ask(registry, juliet.vouch())) == "root-changed"
    assert refused(ask(registry, juliet.allocate())) == "root-changed"
    assert refused(ask(registry, same_device.vouch())) == "unknown-device"
    assert refused(ask(registry, same_device.allocate())) == "root-changed"
    assert vouched(ask(registry, second.vouch())).first
    assert happened(registry) == ["first-key", "removed", "first-key"]


def test_removal_forgets_what_was_decided_of_the_account(registry: Registry) -> None:
    with registry.transaction():
        enrol(registry, JULIET, "ABCDE-FGHIJ", NOW)
    ask(registry, Removed(JULIET))
    vouched(ask(registry, Person().vouch()))


# -- tokens ---------------------------------------------------------------------------


def issued(person: Person, name: str, now: int = NOW) -> Issued:
    digest = name.encode().ljust(32, b"-")
    return Issued(
        person.jid, f"token-{name}", digest, person.manifest.digest, now + TOKEN_MS
    )


def test_rel_22_a_token_serves_until_half_its_life(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    ask(registry, issued(juliet, "one"))
    half = NOW + TOKEN_MS // 2
    said = vouched(ask(registry, juliet.vouch(sent=False), half))
    assert said.token == "token-one"
    said = vouched(ask(registry, juliet.vouch(sent=False), half + 1))
    assert (said.token, said.previous) == ("", issued(juliet, "one").digest)


def test_dir_13_tokens_are_counted_and_the_newest_is_kept(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    for name in ("one", "two", "two", "three"):
        ask(registry, issued(juliet, name))
    with registry.transaction():
        newest = registry.token(JULIET)
    assert newest is not None
    assert (newest.number, newest.token) == (3, "token-three")


def test_a_token_for_another_manifest_is_not_served(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    ask(registry, issued(juliet, "old"))
    late = issued(juliet, "late")
    juliet.add(DevicePrivate.generate())
    said = vouched(ask(registry, juliet.vouch()))
    assert (said.token, said.previous) == ("", issued(juliet, "old").digest)
    record = ask(registry, LookUp(JULIET))
    assert isinstance(record, Record)
    assert (record.token, record.token_digest) == ("", said.previous)
    # signed before the manifest changed, come behind it
    ask(registry, late)
    assert vouched(ask(registry, juliet.vouch(sent=False))).token == ""
    assert ask(registry, issued(Person(ROMEO), "none")) == Yes()
    assert held(registry, ROMEO) is None


# -- resumption -------------------------------------------------------------------------


def test_a_stream_is_resumed_by_a_device_of_its_account_only(
    registry: Registry,
) -> None:
    juliet, thief, romeo = Person(), Person(), Person(ROMEO)
    ask(registry, juliet.vouch())
    ask(registry, romeo.vouch())
    ask(registry, Streamed(JULIET, "id-1", f"{JULIET}/desk"))
    own = Resume("id-1", "capulet.example", juliet.device.public, juliet.fingerprint)
    assert ask(registry, own) == Resumable(JULIET, f"{JULIET}/desk")
    assert ask(registry, replace(own, root=None)) == Resumable(JULIET, f"{JULIET}/desk")
    for wrong in (
        replace(own, device=thief.device.public),
        replace(own, device=romeo.device.public, root=romeo.fingerprint),
        replace(own, root=thief.fingerprint),
        replace(own, domain="montague.example"),
        replace(own, previd="id-2"),
    ):
        assert ask(registry, wrong) == No()
    assert ask(registry, own, NOW + STREAM_MS - 1) != No()
    assert ask(registry, own, NOW + STREAM_MS) == No()


def test_a_device_that_was_removed_meanwhile_resumes_nothing(
    registry: Registry,
) -> None:
    juliet, lost = Person(), DevicePrivate.generate()
    ask(registry, juliet.vouch(juliet.add(lost)))
    ask(registry, Streamed(JULIET, "id-1", f"{JULIET}/phone"))
    ask(registry, juliet.vouch(juliet.drop(lost)))
    resume = Resume("id-1", "capulet.example", lost.public, juliet.fingerprint)
    assert ask(registry, resume) == No()


# -- logging in without a key ------------------------------------------------------------


def test_keyless_logins_are_noted_and_end_with_the_first_key(
    registry: Registry,
) -> None:
    assert ask(registry, Seen(JULIET)) == Yes()
    assert ask(registry, Seen(ROMEO), NOW + HOUR) == Yes()
    with registry.transaction():
        assert registry.keyless() == [(JULIET, NOW), (ROMEO, NOW + HOUR)]
    ask(registry, Person().vouch())
    assert refused(ask(registry, Seen(JULIET))) == "key-required"


def test_looking_writes_nothing(registry: Registry) -> None:
    juliet = Person()
    ask(registry, juliet.vouch())
    questions: tuple[Question, ...] = (
        LookUp(JULIET),
        MayTry(JULIET, juliet.device.public, RootPrivate.generate().public.fingerprint),
        Resume("id", "capulet.example", juliet.device.public, None),
        Changes(0),
    )
    for question in questions:
        with registry.transaction(writing=False):
            answer(question, registry, NOW)
