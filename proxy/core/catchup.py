"""When this device has got everything that lay at the server for it (protocol.md,
3.3.1; I11): only then may old private prekeys go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ..wire.stanza import Stanza
from .identity import Identity
from .questions import Answer, Silence

if TYPE_CHECKING:
    from .session import Session

SETTLED = 5 * 60_000
PAUSE = 3600 * 1000
_PRIORITY = "{jabber:client}priority"
_PING = "{urn:xmpp:ping}ping"


class CatchUp:
    """The catch-ups of one account; *clock* gives milliseconds since 1970."""

    def __init__(self, identity: Identity, clock: Callable[[], int]) -> None:
        self._identity = identity
        self._clock = clock
        self._since: dict[Session, int] = {}
        self._next = 0

    def presence(self, stream: Session, presence: Stanza) -> None:
        """The client of *stream* said to everybody whether it is there."""
        if presence.type is None and _priority(presence) >= 0:
            self._since.setdefault(stream, self._clock())
        else:
            self.left(stream)

    def left(self, stream: Session) -> None:
        self._since.pop(stream, None)

    def tick(self, stream: Session, now: int) -> None:
        """Ask the server on *stream* where that may end a catch-up, and there is
        something that waits for one."""
        since = self._since.get(stream)
        if since is None or now - since < SETTLED or now < self._next:
            return
        self._next = now + PAUSE
        if self._identity.outdated_prekeys(now):
            stream.ask("get", None, Element(_PING), lambda a: self._answered(now, a))

    def _answered(self, asked: int, answer: Answer) -> None:
        # an error is an answer too: it came behind what lay there
        if not isinstance(answer, Silence):
            self._identity.drop_prekeys(asked)


def _priority(presence: Stanza) -> int:
    """RFC 6121, 4.7.2.3: -128 to 127, 0 where nothing is said."""
    text = (presence.tree().findtext(_PRIORITY) or "").strip()
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 3):
        return 0
    return int(text)
