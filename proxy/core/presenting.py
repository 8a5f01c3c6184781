"""The way through a gate: this device is shown, and the gate proves itself first.

Nothing of the password leaves before :meth:`Presenting.take` has returned, and
a domain that once had a gate is never logged in to without (15.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from xml.etree.ElementTree import Element, SubElement

from ..errors import LocalFault, PeerFault, TrustFault
from ..keys.handshake import (
    Channel,
    Presentation,
    check_presented,
    clock_differs,
    objection_statement,
    present,
    vouch_statement,
)
from ..keys.identity import DevicePrivate
from ..keys.servers import open_server
from ..keys.tokens import in_time
from ..suites.fields import b64, unb64
from ..wire.tree import serialise
from .sasl import Family, family
from .servers import KEY, Shown
from .streams import out_of_order
from .vocabulary import Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..keys.manifest import Manifest
    from ..keys.servers import Pin, ServerDocument
    from ..wire.stanza import Stanza
    from .servers import Servers
    from .vocabulary import ServerOutput, TlsFacts

Outputs: TypeAlias = "list[ServerOutput]"

AUTH = "urn:x-tillie:auth:0"
_KEYS = f"{{{AUTH}}}keys"
_SERVER = f"{{{KEY}}}server"
_PROOF = f"{{{AUTH}}}proof"
_TIME = re.compile("[0-9]{1,16}", re.ASCII)
_ASK = (
    "ask its operator before you log in again; only if the operator says that this "
    "is meant: tillie forget "
)


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a device vouches for at its gate.

    :param jid: the full JID that the server bound.
    :param manifest: None where this device waits to be linked.
    :param sent: whether the manifest itself goes with its digest.
    :param code: of an enrolment, empty for none.
    :param rollover: the last that led to the root, empty for none.
    """

    jid: str
    manifest: Manifest | None
    sent: bool
    code: str = ""
    rollover: str = ""


