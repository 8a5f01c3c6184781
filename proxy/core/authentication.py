"""One login at the server by SASL, from its offer to its success (RFC 6120, 6).

Elements in, elements out; the mechanisms themselves are ``core.sasl``'s.  What
the server does wrong is a fault that is raised, and ends the stream.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias
from xml.etree.ElementTree import Element

from ..errors import EnvFault, Fault, LocalFault, PeerFault
from ..suites.fields import b64, unb64
from ..wire.tree import serialise
from . import sasl
from .streams import BINDINGS, SASL, out_of_order, read_error, sasl_condition
from .vocabulary import Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.jid import Jid
    from ..wire.stanza import Stanza
    from .vocabulary import ServerOutput, TlsFacts

Outputs: TypeAlias = "list[ServerOutput]"


class Awaiting(Enum):
    """What the exchange waits for."""

    OFFER = auto()
    CHALLENGE = auto()
    SALTED_PASSWORD = auto()
    OUTCOME = auto()
    NOTHING = auto()


class Authentication:
    """The exchange of one stream.

    :param account: bare JID.
    :param floor: strongest mechanism that this account ever used, None for none.
    :param who: how the server is called in messages.

    ``mechanism`` is the one chosen, empty before.
    """

    def __init__(
        self, account: Jid, password: str, floor: str | None, who: str
    ) -> None:
        self.mechanism = ""
        self._account = account
        self._password = password
        self._floor = floor
        self._who = who
        self._scram: sasl.Scram | None = None
        self._proved = False
        self._awaiting = Awaiting.OFFER
        self._handlers: dict[Awaiting, Callable[[Stanza], Outputs]] = {
            Awaiting.CHALLENGE: self._on_challenge,
            Awaiting.SALTED_PASSWORD: self._on_early,
            Awaiting.OUTCOME: self._on_outcome,
        }

    @property
    def done(self) -> bool:
        """Whether the server let the account in, and proved itself where it can."""
        return self._awaiting is Awaiting.NOTHING

    def begin(self, features: Element, facts: TlsFacts | None) -> Outputs:
        """Choose from the server's *features* and say the first word.

        :raises Fault: nothing on offer may be used.
        """
        offer = _offer(features)
        choice = sasl.choose(offer, facts, self._floor)
        self.mechanism = choice.mechanism
        if choice.mechanism == "PLAIN":
            self._awaiting = Awaiting.OUTCOME
            message = sasl.plain(self._account.local, self._password)
        else:
            self._awaiting = Awaiting.CHALLENGE
            self._scram = sasl.Scram(choice, offer, self._account.local, self._password)
            message = self._scram.first()
        return [_element("auth", message, mechanism=choice.mechanism)]

    def begin_at_gate(self, features: Element) -> Outputs:
        """Begin behind a gate that has proved itself over this very channel (15.1.1).

        TLS ends there: what it could bind to is not what the server sees (AUTH-04).
        The gate's proof stands for the binding; ``core.presenting`` has seen to it
        that it is one whose key was known where that matters.

        :raises Fault: nothing on offer may be used.
        """
        if self._floor is not None:
            self._floor = sasl.unbound(self._floor)
        return self.begin(features, None)

    def take(self, stanza: Stanza) -> Outputs:
        """Take an element of the server's.

        :raises Fault: it refused, or is not to be believed.
        """
        return self._handlers[self._awaiting](stanza)

    def derived(self, salted: bytes) -> Outputs:
        """Take the answer to ``Derive``: PBKDF2's output, of the hash's length."""
        if self._awaiting is not Awaiting.SALTED_PASSWORD or self._scram is None:
            raise LocalFault(f"a derived key came while {self._awaiting.name} is due")
        self._awaiting = Awaiting.OUTCOME
        return [_element("response", self._scram.final(salted))]

    def forget(self) -> None:
        """The stream is over: nothing of the password is kept."""
        self._scram = None

    # -- the server's elements ------

    def _on_challenge(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) != (SASL, "challenge"):
            return self._on_outcome(stanza)
        assert self._scram is not None
        derive = self._scram.challenge(_payload(stanza))
        self._awaiting = Awaiting.SALTED_PASSWORD
        return [derive]

    def _on_early(self, stanza: Stanza) -> Outputs:
        if (stanza.ns, stanza.name) == (SASL, "failure"):
            raise self._failure(stanza)
        raise out_of_order(self._who, stanza.name)

    def _on_outcome(self, stanza: Stanza) -> Outputs:
        if stanza.ns == SASL and stanza.name == "failure":
            raise self._failure(stanza)
        if stanza.ns != SASL or stanza.name not in ("challenge", "success"):
            raise out_of_order(self._who, stanza.name)
        self._check_proof(stanza)
        if stanza.name == "challenge":
            return [_element("response", b"")]
        self._awaiting = Awaiting.NOTHING
        self._scram = None
        return []

    def _check_proof(self, stanza: Stanza) -> None:
        """Take the server's signature, in a challenge or in the success itself.

        :raises Fault: it is wrong, or success came without it.
        """
        if self._scram is None:
            if stanza.name == "challenge":
                raise PeerFault(f"{self._who} asked for more than a password")
            return
        if self._proved and stanza.name == "success":
            return
        self._scram.verify(_payload(stanza))
        self._proved = True

    def _failure(self, stanza: Stanza) -> Fault:
        condition, _, text = read_error(stanza.tree(), SASL)
        said = f": {text}" if text else ""
        if condition == "not-authorized":
            return PeerFault(
                f"{self._who} did not accept the password of {self._account}{said}",
                condition=condition,
                hint="check account name and password in the client",
            )
        return EnvFault(
            f"{self._who} refused the login of {self._account} "
            f"({condition or 'no reason given'}){said}",
            condition=sasl_condition(condition),
        )


def _element(name: str, message: bytes, **attributes: str) -> Send:
    element = Element(f"{{{SASL}}}{name}", attributes)
    if message:
        element.text = b64(message)
    return Send(serialise(element))


def _payload(stanza: Stanza) -> bytes:
    """Decode what a SASL element carries; ``=`` stands for nothing (RFC 6120, 6.4.2).

    :raises PeerFault: it is not canonical base64.
    """
    text = stanza.tree().text or ""
    return b"" if text in ("", "=") else unb64(text)


def _offer(features: Element) -> sasl.Offer:
    names = features.findall(f"{{{SASL}}}mechanisms/{{{SASL}}}mechanism")
    listed = features.find(f"{{{BINDINGS}}}sasl-channel-binding")
    types = None
    if listed is not None:
        bindings = listed.findall(f"{{{BINDINGS}}}channel-binding")
        types = tuple(binding.get("type", "") for binding in bindings)
    return sasl.Offer(tuple(name.text or "" for name in names), types)
