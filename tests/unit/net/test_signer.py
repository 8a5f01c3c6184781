"""The signing process, and the gate that asks it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from proxy.errors import EnvFault, StoreFault, TrustFault
from proxy.gate import publishing
from proxy.gate.questions import Answer, Publish, Question, Served, Serving
from proxy.keys import serverfiles, servers, tokens
from proxy.keys.documents import make_doc
from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_presented,
    presented_statement,
)
from proxy.keys.identity import RootPrivate
from proxy.keys.registry import MemoryRegistry
from proxy.keys.servers import open_rollover
from proxy.net import publisher, signer
from proxy.net.publisher import GateSigner
from proxy.net.registry import RegistryWorker, wall_clock
from tests.support.persons import JULIET, Person

DOMAIN = "capulet.example"
OTHER = "montague.example"
DIRECTORIES = {DOMAIN: f"keys.{DOMAIN}", OTHER: None}
CHANNEL = Channel(DOMAIN, b"n" * 16, b"e" * 32)
SHOWN = Presentation(b"d" * 32, b"r" * 32)

Begin = Callable[[Path], GateSigner]


@pytest.fixture
def worker() -> Iterator[RegistryWorker]:
    registry = MemoryRegistry()
    one = RegistryWorker(reactor, lambda: registry)
    one.start()
    yield one
    pytest_twisted.blockon(one.stop())


@pytest.fixture
def begin(worker: RegistryWorker) -> Iterator[Begin]:
    begun: list[GateSigner] = []

    def beginning(folder: Path) -> GateSigner:
        folder.mkdir(exist_ok=True)
        begun.append(GateSigner(reactor, folder, DIRECTORIES, worker))
        return begun[-1]

    yield beginning
    for one in begun:
        pytest_twisted.blockon(Deferred.fromCoroutine(one.stop()))


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        await deferLater(reactor, 0.02)
    raise AssertionError("it did not happen")


async def proves(gate: GateSigner, domain: str = DOMAIN) -> None:
    now = wall_clock()
    channel = Channel(domain, b"n" * 16, b"e" * 32)
    proof = await gate.prove(presented_statement(channel, SHOWN, now))
    key = gate.document(domain).document.keys
    check_presented(channel, SHOWN, key, now, proof)


# -- the first start and the next ones ----------------------------------------


@ensureDeferred
async def test_a_first_start_makes_keys_and_publishes_them(
    begin: Begin, worker: RegistryWorker, tmp_path: Path
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    for domain, directory in DIRECTORIES.items():
        key = serverfiles.load(tmp_path, domain)
        assert key is not None
        shown = gate.document(domain)
        assert (shown.document.keys, shown.rollovers) == (key.public, ())
        assert (shown.document.seq, shown.document.directory) == (1, directory)
        said = await worker.ask(Served(domain))
        assert isinstance(said, Serving)
        assert said.server.document == shown.document.document
        copy = (tmp_path / "well-known" / domain / "tillie").read_text()
        assert copy == publisher.well_known(said.server)
        await proves(gate, domain)
    with pytest.raises(EnvFault):
        gate.document("verona.example")


@ensureDeferred
async def test_the_next_start_changes_nothing(begin: Begin, tmp_path: Path) -> None:
    first = begin(tmp_path)
    await first.start()
    await first.stop()
    second = begin(tmp_path)
    await second.start()
    assert second.document(DOMAIN) == first.document(DOMAIN)


@ensureDeferred
async def test_tokens_are_signed_by_the_domain_of_their_account(
    begin: Begin, tmp_path: Path
) -> None:
    gate, juliet = begin(tmp_path), Person()
    await gate.start()
    claims = tokens.token_claims(juliet.manifest, b"j" * 16, wall_clock())
    token = await gate.sign(tokens.TYP, claims)
    key = gate.document(DOMAIN).document.keys
    assert tokens.open_token(token.encode(), JULIET, key).covers(juliet.manifest)
    for wrong in (claims | {"iss": OTHER}, claims | {"level": "hosted"}):
        with pytest.raises(TrustFault):
            await gate.sign(tokens.TYP, wrong)
    with pytest.raises(EnvFault):
        await gate.sign(tokens.TYP, claims | {"iss": "verona.example"})


@ensureDeferred
async def test_a_second_gate_needs_the_key_file(begin: Begin, tmp_path: Path) -> None:
    """And with a copy of it, it shows the same."""
    first, second = begin(tmp_path / "one"), begin(tmp_path / "two")
    await first.start()
    with pytest.raises(StoreFault) as told:
        await second.start()
    assert f"server-{DOMAIN}.key" in told.value.hint
    assert list((tmp_path / "two").iterdir()) == []
    for domain in DIRECTORIES:
        path = serverfiles.key_path(tmp_path / "one", domain)
        copy = serverfiles.key_path(tmp_path / "two", domain)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
    third = begin(tmp_path / "two")
    await third.start()
    assert third.document(DOMAIN) == first.document(DOMAIN)


@ensureDeferred
async def test_dir_06_a_gate_with_another_key_does_not_start(
    begin: Begin, tmp_path: Path
) -> None:
    first, second = begin(tmp_path / "one"), begin(tmp_path / "two")
    await first.start()
    (tmp_path / "two").mkdir(exist_ok=True)
    for domain in DIRECTORIES:
        serverfiles.make(tmp_path / "two", domain)
    with pytest.raises(StoreFault, match="another key"):
        await second.start()
    assert second.pid is None


@ensureDeferred
async def test_loc_13_a_loose_key_file_stops_the_start(
    begin: Begin, tmp_path: Path
) -> None:
    serverfiles.make(tmp_path, DOMAIN)
    serverfiles.key_path(tmp_path, DOMAIN).chmod(0o644)
    with pytest.raises(StoreFault, match="others may read"):
        await begin(tmp_path).start()


# -- the process --------------------------------------------------------------


@ensureDeferred
async def test_loc_12_the_process_has_given_away_what_it_needs_not(
    begin: Begin, tmp_path: Path
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    process = Path(f"/proc/{gate.pid}")
    assert sorted(one.name for one in (process / "fd").iterdir()) == ["0", "1", "2"]
    limits = (process / "limits").read_text()
    assert "Max open files            3                    3 " in limits
    assert "Max core file size        0                    0 " in limits
    assert "NoNewPrivs:\t1" in (process / "status").read_text()
    # not dumpable: its files belong to root, whoever runs it
    assert (process / "mem").stat().st_uid == 0
    assert (process / "environ").read_bytes() == b""


@ensureDeferred
async def test_the_gate_itself_touches_no_private_key(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("a private key in the gate's own process")

    for name in ("load", "make"):
        monkeypatch.setattr(serverfiles, name, touched)
    for name in ("generate", "from_bytes", "sign_ed25519", "public"):
        monkeypatch.setattr(RootPrivate, name, touched)
    gate = begin(tmp_path)
    await gate.start()
    await proves(gate)


@ensureDeferred
async def test_a_process_that_was_killed_comes_back(
    begin: Begin, tmp_path: Path
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    before = gate.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    waiting = gate.prove(presented_statement(CHANNEL, SHOWN, wall_clock()))
    os.kill(before, signal.SIGKILL)
    with pytest.raises(EnvFault):
        await waiting
    with pytest.raises(EnvFault):
        await gate.prove(presented_statement(CHANNEL, SHOWN, wall_clock()))
    await until(lambda: gate.pid is not None)
    assert gate.pid != before
    await proves(gate)


@ensureDeferred
async def test_a_process_that_hangs_is_ended(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    monkeypatch.setattr(signer, "SECONDS", 0.2)
    assert gate.pid is not None
    os.kill(gate.pid, signal.SIGSTOP)
    with pytest.raises(EnvFault):
        await gate.prove(presented_statement(CHANNEL, SHOWN, wall_clock()))
    monkeypatch.setattr(signer, "SECONDS", 60)
    await until(lambda: gate.pid is not None)
    await proves(gate)


@ensureDeferred
async def test_what_ends_others_does_not_end_it(begin: Begin, tmp_path: Path) -> None:
    gate = begin(tmp_path)
    await gate.start()
    before = gate.pid
    assert before is not None
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before, one)
    await proves(gate)
    assert gate.pid == before


@ensureDeferred
async def test_it_ends_with_its_gate(begin: Begin, tmp_path: Path) -> None:
    gate = begin(tmp_path)
    await gate.start()
    pid = gate.pid
    assert pid is not None
    asked = [
        gate.prove(presented_statement(CHANNEL, SHOWN, wall_clock())) for _ in range(50)
    ]
    await gate.stop()
    assert len(await gatherResults(asked)) == 50, "what was asked was answered"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- rotation -----------------------------------------------------------------


async def rotate(worker: RegistryWorker, folder: Path) -> None:
    """As `tillie gate rotate --now` does it, but for the file's name."""
    said = await worker.ask(Served(DOMAIN))
    assert isinstance(said, Serving)
    old = serverfiles.load(folder, DOMAIN)
    new = serverfiles.make(folder, DOMAIN, "next.key")
    assert old is not None
    held = publishing.Held(old.public, new.public)
    claims, following = publishing.rollover(said.server, held, wall_clock())
    made = publishing.handed_over(
        DOMAIN,
        following,
        make_doc(claims, servers.ROLLOVER, old),
        make_doc(following.claims, servers.SERVER, new),
    )
    await worker.ask(Publish(made, said.server.digest))