class Presenting:
    """One stream's presentation.

    :param root: fingerprint of the account's root, None if there is none yet.
    :param now: gives Unix milliseconds.
    :param floor: the strongest mechanism that the account ever logged in with.

    ``notices`` are for the person, once the login succeeded.
    """

    def __init__(
        self,
        domain: str,
        device: DevicePrivate,
        root: bytes | None,
        servers: Servers,
        now: Callable[[], int],
        floor: str | None = None,
    ) -> None:
        self.notices: list[str] = []
        self.proved = False
        self._domain = domain
        self._device = device
        self._shown = Presentation(device.public, root)
        self._servers = servers
        self._now = now
        self._floor = floor
        self._channel: Channel | None = None
        self._named: Pin | None = None

    @property
    def root(self) -> bytes | None:
        """The root that was presented."""
        return self._shown.root

    # -- before login ------

    def begin(self, features: Element, facts: TlsFacts | None) -> Outputs:
        """Answer the features before login: nothing where there is no gate.

        :raises TrustFault: the password must not be sent on this stream.
        :raises PeerFault: the gate's offer is malformed.
        """
        keys = features.find(_KEYS)
        if keys is None:
            if self._servers.gated(self._domain):
                raise TrustFault(
                    f"{self._domain} had a gate that proves itself, and now shows "
                    "none; the password was not sent",
                    hint=_ASK + self._domain,
                )
            return []
        if facts is None or facts.login is None:
            raise TrustFault(
                f"the gate of {self._domain} was reached without TLS 1.3; the "
                "password was not sent",
                hint="someone on the way may be altering the connection",
            )
        self._check_floor()
        channel = Channel(self._domain, unb64(keys.get("nonce", "")), facts.login)
        self._channel = channel
        self._named = self._current_pin()
        return [Send(serialise(self._present(channel)))]

    def _check_floor(self) -> None:
        """A gate stands for channel binding by a person's word only.  That its key is
        pinned says little: a form that was asked for, a login under another name or
        a look-up by way of another server pins what whoever stood there then had."""
        floor = self._floor
        if floor is None or family(floor) is not Family.BOUND:
            return
        raise TrustFault(
            f"{self._domain} shows a gate for the first time, and this account has "
            f"logged in with {floor} before, which no gate has; the password was "
            "not sent",
            hint="someone on the way may have put it there: " + _ASK + self._domain,
        )

    def _current_pin(self) -> Pin | None:
        pin, now = self._servers.pin(self._domain), self._now()
        if pin is None or not in_time(pin.held.issued, pin.held.expires, now):
            return None
        return pin

    def _present(self, channel: Channel) -> Element:
        element = Element(f"{{{AUTH}}}present", {"device": b64(self._shown.device)})
        if self._shown.root is not None:
            element.set("root", b64(self._shown.root))
        if self._named is not None:
            element.set("server", b64(self._named.held.digest))
        element.text = b64(present(channel, self._device, self._shown.root))
        return element

    def take(self, stanza: Stanza) -> None:
        """Judge the gate's answer; when this returns, it has proved itself.

        :raises TrustFault: it did not.
        :raises PeerFault: the answer has another form.
        """
        if (stanza.ns, stanza.name) != (AUTH, "presented"):
            raise out_of_order(f"the gate of {self._domain}", stanza.name)
        assert self._channel is not None
        tree = stanza.tree()
        text = stanza.attrs.get("time", "")
        if _TIME.fullmatch(text) is None:
            raise PeerFault(f"the gate of {self._domain} says no time")
        time = int(text)
        shown = Shown.read(tree.find(_SERVER))
        offered = None
        if shown is not None:
            offered = open_server(shown.document.encode(), self._domain)
        self._check(offered, time, unb64(tree.findtext(_PROOF) or ""))
        if offered is None or shown is None:
            self._still_pinned()
            self._servers.proved(self._domain)
        else:
            self._pin(offered, shown)
        self.proved = True
        if clock_differs(time, self._now()):
            self.notices.append(
                f"the clock of {self._domain} and this computer's are more than 5 "
                "minutes apart: set the one that is wrong"
            )

    def _check(self, offered: ServerDocument | None, time: int, proof: bytes) -> None:
        """The proof, by the key that is shown; whether that is the domain's is
        judged next, and nothing is pinned before it was proved."""
        document = offered or (self._named.held if self._named else None)
        if document is None or self._channel is None:
            raise self._unproved()
        try:
            check_presented(self._channel, self._shown, document.keys, time, proof)
        except TrustFault as fault:
            raise self._unproved() from fault

    def _still_pinned(self) -> None:
        """The key that was named when this began is the domain's now, too: another
        stream may have followed a rollover meanwhile."""
        pin = self._servers.pin(self._domain)
        if self._named is None or pin is None:
            raise self._unproved()
        if pin.held.keys != self._named.held.keys:
            raise self._unproved()

    def _pin(self, offered: ServerDocument, shown: Shown) -> None:
        rollovers = [one.encode() for one in shown.rollovers]
        verdict = self._servers.judge(offered, rollovers, self._now(), "stream")
        if not verdict.taken and verdict.pin.held.keys != offered.keys:
            raise TrustFault(
                f"the gate of {self._domain} shows another key than before, and "
                "nothing vouches for it; the password was not sent",
                hint=_ASK + self._domain,
            )
        if verdict.notice:
            self.notices.append(verdict.notice)

    def _unproved(self) -> TrustFault:
        return TrustFault(
            f"the gate of {self._domain} did not prove that it holds the key of "
            f"{self._domain}; the password was not sent",
            hint="someone on the way may be altering the connection; try from "
            "another network, then ask the server's operator",
        )

    # -- behind login ------

    def vouch(self, keys: Vouched) -> bytes:
        """The ``<vouch/>`` of 14.7."""
        manifest = keys.manifest
        channel = self._proven_channel()
        digest = manifest.digest if manifest is not None else None
        element = Element(f"{{{AUTH}}}vouch")
        if manifest is not None:
            element.set("digest", b64(manifest.digest))
        if manifest is not None and keys.sent:
            SubElement(element, f"{{{AUTH}}}manifest").text = manifest.document
        if keys.rollover:
            SubElement(element, f"{{{AUTH}}}rollover").text = keys.rollover
        if keys.code:
            SubElement(element, f"{{{AUTH}}}code").text = keys.code
        statement = vouch_statement(channel, self._shown, keys.jid, digest)
        SubElement(element, _PROOF).text = b64(self._device.sign(statement))
        return serialise(element)

    def objection(self, account: str, due: int) -> bytes:
        """The ``<object/>`` of 14.11 against a reset that is due at *due*."""
        element = Element(f"{{{AUTH}}}object", {"reset": str(due)})
        statement = objection_statement(self._domain, account, self._shown.device, due)
        element.text = b64(self._device.sign(statement))
        return serialise(element)

    def _proven_channel(self) -> Channel:
        if self._channel is None or not self.proved:
            raise LocalFault("there is no gate on this stream to vouch at")
        return self._channel
