"""An account's lanes, one to write to each contact and many to read, as a whole:
who asks for their keys is answered, a linked device is noted, old ones go.
"""

from __future__ import annotations

import json

from ..suites.fields import b64
from .reading import unpack_read
from .writing import Reader, SendLane, WriteLanes, unpack_send

PAST_KEPT = 8 * 24 * 3600 * 1000
ARCHIVE_KEPT = 90 * 24 * 3600 * 1000
_KEY_SIZE = 32 + 1 + 64
"""Letters of a lane's key on its shelf: id, a stroke, device."""


class Ratchets(WriteLanes):
    """The lanes of one account on this device."""

    # -- answering key requests ------

    def answer(
        self,
        lane_id: bytes,
        reader: Reader,
        audiences: list[list[tuple[str, bytes]]],
    ) -> bytes | None:
        """A grant of an own lane for *reader*, if it was among its readers (I19).

        *audiences* are those that the requester's account would be in.
        """
        lane = self._own(lane_id, reader.jid)
        fitting = map(sorted, audiences)
        if lane is None or sorted(lane.accounts) not in fitting:
            return None
        if reader.device not in lane.granted:
            if lane is not self._sending.get(reader.jid):
                return None
            # first seen just now: it reads what is sent from here on
            lane.granted[reader.device] = (lane.chain.n, 0)
            self._keep_send(reader.jid, lane)
        return self.grant(lane, reader)

    def writes_to(self, peer: str) -> bool:
        """Whether there is, or lately was, a lane towards *peer*."""
        past = self._store.scan("past", self._account, f"{peer}/")
        return self.current(peer) is not None or bool(past)

    def wrote(self, lane_id: bytes, peer: str) -> bool:
        """Whether the lane is or was this device's own towards *peer*."""
        return self._own(lane_id, peer) is not None

    def _own(self, lane_id: bytes, peer: str) -> SendLane | None:
        lane = self.current(peer)
        if lane is not None and lane.lane == lane_id:
            return lane
        return self._past(lane_id, peer)

    def _past(self, lane_id: bytes, peer: str) -> SendLane | None:
        data = self._store.get("past", self._account, f"{peer}/{lane_id.hex()}")
        return unpack_send(data) if data is not None else None

    # -- keeping ------

    def prune(self, now: int) -> None:
        """Drop what is needed no longer: rotated lanes as their sender after 7
        days (I27), lanes to read after 90, which is how long archive pages open."""
        for key, data in self._store.scan("past", self._account):
            if now - json.loads(data)["opened"] > PAST_KEPT:
                self._store.delete("past", self._account, key)
        for key, data in self._store.scan("lane", self._account):
            if now - int.from_bytes(data[1:9], "big") > ARCHIVE_KEPT:
                self._store.delete("lane", self._account, key)
                self._store.delete("top", self._account, key)
        kept = {key for key, _ in self._store.scan("lane", self._account)}
        for name, _ in self._store.scan("joined", self._account):
            if name[-_KEY_SIZE:] not in kept:
                self._store.delete("joined", self._account, name)
        self._reading.clear()

    # -- linking ------

    def forward(self, lane_id: bytes, owner: str, reader: Reader) -> bytes | None:
        """A lane for an own other device, from what came after that was linked."""
        for key, data in self._store.scan("lane", self._account, lane_id.hex()):
            lane = unpack_read(data, self._store.get("top", self._account, key))
            if lane.facts.owner != owner or lane.forwarded:
                continue
            name = f"{b64(reader.device)}/{key}"
            joined = self._store.get("joined", self._account, name)
            first = int.from_bytes(joined, "big") if joined else 0
            return self._box(lane.facts, lane.base.at(max(first, lane.base.n)), reader)
        return None

    def note_joined(self, device: bytes) -> None:
        """Remember where each lane stood when the own *device* was linked (I19)."""
        sent: dict[bytes, int] = {}
        for peer, data in self._store.scan("send", self._account):
            own = self._load(peer, data)
            sent[own.lane] = own.chain.n
        for _, data in self._store.scan("past", self._account):
            own = unpack_send(data)
            sent[own.lane] = own.chain.n
        for key, data in self._store.scan("lane", self._account):
            lane = unpack_read(data, self._store.get("top", self._account, key))
            first = max(lane.top.n, sent.get(lane.facts.lane, 0))
            self._store.put(
                "joined",
                self._account,
                f"{b64(device)}/{key}",
                first.to_bytes(4, "big"),
            )
