"""XMPP addresses (RFC 7622), prepared so that equal addresses are equal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from ..errors import PeerFault

# RFC 7622, 3.2 to 3.4: each part is between 1 and 1,023 bytes.
_LONGEST_PART: Final = 1023
_LONGEST_LABEL: Final = 63
_FORBIDDEN_LOCAL: Final = frozenset("\"&'/:<>@")
_ASCII_LOCAL: Final = re.compile(r"[!#-%(-.0-9;=?A-~]+")
_ASCII_RESOURCE: Final = re.compile(r"[ -~]+")
# The underscore is no letter of a host name, but components are named with it.
_ASCII_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Jid:
    """An address; one that exists is valid and prepared.

    :param local: account name, or ``""``.
    :param domain: in lower case, as U-labels, without the dot at its end.
    :param resource: or ``""``.
    :raises PeerFault: ``jid-malformed``: a part is not valid or not prepared.

    Domains are names: an IP address is refused.
    """

    local: str
    domain: str
    resource: str = ""

    def __post_init__(self) -> None:
        prepared = (
            self.local and _local(self.local),
            _domain(self.domain),
            self.resource and _resource(self.resource),
        )
        if prepared != (self.local, self.domain, self.resource):
            raise _malformed("it is not in its prepared form")

    @classmethod
    def parse(cls, text: str) -> Jid:
        """Read ``local@domain/resource``, where only the domain must be there.

        :raises PeerFault: ``jid-malformed``.
        """
        return _parse(text)

    @property
    def bare(self) -> Jid:
        """The address without its resource."""
        return _bare(self) if self.resource else self

    def __str__(self) -> str:
        local = f"{self.local}@" if self.local else ""
        resource = f"/{self.resource}" if self.resource else ""
        return f"{local}{self.domain}{resource}"


@lru_cache(maxsize=2048)
def _parse(text: str) -> Jid:
    front, slash, resource = text.partition("/")
    local, at, domain = front.rpartition("@") if "@" in front else ("", "", front)
    if (at and not local) or (slash and not resource):
        raise _malformed("a part of it is empty")
    return Jid(
        local and _local(local), _domain(domain), resource and _resource(resource)
    )


@lru_cache(maxsize=2048)
def _bare(jid: Jid) -> Jid:
    return Jid(jid.local, jid.domain)


def _malformed(why: str) -> PeerFault:
    return PeerFault(f"an address is not valid: {why}", condition="jid-malformed")


def _bounded(part: str) -> str:
    # Asked before preparing, which costs more than linear time for some texts,
    # and after it, which can make a text many times longer.
    if not part:
        raise _malformed("a part of it is empty")
    if len(part) > _LONGEST_PART or len(part.encode(errors="replace")) > _LONGEST_PART:
        raise _malformed(f"a part of it is longer than {_LONGEST_PART} bytes")
    return part


def _local(text: str) -> str:
    if _ASCII_LOCAL.fullmatch(_bounded(text)):
        return text.lower()
    prepared = _enforced("UsernameCaseMapped", text)
    # RFC 7622, 3.3.1; a full-width @ has become an @ only now.
    if not _FORBIDDEN_LOCAL.isdisjoint(prepared):
        raise _malformed("its account name has a character that is not allowed")
    return prepared


def _resource(text: str) -> str:
    if _ASCII_RESOURCE.fullmatch(_bounded(text)):
        return text
    return _enforced("OpaqueString", text)


def _enforced(profile: str, text: str) -> str:
    enforce = _profile(profile)
    try:
        prepared = enforce(text)
        stable = enforce(prepared) == prepared
    except UnicodeError as error:
        raise _malformed("it has a character that is not allowed") from error
    if not stable:
        # The server might prepare it once more than we do.
        raise _malformed("it has no stable prepared form")
    return _bounded(prepared)


@cache
def _profile(name: str) -> Callable[[str], str]:
    # Loaded only for the few addresses beyond ASCII: it costs start-up time.
    from precis_i18n import get_profile

    enforce: Callable[[str], str] = get_profile(name).enforce
    return enforce


@lru_cache(maxsize=512)
def _domain(text: str) -> str:
    lowered = _bounded(text).lower()
    name = lowered if lowered.isascii() else _mapped(text)
    labels = _bounded(name.removesuffix(".")).split(".")
    if labels[-1].isdigit():
        raise _malformed("its domain is a number and not a name")
    return _bounded(".".join([_label(label) for label in labels]))


def _mapped(text: str) -> str:
    import idna

    try:
        # Width and case (RFC 7622, 3.2.1 by way of RFC 5895) as browsers and
        # registries do it.
        return idna.uts46_remap(text, std3_rules=False, transitional=False)
    except UnicodeError as error:
        raise _malformed("its domain has a character that is not allowed") from error


def _label(label: str) -> str:
    if len(label) > _LONGEST_LABEL:
        raise _malformed(f"a label of its domain is over {_LONGEST_LABEL} characters")
    if _ASCII_LABEL.fullmatch(label) and not label.startswith("xn--"):
        return label
    import idna

    try:
        unicode = idna.ulabel(label)
        # There and back: what another program makes of it is the same name.
        if unicode.isascii() or idna.ulabel(idna.alabel(unicode)) != unicode:
            raise _malformed("a label of its domain is not in its proper form")
    except UnicodeError as error:
        raise _malformed("a label of its domain is not allowed") from error
    return unicode
