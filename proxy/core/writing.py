"""The lane towards each contact: opened, granted, written to, rotated.

Every change goes to the store inside the caller's transaction, so that index,
chain and ciphertext become durable together before a byte leaves (I13).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..keys.prekeys import Prekey
from ..keys.store import Store
from ..suites import lanes
from ..suites.fields import b64, unb64
from .identity import Identity
from .reading import ReadLane, ReadLanes

ROTATE_COUNT = 100
ROTATE_AGE = 24 * 3600 * 1000
ROTATE_INDEX = 900
ATTACHED = 3


@dataclass(frozen=True, slots=True)
class Reader:
    """A device that a lane is granted to.

    :param jid: bare JID of its account.
    """

    jid: str
    device: bytes
    prekey: Prekey


@dataclass(slots=True)
class SendLane:
    """The lane that is written now.

    :param granted: by device key: the first index it may read, times attached.
    :param count: content stanzas so far.
    :param heard: the contact has answered under a seal since it was opened.
    """

    facts: lanes.Facts
    lane: bytes
    secret: Ed25519PrivateKey
    first: lanes.Chain
    chain: lanes.Chain
    opened: int
    accounts: list[tuple[str, bytes]]
    count: int = 0
    heard: bool = False
    granted: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class WriteLanes(ReadLanes):
    """The lanes of one account on this device, as their writer too: it reads what
    it wrote, in archive pages and on its other streams."""

    def __init__(self, store: Store, identity: Identity) -> None:
        super().__init__(store, identity)
        self._sending: dict[str, SendLane] = {}

    def forget_caches(self) -> None:
        super().forget_caches()
        self._sending.clear()

    def current(self, peer: str) -> SendLane | None:
        """The lane towards *peer* (bare JID), if one was opened."""
        found = self._sending.get(peer)
        if found is None:
            data = self._store.get("send", self._account, peer)
            if data is None:
                return None
            found = self._sending[peer] = self._load(peer, data)
        return found

    def _load(self, peer: str, data: bytes) -> SendLane:
        """The lane as it stands: what changes with each stanza lies apart."""
        lane = unpack_send(data)
        place = self._store.get("chain", self._account, peer)
        if place is not None and place[:16] == lane.lane:
            lane.chain = lanes.Chain.unpack(place[16:52])
            lane.count = int.from_bytes(place[52:56], "big")
        return lane

    def ready(
        self,
        peer: str,
        accounts: list[tuple[str, bytes]],
        readers: list[Reader],
        now: int,
    ) -> SendLane:
        """The lane for the next content stanza, a new one where due (clause 6.5)."""
        lane = self.current(peer)
        if lane is not None:
            if not self.worn(lane, accounts, readers, now):
                return lane
            self._retire(peer, lane)
        return self._open(peer, accounts, now)

    def worn(
        self,
        lane: SendLane,
        accounts: list[tuple[str, bytes]],
        readers: list[Reader],
        now: int,
    ) -> bool:
        """Whether nothing more may go on *lane*: old, long, or its readers changed."""
        left = set(lane.granted) - {reader.device for reader in readers}
        return (
            lane.count >= ROTATE_COUNT
            or lane.chain.n >= ROTATE_INDEX
            or not 0 <= now - lane.opened < ROTATE_AGE
            or sorted(lane.accounts) != sorted(accounts)
            or bool(left)
        )

    def rotate(self, peer: str) -> None:
        """The next content stanza to *peer* opens a new lane."""
        lane = self.current(peer)
        if lane is not None:
            self._retire(peer, lane)
        self._sending.pop(peer, None)
        self._store.delete("send", self._account, peer)
        self._store.delete("chain", self._account, peer)

    def rotate_all(self) -> None:
        for peer, _ in self._store.scan("send", self._account):
            self.rotate(peer)

    def _open(self, peer: str, accounts: list[tuple[str, bytes]], now: int) -> SendLane:
        device = self._identity.device
        new = lanes.open_lane(
            self._account,
            self._identity.fingerprint,
            device.public,
            accounts,
            self._epoch(now),
        )
        lane = SendLane(
            facts=new.facts,
            lane=new.facts.lane,
            secret=Ed25519PrivateKey.from_private_bytes(new.secret),
            first=new.chain,
            chain=new.chain,
            opened=now,
            accounts=accounts,
        )
        # the own device reads its own lane too: archive pages and carbons show it
        self._keep_read(ReadLane(new.facts, new.chain, new.chain, now))
        self._sending[peer] = lane
        self._keep_send(peer, lane)
        return lane

    def _epoch(self, now: int) -> int:
        """Creation time, strictly rising even when the clock is set back."""
        last = self._store.get("own", self._account, "epoch")
        epoch = max(now, int.from_bytes(last or b"", "big") + 1)
        self._store.put("own", self._account, "epoch", epoch.to_bytes(8, "big"))
        return epoch

    def attached(
        self, peer: str, lane: SendLane, readers: list[Reader]
    ) -> list[Reader]:
        """Which readers' grants go with the next content stanza."""
        due = []
        for reader in readers:
            times = lane.granted.get(reader.device, (0, 0))[1]
            answered = lane.heard and reader.jid == peer and times > 0
            if times < ATTACHED and not answered:
                due.append(reader)
        return due

    def mark_granted(self, peer: str, lane: SendLane, readers: list[Reader]) -> None:
        """Grants to *readers* go with the next content stanza."""
        for reader in readers:
            first, times = lane.granted.get(reader.device, (lane.chain.n, 0))
            lane.granted[reader.device] = (first, times + 1)
        if readers:
            self._keep_send(peer, lane)

    def _keep_send(self, peer: str, lane: SendLane) -> None:
        self._store.put("send", self._account, peer, _pack_send(lane))

    def grant(self, lane: SendLane, reader: Reader) -> bytes:
        """The key of *lane* for one reader, from the first index it may read."""
        first, _ = lane.granted.get(reader.device, (lane.chain.n, 0))
        return self._box(lane.facts, lane.first.at(first), reader)

    def _box(self, facts: lanes.Facts, chain: lanes.Chain, reader: Reader) -> bytes:
        device = self._identity.device
        parties = lanes.Parties(
            self._account,
            device.public,
            reader.jid,
            reader.device,
            reader.prekey.number,
        )
        grant = lanes.Grant(facts, chain, self._identity.manifest.seq)
        signature = device.sign(lanes.grant_signature_input(grant, parties))
        return lanes.box(
            lanes.pack_grant(grant, signature), reader.prekey.hpke(), parties.info()
        )

    def seal(
        self,
        peer: str,
        lane: SendLane,
        plaintext: bytes,
        bound: lanes.Bound,
        *,
        flags: int = 0,
    ) -> bytes:
        """Seal under the next index and put the lane's new state to the store."""
        payload = lanes.seal(
            lane.facts,
            lane.chain,
            lane.secret,
            plaintext,
            bound,
            lane=lane.lane,
            flags=flags,
        )
        lane.chain = lane.chain.next()
        if not flags & lanes.TRANSIENT:
            lane.count += 1
        place = lane.lane + lane.chain.pack() + lane.count.to_bytes(4, "big")
        self._store.put("chain", self._account, peer, place)
        return payload

    def heard(self, peer: str) -> None:
        """A sealed stanza of *peer* was opened: its devices hold the lane."""
        lane = self.current(peer)
        if lane is not None and not lane.heard:
            lane.heard = True
            self._keep_send(peer, lane)

    def _retire(self, peer: str, lane: SendLane) -> None:
        """Keep a rotated lane for key requests that come late."""
        key = f"{peer}/{lane.lane.hex()}"
        self._store.put("past", self._account, key, _pack_send(lane))


def _pack_send(lane: SendLane) -> bytes:
    return json.dumps(
        {
            "facts": b64(lane.facts.pack()),
            "secret": b64(lane.secret.private_bytes_raw()),
            "first": b64(lane.first.pack()),
            "chain": b64(lane.chain.pack()),
            "opened": lane.opened,
            "accounts": [[jid, b64(root)] for jid, root in lane.accounts],
            "count": lane.count,
            "heard": lane.heard,
            "granted": {b64(key): list(at) for key, at in lane.granted.items()},
        }
    ).encode()


def unpack_send(data: bytes) -> SendLane:
    record = json.loads(data)
    facts = lanes.Facts.unpack(unb64(record["facts"]))
    return SendLane(
        facts=facts,
        lane=facts.lane,
        secret=Ed25519PrivateKey.from_private_bytes(unb64(record["secret"])),
        first=lanes.Chain.unpack(unb64(record["first"])),
        chain=lanes.Chain.unpack(unb64(record["chain"])),
        opened=record["opened"],
        accounts=[(jid, unb64(root)) for jid, root in record["accounts"]],
        count=record["count"],
        heard=record["heard"],
        granted={
            unb64(key): (first, times)
            for key, (first, times) in record["granted"].items()
        },
    )
