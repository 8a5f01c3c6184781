"""A scripted client of a gate: it has real keys, and switches for what it does wrong."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import scramp

from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_presented,
    present,
    vouch_statement,
)
from proxy.keys.identity import DevicePrivate
from proxy.keys.manifest import Manifest
from proxy.keys.servers import ServerDocument, open_server
from proxy.suites.fields import b64, unb64

from .persons import Person
from .raw import SASL, STREAM, TLS, RawClient, RefusedError
from .securesocket import SecureSocket

AUTH = "urn:x-tillie:auth:0"
KEY = "urn:x-tillie:key:0"


@dataclass
class Bugs:
    """What the client does wrong; empty for nothing.

    `present`: unsigned, flipped, other-device, other-root, other-nonce,
    other-exporter, other-domain, short, extra, twice.
    `vouch`: unsigned, flipped, other-device, other-jid, other-digest, other-nonce,
    other-exporter, twice-manifest.
    """

    present: str = ""
    vouch: str = ""


class GateClient(RawClient):
    """One connection to a gate, from TCP to `<vouched/>`, one step at a time.

    `person` has the keys; None for a client without Tillie. `nonce`, `policy` and
    `server` are what the gate said, `token` what it gave.
    """

    def __init__(
        self,
        port: int,
        domain: str,
        ca: Path,
        person: Person | None = None,
        *,
        bugs: Bugs | None = None,
        device: DevicePrivate | None = None,
        **options: Any,
    ) -> None:
        super().__init__(port, domain, **options)
        self.ca = ca
        self.person = person
        self.device = device or (person.device if person else None)
        self.root = person.fingerprint if person else None
        self.bugs = bugs or Bugs()
        self.nonce = b""
        self.policy = ""
        self.server: ServerDocument | None = None
        self.token = ""

    # -- the way in ------

    def enter(self, password: str, *, resource: str = "gate") -> GateClient:
        """Go the whole way with SCRAM-SHA-1; `token` is there then."""
        assert self.person is not None
        self.secure()
        self.present()
        self.scram(self.person.jid.partition("@")[0], password)
        self.open_stream()
        self.bind(resource)
        self.vouch()
        return self

    def secure(self, *, direct: bool = False, **options: Any) -> Element:
        """TLS, by STARTTLS unless `direct`; the features inside it."""
        if not direct:
            self.open_stream()
            self.send(f"<starttls xmlns='{TLS}'/>")
            self.expect(f"{{{TLS}}}proceed")
        self.start_secure(**options)
        return self.open_gate()

    def start_secure(self, name: str | None = "", **options: Any) -> None:
        """The TLS handshake; `name` is sent as SNI, by default the domain."""
        sni = self.domain if name == "" else name
        self._socket = SecureSocket(self._socket, self.ca, sni, **options)  # type: ignore[assignment]

    def open_gate(self) -> Element:
        """The stream inside TLS; the features, and what they say of keys."""
        features = self.open_stream()
        keys = features.find(f"{{{AUTH}}}keys")
        if keys is not None:
            self.nonce = unb64(keys.get("nonce", ""))
            self.policy = keys.get("policy", "")
        return features

    @property
    def channel(self) -> Channel:
        assert isinstance(self._socket, SecureSocket)
        return Channel(self.domain, self.nonce, self._socket.exporter)

    def present(self, *, known: bytes | None = None) -> Element:
        """Present the device (14.3) and check the gate's own proof (14.4)."""
        self.send(self.presentation(known=known))
        if self.bugs.present == "twice":
            self.expect(f"{{{AUTH}}}presented")
            self.send(self.presentation())
        answer = self.read()
        if answer.tag != f"{{{AUTH}}}presented":
            raise RefusedError(ElementTree.tostring(answer, encoding="unicode"))
        self._check(answer)
        return answer

    def presentation(self, *, known: bytes | None = None) -> str:
        """The element, with what `bugs` says of it."""
        assert self.device is not None
        bug, channel, device, root = (
            self.bugs.present,
            self.channel,
            self.device,
            self.root,
        )
        signed = {
            "other-nonce": replace(channel, nonce=bytes(16)),
            "other-exporter": replace(channel, exporter=bytes(32)),
            "other-domain": replace(channel, domain="elsewhere.test"),
        }.get(bug, channel)
        by = DevicePrivate.generate() if bug == "other-device" else device
        signature = present(signed, by, bytes(32) if bug == "other-root" else root)
        if bug == "other-device":
            signature = device_signed(by, device, signed, root)
        text = _spoilt(bug, signature)
        attributes = f"device='{b64(device.public)}'"
        if root is not None:
            attributes += f" root='{b64(root)}'"
        if known is not None:
            attributes += f" server='{b64(known)}'"
        if bug == "extra":
            attributes += " jid='romeo@a.test'"
        return f"<present xmlns='{AUTH}' {attributes}>{text}</present>"

    def _check(self, presented: Element) -> None:
        document = presented.findtext(f"{{{KEY}}}server/{{{KEY}}}document")
        if document is not None:
            self.server = open_server(document.encode(), self.domain)
        assert self.server is not None
        assert self.device is not None
        proof = unb64(presented.findtext(f"{{{AUTH}}}proof") or "")
        shown = Presentation(self.device.public, self.root)
        time = int(presented.get("time", ""))
        check_presented(self.channel, shown, self.server.keys, time, proof)

    def scram(
        self, user: str, password: str, *, mechanism: str = "SCRAM-SHA-1"
    ) -> None:
        """Log in, checking the server's proof. Raises RefusedError."""
        client = scramp.ScramClient([mechanism], user, password)
        first = _b64(client.get_client_first())
        self.send(f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{first}</auth>")
        client.set_server_first(self._challenge("challenge"))
        final = _b64(client.get_client_final())
        self.send(f"<response xmlns='{SASL}'>{final}</response>")
        client.set_server_final(self._challenge("success"))

    def _challenge(self, name: str) -> str:
        answer = self.read()
        if answer.tag != f"{{{SASL}}}{name}":
            raise RefusedError(ElementTree.tostring(answer, encoding="unicode"))
        return base64.b64decode(answer.text or "").decode()

    def vouch(
        self, manifest: Manifest | None = None, *, sent: bool = True, extra: str = ""
    ) -> Element:
        """Vouch behind binding (14.7) and take the token. Raises RefusedError."""
        answer = self.try_vouch(manifest, sent=sent, extra=extra)
        if answer.tag != f"{{{AUTH}}}vouched":
            raise RefusedError(ElementTree.tostring(answer, encoding="unicode"))
        self.token = answer.findtext(f"{{{AUTH}}}token") or ""
        return answer

    def try_vouch(
        self, manifest: Manifest | None = None, *, sent: bool = True, extra: str = ""
    ) -> Element:
        """Send `<vouch/>` and return the answer, whatever it is."""
        shown = manifest or (self.person.manifest if self.person else None)
        self.send(self.vouching(shown, sent=sent, extra=extra))
        return self.wait_for(
            lambda one: one.tag.startswith((f"{{{AUTH}}}", f"{{{STREAM}}}"))
        )

    def vouching(
        self, manifest: Manifest | None, *, sent: bool = True, extra: str = ""
    ) -> str:
        """The element, with what `bugs` says of it; no manifest, no digest."""
        assert self.device is not None
        bug, channel = self.bugs.vouch, self.channel
        signed = {
            "other-nonce": replace(channel, nonce=bytes(16)),
            "other-exporter": replace(channel, exporter=bytes(32)),
        }.get(bug, channel)
        digest = manifest.digest if manifest else None
        shown = Presentation(self.device.public, self.root)
        statement = vouch_statement(
            signed,
            shown,
            "tybalt@a.test/x" if bug == "other-jid" else self.jid,
            bytes(32) if bug == "other-digest" else digest,
        )
        by = DevicePrivate.generate() if bug == "other-device" else self.device
        text = _spoilt(bug, by.sign(statement))
        attribute = f" digest='{b64(digest)}'" if digest else ""
        inside = ""
        if manifest is not None and sent:
            inside = f"<manifest>{manifest.document}</manifest>"
        if bug == "twice-manifest":
            inside *= 2
        return (
            f"<vouch xmlns='{AUTH}'{attribute}>{inside}{extra}"
            f"<proof>{text}</proof></vouch>"
        )


def device_signed(
    by: DevicePrivate, device: DevicePrivate, channel: Channel, root: bytes | None
) -> bytes:
    """A presentation of one device that another one signed."""
    return by.sign(Presentation(device.public, root).statement(channel))


def _spoilt(bug: str, signature: bytes) -> str:
    if bug == "unsigned":
        return ""
    if bug == "flipped":
        signature = bytes([signature[0] ^ 1]) + signature[1:]
    if bug == "short":
        signature = signature[:-1]
    return b64(signature)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
