"""Contacts that were written to and gave no sign since (protocol.md, 6.9; I25)."""

from __future__ import annotations

from collections import OrderedDict

from ..keys.store import Store

PATIENCE = 14 * 24 * 3600 * 1000
_CACHED = 500
_TOLD = b"\1"


class Unheard:
    """Since when which contacts of one account are silent.

    A record stands from the first content message until a new sealed message of the
    contact was opened: 8 bytes of time, and a mark once that was told.
    """

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._waiting: OrderedDict[str, bool] = OrderedDict()

    def forget_caches(self) -> None:
        self._waiting.clear()

    def sent(self, peer: str, now: int) -> None:
        """A content message went to *peer*."""
        if not self._is_waiting(peer):
            self._store.put("unheard", self._account, peer, now.to_bytes(8, "big"))
            self._note(peer, True)

    def heard(self, peer: str) -> None:
        """A new sealed message of *peer* was opened, or *peer* was forgotten."""
        if self._is_waiting(peer):
            self._store.delete("unheard", self._account, peer)
            self._note(peer, False)

    def overdue(self, now: int) -> list[tuple[str, int]]:
        """Who gave no sign for 14 days, and since when; each comes once."""
        found = []
        for peer, record in self._store.scan("unheard", self._account):
            since = int.from_bytes(record[:8], "big")
            if now - since >= PATIENCE and record[8:] != _TOLD:
                self._store.put("unheard", self._account, peer, record[:8] + _TOLD)
                found.append((peer, since))
        return found

    def _is_waiting(self, peer: str) -> bool:
        known = self._waiting.get(peer)
        if known is None:
            known = self._store.get("unheard", self._account, peer) is not None
            self._note(peer, known)
        return known

    def _note(self, peer: str, waiting: bool) -> None:
        self._waiting[peer] = waiting
        self._waiting.move_to_end(peer)
        while len(self._waiting) > _CACHED:
            self._waiting.popitem(last=False)
