from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from proxy.app import control
from proxy.app.control import (
    FLUSH_SECONDS,
    HANDLER_SECONDS,
    MAX_ANSWER,
    MAX_CONNECTIONS,
    MAX_REQUEST,
    REQUEST_SECONDS,
    ControlServer,
    Conversation,
    NotRunning,
    ask,
    serve,
)
from proxy.app.statefolder import opened, own_folder
from proxy.errors import EnvFault, Fault, StoreFault, TrustFault

from .conftest import start_answering


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- one conversation, without a reactor --------------------------------------


class Transport:
    """What a conversation does to its connection; the peer is this process."""

    def __init__(self) -> None:
        self.handle, self.far = socket.socketpair()
        self.written = b""
        self.closing = self.aborted = False

    def getHandle(self) -> socket.socket:
        return self.handle

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.closing = self.aborted = True

    def close(self) -> None:
        self.handle.close()
        self.far.close()


class Asked:
    """A server with one conversation begun."""

    def __init__(self, handler: control.Handler, uid: int | None = None) -> None:
        self.clock = Clock()
        self.server = ControlServer(handler, self.clock, uid)
        begun = self.server.buildProtocol(None)
        assert begun is not None
        self.conversation: Conversation = begun
        self.transport = Transport()
        self.conversation.makeConnection(self.transport)

    def ask(self, data: bytes) -> Any:
        self.conversation.dataReceived(data)
        return self.answer()

    def answer(self) -> Any:
        assert self.transport.closing
        line, end, rest = self.transport.written.partition(b"\n")
        assert (end, rest) == (b"\n", b"")
        return json.loads(line)


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Callable[..., Asked]:
    def begin(
        handler: control.Handler = lambda command, args: [command, dict(args)],
        uid: int | None = None,
    ) -> Asked:
        one = Asked(handler, uid)
        request.addfinalizer(one.transport.close)
        return one

    return begin


Begin = Callable[..., Asked]


def test_a_question_is_answered_and_the_connection_closed(asked: Begin) -> None:
    one = asked()
    assert one.ask(b'{"command": "allow", "jid": "b\xc3\xb6b@e.org"}\n') == {
        "ok": True,
        "result": ["allow", {"jid": "böb@e.org"}],
    }
    assert one.transport.written.isascii()


def test_a_question_may_come_byte_by_byte(asked: Begin) -> None:
    one = asked()
    for byte in b'{"command":"x"}':
        one.conversation.dataReceived(bytes([byte]))
    assert one.transport.written == b""
    assert one.ask(b"\n")["result"] == ["x", {}]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x" * (MAX_REQUEST + 1), id="LOC-10 no newline"),
        pytest.param(b"x" * 2**24, id="LOC-10 endless line"),
        pytest.param(
            b'{"command":"' + b"x" * MAX_REQUEST + b'"}\n', id="LOC-10 long line"
        ),
        pytest.param(b'{"command":"a"}\n{"command":"b"}\n', id="LOC-10 two questions"),
        pytest.param(b'{"command":"\xff"}\n', id="LOC-10 invalid UTF-8"),
        pytest.param(bytes(range(11, 256)) + b"\n", id="LOC-10 binary"),
        pytest.param(b"\n", id="LOC-10 empty"),
        pytest.param(b"GET / HTTP/1.1\n", id="LOC-10 HTTP"),
        pytest.param(b"[" * 60_000 + b"\n", id="LOC-10 deep"),
        pytest.param(b'{"command":' + b"9" * 60_000 + b"}\n", id="LOC-10 huge number"),
        pytest.param(b'["command"]\n', id="LOC-10 no object"),
        pytest.param(b'{"jid":"a@b"}\n', id="LOC-10 no command"),
        pytest.param(b'{"command":["a"]}\n', id="LOC-10 command is a list"),
        pytest.param(b'{"command":1}\n', id="LOC-10 command is a number"),
        pytest.param(b'{"command":"a","jid":{}}\n', id="LOC-10 nested"),
        pytest.param(b'{"command":"a","jid":NaN}\n', id="LOC-10 NaN"),
        pytest.param(b'{"command":"a","jid":"\\ud800"}\n', id="LOC-10 lone surrogate"),
        pytest.param(
            b'{"command":"a","jid":"' + b"x" * 5000 + b'"}\n', id="LOC-10 long text"
        ),
    ],
)
def test_a_bad_question_never_reaches_the_handler(asked: Begin, data: bytes) -> None:
    calls: list[object] = []
    one = asked(lambda command, args: calls.append(command))
    answer = one.ask(data)
    assert answer["ok"] is False
    assert answer["error"]
    one.conversation.dataReceived(b'{"command":"late"}\n')
    assert calls == []


