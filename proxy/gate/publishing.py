"""What a domain says of itself next: its document, its next key (13.2, 13.4).

Pure: what the registry holds, which keys lie here and the time decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..errors import StoreFault
from ..keys.identity import RootPublic
from ..keys.registry import Server
from ..keys.servers import (
    MOST_ROLLOVERS,
    SERVER_MS,
    ServerDocument,
    open_server,
    rollover_claims,
    server_claims,
)

DAY_MS: Final = 24 * 3600 * 1000
ANNOUNCED_MS: Final = 30 * DAY_MS
"""How long a key is announced before it follows."""
RENEW_MS: Final = SERVER_MS // 2
"""A document with less time than this is followed by a new one."""


@dataclass(frozen=True, slots=True)
class Held:
    """The public halves of the keys of a domain that lie here."""

    key: RootPublic
    following: RootPublic | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A document to be signed by *key* and published upon *upon*.

    :param rollovers: those that stand beside it already.
    """

    key: RootPublic
    claims: dict[str, object]
    seq: int
    upon: bytes | None
    rollovers: tuple[str, ...]
    announced: int

    def server(self, domain: str, document: str) -> Server:
        """The record of the signed *document*.

        :raises Fault: it would be refused by those who read it.
        """
        opened = open_server(document.encode(), domain)
        return Server(
            domain,
            self.seq,
            opened.digest,
            document,
            self.key.fingerprint,
            self.rollovers,
            self.announced,
        )


def speaking(domain: str, server: Server, held: Held) -> RootPublic:
    """The key that speaks for *domain* now, which lies here.

    :raises StoreFault: it does not, and what to do.
    """
    if server.key == held.key.fingerprint:
        return held.key
    if held.following is not None and server.key == held.following.fingerprint:
        return held.following
    raise StoreFault(
        f"{domain} is known by another key than the one that lies here, and nobody "
        "would believe this one",
        hint=f"copy server-{domain}.key from the gate that made the registry or "
        "rotated the key last",
    )


def draft(
    domain: str,
    server: Server | None,
    held: Held,
    directory: str | None,
    now: int,
) -> Draft | None:
    """The document that has to follow now, None if the held one does.

    :raises StoreFault: see :func:`speaking`.
    """
    if server is None:
        return _draft(domain, None, held.key, held.following, directory, now)
    key = speaking(domain, server, held)
    document = open_server(server.document.encode(), domain)
    following = held.following if key == held.key else None
    if (
        document.expires - now >= RENEW_MS
        and document.directory == directory
        and (following is None or document.next == following.fingerprint)
    ):
        return None
    return _draft(domain, server, key, following, directory, now)


def _draft(
    domain: str,
    server: Server | None,
    key: RootPublic,
    following: RootPublic | None,
    directory: str | None,
    now: int,
) -> Draft:
    seq, upon, announced, fingerprint = 1, None, 0, None
    rollovers: tuple[str, ...] = ()
    if server is not None:
        # A key that another gate announced is not taken back by one that has
        # no copy of it yet.
        document = open_server(server.document.encode(), domain)
        seq, upon, announced = server.seq + 1, server.digest, server.announced
        fingerprint, rollovers = document.next, server.rollovers
    if following is not None and following.fingerprint != fingerprint:
        fingerprint, announced = following.fingerprint, now
    claims = server_claims(
        domain, seq, key, now, following=fingerprint, directory=directory
    )
    return Draft(key, claims, seq, upon, rollovers, announced)


def due(server: Server) -> int:
    """From when the announced key may follow, Unix milliseconds; 0 if none is."""
    return server.announced + ANNOUNCED_MS if server.announced else 0


def rollover(
    domain: str, server: Server, held: Held, now: int
) -> tuple[dict[str, object], Draft]:
    """The claims by which the key hands over, to be signed by it, and the document
    of the next one, whose rollovers lack that last one still.

    :raises StoreFault: there is no next key here.
    """
    if held.following is None:
        raise StoreFault(f"no next key of {domain} lies here")
    document = open_server(server.document.encode(), domain)
    claims = rollover_claims(domain, held.key.fingerprint, held.following, now)
    seq = server.seq + 1
    following = server_claims(
        domain, seq, held.following, now, directory=document.directory
    )
    kept = server.rollovers[-(MOST_ROLLOVERS - 1) :]
    return claims, Draft(held.following, following, seq, server.digest, kept, 0)


def handed_over(domain: str, wanted: Draft, leading: str, document: str) -> Server:
    """The record of a rotation, of what :func:`rollover` gave and was signed."""
    server = wanted.server(domain, document)
    return replace(server, rollovers=(*server.rollovers, leading))


def opened(server: Server) -> ServerDocument:
    """The document of a record, which was verified before it was kept."""
    return open_server(server.document.encode(), server.domain)
