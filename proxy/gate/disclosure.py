"""What a gate says of itself before login, to who asks for it (clause 14.15).

For ``tillie gate check``, which has no account.  Nothing here depends on an account:
what is signed is the absence of an address that is drawn for it, and how often that
happens is bounded whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from xml.etree.ElementTree import Element, SubElement

from ..keys import tokens
from ..suites.entropy import token as random_bytes
from ..wire.tree import serialise
from . import names
from .limits import origin
from .names import AUTH, KEY
from .questions import Answer, LookUp, No
from .rates import Rate

if TYPE_CHECKING:
    from ..wire.stanza import Stanza
    from .line import Line

DirectoryState: TypeAlias = Literal["answering", "away", "none"]
"""Whether the server brings what is sent to the domain's directory."""

A_MINUTE: Final = 10
"""Questions of one address in a minute, *A_MINUTE_IN_ALL* of everybody."""
A_MINUTE_IN_ALL: Final = 120
SPECIMEN_MS: Final = 60_000
SPECIMEN: Final = "tillie-check-"
"""How the address begins that is signed as absent."""
_ADDRESSES_KEPT: Final = 10_000
_TOO_OFTEN: Final = "too many questions: ask again in a minute"


@dataclass(frozen=True, slots=True)
class Specimen:
    """A signed absence that shows that this gate can sign.

    :param key: fingerprint of the key that signed it.
    """

    jid: str
    document: str
    made: int
    key: bytes


@dataclass(slots=True)
class Disclosed:
    """What all streams of a gate share: who asked how often, and what was signed."""

    specimens: dict[str, Specimen] = field(default_factory=dict)
    addresses: Rate = field(default_factory=lambda: Rate(A_MINUTE, _ADDRESSES_KEPT))
    all: Rate = field(default_factory=lambda: Rate(A_MINUTE_IN_ALL, 1))

    def allows(self, address: str, now: int) -> bool:
        """Count a question of *address* (bounded: an IPv6 network is one)."""
        # who is over its own limit costs the others nothing of theirs
        return self.addresses.allows(origin(address), now) and self.all.allows("", now)

    def specimen(self, domain: str, key: bytes, now: int) -> Specimen | None:
        """One that *key* signed a moment ago."""
        held = self.specimens.get(domain)
        fresh = held is not None and held.made <= now < held.made + SPECIMEN_MS
        return held if held is not None and fresh and held.key == key else None


class Disclosure:
    """The answer to ``<state/>`` on one stream."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._asked = False

    def on_state(self, _stanza: Stanza) -> None:
        """Somebody who is not logged in asks how the gate is."""
        line = self._line
        if line.shown is None:
            line.end("not-authorized", names.NO_KEY, "key-required")
        elif self._asked:
            line.end("policy-violation", "the state was asked for already")
        elif not line.world.disclosed.allows(line.address, line.world.now()):
            line.end("resource-constraint", _TOO_OFTEN)
        else:
            self._asked = True
            line.directory(self._signed)

    def _signed(self, directory: DirectoryState) -> None:
        """The directory is known; now whether the gate can look up and sign."""
        line = self._line
        assert line.server is not None
        key, now = line.server.keys.fingerprint, line.world.now()
        held = line.world.disclosed.specimen(line.domain, key, now)
        jid = held.jid if held else _drawn(line.domain)

        def found(answer: Answer) -> None:
            # a drawn address has no key: anything else is no answer
            if not isinstance(answer, No):
                self._tell(directory, None)
            elif held is not None:
                self._tell(directory, held)
            else:
                claims = tokens.absence_claims(jid, random_bytes(tokens.JTI_SIZE), now)
                line.sign(tokens.ABSENCE_TYP, claims, signed, hold=True)

        def signed(document: str | None) -> None:
            made = None
            if document is not None:
                made = Specimen(jid, document, now, key)
                line.world.disclosed.specimens[line.domain] = made
            self._tell(directory, made)

        line.ask(LookUp(jid), found)

    def _tell(self, directory: DirectoryState, specimen: Specimen | None) -> None:
        state = Element(f"{{{AUTH}}}state", {"directory": directory})
        if specimen is not None:
            state.set("tokens", str(self._line.world.now() + tokens.TOKEN_MS))
            absent = SubElement(state, f"{{{KEY}}}absent", {"jid": specimen.jid})
            SubElement(absent, f"{{{KEY}}}document").text = specimen.document
        self._line.to_client(serialise(state))


def _drawn(domain: str) -> str:
    return f"{SPECIMEN}{random_bytes(16).hex()}@{domain}"
