"""Which points are keys: what the library takes and should not (ENC-15)."""

from __future__ import annotations

from ..errors import TrustFault

ED25519_SIZE = 32
_P = 2**255 - 19
# The y coordinates of the eight points whose order divides 8 (RFC 8032, 5.1).
# Under such a key one signature is valid for nearly every text, and OpenSSL
# takes them.
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def check_ed25519(public: bytes) -> None:
    """Refuse what is no usable Ed25519 public key (RFC 8032, 5.1.3).

    A *y* for which no point exists is left to the verification, where no
    signature fits it.

    :raises TrustFault: not 32 bytes, y not below the field's prime (a second
        spelling of a key), or a point of small order.
    """
    y = int.from_bytes(public, "little") & (2**255 - 1)
    if len(public) != ED25519_SIZE or y >= _P or y in _SMALL_ORDER:
        raise TrustFault("an Ed25519 public key is malformed")