def test_loc_09_another_user_is_cut_off_unheard(asked: Begin) -> None:
    calls: list[object] = []
    one = asked(lambda command, args: calls.append(command), os.geteuid() + 1)
    assert one.transport.aborted
    one.conversation.dataReceived(b'{"command":"link"}\n')
    assert (calls, one.transport.written) == ([], b"")


def test_a_fault_is_answered_with_its_words(asked: Begin) -> None:
    def refuse(command: str, args: Mapping[str, object]) -> object:
        raise TrustFault("the key changed", hint="tillie forget bob@e.org")

    assert asked(refuse).ask(b'{"command":"a"}\n') == {
        "ok": False,
        "error": "the key changed",
        "hint": "tillie forget bob@e.org",
    }


def test_a_result_may_come_later(asked: Begin) -> None:
    later: Deferred[object] = Deferred()
    one = asked(lambda command, args: later)
    one.conversation.dataReceived(b'{"command":"doctor"}\n')
    assert one.transport.written == b""
    later.callback([1])
    assert one.answer() == {"ok": True, "result": [1]}


def test_loc_11_a_bug_is_logged_and_not_told(asked: Begin) -> None:
    def bug(command: str, args: Mapping[str, object]) -> object:
        raise RuntimeError("hunter2")

    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        answer = asked(bug).ask(b'{"command":"a","code":"hunter3"}\n')
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert "hunter" not in json.dumps(answer)
    assert "output" in answer["hint"]
    (event,) = [one for one in events if one.get("log_level") is LogLevel.critical]
    assert event["log_failure"].check(RuntimeError)
    # What the log formats names the line, never the question's values.
    assert "hunter3" not in event["log_failure"].getTraceback()


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(object(), id="no JSON"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param("x" * MAX_ANSWER, id="too long"),
    ],
)
def test_a_result_that_cannot_be_told(asked: Begin, result: object) -> None:
    answer = asked(lambda command, args: result).ask(b'{"command":"a"}\n')
    assert answer["ok"] is False


def test_loc_10_who_asks_nothing_is_told_so_and_closed(asked: Begin) -> None:
    one = asked()
    one.conversation.dataReceived(b'{"comm')
    one.clock.advance(REQUEST_SECONDS - 1)
    assert not one.transport.closing
    one.clock.advance(1)
    assert "in time" in one.answer()["error"]


def test_a_handler_that_never_ends_is_given_up(asked: Begin) -> None:
    later: Deferred[object] = Deferred()
    one = asked(lambda command, args: later)
    one.conversation.dataReceived(b'{"command":"a"}\n')
    one.clock.advance(HANDLER_SECONDS)
    answer = one.answer()
    assert "too long" in answer["error"]
    later.callback("too late")
    assert one.answer() == answer


def test_loc_10_half_open_who_never_reads_loses_the_connection(asked: Begin) -> None:
    one = asked()
    one.ask(b'{"command":"a"}\n')
    one.clock.advance(FLUSH_SECONDS - 1)
    assert not one.transport.aborted
    one.clock.advance(1)
    assert one.transport.aborted


def test_who_leaves_early_leaves_nothing_behind(asked: Begin) -> None:
    later: Deferred[object] = Deferred()
    one = asked(lambda command, args: later)
    one.conversation.dataReceived(b'{"command":"a"}\n')
    one.conversation.connectionLost(None)
    assert one.clock.getDelayedCalls() == []
    assert one.server.connections == 0
    later.errback(TrustFault("too late"))
    assert one.transport.written == b""


