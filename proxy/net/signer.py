"""The gate's side of its signing process: start it, ask it, start it again.

The private keys of the gate's domains are in that process only.  While it is away
every question fails at once, and no login goes on without its proof (14.4).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import EnvFault, Fault, LocalFault, StoreFault, TrustFault
from ..gate.publishing import Held
from ..gate.signframes import frame, frames, keys_of, number_of, text_of
from ..gate.signing import MAKE
from ..keys.servers import ServerDocument

SECONDS: Final = 5.0
"""After which a process that does not answer is ended."""
STARTING: Final = 60.0
"""The same for one that has not begun; a busy machine takes its time to load it."""
_SWEEP: Final = 0.5
_LATEST: Final = 30.0
_CODE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from proxy.app.signhost import main; sys.exit(main(sys.argv[2], sys.argv[3:]))"
)
_AWAY: Final = "the gate's signing process is away"

_log = Logger()


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


class SigningProcess:
    """One signing process at a time, for as long as it is wanted.

    :param folder: where the key files are.
    :param changed: called with the public keys whenever a process has begun.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        domains: list[str],
        changed: Callable[[dict[str, Held]], None],
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._domains = domains
        self._changed = changed
        self._child: _Child | None = None
        self._starting: _Child | None = None
        self._retry: Any = None
        self._wait = 0.5
        self._stopping = False

    async def start(self, may_make: frozenset[str]) -> dict[str, Held]:
        """Begin; the keys that it found.

        :param may_make: domains that may have a new key, if they have none.
        :raises StoreFault: there are no usable key files.
        """
        return await self._spawn(may_make)

    async def reload(self) -> dict[str, Held]:
        """A new process with what the key files say now takes over.

        The one before answers what it was asked, and ends.
        :raises StoreFault: the files are not usable now; the process stays.
        """
        return await self._spawn(frozenset())

    async def stop(self) -> None:
        self._stopping = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for child in (self._starting, self._child):
            if child is not None:
                child.close()
                await child.gone

    @property
    def pid(self) -> int | None:
        """Of the process that is asked now."""
        return self._child.pid if self._child is not None else None

    def sign(
        self, fingerprint: bytes, typ: str, claims: Mapping[str, object]
    ) -> Deferred[str]:
        text = json.dumps(claims, separators=(",", ":"))
        asked = self._ask("sign", fingerprint, typ, text)
        return asked.addCallback(bytes.decode)

    def prove(self, fingerprint: bytes, statement: bytes) -> Deferred[bytes]:
        return self._ask("prove", fingerprint, statement)

    def _ask(self, what: str, *parts: bytes | str) -> Deferred[Any]:
        if self._child is None:
            return fail(EnvFault(_AWAY))
        return self._child.ask(what, *parts)

    async def _spawn(self, may_make: frozenset[str]) -> dict[str, Held]:
        child = _Child(self._reactor, self._lost)
        self._starting = child
        names = [
            MAKE + domain if domain in may_make else domain for domain in self._domains
        ]
        root = str(Path(__file__).resolve().parents[2])
        try:
            self._reactor.spawnProcess(
                child,
                sys.executable,
                [sys.executable, "-I", "-c", _CODE, root, str(self._folder), *names],
                env={},
                path="/",
            )
            keys: dict[str, Held] = await child.ready
        finally:
            if self._starting is child:
                self._starting = None
        before, self._child = self._child, child
        self._wait = 0.5
        if before is not None:
            before.close()
        self._changed(keys)
        return keys

    def _lost(self, child: _Child) -> None:
        if child is not self._child:
            return
        self._child = None
        if not self._stopping:
            _log.error("the signing process ended: no logins until it is back")
            self._again()

    def _again(self) -> None:
        self._retry = self._reactor.callLater(self._wait, self._restart)
        self._wait = min(2 * self._wait, _LATEST)

    def _restart(self) -> None:
        self._retry = None
        begun = Deferred.fromCoroutine(self._spawn(frozenset()))
        begun.addCallbacks(self._restarted, self._not_restarted)

    def _restarted(self, _: object) -> None:
        _log.info("the signing process is back")

    def _not_restarted(self, failure: Failure) -> None:
        if failure.check(Fault):
            _log.error("the signing process: {text}", text=failure.value.text)
        else:
            _log.failure("the signing process could not be started", failure)
        if not self._stopping:
            self._again()


class _Child(ProcessProtocol):  # type: ignore[misc] # Twisted has no types here
    """One process: what it was asked and has not answered."""

    def __init__(self, reactor: Any, lost: Callable[[_Child], None]) -> None:
        self.ready: Deferred[dict[str, Held]] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self._reactor = reactor
        self._lost = lost
        self._number = 0
        self._asked: dict[int, tuple[float, Deferred[bytes]]] = {}
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._closing = False
        self._sweeping: Any = None

    @property
    def pid(self) -> int | None:
        pid: int | None = self.transport.pid if self.transport else None
        return pid

    def connectionMade(self) -> None:
        deadline = self._reactor.seconds() + STARTING
        self._sweeping = self._reactor.callLater(_SWEEP, self._sweep, deadline)

    def ask(self, what: str, *parts: bytes | str) -> Deferred[bytes]:
        if self._closing:
            return fail(EnvFault(_AWAY))
        self._number += 1
        waiting: Deferred[bytes] = Deferred()
        self._asked[self._number] = (self._reactor.seconds(), waiting)
        # what is asked in one turn of the reactor leaves in one write
        if not self._out:
            self._reactor.callLater(0, self._flush)
        self._out.append(frame(what, self._number, *parts))
        return waiting

    def close(self) -> None:
        """No more questions; the process answers those that it has, and ends."""
        if not self._closing:
            self._flush()
            self._closing = True
            self.transport.closeStdin()

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if data and not self._closing:
            self.transport.write(data)

    def _sweep(self, starting_until: float) -> None:
        now = self._reactor.seconds()
        oldest = next(iter(self._asked.values()), None)
        stuck = oldest is not None and now - oldest[0] > SECONDS
        if stuck or (not self.ready.called and now > starting_until):
            self.transport.signalProcess("KILL")
            self._sweeping = None
        else:
            self._sweeping = self._reactor.callLater(
                _SWEEP, self._sweep, starting_until
            )

    def outReceived(self, data: bytes) -> None:
        self._buffer += data
        try:
            for said in frames(self._buffer):
                self._take(*said)
        except Fault as fault:
            _log.error("the signing process: {text}", text=fault.text)
            self.transport.signalProcess("KILL")

    def errReceived(self, data: bytes) -> None:
        # a traceback; it names no key
        _log.error("the signing process: {text}", text=data.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._closing = True
        asked, self._asked = self._asked, {}
        if not self.ready.called:
            self.ready.errback(StoreFault("the signing process did not start"))
        self._lost(self)
        for _, waiting in asked.values():
            waiting.errback(EnvFault(_AWAY))
        self.gone.callback(None)

    def _take(self, label: str, parts: list[bytes | None]) -> None:
        if label == "ready" and not self.ready.called:
            self.ready.callback(keys_of(parts))
        elif label == "broken" and not self.ready.called:
            text, hint = map(text_of, parts)
            self.ready.errback(StoreFault(text, hint=hint))
        elif label in ("done", "refused") and len(parts) == 2:
            number, said = parts
            _, waiting = self._asked.pop(number_of(number))
            if label == "done":
                waiting.callback(said or b"")
            else:
                waiting.errback(TrustFault(text_of(said)))
        else:
            raise LocalFault("it said something unknown")
