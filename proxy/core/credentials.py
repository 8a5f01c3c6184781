"""What a local client says of itself with PLAIN (RFC 4616), and the refusal of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from ..errors import PeerFault
from ..suites.fields import unb64
from ..wire.jid import Jid
from ..wire.tree import serialise
from .streams import SASL, shown
from .vocabulary import Login

if TYPE_CHECKING:
    from ..wire.stanza import Stanza


class Unacceptable(Exception):
    """A SASL message that is answered with ``<failure/>``."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(text)
        self.condition = condition
        self.text = text


def failure(condition: str, text: str) -> bytes:
    failure = Element(f"{{{SASL}}}failure")
    SubElement(failure, f"{{{SASL}}}{condition}")
    explained = SubElement(failure, f"{{{SASL}}}text")
    explained.set("{http://www.w3.org/XML/1998/namespace}lang", "en")
    # The text may quote what the network or a library said.
    explained.text = shown(text, 1_000)
    return serialise(failure)


def credentials(stanza: Stanza, domain: str) -> Login:
    """Read the message of PLAIN (RFC 4616).

    :raises Unacceptable: it is malformed, or speaks of another account.
    """
    authzid, authcid, password = _plain(stanza)
    account = _account(authcid, domain)
    if account is None:
        raise Unacceptable(
            "not-authorized", f"the user name is not one of an account at {domain}"
        )
    if authzid and not _same(authzid, account):
        raise Unacceptable("invalid-authzid", f"{account} can only log in as itself")
    return Login(account.local, domain, password)


def _plain(stanza: Stanza) -> tuple[str, str, str]:
    text = stanza.tree().text or ""
    if stanza.children:
        raise Unacceptable("malformed-request", "elements in a SASL message")
    try:
        message = b"" if text == "=" else unb64(text)
    except PeerFault as error:
        raise Unacceptable("incorrect-encoding", error.text) from error
    try:
        parts = message.decode().split("\0")
    except UnicodeDecodeError as error:
        raise Unacceptable("malformed-request", "not UTF-8") from error
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise Unacceptable("malformed-request", "not a message of PLAIN")
    return parts[0], parts[1], parts[2]


def _account(authcid: str, domain: str) -> Jid | None:
    """Give the bare JID of a user name; some clients write the domain into it."""
    text = authcid if "@" in authcid else f"{authcid}@{domain}"
    try:
        jid = Jid.parse(text)
    except PeerFault:
        return None
    known = jid.local and jid.domain == domain and not jid.resource
    return jid if known else None


def _same(authzid: str, account: Jid) -> bool:
    try:
        return Jid.parse(authzid) == account
    except PeerFault:
        return False
