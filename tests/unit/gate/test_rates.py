from __future__ import annotations

from proxy.gate.rates import MINUTE, Rate


def test_res_06_so_many_a_minute_and_then_again() -> None:
    rate = Rate(3, 10)
    assert [rate.allows("a", 1_000) for _ in range(5)] == [True] * 3 + [False] * 2
    assert rate.allows("b", 1_000)
    assert not rate.allows("a", 1_000 + MINUTE - 1)
    assert rate.allows("a", 1_000 + MINUTE)


def test_dir_07_memory_is_bounded_however_many_ask() -> None:
    rate = Rate(1, 100)
    for n in range(100_000):
        rate.allows(f"name {n}", n // 1000)
    assert len(rate) == 100
    # those that are remembered still count
    assert not rate.allows("name 99999", 100)


def test_what_is_past_is_forgotten() -> None:
    rate = Rate(1, 100)
    for n in range(50):
        rate.allows(f"name {n}", 0)
    rate.allows("later", MINUTE)
    assert len(rate) == 1


def test_rel_21_a_clock_that_was_set_back_locks_nobody_out() -> None:
    rate = Rate(1, 10)
    assert rate.allows("a", 10 * MINUTE)
    assert not rate.allows("a", 10 * MINUTE)
    assert rate.allows("a", 0)
