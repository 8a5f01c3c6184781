"""One account in this Tillie: its keys, contacts, lanes and streams together.

Several client streams of one account share one of these.  It owns what must
exist once: the identity, the look-ups under way, the notices.  How the own keys
get to the server is ``publication``'s.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import REMOTE, TrustFault
from ..keys.store import Store
from ..suites.entropy import token
from ..wire.jid import Jid
from . import lookups, vouchers
from .catchup import CatchUp
from .contacts import Contact, Contacts, Finding
from .directory import Absent, Failed, Found, Outcome
from .identity import Identity
from .inbox import Inbox
from .owntoken import OwnToken
from .publication import Publication
from .ratchets import Ratchets
from .servers import Servers
from .unheard import Unheard
from .writing import Reader

if TYPE_CHECKING:
    from .session import Session

PAUSE = 2_000
MOST_CAUSED = 30
MOST_WAITING = 100
MINUTE = 60_000
DAY = 24 * 3600 * 1000
MOST_NOTICES = 500
Settled = Callable[[], None]


@dataclass(slots=True)
class _LookUp:
    """A look-up under way, who asked it, and who waits for it."""

    asker: Session
    waiting: list[Settled]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says about sealing.

    :param clear: shell patterns over bare JIDs (``policy clear``).
    :param fallback: whether a constant body stands beside each seal.
    :param label: this device's name in the manifest.
    """

    clear: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    unknown: str = "ask"
    fallback: bool = True
    label: str = "Tillie"


