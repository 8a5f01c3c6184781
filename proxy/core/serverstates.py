"""The states of our stream to the server, and what holds in some of them."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from ..wire.framing import BEFORE_LOGIN
from .streams import TLS

# The features of a large server pass 10,000 bytes with some certificates' worth
# of mechanisms and upgrade tasks; 64 KiB are still nothing to keep.
NEGOTIATION = replace(BEFORE_LOGIN, stanza=65_536, hard=65_536)
STARTTLS = f"<starttls xmlns='{TLS}'/>".encode()


class Awaiting(Enum):
    """What this leg waits for."""

    CONNECTION = auto()
    TLS_OFFER = auto()
    PROCEED = auto()
    HANDSHAKE = auto()
    MECHANISMS = auto()
    PROOF = auto()
    LOGIN = auto()
    FEATURES = auto()
    RESUMPTION = auto()
    STANZAS = auto()
    NOTHING = auto()


BEFORE_TLS = frozenset(
    {Awaiting.CONNECTION, Awaiting.TLS_OFFER, Awaiting.PROCEED, Awaiting.HANDSHAKE}
)
# Nothing is read and nothing may be written here: the line is not a stream now.
NO_STREAM = frozenset({Awaiting.CONNECTION, Awaiting.HANDSHAKE})
