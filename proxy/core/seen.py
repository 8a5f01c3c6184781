"""Which sealed messages came before, and on which client streams they were shown.

The notes of up to sixteen neighbouring indices of a lane lie in one record: most
messages come in a row, and a record for each would cost what all else costs that
is stored of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from ..keys.store import Store

_DIGEST = 16
_MARK = 8
_CACHED = 64
_MOST = 64
"""Notes in a record; who seals many texts under one index gets records for each."""


@dataclass(slots=True)
class _Note:
    """When a message came *first*, and the 8-byte names of the streams that are
    *owed* it still."""

    first: int
    owed: list[bytes]


_Notes = dict[tuple[str, bytes], _Note]
"""By the last letter of the key, and the digest."""


class Seen:
    """The sealed messages of one account that came before.

    *key* names lane, device and index, the index last and in hex: keys that
    differ in their last letter only are neighbours.
    """

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._rows: OrderedDict[str, _Notes] = OrderedDict()

    def forget_caches(self) -> None:
        self._rows.clear()

    def fresh(
        self, key: str, digest: bytes, stream: str, streams: Iterable[str], now: int
    ) -> bool:
        """Whether a message is to be shown on *stream*, and remember it.

        Each of the *streams* that there were when it first came gets it once
        (two clients of one account); a stream opened later does not: what comes
        again then is a repetition by the server, or a replay.  What is written
        down is who has not had it yet, so no clock decides.
        """
        row, name = key[:-1], (key[-1], digest)
        notes = self._load(row)
        if name not in notes and len(notes) >= _MOST:
            row = f"{key}/{digest.hex()}"
            notes = self._load(row)
        mark = bytes.fromhex(stream)
        note = notes.get(name)
        if note is None:
            owed = {bytes.fromhex(one) for one in streams}
            notes[name] = _Note(now, sorted(owed - {mark}))
        elif mark in note.owed:
            note.owed.remove(mark)
        else:
            return False
        self._store.put("seen", self._account, row, _pack(notes))
        return True

    def used(self, key: str, digest: bytes) -> bool:
        """Whether another message came under the index that *key* names."""
        return any(
            last == key[-1] and other != digest for last, other in self._load(key[:-1])
        )

    def prune(self, before: int) -> None:
        """Forget the records whose last message came before that time."""
        for row, record in self._store.scan("seen", self._account):
            if max(note.first for note in _unpack(record).values()) < before:
                self._store.delete("seen", self._account, row)
        self._rows.clear()

    def _load(self, row: str) -> _Notes:
        found = self._rows.get(row)
        if found is None:
            record = self._store.get("seen", self._account, row)
            found = self._rows[row] = _unpack(record or b"")
            while len(self._rows) > _CACHED:
                self._rows.popitem(last=False)
        self._rows.move_to_end(row)
        return found


def _pack(notes: _Notes) -> bytes:
    parts: list[bytes] = []
    for (last, digest), note in notes.items():
        count = len(note.owed).to_bytes(2, "big")
        parts += last.encode(), digest, note.first.to_bytes(8, "big"), count
        parts += note.owed
    return b"".join(parts)


def _unpack(record: bytes) -> _Notes:
    notes: _Notes = {}
    at = 0
    while at < len(record):
        marks_at = at + 1 + _DIGEST + 8 + 2
        name = record[at : at + 1].decode(), record[at + 1 : at + 1 + _DIGEST]
        first, count = record[at + 1 + _DIGEST : marks_at - 2], record[marks_at - 2 :]
        end = marks_at + int.from_bytes(count[:2], "big") * _MARK
        owed = [record[i : i + _MARK] for i in range(marks_at, end, _MARK)]
        notes[name] = _Note(int.from_bytes(first, "big"), owed)
        at = end
    return notes
