"""Logins at a gate's registry and signing process, without streams (goals, row 11).

Each run is a process of its own, as `gate run` has it: the reactor, the thread of the
registry on SQLite with `synchronous=FULL`, the signing process. What clients sign is
made before the clock starts. A login of a known account is: its presentation verified,
its manifest judged by the digest, the proof signed, and its stream's id on the disk.
A first login brings a manifest, which is verified, and gets a token with both
signatures, which is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_present,
    present,
    presented_statement,
)
from proxy.keys.identity import DevicePrivate

from .machine import calibration
from .table import Table, at

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = "capulet.example"
CHANNEL = Channel(DOMAIN, b"n" * 16, b"e" * 32)
IN_FLIGHT = 500


def gate(table: Table, quick: bool) -> None:
    known, first = (2_000, 200) if quick else (10_000, 1_500)
    for _ in range(2 if quick else 3):
        signing = calibration()["Ed25519 sign"]
        table.add("Ed25519 signature at the time", signing, "us")
        shared = _run("known", known, batch=0)
        table.add("known logins", shared["rate"], "/s")
        table.add("10,000 known logins, on one core", 1e4 / shared["rate"], "s")
        table.add("the same, p50", shared["p50"], "ms")
        table.add("row 11: the same, p99 (goal <= 250)", shared["p99"], "ms")
        table.add("CPU of the gate per known login", shared["gate"], "us")
        table.add("CPU of the signing process per known login", shared["signer"], "us")
        alone = _run("known", known // 5, batch=1)
        table.add("known logins, a commit each", alone["rate"], "/s")
        initial = _run("first", first, batch=0)
        table.add(
            "row 11: first logins, two cores (goal >= 800)", initial["rate"], "/s"
        )
        table.add("CPU of the gate per first login", initial["gate"], "us")
        table.add("CPU of the signing process per first login", initial["signer"], "us")
        looked = _run("look", known * 2, batch=0)
        table.add("look-ups of the directory", looked["rate"], "/s")
        table.add("CPU per look-up", looked["gate"], "us")
        at_rest = signing / 33
        table.add(
            "row 11: 10,000 known logins, CPU, scaled (goal <= 3)",
            (shared["gate"] + shared["signer"]) / 100 / at_rest,
            "s",
        )
    table.ratio(
        "row 11: shared commits over a commit each",
        "known logins",
        "known logins, a commit each",
        ">= 2",
    )


def _run(what: str, count: int, *, batch: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gatelogins",
        what,
        str(count),
        str(batch),
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# -- in the process -------------------------------------------------------------


def main(what: str, count: int, batch: int) -> None:
    from twisted.internet import defer, reactor, task

    from proxy.keys import databases
    from proxy.net import registry as asking
    from proxy.net.publisher import GateSigner

    if what == "known":
        # the signing process and the thread are on it as well
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if batch:
        asking.BATCH = batch  # type: ignore[misc]
    with tempfile.TemporaryDirectory(prefix="tillie-gate-") as folder:
        state = Path(folder)
        url = databases.default_url(state)
        databases.first_start(url, [])
        one_login = _PREPARE[what](count, url)
        worker = asking.RegistryWorker(reactor, lambda: databases.open_registry(url))
        worker.start()
        signer = GateSigner(reactor, state, {DOMAIN: None}, worker)

        async def measured() -> None:
            await signer.start()
            figures = await _measure(count, one_login, worker, signer)
            await signer.stop()
            await worker.stop()
            print(json.dumps(figures))

        task.react(lambda _: defer.Deferred.fromCoroutine(measured()))


Login = Callable[[int, Any, Any], Awaitable[None]]


async def _measure(
    count: int, login: Login, worker: Any, signer: Any
) -> dict[str, float]:
    from twisted.internet import defer

    times: list[float] = []
    following = iter(range(count))

    async def one_after_the_other() -> None:
        for number in following:
            began = time.perf_counter()
            await login(number, worker, signer)
            times.append(time.perf_counter() - began)

    cpu, child, began = time.process_time(), _cpu(signer.pid), time.perf_counter()
    await defer.gatherResults(
        [defer.Deferred.fromCoroutine(one_after_the_other()) for _ in range(IN_FLIGHT)]
    )
    wall = time.perf_counter() - began
    return {
        "rate": count / wall,
        "p50": at(times, 0.5) * 1e3,
        "p99": at(times, 0.99) * 1e3,
        "gate": (time.process_time() - cpu) / count * 1e6,
        "signer": (_cpu(signer.pid) - child) / count * 1e6,
    }


def _cpu(pid: int) -> float:
    """Seconds of CPU of a process, by the scheduler's count."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _known(count: int, url: str) -> Login:
    from proxy.gate.questions import Streamed, Vouch, Vouched

    device = DevicePrivate.generate()
    shown = Presentation(device.public, b"r" * 32)
    signature = present(CHANNEL, device, shown.root)
    names = _accounts(count, url, device.public)

    async def login(number: int, worker: Any, signer: Any) -> None:
        check_present(CHANNEL, shown, signature)
        now = time.time_ns() // 1_000_000
        await signer.prove(presented_statement(CHANNEL, shown, now))
        jid, digest = names[number]
        said = await worker.ask(Vouch(jid, shown.device, shown.root, digest))
        assert isinstance(said, Vouched), said
        assert said.token
        await worker.ask(Streamed(jid, f"stream-{number}", f"{jid}/desk"))

    return login


