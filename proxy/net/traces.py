"""What the log may hold of an unexpected error."""

from __future__ import annotations

import traceback


def trace_of(error: BaseException) -> str:
    """Where an unexpected error came from, without what it says: its words could
    hold what somebody wrote (LOC-11)."""
    lines = traceback.format_tb(error.__traceback__)
    return f"{type(error).__name__}\n{''.join(lines)}"
