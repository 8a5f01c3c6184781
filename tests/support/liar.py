"""A gate, its server and its directory that lie; see ``gated`` for the honest ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element

from proxy.core.directory import KEY, PREKEY, prekey_item, record_item
from proxy.core.servers import Shown
from proxy.keys import tokens
from proxy.keys.documents import make_doc, peek_doc
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import TYP, Manifest, device_statement
from proxy.keys.prekeys import PrekeyPrivate, sign_prekey
from proxy.suites.entropy import token as random_bytes
from proxy.suites.fields import b64

from .gated import Domain, GatedWorld
from .scripted import render
from .simulator import Upstream
from .world import impostor

Says = Literal["record", "absent", "error", "silent"]


@dataclass
class Liar:
    """What the domain of *jid* says of that account, whatever its gate knows.

    :ivar pep: what the account's own node answers: ``record`` for what
        :meth:`serve` put there, an error condition, or ``silent``.
    :ivar directory: what ``keys.DOMAIN`` answers.
    :ivar by: the key that signs tokens and absences; the domain's own unless a
        test takes another.
    :ivar asked: how often the directory was.
    """

    world: GatedWorld
    jid: str
    pep: str = "record"
    directory: Says = "record"
    by: RootPrivate | None = None
    asked: int = 0

    def __post_init__(self) -> None:
        self._record: Element | None = None
        self.world.leaving = self._leaving

    @property
    def domain(self) -> Domain:
        return self.world.domain(self.jid.partition("@")[2])

    # -- what it serves ------

    def serve(self, document: str, digest: bytes, root: bytes, seq: int) -> None:
        """*document* as the account's manifest, with a fresh token for it."""
        manifest = _Claimed(document, digest, root, seq)
        token = make_doc(self.claims(manifest), tokens.TYP, self.by or self.domain.key)
        shown = Shown(self.domain.document, tuple(self.domain.rollovers))
        item = record_item(manifest, token, shown)  # type: ignore[arg-type]
        self._record = item[0]
        self.world.pep[self.jid, KEY] = {"current": item}

    def serve_manifest(self, manifest: Manifest) -> None:
        """One whose signatures are what they should be."""
        root = manifest.root.fingerprint
        self.serve(manifest.document, manifest.digest, root, manifest.seq)

    def claims(self, manifest: _Claimed) -> dict[str, object]:
        """Of a token that covers what *manifest* claims to be."""
        now = self.world.now
        issued = now // 1000
        return {
            "iss": self.domain.name,
            "sub": self.jid,
            "jti": b64(random_bytes(16)),
            "seq": manifest.seq,
            "root": b64(manifest.root),
            "manifest": b64(manifest.digest),
            "level": "self",
            "iat": issued,
            "exp": issued + tokens.TOKEN_MS // 1000,
        }

    def serve_own_keys(self) -> Manifest:
        """Row 1: keys that the server made itself, all of them; their manifest."""
        account, items = impostor(self.jid)
        self.world.pep.update(items)
        manifest = account.identity.manifest
        self.serve_manifest(manifest)
        return manifest

    def serve_changed(self, manifest: Manifest, **claims: object) -> None:
        """The manifest with other *claims*, signed as well as the server can: by a
        root of its own."""
        changed = {**peek_doc(manifest.document.encode(), TYP), **claims}
        document = make_doc(changed, TYP, RootPrivate.generate())
        seq = changed["seq"]
        assert isinstance(seq, int)
        digest = _digest(document)
        self.serve(document, digest, manifest.root.fingerprint, seq)

    def ghost(self, manifest: Manifest) -> tuple[DevicePrivate, list[object]]:
        """Row 2: a device of the server's, its prekey published, and the list of
        devices with it."""
        device, prekey = DevicePrivate.generate(), PrekeyPrivate.generate(1)
        root = manifest.root.fingerprint
        signed = sign_prekey(prekey, device, self.jid, root)
        item = prekey_item(signed, device.id.hex())
        self.world.pep[self.jid, PREKEY][device.id.hex()] = item
        claims = peek_doc(manifest.document.encode(), TYP)
        statement = device_statement(self.jid, root, device.public)
        entry = {
            "pub": b64(device.public),
            "added": self.world.now // 1000,
            "label": "desk",
            "sig": b64(device.sign(statement)),
        }
        listed = claims["devices"]
        assert isinstance(listed, list)
        return device, [*listed, entry]

    # -- what it answers ------

    def _leaving(self, stream: Upstream, stanza: Element) -> list[Element] | None:
        # what its own accounts ask of themselves is answered as ever
        if stanza.get("type") != "get" or stream.bare == self.jid:
            return None
        if stanza.get("to") == f"keys.{self.domain.name}":
            self.asked += 1
            self._look_up(stream, stanza)
            return []
        if stanza.get("to") == self.jid and self.pep != "record":
            if self.pep != "silent":
                self.world._refuse(stream, stanza, self.pep)
            return []
        return None

    def _look_up(self, stream: Upstream, stanza: Element) -> None:
        match self.directory:
            case "record" if self._record is not None:
                self.world.answer(stream, stanza, render(deepcopy(self._record)))
            case "absent":
                self.world.answer(stream, stanza, self._absent())
            case "silent":
                pass
            case _:
                self.world._refuse(stream, stanza, "internal-server-error")

    def _absent(self) -> str:
        claims = tokens.absence_claims(self.jid, random_bytes(16), self.world.now)
        document = make_doc(claims, tokens.ABSENCE_TYP, self.by or self.domain.key)
        server = render(Shown(self.domain.document).write())
        return f"<absent xmlns='{KEY}'><document>{document}</document>{server}</absent>"


@dataclass(frozen=True)
class _Claimed:
    """A manifest as its server describes it, sound or not."""

    document: str
    digest: bytes
    root: bytes
    seq: int


def _digest(document: str) -> bytes:
    from proxy.gate.vouching import payload_digest

    return payload_digest(document)
