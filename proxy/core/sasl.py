"""Logging in at the server: which mechanism, and the client's half of SCRAM.

The library for SCRAM (``scramp``) derives the salted password in the call that
makes the proof, so the derivation cannot leave the reactor thread, and it
refuses ``tls-exporter``, the only channel binding of TLS 1.3 (RFC 9266).  Hence
the four messages of RFC 5802 stand here; the tests run them against scramp's
server half.  Nothing here derives, sends or waits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ..errors import EnvFault, PeerFault, TrustFault
from ..suites.fields import b64, unb64
from .streams import shown
from .vocabulary import Derive

if TYPE_CHECKING:
    from .vocabulary import TlsFacts

_HASHES = {
    "SCRAM-SHA-512": "sha512",
    "SCRAM-SHA-256": "sha256",
    "SCRAM-SHA-1": "sha1",
}
_PLUS = "-PLUS"

LEAST_ITERATIONS = 4_096
MOST_ITERATIONS = 600_000
_MOST_SALT = 1_024
_ITERATIONS = re.compile("[1-9][0-9]{0,9}", re.ASCII)
_ATTRIBUTE = re.compile("[A-Za-z]=[^\0,]+", re.ASCII)
_NONCE = re.compile("[!-+\\--~]+", re.ASCII)
_ALTERED = (
    "someone between here and the server may be altering the connection, or the "
    "server is at fault; ask its operator before trying again"
)


class Family(IntEnum):
    """How much a mechanism protects the password; a login never falls below."""

    PLAIN = 0
    SCRAM = 1
    BOUND = 2


def family(mechanism: str) -> Family:
    """Tell the family of a mechanism's name; the hash makes no difference to it."""
    if not mechanism.startswith("SCRAM-"):
        return Family.PLAIN
    return Family.BOUND if mechanism.endswith(_PLUS) else Family.SCRAM


def unbound(mechanism: str) -> str:
    """The mechanism without its channel binding."""
    return mechanism.removesuffix(_PLUS)


def stronger(floor: str | None, mechanism: str) -> str:
    """Give the floor for the next login: what was reached stays reached."""
    if floor is not None and family(floor) > family(mechanism):
        return floor
    return mechanism


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server's features say.

    :param mechanisms: all names in ``<mechanisms/>``, known or not (XEP-0474
        hashes them all).
    :param bindings: the types of XEP-0440, None if the server has no such list.
    """

    mechanisms: tuple[str, ...]
    bindings: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The mechanism to use.

    :param gs2: the header of RFC 5802, 7 (``p=tls-exporter,,``); empty for PLAIN.
    :param binding: the channel binding data behind it, empty without -PLUS.
    """

    mechanism: str
    gs2: str = ""
    binding: bytes = b""


def choose(offer: Offer, facts: TlsFacts | None, floor: str | None) -> Choice:
    """Take the strongest mechanism on offer that TLS allows.

    :param facts: what can be bound to, None where there is no TLS.
    :param floor: the strongest mechanism that this account ever logged in with.
    :raises TrustFault: it is of a weaker family than *floor* (AUTH-01, AUTH-05).
    :raises EnvFault: nothing on offer is known here.
    """
    choice = _strongest(offer, facts)
    if choice is None:
        names = shown(" ".join(offer.mechanisms)) or "nothing"
        raise EnvFault(
            f"the server offers no way to log in that can be used here ({names})",
            hint="ask the server's operator to offer SCRAM-SHA-256",
        )
    if floor is not None and family(choice.mechanism) < family(floor):
        raise TrustFault(
            f"the server now offers only {choice.mechanism}, but this account has "
            f"logged in with {floor} before; the password was not sent",
            hint=_ALTERED,
        )
    return choice


def _strongest(offer: Offer, facts: TlsFacts | None) -> Choice | None:
    plus = [name for name in _HASHES if name + _PLUS in offer.mechanisms]
    bare = [name for name in _HASHES if name in offer.mechanisms]
    binding = _binding(offer, facts)
    if plus and binding is not None:
        name, data = binding
        return Choice(plus[0] + _PLUS, f"p={name},,", data)
    if bare:
        return Choice(bare[0], f"{_flag(bool(plus), facts)},,")
    if "PLAIN" in offer.mechanisms and not plus:
        return Choice("PLAIN")
    return None


def _binding(offer: Offer, facts: TlsFacts | None) -> tuple[str, bytes] | None:
    # Without a list nothing is guessed: such servers know tls-unique only, which
    # TLS 1.3 does not have, and a wrong guess reads like a wrong password.
    # XEP-0440 leaves it open for SASL1.  Who strips the list to get rid of the
    # binding reaches no more than who fills it with unknown types; from the
    # second login on the floor stops both.
    if facts is None or offer.bindings is None:
        return None
    for name, data in (
        ("tls-exporter", facts.exporter),
        ("tls-server-end-point", facts.end_point),
    ):
        if data and name in offer.bindings:
            return name, data
    return None


def _flag(plus_offered: bool, facts: TlsFacts | None) -> str:
    # "y" lets a server that did offer -PLUS notice that someone removed it
    # (RFC 5802, 6).  With -PLUS in sight but no binding in common "y" would be a
    # lie, and the login would fail: "n", as rule 6 of XEP-0474 has it.
    can_bind = facts is not None and bool(facts.exporter or facts.end_point)
    return "y" if can_bind and not plus_offered else "n"


def plain(username: str, password: str) -> bytes:
    """Give the one message of PLAIN (RFC 4616), without an authorization identity."""
    return f"\0{username}\0{password}".encode()


