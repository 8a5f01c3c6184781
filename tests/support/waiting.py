"""Waiting for something to become true: polled, with a deadline, never blind."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
STEP = 0.02


class TooLateError(AssertionError):
    """What was waited for did not happen before the deadline."""


def until(
    look: Callable[[], T | None],
    what: str,
    *,
    seconds: float = 10.0,
    step: float = STEP,
    also: Callable[[], str] = lambda: "",
) -> T:
    """Return the first true value of `look`.

    `also` is asked at the deadline for what helps to find the cause.
    Raises TooLateError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TooLateError(f"waited {seconds:g} s for {what}\n{also()}")
        time.sleep(step)


def listens(port: int) -> bool:
    """Whether something accepts TCP connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing uses, all different."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
