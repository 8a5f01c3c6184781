"""Accounts that show their keys to a gate's registry, without any stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.gate.admission import answer
from proxy.gate.questions import Allocate, Answer, Question, Vouch
from proxy.keys.documents import make_doc
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import (
    Manifest,
    device_statement,
    first_manifest,
    renamed,
    with_device,
    without_device,
)
from proxy.keys.registry import Registry
from proxy.keys.servers import ROLLOVER, rollover_claims

NOW = 1_795_000_000_000
HOUR = 3600 * 1000
DAY = 24 * HOUR
JULIET = "juliet@capulet.example"
ROMEO = "romeo@capulet.example"


@dataclass
class Person:
    """An account's root with one device and the manifests that it signed."""

    jid: str = JULIET
    root: RootPrivate = field(default_factory=RootPrivate.generate)
    device: DevicePrivate = field(default_factory=DevicePrivate.generate)
    manifests: list[Manifest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manifests.append(
            first_manifest(self.jid, self.root, self.device, "desk", NOW)
        )

    @property
    def manifest(self) -> Manifest:
        return self.manifests[-1]

    @property
    def fingerprint(self) -> bytes:
        return self.root.public.fingerprint

    def add(self, device: DevicePrivate, upon: Manifest | None = None) -> Manifest:
        statement = device_statement(self.jid, self.fingerprint, device.public)
        made = with_device(
            upon or self.manifest,
            self.root,
            device.public,
            device.sign(statement),
            "more",
            NOW,
        )
        self.manifests.append(made)
        return made

    def drop(self, device: DevicePrivate) -> Manifest:
        self.manifests.append(without_device(self.manifest, self.root, device.id, NOW))
        return self.manifest

    def vouch(
        self,
        manifest: Manifest | None = None,
        *,
        device: DevicePrivate | None = None,
        sent: bool = True,
        rollover: bytes | None = None,
        code: str = "",
    ) -> Vouch:
        shown = manifest or self.manifest
        return Vouch(
            self.jid,
            (device or self.device).public,
            shown.root.fingerprint,
            shown.digest,
            shown.document.encode() if sent else None,
            rollover,
            code,
        )

    def rollover_to(self, other: Person) -> bytes:
        """The word for the root of *other*, whose numbers go on behind the own ones."""
        while other.manifest.seq <= self.manifest.seq:
            label = f"desk {other.manifest.seq}"
            other.manifests.append(
                renamed(other.manifest, other.root, other.device.id, label, NOW)
            )
        claims = rollover_claims(self.jid, self.fingerprint, other.root.public, NOW)
        return make_doc(claims, ROLLOVER, self.root).encode()

    def allocate(self) -> Allocate:
        return Allocate(
            self.jid,
            self.device.public,
            self.fingerprint,
            self.manifest.document.encode(),
        )


def ask(registry: Registry, question: Question, now: int = NOW) -> Answer:
    """One question in a transaction of its own."""
    with registry.transaction():
        return answer(question, registry, now)
