"""Reading the claims of signed documents: exact members, exact types, bounds.

Nothing unknown is passed over: what a later version adds would be lost on this
one, and it gets a ``typ`` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PeerFault
from ..suites.fields import b64, unb64
from .identity import RootPublic

SECONDS_MAX = 253_402_300_799  # 9999-12-31T23:59:59Z
_KEYS = frozenset({"ed25519", "mldsa65"})
_NONE: frozenset[str] = frozenset()


def check_members(
    value: Mapping[str, object],
    wanted: frozenset[str],
    optional: frozenset[str] = _NONE,
    *,
    what: str,
) -> None:
    """:raises PeerFault: a member is missing or not known."""
    if value.keys() - optional != wanted:
        raise PeerFault(f"{what} has a member too many or too few")


def text_of(value: Mapping[str, object], name: str, *, what: str) -> str:
    """:raises PeerFault: it is no text."""
    text = value[name]
    if not isinstance(text, str):
        raise PeerFault(f"{name} in {what} is no text")
    return text


def bytes_of(
    value: Mapping[str, object], name: str, size: int | None = None, *, what: str
) -> bytes:
    """Decode base64 in its one spelling.

    :raises PeerFault: another spelling, or not *size* bytes.
    """
    data = unb64(text_of(value, name, what=what))
    if size is not None and len(data) != size:
        raise PeerFault(f"{name} in {what} has a wrong size")
    return data


def integer_of(
    value: Mapping[str, object], name: str, low: int, high: int, *, what: str
) -> int:
    """:raises PeerFault: no integer from *low* to *high*."""
    number = value[name]
    if not isinstance(number, int) or not low <= number <= high:
        raise PeerFault(f"{name} in {what} is out of range")
    return number


def time_of(value: Mapping[str, object], name: str, *, what: str) -> int:
    """Seconds since 1970 in the claim, milliseconds in the answer."""
    return 1000 * integer_of(value, name, 0, SECONDS_MAX, what=what)


def keys_of(value: object, *, what: str) -> RootPublic:
    """The pair of public keys that a document names.

    :raises PeerFault: the form is wrong.
    :raises TrustFault: a key is malformed.
    """
    if not isinstance(value, dict):
        raise PeerFault(f"{what} names no keys")
    check_members(value, _KEYS, what=what)
    return RootPublic(
        bytes_of(value, "ed25519", what=what), bytes_of(value, "mldsa65", what=what)
    )


def keys_claim(public: RootPublic) -> dict[str, str]:
    """The form that :func:`keys_of` reads."""
    return {"ed25519": b64(public.ed25519), "mldsa65": b64(public.mldsa65)}
