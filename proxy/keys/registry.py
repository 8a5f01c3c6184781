"""The gate's registry: what it holds of accounts, and the engine in memory.

Engines keep records and promise durability and isolation; what is admitted is
decided by ``gate.admission``.  Accounts are bare JIDs, normalised; times are
Unix milliseconds; keys are 32 bytes, fingerprints and digests SHA-256.

Every call is made inside a transaction.  Within one, ``lock`` makes everybody
else who would change the same account wait, in this process and in others, so
that what is read behind it still holds when it is written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Final, Literal, Protocol, TypeAlias

from ..errors import LocalFault, StoreFault

STREAMS_KEPT: Final = 64
"""Stream ids of one account that may still be resumed; the oldest give way."""
ALLOCATIONS_KEPT: Final = 20
"""Roots that may wait for one account's registration (DIR-05)."""

Why: TypeAlias = Literal["removed", "reset", "rollover"]


class Interrupted(StoreFault):
    """The transaction was cut off: it may be run once more from its beginning.

    Whether it took place is not known, so that what runs in it bears repetition.
    """


@dataclass(frozen=True, slots=True)
class Account:
    """An account that has a key.

    :param active: public keys of the devices in use.
    :param removed: of those that the manifest lists as removed.
    :param since: when this root was taken.
    :param changed: when this manifest was.
    :param seen: a day in which it logged in; not exact.
    :param rollovers: what led to this root (3.10), at most two, oldest first.
    """

    jid: str
    root: bytes
    seq: int
    digest: bytes
    manifest: str
    active: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    since: int
    changed: int
    seen: int
    rollovers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldToken:
    """The newest token of an account.

    :param number: counts the tokens of this account, from 1 (DIR-13).
    :param manifest: digest of the manifest that it covers.
    """

    account: str
    number: int
    token: str
    digest: bytes
    manifest: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that may be resumed; *id* is a digest, never the id itself.

    :param jid: the full JID as bound.
    """

    id: bytes
    account: str
    jid: str
    made: int
    expires: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """An account that is being registered with this root and manifest."""

    account: str
    root: bytes
    manifest: str
    expires: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The first key of an account is taken with a code only; *code* is its digest."""

    account: str
    code: bytes
    made: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The next root of an account is taken as its first from *due* on.

    :param forced: an admin's last word, to which no device objects.
    """

    account: str
    begun: int
    due: int
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Former:
    """A root that an account had; a tombstone where *why* is ``removed``.

    :param devices: all that its last manifest listed.
    """

    account: str
    root: bytes
    seq: int
    devices: tuple[bytes, ...]
    ended: int
    why: Why


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log of what was changed; *number* is given by the engine."""

    at: int
    account: str
    what: str
    text: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """What a domain says of itself (13.2, 13.3).

    :param key: fingerprint of the key that signed *document*.
    :param rollovers: at most two, oldest first.
    :param announced: since when a key that will follow is, 0 if none is.
    """

    domain: str
    seq: int
    digest: bytes
    document: str
    key: bytes
    rollovers: tuple[str, ...]
    announced: int


