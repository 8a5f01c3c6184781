"""Named places in the code path where a test kills the process (REL-01..03).

``hit`` does nothing but look into an empty table, unless the program was started
with ``TILLIE_CRASH=NAME:N``: then the Nth time through NAME is the last thing it
does.  The points:

``sent-before-commit``      ciphertext is made, nothing is durable, nothing left
``sent-after-commit``       durable, not written to the server
``sent-after-write``        written to the server, nothing told to the client
``received-before-commit``  opened, nothing is durable
``received-after-commit``   durable, not written to the client, not acknowledged
``received-after-write``    written to the client, not acknowledged to the server
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "sent-before-commit",
    "sent-after-commit",
    "sent-after-write",
    "received-before-commit",
    "received-after-commit",
    "received-after-write",
)

_armed: dict[str, tuple[int, Callable[[], None]]] = {}


def arm(point: str, times: int, die: Callable[[], None]) -> None:
    """Let *die* be called the *times*-th time that *point* is passed.

    :raises ValueError: there is no such point.
    """
    if point not in POINTS or times < 1:
        raise ValueError(f"no crash point {point}:{times}")
    _armed[point] = (times, die)


def armed() -> bool:
    return bool(_armed)


def hit(point: str) -> None:
    """The code path passes *point*."""
    if _armed and point in _armed:
        times, die = _armed[point]
        if times == 1:
            die()
        _armed[point] = (times - 1, die)
