"""The running program: assemble, listen, serve, reload, stop.

The only module that knows every part.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from .. import __version__
from ..core import crash
from ..core.account import Settings
from ..core.house import House
from ..errors import EnvFault, Fault, LostFault
from ..keys.sqlite import open_store
from ..keys.store import Store
from . import control
from .addresses import Listener
from .config import Config
from .log import start as start_log
from .terminal import escaped


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    :raises Fault: it could not start; nothing was changed.
    """
    from twisted.internet import reactor

    control.own_folder(config.state)
    store = open_store(config.state)
    service = Service(config, store, reactor)
    try:
        service.start()
        reactor.run(installSignalHandlers=False)
    finally:
        store.close()
    if service.lost is not None:
        _end_at_once(service.lost)
    return 0


def _end_at_once(fault: LostFault) -> NoReturn:
    """A normal end would close the database: write to it, and believe the disk."""
    for line in (f"tillie: error: {fault.text}", f"hint: {fault.hint}"):
        with suppress(OSError):
            sys.stderr.write(f"{escaped(line)}\n")
            sys.stderr.flush()
    os._exit(1)


def _now() -> int:
    return time.time_ns() // 1_000_000


class Service:
    """One Tillie on one state folder."""

    def __init__(self, config: Config, store: Store, reactor: Any) -> None:
        from ..net.connector import Connector
        from ..net.dns import Resolver
        from ..net.driver import Driver
        from ..net.localca import LocalCertificates

        self.config = config
        self.lost: LostFault | None = None
        self._reactor = reactor
        self._store = store
        self._house = House(store, _now, settings(config))
        self._resolver = Resolver(reactor, config.resolver)
        self._connector = Connector(
            reactor,
            self._resolver,
            servers=config.servers,
            tls=config.tls,
            trust_anchors=config.ca,
        )
        certificates = LocalCertificates(config.state / "local")
        self._driver = Driver(reactor, self._house, self._connector, certificates)
        self._driver.on_lost = self._give_up
        self._ports: list[Any] = []
        self._listeners: list[str] = []
        self._control: control.ControlPort | None = None
        self._stopping = False

    def start(self) -> None:
        """Listen, then say so, line by line, and only then serve.

        :raises EnvFault: an address cannot be had.
        """
        start_log(self.config.log_level, as_json=self.config.log_json)
        _arm_crash_point(os.environ.get("TILLIE_CRASH", ""))
        self._listeners = [self._listen(one) for one in self.config.listeners]
        self._control = control.serve(self._reactor, self.config.state, self._command)
        on_signals(self._reactor, self.stop, self.reload)
        self._driver.start()
        for line in self._listeners:
            sys.stdout.write(f"tillie: listening on {line}\n")
        sys.stdout.flush()

    def _listen(self, listener: Listener) -> str:
        factory = self._driver.factory(secure=listener.security == "tls")
        port, line = listen(self._reactor, listener, factory)
        self._ports.append(port)
        return line

    # -- signals ------

    def stop(self) -> None:
        """SIGTERM: no new clients, streams end in good order, then the end."""
        if self._stopping:
            return
        self._close()
        done = self._driver.stop()
        done.addCallback(lambda _: self._reactor.stop())

    def _close(self) -> None:
        self._stopping = True
        for port in self._ports:
            port.stopListening()
        if self._control is not None:
            self._control.stop()

    def _give_up(self, fault: LostFault) -> None:
        """The store is lost: the clients get their last words, then the end."""
        self.lost = self.lost or fault
        if not self._stopping:
            self._close()
            self._driver.gone().addCallback(lambda _: self._reactor.stop())

    def reload(self) -> None:
        """SIGHUP: read the configuration again; policies apply at once."""
        from .log import say

        try:
            config = self.config.again()
        except Fault as fault:
            say(f"the configuration was not reloaded: {fault.text}")
            return
        self.config = config
        self._house.reconfigure(settings(config))
        say("configuration reloaded")

    # -- control ------

    def _command(self, name: str, args: Mapping[str, object]) -> Any:
        from twisted.internet.defer import Deferred

        from .doctor import examine

        if name == "status":
            return self._status(args)
        if name == "doctor":
            return examine(self._house, self._connector, self._listeners, args)
        done: Deferred[Any] = Deferred()

        def reply(result: object) -> None:
            if isinstance(result, Fault):
                done.errback(result)
            else:
                done.callback(result)

        fine = self._driver.run(None, lambda: self._house.command(name, args, reply))
        if not fine and not done.called:
            done.errback(Fault("the state could not be written; nothing was changed"))
        return done

    def _status(self, args: Mapping[str, object]) -> dict[str, object]:
        """:raises Fault: the account that was named is not here."""
        answers: list[object] = []
        self._house.command("accounts", args, answers.append)
        notices: list[object] = []
        self._house.command("notices", args, notices.append)
        if isinstance(answers[0], Fault):
            raise answers[0]
        count = len(notices[0]) if isinstance(notices[0], list) else 0
        return {
            "version": __version__,
            "accounts": answers[0],
            "listeners": self._listeners,
            "notices": count,
        }


def listen(reactor: Any, listener: Listener, factory: Any) -> tuple[Any, str]:
    """Listen; the port, and the listener as it is told, with its real number.

    :raises EnvFault: the address cannot be had.
    """
    from twisted.internet.error import CannotListenError

    from ..net.ports import open_port

    try:
        opened = open_port(reactor, listener.address, factory)
    except CannotListenError as error:
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        raise EnvFault(
            f"cannot listen on {listener.address}: {reason}",
            hint="another program has the port; choose one with --listen, for "
            "instance --listen 127.0.0.1:5322",
        ) from error
    real = listener.address._replace(port=opened.getHost().port)
    return opened, str(listener._replace(address=real))


def on_signals(
    reactor: Any, stop: Callable[[], None], reload: Callable[[], None]
) -> None:
    """SIGTERM and SIGINT stop, SIGHUP reloads; both on the reactor's thread."""

    def on_reactor(handler: Callable[[], None]) -> Any:
        return lambda *_: reactor.callFromThread(handler)

    signal.signal(signal.SIGTERM, on_reactor(stop))
    signal.signal(signal.SIGINT, on_reactor(stop))
    signal.signal(signal.SIGHUP, on_reactor(reload))
    # the reactor sleeps in poll: a signal has to wake it
    reactor._initThreads()


def settings(config: Config) -> Settings:
    """What of the configuration concerns sealing."""
    import socket

    return Settings(
        clear=config.clear,
        require=config.require,
        unknown=config.unknown,
        fallback=config.fallback,
        label=f"Tillie on {socket.gethostname()}"[:64],
    )


def _arm_crash_point(wish: str) -> None:
    """``TILLIE_CRASH=NAME:N``, for tests of what a kill leaves behind.

    :raises EnvFault: no such point.
    """
    if not wish:
        return
    name, _, times = wish.partition(":")
    try:
        crash.arm(name, int(times or "1"), _die)
    except ValueError as error:
        raise EnvFault(f"TILLIE_CRASH: {error}") from error


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
