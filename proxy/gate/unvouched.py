"""The stream between binding and the gate's word (14.8, 14.12).

The client hears what it needs to vouch; all else that the server sends waits, in
order, and comes when the stream is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..core.streams import MANAGEMENT, STATE_INDICATION
from ..errors import PeerFault
from ..wire.jid import Jid
from . import names
from .names import HINTS, KEY, LANE, PING, PREKEY, PUBSUB
from .phases import Phase
from .questions import Answer, Refused, Seen, Unavailable, Yes

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from ..wire.stanza import Stanza
    from .line import Line

HELD_MOST: Final = 1_048_576
"""Bytes of the server that wait for the gate's word; more ends the stream."""
VOUCH_MS: Final = 30_000
_ASKED_MOST: Final = 16
_LINKING: Final = frozenset({f"{{{LANE}}}link-request", f"{{{LANE}}}link-answer"})
_BESIDE: Final = frozenset({f"{{{HINTS}}}no-store", f"{{{HINTS}}}no-copy"})
_ITEMS: Final = f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}items"
_ERROR: Final = "{jabber:client}error"
_PING: Final = (f"{{{PING}}}ping",)


class Unvouched:
    """What passes while nobody has vouched for the stream, and what waits.

    :param opened: is called with everything that waited, in order, when the stream
        opens.
    """

    def __init__(self, line: Line, opened: Callable[[list[Stanza]], None]) -> None:
        self._line = line
        self._opened = opened
        self._held: list[Stanza] = []
        self._size = 0
        self._asked: set[str] = set()
        self._pinged: set[str] = set()

    # -- the account ------

    def named(self, jid: str, words: Stanza, *, shown: bool) -> None:
        """The server named the account.

        :param jid: as the server wrote it.
        :param words: the element in which it did.
        :param shown: whether the client may see that before the gate has vouched.
        """
        line = self._line
        # What the resource looks like is the server's affair (AUTH-17).
        account = _account(jid.partition("/")[0], line.domain)
        if account is None:
            line.note("trouble", "the server named an account that is not its own")
            line.end("internal-server-error", "the server bound no account of its own")
            return
        line.jid, line.account = jid, account
        line.hurry(VOUCH_MS)
        if line.shown is None:
            self._hold(words)
            self._without_key()
            return
        line.phase = Phase.BOUND
        if shown:
            line.to_client(words.to_bytes())
        else:
            self._hold(words)
            line.to_client(names.bound(jid))

    def _without_key(self) -> None:
        """Under ``optional``: accounts that have a key need it all the same (14.5)."""
        line = self._line
        line.phase = Phase.BOUND
        if line.policy(line.account) == "keys-only":
            self._keyless(Refused("key-required", names.NO_KEY))
        else:
            line.ask(Seen(line.account), self._keyless)

    def _keyless(self, answer: Answer) -> None:
        line = self._line
        match answer:
            case Yes():
                line.note("unkeyed")
                self.release()
            case Unavailable():
                line.end("resource-constraint", names.LATER)
            case _:
                line.refused("no key")
                line.end("not-authorized", names.NO_KEY, "key-required")

    def release(self) -> None:
        """The stream is open."""
        held, self._held, self._size = self._held, [], 0
        self._line.phase = Phase.OPEN
        self._opened(held)

    # -- what comes meanwhile ------

    def on_client(self, stanza: Stanza) -> None:
        """Something of the client that does not vouch."""
        line = self._line
        if not stanza.is_stanza:
            self._on_nonza(stanza)
        elif self._passes(stanza):
            line.to_backend(stanza.to_bytes())
        elif stanza.type not in ("error", "result"):
            refusal = names.refusal(
                stanza,
                "not-authorized",
                names.NOT_YET,
                "key-required",
                from_=line.domain,
            )
            line.to_client(refusal)

    def _passes(self, stanza: Stanza) -> bool:
        if self._may_ask(stanza):
            self._asked.add(stanza.id or "")
            return True
        if self._answers_ping(stanza):
            return True
        linking = self._line.phase is Phase.LINKING
        return linking and links(stanza, self._line.account)

    def _on_nonza(self, stanza: Stanza) -> None:
        line = self._line
        if stanza.ns == MANAGEMENT and stanza.name in ("enable", "resume"):
            line.to_client(names.managed_failure(MANAGEMENT, "unexpected-request"))
        elif stanza.ns not in (MANAGEMENT, STATE_INDICATION):
            line.end("not-authorized", names.NOT_YET, "key-required")

    def _may_ask(self, stanza: Stanza) -> bool:
        if stanza.name != "iq" or stanza.type != "get" or not stanza.id:
            return False
        if len(self._asked) >= _ASKED_MOST:
            return False
        line = self._line
        if stanza.children == _PING:
            return stanza.to in (None, line.domain, line.account)
        return stanza.to in (None, line.account) and _reads_own_keys(stanza)

    def _answers_ping(self, stanza: Stanza) -> bool:
        if stanza.name != "iq" or stanza.type not in ("result", "error"):
            return False
        line = self._line
        if stanza.id not in self._pinged:
            return False
        if stanza.to not in (None, line.domain, line.account) or not _says_nothing(
            stanza
        ):
            # it would reach whom it names, as the account's own word
            return False
        self._pinged.discard(stanza.id)
        return True

    def on_backend(self, stanza: Stanza) -> None:
        """Something of the server."""
        line = self._line
        if self._is_answer(stanza):
            self._asked.discard(stanza.id or "")
        elif self._is_ping(stanza):
            self._pinged.add(stanza.id or "")
        elif line.phase is not Phase.LINKING or not links(stanza, line.account):
            self._hold(stanza)
            return
        line.to_client(stanza.to_bytes())

    def _is_answer(self, stanza: Stanza) -> bool:
        return (
            stanza.name == "iq"
            and stanza.type in ("result", "error")
            and stanza.id in self._asked
            and self._line.by_server(stanza)
        )

    def _is_ping(self, stanza: Stanza) -> bool:
        return (
            stanza.name == "iq"
            and stanza.type == "get"
            and stanza.children == _PING
            and self._line.by_server(stanza)
            and len(self._pinged) < _ASKED_MOST
        )

    def _hold(self, stanza: Stanza) -> None:
        self._held.append(stanza)
        self._size += len(stanza.to_bytes())
        if self._size > HELD_MOST:
            self._line.end("resource-constraint", "too much waits for this stream")


