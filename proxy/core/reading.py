"""Lanes that can be read: where each stands, and grants as they are taken.

Nothing changes on a failed opening (ENC-18); what an opened stanza changes goes
to the store inside the caller's transaction, together with its text (REL-01).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256

from ..errors import TrustFault
from ..keys.identity import check_device_signature
from ..keys.store import Store
from ..suites import lanes
from ..suites.points import check_ed25519
from .identity import Identity

_CACHED = 500


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


class ReadLanes:
    """The lanes of one account on this device, as their reader."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self._store = store
        self._identity = identity
        self._account = identity.account
        self._reading: OrderedDict[str, ReadLane] = OrderedDict()

    def forget_caches(self) -> None:
        self._reading.clear()

    def find(self, header: lanes.Header, owner: str) -> ReadLane:
        """The lane of *owner* (bare JID) that *header* names.

        :raises UnknownLane: there is none.
        """
        prefix = header.lane.hex()
        cached = self._reading.get(f"{prefix}/{owner}")
        if cached is not None:
            return cached
        for key, data in self._store.scan("lane", self._account, prefix):
            lane = unpack_read(data, self._store.get("top", self._account, key))
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
            self._remember(
                ReadLane(lane.facts, lane.base, top, lane.since, lane.forwarded)
            )

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
            known = unpack_read(data, self._store.get("top", self._account, key))
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


def _read_key(facts: lanes.Facts) -> str:
    return f"{facts.lane.hex()}/{facts.device.hex()}"


def _pack_read(lane: ReadLane) -> bytes:
    flag = b"\1" if lane.forwarded else b"\0"
    return flag + lane.since.to_bytes(8, "big") + lane.base.pack() + lane.facts.pack()


def unpack_read(data: bytes, top: bytes | None) -> ReadLane:
    base = lanes.Chain.unpack(data[9:45])
    return ReadLane(
        facts=lanes.Facts.unpack(data[45:]),
        base=base,
        top=lanes.Chain.unpack(top) if top else base,
        since=int.from_bytes(data[1:9], "big"),
        forwarded=data[0] == 1,
    )
