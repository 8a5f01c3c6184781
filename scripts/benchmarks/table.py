"""Collected figures: printed as lines, kept as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


class Table:
    """The figures of one section, each a median of its rounds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: dict[str, float] = {}
        self._rounds: dict[str, list[float]] = {}
        self._units: dict[str, str] = {}

    def add(self, name: str, value: float, unit: str = "") -> None:
        """One more round's value."""
        self._rounds.setdefault(name, []).append(value)
        self._units[name] = unit
        self.figures[name] = round(median(self._rounds[name]), 4)

    def ratio(self, name: str, one: str, other: str, goal: str = "") -> None:
        """One figure over another: the median over the rounds, where both have the
        same and none is at or below zero, else of their medians."""
        above, below = self._rounds.get(one, []), self._rounds.get(other, [])
        if not above or not below:
            return
        if len(above) != len(below) or min(below) <= 0:
            above, below = [median(above)], [median(below)]
        values = [a / b for a, b in zip(above, below, strict=True)]
        self._units[name] = f"x{f'   goal {goal}' if goal else ''}"
        self._rounds[name] = values
        self.figures[name] = round(median(values), 4)

    def difference(self, name: str, one: str, other: str) -> None:
        """The same, one figure less another."""
        pairs = zip(
            self._rounds.get(one, ()), self._rounds.get(other, ()), strict=False
        )
        for a, b in list(pairs):
            self.add(name, a - b, self._units[one])

    def show(self) -> None:
        print(f"\n{self.title}")
        for name, value in self.figures.items():
            spread = _spread(self._rounds[name])
            print(f"  {name:<58} {value:>10.4g} {self._units[name]} {spread}")
        sys_flush()


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"  ({min(values):.3g} to {max(values):.3g}, {len(values)} rounds)"


def sys_flush() -> None:
    print(end="", flush=True)


def at(values: Sequence[float], share: float) -> float:
    """A percentile, `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
