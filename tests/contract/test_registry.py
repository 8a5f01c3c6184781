"""What every engine of the registry promises (keys.registry.Registry)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import LocalFault
from proxy.keys.registry import (
    ALLOCATIONS_KEPT,
    STREAMS_KEPT,
    Account,
    Allocation,
    Enrolment,
    Event,
    Former,
    HeldToken,
    Registry,
    Reset,
    Server,
    Stream,
)

ACCOUNT = Account(
    jid="juliet@capulet.example",
    root=b"r" * 32,
    seq=2**32 - 1,
    digest=b"\0" * 32,
    manifest='{"payload":"é"}',
    active=(b"a" * 32, b"b" * 32),
    removed=(),
    since=1_795_000_000_000,
    changed=1_795_000_000_001,
    seen=1_795_000_000_002,
    rollovers=('{"payload":"é\\n"}', "two words"),
)
TOKEN = HeldToken(ACCOUNT.jid, 1, "TOKEN", b"d" * 32, ACCOUNT.digest, 2**45)
HOSTILE = (
    "o'; DROP TABLE account; --@capulet.example",
    "%@capulet.example",
    "_uliet@capulet.example",
    "jul\\iet@capulet.example",
    "júliet@capulet.example",
    "julіet@capulet.example",  # a Cyrillic i
    '"juliet"@capulet.example',
)


def stream(number: int, account: str = ACCOUNT.jid, expires: int = 100) -> Stream:
    return Stream(
        number.to_bytes(32, "big"), account, f"{account}/{number}", number, expires
    )


def allocation(number: int, expires: int = 100) -> Allocation:
    root = number.to_bytes(32, "big")
    return Allocation(ACCOUNT.jid, root, "MANIFEST", expires + number)


def test_records_come_back_as_they_were_put(registry: Registry) -> None:
    enrolment = Enrolment(ACCOUNT.jid, b"c" * 32, 5)
    reset = Reset(ACCOUNT.jid, 5, 6, forced=True)
    former = Former(ACCOUNT.jid, b"f" * 32, 7, (b"1" * 32, b"2" * 32), 8, "reset")
    server = Server(
        "capulet.example", 3, b"s" * 32, "DOC", b"k" * 32, ("ONE", "TWO"), 9
    )
    with registry.transaction():
        registry.put_account(ACCOUNT)
        registry.put_token(TOKEN)
        registry.put_stream(stream(1))
        registry.put_allocation(allocation(1))
        registry.put_enrolment(enrolment)
        registry.put_reset(reset)
        registry.put_former(former)
        registry.put_keyless(ACCOUNT.jid, 11)
        registry.put_server(server)
    with registry.transaction(writing=False):
        assert registry.account(ACCOUNT.jid) == ACCOUNT
        assert registry.token(ACCOUNT.jid) == TOKEN
        assert registry.stream(stream(1).id) == stream(1)
        assert registry.allocation(ACCOUNT.jid, allocation(1).root) == allocation(1)
        assert registry.enrolment(ACCOUNT.jid) == enrolment
        assert registry.reset(ACCOUNT.jid) == reset
        assert registry.formers(ACCOUNT.jid) == [former]
        assert registry.keyless() == [(ACCOUNT.jid, 11)]
        assert registry.server("capulet.example") == server


def test_what_is_put_again_replaces(registry: Registry) -> None:
    newer = replace(ACCOUNT, seq=1, active=(), removed=(b"a" * 32,))
    with registry.transaction():
        registry.put_account(ACCOUNT)
        registry.put_account(newer)
        assert registry.account(ACCOUNT.jid) == newer
    with registry.transaction():
        assert registry.account(ACCOUNT.jid) == newer
        registry.put_token(TOKEN)
        registry.put_token(replace(TOKEN, number=2))
    with registry.transaction():
        assert registry.token(ACCOUNT.jid) == replace(TOKEN, number=2)


def test_what_was_deleted_is_gone_in_and_after_its_transaction(
    registry: Registry,
) -> None:
    with registry.transaction():
        registry.put_enrolment(Enrolment(ACCOUNT.jid, b"c" * 32, 5))
        registry.put_reset(Reset(ACCOUNT.jid, 5, 6))
        registry.put_allocation(allocation(1))
        registry.put_allocation(allocation(2))
    with registry.transaction():
        registry.delete_enrolment(ACCOUNT.jid)
        registry.delete_reset(ACCOUNT.jid)
        registry.delete_allocations(ACCOUNT.jid, allocation(1).root)
        assert registry.reset(ACCOUNT.jid) is None
    with registry.transaction():
        assert registry.enrolment(ACCOUNT.jid) is None
        assert registry.reset(ACCOUNT.jid) is None
        assert registry.allocation(ACCOUNT.jid, allocation(1).root) is None
        assert registry.allocation(ACCOUNT.jid, allocation(2).root) == allocation(2)
        registry.delete_allocations(ACCOUNT.jid)
        assert registry.allocation(ACCOUNT.jid, allocation(2).root) is None


def test_an_account_takes_its_token_and_streams_along(registry: Registry) -> None:
    other = stream(3, "romeo@capulet.example")
    with registry.transaction():
        registry.put_account(ACCOUNT)
        registry.put_token(TOKEN)
        registry.put_stream(stream(1))
        registry.put_stream(other)
    with registry.transaction():
        registry.put_stream(stream(2))
        registry.delete_account(ACCOUNT.jid)
        assert registry.account(ACCOUNT.jid) is None
    with registry.transaction():
        assert registry.token(ACCOUNT.jid) is None
        assert registry.stream(stream(1).id) is None
        assert registry.stream(stream(2).id) is None
        assert registry.stream(other.id) == other


def test_a_transaction_that_fails_leaves_nothing(registry: Registry) -> None:
    def failing() -> None:
        with registry.transaction():
            registry.put_account(replace(ACCOUNT, seq=5))
            registry.put_token(TOKEN)
            registry.put_stream(stream(1))
            registry.log(Event(1, ACCOUNT.jid, "what", "text"))
            raise ZeroDivisionError

    with registry.transaction():
        registry.put_account(ACCOUNT)
    with pytest.raises(ZeroDivisionError):
        failing()
    with registry.transaction():
        assert registry.account(ACCOUNT.jid) == ACCOUNT
        assert registry.token(ACCOUNT.jid) is None
        assert registry.stream(stream(1).id) is None
        assert registry.events() == []


def test_outside_a_writing_transaction_nothing_is_written(registry: Registry) -> None:
    with pytest.raises(LocalFault):
        registry.put_account(ACCOUNT)
    with pytest.raises(LocalFault):
        registry.account(ACCOUNT.jid)
    with registry.transaction(writing=False):
        for write in (
            lambda: registry.put_account(ACCOUNT),
            lambda: registry.put_stream(stream(1)),
            lambda: registry.lock(ACCOUNT.jid),
        ):
            with pytest.raises(LocalFault):
                write()
    with registry.transaction():
        assert registry.account(ACCOUNT.jid) is None
        with pytest.raises(LocalFault), registry.transaction():
            pass


def test_dir_05_addresses_are_data_and_each_its_own(registry: Registry) -> None:
    with registry.transaction():
        for number, jid in enumerate(HOSTILE):
            registry.put_account(replace(ACCOUNT, jid=jid, seq=number + 1))
    with registry.transaction():
        registry.expect(HOSTILE[:2])
        for number, jid in enumerate(HOSTILE):
            found = registry.account(jid)
            assert found == replace(ACCOUNT, jid=jid, seq=number + 1)
        assert registry.account(ACCOUNT.jid) is None
        assert [one.jid for one in registry.accounts()] == sorted(HOSTILE)
        registry.delete_account("%@capulet.example")
        assert len(list(registry.accounts())) == len(HOSTILE) - 1


def test_what_was_expected_is_read_as_it_is(registry: Registry) -> None:
    names = [ACCOUNT.jid, "nobody@capulet.example"]
    with registry.transaction():
        registry.put_account(ACCOUNT)
        registry.put_token(TOKEN)
        registry.put_reset(Reset(ACCOUNT.jid, 5, 6))
    with registry.transaction():
        registry.expect(names)
        registry.expect([])
        assert [registry.account(name) for name in names] == [ACCOUNT, None]
        assert [registry.token(name) for name in names] == [TOKEN, None]
        assert registry.reset(ACCOUNT.jid) == Reset(ACCOUNT.jid, 5, 6)
        registry.lock(ACCOUNT.jid)
        assert registry.account(ACCOUNT.jid) == ACCOUNT


def test_dir_05_an_account_has_so_many_allocations_and_streams(
    registry: Registry,
) -> None:
    with registry.transaction():
        for number in range(1, ALLOCATIONS_KEPT + 3):
            registry.put_allocation(allocation(number))
        for number in range(1, STREAMS_KEPT + 3):
            registry.put_stream(stream(number))
        registry.put_stream(stream(999, "romeo@capulet.example"))
    with registry.transaction():
        registry.prune(0)
        kept = [
            number
            for number in range(1, ALLOCATIONS_KEPT + 3)
            if registry.allocation(ACCOUNT.jid, allocation(number).root)
        ]
        assert kept == list(range(3, ALLOCATIONS_KEPT + 3))
        assert registry.stream(stream(2).id) is None
        assert registry.stream(stream(3).id) == stream(3)
        assert registry.stream(stream(999).id) is not None


def test_pruning_forgets_what_is_over(registry: Registry) -> None:
    with registry.transaction():
        registry.put_stream(stream(1, expires=100))
        registry.put_stream(stream(2, expires=101))
        registry.put_allocation(allocation(1, expires=99))
        registry.put_allocation(allocation(2, expires=99))
    with registry.transaction():
        registry.prune(100)
        assert registry.stream(stream(1).id) is None
        assert registry.stream(stream(2).id) is not None
        assert registry.allocation(ACCOUNT.jid, allocation(1).root) is None
        assert registry.allocation(ACCOUNT.jid, allocation(2).root) is not None


def test_events_keep_their_order_and_numbers(registry: Registry) -> None:
    with registry.transaction():
        for at, name in ((10, "a@a.test"), (20, "b@a.test"), (15, "a@a.test")):
            registry.log(Event(at, name, "what", f"at {at}"))
    with registry.transaction():
        found = registry.events()
        assert [one.at for one in found] == [10, 20, 15]
        assert len({one.number for one in found}) == 3
        assert sorted(found, key=lambda one: one.number) == found
        assert [one.at for one in registry.events("a@a.test")] == [10, 15]
        assert [one.at for one in registry.events(since=15)] == [20, 15]


def test_keyless_logins_are_listed_by_address(registry: Registry) -> None:
    with registry.transaction():
        registry.put_keyless("b@a.test", 1)
        registry.put_keyless("é@a.test", 2)
        registry.put_keyless("a@a.test", 3)
        registry.put_keyless("b@a.test", 4)
    with registry.transaction():
        assert registry.keyless() == [("a@a.test", 3), ("b@a.test", 4), ("é@a.test", 2)]


def test_what_is_written_at_the_end_is_read_before_it(registry: Registry) -> None:
    """Each way to ask for an account, a token or the log, behind a write."""
    later = replace(ACCOUNT, jid="romeo@capulet.example", seq=1)
    event = Event(10, ACCOUNT.jid, "first-key", "text")
    with registry.transaction():
        registry.put_account(ACCOUNT)
        registry.put_token(TOKEN)
        registry.expect([ACCOUNT.jid, later.jid])
        assert registry.account(ACCOUNT.jid) == ACCOUNT
        assert registry.token(ACCOUNT.jid) == TOKEN
        registry.put_account(later)
        registry.lock(later.jid)
        assert registry.account(later.jid) == later
        registry.log(event)
        assert [one.what for one in registry.events()] == ["first-key"]
        registry.log(event)
        registry.put_account(replace(later, seq=2))
        registry.put_account(replace(later, seq=3))
        assert [one.seq for one in registry.accounts()] == [ACCOUNT.seq, 3]
        registry.put_account(replace(ACCOUNT, seq=7))
        registry.put_token(TOKEN)
        registry.delete_account(ACCOUNT.jid)
    with registry.transaction(writing=False):
        assert registry.account(ACCOUNT.jid) is None
        assert registry.token(ACCOUNT.jid) is None
        assert registry.account(later.jid) == replace(later, seq=3)
        assert len({one.number for one in registry.events()}) == 2