def test_loc_10_connections_are_bounded_and_given_back(asked: Begin) -> None:
    one = asked()
    more = [one.server.buildProtocol(None) for _ in range(MAX_CONNECTIONS)]
    assert more[-2] is not None
    assert more[-1] is None
    one.conversation.connectionLost(None)
    assert one.server.buildProtocol(None) is not None


# -- the real socket ----------------------------------------------------------


def connect(state: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with opened(state) as folder_fd:
        # Without a timeout a full backlog makes this wait, not fail.
        connection.connect(f"/proc/self/fd/{folder_fd}/control")
    connection.settimeout(20)
    return connection


def send_until_refused(connection: socket.socket, bound: int) -> int:
    sent = 0
    try:
        while sent < bound:
            sent += connection.send(b"x" * 65_536)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


def test_ask_over_a_real_socket(answering: Path) -> None:
    assert ask(answering, "echo", jid="b@e.org", account=None, deep=True) == {
        "args": {"jid": "b@e.org", "deep": True}
    }
    assert ask(answering, "later") == "at last"
    with pytest.raises(Fault, match="no command nonsense"):
        ask(answering, "nonsense")
    with pytest.raises(Fault) as caught:
        ask(answering, "allow", jid="not a jid")
    assert caught.value.hint == "for example bob@e.org"
    with pytest.raises(Fault, match="something went wrong inside Tillie"):
        ask(answering, "bug")
    with pytest.raises(Fault, match="could not be written down"):
        ask(answering, "unwritable")


def test_loc_09_loc_13_modes_under_umask_000(answering: Path) -> None:
    assert mode(answering / "control") == 0o600
    assert mode(answering) == 0o700
    assert mode(answering.parent) == 0o700
    assert (answering / "control").lstat().st_uid == os.geteuid()


def test_loc_10_two_hundred_connections_do_not_shut_out_the_next(
    answering: Path,
) -> None:
    held = [connect(answering) for _ in range(200)]
    # Closed at once by the bound: the end of the stream, no answer.
    closed = sum(not one.recv(1) for one in held[MAX_CONNECTIONS:])
    assert closed == 200 - MAX_CONNECTIONS
    with pytest.raises(EnvFault) as caught:
        ask(answering, "echo")
    assert "try again" in caught.value.hint
    for one in held:
        one.close()
    # The freed slots are seen when the server reads the ends: ask until it has.
    for _ in range(200):
        try:
            assert ask(answering, "echo") == {"args": {}}
            break
        except EnvFault:
            continue
    else:
        pytest.fail("the slots were not given back")


def test_loc_10_an_endless_line_is_cut_off(answering: Path) -> None:
    with connect(answering) as connection:
        sent = send_until_refused(connection, 2**30)
    assert sent < 2**24
    assert ask(answering, "echo") == {"args": {}}


def test_a_live_socket_is_not_taken_over(answering: Path) -> None:
    with pytest.raises(AssertionError, match="a Tillie is already running"):
        start_answering(answering)
    assert ask(answering, "echo") == {"args": {}}


def test_loc_09_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = start_answering(state)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=20)
    assert (state / "control").is_socket()
    with pytest.raises(NotRunning, match="no Tillie is running"):
        ask(state, "echo")
    second = start_answering(state)
    assert ask(state, "echo") == {"args": {}}
    second.communicate(timeout=20)
    assert not (state / "control").exists()


class NoReactor:
    """Fails the test if the socket would be opened."""

    def listenUNIX(self, *args: object, **named: object) -> None:
        raise AssertionError("opened")


