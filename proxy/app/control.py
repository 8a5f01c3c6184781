"""The control socket: one question and one answer, a JSON line each.

``control`` lies in the state folder (folder 0700, socket 0600, both ours) and is
answered by the running Tillie.  A question is ``{"command": "...", ...}``, an
answer ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "...",
"hint": "..."}``; then the connection closes.  What commands there are is not
known here: the service's handler decides.

Nothing of Twisted is imported at the top, and the server's two classes offer
Twisted's factory and protocol methods without inheriting: a command that asks
must not pay for a reactor that it does not use.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..errors import EnvFault, Fault, LocalFault, StoreFault
from .statefolder import (
    NAME,
    clear_way,
    is_ours,
    opened,
    own_folder,
    peer_uid,
    socket_address,
    socket_facts,
)

MAX_REQUEST = 65_536
MAX_ANSWER = 16 * 1024 * 1024
MAX_TEXT = 4_096
MAX_CONNECTIONS = 32
REQUEST_SECONDS = 10.0
HANDLER_SECONDS = 120.0
FLUSH_SECONDS = 10.0
# Longer than the server takes to give up, so that its words are the ones shown.
ASK_SECONDS = HANDLER_SECONDS + FLUSH_SECONDS + 5.0

Handler: TypeAlias = Callable[[str, Mapping[str, object]], object]
"""(command, arguments) to a JSON value or a Deferred of one; raises Fault."""


class NotRunning(EnvFault):
    """No Tillie answers for this state folder."""


class Timer(Protocol):
    """What ``callLater`` returns, as far as it is used here."""

    def active(self) -> bool: ...
    def cancel(self) -> None: ...


class Clock(Protocol):
    """The reactor, or Twisted's ``Clock`` in tests."""

    def callLater(self, delay: float, callable: Callable[[], object], /) -> Timer: ...


# -- the asking side --------------------------------------------------------


def ask(state: Path, command: str, /, **args: object) -> object:
    """Ask the running Tillie of *state* and wait for its answer.

    :param args: JSON scalars; those that are None are left out.
    :returns: the result, a JSON value.
    :raises NotRunning: nobody listens there.
    :raises EnvFault: it does not answer, or the socket is not to be trusted.
    :raises Fault: Tillie refused; text and hint are its own.
    """
    question = {name: value for name, value in args.items() if value is not None}
    question["command"] = command
    line = json.dumps(question).encode("ascii") + b"\n"
    try:
        with _connected(state) as connection:
            connection.sendall(line)
            answer = _read_line(connection)
    except TimeoutError as error:
        raise EnvFault(
            "Tillie is running but does not answer",
            hint="try again; if it stays so, stop it and start it anew",
        ) from error
    except OSError as error:
        raise EnvFault(
            f"the conversation with Tillie broke off: {error.strerror}",
            hint="try again",
        ) from error
    return _result(answer)


@contextlib.contextmanager
def _connected(state: Path) -> Iterator[socket.socket]:
    not_running = NotRunning(
        f"no Tillie is running with the state folder {state}",
        hint="start it with: tillie run; or name its folder with --state",
    )
    with contextlib.ExitStack() as stack:
        try:
            folder_fd = stack.enter_context(opened(state))
            facts = socket_facts(folder_fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_running from error
        if facts is None:
            raise not_running
        # Another user's socket would be told one-time codes and contacts.
        if not is_ours(facts):
            raise EnvFault(
                f"{state / NAME} is not a socket of yours, so nothing is asked of it",
                hint="run this as the user who runs Tillie",
            )
        connection = stack.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        )
        connection.settimeout(ASK_SECONDS)
        try:
            connection.connect(socket_address(state, folder_fd))
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise not_running from error
        except BlockingIOError as error:
            raise EnvFault(
                "Tillie is busy with too many other commands", hint="try again"
            ) from error
        if peer_uid(connection) not in (None, os.geteuid()):
            raise EnvFault(f"{state / NAME} is answered by another user")
        yield connection


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) > MAX_ANSWER:
            raise EnvFault("Tillie's answer is too long to be one")
        data = connection.recv(65_536)
        if not data:
            raise EnvFault(
                "Tillie closed the control socket without an answer",
                hint="it may be stopping, or busy with other commands; try again",
            )
        line += data
    return bytes(line)


def _result(line: bytes) -> object:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    match answer:
        case {"ok": True, "result": result}:
            return result
        case {"ok": False, "error": str(text), "hint": str(hint)}:
            raise Fault(text, hint=hint)
        case _:
            raise EnvFault(
                "Tillie's answer was not understood",
                hint="the running Tillie may be of another version: restart it",
            )


# -- the answering side -----------------------------------------------------


def serve(reactor: Any, state: Path, handler: Handler) -> ControlPort:
    """Open the control socket of *state* and answer with *handler*.

    The socket of a dead process is replaced.  Which of two starting Tillies may
    have the folder is decided by the folder's lock, not here.

    :param reactor: has ``listenUNIX`` and ``callLater``.
    :raises StoreFault: see :func:`own_folder`; something else lies at the
        socket's name; a live Tillie answers there.
    """
    own_folder(state)
    folder_fd = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        port = _listening(reactor, state, folder_fd, ControlServer(handler, reactor))
    except BaseException:
        os.close(folder_fd)
        raise
    return ControlPort(port, folder_fd)


