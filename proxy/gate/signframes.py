"""What is said on the pipes of the signing process.

Frames are a length (4 bytes, big-endian) and ``fields``:

=========  ==========================================================
ready      per domain: name, and of the key and of the next one (each
           absent where there is none) Ed25519 and ML-DSA-65
broken     text, hint: there are no keys; the process ends
sign       number, fingerprint, typ, claims as JSON
prove      number, fingerprint, statement
done       number, JWS or signature
refused    number, text
=========  ==========================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from ..errors import Fault, LocalFault, PeerFault
from ..keys.identity import RootPublic
from ..suites.fields import fields, split
from .publishing import Held
from .signing import Signing

LONGEST: Final = 64 * 1024


def frame(label: str, *parts: bytes | str | int | None) -> bytes:
    data = fields(label, *parts)
    return len(data).to_bytes(4, "big") + data


def frames(buffer: bytearray) -> Iterator[tuple[str, list[bytes | None]]]:
    """Take the complete frames off the front of *buffer*; label and parts of each.

    :raises PeerFault: a frame is longer than any of ours.
    """
    while len(buffer) >= 4:
        size = int.from_bytes(buffer[:4], "big")
        if size > LONGEST:
            raise PeerFault("a frame on the signer's pipe is too long")
        if len(buffer) < 4 + size:
            return
        label, *parts = split(bytes(buffer[4 : 4 + size])) or [None]
        del buffer[: 4 + size]
        yield (label or b"").decode("utf-8", "replace").removeprefix("tillie/0 "), parts


def number_of(part: bytes | None) -> int:
    return int.from_bytes(part or b"", "big")


def text_of(part: bytes | None) -> str:
    return (part or b"").decode("utf-8", "replace")


# -- keys ---------------------------------------------------------------------


def ready(keys: Mapping[str, Held]) -> bytes:
    parts: list[bytes | str | None] = []
    for domain, held in keys.items():
        parts.append(domain)
        for public in (held.key, held.following):
            parts.append(public.ed25519 if public else None)
            parts.append(public.mldsa65 if public else None)
    return frame("ready", *parts)


def keys_of(parts: list[bytes | None]) -> dict[str, Held]:
    """What :func:`ready` said.

    :raises Fault: it did not.
    """
    found = {}
    for at in range(0, len(parts), 5):
        domain, *keys = parts[at : at + 5]
        if len(keys) != 4 or (key := _public(keys[0], keys[1])) is None:
            raise LocalFault("the signing process has no key")
        found[text_of(domain)] = Held(key, _public(keys[2], keys[3]))
    return found


def _public(ed25519: bytes | None, mldsa65: bytes | None) -> RootPublic | None:
    if ed25519 is None or mldsa65 is None:
        return None
    return RootPublic(ed25519, mldsa65)


# -- answers --------------------------------------------------------------------


def answer(signing: Signing, what: str, parts: list[bytes | None], now: int) -> bytes:
    """The frame that answers one.

    :param now: Unix milliseconds, by the signing process's own clock.
    """
    number, *rest = [part or b"" for part in parts] or [b""]
    try:
        signed = _signed(signing, what, rest, now)
    except Fault as fault:
        return frame("refused", number_of(number), fault.text)
    except (ValueError, RecursionError):
        text = "what is to be signed is not well-formed"
        return frame("refused", number_of(number), text)
    return frame("done", number_of(number), signed)


def _signed(signing: Signing, what: str, parts: list[bytes], now: int) -> bytes:
    if what == "prove" and len(parts) == 2:
        return signing.prove(parts[1], parts[0], now)
    if what == "sign" and len(parts) == 3:
        claims = json.loads(parts[2])
        if isinstance(claims, dict):
            return signing.sign(parts[1].decode(), claims, parts[0], now).encode()
    raise PeerFault("nothing else is answered here")
