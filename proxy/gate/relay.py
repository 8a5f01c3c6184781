"""An open stream: everything passes, each stanza as one stanza (clause 17).

XEP-0198 counts stanzas on both sides of the gate.  So what is kept back is
replaced: a client's stanza by a ping of ours, whose answer is replaced by the
refusal; a server's stanza by an empty one, or by a ping to the client, whose
answer is replaced by what its sender is told.  Nothing is remembered for that:
the ping's id says what to answer, also after a resumption at another gate.
What is kept back is ``gate.border``'s to say.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement

from ..core.streams import COMPRESSION, MANAGEMENT, SASL, STANZA_CONDITIONS, TLS
from ..suites.entropy import token as random_bytes
from ..wire.stanza import Stanza
from ..wire.tree import serialise
from . import names
from .border import Border
from .names import AUTH, ERRORS, HINTS, PING, REGISTER, SASL2
from .questions import Streamed

if TYPE_CHECKING:
    from ..wire.framing import Skipped
    from .line import Line
    from .registration import Registration
    from .vouching import Vouching

_STANZAS: Final = ("message", "presence", "iq")
_MARK: Final = "tillie-gate-"
_LONGEST: Final = 2_048
_NO_COMPRESSION: Final = (
    f"<failure xmlns='{COMPRESSION}'><unsupported-method/></failure>".encode()
)
_QUERY: Final = f"{{{REGISTER}}}query"
_TEXT_MOST: Final = 500
_BOUNCE: Final = "bounce"
_WHY: Final = {
    "clear-refused": "This server takes sealed messages only; send through Tillie.",
    "domain-unkeyed": (
        "The server of that domain has no valid certificate: nothing is sent to it."
    ),
}
_CLEAR_HERE: Final = (
    "Not delivered: the server of this address takes sealed messages only."
)


class Relay:
    """Passes what an open stream brings, in both directions."""

    def __init__(
        self, line: Line, registration: Registration, vouching: Vouching
    ) -> None:
        self._line = line
        self._registration = registration
        self._vouching = vouching
        self.border = Border(line, self.refuse, self.leave_out, self.bounce)

    # -- from the client ------

    def on_client(self, stanza: Stanza) -> None:
        """Something came from the client."""
        line = self._line
        if stanza.is_stanza:
            if stanza.name == "iq" and stanza.children == (_QUERY,):
                stanza = self._registration.watch(stanza)
            told = _bounced(stanza, line.domain)
            if told is not None:
                line.to_backend(told)
            else:
                self.border.outward(stanza, line.to_backend)
        elif stanza.ns == AUTH:
            self._on_ours(stanza)
        elif stanza.ns in (SASL, SASL2, TLS):
            line.end("not-authorized", "the login is over")
        elif stanza.ns == COMPRESSION:
            line.to_client(_NO_COMPRESSION)
        elif stanza.name in _STANZAS:
            # in a server's namespace it is one to some servers, and nobody has
            # judged it here
            line.end("invalid-namespace", "a client's stanzas are of jabber:client")
        else:
            line.to_backend(stanza.to_bytes())

    def _on_ours(self, stanza: Stanza) -> None:
        if stanza.name == "vouch":
            self._vouching.on_vouch(stanza)
        elif stanza.name == "object":
            self._vouching.on_object(stanza)
        else:
            self._line.refused("bad proof", counts=True)
            self._line.end("policy-violation", names.BAD_PROOF, "bad-proof")

    def refuse(
        self, stanza: Stanza, condition: str, application: str, text: str = ""
    ) -> None:
        """Send a stanza of the client's back instead of passing it (17.1, 17.2).

        :param application: of clause 17.3; empty for what is answered by nobody:
            the client gets an empty stanza then.
        :param text: for the person.
        """
        why = (condition, application, text[:_TEXT_MOST])
        mark = _marked((stanza.name, stanza.id, stanza.to, *why))
        if len(mark) > _LONGEST:
            mark = _marked((stanza.name, stanza.id, stanza.to, *why[:2], ""))
        if len(mark) > _LONGEST:
            mark = _marked((stanza.name, None, None, *why))
        self._line.to_backend(_ping({"id": mark, "to": self._line.domain}))

    # -- from the server ------

    def on_backend(self, stanza: Stanza) -> None:
        """Something came from the server."""
        line = self._line
        if stanza.is_stanza:
            self._on_stanza(stanza)
            return
        if stanza.ns == AUTH:
            line.note("trouble", "the server spoke as the gate")
            return
        if stanza.ns == SASL:
            line.note("trouble", "the server ended a login that nobody asked for")
            line.end("internal-server-error", "the server is out of step")
            return
        self._watch(stanza)
        line.to_client(stanza.to_bytes())

    def _on_stanza(self, stanza: Stanza) -> None:
        line = self._line
        if stanza.name == "iq" and stanza.type in ("result", "error"):
            back = _refused(stanza, line) if line.by_server(stanza) else None
            if back is None:
                self.border.inward(stanza, lambda _: self._answer(stanza))
            elif back:
                line.to_client(back)
            else:
                self.leave_out(Stanza("{jabber:client}message", {}, ()))
        else:
            self.border.inward(stanza, line.to_client)

    def _answer(self, stanza: Stanza) -> None:
        data = self._registration.on_backend(stanza)
        if data is not None:
            self._line.to_client(data)

    def _watch(self, stanza: Stanza) -> None:
        """Write down under which id the stream can be resumed (14.13)."""
        enabled: Element | None = None
        if (stanza.ns, stanza.name) == (MANAGEMENT, "enabled"):
            enabled = stanza.tree()
        elif (stanza.ns, stanza.name) == (SASL2, "success"):
            enabled = stanza.tree().find(f".//{{{MANAGEMENT}}}enabled")
        if enabled is None or enabled.get("resume") not in ("true", "1"):
            return
        line = self._line
        if previd := enabled.get("id"):
            line.tell(Streamed(line.account, previd, line.jid))

    def bounce(self, stanza: Stanza) -> None:
        """Give the client a ping of ours for a message that is not passed; when it
        answers, the sender is told (17.1)."""
        mark = _marked((_BOUNCE, stanza.id, stanza.from_))
        if len(mark) > _LONGEST:
            mark = _marked((_BOUNCE, None, stanza.from_))
        ends = {"id": mark, "from": self._line.domain, "to": self._line.jid}
        self._line.to_client(_ping(ends))

    def leave_out(self, stanza: Stanza | Skipped) -> None:
        """Give the client an empty stanza for one that is not passed.

        An iq that wants an answer keeps its head: the client itself says that it
        knows nothing of the kind.
        """
        attrs = {
            name: value
            for name in ("from", "to", "id", "type")
            if (value := stanza.attrs.get(name)) is not None
        }
        if stanza.name == "iq":
            made = Element("{jabber:client}iq", attrs)
            if stanza.attrs.get("type") == "error":
                error = SubElement(made, "{jabber:client}error", {"type": "modify"})
                SubElement(error, f"{{{STANZA_CONDITIONS}}}policy-violation")
            elif stanza.attrs.get("type") in ("get", "set"):
                SubElement(made, f"{{{ERRORS}}}left-out")
        else:
            attrs = {"from": self._line.domain, "type": "headline"}
            made = Element("{jabber:client}message", attrs)
            SubElement(made, f"{{{HINTS}}}no-store")
        self._line.to_client(serialise(made))


def _ping(ends: dict[str, str]) -> bytes:
    ping = Element("{jabber:client}iq", {"type": "get", **ends})
    SubElement(ping, f"{{{PING}}}ping")
    return serialise(ping)


def _marked(facts: tuple[str | None, ...]) -> str:
    text = json.dumps([*facts, random_bytes(6).hex()], separators=(",", ":"))
    return _MARK + urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def _facts(mark: str | None) -> list[str]:
    """What :func:`_marked` was given, None as empty; empty if it is no mark."""
    text = (mark or "").removeprefix(_MARK)
    if not mark or text == mark:
        return []
    try:
        facts = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return [one if isinstance(one, str) else "" for one in facts][:-1]
    except (ValueError, TypeError):
        return []


def _refused(stanza: Stanza, line: Line) -> bytes | None:
    """The refusal for which a ping of ours went out, if this is its answer; empty
    bytes for what is answered by nobody."""
    facts = _facts(stanza.id)
    if len(facts) != 6 or facts[0] not in ("message", "presence", "iq"):
        return None
    name, ident, to, condition, application, text = facts
    if not application:
        return b""
    if application not in _WHY:
        return None
    ends = {"id": ident, "to": to, "from": line.jid}
    attrs = {key: value for key, value in ends.items() if value}
    returned = Stanza("{jabber:client}" + name, attrs, ())
    return names.refusal(
        returned, condition, text or _WHY[application], application, kind="cancel"
    )


def _bounced(stanza: Stanza, domain: str) -> bytes | None:
    """What the sender of a message that came in clear is told, if this is the
    client's answer to the ping that it got instead."""
    facts = _facts(stanza.id)
    if stanza.name != "iq" or stanza.type not in ("result", "error"):
        return None
    if len(facts) != 3 or facts[0] != _BOUNCE or stanza.to not in (None, domain):
        return None
    attrs = {"id": facts[1], "from": facts[2]}
    returned = {key: value for key, value in attrs.items() if value}
    return names.refusal(
        Stanza("{jabber:client}message", returned, ()),
        "policy-violation",
        _CLEAR_HERE,
        "clear-refused",
        kind="modify",
    )
