"""The one encoding of what is signed, hashed or bound (protocol.md, clause 2.2)."""

from __future__ import annotations

import binascii
import struct
from functools import lru_cache

from ..errors import PeerFault

_ABSENT = b"\xff\xff\xff\xff"
_size = struct.Struct(">I").pack


def fields(label: str, *parts: bytes | str | int | None) -> bytes:
    """Join *parts* unambiguously behind the domain-separating *label*.

    Each part is preceded by its length (4 bytes, big-endian); an absent part
    is the length 0xffffffff with nothing after it.  Text is UTF-8, an integer
    8 bytes big-endian.
    """
    out = [_labelled(label)]
    for part in parts:
        if part is None:
            out.append(_ABSENT)
            continue
        if isinstance(part, str):
            part = part.encode()
        elif isinstance(part, int):
            part = part.to_bytes(8, "big")
        out += _size(len(part)), part
    return b"".join(out)


@lru_cache(maxsize=64)
def _labelled(label: str) -> bytes:
    name = f"tillie/0 {label}".encode()
    return _size(len(name)) + name


def split(data: bytes) -> list[bytes | None]:
    """Undo :func:`fields`, label included.

    :raises PeerFault: the lengths do not add up.
    """
    out: list[bytes | None] = []
    at = 0
    while at < len(data):
        head = data[at : at + 4]
        at += 4
        if head == _ABSENT:
            out.append(None)
            continue
        size = int.from_bytes(head, "big")
        if len(head) != 4 or at + size > len(data):
            raise PeerFault("a length in a binary field is wrong")
        out.append(data[at : at + size])
        at += size
    return out


def b64(data: bytes) -> str:
    """Standard base64 with padding, no white space."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def unb64(text: str) -> bytes:
    """Decode what :func:`b64` makes and nothing else.

    :raises PeerFault: white space, another alphabet, missing padding or
        non-zero tail bits: every byte string has one spelling here.
    """
    try:
        data = binascii.a2b_base64(text)
    except ValueError as error:
        raise PeerFault("not canonical base64") from error
    # the decoder passes over what is no base64; writing it again finds all of it
    if b64(data) != text:
        raise PeerFault("not canonical base64")
    return data
