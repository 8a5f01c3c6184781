"""``tillie gate check``: a domain with a gate, looked at from outside.

Nothing secret is needed and nothing is changed: no account is named, no password
sent.  What cannot be told from outside is a row that says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred

from ..errors import Fault
from ..gate.outside import Finding
from ..net.dns import Resolver
from .aroundchecks import AroundChecks
from .checking import Asked, Place, places
from .clientchecks import ClientChecks
from .serverchecks import ServerChecks, load_identity, named_domain
from .statechecks import findings
from .terminal import table

_WORDS = {True: "ok", False: "FAILED", None: "not tried"}


def check(asked: Asked) -> list[Finding]:
    """Look at everything, on a reactor that is started for it.

    :raises Fault: what was asked cannot be done.
    """
    from twisted.internet import reactor

    outcome: list[list[Finding] | BaseException] = []

    def done(result: Any) -> None:
        outcome.append(getattr(result, "value", result))
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(look(reactor, asked)).addBoth(done)

    reactor.callWhenRunning(begin)
    reactor.run()
    if not outcome:
        raise Fault("interrupted")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def look(reactor: Any, asked: Asked) -> list[Finding]:
    """The rows, in the order to mend them."""
    if asked.identity is not None:
        chain, _ = load_identity(*asked.identity)
        named_domain(chain[0])
    resolver = Resolver(reactor, asked.resolver)
    clients, found = await places(asked, resolver, "client")
    clients = await _kinds(reactor, asked, resolver, clients)
    looking = ClientChecks(reactor, asked, resolver)
    for place in clients:
        found += await looking.of(place)
    found += await AroundChecks(reactor, asked, resolver).of(clients)
    document = looking.seen.document
    directory = document.directory if document is not None else None
    servers, failed = await places(asked, resolver, "server")
    found += failed
    between = ServerChecks(reactor, asked, resolver)
    for place in servers:
        found += await between.of(place, directory)
    return [*found, *findings(document, looking.seen.states, _now())]


async def _kinds(
    reactor: Any, asked: Asked, resolver: Resolver, found: list[Place]
) -> list[Place]:
    """The same places; of one that was named, whether TLS is there from the start."""
    if asked.server is None:
        return found
    looking = ClientChecks(reactor, asked, resolver)
    return [await looking.kind(place) for place in found]


def _now() -> int:
    return int(time.time() * 1000)


def failed(found: Sequence[Finding]) -> bool:
    return any(one.ok is False for one in found)


def as_json(found: Sequence[Finding]) -> str:
    return json.dumps([asdict(one) for one in found], indent=2)


def as_text(domain: str, found: Sequence[Finding], width: int | None) -> str:
    """The table, what to do about what failed, and a verdict."""
    rows = [[_WORDS[one.ok], one.check, one.where, one.text] for one in found]
    lines = [table(["", "check", "where", "found"], rows, width)]
    hints = dict.fromkeys(
        f"{one.check}: {one.hint}" for one in found if one.hint and one.ok is not None
    )
    if hints:
        lines += ["", *(f"hint: {one}" for one in hints)]
    bad = sum(one.ok is False for one in found)
    left = sum(one.ok is None for one in found)
    verdict = f"{bad} checks failed" if bad else "nothing failed"
    if left:
        verdict += f", {left} not tried"
    lines += ["", f"{domain}: {verdict}"]
    return "\n".join(lines)
