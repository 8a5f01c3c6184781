"""Before login: the presentation, and every road in (clauses 14.3 to 14.6).

Under ``keys-only`` nothing that a client says here reaches the server before it
has presented a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement

from ..core.streams import COMPRESSION, MANAGEMENT, SASL, STREAMS, TLS
from ..errors import PeerFault, TrustFault
from ..keys.handshake import (
    Presentation,
    check_present,
    presented_statement,
)
from ..suites.fields import b64, unb64
from ..wire.stanza import Stanza
from ..wire.tree import serialise
from . import names
from .claims import claimed
from .disclosure import Disclosure
from .names import AUTH, KEY, LEGACY_AUTH, REGISTER, SASL2
from .phases import Phase
from .questions import Answer, MayTry, Unavailable, Yes

if TYPE_CHECKING:
    from ..keys.servers import ServerDocument
    from .line import Line
    from .policy import Policy
    from .registration import Registration

FAILURES_MOST: Final = 5
"""So many logins may fail on one connection (RFC 6120, 6.4.5)."""

_NO_TLS = f"<failure xmlns='{TLS}'/></stream:stream>".encode()
_NO_COMPRESSION = (
    f"<failure xmlns='{COMPRESSION}'><unsupported-method/></failure>".encode()
)
_IN_SASL: Final = {
    SASL: frozenset({"response", "abort"}),
    SASL2: frozenset({"response", "abort", "next", "task-data"}),
}


@dataclass(slots=True)
class Attempt:
    """A login that is relayed.

    :param ns: of SASL or SASL2.
    :param silent: no message with data has been seen of it yet.
    """

    ns: str
    mechanism: str
    silent: bool


class Door:
    """What a client may do before it is logged in."""

    def __init__(self, line: Line, registration: Registration) -> None:
        self.attempt: Attempt | None = None
        self._line = line
        self._registration = registration
        self._disclosure = Disclosure(line)
        self._presenting = False
        self._failures = 0
        self._under_way = False

    @property
    def barred(self) -> bool:
        """Whether nobody at all may go on here without a key."""
        return self._line.shown is None and self._announced == "keys-only"

    def announced(self) -> bytes:
        """What the features say of keys (14.2)."""
        channel = self._line.channel
        assert channel is not None
        nonce = b64(channel.nonce)
        keys = f"<keys xmlns='{AUTH}' nonce='{nonce}' policy='{self._announced}'/>"
        return keys.encode()

    @property
    def _announced(self) -> Policy:
        line = self._line
        return line.world.policies.announced(line.domain, line.address)

    def on_client(self, stanza: Stanza) -> None:
        """Something came while nobody is logged in and no attempt runs."""
        road = _ROADS.get((stanza.ns, stanza.name))
        if road is None:
            self._line.end("not-authorized", "log in first; nothing was done with it")
        else:
            road(self, stanza)

    def on_client_in_sasl(self, stanza: Stanza) -> None:
        """Something came while an attempt runs."""
        attempt = self.attempt
        assert attempt is not None
        if stanza.ns != attempt.ns or stanza.name not in _IN_SASL[attempt.ns]:
            self._line.end("not-authorized", "a login is under way")
        elif attempt.silent and stanza.name == "response":
            attempt.silent = False
            self._try(attempt, stanza, stanza.tree().text or "")
        else:
            self._line.to_backend(stanza.to_bytes())

    # -- presentation ------

    def bad_proof(self) -> None:
        """The one answer to every wrong presentation (14.5)."""
        self._line.refused("bad proof", counts=True)
        self._line.end("policy-violation", names.BAD_PROOF, "bad-proof")

    def _on_present(self, stanza: Stanza) -> None:
        line = self._line
        assert line.channel is not None
        try:
            if self._presenting:
                raise PeerFault("a second presentation")
            shown, signature = _presentation(stanza)
            check_present(line.channel, shown, signature)
            known = _optional(stanza, "server")
        except (PeerFault, TrustFault):
            self.bad_proof()
            return
        self._presenting = True
        time = line.world.now()
        statement = presented_statement(line.channel, shown, time)

        def proved(
            proof: bytes | None,
            server: ServerDocument | None,
            rollovers: tuple[str, ...],
        ) -> None:
            if proof is None or server is None:
                line.end("resource-constraint", names.LATER)
                return
            line.shown, line.server = shown, server
            line.note("presented")
            line.to_client(_presented(time, proof, server, rollovers, known))

        line.prove(statement, proved)

    def _on_state(self, stanza: Stanza) -> None:
        self._disclosure.on_state(stanza)

    # -- SASL ------

    def _on_auth(self, stanza: Stanza) -> None:
        mechanism = stanza.attrs.get("mechanism", "")
        text = stanza.tree().text or ""
        self._begin(Attempt(SASL, mechanism, silent=not text), stanza, text)

    def _on_authenticate(self, stanza: Stanza) -> None:
        mechanism = stanza.attrs.get("mechanism", "")
        text = stanza.tree().findtext(f"{{{SASL2}}}initial-response") or ""
        self._begin(Attempt(SASL2, mechanism, silent=not text), stanza, text)

    def _begin(self, attempt: Attempt, stanza: Stanza, text: str) -> None:
        line = self._line
        if line.world.failures.exhausted(line.address, line.world.now()):
            self._fail(attempt, "temporary-auth-failure", names.TOO_MANY)
            line.end("policy-violation", names.TOO_MANY)
        elif self.barred:
            self._refuse(attempt, "no key", "not-authorized", names.NO_KEY)
        else:
            self._try(attempt, stanza, text)

    def _try(self, attempt: Attempt, stanza: Stanza, text: str) -> None:
        """Relay the first message with data if its account may be tried (14.6)."""
        line = self._line
        try:
            # Another spelling of the same bytes could name somebody to the server
            # and nobody here (AUTH-13).
            message = unb64("" if text in ("", "=") else text)
        except PeerFault:
            why = "The message is not canonical base64."
            self._refuse(attempt, "odd base64", "incorrect-encoding", why)
            return
        account = claimed(attempt.mechanism, message, line.domain)
        if line.shown is None and line.policy(account) == "keys-only":
            self._refuse(attempt, "no key", "not-authorized", names.NO_KEY)
        elif line.shown is None or line.shown.root is None or account is None:
            self._relay(attempt, stanza)
        else:
            shown = line.shown
            question = MayTry(account, shown.device, shown.root)
            line.ask(question, lambda answer: self._may(attempt, stanza, answer))

    def _may(self, attempt: Attempt, stanza: Stanza, answer: Answer) -> None:
        match answer:
            case Yes():
                self._relay(attempt, stanza)
            case Unavailable():
                # temporary: it does not blame the password
                self._fail(attempt, "temporary-auth-failure", names.LATER)
                self._end_attempt()
            case _:
                text = names.OTHER_DEVICE
                self._refuse(attempt, "another device", "not-authorized", text)

    def _relay(self, attempt: Attempt, stanza: Stanza) -> None:
        """Let it on, when it is its turn."""
        line = self._line
        wait = line.world.pace.turn(line.world.now())
        if wait is None:
            self._fail(attempt, "temporary-auth-failure", names.CROWDED)
            self._end_attempt()
            return
        self._under_way = True
        if wait:
            line.later(wait, lambda: self._go(attempt, stanza))
        else:
            self._go(attempt, stanza)

    def _go(self, attempt: Attempt, stanza: Stanza) -> None:
        self.attempt = attempt
        self._line.phase = Phase.SASL
        self._line.to_backend(stanza.to_bytes())

    def _refuse(self, attempt: Attempt, why: str, condition: str, text: str) -> None:
        self._line.refused(why)
        self._fail(attempt, condition, text)
        if self._line.phase is Phase.SASL:
            # the server waits for a response that it will not get
            self._line.end("policy-violation", text)
        self._failed_once()

    def _fail(self, attempt: Attempt, condition: str, text: str) -> None:
        self._line.to_client(names.sasl_failure(attempt.ns, condition, text))

    def _end_attempt(self) -> None:
        """The gate said no in the middle: the server's attempt cannot go on."""
        if self._line.phase is Phase.SASL:
            self._line.end("resource-constraint", names.LATER)

    def succeeded(self) -> None:
        """The server took the attempt."""
        self._under_way = False

    def abandoned(self) -> None:
        """The client is gone.  One that has the server judge a password and does not
        wait for the answer takes a turn all the same, so it counts as refused."""
        if self._under_way:
            self._under_way = False
            self._line.refused("given up", counts=True)

    def failed(self) -> None:
        """The server refused the attempt."""
        self.attempt, self._under_way = None, False
        self._line.phase = Phase.DOOR
        self._line.refused("the server's refusal", counts=True)
        self._failed_once()

    def _failed_once(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MOST:
            self._line.end("policy-violation", "too many logins failed")

    # -- the other roads ------

    def _on_iq(self, stanza: Stanza) -> None:
        if stanza.type not in ("get", "set"):
            self._line.end("not-authorized", "log in first; nothing was done with it")
        elif stanza.children == (f"{{{REGISTER}}}query",):
            self._registration.on_client(stanza, barred=self.barred)
        elif stanza.children == (f"{{{LEGACY_AUTH}}}query",):
            self._line.refused("XEP-0078")
            self._answer(stanza, "service-unavailable", names.LEGACY)
        else:
            self._answer(stanza, "not-authorized", names.NO_KEY)

    def _answer(self, stanza: Stanza, condition: str, text: str) -> None:
        domain = self._line.domain
        self._line.to_client(
            names.refusal(stanza, condition, text, "key-required", from_=domain)
        )

    def _on_resume(self, _stanza: Stanza) -> None:
        self._line.refused("resumption before login")
        self._line.to_client(
            names.managed_failure(MANAGEMENT, "not-authorized", "key-required")
        )

    def _on_enable(self, _stanza: Stanza) -> None:
        self._line.to_client(names.managed_failure(MANAGEMENT, "unexpected-request"))

    def _on_compress(self, _stanza: Stanza) -> None:
        self._line.to_client(_NO_COMPRESSION)

    def _on_starttls(self, _stanza: Stanza) -> None:
        self._line.to_client(_NO_TLS)
        self._line.drop()

    def _on_error(self, _stanza: Stanza) -> None:
        self._line.drop()


_ROADS: Final[dict[tuple[str, str], Callable[[Door, Stanza], None]]] = {
    (AUTH, "present"): Door._on_present,
    (AUTH, "state"): Door._on_state,
    (SASL, "auth"): Door._on_auth,
    (SASL2, "authenticate"): Door._on_authenticate,
    ("jabber:client", "iq"): Door._on_iq,
    (MANAGEMENT, "resume"): Door._on_resume,
    (MANAGEMENT, "enable"): Door._on_enable,
    (COMPRESSION, "compress"): Door._on_compress,
    (TLS, "starttls"): Door._on_starttls,
    (STREAMS, "error"): Door._on_error,
}
"""What a client may say before it is logged in."""


def _presentation(stanza: Stanza) -> tuple[Presentation, bytes]:
    """:raises PeerFault: the form of 14.3 is not kept."""
    if stanza.children or set(stanza.attrs) - {"device", "root", "server"}:
        raise PeerFault("a presentation has another form")
    device = _sized(stanza.attrs.get("device", ""), 32)
    root = _optional(stanza, "root")
    signature = _sized(stanza.tree().text or "", 64)
    return Presentation(device, root), signature


def _optional(stanza: Stanza, name: str) -> bytes | None:
    text = stanza.attrs.get(name)
    return None if text is None else _sized(text, 32)


def _sized(text: str, size: int) -> bytes:
    data = unb64(text)
    if len(data) != size:
        raise PeerFault("a value of another size")
    return data


def _presented(
    time: int,
    proof: bytes,
    server: ServerDocument,
    rollovers: tuple[str, ...],
    known: bytes | None,
) -> bytes:
    """``<presented/>`` (14.4); the document is left out where it is known."""
    answer = Element(f"{{{AUTH}}}presented", {"time": str(time)})
    if known != server.digest:
        shown = SubElement(answer, f"{{{KEY}}}server")
        SubElement(shown, f"{{{KEY}}}document").text = server.document
        for rollover in rollovers:
            SubElement(shown, f"{{{KEY}}}rollover").text = rollover
    SubElement(answer, f"{{{AUTH}}}proof").text = b64(proof)
    return serialise(answer)
