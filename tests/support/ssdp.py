"""SCRAM-SHA-256 (RFC 5802, 7677) with downgrade protection (XEP-0474), both sides."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

ITERATIONS = 4096


def offered(mechanisms: Iterable[str], bindings: Iterable[str]) -> str:
    """The hash over what is offered, as it stands in `h=`."""
    text = "\x1e".join(sorted(mechanisms))
    if listed := sorted(bindings):
        text += "\x1f" + "\x1e".join(listed)
    return _b64(hashlib.sha256(text.encode()).digest())


class ScramServer:
    """One login; says what it offers, hashed."""

    def __init__(self, password: str, offer: str) -> None:
        self._salted = hashlib.pbkdf2_hmac(
            "sha256", password.encode(), b"salt", ITERATIONS
        )
        self._offer = offer
        self._bare = self._first = ""

    def first(self, message: str) -> str:
        self._bare = message.split(",", 2)[2]
        nonce = dict(one.split("=", 1) for one in self._bare.split(","))["r"]
        self._first = (
            f"r={nonce}{secrets.token_hex(8)},s={_b64(b'salt')},"
            f"i={ITERATIONS},h={self._offer}"
        )
        return self._first

    def final(self, message: str) -> str:
        """Raises ValueError: the password is wrong."""
        without, _, proof = message.rpartition(",p=")
        auth = f"{self._bare},{self._first},{without}".encode()
        if _proof(self._salted, auth) != base64.b64decode(proof):
            raise ValueError("wrong password")
        key = hmac.digest(self._salted, b"Server Key", "sha256")
        return f"v={_b64(hmac.digest(key, auth, 'sha256'))}"


class ScramClient:
    """One login; `flag` is the first of the gs2 header."""

    def __init__(self, user: str, password: str, flag: str = "y") -> None:
        self._password = password
        self._gs2 = f"{flag},,"
        self._bare = f"n={user},r={secrets.token_hex(8)}"

    def first(self) -> str:
        return self._gs2 + self._bare

    def final(
        self, message: str, mechanisms: Iterable[str], bindings: Iterable[str]
    ) -> str:
        """Raises AssertionError where the server offered something else than was seen."""
        said = dict(one.split("=", 1) for one in message.split(","))
        assert said["h"] == offered(mechanisms, bindings), "downgraded on the way"
        salted = hashlib.pbkdf2_hmac(
            "sha256",
            self._password.encode(),
            base64.b64decode(said["s"]),
            int(said["i"]),
        )
        without = f"c={_b64(self._gs2.encode())},r={said['r']}"
        auth = f"{self._bare},{message},{without}".encode()
        return f"{without},p={_b64(_proof(salted, auth))}"


def _proof(salted: bytes, auth: bytes) -> bytes:
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), auth, "sha256")
    return bytes(a ^ b for a, b in zip(key, signature, strict=True))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
