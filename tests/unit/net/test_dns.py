"""Look-ups against a name server on loopback, and the order of what they find."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.names import dns

from proxy.errors import EnvFault
from proxy.net.dns import (
    MAX_RECORDS,
    Candidate,
    Resolver,
    Service,
    a_label,
    arrange,
    ip_literal,
    nameservers,
)

from .scripted import reactor
from .zone import Zone, answering

NAME = "example.org"
PLAIN = f"_xmpp-client._tcp.{NAME}"
DIRECT = f"_xmpps-client._tcp.{NAME}"

services = st.builds(
    Service,
    priority=st.integers(0, 3),
    weight=st.integers(0, 65535),
    target=st.sampled_from(["a.example", "b.example", "c.example"]),
    port=st.integers(1, 65535),
    direct=st.booleans(),
)


# -- order ------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(services, max_size=MAX_RECORDS), st.randoms(use_true_random=False))
def test_every_record_is_tried_once_and_priority_rules(
    found: list[Service], chance: random.Random
) -> None:
    order = arrange(found, lambda highest: chance.randint(0, highest))
    plain = [Candidate(s.target, s.port, s.direct) for s in found]
    assert Counter(order) == Counter(plain)
    walked = 0
    for priority in sorted({service.priority for service in found}):
        group = [s for s in found if s.priority == priority]
        part = Counter(order[walked : walked + len(group)])
        assert part == Counter(Candidate(s.target, s.port, s.direct) for s in group)
        walked += len(group)


@settings(deadline=None, max_examples=20)
@given(st.lists(services, min_size=MAX_RECORDS + 1, max_size=40))
def test_res_11_no_more_than_the_limit(found: list[Service]) -> None:
    order = arrange(found, lambda highest: highest)
    assert len(order) == MAX_RECORDS
    best = min(service.priority for service in found)
    first = {Candidate(s.target, s.port, s.direct) for s in found if s.priority == best}
    assert order[0] in first


def test_weight_is_the_chance() -> None:
    found = [Service(0, weight, f"w{weight}", 1, False) for weight in (10, 0, 30, 60)]
    # Every draw in 0..100 once: RFC 2782 gives weight 0 one of the 101.
    first = Counter(
        arrange(found, lambda h, n=n: min(n, h))[0].host for n in range(101)
    )
    assert first == {"w0": 1, "w10": 10, "w30": 30, "w60": 60}


def test_weights_are_drawn_anew_among_the_rest() -> None:
    found = [Service(0, 10, "a", 1, False), Service(0, 20, "b", 1, False)]
    drawn = []

    def draw(highest: int) -> int:
        drawn.append(highest)
        return highest

    assert [each.host for each in arrange(found, draw)] == ["b", "a"]
    assert drawn == [30, 10]


# -- names ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_label(domain: str, name: str) -> None:
    assert a_label(domain) == name


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a..b",
        "example.org\0.evil",
        "two words",
        "exa\nmple",
        "-a.example",
        "l" * 64 + ".example",
        ".".join(["label"] * 60),
        "☃\u0301\u200b.example",
        "a/b",
        "::1",
    ],
)
def test_no_domain(domain: str) -> None:
    with pytest.raises(EnvFault, match="not a domain name") as caught:
        a_label(domain)
    assert caught.value.condition == "host-unknown"
    assert caught.value.text.isprintable()


def test_ip_literal() -> None:
    assert ip_literal("127.0.0.1") == "127.0.0.1"
    assert ip_literal("[0:0::1]") == "::1"
    assert ip_literal("example.org") is None
    assert ip_literal("1.2.3") is None


# -- a name server ----------------------------------------------------------


@pytest.fixture
def zone() -> Zone:
    return Zone()


@pytest.fixture
def resolver(zone: Zone) -> Iterator[Resolver]:
    with answering(zone) as address:
        yield Resolver(reactor, address)


async def hosts(resolver: Resolver) -> list[str]:
    return [each.host for each in await resolver.candidates(NAME, 5)]


@pytest_twisted.ensureDeferred
async def test_both_services_are_merged(zone: Zone, resolver: Resolver) -> None:
    zone.srv(PLAIN, (10, 0, 5222, "b.example"), (30, 0, 5222, "d.example"))
    zone.srv(DIRECT, (20, 0, 443, "c.example"), (5, 0, 5223, "A.Example"))
    assert await resolver.candidates(NAME, 5) == [
        Candidate("a.example", 5223, True),
        Candidate("b.example", 5222, False),
        Candidate("c.example", 443, True),
        Candidate("d.example", 5222, False),
    ]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how", ["missing", "refused"])
async def test_without_records_the_domain_itself(
    zone: Zone, resolver: Resolver, how: str
) -> None:
    if how == "refused":
        zone.refused |= {PLAIN, DIRECT}
    assert await resolver.candidates(NAME, 5) == [Candidate(NAME, 5222, False)]


@pytest_twisted.ensureDeferred
async def test_one_service_is_enough(zone: Zone, resolver: Resolver) -> None:
    zone.srv(DIRECT, (0, 0, 5223, "a.example"))
    zone.refused.add(PLAIN)
    assert await resolver.candidates(NAME, 5) == [Candidate("a.example", 5223, True)]


@pytest_twisted.ensureDeferred
async def test_res_11_root_as_target_means_no_service(
    zone: Zone, resolver: Resolver
) -> None:
    zone.srv(PLAIN, (0, 0, 5222, "."))
    with pytest.raises(EnvFault, match="says in DNS that it has no XMPP service"):
        await resolver.candidates(NAME, 5)
    zone.srv(DIRECT, (0, 0, 5223, "a.example"))
    assert await hosts(resolver) == ["a.example"]


@pytest_twisted.ensureDeferred
async def test_res_11_no_direct_tls_says_nothing_of_the_other(
    zone: Zone, resolver: Resolver
) -> None:
    zone.srv(DIRECT, (0, 0, 5223, "."))
    assert await resolver.candidates(NAME, 5) == [Candidate(NAME, 5222, False)]


@pytest_twisted.ensureDeferred
async def test_res_11_many_records_over_tcp(zone: Zone, resolver: Resolver) -> None:
    zone.srv(PLAIN, *((n, 0, 5222, f"h{n}.example") for n in reversed(range(100))))
    found = await hosts(resolver)
    assert found == [f"h{n}.example" for n in range(MAX_RECORDS)]
    assert zone.asked[PLAIN, dns.SRV] == 2


@pytest_twisted.ensureDeferred
async def test_res_11_a_thousand_records(zone: Zone, resolver: Resolver) -> None:
    zone.srv(PLAIN, *((n, 0, 5222, f"h{n}.example") for n in range(1000)))
    assert await hosts(resolver) == [f"h{n}.example" for n in range(MAX_RECORDS)]


@pytest_twisted.ensureDeferred
async def test_res_11_records_for_another_name(zone: Zone, resolver: Resolver) -> None:
    other = "_xmpp-client._tcp.example.com"
    zone.srv(PLAIN, (0, 0, 5222, "evil.example"), name=other)
    zone.srv(PLAIN, (9, 0, 5222, "good.example"))
    zone.add(NAME, dns.Record_A("192.0.2.66"), "example.com")
    zone.add(NAME, dns.Record_A("192.0.2.1"))
    assert await hosts(resolver) == ["good.example"]
    assert await resolver.addresses(NAME, 5) == ["192.0.2.1"]


@pytest_twisted.ensureDeferred
async def test_res_11_aliases_are_followed_and_end(
    zone: Zone, resolver: Resolver
) -> None:
    for one, other in ((PLAIN, "srv.example"), ("srv.example", "real.example")):
        zone.add(PLAIN, dns.Record_CNAME(other), one, at=dns.SRV)
    zone.srv(PLAIN, (0, 0, 5222, "a.example"), name="REAL.example")
    assert await hosts(resolver) == ["a.example"]
    for one, other in ((NAME, "loop.example"), ("loop.example", NAME)):
        zone.add(NAME, dns.Record_CNAME(other), one, at=dns.A)
    with pytest.raises(EnvFault, match="has no address"):
        await resolver.addresses(NAME, 5)


@pytest_twisted.ensureDeferred
async def test_res_11_useless_records_are_left_out(
    zone: Zone, resolver: Resolver
) -> None:
    zone.srv(
        PLAIN,
        (0, 0, 0, "noport.example"),
        (1, 0, 5222, "two words.example"),
        (2, 0, 5222, "nul\0.example"),
        (3, 0, 5222, "good.example"),
    )
    assert await hosts(resolver) == ["good.example"]


@pytest_twisted.ensureDeferred
async def test_res_11_a_resolver_that_hangs(zone: Zone, resolver: Resolver) -> None:
    zone.silent |= {PLAIN, DIRECT, NAME}
    started = reactor.seconds()
    assert await resolver.candidates(NAME, 0.2) == [Candidate(NAME, 5222, False)]
    with pytest.raises(EnvFault, match="has no address"):
        await resolver.addresses(NAME, 0.2)
    # ten seconds in all; the library by itself would ask for a minute
    assert reactor.seconds() - started < 10


@pytest_twisted.ensureDeferred
async def test_a_look_up_can_be_cancelled(zone: Zone, resolver: Resolver) -> None:
    zone.silent |= {PLAIN, DIRECT}
    asking = Deferred.fromCoroutine(resolver.candidates(NAME, 5))
    results: list[object] = []
    asking.addBoth(results.append)
    asking.cancel()
    assert type(results[0].value).__name__ == "CancelledError"  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_addresses_alternate_between_families(
    zone: Zone, resolver: Resolver
) -> None:
    for last in (1, 2, 3):
        zone.add(NAME, dns.Record_A(f"192.0.2.{last}"))
    zone.add(NAME, dns.Record_AAAA("2001:db8::1"))
    assert await resolver.addresses(NAME, 5) == [
        "2001:db8::1",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
    ]


@pytest_twisted.ensureDeferred
async def test_addresses_are_bounded(zone: Zone, resolver: Resolver) -> None:
    for last in range(40):
        zone.add(NAME, dns.Record_A(f"192.0.2.{last}"))
    assert len(await resolver.addresses(NAME, 5)) == 8


@pytest_twisted.ensureDeferred
async def test_what_no_server_is_asked(zone: Zone, resolver: Resolver) -> None:
    assert await resolver.addresses("192.0.2.7", 5) == ["192.0.2.7"]
    assert await resolver.addresses("[::1]", 5) == ["::1"]
    assert await resolver.addresses("localhost", 5) == ["::1", "127.0.0.1"]
    assert not zone.asked


@pytest_twisted.ensureDeferred
async def test_the_system_knows_localhost() -> None:
    assert "127.0.0.1" in await Resolver(reactor).addresses("localhost", 5)


def test_nameservers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert nameservers(path) == [("127.0.0.1", 53)]
    path.write_text(
        "# comment\nnameserver 192.0.2.1\nsearch example.org\nnameserver\n"
        "nameserver nonsense\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n"
        "nameserver 192.0.2.3\n"
    )
    assert nameservers(path) == [
        ("192.0.2.1", 53),
        ("2001:db8::1", 53),
        ("192.0.2.2", 53),
    ]