def _accounts(count: int, url: str, device: bytes) -> Sequence[tuple[str, bytes]]:
    """Known accounts with tokens, as large as real ones; their names and digests."""
    from proxy.keys import databases
    from proxy.keys.registry import Account, HeldToken
    from tests.support.persons import Person

    manifest = Person().manifest.document
    now = time.time_ns() // 1_000_000
    names = []
    registry = databases.open_registry(url)
    with registry.transaction():
        for number in range(count):
            jid, digest = f"user{number}@{DOMAIN}", number.to_bytes(32, "big")
            names.append((jid, digest))
            registry.put_account(
                Account(
                    jid, b"r" * 32, 1, digest, manifest, (device,), (), now, now, now
                )
            )
            registry.put_token(
                HeldToken(jid, 1, "t" * 5_000, digest, digest, now + 6 * 86_400_000)
            )
    registry.close()
    return names


def _first(count: int, url: str) -> Login:
    from proxy.gate.questions import Issued, Vouched, Yes
    from proxy.keys import tokens
    from proxy.suites.entropy import token
    from tests.support.persons import Person

    people = [Person(f"user{number}@{DOMAIN}") for number in range(count)]
    signatures = [present(CHANNEL, one.device, one.fingerprint) for one in people]

    async def login(number: int, worker: Any, signer: Any) -> None:
        person = people[number]
        shown = Presentation(person.device.public, person.fingerprint)
        check_present(CHANNEL, shown, signatures[number])
        now = time.time_ns() // 1_000_000
        await signer.prove(presented_statement(CHANNEL, shown, now))
        said = await worker.ask(person.vouch())
        assert isinstance(said, Vouched), said
        assert said.first
        claims = tokens.token_claims(person.manifest, token(16), now)
        signed = await signer.sign(tokens.TYP, claims)
        digest = token(32)
        issued = Issued(person.jid, signed, digest, said.digest, now + tokens.TOKEN_MS)
        assert await worker.ask(issued) == Yes()

    return login


def _look(count: int, url: str) -> Login:
    from proxy.gate.questions import LookUp, Record

    names = _accounts(count // 4, url, b"d" * 32)

    async def login(number: int, worker: Any, signer: Any) -> None:
        assert isinstance(await worker.ask(LookUp(names[number // 4][0])), Record)

    return login


_PREPARE: dict[str, Callable[[int, str], Login]] = {
    "known": _known,
    "first": _first,
    "look": _look,
}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
