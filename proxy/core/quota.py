"""How often something is done because somebody else causes it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_NAMES = 500


class Quota:
    """At most *most* times in *span* milliseconds for one name; names not heard of
    for longest are forgotten beyond 500."""

    def __init__(self, most: int, span: int) -> None:
        self._most = most
        self._span = span
        self._times: OrderedDict[Hashable, list[int]] = OrderedDict()

    def take(self, name: Hashable, now: int) -> bool:
        """Whether it may be done for *name* once more, which is noted."""
        times = [at for at in self._times.get(name, []) if now - at < self._span]
        self._times[name] = times
        self._times.move_to_end(name)
        while len(self._times) > _NAMES:
            self._times.popitem(last=False)
        if len(times) >= self._most:
            return False
        times.append(now)
        return True


class Pace:
    """Once in *pause* milliseconds and *most* times in all for one name."""

    def __init__(self, most: int, pause: int) -> None:
        self._most = most
        self._pause = pause
        self._times: OrderedDict[Hashable, list[int]] = OrderedDict()

    def take(self, name: Hashable, now: int) -> bool:
        """Whether it may be done for *name* once more, which is noted."""
        times = self._of(name)
        if len(times) >= self._most or (times and now - times[-1] < self._pause):
            return False
        times.append(now)
        return True

    def spend(self, name: Hashable, now: int) -> None:
        """Never again for *name*."""
        self._of(name)[:] = [now] * self._most

    def _of(self, name: Hashable) -> list[int]:
        times = self._times.setdefault(name, [])
        self._times.move_to_end(name)
        while len(self._times) > _NAMES:
            self._times.popitem(last=False)
        return times
