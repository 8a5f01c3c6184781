"""Fuzz targets: each module has ``one(data)``, which raises when its invariant (the
module's first comment) is broken, and ``seeds()``.

Files in ``corpus/NAME`` are inputs worth keeping: small ones that reach far, and every
one that ever broke something.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
NAMES = ("framing", "tree", "envelope", "payload", "documents")


def _target(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


TARGETS: dict[str, Callable[[], Any]] = {name: partial(_target, name) for name in NAMES}


def corpus(name: str) -> list[bytes]:
    """The inputs kept for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
