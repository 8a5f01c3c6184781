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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_present,
    present,
    presented_statement,
)
from proxy.keys.identity import DevicePrivate

from .table import Table, at

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = "capulet.example"
CHANNEL = Channel(DOMAIN, b"n" * 16, b"e" * 32)
IN_FLIGHT = {"known": 500, "first": 100, "look": 500}
# Of the machine that the goals were set on.
REFERENCE_SIGN = 33.0


def gate(table: Table, quick: bool) -> None:
    known, first = (2_000, 200) if quick else (10_000, 1_500)
    for _ in range(2 if quick else 3):
        shared = _run("known", known, batch=0)
        table.add("Ed25519 signature at the time", shared["sign"], "us")
        table.add("known logins", shared["rate"], "/s")
        table.add("10,000 known logins, on one core", 1e4 / shared["rate"], "s")
        table.add("the same, p50", shared["p50"], "ms")
        table.add("row 11: the same, p99 (goal <= 250)", shared["p99"], "ms")
        _cpu_of(table, "known login", shared)
        # one core does both
        cost = _scaled(shared, "gate") + _scaled(shared, "signer")
        table.add(
            "row 11: 10,000 known logins, CPU, scaled (goal <= 3)", cost / 100, "s"
        )
        alone = _run("known", known // 5, batch=1)
        table.add("known logins, a commit each", alone["rate"], "/s")
        initial = _run("first", first, batch=0)
        table.add(
            "row 11: first logins, two cores (goal >= 800)", initial["rate"], "/s"
        )
        _cpu_of(table, "first login", initial)
        # a core each
        cost = max(_scaled(initial, "gate"), _scaled(initial, "signer"))
        table.add("row 11: first logins, by CPU, scaled (goal >= 800)", 1e6 / cost)
        looked = _run("look", known * 2, batch=0)
        table.add("look-ups of the directory", looked["rate"], "/s")
        table.add("CPU per look-up", looked["gate"], "us")
        table.add("told to try again later", shared["later"] + initial["later"])
    table.ratio(
        "row 11: shared commits over a commit each",
        "known logins",
        "known logins, a commit each",
        ">= 2",
    )


def _cpu_of(table: Table, what: str, figures: dict[str, float]) -> None:
    for name, key in (("gate", "gate"), ("signing process", "signer")):
        table.add(f"CPU of the {name} per {what}", figures[key], "us")
        scaled = _scaled(figures, key)
        table.add(f"CPU of the {name} per {what}, scaled", scaled, "us")


def _scaled(figures: dict[str, float], key: str) -> float:
    """Microseconds as they would be where a signature takes what it took there."""
    return figures[key] / figures["sign"] * REFERENCE_SIGN


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
            asked = Patient(reactor, worker)
            figures = await _measure(what, count, one_login, asked, signer)
            figures["later"] = asked.later
            await signer.stop()
            await worker.stop()
            print(json.dumps(figures))

        task.react(lambda _: defer.Deferred.fromCoroutine(measured()))


class Patient:
    """The registry, asked again where it says "later", as a client would be told."""

    def __init__(self, reactor: Any, worker: Any) -> None:
        self._reactor = reactor
        self._worker = worker
        self.later = 0

    async def ask(self, question: Any) -> Any:
        from twisted.internet.task import deferLater

        from proxy.gate.questions import Unavailable

        for _ in range(100):
            said = await self._worker.ask(question)
            if not isinstance(said, Unavailable):
                return said
            self.later += 1
            await deferLater(self._reactor, 0.5)
        raise AssertionError(said)


class Yardstick:
    """What a signature costs while something else is measured.

    Others on the machine come and go within a run, and with them what a microsecond
    of a shared core is worth.
    """

    _AT_ONCE = 20

    def __init__(self, every: int) -> None:
        self._every = every
        self._key = Ed25519PrivateKey.generate()
        self._count = 0
        self.spent = 0.0

    def beside(self, number: int) -> None:
        if number % self._every:
            return
        began = time.thread_time()
        for _ in range(self._AT_ONCE):
            self._key.sign(b"x" * 200)
        self.spent += time.thread_time() - began
        self._count += self._AT_ONCE

    @property
    def sign(self) -> float:
        """Microseconds of CPU."""
        return self.spent / self._count * 1e6


Login = Callable[[int, Any, Any], Awaitable[None]]


async def _measure(
    what: str, count: int, login: Login, worker: Any, signer: Any
) -> dict[str, float]:
    from twisted.internet import defer

    times: list[float] = []
    yardstick = Yardstick(max(1, count // 40))
    following = iter(range(count))

    async def one_after_the_other() -> None:
        for number in following:
            began = time.perf_counter()
            await login(number, worker, signer)
            times.append(time.perf_counter() - began)
            yardstick.beside(number)

    cpu, child, began = time.process_time(), _cpu(signer.pid), time.perf_counter()
    await defer.gatherResults(
        [
            defer.Deferred.fromCoroutine(one_after_the_other())
            for _ in range(IN_FLIGHT[what])
        ]
    )
    wall = time.perf_counter() - began
    return {
        "rate": count / wall,
        "p50": at(times, 0.5) * 1e3,
        "p99": at(times, 0.99) * 1e3,
        "gate": (time.process_time() - cpu - yardstick.spent) / count * 1e6,
        "signer": (_cpu(signer.pid) - child) / count * 1e6,
        "sign": yardstick.sign,
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
    shown = [Presentation(one.device.public, one.fingerprint) for one in people]
    signatures = [present(CHANNEL, one.device, one.fingerprint) for one in people]
    vouches = [one.vouch() for one in people]

    async def login(number: int, worker: Any, signer: Any) -> None:
        person = people[number]
        check_present(CHANNEL, shown[number], signatures[number])
        now = time.time_ns() // 1_000_000
        await signer.prove(presented_statement(CHANNEL, shown[number], now))
        said = await worker.ask(vouches[number])
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
