"""What the machine gives at the moment: everything else is to be read beside it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .table import Table


def machine(table: Table, quick: bool) -> None:
    rounds = 3 if quick else 7
    for _ in range(rounds):
        for name, value in calibration().items():
            table.add(name, value, "us")
        table.add("fdatasync of 4 KB in the temporary folder", _sync(), "us")
    table.add("load average, one minute", os.getloadavg()[0])


def calibration() -> dict[str, float]:
    """CPU microseconds of three operations whose cost elsewhere is known."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    signature = key.sign(b"x" * 200)
    box = AESGCM(bytes(32))
    return {
        "Ed25519 sign": _cost(lambda: key.sign(b"x" * 200), 200),
        "Ed25519 verify": _cost(lambda: public.verify(signature, b"x" * 200), 200),
        "AES-256-GCM of 1 KB": _cost(
            lambda: box.encrypt(bytes(12), bytes(1024), b""), 2000
        ),
    }


def _cost(call: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count * 1e6


def _sync() -> float:
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(20):
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1e6
