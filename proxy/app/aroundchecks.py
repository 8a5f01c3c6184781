"""``tillie gate check``: whether the server can be had without passing the gate.

At each address of the domain, the ports where servers usually take clients are tried,
as XMPP and as HTTP (BOSH, WebSocket), and what the domain's own host-meta names
(XEP-0156).  A server behind a gate listens for nobody but the gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, gatherResults

from ..core.streams import TLS
from ..errors import EnvFault
from ..gate import around
from ..gate.outside import Finding
from ..net.dns import Resolver
from ..net.knock import Knock, knock
from .checking import Asked, Place

XMPP_PORTS: Final = frozenset({5222, 5223})
_SECONDS: Final = 5.0
_MOST_LINKS: Final = 4
_STARTTLS: Final = f"<starttls xmlns='{TLS}'/>".encode()
_FEATURES: Final = b"</stream:features>"
_LINK: Final = re.compile(rb"""(?:https?|wss?):\\?/\\?/[^"'<>\s]{1,200}""")
_HINT: Final = "take it away or close it to the outside: tillie gate config, 2"


class AroundChecks:
    """The checks of one domain beside its gate."""

    def __init__(self, reactor: Any, asked: Asked, resolver: Resolver) -> None:
        self._reactor = reactor
        self._asked = asked
        self._resolver = resolver
        self._seconds = min(asked.seconds, _SECONDS)

    async def of(self, places: Iterable[Place]) -> list[Finding]:
        """Everything on the addresses of *places* and of the domain itself."""
        known = {(one.address, one.port) for one in places}
        addresses = list(dict.fromkeys(one.address for one in places))
        for one in await self._own_addresses():
            if one not in addresses:
                addresses.append(one)
        found = []
        for address in addresses:
            found += await self._address(address, known)
        return [*found, *await self._named()]

    async def _own_addresses(self) -> list[str]:
        if self._asked.server is not None and self._asked.resolver is None:
            return []  # a server was named so that DNS is not asked
        try:
            return await self._resolver.addresses(self._asked.name, self._asked.seconds)
        except EnvFault:
            return []

    async def _address(
        self, address: str, known: set[tuple[str, int]]
    ) -> list[Finding]:
        ports = [one for one in self._asked.usual_ports if (address, one) not in known]
        trying = [Deferred.fromCoroutine(self._port(address, one)) for one in ports]
        found: list[list[Finding]] = await gatherResults(trying, consumeErrors=True)
        open_ = [one for each in found for one in each]
        if open_:
            return open_
        tried = ", ".join(map(str, ports))
        return [Finding("around", address, True, f"no way in at {tried}")]

    async def _port(self, address: str, port: int) -> list[Finding]:
        if port in XMPP_PORTS:
            answer = await self._xmpp(address, port)
            if not around.lets_in(answer):
                return []
            text = "clients are taken here, without a key"
            return [Finding("around", f"{address}:{port}", False, text, _HINT)]
        return await self._http(address, port)

    # -- XMPP ------

    async def _xmpp(self, address: str, port: int) -> bytes:
        """What a client's stream is told, behind TLS where TLS is offered."""
        name = self._asked.name
        for tls in ("", name):
            came = await self._stream(address, port, tls)
            if came:
                return came
        return b""

    async def _stream(self, address: str, port: int, tls: str) -> bytes:
        connection = await knock(self._reactor, address, port, self._seconds, tls)
        if connection is None:
            return b""
        header = around.stream(self._asked.domain)
        try:
            came = await connection.say(header, _FEATURES, self._seconds)
            if tls or TLS.encode() not in came:
                return came
            told = await connection.say(_STARTTLS, b"<proceed", self._seconds)
            if b"<proceed" not in told:
                return came
            connection.start_tls(self._asked.name)
            return await connection.say(header, _FEATURES, self._seconds)
        finally:
            connection.drop()

    # -- HTTP ------

    async def _http(self, address: str, port: int) -> list[Finding]:
        tls = await self._speaks_http(address, port)
        if tls is None:
            return []
        paths = (*around.BOSH_PATHS, *around.WEBSOCKET_PATHS)
        trying = [
            Deferred.fromCoroutine(self._path(address, port, path, tls))
            for path in paths
        ]
        found: list[list[Finding]] = await gatherResults(trying, consumeErrors=True)
        return [one for each in found for one in each]

    async def _speaks_http(self, address: str, port: int) -> str | None:
        """The name for TLS, empty for none; None if no HTTP is spoken there."""
        for tls in (self._asked.name, ""):
            connection = await knock(self._reactor, address, port, self._seconds, tls)
            if connection is None:
                return None
            try:
                request = around.page("/", self._asked.name)
                came = await connection.say(request, b"\r\n", self._seconds)
            finally:
                connection.drop()
            if came.startswith(b"HTTP/"):
                return tls
        return None

    async def _path(
        self, address: str, port: int, path: str, tls: str, host: str = ""
    ) -> list[Finding]:
        connection = await knock(self._reactor, address, port, self._seconds, tls)
        if connection is None:
            return []
        try:
            if path in around.WEBSOCKET_PATHS or path.startswith("ws:"):
                what, came = "WebSocket", await self._websocket(connection, path, host)
            else:
                what, came = "BOSH", await self._bosh(connection, path, host)
        finally:
            connection.drop()
        if not around.lets_in(came):
            return []
        where = f"{host or address}:{port}{path.removeprefix('ws:')}"
        text = f"{what} takes clients here, without a key"
        return [Finding("around", where, False, text, _HINT)]

    async def _bosh(self, connection: Knock, path: str, host: str) -> bytes:
        request = around.bosh(path, self._asked.domain, host)
        return await connection.say(request, b"</body>", self._seconds)

    async def _websocket(self, connection: Knock, path: str, host: str) -> bytes:
        request = around.websocket(path.removeprefix("ws:"), self._asked.domain, host)
        answer = await connection.say(request, b"\r\n\r\n", self._seconds)
        if not around.upgraded(answer):
            return b""
        frame = around.opening(self._asked.domain)
        return await connection.say(frame, _FEATURES, self._seconds)

    # -- host-meta (XEP-0156) ------

    async def _named(self) -> list[Finding]:
        """Roads that the domain's own web server names."""
        found: list[Finding] = []
        links: dict[str, None] = {}
        for address in await self._own_addresses():
            for path in ("host-meta", "host-meta.json"):
                links |= dict.fromkeys(await self._links(address, path))
        for link in list(links)[:_MOST_LINKS]:
            found += await self._link(link)
        return found

    async def _links(self, address: str, path: str) -> list[str]:
        name = self._asked.name
        connection = await knock(
            self._reactor, address, self._asked.web_port, self._seconds, name
        )
        if connection is None:
            return []
        request = around.page(f"/.well-known/{path}", name)
        try:
            came = await connection.say(request, b"\0", self._seconds)
        finally:
            connection.drop()
        if b"xmpp:alt-connections" not in came:
            return []
        return [
            one.replace(b"\\/", b"/").decode("ascii", "ignore")
            for one in _LINK.findall(came)
        ]

    async def _link(self, link: str) -> list[Finding]:
        try:
            parts = urlsplit(link)
            secure = parts.scheme in ("https", "wss")
            port = parts.port or (443 if secure else 80)
            host = parts.hostname or ""
            addresses = await self._resolver.addresses(host, self._asked.seconds)
        except (ValueError, EnvFault):
            return []
        path = parts.path or "/"
        if parts.scheme in ("ws", "wss"):
            path = f"ws:{path}"
        tls = host if secure else ""
        for address in addresses:
            found = await self._path(address, port, path, tls, host)
            if found:
                return found
        return []
