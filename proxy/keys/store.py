"""The store as the core sees it, and the reference engine in memory.

One shape serves everything: small records on *shelves*, kept per account
under a key, in key order.  What the records mean is the business of
``core``; that they are encrypted at rest is the engine's (``keys.sqlite``).
Calls outside a transaction read only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ..errors import LocalFault


class Store(Protocol):
    """Eight calls; every one may raise ``StoreFault``."""

    def get(self, shelf: str, account: str, key: str) -> bytes | None: ...

    def put(self, shelf: str, account: str, key: str, value: bytes) -> None: ...

    def delete(self, shelf: str, account: str, key: str) -> None: ...

    def scan(
        self, shelf: str, account: str, prefix: str = ""
    ) -> list[tuple[str, bytes]]:
        """Records whose key starts with *prefix*, in key order."""
        ...

    def accounts(self) -> list[str]:
        """Every account that has a record."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All writes inside become durable together at the end, or none does."""
        ...

    @property
    def writing(self) -> bool:
        """Whether this transaction has written something already, so that a
        further small write costs no commit of its own."""
        ...

    def close(self) -> None: ...


class MemoryStore:
    """The reference engine: same promises, kept until the process ends.

    :param before_commit: called before each commit that wrote something; a
        test lets it raise ``StoreFault``.
    """

    def __init__(self, before_commit: Callable[[], None] | None = None) -> None:
        self._rows: dict[tuple[str, str, str], bytes] = {}
        self._before = before_commit
        self._open = False
        self._dirty = False

    def get(self, shelf: str, account: str, key: str) -> bytes | None:
        return self._rows.get((shelf, account, key))

    def put(self, shelf: str, account: str, key: str, value: bytes) -> None:
        self._writable()
        self._rows[shelf, account, key] = bytes(value)

    def delete(self, shelf: str, account: str, key: str) -> None:
        self._writable()
        self._rows.pop((shelf, account, key), None)

    def scan(
        self, shelf: str, account: str, prefix: str = ""
    ) -> list[tuple[str, bytes]]:
        return sorted(
            (key, value)
            for (on, owner, key), value in self._rows.items()
            if on == shelf and owner == account and key.startswith(prefix)
        )

    def accounts(self) -> list[str]:
        return sorted({account for _, account, _ in self._rows if account})

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._open:
            raise LocalFault("a transaction is open already")
        before, self._open, self._dirty = dict(self._rows), True, False
        try:
            yield
            if self._dirty and self._before:
                self._before()
        except BaseException:
            self._rows = before
            raise
        finally:
            self._open = False

    @property
    def writing(self) -> bool:
        return self._open and self._dirty

    def close(self) -> None:
        """Nothing to do."""

    def _writable(self) -> None:
        if not self._open:
            raise LocalFault("a write outside a transaction")
        self._dirty = True
