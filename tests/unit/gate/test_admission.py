"""What the registry answers to a stream (protocol.md, 14.6 and 14.9 to 14.14)."""

from __future__ import annotations

import pytest

from proxy.gate.questions import (
    LookUp,
    MayTry,
    No,
    Record,
    Refused,
    Removed,
    Resumable,
    Resume,
    Stale,
    Streamed,
    Vouched,
    Wanted,
    Yes,
)
from proxy.keys.identity import DevicePrivate
from proxy.keys.registry import MemoryRegistry, Registry
from tests.support.persons import JULIET, Person, ask


@pytest.fixture
def registry() -> Registry:
    return MemoryRegistry()


def test_the_first_key_is_taken_and_then_known_by_its_digest(
    registry: Registry,
) -> None:
    juliet = Person()
    assert ask(registry, juliet.vouch(sent=False)) == Wanted()
    first = ask(registry, juliet.vouch())
    assert isinstance(first, Vouched)
    assert first.first
    again = ask(registry, juliet.vouch(sent=False))
    assert isinstance(again, Vouched)
    assert (again.first, again.digest) == (False, juliet.manifest.digest)


def test_auth_10_another_root_is_refused(registry: Registry) -> None:
    juliet, thief = Person(), Person()
    ask(registry, juliet.vouch())
    said = ask(registry, thief.vouch())
    assert isinstance(said, Refused)
    assert said.condition == "root-changed"
    record = ask(registry, LookUp(JULIET))
    assert isinstance(record, Record)
    assert record.digest == juliet.manifest.digest


def test_dir_04_an_older_manifest_is_stale(registry: Registry) -> None:
    juliet = Person()
    older = juliet.manifest
    newer = juliet.add(DevicePrivate.generate())
    ask(registry, juliet.vouch(newer))
    assert ask(registry, juliet.vouch(older)) == Stale(newer.document)


def test_a_removed_device_is_refused_and_named(registry: Registry) -> None:
    juliet, lost = Person(), DevicePrivate.generate()
    both = juliet.add(lost)
    ask(registry, juliet.vouch(both))
    juliet.drop(lost)
    said = ask(registry, juliet.vouch())
    assert isinstance(said, Vouched)
    assert said.removed == (lost.public,)
    refused = ask(registry, juliet.vouch(both, device=lost))
    assert isinstance(refused, Refused)
    assert refused.condition == "unknown-device"


def test_a_filter_keeps_other_devices_from_trying_the_password(
    registry: Registry,
) -> None:
    juliet, thief = Person(), Person()
    assert ask(registry, MayTry(JULIET, thief.device.public, b"r" * 32)) == Yes()
    ask(registry, juliet.vouch())
    own = MayTry(JULIET, juliet.device.public, juliet.fingerprint)
    other = MayTry(JULIET, thief.device.public, thief.fingerprint)
    new = MayTry(JULIET, thief.device.public, None)
    assert [ask(registry, one) for one in (own, other, new)] == [Yes(), No(), Yes()]


def test_a_stream_is_resumed_by_a_device_of_its_account_only(
    registry: Registry,
) -> None:
    juliet, thief = Person(), Person()
    ask(registry, juliet.vouch())
    ask(registry, Streamed(JULIET, "id-1", f"{JULIET}/desk"))
    own = Resume("id-1", "capulet.example", juliet.device.public, juliet.fingerprint)
    other = Resume("id-1", "capulet.example", thief.device.public, None)
    elsewhere = Resume("id-1", "montague.example", juliet.device.public, None)
    assert ask(registry, own) == Resumable(JULIET, f"{JULIET}/desk")
    assert ask(registry, other) == No()
    assert ask(registry, elsewhere) == No()


def test_a_removed_account_takes_a_new_root_and_never_the_old_one(
    registry: Registry,
) -> None:
    juliet, second = Person(), Person()
    ask(registry, juliet.vouch())
    ask(registry, Removed(JULIET))
    assert ask(registry, LookUp(JULIET)) == No()
    refused = ask(registry, juliet.vouch())
    assert isinstance(refused, Refused)
    assert isinstance(ask(registry, second.vouch()), Vouched)
