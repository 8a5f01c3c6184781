"""A recording tap between Tillie and the server: it sees what the server sees.

It ends TLS with a certificate for the domain, opens its own direct TLS
connection to the server, and keeps every byte of both directions in clear.
Tillie is told `--server DOMAIN=127.0.0.1:PORT --tls DOMAIN=direct`. With `plain` there
is no TLS on either side: between a gate and its server.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .certificates import Authority, Leaf

CHUNK = 65536


class Way(Enum):
    """The direction of recorded bytes."""

    OUT = "to the server"
    IN = "from the server"


@dataclass(frozen=True)
class Chunk:
    """Bytes as read at once; `at` is time.monotonic() in seconds."""

    connection: int
    way: Way
    at: float
    data: bytes


@dataclass
class _Link:
    """One tapped connection: both transports and the two copying tasks."""

    number: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    open: bool = True


class Tap:
    """One tap in front of one server port; runs on a thread of its own.

    All methods may be called from the test's thread. `port` is where Tillie is
    to connect to and stays the same over `refuse()` and `accept()`.
    """

    def __init__(
        self,
        authority: Authority,
        leaf: Leaf,
        server_port: int,
        domain: str,
        *,
        label: str = "",
        plain: bool = False,
    ) -> None:
        self.domain = domain
        self.plain = plain
        self.label = label or domain
        self.server_port = server_port
        self.port = 0
        self._leaf = leaf
        self._authority = authority
        self._chunks: list[Chunk] = []
        self._lock = threading.Lock()
        self._links: dict[int, _Link] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._flowing = {way: asyncio.Event() for way in Way}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen on a free loopback port."""
        self._thread.start()
        self._ask(self._listen())

    def stop(self) -> None:
        """Close everything; the recording stays readable."""
        if self._loop.is_closed():
            return
        self._ask(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def chunks(self) -> list[Chunk]:
        """Return everything recorded so far, in order."""
        with self._lock:
            return list(self._chunks)

    def recorded(self, way: Way | None = None, connection: int | None = None) -> bytes:
        """Return the bytes of one direction or connection, or of all."""
        return b"".join(
            one.data
            for one in self.chunks()
            if way in (None, one.way) and connection in (None, one.connection)
        )

    def streams(self) -> dict[str, bytes]:
        """Return the bytes of each connection and direction, by a name for people."""
        streams: dict[str, bytearray] = {}
        for one in self.chunks():
            name = f"tap {self.label}, connection {one.connection}, {one.way.value}"
            streams.setdefault(name, bytearray()).extend(one.data)
        return {name: bytes(data) for name, data in streams.items()}

    def connections(self) -> list[int]:
        """Return the numbers of the connections that are open now."""
        return [number for number, one in self._links.items() if one.open]

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return self._count

    def cut(self, connection: int | None = None) -> None:
        """Break one connection, or all, at once and without a goodbye."""
        self._ask(self._cut(connection))

    def refuse(self) -> None:
        """Break all connections and close each new one before TLS ends."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def pause(self, way: Way | None = None) -> None:
        """Hold the bytes of one direction, or both, back; nothing is lost."""
        self._ask(self._flow(way, flowing=False))

    def resume(self, way: Way | None = None) -> None:
        """Let held bytes go on."""
        self._ask(self._flow(way, flowing=True))

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        for flag in self._flowing.values():
            flag.set()
        self._server = await asyncio.start_server(
            self._tapped,
            "127.0.0.1",
            0,
            ssl=None if self.plain else self._leaf.server_context(),
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _flow(self, way: Way | None, *, flowing: bool) -> None:
        for one, flag in self._flowing.items():
            if way in (None, one):
                (flag.set if flowing else flag.clear)()

    async def _cut(self, connection: int | None) -> None:
        for link in self._links.values():
            if link.open and connection in (None, link.number):
                for writer in link.writers:
                    writer.transport.abort()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._flow(None, flowing=True)
        await self._cut(None)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _tapped(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            writer.transport.abort()
            return
        self._count += 1
        link = _Link(self._count, [writer])
        self._links[link.number] = link
        try:
            await self._relay(link, reader, writer)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            link.open = False
            for one in link.writers:
                one.transport.abort()

    async def _relay(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(
            "127.0.0.1",
            self.server_port,
            ssl=None if self.plain else self._authority.client_context(),
            server_hostname=None if self.plain else self.domain,
        )
        link.writers.append(up_writer)
        copies = [
            asyncio.ensure_future(self._copy(link.number, Way.OUT, reader, up_writer)),
            asyncio.ensure_future(self._copy(link.number, Way.IN, up_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for one in (writer, up_writer):
                one.close()
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    async def _copy(
        self,
        number: int,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(CHUNK):
            with self._lock:
                self._chunks.append(Chunk(number, way, time.monotonic(), data))
            await self._flowing[way].wait()
            writer.write(data)
            await writer.drain()


def after(tap: Tap, mark: float, accept: Callable[[Chunk], bool]) -> list[Chunk]:
    """Return the chunks recorded since `mark` (time.monotonic()) that fit."""
    return [one for one in tap.chunks() if one.at >= mark and accept(one)]
