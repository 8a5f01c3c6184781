"""What came in and has not reached a client, or came before.

An opened message is committed here, encrypted like all of the store, together
with the state that opened it, before the server's stanza is acknowledged and
before the client sees it (REL-01).  A sealed message that was delivered is
remembered, so that it is not shown again however it comes back (ENC-12).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from ..keys.store import Store
from .seen import Seen

HELD_PER_PEER = 200
HELD_IN_ALL = 2_000
HELD_BYTES = 32 * 1024 * 1024
SEEN_FOR = 90 * 24 * 3600 * 1000
GRANTED_FOR = 14 * 24 * 3600 * 1000
HELD_FOR = 30_000
KEPT_LATE = 14 * 24 * 3600 * 1000
# of a row: 8 bytes for the stream, 16 for what makes two copies the same
_PREFIX = 24


@dataclass(slots=True)
class Held:
    """A message that cannot be opened yet.

    :param stream: the client stream that it came on and is for.
    :param shown: the placeholder stands in the conversation already.
    :param asked: look-ups were made for it.
    """

    row: str
    stream: str
    peer: str
    data: bytes
    since: int
    shown: bool = False
    asked: bool = False


class Inbox:
    """The incoming messages of one account; *stream* names a client stream."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._last = 0
        self.seen = Seen(store, account)
        self.held: list[Held] | None = None

    def forget_caches(self) -> None:
        self.seen.forget_caches()
        self.held = None

    def _row(self, now: int) -> str:
        """A name that sorts by arrival, also over a restart within a millisecond or
        a clock set back."""
        if not self._last:
            rows = self._store.scan("inbox", self._account)
            rows += self._store.scan("held", self._account)
            self._last = max((int(row) for row, _ in rows), default=0)
        self._last = max(self._last + 1, now * 1000)
        return f"{self._last:018d}"

    # -- for a client ------

    def add(self, data: bytes, stream: str, what: bytes, now: int) -> str:
        """Keep a message that *stream* is owed until :meth:`delivered`.

        :param what: 16 bytes, the same for each stream's copy of one message.
        :return: the row's name.
        """
        row = self._row(now)
        record = bytes.fromhex(stream) + what + data
        self._store.put("inbox", self._account, row, record)
        return row

    def delivered(self, rows: list[str]) -> None:
        for row in rows:
            self._store.delete("inbox", self._account, row)

    def waiting(self) -> list[tuple[str, bytes]]:
        """The names of all rows and their messages, in order of arrival."""
        rows = self._store.scan("inbox", self._account)
        return [(row, record[_PREFIX:]) for row, record in rows]

    def owed(self, busy: Container[str]) -> list[tuple[str, bytes]]:
        """What waits for a client that comes now, without the *busy* rows.

        Streams that ended were owed a copy each: the client gets one, and the
        others are forgotten.  The second of two equal messages on one stream is
        the second on another: bots repeat themselves, ids included.
        """
        on_stream: Counter[bytes] = Counter()
        in_all: Counter[bytes] = Counter()
        found = []
        for row, record in self._store.scan("inbox", self._account):
            if row in busy:
                continue
            copy, what = record[:_PREFIX], record[8:_PREFIX]
            on_stream[copy] += 1
            if on_stream[copy] <= in_all[what]:
                self._store.delete("inbox", self._account, row)
            else:
                in_all[what] += 1
                found.append((row, record[_PREFIX:]))
        return found

    # -- held ------

    def load_held(self) -> list[Held]:
        if self.held is None:
            rows = self._store.scan("held", self._account)
            self.held = [_unpack(row, data) for row, data in rows]
        return self.held

    def hold(self, stream: str, peer: str, data: bytes, now: int) -> Held:
        held = Held(self._row(now), stream, peer, data, now)
        self.load_held().append(held)
        self.save(held)
        return held

    def save(self, held: Held) -> None:
        flag = b"\1" if held.shown else b"\0"
        record = flag + held.since.to_bytes(8, "big")
        names = f"{held.stream}\0{held.peer}\0".encode()
        self._store.put("held", self._account, held.row, record + names + held.data)

    def release(self, held: Held) -> None:
        self.load_held().remove(held)
        self._store.delete("held", self._account, held.row)

    def blocking(self, stream: str, peer: str) -> bool:
        """Whether a message of *peer* has to queue behind a held one."""
        return any(
            held.peer == peer and held.stream == stream and not held.shown
            for held in self.load_held()
        )

    def full(self, peer: str) -> bool:
        """Whether no further message of *peer* can be held."""
        held = self.load_held()
        waiting = sum(one.peer == peer and not one.shown for one in held)
        return (
            waiting >= HELD_PER_PEER
            or len(held) >= HELD_IN_ALL
            or sum(len(one.data) for one in held) >= HELD_BYTES
        )

    def prune(self, now: int, oldest: int) -> None:
        """Forget what cannot be opened again: its lane is gone, and so are the
        prekeys that this could be granted to, which its owner does for 8 days.

        :param oldest: when the oldest private prekey that is here was made.
        """
        self.seen.prune(min(now - SEEN_FOR, oldest - GRANTED_FOR))


def _unpack(row: str, data: bytes) -> Held:
    stream, peer, raw = data[9:].split(b"\0", 2)
    since = int.from_bytes(data[1:9], "big")
    shown = data[:1] == b"\1"
    return Held(row, stream.decode(), peer.decode(), raw, since, shown)
