"""What was sent and is not acknowledged: durable for messages, and in order.

A message stands in the store, as the very bytes that left, until the server
acknowledged it (XEP-0198, or a ping behind it where there is none).  It is sent
again unchanged, on a resumed stream and on a new one; the reader's Tillie
drops what it has seen (I13).
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

from ..keys.store import Store
from ..suites.entropy import token

KEPT = 14 * 24 * 3600 * 1000
_MODULUS = 2**32
MOST_ARRIVED = 200
MOST_UNSAVED = 50


@dataclass(frozen=True, slots=True)
class Sent:
    """A stanza that is on its way; *row* is empty where only order matters.

    :param clear_to: the bare JIDs that it was permitted to in clear, or empty.
    """

    number: int
    data: bytes
    row: str
    clear_to: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that ended without good-bye: where it can be resumed.

    :param judged: it was resumed once already, so the server's count of it holds
        stanzas that are in no ledger, and says nothing about what is in this one.
    """

    stream: str
    previd: str
    received: int
    acked: int
    began: int
    judged: bool = False


class Ledger:
    """The outgoing stanzas of one stream of *account*."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self.stream = token(8).hex()
        self._waiting: deque[Sent] = deque()
        self._sent = 0
        self.acked = 0
        self._previd: str | None = None
        self._received = 0
        self._saved = 0
        self._managed = True
        self._began = 0
        self._arrived: list[str] = []

    @property
    def waiting(self) -> int:
        """Stanzas not acknowledged yet."""
        return len(self._waiting)

    @property
    def messages_waiting(self) -> bool:
        return any(one.row for one in self._waiting)

    @property
    def sent(self) -> int:
        return self._sent

    def add(
        self, data: bytes, now: int, *, kept: bool, clear_to: str = "", made: int = 0
    ) -> None:
        """One more stanza leaves; a *kept* one is put to the store first.

        :param made: when it was sent first, if that was on an earlier stream.
        """
        self._sent = (self._sent + 1) % _MODULUS
        row = ""
        if kept:
            row = f"{self.stream}/{made or now:015d}/{self._sent:010d}"
            self._forget_arrived()
            record = clear_to.encode() + b"\0" + data
            self._store.put("ledger", self._account, row, record)
        if row or self._managed:
            self._waiting.append(Sent(self._sent, data, row, clear_to))

    def unmanaged(self) -> None:
        """There is no XEP-0198: only messages are waited for, by a ping."""
        self._managed = False
        self._waiting = deque(one for one in self._waiting if one.row)

    def acknowledge(self, h: int) -> None:
        """The server has handled everything up to *h*."""
        clear = False
        while self._waiting and _reached(self._waiting[0].number, h):
            one = self._waiting.popleft()
            # nobody drops the repetition of a message that went in clear
            clear |= bool(one.clear_to)
            if one.row:
                self._arrived.append(one.row)
        self.acked = h
        if clear or self._store.writing or len(self._arrived) >= MOST_ARRIVED:
            self._forget_arrived()

    def _forget_arrived(self) -> None:
        """Rows whose arrival is known go with some other write: a commit for them
        alone is not worth it, and a kill before it costs one question more."""
        for row in self._arrived:
            self._store.delete("ledger", self._account, row)
        self._arrived.clear()

    def unacknowledged(self) -> list[Sent]:
        """What has to be sent again, in order, on the resumed stream."""
        return list(self._waiting)

    def settle(self, one: Sent) -> None:
        """*one* is not sent again; its number stays taken."""
        if one.row:
            self._store.delete("ledger", self._account, one.row)

    # -- the stream's own record ------

    def enabled(self, previd: str | None, now: int) -> None:
        """XEP-0198 runs; remember where to resume, over a kill too."""
        self._previd, self._began = previd, now
        if previd is not None:
            self._save()

    @property
    def previd(self) -> str | None:
        return self._previd

    def received(self, count: int, *, save: bool = False) -> int:
        """The server's stanzas up to *count* are handled; how many of them are, or
        are about to be, written down and may be acknowledged.

        Written down together with what they brought, or now and then: presences
        and answers are not worth a commit of their own.
        """
        if self._previd is None:
            return count
        self._received = count
        unsaved = (count - self._saved) % _MODULUS
        if unsaved and (save or self._store.writing or unsaved >= MOST_UNSAVED):
            self._save()
        return self._saved

    def _save(self) -> None:
        record = [self._previd, self._received, self.acked, self._began]
        data = json.dumps(record).encode()
        self._store.put("stream", self._account, self.stream, data)
        self._saved = self._received

    def ended(self) -> None:
        """The stream was closed in good order: nothing to resume."""
        self._previd = None
        self._forget_arrived()
        self._store.delete("stream", self._account, self.stream)


def cuts(store: Store, account: str, live: set[str]) -> list[Cut]:
    """Streams of *account* that ended without good-bye, newest first, without the
    *live* ones."""
    found = [
        Cut(stream, *json.loads(data))
        for stream, data in store.scan("stream", account)
        if stream not in live
    ]
    return sorted(found, key=lambda cut: cut.began, reverse=True)


def arrived(store: Store, account: str, cut: Cut, h: int | None) -> None:
    """The server says of a cut stream that everything up to *h* has arrived."""
    if h is None or cut.judged:
        return
    for row, _ in store.scan("ledger", account, cut.stream):
        if _reached(int(row.rsplit("/", 1)[1]), h):
            store.delete("ledger", account, row)


def emptied(store: Store, account: str, cut: Cut, received: int) -> None:
    """Stanzas that the cut stream still held are committed, up to *received*."""
    record = [cut.previd, received, cut.acked, cut.began, True]
    store.put("stream", account, cut.stream, json.dumps(record).encode())


def closed(store: Store, account: str, cut: Cut) -> None:
    """Nothing is left of a cut stream."""
    store.delete("stream", account, cut.stream)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A message of an ended stream whose arrival is not known."""

    row: str
    made: int
    clear_to: str
    data: bytes


def left_over(store: Store, account: str, live: set[str]) -> list[LeftOver]:
    """Messages of ended streams, oldest first."""
    rows = []
    for row, record in store.scan("ledger", account):
        stream, made, _ = row.split("/")
        if stream not in live:
            clear_to, _, data = record.partition(b"\0")
            rows.append(LeftOver(row, int(made), clear_to.decode(), data))
    return sorted(rows, key=lambda one: one.row.split("/")[1:])


def _reached(number: int, h: int) -> bool:
    return (h - number) % _MODULUS < _MODULUS // 2
