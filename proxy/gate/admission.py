"""Answers what streams ask the registry, inside one transaction (clause 14).

Pure policy over what the registry holds, what was shown and the time.  Every
question may be asked again with the same outcome: its first answer can be lost
on the way, or its transaction be run twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..errors import LocalFault, PeerFault, TrustFault
from ..keys.manifest import Manifest, open_manifest
from ..keys.registry import (
    Allocation,
    Event,
    Former,
    HeldToken,
    Registry,
    Stream,
)
from ..suites.fields import fields
from ..wire.jid import Jid
from .judging import REFUSED_FORMER, Shown, judge, take
from .questions import (
    Allocate,
    Answer,
    Changed,
    Changes,
    Issued,
    LookUp,
    MayTry,
    No,
    Object,
    Publish,
    Question,
    Record,
    Refused,
    Registered,
    Removed,
    Resumable,
    Resume,
    Seen,
    Served,
    Serving,
    Streamed,
    Vouch,
    Yes,
)

STREAM_MS: Final = 32 * 24 * 3600 * 1000
"""How long after its beginning a stream may be resumed."""
ALLOCATION_MS: Final = 10 * 60 * 1000
READING: Final = (MayTry, Resume, LookUp, Changes, Served)
"""Questions behind which nothing is written."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question whose signatures were verified, which takes its time and no
    registry.

    :param manifest: the one that was sent with it, if one was.
    :param fault: why the answer is no already.
    """

    question: Question
    manifest: Manifest | None = None
    fault: Refused | None = None


def prepare(question: Question) -> Prepared:
    """Verify what can be verified before a transaction is open.

    :raises LocalFault: an address that is not the prepared form of an account's.
    """
    account = about(question)
    if account is not None:
        _check_account(account)
    if not isinstance(question, Vouch | Allocate) or question.manifest is None:
        return Prepared(question)
    try:
        return Prepared(question, open_manifest(question.manifest, question.account))
    except (PeerFault, TrustFault) as fault:
        return Prepared(question, fault=Refused("bad-proof", fault.text))


def about(question: Question) -> str | None:
    """The account that a question is about, where it says so."""
    account: str | None = getattr(question, "account", None)
    return account


def reads(question: Question) -> str | None:
    """The account whose records are read to answer it, where that is known before."""
    return None if isinstance(question, Streamed) else about(question)


def answer(question: Question | Prepared, registry: Registry, now: int) -> Answer:
    """Answer *question* by what *registry* holds, and write down what follows.

    :param registry: with a transaction open; a writing one unless the question
        is of :data:`READING`.
    :param now: Unix milliseconds.
    """
    asked = question if isinstance(question, Prepared) else prepare(question)
    if asked.fault is not None:
        return asked.fault
    return _ANSWERS[type(asked.question)](asked, registry, now)


def stream_digest(domain: str, previd: str) -> bytes:
    """Under which a stream is known: who reads the registry can resume nothing."""
    return hashlib.sha256(fields("stream", domain, previd)).digest()


def _check_account(account: str) -> None:
    try:
        jid = Jid.parse(account)
    except PeerFault as fault:
        raise LocalFault("an account's address is not valid") from fault
    if str(jid) != account or not jid.local or jid.resource:
        raise LocalFault("an account's address is not in its prepared form")


# -- logging in -------------------------------------------------------------


def _may_try(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(MayTry, asked)
    held = registry.account(question.account)
    if held is None or question.root is None or question.device in held.active:
        return Yes()
    reset = registry.reset(question.account)
    return Yes() if reset is not None and reset.due <= now else No()


def _vouch(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Vouch, asked)
    if asked.manifest is not None and asked.manifest.digest != question.digest:
        return Refused("bad-proof", "the manifest is not the one that was signed for")
    return judge(Shown(question, asked.manifest), registry, now)


def _issued(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Issued, asked)
    registry.lock(question.account)
    held = registry.account(question.account)
    newest = registry.token(question.account)
    # a token for a manifest that is past, or one that is kept already
    if held is None or held.digest != question.manifest:
        return Yes()
    if newest is not None and newest.digest == question.digest:
        return Yes()
    number = 1 if newest is None else newest.number + 1
    registry.put_token(
        HeldToken(
            question.account,
            number,
            question.token,
            question.digest,
            question.manifest,
            question.expires,
        )
    )
    return Yes()


def _seen(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Seen, asked)
    if registry.account(question.account) is not None:
        return Refused("key-required", "this account has a key: log in through Tillie")
    registry.put_keyless(question.account, now)
    return Yes()


def _object(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Object, asked)
    registry.lock(question.account)
    held = registry.account(question.account)
    reset = registry.reset(question.account)
    if held is None or question.device not in held.active:
        return No()
    if reset is None or reset.due != question.due or reset.forced:
        return No()
    registry.delete_reset(question.account)
    text = f"device {_name(question.device)} objected"
    registry.log(Event(now, question.account, "reset-objected", text))
    return Yes()


# -- resumption -------------------------------------------------------------


def _streamed(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Streamed, asked)
    _, _, domain = question.account.partition("@")
    registry.put_stream(
        Stream(
            stream_digest(domain, question.previd),
            question.account,
            question.jid,
            now,
            now + STREAM_MS,
        )
    )
    return Yes()


def _resume(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Resume, asked)
    stream = registry.stream(stream_digest(question.domain, question.previd))
    if stream is None or stream.expires <= now:
        return No()
    held = registry.account(stream.account)
    if held is None or question.device not in held.active:
        return No()
    if question.root not in (None, held.root):
        return No()
    return Resumable(stream.account, stream.jid)


# -- registration and removal -----------------------------------------------


def _allocate(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Allocate, asked)
    manifest = asked.manifest
    if manifest is None or manifest.root.fingerprint != question.root:
        return Refused("bad-proof", "the manifest is not of the key in the form")
    device = manifest.device(question.device)
    if device is None or device.removed is not None:
        return Refused("unknown-device", "the manifest does not list this device")
    registry.lock(question.account)
    held = registry.account(question.account)
    if held is not None:
        # where an answer was lost, the same registration comes again
        same = held.root == question.root
        return Yes() if same else Refused("root-changed", "this name has a key already")
    if registry.enrolment(question.account) is not None:
        return Refused("key-required", "this name is kept for who has its code")
    if _was(registry.formers(question.account), question.root, question.device):
        return Refused("root-changed", REFUSED_FORMER)
    expires = now + ALLOCATION_MS
    registry.put_allocation(
        Allocation(question.account, question.root, manifest.document, expires)
    )
    return Yes()


def _registered(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Registered, asked)
    registry.lock(question.account)
    allocation = registry.allocation(question.account, question.root)
    if not question.done:
        registry.delete_allocations(question.account, question.root)
    elif (
        allocation is not None
        and allocation.expires > now
        and _free(question.account, registry)
    ):
        # its signatures were verified before it was kept
        manifest = open_manifest(allocation.manifest.encode(), question.account)
        take(manifest, None, registry, now, "registered")
    return Yes()


def _free(account: str, registry: Registry) -> bool:
    return registry.account(account) is None and registry.enrolment(account) is None


def _removed(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Removed, asked)
    account = question.account
    registry.lock(account)
    registry.delete_allocations(account)
    registry.delete_enrolment(account)
    registry.delete_reset(account)
    held = registry.account(account)
    if held is not None:
        devices = (*held.active, *held.removed)
        registry.put_former(
            Former(account, held.root, held.seq, devices, now, "removed")
        )
        registry.delete_account(account)
        registry.log(Event(now, account, "removed", f"root {held.root.hex()}"))
    return Yes()


def _was(formers: list[Former], root: bytes, device: bytes) -> bool:
    return any(
        root == one.root or (one.why == "removed" and device in one.devices)
        for one in formers
    )


# -- looking ----------------------------------------------------------------


def _look_up(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(LookUp, asked)
    held = registry.account(question.account)
    if held is None:
        return No()
    newest = registry.token(question.account)
    # one for the manifest before says nothing of this one
    if newest is None or newest.manifest != held.digest:
        return Record(
            held.jid,
            held.manifest,
            held.digest,
            "",
            None if newest is None else newest.digest,
            0,
            held.rollovers,
        )
    return Record(
        held.jid,
        held.manifest,
        held.digest,
        newest.token,
        newest.digest,
        newest.expires,
        held.rollovers,
    )


def _changes(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Changes, asked)
    names = {one.account for one in registry.events(since=question.since)}
    found = []
    for name in sorted(names):
        held = registry.account(name)
        found.append((name, None if held is None else held.active))
    return Changed(tuple(found))


# -- the domain itself --------------------------------------------------------


def _served(asked: Prepared, registry: Registry, now: int) -> Answer:
    server = registry.server(_the(Served, asked).domain)
    return No() if server is None else Serving(server)


def _publish(asked: Prepared, registry: Registry, now: int) -> Answer:
    question = _the(Publish, asked)
    server = question.server
    registry.lock(server.domain)
    held = registry.server(server.domain)
    if held == server:
        return Yes()
    if question.upon != (None if held is None else held.digest):
        return No()
    if held is not None and server.seq <= held.seq:
        return No()
    registry.put_server(server)
    what = "server-key" if held is None or held.key != server.key else "server-document"
    text = f"key {server.key.hex()} seq {server.seq}"
    registry.log(Event(now, server.domain, what, text))
    return Yes()


def _name(device: bytes) -> str:
    return hashlib.sha256(device).digest()[:8].hex()


def _the(kind: type[Any], asked: Prepared) -> Any:
    """The question, of which the table has said what it is."""
    if not isinstance(asked.question, kind):
        raise LocalFault("a question came to the wrong answer")
    return asked.question


_ANSWERS: Final[dict[type, Callable[[Prepared, Registry, int], Answer]]] = {
    MayTry: _may_try,
    Vouch: _vouch,
    Issued: _issued,
    Streamed: _streamed,
    Resume: _resume,
    Object: _object,
    Allocate: _allocate,
    Registered: _registered,
    Removed: _removed,
    Seen: _seen,
    LookUp: _look_up,
    Changes: _changes,
    Served: _served,
    Publish: _publish,
}
