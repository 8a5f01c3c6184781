"""A session's connection to its server, from the request to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..core.vocabulary import TlsFacts
from ..errors import Fault, LocalFault
from .link import Link
from .traces import trace_of

if TYPE_CHECKING:
    from .driver import Connection, Driver

_log = Logger()


class Upstream:
    """One connection to the server; after ``end`` it tells nothing any more."""

    def __init__(self, driver: Driver, connection: Connection, domain: str) -> None:
        self._driver = driver
        self._connection: Connection | None = connection
        self._session = connection.session
        self._domain = domain
        self._link: Link | None = None
        self._delayed: Any = None
        self._connecting: Deferred[Link] | None = None

    def begin(self, delay: float) -> None:
        if delay > 0:
            self._delayed = self._driver.reactor.callLater(delay, self.begin, 0.0)
            return
        self._delayed = None
        self._connecting = self._driver.connector.connect(self._domain, self)
        self._connecting.addErrback(self._unreached)

    def _unreached(self, failure: Any) -> None:
        self._connecting = None
        if self._connection is None:
            return
        error = failure.value
        if not isinstance(error, Fault):
            _log.error("{trace}", trace=trace_of(error))
            error = LocalFault("an error inside Tillie; see its log")
        self._driver.run(self._session, lambda: self._session.server_lost(error))

    def end(self, *, abort: bool) -> None:
        self._connection = None
        if self._delayed is not None:
            self._delayed.cancel()
        if self._link is not None:
            if abort:
                self._link.abort()
            else:
                self._link.close()
        elif self._connecting is not None:
            self._connecting.cancel()

    def write(self, data: bytes) -> None:
        if self._link is not None:
            self._link.write(data)

    def start_tls(self) -> None:
        if self._link is not None:
            self._link.start_tls()

    def pause(self) -> None:
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        if self._link is not None:
            self._link.resume()

    # -- LinkOwner ------

    def link_up(self, link: Link) -> None:
        if self._connection is None:
            link.abort()
            return
        self._link = link
        mode = link.mode
        self._driver.run(self._session, lambda: self._session.server_connected(mode))
        if link.direct and link.facts is not None:
            self.link_secure(link.facts)

    def link_secure(self, facts: TlsFacts) -> None:
        if self._connection is not None and self._link is not None:
            key = self._link.server_key
            self._driver.run(
                self._session, lambda: self._session.server_secured(facts, key)
            )

    def link_data(self, data: bytes) -> None:
        connection = self._connection
        if connection is not None:
            self._driver.run(
                self._session, lambda: self._session.server_data(data), "received"
            )
            connection.steer()

    def link_lost(self, fault: Fault | None) -> None:
        if self._connection is not None:
            self._link = None
            self._driver.run(self._session, lambda: self._session.server_lost(fault))

    def link_pause(self) -> None:
        if self._connection is not None:
            self._connection.server_full(True)

    def link_resume(self) -> None:
        if self._connection is not None:
            self._connection.server_full(False)
