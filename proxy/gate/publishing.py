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
    SERVER,
    SERVER_MS,
    ServerDocument,
    open_server,
    rollover_claims,
    server_claims,
)

TYP: Final = SERVER
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
        claims = server_claims(domain, 1, held.key, now, directory=directory)
        return Draft(held.key, claims, 1, None, (), 0)
    key = speaking(domain, server, held)
    document = opened(server)
    if document.expires - now >= RENEW_MS and document.directory == directory:
        return None
    return _next(server, key, document.next, directory, server.announced, now)


def announcement(server: Server, held: Held, now: int) -> Draft | None:
    """The document that says which key will follow, None if the held one does.

    :raises StoreFault: no key to announce lies here, or another gate announced one.
    """
    if held.following is None:
        raise StoreFault(f"no next key of {server.domain} lies here")
    document = opened(server)
    fingerprint = held.following.fingerprint
    if document.next == fingerprint:
        return None
    check_unannounced(server)
    return _next(server, held.key, fingerprint, document.directory, now, now)


def check_unannounced(server: Server) -> None:
    """:raises StoreFault: a key is announced, which is not the one that lies here."""
    if opened(server).next is not None:
        raise StoreFault(
            f"a next key of {server.domain} is announced, and it does not lie here",
            hint=f"copy server-{server.domain}.next.key from the gate that "
            "announced it, or rotate there",
        )


def _next(
    server: Server,
    key: RootPublic,
    following: bytes | None,
    directory: str | None,
    announced: int,
    now: int,
) -> Draft:
    seq = server.seq + 1
    claims = server_claims(
        server.domain, seq, key, now, following=following, directory=directory
    )
    return Draft(key, claims, seq, server.digest, server.rollovers, announced)


def due(server: Server) -> int:
    """From when the announced key may follow, Unix milliseconds; 0 if none is."""
    return server.announced + ANNOUNCED_MS if server.announced else 0


def rollover(server: Server, held: Held, now: int) -> tuple[dict[str, object], Draft]:
    """The claims by which the key hands over, to be signed by it, and the document
    of the next one, whose rollovers lack that last one still.

    :raises StoreFault: there is no next key here.
    """
    domain = server.domain
    if held.following is None:
        raise StoreFault(f"no next key of {domain} lies here")
    claims = rollover_claims(domain, held.key.fingerprint, held.following, now)
    wanted = _next(server, held.following, None, opened(server).directory, 0, now)
    return claims, replace(wanted, rollovers=server.rollovers[1 - MOST_ROLLOVERS :])


def handed_over(domain: str, wanted: Draft, leading: str, document: str) -> Server:
    """The record of a rotation: what :func:`rollover` gave, signed."""
    server = wanted.server(domain, document)
    return replace(server, rollovers=(*server.rollovers, leading))


def opened(server: Server) -> ServerDocument:
    """The document of a record, which was verified before it was kept."""
    return open_server(server.document.encode(), server.domain)
