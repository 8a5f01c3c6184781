"""Our stream to the server as a component of its own (XEP-0114).

Bytes and calls in, outputs back; no clock, no sockets.  What the server does
wrong is never an exception: it is a last ``Ended``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias
from xml.etree.ElementTree import Element

from ..core.streams import (
    END,
    STREAM_CONDITIONS,
    STREAMS,
    read_error,
    shown,
)
from ..core.vocabulary import Close, Ended, Incoming, Send
from ..errors import EnvFault, Fault, LocalFault, PeerFault
from ..wire.framing import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    COMPONENT_NS,
    Broken,
    Closed,
    Event,
    Framer,
    Opened,
    Received,
    Skipped,
)
from ..wire.stanza import Stanza, stream_error
from ..wire.tree import quoted, serialise, split_name

_HANDSHAKE: Final = f"{{{COMPONENT_NS}}}handshake"
_ERROR: Final = f"{{{STREAMS}}}error"
_STANZAS: Final = frozenset({"message", "presence", "iq"})


@dataclass(frozen=True, slots=True)
class Ready:
    """The server took the handshake: stanzas flow."""


ComponentOutput: TypeAlias = Send | Close | Ready | Incoming | Ended


class Awaiting(Enum):
    """What this leg waits for."""

    CONNECTION = auto()
    HEADER = auto()
    HANDSHAKE = auto()
    STANZAS = auto()
    NOTHING = auto()


class ComponentLeg:
    """One component stream, from its connection to its end.

    :param address: the component's domain, for instance ``keys.capulet.example``.
    :param secret: shared with the server; it never goes over the line itself.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self.awaiting = Awaiting.CONNECTION
        self._address = address
        self._secret = secret
        # What strangers send comes by way of the server: one of their stanzas that
        # is too long does not end the stream.
        self._framer = Framer(BEFORE_LOGIN, skip_over_limits=True, content=COMPONENT_NS)
        self._outputs: list[ComponentOutput] = []

    @property
    def ready(self) -> bool:
        return self.awaiting is Awaiting.STANZAS

    @property
    def over(self) -> bool:
        return self.awaiting is Awaiting.NOTHING

    def connected(self) -> list[ComponentOutput]:
        self.awaiting = Awaiting.HEADER
        return [
            Send(
                (
                    f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT_NS}' "
                    f"xmlns:stream='{STREAMS}' to='{quoted(self._address)}'>"
                ).encode()
            )
        ]

    def data(self, data: bytes) -> list[ComponentOutput]:
        if self.awaiting in (Awaiting.CONNECTION, Awaiting.NOTHING):
            return []
        for event in self._framer.feed(data):
            self._event(event)
            if self.over:
                break
        return self._take()

    def send(self, element: Element) -> list[ComponentOutput]:
        """Write a stanza; one of a client's namespace is put into the stream's.

        :raises LocalFault: the stream is not ready, or it is no stanza.
        """
        name = split_name(element.tag)[1]
        if not self.ready or name not in _STANZAS:
            raise LocalFault("a component stream takes stanzas, when it is ready")
        return [Send(serialise(_within(element, name), inherited=COMPONENT_NS))]

    def close(self) -> list[ComponentOutput]:
        """We end it in good order."""
        if self.awaiting not in (Awaiting.CONNECTION, Awaiting.NOTHING):
            self._outputs += [Send(END), Close()]
        self._over(None)
        return self._take()

    def lost(self) -> list[ComponentOutput]:
        """The connection is gone."""
        self._over(EnvFault("the connection was cut"))
        return self._take()

    # -- events -------------------------------------------------------------

    def _event(self, event: Event) -> None:
        match event:
            case Opened(attrs=attrs):
                self._shake(attrs.get("id", ""))
            case Received(stanza=stanza):
                self._received(stanza)
            case Skipped():
                pass
            case Closed():
                self._outputs += [Send(END), Close()]
                self._over(EnvFault("the server closed the component's stream"))
            case Broken(condition=condition, text=text):
                self._fail(PeerFault(text, condition=condition))

    def _shake(self, stream_id: str) -> None:
        if not stream_id:
            self._fail(PeerFault("the server gave the stream no id"))
            return
        # SHA-1 is what XEP-0114, 3 has.  What it keeps from who listens is the
        # secret's text, and nothing rests on collisions.
        digest = hashlib.sha1(
            stream_id.encode() + self._secret, usedforsecurity=False
        ).hexdigest()
        self._outputs.append(Send(f"<handshake>{digest}</handshake>".encode()))
        self.awaiting = Awaiting.HANDSHAKE

    def _received(self, stanza: Stanza) -> None:
        tag = f"{{{stanza.ns}}}{stanza.name}"
        if tag == _ERROR:
            self._outputs += [Send(END), Close()]
            self._over(_refusal(stanza.tree()))
        elif self.awaiting is Awaiting.HANDSHAKE:
            if tag != _HANDSHAKE:
                self._fail(PeerFault("the server answered something to the handshake"))
                return
            self.awaiting = Awaiting.STANZAS
            self._framer.limits = AFTER_LOGIN
            self._outputs.append(Ready())
        elif stanza.ns == COMPONENT_NS and stanza.name in _STANZAS:
            self._outputs.append(Incoming(stanza))
        # any other element is of an extension that we did not ask for

    def _fail(self, fault: PeerFault) -> None:
        self._outputs += [Send(stream_error(fault.condition, fault.text)), Close()]
        self._over(fault)

    def _over(self, fault: Fault | None) -> None:
        if not self.over:
            self.awaiting = Awaiting.NOTHING
            self._outputs.append(Ended(fault))

    def _take(self) -> list[ComponentOutput]:
        outputs, self._outputs = self._outputs, []
        return outputs


def _within(element: Element, name: str) -> Element:
    """*element* in the stream's namespace, and with it its ``<error/>``."""
    stanza = Element(f"{{{COMPONENT_NS}}}{name}", element.attrib)
    for child in element:
        if child.tag == "{jabber:client}error":
            error = Element(f"{{{COMPONENT_NS}}}error", child.attrib)
            error.extend(child)
            stanza.append(error)
        else:
            stanza.append(child)
    return stanza


def _refusal(error: Element) -> EnvFault:
    condition, _, text = read_error(error, STREAM_CONDITIONS)
    hints = {
        "not-authorized": "is the secret the one in the server's configuration?",
        "host-unknown": "does the server's configuration name this component?",
        "conflict": "another gate serves it; this one tries again in a while",
    }
    said = f" ({shown(text)})" if text else ""
    return EnvFault(
        f"the server refused the component: {condition}{said}",
        condition=condition or None,
        hint=hints.get(condition, ""),
    )