def nothing(command: str, args: Mapping[str, object]) -> None:
    raise AssertionError("asked")


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("planted", ["symlink", "dangling", "file", "folder"])
def test_loc_09_what_is_planted_at_the_sockets_name_stays_and_stops_the_start(
    tmp_path: Path, planted: str, answering: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    name = state / "control"
    match planted:
        case "symlink":
            name.symlink_to(answering / "control")
        case "dangling":
            name.symlink_to(tmp_path / "nowhere")
        case "file":
            name.write_text("precious")
        case "folder":
            name.mkdir()
    before = open_fds()
    with pytest.raises(StoreFault, match="lies at"):
        serve(NoReactor(), state, nothing)
    with pytest.raises(EnvFault, match="not a socket of yours"):
        ask(state, "link")
    assert open_fds() == before
    assert os.path.lexists(name)
    assert not (tmp_path / "nowhere").exists()


def test_loc_09_another_users_socket_is_told_nothing(
    answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(EnvFault, match="not a socket of yours"):
        ask(answering, "link", code="ABCD")


@pytest.mark.parametrize("state", ["/nonexistent/state", "/dev/null"])
def test_where_nothing_runs(state: str) -> None:
    with pytest.raises(NotRunning) as caught:
        ask(Path(state), "status")
    assert state in caught.value.text
    assert "tillie run" in caught.value.hint


def test_a_tillie_that_hangs_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ASK_SECONDS", 0.05)
    with listening(tmp_path), pytest.raises(EnvFault, match="does not answer"):
        ask(tmp_path, "status")


def listening(state: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with opened(state) as folder_fd:
        server.bind(f"/proc/self/fd/{folder_fd}/control")
    server.listen()
    return server


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "closed the control socket"),
        (b'{"ok": true', "closed the control socket"),
        (b"\n", "not understood"),
        (b"\xff\n", "not understood"),
        (b"[" * 60_000 + b"\n", "not understood"),
        (b'{"ok": 1, "result": 1}\n', "not understood"),
        (b'{"ok": false, "error": 1, "hint": ""}\n', "not understood"),
    ],
)
def test_an_answer_of_another_kind(tmp_path: Path, answer: bytes, said: str) -> None:
    with listening(tmp_path) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(EnvFault, match=said):
            ask(tmp_path, "status")
        thread.join(timeout=20)


def test_an_endless_answer_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_ANSWER", 100_000)
    sent: list[int] = []
    with listening(tmp_path) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                sent.append(send_until_refused(connection, 2**30))

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(EnvFault, match="too long"):
            ask(tmp_path, "status")
        thread.join(timeout=20)
    assert sent[0] < 2**24


def test_asking_loads_no_reactor() -> None:
    code = (
        "import sys, proxy.app.cli\n"
        "slow = {'twisted', 'rich', 'platformdirs', 'tomllib', 'lxml', 'cryptography'}\n"
        "sys.exit(' '.join(slow & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- the folder ---------------------------------------------------------------


def test_loc_13_missing_folders_are_made_closed_under_umask_000(
    tmp_path: Path,
) -> None:
    umask = os.umask(0)
    try:
        own_folder(tmp_path / "a" / "b")
    finally:
        os.umask(umask)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


def test_loc_13_an_empty_folder_is_closed_and_a_used_open_one_refused(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    own_folder(state)
    assert mode(state) == 0o700
    (state / "keys").touch()
    own_folder(state)
    state.chmod(0o750)
    with pytest.raises(StoreFault) as caught:
        own_folder(state)
    assert caught.value.hint.endswith(f"chmod 700 {state}")
    assert mode(state) == 0o750


def test_loc_09_a_folder_that_others_can_swap_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(StoreFault, match="can rename what lies in"):
        own_folder(shared / "state")
    # As /tmp is: others may add names, but not touch ours.
    shared.chmod(0o1777)
    own_folder(shared / "state")


def test_loc_09_another_users_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(StoreFault, match="belongs to another user"):
        own_folder(tmp_path)


@pytest.mark.parametrize("state", ["/dev/null", "/dev/null/state", "/proc/nothing"])
def test_a_folder_that_cannot_be(state: str) -> None:
    with pytest.raises(StoreFault) as caught:
        own_folder(Path(state))
    assert state in caught.value.text
    assert "--state" in caught.value.hint


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the answer of access(2): root, who may run this, is never told no.
    monkeypatch.setattr(os, "access", lambda path, how: False)
    with pytest.raises(StoreFault, match="cannot be written"):
        own_folder(tmp_path)
