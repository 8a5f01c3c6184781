"""An open stream: everything passes, each stanza as one stanza (clause 17).

XEP-0198 counts stanzas on both sides of the gate.  So what is kept back is
replaced: a client's stanza by a ping of ours, whose answer is replaced by the
refusal; a server's stanza by an empty one.  Nothing is remembered for that:
the ping's id says what to answer, also after a resumption at another gate.
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
from .names import AUTH, ERRORS, HINTS, PING, REGISTER, SASL2
from .questions import Streamed

if TYPE_CHECKING:
    from ..wire.framing import Skipped
    from .line import Line
    from .registration import Registration
    from .vouching import Vouching

_MARK: Final = "tillie-gate-"
_LONGEST: Final = 2_048
_NO_COMPRESSION: Final = (
    f"<failure xmlns='{COMPRESSION}'><unsupported-method/></failure>".encode()
)
_QUERY: Final = f"{{{REGISTER}}}query"
_WHY: Final = {
    "clear-refused": "This server takes sealed messages only; send through Tillie.",
    "domain-unkeyed": (
        "The server of that domain has no valid certificate: nothing is sent to it."
    ),
}


class Relay:
    """Passes what an open stream brings, in both directions."""

    def __init__(
        self, line: Line, registration: Registration, vouching: Vouching
    ) -> None:
        self._line = line
        self._registration = registration
        self._vouching = vouching

    # -- from the client ------

    def on_client(self, stanza: Stanza) -> None:
        """Something came from the client."""
        line = self._line
        if stanza.is_stanza:
            if stanza.name == "iq" and stanza.children == (_QUERY,):
                self._registration.watch(stanza)
            line.to_backend(stanza.to_bytes())
        elif stanza.ns == AUTH:
            self._on_ours(stanza)
        elif stanza.ns in (SASL, SASL2, TLS):
            line.end("not-authorized", "the login is over")
        elif stanza.ns == COMPRESSION:
            line.to_client(_NO_COMPRESSION)
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

    def refuse(self, stanza: Stanza, condition: str, application: str) -> None:
        """Send a stanza of the client's back instead of passing it (17.1, 17.2).

        :param application: of clause 17.3.
        """
        facts = (stanza.name, stanza.id, stanza.to, condition, application)
        mark = _marked(facts)
        if len(mark) > _LONGEST:
            mark = _marked((stanza.name, None, None, condition, application))
        iq = {"type": "get", "id": mark, "to": self._line.domain}
        ping = Element("{jabber:client}iq", iq)
        SubElement(ping, f"{{{PING}}}ping")
        self._line.to_backend(serialise(ping))

    # -- from the server ------

    def on_backend(self, stanza: Stanza) -> None:
        """Something came from the server."""
        line = self._line
        if stanza.is_stanza:
            data = self._passing(stanza)
            if data is not None:
                line.to_client(data)
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

    def _passing(self, stanza: Stanza) -> bytes | None:
        if stanza.name != "iq" or stanza.type not in ("result", "error"):
            return stanza.to_bytes()
        back = _refused(stanza, self._line.domain, self._line.jid)
        return self._registration.on_backend(stanza) if back is None else back

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


def _marked(facts: tuple[str | None, ...]) -> str:
    text = json.dumps([*facts, random_bytes(6).hex()], separators=(",", ":"))
    return _MARK + urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def _refused(stanza: Stanza, domain: str, jid: str) -> bytes | None:
    """The refusal for which a ping of ours went out, if this is its answer."""
    mark = stanza.id or ""
    if not mark.startswith(_MARK) or stanza.from_ not in (None, domain):
        return None
    text = mark.removeprefix(_MARK)
    try:
        facts = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        name, ident, to, condition, application, _ = facts
    except (ValueError, TypeError):
        return None
    if name not in ("message", "presence", "iq") or application not in _WHY:
        return None
    ends = {"id": ident, "to": to, "from": jid}
    attrs = {key: value for key, value in ends.items() if isinstance(value, str)}
    returned = Stanza("{jabber:client}" + name, attrs, ())
    return names.refusal(
        returned, str(condition), _WHY[application], application, kind="cancel"
    )
