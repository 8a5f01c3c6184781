"""Canaries: random text in every plaintext of a test, looked for afterwards.

Invariant I1 of the threat list: a secret canary occurs nowhere on the server's
side of the wire, in state files (write-ahead logs included), logs, argument
lists or environments, in no encoding that plaintext is known to leak in.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BLANKS = re.compile(rb"[\s]+")


@dataclass(frozen=True)
class Hit:
    """A canary that was found where it must not be."""

    canary: str
    encoding: str
    place: str
    around: bytes

    def __str__(self) -> str:
        return f"{self.canary} ({self.encoding}) in {self.place}: {self.around!r}"


@dataclass
class Canaries:
    """The plaintexts of one test; `secret()` ones must never be found in clear."""

    secrets: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def secret(self) -> str:
        """Return a new canary of 128 random bits as 32 hexadecimal digits."""
        self.secrets.append(secrets.token_hex(16))
        return self.secrets[-1]

    def clear(self) -> str:
        """Return a new canary for a text that policy lets through in clear."""
        self.allowed.append(secrets.token_hex(16))
        return self.allowed[-1]

    def add(self, text: str) -> str:
        """Register a text of one's own (12 characters at least) as secret."""
        if len(text) < 12:
            raise ValueError("too short: it could be found by chance")
        self.secrets.append(text)
        return text

    def search(self, places: Mapping[str, bytes]) -> list[Hit]:
        """Return where a secret occurs, one hit for each secret and place."""
        forms = {canary: encodings(canary) for canary in self.secrets}
        hits = []
        for place, raw in places.items():
            readings = _readings(raw)
            for canary in self.secrets:
                hit = _first(canary, forms[canary], place, readings)
                hits += [hit] if hit else []
        return hits


def encodings(canary: str) -> dict[str, bytes]:
    """Return each form in which the canary's text could lie somewhere, by name."""
    raw = canary.encode()
    forms = {
        "raw": raw,
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "XML decimal": "".join(f"&#{ord(one)};" for one in canary).encode(),
        "XML hexadecimal": "".join(f"&#x{ord(one):x};" for one in canary).encode(),
        "XML HEXADECIMAL": "".join(f"&#x{ord(one):X};" for one in canary).encode(),
        "XML escaped": _escaped(canary),
        "XML references": canary.encode("ascii", "xmlcharrefreplace"),
        "JSON": canary.encode("ascii", "backslashreplace"),
        # Prosody's files: bytes above ASCII as decimal escapes.
        "Lua": "".join(chr(x) if x < 128 else f"\\{x:03d}" for x in raw).encode(),
        "URL": "".join(f"%{one:02X}" for one in raw).encode(),
        "UTF-16-LE": canary.encode("utf-16-le"),
        "UTF-16-BE": canary.encode("utf-16-be"),
    }
    for offset in range(3):
        inner = _base64_at(raw, offset)
        forms[f"base64 at {offset}"] = inner
        forms[f"base64url at {offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


def files(folders: Iterable[Path]) -> dict[str, bytes]:
    """Return the bytes of every file below the folders, sockets left out.

    A file that a running program removes meanwhile is left out too.
    """
    found: dict[str, bytes] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            try:
                if path.is_file():
                    found[str(path)] = path.read_bytes()
            except FileNotFoundError:
                continue
    return found


def process(pid: int) -> dict[str, bytes]:
    """Return argument list and environment of a running process (Linux)."""
    found = {}
    for name in ("cmdline", "environ"):
        try:
            found[f"{name} of process {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _readings(raw: bytes) -> list[bytes]:
    """The bytes, and the bytes without blanks: base64 is often wrapped."""
    joined = _BLANKS.sub(b"", raw)
    return [raw] if joined == raw else [raw, joined]


def _first(
    canary: str, forms: Mapping[str, bytes], place: str, readings: list[bytes]
) -> Hit | None:
    for data in readings:
        for name, form in forms.items():
            if form in data:
                return Hit(canary, name, place, _around(data, form))
    return None


def _base64_at(raw: bytes, offset: int) -> bytes:
    """The part of base64(x + raw + y) that depends on raw alone, len(x) = offset."""
    coded = base64.b64encode(bytes(offset) + raw)
    first = (offset * 8 + 5) // 6
    last = (offset + len(raw)) * 8 // 6
    return coded[first:last]


def _escaped(canary: str) -> bytes:
    text = canary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("'", "&apos;").replace('"', "&quot;").encode()


def _around(data: bytes, form: bytes) -> bytes:
    at = data.index(form)
    return data[max(0, at - 60) : at + len(form) + 60]
