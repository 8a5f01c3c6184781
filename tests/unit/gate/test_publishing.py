"""What a domain says of itself next (13.2, 13.4): renewal, next keys, rollovers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import StoreFault
from proxy.gate.publishing import (
    ANNOUNCED_MS,
    Draft,
    Held,
    announcement,
    check_unannounced,
    draft,
    due,
    handed_over,
    opened,
    rollover,
)
from proxy.keys import servers
from proxy.keys.documents import make_doc
from proxy.keys.identity import RootPrivate
from proxy.keys.registry import Server
from tests.support.persons import DAY, NOW

DOMAIN = "capulet.example"
KEYS = [RootPrivate.generate() for _ in range(4)]
BY_FINGERPRINT = {one.public.fingerprint: one for one in KEYS}


def held(key: int = 0, following: int | None = None) -> Held:
    public = None if following is None else KEYS[following].public
    return Held(KEYS[key].public, public)


def signed(wanted: Draft | None) -> Server:
    assert wanted is not None
    key = BY_FINGERPRINT[wanted.key.fingerprint]
    return wanted.server(DOMAIN, make_doc(wanted.claims, servers.SERVER, key))


@pytest.fixture(scope="module")
def first() -> Server:
    return signed(draft(DOMAIN, None, held(), "keys.capulet.example", NOW))


def rotated(server: Server, keys: Held, now: int) -> Server:
    claims, wanted = rollover(server, keys, now)
    old = BY_FINGERPRINT[server.key]
    leading = make_doc(claims, servers.ROLLOVER, old)
    document = make_doc(
        wanted.claims, servers.SERVER, BY_FINGERPRINT[wanted.key.fingerprint]
    )
    return handed_over(DOMAIN, wanted, leading, document)


def test_rel_22_a_document_is_renewed_at_half_its_life(first: Server) -> None:
    directory = "keys.capulet.example"
    half = NOW + servers.SERVER_MS // 2
    assert draft(DOMAIN, first, held(), directory, half) is None
    renewed = signed(draft(DOMAIN, first, held(), directory, half + 1000))
    assert (renewed.seq, renewed.key) == (2, first.key)
    assert opened(renewed).expires > opened(first).expires
    pin = servers.judge(None, opened(first), (), NOW).pin
    assert servers.judge(pin, opened(renewed), (), half + 1000).taken


def test_another_directory_is_published_at_once(first: Server) -> None:
    moved = signed(draft(DOMAIN, first, held(), None, NOW))
    assert opened(moved).directory is None
    assert moved.seq == 2


def test_a_next_key_is_announced_once_and_kept_by_renewals(first: Server) -> None:
    announced = signed(announcement(first, held(0, 1), NOW + DAY))
    assert opened(announced).next == KEYS[1].public.fingerprint
    assert due(announced) == NOW + DAY + ANNOUNCED_MS
    assert announcement(announced, held(0, 1), NOW + 2 * DAY) is None
    # by a gate that has no copy of it, too
    later = NOW + servers.SERVER_MS
    renewed = signed(draft(DOMAIN, announced, held(), None, later))
    assert opened(renewed).next == KEYS[1].public.fingerprint
    assert due(renewed) == due(announced)
    assert (due(first), opened(first).next) == (0, None)


def test_two_gates_do_not_announce_against_each_other(first: Server) -> None:
    announced = signed(announcement(first, held(0, 1), NOW))
    with pytest.raises(StoreFault):
        announcement(announced, held(0, 2), NOW)
    with pytest.raises(StoreFault):
        check_unannounced(announced)
    with pytest.raises(StoreFault):
        announcement(first, held(), NOW)
    # a running gate with a next key of its own announces nothing
    assert draft(DOMAIN, first, held(0, 2), opened(first).directory, NOW) is None


def test_a_rotation_is_believed_by_who_pinned_the_old_key(first: Server) -> None:
    pin = servers.judge(None, opened(first), (), NOW).pin
    server, keys = first, [held(0, 1), held(1, 2), held(2, 3)]
    for number, pair in enumerate(keys):
        server = rotated(server, pair, NOW + number * DAY)
        assert server.seq == number + 2
        assert server.announced == 0
        assert opened(server).next is None
        chain = [one.encode() for one in server.rollovers]
        if number < 2:
            verdict = servers.judge(pin, opened(server), chain, NOW + number * DAY)
            assert verdict.taken, "two rollovers lead from the pinned key"
    assert len(server.rollovers) == servers.MOST_ROLLOVERS
    # who was away for three is told that the key changed
    assert not servers.judge(pin, opened(server), chain, NOW + 2 * DAY).taken


def test_a_gate_speaks_by_the_key_that_the_registry_knows(first: Server) -> None:
    turned = rotated(first, held(0, 1), NOW)
    directory = opened(first).directory
    # the copy of the next key has not got its name yet
    assert draft(DOMAIN, turned, held(0, 1), directory, NOW) is None
    for keys in (held(0), held(2), held(2, 0)):
        with pytest.raises(StoreFault, match="another key"):
            draft(DOMAIN, turned, keys, directory, NOW)
    with pytest.raises(StoreFault):
        draft(DOMAIN, replace(first, key=b"x" * 32), held(), directory, NOW)
