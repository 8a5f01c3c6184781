"""Messages that a client sends again because it does not know that they left.

A client whose stream broke sends again what no answered ping told it of.  The
first copy may have arrived, and the reader cannot tell a repetition from a bot
that reuses ids (I13); the writer's side can.  So each message with an id is
noted until the client has seen an answer to something it asked behind it, or
closed its stream in good order; a note of a broken stream swallows its
repetition, once (REL-02, REL-03).
"""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from xml.etree.ElementTree import Element

from ..keys.store import Store
from ..rules.classes import DELAY
from ..suites.fields import fields
from ..wire.stanza import Stanza

KEPT = 10 * 60 * 1000
MOST = 2_000
FLUSHED = 500
_DELAY = f"{{{DELAY}}}delay"


class Repeats:
    """The notes of one client stream of *account*."""

    def __init__(self, store: Store, account: str, stream: str) -> None:
        self._store = store
        self._account = account
        self._stream = stream
        self._count = 0
        self._noted: deque[tuple[int, str]] = deque()
        self._asked: dict[str, int] = {}
        self._settled: deque[tuple[int, str]] = deque()
        self._forgotten: list[str] = []
        self._before: dict[bytes, str] = {}

    def load(self, live: set[str], now: int) -> None:
        """What streams that broke have left; those *live* are left out."""
        for row, record in self._store.scan("said", self._account):
            if now - int.from_bytes(record[:8], "big") > KEPT:
                self._forgotten.append(row)
            elif row.partition("/")[0] not in live:
                self._before[record[8:]] = row

    def known(self, stanza: Stanza) -> bool:
        """Whether *stanza* repeats what a broken stream sent; asked once, for the
        note is spent by it."""
        if not self._before or stanza.id is None:
            return False
        row = self._before.pop(_digest(stanza), None)
        if row is None:
            return False
        self._store.delete("said", self._account, row)
        return True

    def sent(self, stanza: Stanza, now: int) -> None:
        """*stanza* left, or stands in the ledger, with this transaction."""
        if stanza.id is None:
            return
        self._count += 1
        row = f"{self._stream}/{self._count:010d}"
        record = now.to_bytes(8, "big") + _digest(stanza)
        self._store.put("said", self._account, row, record)
        self._noted.append((self._count, row))
        while len(self._noted) > MOST:
            self._forgotten.append(self._noted.popleft()[1])
        while self._settled and now - self._settled[0][0] >= FLUSHED:
            self._forgotten.append(self._settled.popleft()[1])
        self._forget()

    def asked(self, id_: str) -> None:
        """The client asked something behind what it has sent so far."""
        if self._noted and len(self._asked) < MOST:
            self._asked[id_] = self._noted[-1][0]

    def answered(self, id_: str, now: int) -> None:
        """The client is being given the answer: everything before has left.

        The notes stay until the answer's bytes have left, too: a kill in between
        leaves a client that knows nothing of it.
        """
        number = self._asked.pop(id_, 0)
        while self._noted and self._noted[0][0] <= number:
            self._settled.append((now, self._noted.popleft()[1]))

    def closed(self) -> None:
        """The client closed its stream in good order: it will not repeat."""
        self._forgotten += [row for _, row in (*self._noted, *self._settled)]
        self._noted.clear()
        self._settled.clear()
        self._forget()

    def _forget(self) -> None:
        for row in self._forgotten:
            self._store.delete("said", self._account, row)
        self._forgotten.clear()


def _digest(stanza: Stanza) -> bytes:
    """What makes two messages the same for the one who repeats them."""
    parts = [stanza.to, stanza.id, stanza.type or "normal"]
    for child in stanza.tree():
        if child.tag != _DELAY:
            parts += _content(child)
    return sha256(fields("said", *parts)).digest()


def _content(child: Element) -> list[str | None]:
    """All that *child* says, element by element, each with how much belongs to it."""
    parts: list[str | None] = []
    for one in child.iter():
        tail = None if one is child else one.tail
        parts += one.tag, f"{len(one)} {len(one.attrib)}", one.text, tail
        for pair in one.attrib.items():
            parts += pair
    return parts
