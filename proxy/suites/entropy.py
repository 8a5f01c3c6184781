"""The one source of randomness: the operating system, through ``secrets``.

Nothing can be injected here, on purpose: a test that could choose a nonce
could also be left in.  Vectors therefore fix the opening direction.
"""

from __future__ import annotations

import secrets


def token(size: int) -> bytes:
    """*size* unpredictable bytes."""
    return secrets.token_bytes(size)


def stanza_id() -> str:
    """An id for a stanza of our own: the reserved prefix and 128 random bits."""
    return ID_PREFIX + secrets.token_hex(16)


ID_PREFIX = "tillie-"