class Scram:
    """The client's half of one SCRAM exchange (RFC 5802, 7677; XEP-0474).

    Call :meth:`first`, :meth:`challenge`, :meth:`final`, :meth:`verify` in this
    order; only when the last has returned has the server proved that it knows
    the password.

    :param nonce: the client's nonce, drawn here unless a test gives it.
    """

    def __init__(
        self,
        choice: Choice,
        offer: Offer,
        username: str,
        password: str,
        nonce: str | None = None,
    ) -> None:
        self._hash = _HASHES[choice.mechanism.removesuffix(_PLUS)]
        self._choice = choice
        self._offer = offer
        self._password = prepared(password)
        self._nonce = nonce or secrets.token_urlsafe(24)
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={name},r={self._nonce}"
        self._server_first = ""
        self._signature = b""

    def first(self) -> bytes:
        """Give the client-first-message."""
        return f"{self._choice.gs2}{self._first_bare}".encode()

    def challenge(self, data: bytes) -> Derive:
        """Judge the server-first-message and ask for the salted password.

        :raises TrustFault: an answer no honest server gives (AUTH-02, AUTH-03),
            or the lists that we saw are not those that it sent (XEP-0474).
        :raises PeerFault: the message has another shape.
        """
        text = _text(data)
        found = _attributes(text)
        if list(found)[:3] != ["r", "s", "i"]:
            raise PeerFault("the server's SCRAM challenge has another form than known")
        nonce = found["r"]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise _refused("its nonce does not continue ours")
        if _NONCE.fullmatch(nonce) is None:
            raise _refused("its nonce has characters that no nonce has")
        salt = _salt(found["s"])
        iterations = _iterations(found["i"])
        self._check_lists(found.get("h"))
        self._server_first = text
        self._nonce = nonce
        return Derive(self._hash, self._password, salt, iterations)

    def _check_lists(self, given: str | None) -> None:
        if given is not None and given != advertised(self._hash, self._offer):
            raise _refused(
                "the login methods that arrived here are not those that it sent"
            )

    def final(self, salted: bytes) -> bytes:
        """Give the client-final-message.

        :param salted: PBKDF2 as :meth:`challenge` asked for it.
        """
        bound = b64(self._choice.gs2.encode() + self._choice.binding)
        bare = f"c={bound},r={self._nonce}"
        signed = f"{self._first_bare},{self._server_first},{bare}".encode()
        client_key = self._mac(salted, b"Client Key")
        stored_key = hashlib.new(self._hash, client_key).digest()
        mask = self._mac(stored_key, signed)
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        self._signature = self._mac(self._mac(salted, b"Server Key"), signed)
        return f"{bare},p={b64(proof)}".encode()

    def _mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)

    def verify(self, data: bytes) -> None:
        """Judge the server-final-message.

        :raises TrustFault: the server did not prove that it knows the password.
        """
        found = _attributes(_text(data)) if data else {}
        if next(iter(found), "") != "v":
            raise _refused("it did not prove that it knows the password")
        given = unb64(found["v"])
        if not hmac.compare_digest(given, self._signature):
            raise _refused("its proof that it knows the password is wrong")


def prepared(password: str) -> bytes:
    """Normalise a password as SASLprep does (RFC 4013, 2.1 and 2.2).

    What SASLprep forbids is let through: the server's own preparation judges it,
    and servers take characters younger than Unicode 3.2.
    """
    if password.isascii():
        return password.encode()
    # Rarely wanted, so not loaded with the program.
    import stringprep
    import unicodedata

    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c
        for c in password
        if not stringprep.in_table_b1(c)
    )
    return unicodedata.ucd_3_2_0.normalize("NFKC", mapped).encode()


def advertised(hash_name: str, offer: Offer) -> str:
    """Hash the server's lists as they arrived, base64 (XEP-0474, 5.1)."""
    # Code points sort as their UTF-8 octets do, which the XEP asks for.
    text = "\x1e".join(sorted(offer.mechanisms))
    if offer.bindings is not None:
        text += "\x1f" + "\x1e".join(sorted(offer.bindings))
    return b64(hashlib.new(hash_name, text.encode()).digest())


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PeerFault("the server's SCRAM message is not UTF-8") from error


def _attributes(text: str) -> dict[str, str]:
    """Split a server's message; an error or a mandatory extension ends it here."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if _ATTRIBUTE.fullmatch(part) is None or part[0] in found:
            raise PeerFault("the server's SCRAM message is malformed")
        found[part[0]] = part[2:]
    if "e" in found:
        raise PeerFault(
            f"the server refused the login ({shown(found['e'])})",
            condition="not-authorized",
        )
    if "m" in found:
        raise _refused("it demands an extension of SCRAM that does not exist here")
    return found


def _salt(text: str) -> bytes:
    salt = unb64(text)
    if not salt or len(salt) > _MOST_SALT:
        raise _refused("the length of its salt is not acceptable")
    return salt


def _iterations(text: str) -> int:
    if _ITERATIONS.fullmatch(text) is None:
        raise _refused("its iteration count is not a number")
    count = int(text)
    if not LEAST_ITERATIONS <= count <= MOST_ITERATIONS:
        # Few make the password cheap to guess for whoever records the login,
        # many keep a core busy for minutes.
        raise _refused(
            f"its iteration count {count} is outside "
            f"{LEAST_ITERATIONS} to {MOST_ITERATIONS}"
        )
    return count


def _refused(why: str) -> TrustFault:
    return TrustFault(f"the server's login was not accepted: {why}", hint=_ALTERED)