class Registry(Protocol):
    """Every call may raise ``StoreFault``; ``Interrupted`` may be tried again."""

    def transaction(self, *, writing: bool = True) -> AbstractContextManager[None]:
        """All writes inside become durable together at the end, or none does.

        :param writing: False where nothing inside writes or locks.
        """
        ...

    def expect(self, accounts: Iterable[str]) -> None:
        """These will be asked for in this transaction: read them at once."""
        ...

    def lock(self, name: str) -> None:
        """Nobody else changes the account or domain *name* until the end.

        To be called in the order of names, or two may wait for each other.
        """
        ...

    def account(self, jid: str) -> Account | None: ...

    def put_account(self, account: Account) -> None: ...

    def delete_account(self, jid: str) -> None:
        """With its token and its streams."""
        ...

    def accounts(self) -> Iterator[Account]:
        """In the order of addresses."""
        ...

    def token(self, jid: str) -> HeldToken | None: ...

    def put_token(self, token: HeldToken) -> None: ...

    def stream(self, stream_id: bytes) -> Stream | None: ...

    def put_stream(self, stream: Stream) -> None:
        """The oldest beyond :data:`STREAMS_KEPT` of the account may go."""
        ...

    def allocation(self, jid: str, root: bytes) -> Allocation | None: ...

    def put_allocation(self, allocation: Allocation) -> None:
        """The oldest beyond :data:`ALLOCATIONS_KEPT` of the account go."""
        ...

    def delete_allocations(self, jid: str, root: bytes | None = None) -> None:
        """That of *root*, or all."""
        ...

    def enrolment(self, jid: str) -> Enrolment | None: ...

    def put_enrolment(self, enrolment: Enrolment) -> None: ...

    def delete_enrolment(self, jid: str) -> None: ...

    def reset(self, jid: str) -> Reset | None: ...

    def put_reset(self, reset: Reset) -> None: ...

    def delete_reset(self, jid: str) -> None: ...

    def formers(self, jid: str) -> list[Former]: ...

    def put_former(self, former: Former) -> None: ...

    def keyless(self) -> list[tuple[str, int]]:
        """Who logged in without a key, and when last, in the order of addresses."""
        ...

    def put_keyless(self, jid: str, at: int) -> None: ...

    def log(self, event: Event) -> None: ...

    def events(self, jid: str | None = None, since: int = 0) -> list[Event]:
        """In the order of their numbers; of one account, or of all."""
        ...

    def server(self, domain: str) -> Server | None: ...

    def put_server(self, server: Server) -> None: ...

    def prune(self, now: int) -> None:
        """Forget streams and allocations whose time is over."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Tables:
    account: dict[str, Account] = field(default_factory=dict)
    token: dict[str, HeldToken] = field(default_factory=dict)
    stream: dict[bytes, Stream] = field(default_factory=dict)
    allocation: dict[tuple[str, bytes], Allocation] = field(default_factory=dict)
    enrolment: dict[str, Enrolment] = field(default_factory=dict)
    reset: dict[str, Reset] = field(default_factory=dict)
    former: dict[tuple[str, bytes], Former] = field(default_factory=dict)
    keyless: dict[str, int] = field(default_factory=dict)
    server: dict[str, Server] = field(default_factory=dict)
    event: dict[int, Event] = field(default_factory=dict)

    def copy(self) -> _Tables:
        return _Tables(
            *(dict(getattr(self, one.name)) for one in dataclass_fields(self))
        )


class MemoryRegistry:
    """The reference engine: same promises, kept until the process ends.

    :param before_commit: called before each commit that wrote something; a
        test lets it raise ``StoreFault``.
    """

    def __init__(self, before_commit: Callable[[], None] | None = None) -> None:
        self._rows = _Tables()
        self._before = before_commit
        self._turn = threading.RLock()
        self._open: Literal["", "reading", "writing"] = ""
        self._dirty = False

    @contextmanager
    def transaction(self, *, writing: bool = True) -> Iterator[None]:
        with self._turn:
            if self._open:
                raise LocalFault("a transaction is open already")
            before = self._rows.copy()
            self._open, self._dirty = "writing" if writing else "reading", False
            try:
                yield
                if self._dirty and self._before:
                    self._before()
            except BaseException:
                self._rows = before
                raise
            finally:
                self._open = ""

    def expect(self, accounts: Iterable[str]) -> None:
        """Nothing is far away here."""

    def lock(self, name: str) -> None:
        # one transaction at a time is lock enough
        self._writable()

    def account(self, jid: str) -> Account | None:
        return self._readable().account.get(jid)

    def put_account(self, account: Account) -> None:
        self._writable().account[account.jid] = account

    def delete_account(self, jid: str) -> None:
        rows = self._writable()
        rows.account.pop(jid, None)
        rows.token.pop(jid, None)
        for one in [one for one in rows.stream.values() if one.account == jid]:
            del rows.stream[one.id]

    def accounts(self) -> Iterator[Account]:
        rows = self._readable().account
        return iter([rows[jid] for jid in sorted(rows)])

    def token(self, jid: str) -> HeldToken | None:
        return self._readable().token.get(jid)

    def put_token(self, token: HeldToken) -> None:
        self._writable().token[token.account] = token

    def stream(self, stream_id: bytes) -> Stream | None:
        return self._readable().stream.get(stream_id)

    def put_stream(self, stream: Stream) -> None:
        rows = self._writable().stream
        # again, it is the youngest
        rows.pop(stream.id, None)
        rows[stream.id] = stream
        own = [one.id for one in rows.values() if one.account == stream.account]
        for one in own[:-STREAMS_KEPT]:
            del rows[one]

    def allocation(self, jid: str, root: bytes) -> Allocation | None:
        return self._readable().allocation.get((jid, root))

    def put_allocation(self, allocation: Allocation) -> None:
        rows = self._writable().allocation
        key = allocation.account, allocation.root
        rows.pop(key, None)
        rows[key] = allocation
        own = [one for one in rows if one[0] == allocation.account]
        for one in own[:-ALLOCATIONS_KEPT]:
            del rows[one]

    def delete_allocations(self, jid: str, root: bytes | None = None) -> None:
        rows = self._writable().allocation
        for one in [one for one in rows if one[0] == jid and root in (None, one[1])]:
            del rows[one]

    def enrolment(self, jid: str) -> Enrolment | None:
        return self._readable().enrolment.get(jid)

    def put_enrolment(self, enrolment: Enrolment) -> None:
        self._writable().enrolment[enrolment.account] = enrolment

    def delete_enrolment(self, jid: str) -> None:
        self._writable().enrolment.pop(jid, None)

    def reset(self, jid: str) -> Reset | None:
        return self._readable().reset.get(jid)

    def put_reset(self, reset: Reset) -> None:
        self._writable().reset[reset.account] = reset

    def delete_reset(self, jid: str) -> None:
        self._writable().reset.pop(jid, None)

    def formers(self, jid: str) -> list[Former]:
        rows = self._readable().former.values()
        return [one for one in rows if one.account == jid]

    def put_former(self, former: Former) -> None:
        self._writable().former[former.account, former.root] = former

    def keyless(self) -> list[tuple[str, int]]:
        return sorted(self._readable().keyless.items())

    def put_keyless(self, jid: str, at: int) -> None:
        self._writable().keyless[jid] = at

    def log(self, event: Event) -> None:
        rows = self._writable().event
        rows[len(rows) + 1] = replace(event, number=len(rows) + 1)

    def events(self, jid: str | None = None, since: int = 0) -> list[Event]:
        return [
            one
            for one in self._readable().event.values()
            if jid in (None, one.account) and one.at >= since
        ]

    def server(self, domain: str) -> Server | None:
        return self._readable().server.get(domain)

    def put_server(self, server: Server) -> None:
        self._writable().server[server.domain] = server

    def prune(self, now: int) -> None:
        rows = self._writable()
        rows.stream = {
            id_: one for id_, one in rows.stream.items() if one.expires > now
        }
        rows.allocation = {
            key: one for key, one in rows.allocation.items() if one.expires > now
        }

    def close(self) -> None:
        """Nothing to do."""

    def _readable(self) -> _Tables:
        if not self._open:
            raise LocalFault("the registry was read outside a transaction")
        return self._rows

    def _writable(self) -> _Tables:
        if self._open != "writing":
            raise LocalFault("a write outside a writing transaction")
        self._dirty = True
        return self._rows
