"""Policies, patience with addresses, and the crowd at the door."""

from __future__ import annotations

import ipaddress

import pytest

from proxy.gate.limits import (
    ADDRESSES,
    ARRIVAL_MS,
    ARRIVALS,
    BURST,
    REFILL_MS,
    Arrivals,
    Crowd,
    Failures,
    origin,
)
from proxy.gate.policy import Policies, Rule, within
from tests.support.persons import NOW

NET = ipaddress.ip_network


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_what_is_one_address(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) == same


def test_auth_14_failures_are_worked_off() -> None:
    failures = Failures()
    for _ in range(BURST):
        assert not failures.exhausted("192.0.2.1", NOW)
        failures.add("192.0.2.1", NOW)
    assert failures.exhausted("192.0.2.1", NOW)
    assert not failures.exhausted("192.0.2.2", NOW)
    assert not failures.exhausted("192.0.2.1", NOW + REFILL_MS)
    failures.add("192.0.2.1", NOW + REFILL_MS)
    assert failures.exhausted("192.0.2.1", NOW + REFILL_MS)


def test_res_02_an_address_has_a_burst_and_then_a_rate() -> None:
    arrivals = Arrivals(100)
    there = [arrivals.enter("192.0.2.1", NOW) for _ in range(150)]
    assert there == [True] * 100 + [False] * 50
    assert arrivals.enter("192.0.2.2", NOW)
    # who was not let in has not come, and does not wait the longer for it
    later = NOW + 3 * ARRIVAL_MS
    assert [arrivals.enter("192.0.2.1", later) for _ in range(5)] == [True] * 3 + (
        [False] * 2
    )
    arrivals.allow(1_000_000)
    there = [arrivals.enter("192.0.2.3", NOW) for _ in range(ARRIVALS + 1)]
    assert there == [True] * ARRIVALS + [False]


def test_who_comes_by_a_relay_on_this_machine_is_not_one_address() -> None:
    arrivals = Arrivals(100)
    assert all(arrivals.enter("127.0.0.1", NOW) for _ in range(ARRIVALS + 1))


def test_addresses_are_bounded() -> None:
    failures = Failures()
    for number in range(ADDRESSES + 10):
        failures.add(str(ipaddress.IPv4Address(number)), NOW)
    assert len(failures._spent) == ADDRESSES


def test_a_clock_that_goes_back_forgives_nothing_and_never_fails() -> None:
    failures = Failures()
    for _ in range(BURST):
        failures.add("192.0.2.1", NOW)
    assert failures.exhausted("192.0.2.1", NOW - 1_000_000)


def test_res_01_the_crowd_has_an_end() -> None:
    crowd = Crowd(10, 4)
    assert [crowd.enter("192.0.2.1", 0.99) for _ in range(5)] == [True] * 4 + [False]
    assert crowd.enter("192.0.2.2", 0.99)
    crowd.leave("192.0.2.1")
    assert crowd.enter("192.0.2.1", 0.99)


def test_res_01_from_half_on_ever_more_are_turned_away() -> None:
    crowd = Crowd(10, 10)
    for number in range(7):
        assert crowd.enter(f"192.0.2.{number}", 0.99)
    assert not crowd.enter("192.0.2.9", 0.3)
    assert crowd.enter("192.0.2.9", 0.5)
    for number in range(10, 12):
        assert crowd.enter(f"192.0.2.{number}", 0.99)
    assert not crowd.enter("192.0.2.99", 0.999)


def test_leaving_forgets_the_address() -> None:
    crowd = Crowd(10, 4)
    crowd.enter("192.0.2.1", 0.5)
    crowd.leave("192.0.2.1")
    assert not crowd._by_address
    assert crowd.count == 0


POLICIES = Policies(
    (
        Rule("keys-only", account="admin@*"),
        Rule("optional", domain="a.test", network=NET("10.0.0.0/8")),
        Rule("keys-only", domain="a.test"),
        Rule("optional", account="*@b.test", network=NET("2001:db8::/32")),
    )
)


@pytest.mark.parametrize(
    ("domain", "address", "account", "policy"),
    [
        ("a.test", "10.1.2.3", "x@a.test", "optional"),
        ("a.test", "10.1.2.3", "admin@a.test", "keys-only"),
        ("a.test", "10.1.2.3", None, "optional"),
        ("a.test", "192.0.2.1", "x@a.test", "keys-only"),
        ("b.test", "2001:db8::1", "x@b.test", "optional"),
        ("b.test", "2001:db8::1", None, "keys-only"),
        ("b.test", "192.0.2.1", "x@b.test", "keys-only"),
        ("c.test", "10.1.2.3", "x@c.test", "keys-only"),
    ],
)
def test_the_first_row_that_matches_decides(
    domain: str, address: str, account: str | None, policy: str
) -> None:
    assert POLICIES.judge(domain, address, account) == policy


@pytest.mark.parametrize(
    ("domain", "address", "policy"),
    [
        ("a.test", "10.1.2.3", "optional"),
        ("a.test", "192.0.2.1", "keys-only"),
        ("b.test", "2001:db8::1", "optional"),
        ("b.test", "192.0.2.1", "keys-only"),
    ],
)
def test_what_is_announced(domain: str, address: str, policy: str) -> None:
    assert POLICIES.announced(domain, address) == policy


def test_networks_of_both_families() -> None:
    networks = (NET("10.0.0.0/8"), NET("2001:db8::/32"))
    assert within("10.0.0.1", networks)
    assert within("::ffff:10.0.0.1", networks)
    assert within("2001:db8::9%eth0", networks)
    assert not within("11.0.0.1", networks)
    assert not within("no address", networks)
