"""What vouches for a device on the account that was bound (14.7, 14.9 to 14.11)."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import PeerFault, TrustFault
from ..keys.handshake import objection_statement, vouch_statement
from ..keys.identity import check_device_signature
from ..keys.manifest import Manifest, open_manifest
from ..keys.tokens import TOKEN_MS, TYP, open_token, token_claims
from ..suites.entropy import token as random_bytes
from ..suites.fields import unb64
from . import names
from .effects import Revoke
from .names import AUTH
from .phases import Phase
from .questions import (
    Answer,
    Issued,
    Linking,
    Object,
    Refused,
    Stale,
    Unavailable,
    Vouch,
    Vouched,
    Wanted,
    Yes,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from ..wire.stanza import Stanza
    from .line import Line
    from .unvouched import Unvouched

_JTI = 16


@dataclass(frozen=True, slots=True)
class _Shown:
    """What ``<vouch/>`` carries; the signature was not looked at."""

    digest: bytes | None
    manifest: bytes | None
    rollover: bytes | None
    code: str
    proof: bytes


class Vouching:
    """Judges what is shown, and says what follows."""

    def __init__(self, line: Line, unvouched: Unvouched) -> None:
        self._line = line
        self._unvouched = unvouched
        self._judging = False
        self._next: Stanza | None = None

    # -- what the device sends ------

    def on_vouch(self, stanza: Stanza) -> None:
        """``<vouch/>`` (14.7), at any time behind binding."""
        if self._judging:
            self._next = stanza
            return
        line = self._line
        shown, channel = line.shown, line.channel
        if shown is None or channel is None:
            self._bad_proof()
            return
        try:
            offered = _offered(stanza)
            statement = vouch_statement(channel, shown, line.jid, offered.digest)
            check_device_signature(shown.device, offered.proof, statement)
        except (PeerFault, TrustFault):
            self._bad_proof()
            return
        self._judging = True
        question = Vouch(
            line.account,
            shown.device,
            shown.root,
            offered.digest,
            offered.manifest,
            offered.rollover,
            offered.code,
            line.address,
        )
        line.ask(question, self._judged, hold=not self._open)

    def on_object(self, stanza: Stanza) -> None:
        """``<object/>``: a device in use objects to a reset (14.11)."""
        line = self._line
        try:
            if line.shown is None:
                raise PeerFault("an objection without a key")
            due = int(stanza.attrs.get("reset", ""))
            device = line.shown.device
            statement = objection_statement(line.domain, line.account, device, due)
            proof = unb64(stanza.tree().text or "")
            check_device_signature(device, proof, statement)
        except (PeerFault, TrustFault, ValueError, OverflowError):
            self._bad_proof()
            return
        line.tell(Object(line.account, device, due))

    def _bad_proof(self) -> None:
        self._line.refused("bad proof", counts=True)
        self._line.end("not-authorized", names.BAD_PROOF, "bad-proof")

    @property
    def _open(self) -> bool:
        return self._line.phase is Phase.OPEN

    # -- what the registry says ------

    def _judged(self, answer: Answer) -> None:
        line = self._line
        match answer:
            case Vouched():
                self._in_force(answer)
                return
            case Wanted():
                line.to_client(names.verdict("wanted"))
            case Stale(manifest=manifest):
                line.to_client(names.verdict("stale", manifest=manifest))
            case Linking(manifest=manifest):
                self._link(manifest)
            case Refused(condition=condition, text=text):
                line.refused(f"{condition} for {line.account}")
                line.end("not-authorized", text, condition)
            case Unavailable() if not self._open:
                line.end("resource-constraint", names.LATER)
            case _:
                line.note("trouble", f"{line.account} was not vouched for again")
        self._done()

    def _done(self) -> None:
        self._judging = False
        waiting, self._next = self._next, None
        if waiting is not None and not self._line.over:
            self.on_vouch(waiting)

    def _link(self, manifest: str) -> None:
        line = self._line
        line.note("linking")
        if not self._open:
            line.phase = Phase.LINKING
        line.to_client(names.verdict("linking", manifest=manifest))

    def _in_force(self, vouched: Vouched) -> None:
        line = self._line
        assert line.shown is not None
        if vouched.first:
            line.note("first-key", f"first key of {line.account}")
        others = tuple(one for one in vouched.removed if one != line.shown.device)
        if others:
            line.effects.append(Revoke(line.account, others))
        if vouched.token and self._counts(vouched.token):
            self._admit(vouched, vouched.token)
            return
        # the registry has verified it in the transaction that put it into force
        manifest = open_manifest(vouched.manifest.encode(), line.account)
        now = line.world.now()
        claims = token_claims(manifest, random_bytes(_JTI), now, vouched.previous)

        def signed(token: str | None) -> None:
            if token is None:
                self._judged(Unavailable("no token could be signed"))
            else:
                self._issue(vouched, manifest, token, now)

        line.sign(TYP, claims, signed, hold=not self._open)

    def _counts(self, token: str) -> bool:
        """Not where it was signed before the domain's key was changed."""
        line = self._line
        assert line.server is not None
        try:
            open_token(token.encode(), line.account, line.server.keys)
        except (PeerFault, TrustFault):
            return False
        return True

    def _issue(
        self, vouched: Vouched, manifest: Manifest, token: str, now: int
    ) -> None:
        line = self._line
        question = Issued(
            line.account,
            token,
            payload_digest(token),
            manifest.digest,
            (now + TOKEN_MS) // 1000 * 1000,
        )

        def written(answer: Answer) -> None:
            if isinstance(answer, Yes):
                self._admit(vouched, token)
            else:
                self._judged(Unavailable("the token could not be written down"))

        line.ask(question, written, hold=not self._open)

    def _admit(self, vouched: Vouched, token: str) -> None:
        line = self._line
        line.note("vouched")
        line.to_client(names.vouched(token, vouched.reset))
        if not self._open:
            self._unvouched.release()
        self._done()


def payload_digest(document: str) -> bytes:
    """SHA-256 of the payload of a document that this gate signed itself (3.4)."""
    payload = json.loads(document)["payload"]
    padded = payload + "=" * (-len(payload) % 4)
    return hashlib.sha256(urlsafe_b64decode(padded)).digest()


def _offered(stanza: Stanza) -> _Shown:
    """:raises PeerFault: the form of 14.7 is not kept."""
    if set(stanza.attrs) - {"digest"}:
        raise PeerFault("an unknown attribute")
    parts: dict[str, Element] = {}
    for child in stanza.tree():
        name = child.tag.removeprefix(f"{{{AUTH}}}")
        if name == child.tag or name in parts or name not in _PARTS or len(child):
            raise PeerFault("a part that is unknown or there twice")
        parts[name] = child
    text = stanza.attrs.get("digest")
    digest = None if text is None else unb64(text)
    if digest is not None and len(digest) != hashlib.sha256().digest_size:
        raise PeerFault("a digest of another size")
    if "manifest" in parts and digest is None:
        raise PeerFault("a manifest without its digest")
    code = parts["code"].text or "" if "code" in parts else ""
    return _Shown(
        digest,
        _document(parts.get("manifest")),
        _document(parts.get("rollover")),
        code,
        unb64(parts["proof"].text or "" if "proof" in parts else ""),
    )


_PARTS = ("manifest", "rollover", "code", "proof")


def _document(element: Element | None) -> bytes | None:
    return None if element is None else (element.text or "").encode()
