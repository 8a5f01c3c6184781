"""IQs that Tillie asks on the client's stream, unseen by the client.

Answers are matched by id *and* sender (ID-06): ids carry 128 random bits, and
an answer from anybody but the one who was asked is not taken for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..suites.entropy import ID_PREFIX, stanza_id
from ..wire.jid import Jid
from ..wire.stanza import Stanza

DEADLINE = 12_000
"""Milliseconds until a question is taken for unanswered."""
MOST = 256
PING = "{urn:xmpp:ping}ping"

_STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"


@dataclass(frozen=True, slots=True)
class Result:
    """The answer; *payload* is its child, None where it is empty."""

    payload: Element | None


@dataclass(frozen=True, slots=True)
class Refused:
    """An error came back."""

    condition: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing came, or the stream ended first."""


Answer: TypeAlias = Result | Refused | Silence
Then: TypeAlias = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class _Pending:
    senders: frozenset[str | None]
    deadline: int
    then: Then


class Questions:
    """The outstanding questions of one stream."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}

    @property
    def crowded(self) -> bool:
        """Whether more than half of what may be outstanding is."""
        return len(self._pending) > MOST // 2

    def ask(
        self,
        kind: str,
        to: str | None,
        payload: Element,
        *,
        senders: frozenset[str | None],
        now: int,
        then: Then,
    ) -> Element | None:
        """The IQ to send, or None when too many are outstanding (and *then* got
        its :class:`Silence`).

        :param kind: ``get`` or ``set``.
        :param senders: the normalised ``from`` values that may answer.
        """
        if len(self._pending) >= MOST:
            then(Silence())
            return None
        id_ = stanza_id()
        self._pending[id_] = _Pending(senders, now + DEADLINE, then)
        query = Element("{jabber:client}iq", {"type": kind, "id": id_})
        if to is not None:
            query.set("to", to)
        query.append(payload)
        return query

    def take(self, stanza: Stanza) -> bool:
        """Whether *stanza* answers a question; it is not for the client then.

        What bears our prefix but fits no question is swallowed too: a client
        never sees ids that it did not choose.
        """
        id_ = stanza.id or ""
        answer = stanza.name == "iq" and stanza.type in ("result", "error")
        if not answer or not id_.startswith(ID_PREFIX):
            return False
        pending = self._pending.get(id_)
        if pending is not None and _sender(stanza) in pending.senders:
            del self._pending[id_]
            pending.then(_answer(stanza))
        return True

    def expire(self, now: int) -> None:
        late = [id_ for id_, one in self._pending.items() if one.deadline <= now]
        for id_ in late:
            # the one before may have ended the stream, and so all that were asked
            one = self._pending.pop(id_, None)
            if one is not None:
                one.then(Silence())

    def drop(self) -> None:
        """The stream is over; every question ends in silence."""
        pending, self._pending = self._pending, {}
        for one in pending.values():
            one.then(Silence())


def ping() -> Element:
    """A ping that nobody waits for the answer of."""
    query = Element("{jabber:client}iq", {"type": "get", "id": stanza_id()})
    query.append(Element(PING))
    return query


def _sender(stanza: Stanza) -> str | None:
    if stanza.from_ is None:
        return None
    try:
        return str(Jid.parse(stanza.from_))
    except PeerFault:
        return ""


def _answer(stanza: Stanza) -> Answer:
    tree = stanza.tree()
    if stanza.type == "result":
        return Result(tree[0] if len(tree) else None)
    for child in tree.iter():
        if child.tag.startswith("{" + _STANZA_ERRORS + "}"):
            return Refused(child.tag.partition("}")[2])
    return Refused("undefined-condition")
