"""An account's lanes: one to write to each contact, many to read.

Every change goes to the store inside the caller's transaction, so that index,
chain and ciphertext become durable together before a byte leaves (I13), and
what was opened together with the state that opened it (REL-01).  Nothing
changes on a failed opening (ENC-18).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import TrustFault
from ..keys.identity import check_device_signature
from ..keys.prekeys import Prekey
from ..keys.store import Store
from ..suites import lanes
from ..suites.fields import b64, unb64
from ..suites.points import check_ed25519
from .identity import Identity

ROTATE_COUNT = 100
ROTATE_AGE = 24 * 3600 * 1000
ROTATE_INDEX = 900
PAST_KEPT = 8 * 24 * 3600 * 1000
ARCHIVE_KEPT = 90 * 24 * 3600 * 1000
ATTACHED = 3
MOST_GRANTS = 32
_CACHED = 500
KEY_SIZE = 32 + 1 + 64
"""Letters of a lane's key on its shelf: id, a stroke, device."""


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


@dataclass(frozen=True, slots=True)
class ReadLane:
    """A lane that can be read from ``base`` on; ``top`` is the next new index."""

    facts: lanes.Facts
    base: lanes.Chain
    top: lanes.Chain
    since: int
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What :meth:`Ratchets.unseal` found; ``commit`` has to be called to keep it."""

    plaintext: bytes
    lane: ReadLane
    header: lanes.Header
    digest: bytes


class UnknownLane(TrustFault):
    """No key for this lane is here; it may be asked for."""

    def __init__(self, header: lanes.Header) -> None:
        super().__init__("the key of a sealed message is not here")
        self.header = header


class Ratchets:
    """The lanes of one account on this device."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self._store = store
        self._identity = identity
        self._account = identity.account
        self._sending: dict[str, SendLane] = {}
        self._reading: OrderedDict[str, ReadLane] = OrderedDict()

    def forget_caches(self) -> None:
        self._sending.clear()
        self._reading.clear()

    # -- writing ------

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
        lane = _unpack_send(data)
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

    # -- reading ------

    def find(self, header: lanes.Header, owner: str) -> ReadLane:
        """The lane of *owner* (bare JID) that *header* names.

        :raises UnknownLane: there is none.
        """
        prefix = header.lane.hex()
        cached = self._reading.get(f"{prefix}/{owner}")
        if cached is not None:
            return cached
        for key, data in self._store.scan("lane", self._account, prefix):
            lane = _unpack_read(data, self._store.get("top", self._account, key))
            if lane.facts.owner == owner:
                return self._remember(lane)
        raise UnknownLane(header)

    def unseal(self, owner: str, payload: bytes, bound: lanes.Bound) -> Unsealed:
        """Open *payload*; nothing is changed yet, see :meth:`commit`.

        :raises UnknownLane: the key is not here.
        :raises lanes.Broken: anything does not hold.
        """
        header = lanes.Header.unpack(payload)
        lane = self.find(header, owner)
        chain = lane.top if header.n >= lane.top.n else lane.base
        if header.n < lane.base.n:
            raise UnknownLane(header)
        plaintext = lanes.unseal(lane.facts, header, chain, payload, bound)
        return Unsealed(plaintext, lane, header, sha256(payload).digest()[:16])

    def commit(self, unsealed: Unsealed) -> None:
        """Keep the reader's place; called when every check has passed."""
        lane, n = unsealed.lane, unsealed.header.n
        if n >= lane.top.n:
            top = lane.top.at(n + 1)
            self._store.put("top", self._account, _read_key(lane.facts), top.pack())
            self._remember(replace(lane, top=top))

    def take_grant(self, box: bytes, parties: lanes.Parties, now: int) -> bool:
        """Open and check a grant to this device and keep its lane; whether it
        brought anything.

        *parties* names the granter as its manifest does; the caller has checked
        that the granter's device is listed there.

        :raises TrustFault: the prekey is gone, or it does not open or hold.
        :raises PeerFault: it is malformed.
        """
        private = self._identity.prekey(parties.prekey)
        if private is None:
            raise TrustFault("a grant was made for a prekey that is gone")
        plaintext = lanes.unbox(box, private.hpke(), parties.info())
        grant, signature = lanes.unpack_grant(plaintext)
        check_device_signature(
            parties.granter_device,
            signature,
            lanes.grant_signature_input(grant, parties),
        )
        forwarded = grant.facts.device != parties.granter_device
        if forwarded and parties.granter != self._account:
            raise TrustFault("a grant for somebody else's lane")
        if not forwarded and grant.facts.owner != parties.granter:
            raise TrustFault("a grant for a lane of another account")
        check_ed25519(grant.facts.public)
        lane = ReadLane(grant.facts, grant.chain, grant.chain, now, forwarded)
        return self._take(lane)

    def _take(self, lane: ReadLane) -> bool:
        """Keep a lane that was granted.

        One obtained directly replaces a forwarded one and never the other way
        (I19); an earlier start is taken only if the known key follows from it.
        """
        key = _read_key(lane.facts)
        data = self._store.get("lane", self._account, key)
        if data is not None:
            known = _unpack_read(data, self._store.get("top", self._account, key))
            if lane.forwarded and not known.forwarded:
                return False
            direct = known.forwarded and not lane.forwarded
            if lane.base.n >= known.base.n and not direct:
                return False
            earlier = lane.base.n <= known.base.n
            if earlier and lane.base.at(known.base.n) != known.base and not direct:
                raise TrustFault("a grant contradicts the key that is here")
            top = known.top if known.top.n >= lane.base.n else lane.base
            if earlier:
                top = lane.base.at(top.n)
            lane = replace(lane, top=top)
        self._keep_read(lane)
        return True

    def _keep_read(self, lane: ReadLane) -> None:
        key = _read_key(lane.facts)
        self._store.put("lane", self._account, key, _pack_read(lane))
        self._remember(lane)

    def _remember(self, lane: ReadLane) -> ReadLane:
        key = f"{lane.facts.lane.hex()}/{lane.facts.owner}"
        self._reading[key] = lane
        self._reading.move_to_end(key)
        while len(self._reading) > _CACHED:
            self._reading.popitem(last=False)
        return lane

    # -- answering key requests ------

    def answer(
        self, lane_id: bytes, reader: Reader, accounts: list[tuple[str, bytes]]
    ) -> bytes | None:
        """A grant of an own lane for *reader*, if it was among its readers (I19).

        *accounts* is the audience that the requester's account would be in.
        """
        lane = self.current(reader.jid)
        if lane is None or lane.lane != lane_id:
            lane = self._past(lane_id, reader.jid)
        if lane is None or sorted(lane.accounts) != sorted(accounts):
            return None
        if reader.device not in lane.granted:
            if lane is not self._sending.get(reader.jid):
                return None
            # first seen just now: it reads what is sent from here on
            lane.granted[reader.device] = (lane.chain.n, 0)
            self._keep_send(reader.jid, lane)
        return self.grant(lane, reader)

    def _past(self, lane_id: bytes, peer: str) -> SendLane | None:
        data = self._store.get("past", self._account, f"{peer}/{lane_id.hex()}")
        return _unpack_send(data) if data is not None else None

    def _retire(self, peer: str, lane: SendLane) -> None:
        """Keep a rotated lane for key requests that come late."""
        key = f"{peer}/{lane.lane.hex()}"
        self._store.put("past", self._account, key, _pack_send(lane))

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
            if name[-KEY_SIZE:] not in kept:
                self._store.delete("joined", self._account, name)
        self._reading.clear()

    def forward(self, lane_id: bytes, owner: str, reader: Reader) -> bytes | None:
        """A lane for an own other device, from what came after that was linked."""
        for key, data in self._store.scan("lane", self._account, lane_id.hex()):
            lane = _unpack_read(data, self._store.get("top", self._account, key))
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
            own = _unpack_send(data)
            sent[own.lane] = own.chain.n
        for key, data in self._store.scan("lane", self._account):
            lane = _unpack_read(data, self._store.get("top", self._account, key))
            first = max(lane.top.n, sent.get(lane.facts.lane, 0))
            self._store.put(
                "joined",
                self._account,
                f"{b64(device)}/{key}",
                first.to_bytes(4, "big"),
            )


def _read_key(facts: lanes.Facts) -> str:
    return f"{facts.lane.hex()}/{facts.device.hex()}"


def _pack_read(lane: ReadLane) -> bytes:
    flag = b"\1" if lane.forwarded else b"\0"
    return flag + lane.since.to_bytes(8, "big") + lane.base.pack() + lane.facts.pack()


def _unpack_read(data: bytes, top: bytes | None) -> ReadLane:
    base = lanes.Chain.unpack(data[9:45])
    return ReadLane(
        facts=lanes.Facts.unpack(data[45:]),
        base=base,
        top=lanes.Chain.unpack(top) if top else base,
        since=int.from_bytes(data[1:9], "big"),
        forwarded=data[0] == 1,
    )


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


def _unpack_send(data: bytes) -> SendLane:
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
