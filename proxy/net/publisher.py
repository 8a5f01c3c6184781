"""Keeps what the gate's domains say of themselves, and signs in their name.

The registry holds each domain's newest document; this looks at it every few
seconds, so that a key that was rotated at another gate or by a command speaks
here soon after, and publishes what has to follow.  A copy for
``https://DOMAIN/.well-known/tillie`` lies under the state folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import EnvFault, Fault, StoreFault
from ..gate.publishing import TYP, Held, draft, opened, speaking
from ..gate.questions import Answer, Publish, Served, Serving, Unavailable, Yes
from ..gate.signing import domain_of, signer_of
from ..keys.registry import Server
from .registry import RegistryWorker, wall_clock
from .signer import Published, SigningProcess

EVERY: Final = 5.0
TRIES: Final = 5
WELL_KNOWN: Final = "well-known"
_log = Logger()


class GateSigner:
    """The :class:`~net.signer.Signer` of a running gate.

    :param directories: prepared domain to the domain of its directory, if it has one.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        directories: Mapping[str, str | None],
        registry: RegistryWorker,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._directories = dict(directories)
        self._registry = registry
        self._process = SigningProcess(
            reactor, folder, list(directories), self._keys_changed
        )
        self._held: dict[str, Held] = {}
        self._servers: dict[str, Server] = {}
        self._published: dict[str, Published] = {}
        self._next: Any = None
        self._looking: Deferred[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Make what is missing at a first start, and publish.

        :raises StoreFault: the registry cannot be asked, or knows a domain by a key
            that does not lie here.
        """
        known = {name: await self._known(name) for name in self._directories}
        new = frozenset(name for name, server in known.items() if server is None)
        self._held = await self._process.start(new)
        try:
            for domain in self._directories:
                await self._publish(domain)
        except BaseException:
            await self._process.stop()
            raise
        self._later()

    async def stop(self) -> None:
        self._stopped = True
        following, self._next = self._next, None
        if following is not None:
            following.cancel()
        if self._looking is not None:
            await self._looking
        await self._process.stop()

    @property
    def pid(self) -> int | None:
        """Of the signing process."""
        return self._process.pid

    # -- as Signer ------------------------------------------------------------

    def sign(self, typ: str, claims: Mapping[str, object]) -> Deferred[str]:
        try:
            key = self.document(signer_of(claims)).document.keys
        except Fault as fault:
            return fail(fault)
        return self._process.sign(key.fingerprint, typ, claims)

    def prove(self, statement: bytes) -> Deferred[bytes]:
        try:
            key = self.document(domain_of(statement)).document.keys
        except Fault as fault:
            return fail(fault)
        return self._process.prove(key.fingerprint, statement)

    def document(self, domain: str) -> Published:
        found = self._published.get(domain)
        if found is None:
            raise EnvFault(f"no key of {domain} is in use at this gate")
        return found

    # -- what is published ------------------------------------------------------

    def _keys_changed(self, keys: dict[str, Held]) -> None:
        self._held = keys

    def _later(self) -> None:
        if not self._stopped:
            self._next = self._reactor.callLater(EVERY, self._look)

    def look(self) -> Deferred[None]:
        """Look after what is the case now; fires when that is done.

        One that is under way may have asked before, so another one follows it.
        """
        done: Deferred[None] = Deferred()
        if self._looking is not None:
            self._looking.addBoth(lambda _: self._look_now(done))
        else:
            self._look_now(done)
        return done

    def _look_now(self, done: Deferred[None]) -> None:
        if self._looking is None and self._next is not None:
            self._next.cancel()
            self._look()
        if self._looking is None:
            done.callback(None)
        else:
            self._looking.addBoth(lambda _: done.callback(None))

    def _look(self) -> None:
        self._next = None
        self._looking = Deferred.fromCoroutine(self._refresh())
        self._looking.addBoth(self._looked)

    def _looked(self, outcome: object) -> None:
        self._looking = None
        if isinstance(outcome, Failure):
            _log.failure("looking after the gate's keys", outcome)
        self._later()

    async def _refresh(self) -> None:
        for domain in self._directories:
            try:
                await self._follow(domain)
            except Fault as fault:
                _log.error(
                    "the key of {domain}: {text}", domain=domain, text=fault.text
                )

    async def _follow(self, domain: str) -> None:
        server = await self._served(domain)
        if server is not None and not _lies_here(server, self._held[domain]):
            # what is signed by the old key, nobody would believe any more
            self._published.pop(domain, None)
            # the files may have changed since the process read them
            await self._process.reload()
        await self._publish(domain)

    async def _publish(self, domain: str) -> None:
        """Bring the domain's document up to date, and take it into use here."""
        for _ in range(3):
            server = await self._served(domain)
            held, now = self._held[domain], wall_clock()
            wanted = draft(domain, server, held, self._directories[domain], now)
            if wanted is None and server is not None:
                self._use(domain, server)
                return
            if wanted is None:
                break
            signed = await self._process.sign(
                wanted.key.fingerprint, TYP, wanted.claims
            )
            made = wanted.server(domain, signed)
            if await self._asked(Publish(made, wanted.upon)) == Yes():
                self._use(domain, made)
                return
        raise StoreFault(f"the key of {domain} changes faster than it can be followed")

    def _use(self, domain: str, server: Server) -> None:
        if self._servers.get(domain) == server and domain in self._published:
            return
        speaking(domain, server, self._held[domain])
        self._servers[domain] = server
        self._published[domain] = Published(opened(server), server.rollovers)
        _log.info(
            "{domain} is known by key {key}, document {seq}",
            domain=domain,
            key=server.key.hex()[:16],
            seq=server.seq,
        )
        self._write_copy(domain, server)

    def _write_copy(self, domain: str, server: Server) -> None:
        try:
            folder = self._folder / WELL_KNOWN / domain
            folder.mkdir(parents=True, exist_ok=True)
            fresh = folder / ".tillie.new"
            fresh.write_text(well_known(server))
            fresh.chmod(0o644)
            fresh.replace(folder / "tillie")
        except OSError as error:
            # nobody's login hangs on it
            _log.warn(
                "the copy for /.well-known/tillie of {domain} could not be written: "
                "{why}",
                domain=domain,
                why=error.strerror or error,
            )

    # -- the registry -------------------------------------------------------------

    async def _known(self, domain: str) -> Server | None:
        """The same at a start, where the database may be starting too."""
        for _ in range(TRIES - 1):
            try:
                return await self._served(domain)
            except StoreFault:
                await deferLater(self._reactor, 1.0)
        return await self._served(domain)

    async def _served(self, domain: str) -> Server | None:
        said = await self._asked(Served(domain))
        return said.server if isinstance(said, Serving) else None

    async def _asked(self, question: Served | Publish) -> Answer:
        said: Answer = await self._registry.ask(question)
        if isinstance(said, Unavailable):
            raise StoreFault(said.text)
        return said


def well_known(server: Server) -> str:
    """The file for ``https://DOMAIN/.well-known/tillie``: ``<server/>`` of 13.3."""
    rollovers = "".join(
        f"<rollover>{escape(one)}</rollover>" for one in server.rollovers
    )
    return (
        f"<server xmlns='urn:x-tillie:key:0'><document>{escape(server.document)}"
        f"</document>{rollovers}</server>\n"
    )


def _lies_here(server: Server, held: Held) -> bool:
    following = held.following
    here = {held.key.fingerprint} | ({following.fingerprint} if following else set())
    return server.key in here