def links(stanza: Stanza, account: str) -> bool:
    """Whether this is a message of linking between resources of *account* (7)."""
    if stanza.name != "message" or not stanza.is_stanza:
        return False
    ends = (stanza.to or account, stanza.from_ or account)
    if any(end.partition("/")[0] != account for end in ends):
        return False
    linking = [one for one in stanza.children if one in _LINKING]
    if len(linking) != 1 or {*stanza.children} - _LINKING - _BESIDE:
        return False
    tree = stanza.tree()
    return not any((text or "").strip() for text in (tree.text, *tails(tree)))


def tails(tree: Element) -> list[str | None]:
    """The text between the children of an element."""
    return [child.tail for child in tree]


def _says_nothing(stanza: Stanza) -> bool:
    """Whether an answer to a ping is just that: a condition at most, no text."""
    if stanza.type == "result":
        return not stanza.children
    tree = stanza.tree()
    if any(child.tag not in (_ERROR, *_PING) for child in tree):
        return False
    parts = [part for child in tree for part in child]
    texts = (tree.text, *tails(tree), *(part.text for part in parts))
    return not any(map(len, parts)) and not any((one or "").strip() for one in texts)


def _account(bare: str, domain: str) -> str | None:
    """*bare* as the prepared address of an account of *domain*, if it is one."""
    try:
        jid = Jid.parse(bare)
    except PeerFault:
        return None
    return str(jid) if jid.local and jid.domain == domain else None


def _reads_own_keys(stanza: Stanza) -> bool:
    """Whether a query reads one of the two own nodes (3.6)."""
    if stanza.children != (f"{{{PUBSUB}}}pubsub",):
        return False
    pubsub = stanza.tree()[0]
    items = stanza.tree().find(_ITEMS)
    return len(pubsub) == 1 and items is not None and items.get("node") in (KEY, PREKEY)
