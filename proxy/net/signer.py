"""What the gate asks of its signing process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from ..keys.servers import ServerDocument


@dataclass(frozen=True, slots=True)
class Published:
    """What a domain shows of itself (13.3).

    :param document: in force; the key that it names signs.
    :param rollovers: JWS, at most two, oldest first.
    """

    document: ServerDocument
    rollovers: tuple[str, ...]


class Signer(Protocol):
    """Signs for the domains of this gate."""

    def sign(self, typ: str, claims: Mapping[str, object]) -> Deferred[str]:
        """The JWS of *claims*, by the key of the domain that they are by.

        Fails with ``EnvFault`` while the process is away.
        """
        ...

    def prove(self, statement: bytes) -> Deferred[bytes]:
        """The Ed25519 signature of a statement of 14.4; fails likewise."""
        ...

    def document(self, domain: str) -> Published:
        """:raises EnvFault: nothing is published for *domain*."""
        ...
