"""How often somebody may ask, with bounded memory (RES-06, DIR-07)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MINUTE: Final = 60_000


class Rate:
    """At most *most* in a minute for each name; *kept* names are remembered.

    Where more names than that ask within a minute, the one that asked first is
    forgotten: a flood of names costs nobody else the answer, and what it costs
    this side has to be bounded otherwise.
    """

    def __init__(self, most: int, kept: int) -> None:
        self._most = most
        self._kept = kept
        self._asked: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asked)

    def allows(self, name: str, now: int) -> bool:
        """Count a question of *name* at *now*, in ms; False: it was one too many."""
        began, count = self._asked.get(name, (now, 0))
        # a clock that was set back begins anew rather than never
        if not began <= now < began + MINUTE:
            self._asked.pop(name)
            began, count = now, 0
        self._asked[name] = (began, count + 1)
        self._forget(now)
        return count < self._most

    def _forget(self, now: int) -> None:
        while self._asked:
            name, (began, _) = next(iter(self._asked.items()))
            if len(self._asked) <= self._kept and began <= now < began + MINUTE:
                return
            del self._asked[name]