@ensureDeferred
async def test_a_key_that_was_rotated_elsewhere_speaks_here(
    begin: Begin, worker: RegistryWorker, tmp_path: Path
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    before = gate.document(DOMAIN).document
    await rotate(worker, tmp_path)
    await gate.look()
    shown = gate.document(DOMAIN)
    following = serverfiles.load(tmp_path, DOMAIN, "next.key")
    assert following is not None
    assert shown.document.keys == following.public
    assert shown.document.seq == before.seq + 1
    (leading,) = shown.rollovers
    assert open_rollover(leading.encode(), DOMAIN, before.keys) == following.public
    await proves(gate)
    serverfiles.promote(tmp_path, DOMAIN)
    await gate.stop()
    again = begin(tmp_path)
    await again.start()
    assert again.document(DOMAIN) == shown


@ensureDeferred
async def test_a_look_that_is_asked_for_begins_behind_the_one_that_runs(
    begin: Begin, worker: RegistryWorker, tmp_path: Path
) -> None:
    """The timer's may have asked before what is to be seen was there."""
    gate = begin(tmp_path)
    await gate.start()
    asked, held = worker.ask, Deferred[Answer]()

    def asking(question: Question) -> Deferred[Answer]:
        # the second domain's answer takes its time, the first one's has come
        if question == Served(OTHER) and not held.called:
            return held
        return asked(question)

    gate._registry.ask = asking  # type: ignore[method-assign]
    running = gate.look()
    await rotate(worker, tmp_path)
    again = gate.look()
    assert not running.called
    held.callback(await asked(Served(OTHER)))
    await again
    following = serverfiles.load(tmp_path, DOMAIN, "next.key")
    assert following is not None
    assert gate.document(DOMAIN).document.keys == following.public


@ensureDeferred
async def test_a_gate_without_the_rotated_key_says_nothing_more(
    begin: Begin, worker: RegistryWorker, tmp_path: Path
) -> None:
    gate = begin(tmp_path)
    await gate.start()
    await rotate(worker, tmp_path)
    path = serverfiles.key_path(tmp_path, DOMAIN, "next.key")
    away = tmp_path / "away"
    path.rename(away)
    await gate.look()
    with pytest.raises(EnvFault):
        gate.document(DOMAIN)
    with pytest.raises(EnvFault):
        await gate.prove(presented_statement(CHANNEL, SHOWN, wall_clock()))
    await proves(gate, OTHER)
    away.rename(path)
    await gate.look()
    await proves(gate)
