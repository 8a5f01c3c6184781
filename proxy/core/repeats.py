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
_TOGETHER = 16
_NOTE = 8 + 32
"""Bytes of a note: when it was sent, in milliseconds, and its digest."""
_DELAY = f"{{{DELAY}}}delay"


class Repeats:
    """The notes of one client stream of *account*.

    Sixteen lie in one record, which is written again when one of them goes.
    """

    def __init__(self, store: Store, account: str, stream: str) -> None:
        self._store = store
        self._account = account
        self._stream = stream
        self._count = 0
        self._noted: deque[int] = deque()
        self._asked: dict[str, int] = {}
        self._settled: deque[tuple[int, int]] = deque()
        self._rows: dict[str, dict[int, bytes]] = {}
        self._changed: set[str] = set()
        self._before: dict[bytes, tuple[str, int]] = {}

    def load(self, live: set[str], now: int) -> None:
        """What streams that broke have left; those *live* are left out."""
        for row, record in self._store.scan("said", self._account):
            if row.partition("/")[0] in live:
                continue
            notes = self._rows[row] = _unpack(record)
            for number, note in list(notes.items()):
                if now - int.from_bytes(note[:8], "big") > KEPT:
                    self._forget(row, number)
                else:
                    self._before[note[8:]] = row, number

    def known(self, stanza: Stanza) -> bool:
        """Whether *stanza* repeats what a broken stream sent; asked once, for the
        note is spent by it."""
        if not self._before or stanza.id is None:
            return False
        place = self._before.pop(_digest(stanza), None)
        if place is None:
            return False
        self._forget(*place)
        self._save()
        return True

    def sent(self, stanza: Stanza, now: int) -> None:
        """*stanza* left, or stands in the ledger, with this transaction."""
        if stanza.id is None:
            return
        number = self._count = self._count + 1
        row = self._row(number)
        self._rows.setdefault(row, {})[number] = now.to_bytes(8, "big") + _digest(
            stanza
        )
        self._changed.add(row)
        self._noted.append(number)
        while len(self._noted) > MOST:
            self._forget_own(self._noted.popleft())
        while self._settled and now - self._settled[0][0] >= FLUSHED:
            self._forget_own(self._settled.popleft()[1])
        self._save()

    def asked(self, id_: str) -> None:
        """The client asked something behind what it has sent so far."""
        if self._noted and len(self._asked) < MOST:
            self._asked[id_] = self._noted[-1]

    def answered(self, id_: str, now: int) -> None:
        """The client is being given the answer: everything before has left.

        The notes stay until the answer's bytes have left, too: a kill in between
        leaves a client that knows nothing of it.
        """
        number = self._asked.pop(id_, 0)
        while self._noted and self._noted[0] <= number:
            self._settled.append((now, self._noted.popleft()))

    def closed(self) -> None:
        """The client closed its stream in good order: it will not repeat."""
        for number in (*self._noted, *(number for _, number in self._settled)):
            self._forget_own(number)
        self._noted.clear()
        self._settled.clear()
        self._save()

    def _row(self, number: int) -> str:
        return f"{self._stream}/{number // _TOGETHER:010d}"

    def _forget_own(self, number: int) -> None:
        self._forget(self._row(number), number)

    def _forget(self, row: str, number: int) -> None:
        del self._rows[row][number]
        self._changed.add(row)

    def _save(self) -> None:
        for row in self._changed:
            notes = self._rows[row]
            if notes:
                self._store.put("said", self._account, row, b"".join(notes.values()))
            else:
                del self._rows[row]
                self._store.delete("said", self._account, row)
        self._changed.clear()


def _unpack(record: bytes) -> dict[int, bytes]:
    starts = range(0, len(record), _NOTE)
    return {number: record[at : at + _NOTE] for number, at in enumerate(starts)}


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
