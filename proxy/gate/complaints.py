"""What goes wrong for everybody at once is said once a minute, not once for each."""

from __future__ import annotations

from typing import Final

AGAIN_MS: Final = 60_000
_MOST: Final = 1_000


class Complaints:
    """When each thing was said last, for all streams of a gate."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def due(self, what: str, now: int) -> bool:
        """Whether *what* is to be said now; if so, it was.

        :param now: Unix milliseconds.
        """
        last = self._said.get(what)
        if last is not None and abs(now - last) < AGAIN_MS:
            return False
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said[what] = now
        return True
