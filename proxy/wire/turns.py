"""Why a framer leaves its parser in the middle of what it was fed."""

from __future__ import annotations


class Turn(Exception):
    """Leaves expat: what follows is not for this parser."""


class Renew(Turn):
    """The parser remembers enough names."""


class Close(Turn):
    """The stream is closed."""


class Over(Turn):
    """The stanza is over a limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