def _listening(reactor: Any, state: Path, folder_fd: int, server: ControlServer) -> Any:
    from twisted.internet.error import CannotListenError

    address = socket_address(state, folder_fd)
    clear_way(state, folder_fd, address)
    # The mode is right from the socket's first moment, not only after a chmod.
    umask = os.umask(0o177)
    try:
        return reactor.listenUNIX(address, server, mode=0o600)
    except CannotListenError as error:
        raise StoreFault(
            f"the control socket {state / NAME} cannot be made: {error.socketError}"
        ) from error
    finally:
        os.umask(umask)


class ControlPort:
    """The open control socket."""

    def __init__(self, port: Any, folder_fd: int) -> None:
        self._port = port
        self._folder_fd = folder_fd

    def stop(self) -> Any:
        """Close the socket and remove it; a Deferred that fires when it is gone."""
        from twisted.internet.defer import maybeDeferred

        done = maybeDeferred(self._port.stopListening)
        # Twisted unlinks by the address, which counts on this descriptor.
        return done.addBoth(self._closed)

    def _closed(self, result: object) -> object:
        os.close(self._folder_fd)
        return result


class ControlServer:
    """Twisted's server factory for the control socket.

    :param uid: whose processes are answered; all others are cut off unheard.
    """

    def __init__(self, handler: Handler, clock: Clock, uid: int | None = None) -> None:
        self.handler = handler
        self.clock = clock
        self.uid = os.geteuid() if uid is None else uid
        self.connections = 0

    def doStart(self) -> None:
        """Nothing is needed before listening."""

    def doStop(self) -> None:
        """Open conversations end by their own timers."""

    def buildProtocol(self, address: object) -> Conversation | None:
        """Begin a conversation, or None (the connection is closed) if too many."""
        if self.connections >= MAX_CONNECTIONS:
            return None
        self.connections += 1
        return Conversation(self)


class Conversation:
    """Twisted's protocol: one question in, one answer out, then closed."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._transport: Any = None
        self._timer: Timer | None = None
        self._received = bytearray()
        self._asked = False
        self._answered = False

    def makeConnection(self, transport: Any) -> None:
        """Judge who is there before a byte is read."""
        self._transport = transport
        if peer_uid(transport.getHandle()) not in (None, self._server.uid):
            self._answered = True
            transport.abortConnection()
            return
        self._arm(REQUEST_SECONDS, "no whole question came in time")

    def dataReceived(self, data: bytes) -> None:
        """Collect the question's line; whatever follows it is an error."""
        if self._asked or self._answered:
            return
        self._received += data
        line, newline, rest = self._received.partition(b"\n")
        if len(line) > MAX_REQUEST or rest:
            self._fail(Fault("one question of at most 64 KiB is taken here"))
        elif newline:
            self._asked = True
            self._received.clear()
            self._handle(bytes(line))

    def connectionLost(self, reason: object) -> None:
        """The asker left; an answer that comes later goes nowhere."""
        self._answered = True
        self._disarm()
        self._server.connections -= 1

    def _handle(self, line: bytes) -> None:
        from twisted.internet.defer import maybeDeferred

        try:
            command, args = _question(line)
        except Fault as fault:
            self._fail(fault)
            return
        self._arm(HANDLER_SECONDS, "this took too long and was given up waiting for")
        answer = maybeDeferred(self._server.handler, command, args)
        answer.addCallbacks(self._succeed, self._failed)

    def _succeed(self, result: object) -> None:
        try:
            text = json.dumps({"ok": True, "result": result}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(LocalFault(f"the result could not be written down: {error}"))
            return
        if len(text) >= MAX_ANSWER:
            self._fail(Fault("the result is too long for one answer"))
            return
        self._send(text)

    def _failed(self, failure: Any) -> None:
        if isinstance(failure.value, Fault):
            self._fail(failure.value)
            return
        from twisted.logger import Logger

        Logger(namespace=__name__).failure("a control command failed", failure)
        self._fail(
            LocalFault(
                "something went wrong inside Tillie",
                hint="its own output says more; please report it",
            )
        )

    def _fail(self, fault: Fault) -> None:
        self._send(json.dumps({"ok": False, "error": fault.text, "hint": fault.hint}))

    def _send(self, text: str) -> None:
        if self._answered:
            return
        self._answered = True
        self._transport.write(text.encode("ascii") + b"\n")
        self._transport.loseConnection()
        # An asker who never reads must not hold the connection's slot.
        self._disarm()
        self._timer = self._server.clock.callLater(
            FLUSH_SECONDS, self._transport.abortConnection
        )

    def _arm(self, seconds: float, text: str) -> None:
        self._disarm()
        self._timer = self._server.clock.callLater(
            seconds, lambda: self._fail(EnvFault(text, hint="try again"))
        )

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _question(line: bytes) -> tuple[str, dict[str, object]]:
    """Read a question.

    :raises Fault: it is not one JSON object of scalars with a command.
    """
    try:
        question = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Fault("the question is not JSON in UTF-8") from error
    if not isinstance(question, dict) or not all(map(_is_scalar, question.values())):
        raise Fault("the question is not an object of plain values")
    command = question.pop("command", None)
    if not isinstance(command, str):
        raise Fault("the question names no command")
    return command, question


def _is_scalar(value: object) -> bool:
    if not isinstance(value, str):
        return value is None or isinstance(value, bool | int)
    # json lets lone surrogates through, which no database and no socket takes.
    return len(value) <= MAX_TEXT and not any(
        "\ud800" <= one <= "\udfff" for one in value
    )
