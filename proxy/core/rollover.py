"""A change of the account's root, from the moment it is written down (3.10).

What is to come is kept beside what is, until the gate or the server has it; what
was left behind is remembered for reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ..keys.documents import make_doc
from ..keys.identity import DevicePrivate, RootPrivate
from ..keys.manifest import REMOVED_KEPT_MS, Manifest, open_manifest, rolled_over
from ..keys.servers import MOST_ROLLOVERS, ROLLOVER, left_behind, rollover_claims
from ..suites.fields import b64, unb64


@dataclass(frozen=True, slots=True)
class Pending:
    """The root that follows, and what is shown of it.

    :param rollover: JWS by the root that is in force.
    """

    root: RootPrivate = field(repr=False)
    manifest: Manifest
    rollover: str

    @classmethod
    def make(
        cls, manifest: Manifest, root: RootPrivate, device: DevicePrivate, now: int
    ) -> Pending:
        """:raises TrustFault: the device is not in use."""
        fresh = RootPrivate.generate()
        claims = rollover_claims(
            manifest.jid, manifest.root.fingerprint, fresh.public, now
        )
        following = rolled_over(manifest, fresh, device, now)
        return cls(fresh, following, make_doc(claims, ROLLOVER, root))

    @classmethod
    def unpack(cls, data: bytes, account: str) -> Pending:
        root, manifest, rollover = json.loads(data)
        return cls(
            RootPrivate.from_bytes(unb64(root)),
            open_manifest(manifest.encode(), account),
            rollover,
        )

    def pack(self) -> bytes:
        record = [b64(self.root.to_bytes()), self.manifest.document, self.rollover]
        return json.dumps(record).encode()


@dataclass(frozen=True, slots=True)
class Left:
    """What rollovers of the own account left behind, for reading (3.10.2).

    :param roots: fingerprints, oldest first.
    :param devices: by public key, when they went, in milliseconds.
    :param rollovers: JWS that led to the present root, oldest first.
    """

    roots: tuple[bytes, ...] = ()
    devices: dict[bytes, int] = field(default_factory=dict)
    rollovers: tuple[str, ...] = ()

    @classmethod
    def unpack(cls, data: bytes | None) -> Left:
        if data is None:
            return cls()
        roots, devices, rollovers = json.loads(data)
        gone = {unb64(public): at for public, at in devices.items()}
        return cls(tuple(map(unb64, roots)), gone, tuple(rollovers))

    def pack(self) -> bytes:
        devices = {b64(public): at for public, at in self.devices.items()}
        record = [[b64(root) for root in self.roots], devices, list(self.rollovers)]
        return json.dumps(record).encode()

    def then(
        self, old: Manifest, new: Manifest, rollovers: tuple[str, ...], now: int
    ) -> Left:
        """The same after *new* took the place of *old*, to which *rollovers* lead."""
        signed = [one.encode() for one in rollovers]
        behind = left_behind(old.jid, old.root, new.root, signed) or (old.root,)
        gone = {
            public: at
            for public, at in self.devices.items()
            if now - at < REMOVED_KEPT_MS
        }
        for device in old.devices:
            gone.setdefault(device.public, device.removed or now)
        return Left(
            (*self.roots, *(one.fingerprint for one in behind))[-MOST_ROLLOVERS:],
            {public: at for public, at in gone.items() if new.device(public) is None},
            rollovers[-MOST_ROLLOVERS:],
        )
