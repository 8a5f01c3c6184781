"""Certificates of a gate that come to their end while it runs (REL-22)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.internet.task import Clock

from proxy.net.gatetls import EVERY, Endings

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Watch:
    """`days` pass on its clock; what is said meanwhile comes back."""

    def __init__(self, **ends: float) -> None:
        self.clock = Clock()
        self.said: list[str] = []
        self.ends = {
            name.replace("_", "."): START + timedelta(days=days)
            for name, days in ends.items()
        }
        self.endings = Endings(
            self.clock,
            lambda: self.ends,
            self.said.append,
            lambda: START + timedelta(seconds=self.clock.seconds()),
        )
        self.endings.look()

    def pass_(self, days: float) -> list[str]:
        before = len(self.said)
        for _ in range(round(days * 24)):
            self.clock.advance(EVERY)
        return self.said[before:]


def test_rel_22_an_end_is_told_at_fourteen_three_and_one_days() -> None:
    watch = Watch(a_test=20, b_test=400)
    assert watch.said == []
    assert watch.pass_(5.9) == []
    (first,) = watch.pass_(1)
    assert "a.test ends on 2026-11-21 at 12:00 UTC" in first
    assert watch.pass_(9.9) == []
    assert len(watch.pass_(1)) == 1
    assert len(watch.pass_(2)) == 1
    (last,) = watch.pass_(2)
    assert "a.test ended on" in last
    assert "nobody new gets in" in last
    assert watch.pass_(30) == []


def test_rel_22_a_new_certificate_begins_anew() -> None:
    watch = Watch(a_test=2)
    assert len(watch.said) == 1
    watch.ends["a.test"] = START + timedelta(days=90)
    watch.endings.look()
    assert watch.pass_(70) == []
    assert len(watch.pass_(7)) == 1


def test_rel_22_an_end_that_is_past_already_is_said_once() -> None:
    watch = Watch(a_test=-1)
    (only,) = watch.said
    assert "ended on" in only
    assert watch.pass_(3) == []


def test_nothing_is_said_when_it_has_stopped() -> None:
    watch = Watch(a_test=15)
    watch.endings.stop()
    watch.endings.stop()
    assert watch.pass_(16) == []
