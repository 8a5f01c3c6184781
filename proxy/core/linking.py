"""A second device joins an account by a one-time code (protocol.md, 7; I5).

The old device shows a code of 128 bits; the new one, told the code by its
person, asks for its place in the manifest under a MAC of that code, and the
old one answers with the new manifest under the same.  The two messages go
between own full JIDs and are never stored.  (Prosody delivers no ``headline`` to
the own bare JID, and other types only to the resources of highest priority.)
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from ..errors import Fault, TrustFault
from ..keys.identity import ED25519_SIZE, check_device_signature
from ..keys.manifest import check_label, device_statement, open_manifest
from ..rules import classes
from ..suites.entropy import stanza_id, token
from ..suites.fields import b64, fields, unb64
from ..wire.stanza import Cleared
from . import guard
from .account import Account
from .directory import Found, Outcome

REQUEST = f"{{{classes.LANE}}}link-request"
ANSWER = f"{{{classes.LANE}}}link-answer"
VALID = 10 * 60 * 1000
WAIT = 20_000
MOST_TRIES = 5

Done = Callable[[Fault | None], None]


@dataclass(slots=True)
class _Offer:
    code: bytes
    until: int
    tries: int = 0


@dataclass(slots=True)
class _Joining:
    code: bytes
    until: int
    done: Done
    rollovers: tuple[str, ...] = ()


def show_code(code: bytes) -> str:
    """The code as a person reads it: 26 letters and digits in groups of five."""
    text = base64.b32encode(code).decode().rstrip("=")
    return "-".join(text[at : at + 5] for at in range(0, len(text), 5))


def read_code(text: str) -> bytes:
    """Undo :func:`show_code`, whatever the case and the dashes.

    :raises TrustFault: not a code.
    """
    letters = "".join(text.split()).replace("-", "").upper()
    try:
        code = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError:
        code = b""
    if len(code) != 16:
        raise TrustFault(
            "that is not a link code",
            hint="copy it as tillie link shows it on the other device",
        )
    return code


class Linking:
    """Both sides of linking for one account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._offer: _Offer | None = None
        self.added = False
        self._joining: _Joining | None = None

    # -- the old device ------

    def offer(self) -> str:
        """A fresh code, good for ten minutes and one device.

        :raises TrustFault: devices cannot be added from here.
        """
        identity = self._account.identity
        if not identity.ready or not identity.owner:
            raise TrustFault(
                f"devices of {self._account.jid} cannot be added from here",
                hint="run tillie link on the device that made the account's keys",
            )
        identity.check_settled()
        self._offer = _Offer(token(16), self._account.clock() + VALID)
        return show_code(self._offer.code)

    def requested(self, element: Element, sender: str) -> Cleared | None:
        """A link request came from the own full JID *sender*; the answer to send.

        :raises TrustFault: it does not fit the code that is shown.
        """
        offer, account = self._offer, self._account
        if offer is None or account.clock() > offer.until or account.identity.pending:
            return None
        offer.tries += 1
        self.added = False
        if offer.tries >= MOST_TRIES:
            # a code of 128 bits is not guessed; somebody floods
            self._offer = None
        public = unb64(element.get("device", ""))
        if len(public) != ED25519_SIZE:
            raise TrustFault("a link request names no device")
        label = check_label(element.get("label", "")[:64])
        identity = account.identity
        expected = _request_mac(
            offer.code, account.jid, identity.fingerprint, public, label
        )
        if not hmac.compare_digest(expected, unb64(element.get("mac", ""))):
            account.notice(account.jid, "a link request did not fit the code")
            return _refusal(sender, public)
        signature = unb64(element.text or "")
        statement = device_statement(account.jid, identity.fingerprint, public)
        if element.get("root") == b64(identity.fingerprint):
            check_device_signature(public, signature, statement)
        else:
            raise TrustFault("a link request names another root")
        self._offer, self.added = None, True
        identity.add_device(public, signature, label, account.clock())
        account.ratchets.note_joined(public)
        account.ratchets.rotate_all()
        account.notice(account.jid, f"the device “{label}” was linked")
        return self._answer(offer.code, sender, public)

    def _answer(self, code: bytes, to: str, public: bytes) -> Cleared:
        manifest = self._account.identity.manifest
        message = _message(to)
        element = SubElement(message, ANSWER, {"device": b64(public)})
        element.set("mac", b64(_answer_mac(code, public, manifest.digest)))
        element.text = manifest.document
        return guard.own_message(message)

    # -- the new device ------

    def start_over(self) -> None:
        """This device was removed, and its key never returns (3.5): make another."""
        account = self._account
        account.identity.renew_device(account.clock())
        account.ratchets.rotate_all()
        account.publication.removed()
        account.notice(
            account.jid,
            "this device has a new key now, to be linked to the account; what it could "
            "read before, it still can",
        )

    def join(
        self, text: str, done: Done
    ) -> Callable[[Outcome, list[str]], list[Cleared]]:
        """Begin to join with the code *text*: what to do with the own record.

        The session looks the own record up, hands it to the returned function
        with the full JIDs of the own other resources, and sends what that gives.
        *done* is called once, with a fault or None.

        :raises TrustFault: not a code, or this device is linked already.
        """
        account = self._account
        if account.identity.ready:
            raise TrustFault(f"this device is linked to {account.jid} already")
        code = read_code(text)
        if account.identity.removed:
            self.start_over()
        account.identity.ensure_device(account.clock())
        joining = _Joining(code, account.clock() + WAIT, done)
        self._joining = joining

        def with_record(outcome: Outcome, others: list[str]) -> list[Cleared]:
            if not isinstance(outcome, Found):
                self._finish(
                    TrustFault("the account's keys could not be read from the server")
                )
                return []
            joining.rollovers = outcome.rollovers
            return [self._request(code, outcome, to) for to in others or [account.jid]]

        return with_record

    def _request(self, code: bytes, found: Found, to: str) -> Cleared:
        account = self._account
        device = account.identity.device
        root = found.manifest.root.fingerprint
        label = account.settings.label
        message = _message(to)
        element = SubElement(
            message,
            REQUEST,
            {"device": b64(device.public), "label": label, "root": b64(root)},
        )
        mac = _request_mac(code, account.jid, root, device.public, label)
        element.set("mac", b64(mac))
        statement = device_statement(account.jid, root, device.public)
        element.text = b64(device.sign(statement))
        return guard.own_message(message)

    def answered(self, element: Element) -> bool:
        """Whether this was the answer to the own request, and it is taken.

        :raises TrustFault: it does not fit the code.
        """
        joining, account = self._joining, self._account
        if joining is None:
            return False
        public = account.identity.device.public
        if element.get("device") != b64(public):
            return False
        if element.get("mac") is None:
            # unauthenticated, so it can only end the attempt sooner
            self._finish(
                TrustFault(
                    "the other device did not take the code",
                    hint="run tillie link there again and copy the new code",
                )
            )
            return False
        manifest = open_manifest((element.text or "").encode(), account.jid)
        expected = _answer_mac(joining.code, public, manifest.digest)
        if not hmac.compare_digest(expected, unb64(element.get("mac", ""))):
            raise TrustFault("a link answer does not fit the code")
        listed = manifest.device(public)
        if listed is None or listed.removed is not None:
            raise TrustFault("a link answer does not list this device")
        account.identity.join(manifest, joining.rollovers, account.clock())
        self._finish(None)
        return True

    def tick(self, now: int) -> None:
        if self._joining is not None and now > self._joining.until:
            self._finish(
                TrustFault(
                    "the other device did not answer",
                    hint="is it online and the code fresh? run tillie link there again",
                )
            )

    def _finish(self, fault: Fault | None) -> None:
        joining, self._joining = self._joining, None
        if joining is not None:
            joining.done(fault)


def _refusal(to: str, public: bytes) -> Cleared:
    message = _message(to)
    SubElement(message, ANSWER, {"device": b64(public)})
    return guard.own_message(message)


def _message(to: str) -> Element:
    attributes = {"to": to, "type": "normal", "id": stanza_id()}
    message = Element("{jabber:client}message", attributes)
    for hint in ("no-store", "no-copy"):
        SubElement(message, f"{{{classes.HINTS}}}{hint}")
    return message


def _request_mac(
    code: bytes, jid: str, root: bytes, public: bytes, label: str
) -> bytes:
    statement = fields("link-request", jid, root, public, label)
    return hmac.digest(code, statement, "sha256")


def _answer_mac(code: bytes, public: bytes, digest: bytes) -> bytes:
    return hmac.digest(code, fields("link-answer", public, digest), "sha256")