class Account:
    """See the module; *clock* gives milliseconds since 1970.

    :ivar refused: why the last login failed, empty if it did not.
    :ivar turned_away: whether it was refused, for its password or this device's key,
        by a gate that had proved itself.
    """

    def __init__(
        self,
        jid: str,
        store: Store,
        clock: Callable[[], int],
        settings: Settings,
        servers: Servers,
    ) -> None:
        self.jid = jid
        self.store = store
        self.clock = clock
        self.settings = settings
        self.servers = servers
        self.identity = Identity(store, jid)
        self.token = OwnToken(store, jid, servers)
        self.contacts = Contacts(
            store,
            jid,
            clear=settings.clear,
            require=settings.require,
            unknown=settings.unknown,
        )
        self.ratchets = Ratchets(store, self.identity)
        self.inbox = Inbox(store, jid)
        self.unheard = Unheard(store, jid)
        self.catch_up = CatchUp(self.identity, clock)
        self.refused = ""
        self.turned_away = False
        self.streams: list[Session] = []
        self.in_flight: dict[str, Session] = {}
        self._cut: set[str] | None = None
        self._lookups: dict[str, _LookUp] = {}
        self._caused: deque[int] = deque()
        self.publication = Publication(self)
        self._told: deque[tuple[str, str]] = deque(maxlen=50)

    def forget_caches(self) -> None:
        """The last transaction was rolled back."""
        self.identity.forget_caches()
        self.token.forget_caches()
        self.contacts.forget_caches()
        self.ratchets.forget_caches()
        self.inbox.forget_caches()
        self.unheard.forget_caches()
        self._cut = None

    def reconfigure(self, settings: Settings) -> None:
        """Policies changed; pinned contacts and words for single JIDs stay."""
        self.settings = settings
        self.contacts = Contacts(
            self.store,
            self.jid,
            clear=settings.clear,
            require=settings.require,
            unknown=settings.unknown,
        )

    # -- notices ------

    def notice(self, about: str, text: str, *, show: bool = True) -> None:
        """Tell the person, once in a while for the same thing.

        Notices hold addresses and reasons, never what somebody wrote.
        """
        now = self.clock()
        if (about, text) in self._told:
            return
        self._told.append((about, text))
        record = json.dumps({"time": now, "jid": about, "text": text}).encode()
        self.store.put("notice", self.jid, f"{now:015d}-{token(4).hex()}", record)
        rows = self.store.scan("notice", self.jid)
        for key, _ in rows[: max(0, len(rows) - MOST_NOTICES)]:
            self.store.delete("notice", self.jid, key)
        if show:
            for stream in self.streams:
                stream.show_notice(text)

    def removed(self) -> None:
        """The server removed the account: its keys are nobody's any more."""
        self.identity.wipe()
        self.token.forget_caches()
        self.publication.removed()

    # -- time ------

    def tick(self, asker: Session, now: int) -> None:
        """What time alone brings about: retries, new prekeys, old lanes."""
        self.publication.tick(asker, now)
        self.catch_up.tick(asker, now)
        self._prune(now)

    def _prune(self, now: int) -> None:
        """Once a day, whenever that comes to pass."""
        last = int.from_bytes(self.store.get("own", self.jid, "pruned") or b"", "big")
        if now - last >= DAY:
            self.store.put("own", self.jid, "pruned", now.to_bytes(8, "big"))
            self.ratchets.prune(now)
            self.inbox.prune(now, self.identity.oldest_prekey())
            self._tell_unheard(now)

    def _tell_unheard(self, now: int) -> None:
        """Who may never have read what was written to it is told of, once (I25)."""
        for peer, since in self.unheard.overdue(now):
            contact = self.contacts.get(peer)
            if contact is None or contact.manifest.retired:
                continue
            day = datetime.fromtimestamp(since // 1000, UTC).strftime("%Y-%m-%d")
            self.notice(
                peer,
                f"nothing that {peer} sealed has come since you wrote there on {day}, "
                "not even a receipt: it may never have been read; ask in another way "
                "whether Tillie is still in use there",
            )

    # -- contacts ------

    def looking_up(self, jid: str) -> bool:
        return jid in self._lookups

    def look_up(
        self, asker: Session, jid: str, settled: Settled, *, stranger: bool = False
    ) -> bool:
        """Learn *jid*'s keys; *settled* is called when contacts know more.

        Look-ups for one address are made once, however many wait for it.  What
        others cause (*stranger*) has a budget, and False comes back when it is
        used up: that is no answer about *jid*, and nothing is remembered of it.
        """
        if jid in self._lookups:
            waiting = self._lookups[jid].waiting
            if len(waiting) < MOST_WAITING:
                waiting.append(settled)
            return True
        if stranger and (self._just_asked(jid) or not self._budget()):
            return False
        self._lookups[jid] = _LookUp(asker, [settled])
        lookups.look_up(
            self,
            asker,
            jid,
            lambda outcome: self._looked_up(jid, outcome),
            lambda: not stranger or self._budget(),
        )
        return True

    def _just_asked(self, jid: str) -> bool:
        now = self.clock()
        finding = self.contacts.finding(jid, now)
        return finding is not None and now - finding.at < PAUSE

    def _budget(self) -> bool:
        now = self.clock()
        while self._caused and now - self._caused[0] > MINUTE:
            self._caused.popleft()
        if len(self._caused) >= MOST_CAUSED:
            return False
        self._caused.append(now)
        return True

    def left(self, session: Session) -> None:
        """*session* is over: what it asked will not be answered any more."""
        if session in self.streams:
            self.streams.remove(session)
        self._cut = None
        for row, holder in list(self.in_flight.items()):
            if holder is session:
                del self.in_flight[row]
        for jid, look_up in list(self._lookups.items()):
            if look_up.asker is session:
                del self._lookups[jid]
        self.publication.left(session)
        self.catch_up.left(session)

    def _looked_up(self, jid: str, outcome: Outcome) -> None:
        now = self.clock()
        match outcome:
            case Found():
                self._learn(jid, outcome, now)
            case Absent():
                if notice := self.contacts.absent(jid, now):
                    self.notice(jid, f"{jid}: {notice}")
            case Failed(text=text):
                self.contacts.failed(jid, Finding.FAILED, text, now)
        look_up = self._lookups.pop(jid, None)
        for settled in look_up.waiting if look_up is not None else ():
            settled()

    def _learn(self, jid: str, found: Found, now: int) -> None:
        try:
            self._check_own(jid, found)
            word = vouchers.weigh(self, jid, found, now)
            # another root of a gated domain needs the domain's word, like a first one;
            # which one is the own account's is known
            gated = jid != self.jid and self.servers.gated(Jid.parse(jid).domain)
            rollovers = () if gated and word is None else found.rollovers
            learned = self.contacts.learn(
                jid, found.manifest, found.prekeys, now, rollovers
            )
            self.contacts.vouched(jid, word, self.servers.voucher(jid))
        except REMOTE as fault:
            self.contacts.failed(jid, Finding.FAILED, fault.text, now)
            return
        if learned.notice:
            self.notice(jid, f"{jid}: {learned.notice}")
        # remembered either way: nobody asks again at once for what was not there
        text = learned.notice or "the look-up brought nothing new"
        self.contacts.failed(jid, Finding.FAILED, text, now)

    def _check_own(self, jid: str, found: Found) -> None:
        """The own account is never pinned on first use: its root is known."""
        if jid == self.jid and (
            not self.identity.has_manifest
            or found.manifest.root.fingerprint != self.identity.fingerprint
        ):
            raise TrustFault("the server shows other keys for the own account")
        own = self.contacts.get(jid) if jid == self.jid else None
        roots = (self.identity.fingerprint, *self.identity.left) if own else ()
        if own and own.pin.root not in roots:
            # from before a link code brought the account another root
            self.contacts.forget(jid)

    def stream_names(self) -> set[str]:
        """The client streams that there are: live ones, and cut ones that the server
        may still hold something for."""
        if self._cut is None:
            rows = self.store.scan("stream", self.jid)
            self._cut = {stream for stream, _ in rows}
        return self._cut | {session.stream for session in self.streams}

    def audience(self, contact: Contact | None) -> list[tuple[str, bytes]]:
        """Accounts that read a lane towards *contact*; None: only the own one."""
        own = (self.jid, self.identity.fingerprint)
        return [own] if contact is None else [own, (contact.jid, contact.pin.root)]

    def audiences(self, contact: Contact | None) -> list[list[tuple[str, bytes]]]:
        """Those that a lane which is read may have: the present one first, then with
        the roots that either side left by rollovers (3.10.2)."""
        roots = (self.identity.fingerprint, *reversed(self.identity.left))
        own = [(self.jid, root) for root in roots]
        if contact is None:
            return [[one] for one in own]
        theirs = (contact.pin.root, *reversed(contact.pin.left))
        return [[one, (contact.jid, root)] for one in own for root in theirs]

    def own_readers(self) -> list[Reader]:
        """The own other devices that published a prekey."""
        own = self.contacts.get(self.jid) if self.has_other_devices() else None
        if own is None:
            return []
        active = {device.public for device in self.identity.manifest.active}
        return [
            Reader(self.jid, device.public, prekey)
            for device, prekey in own.readers
            if device.public in active and device.public != self.identity.device.public
        ]

    def has_other_devices(self) -> bool:
        return len(self.identity.manifest.active) > 1
