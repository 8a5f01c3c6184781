"""A signer that holds its keys in memory, for tests of whoever asks one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.internet.defer import Deferred, fail, succeed

from proxy.errors import EnvFault
from proxy.keys import servers
from proxy.keys.documents import make_doc
from proxy.keys.identity import RootPrivate
from proxy.net.signer import Published
from proxy.suites.fields import split
from proxy.wire.jid import Jid


class MemorySigner:
    """`away` lets it fail as while its process is away."""

    def __init__(self, domains: Iterable[str], now: int) -> None:
        self.keys = {domain: RootPrivate.generate() for domain in domains}
        self.away = False
        self._published = {
            domain: self._first(domain, key, now) for domain, key in self.keys.items()
        }

    def sign(self, typ: str, claims: Mapping[str, object]) -> Deferred[str]:
        if self.away:
            return fail(EnvFault("the signing process is away"))
        name = str(claims["iss"] if "iss" in claims else claims["sub"])
        key = self.keys[Jid.parse(name).domain]
        return succeed(make_doc(claims, typ, key))

    def prove(self, statement: bytes) -> Deferred[bytes]:
        if self.away:
            return fail(EnvFault("the signing process is away"))
        domain = split(statement)[2]
        assert domain is not None
        return succeed(self.keys[domain.decode()].sign_ed25519(statement))

    def document(self, domain: str) -> Published:
        if domain not in self._published:
            raise EnvFault(f"nothing is published for {domain}")
        return self._published[domain]

    def _first(self, domain: str, key: RootPrivate, now: int) -> Published:
        claims = servers.server_claims(domain, 1, key.public, now)
        document = make_doc(claims, servers.SERVER, key)
        return Published(servers.open_server(document.encode(), domain), ())
