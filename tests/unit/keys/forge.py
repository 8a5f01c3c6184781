"""Signed documents made by hand, right and wrong ones.

Signs with the primitives, not through the code under test, so that a document
that opens shows that both sides follow RFC 7515.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from proxy.keys.identity import DevicePrivate, RootPrivate

ROOT = RootPrivate(bytes([1]) * 32, bytes([2]) * 32)
OTHER_ROOT = RootPrivate(bytes([3]) * 32, bytes([4]) * 32)
DEVICE = DevicePrivate(bytes([5]) * 32)
OTHER_DEVICE = DevicePrivate(bytes([6]) * 32)
TYP = "tillie-test+jws"
ALGORITHMS = ("EdDSA", "ML-DSA-65")


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def headers(typ: str = TYP) -> tuple[bytes, bytes]:
    first, second = (f'{{"alg":"{alg}","typ":"{typ}"}}'.encode() for alg in ALGORITHMS)
    return first, second


def signatures(
    payload: str, protected: Sequence[bytes], root: RootPrivate = ROOT
) -> list[dict[str, object]]:
    """Make two entries over base64url *payload* (RFC 7515, 5.1)."""
    ed25519 = Ed25519PrivateKey.from_private_bytes(root.ed25519)
    mldsa65 = MLDSA65PrivateKey.from_seed_bytes(root.mldsa65)
    entries: list[dict[str, object]] = []
    for key, header in zip((ed25519, mldsa65), protected, strict=True):
        signature = key.sign(f"{b64url(header)}.{payload}".encode())
        entries.append({"protected": b64url(header), "signature": b64url(signature)})
    return entries


def document(
    payload: bytes = b'{"a":1}',
    typ: str = TYP,
    root: RootPrivate = ROOT,
    protected: Sequence[bytes] | None = None,
) -> dict[str, object]:
    """Make a document whose signatures are valid, whatever *payload* says."""
    coded = b64url(payload)
    return {
        "payload": coded,
        "signatures": signatures(coded, protected or headers(typ), root),
    }


def text(outer: object) -> bytes:
    return json.dumps(outer, separators=(",", ":")).encode()


def signed(claims: object, typ: str, root: RootPrivate = ROOT) -> bytes:
    return text(document(json.dumps(claims).encode(), typ, root))
