"""What every engine of the store promises, on each engine there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import LocalFault, StoreFault
from proxy.keys.sqlite import open_store
from proxy.keys.store import MemoryStore, Store

A, B = "a@a.test", "b@b.test"
Made = Callable[[Callable[[], None] | None], Store]


def _memory(folder: Path) -> Made:
    return lambda before: MemoryStore(before)


def _sqlite(folder: Path) -> Made:
    return lambda before: open_store(folder / "state", before_commit=before)


@pytest.fixture(params=[_memory, _sqlite], ids=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    made: list[Store] = []
    build = request.param(tmp_path)

    def one(before: Callable[[], None] | None = None) -> Store:
        made.append(build(before))
        return made[-1]

    yield one
    for store in made:
        store.close()


@pytest.fixture
def store(make: Made) -> Store:
    return make(None)


def put(store: Store, *rows: tuple[str, str, str, bytes]) -> None:
    with store.transaction():
        for shelf, account, key, value in rows:
            store.put(shelf, account, key, value)


def refuse() -> None:
    raise StoreFault("the disk is full")


def test_what_was_put_is_read(store: Store) -> None:
    put(store, ("send", A, "k", b"\0value"), ("send", A, "empty", b""))
    assert store.get("send", A, "k") == b"\0value"
    assert store.get("send", A, "empty") == b""
    assert store.get("send", A, "other") is None


def test_shelves_and_accounts_are_apart(store: Store) -> None:
    put(store, ("send", A, "k", b"1"), ("lane", A, "k", b"2"), ("send", B, "k", b"3"))
    assert store.get("send", A, "k") == b"1"
    assert store.get("lane", A, "k") == b"2"
    assert store.scan("send", B) == [("k", b"3")]
    assert store.accounts() == [A, B]


def test_a_later_value_replaces_an_earlier_one(store: Store) -> None:
    put(store, ("send", A, "k", b"1"))
    put(store, ("send", A, "k", b"2"))
    assert store.scan("send", A) == [("k", b"2")]


def test_what_was_deleted_is_gone_and_may_be_deleted_again(store: Store) -> None:
    put(store, ("send", A, "k", b"1"))
    for _ in range(2):
        with store.transaction():
            store.delete("send", A, "k")
    assert store.get("send", A, "k") is None
    assert A not in store.accounts()


@pytest.mark.parametrize("prefix", ["a", "a%", "a_", "A", "é", "", "zz"])
def test_a_scan_takes_the_prefix_as_it_is_and_keeps_key_order(
    store: Store, prefix: str
) -> None:
    keys = ["a", "a%1", "a_1", "ab", "A", "é", "éa", "z", "\U0001f600", "\uffff"]
    put(store, *(("s", A, key, key.encode()) for key in keys))
    expected = [(key, key.encode()) for key in sorted(keys) if key.startswith(prefix)]
    assert store.scan("s", A, prefix) == expected


@pytest.mark.parametrize(
    "prefix",
    ["", "a", "a\U0010ffff", "\U0010ffff", "\U0010ffff\U0010ffff", "\ud7ff", "a\ud7ff"],
    ids=ascii,
)
def test_a_scan_reaches_the_last_character_that_there_is(
    store: Store, prefix: str
) -> None:
    """U+10FFFF sorts behind everything, and is a key and part of keys like any other;
    behind U+D7FF come the surrogates, which are no characters."""
    ends = ["", "0", "\ud7ff", "\ue000", "\U0010ffff"]
    keys = [f"{a}{b}{c}" for a in ("", "a", "b") for b in ends for c in ends]
    keys = sorted({key for key in keys if key})
    put(store, *(("s", A, key, key.encode()) for key in keys))
    expected = [(key, key.encode()) for key in keys if key.startswith(prefix)]
    assert store.scan("s", A, prefix) == expected


def test_writes_are_seen_inside_their_transaction(store: Store) -> None:
    with store.transaction():
        store.put("s", A, "k", b"1")
        assert store.get("s", A, "k") == b"1"
        store.delete("s", A, "k")
        assert store.scan("s", A) == []


@pytest.mark.parametrize("error", [StoreFault, KeyError, KeyboardInterrupt])
def test_nothing_of_a_failed_transaction_stays(
    store: Store, error: type[BaseException]
) -> None:
    put(store, ("s", A, "kept", b"1"), ("s", A, "gone", b"1"))

    def work() -> None:
        with store.transaction():
            store.put("s", A, "kept", b"2")
            store.put("s", B, "new", b"2")
            store.delete("s", A, "gone")
            raise error("x")

    with pytest.raises(error):
        work()
    assert store.scan("s", A) == [("gone", b"1"), ("kept", b"1")]
    assert store.accounts() == [A]
    put(store, ("s", A, "later", b"3"))
    assert store.get("s", A, "later") == b"3"


def test_rel_14_nothing_of_a_failed_commit_stays(make: Made) -> None:
    failing = [False]
    store = make(lambda: refuse() if failing[0] else None)
    put(store, ("s", A, "k", b"1"))
    failing[0] = True
    with pytest.raises(StoreFault):
        put(store, ("s", A, "k", b"2"))
    assert store.get("s", A, "k") == b"1"
    failing[0] = False
    put(store, ("s", A, "k", b"3"))
    assert store.get("s", A, "k") == b"3"


def test_a_transaction_that_only_reads_commits_nothing(make: Made) -> None:
    store = make(refuse)
    with store.transaction():
        assert store.get("s", A, "k") is None
        assert store.scan("s", A) == []


@pytest.mark.parametrize("work", ["put", "delete"])
def test_a_write_outside_a_transaction_is_a_bug(store: Store, work: str) -> None:
    put(store, ("s", A, "k", b"1"))
    with pytest.raises(LocalFault):
        store.put("s", A, "k", b"2") if work == "put" else store.delete("s", A, "k")
    assert store.get("s", A, "k") == b"1"


def test_transactions_do_not_nest(store: Store) -> None:

    def work() -> None:
        with store.transaction():
            store.put("s", A, "k", b"1")
            with store.transaction():
                raise AssertionError("not reached")

    with pytest.raises(LocalFault):
        work()
    assert store.get("s", A, "k") is None
    put(store, ("s", A, "k", b"2"))


def test_a_value_is_not_the_buffer_that_was_given(store: Store) -> None:
    value = bytearray(b"1")
    with store.transaction():
        store.put("s", A, "k", value)
        value[:] = b"2"
    assert store.get("s", A, "k") == b"1"


_KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from("sl"), st.sampled_from([A, B]), _KEYS, st.binary(max_size=9)
    ),
    max_size=12,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=_STEPS, fail=st.booleans())
def test_both_engines_say_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, str, str, bytes]],
    fail: bool,
) -> None:
    """An empty value stands for a deletion here."""
    stores: list[Store] = [
        MemoryStore(),
        open_store(tmp_path_factory.mktemp("s") / "s"),
    ]
    for store in stores:
        try:
            with store.transaction():
                for shelf, account, key, value in steps:
                    if value:
                        store.put(shelf, account, key, value)
                    else:
                        store.delete(shelf, account, key)
                if fail:
                    raise StoreFault("x")
        except StoreFault:
            pass
    one, other = stores
    for shelf in "sl":
        for account in (A, B):
            assert one.scan(shelf, account) == other.scan(shelf, account)
    assert one.accounts() == other.accounts()
    other.close()
