"""Where a stream of the gate stands: what it awaits, and what may pass there."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """What a stream awaits; clauses of docs/protocol.md."""

    CLEAR_HEADER = auto()
    """the client's first header, before TLS"""
    STARTTLS = auto()
    """``<starttls/>``; nothing else is offered there"""
    HANDSHAKE = auto()
    HEADER = auto()
    """the client's header inside TLS"""
    BACKEND = auto()
    """the server's features; the client's bytes wait"""
    DOOR = auto()
    """a presentation, then a way to log in or to register (14.3 to 14.6)"""
    SASL = auto()
    """the end of an attempt that is relayed"""
    RESTART = auto()
    """the client's header behind SASL"""
    FEATURES = auto()
    """the server's features behind SASL; the client's bytes wait"""
    BINDING = auto()
    """a resource to be bound, or an old stream to be resumed (14.13)"""
    RESUMING = auto()
    """the server's word on a resumption"""
    BOUND = auto()
    """``<vouch/>``; the server has named the account (14.7, 14.8)"""
    LINKING = auto()
    """that another device of the account signs this one in (14.12)"""
    OPEN = auto()
    """nothing: stanzas flow"""
    CLOSING = auto()
    """the server's farewell; the client has said its own, or is gone"""
    OVER = auto()


BEFORE_LOGIN: Final = frozenset(
    {
        Phase.CLEAR_HEADER,
        Phase.STARTTLS,
        Phase.HANDSHAKE,
        Phase.HEADER,
        Phase.BACKEND,
        Phase.DOOR,
        Phase.SASL,
    }
)
"""Nobody is known yet: small limits, few bytes, 30 seconds."""

WITHOUT_BACKEND: Final = frozenset(
    {Phase.CLEAR_HEADER, Phase.STARTTLS, Phase.HANDSHAKE, Phase.HEADER}
)
"""The server does not know of this stream."""

UNVOUCHED: Final = frozenset({Phase.BOUND, Phase.LINKING})
"""The server has let it in, the gate has not."""

THEIRS: Final = frozenset({Phase.BACKEND, Phase.FEATURES, Phase.RESUMING})
"""The server's turn: what the client sends already waits."""

PATIENT: Final = frozenset({Phase.LINKING, Phase.OPEN, Phase.OVER})
"""Phases that last as long as they last."""
