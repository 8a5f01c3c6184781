"""Messages that come in on one stream: judged, held, kept and delivered.

What ``inbound`` says of each is carried out here.  A message that has to wait
for a key holds back later ones of the same sender and nobody else's; after
30 s a placeholder takes its place, and it is shown once its key comes.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ..errors import REMOTE, PeerFault, TrustFault
from ..rules import classes
from ..suites.fields import fields
from ..suites.lanes import Header
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import grants, inbound, keyrequests, linking, rotation, verdicts
from .inbox import HELD_FOR, KEPT_LATE, Held
from .phase import Phase

if TYPE_CHECKING:
    from .account import Account
    from .session import Session

AGAIN = 2_500
MOST_AGAIN = 50
_EVENT = "{http://jabber.org/protocol/pubsub#event}event"
_OWN_NODES = "urn:x-tillie:"


class Arrivals:
    """The incoming messages of *session*.

    :param stream: the client stream that they are for: the session's own, or the
        cut one that it empties.
    """

    def __init__(self, account: Account, session: Session, stream: str) -> None:
        self._account = account
        self._session = session
        self._stream = stream
        self._inbox = account.inbox
        self._again_at = 0

    # -- one message ------

    def message(self, stanza: Stanza) -> None:
        """A message came from the server."""
        sender = Jid.parse(stanza.from_ or self._account.jid)
        if _own_event(stanza):
            return
        if any(name.startswith(_LAYER) for name in stanza.children):
            self._layer(stanza, sender)
            return
        peer = str(sender.bare)
        if self._inbox.blocking(self._stream, peer) and not _archived(stanza):
            # its grants may be what the one it queues behind is waiting for
            _, taken = grants.take_beside(self._account, stanza, peer)
            if taken:
                self._retry_all(peer)
        if self._inbox.blocking(self._stream, peer) and not _archived(stanza):
            self._hold(stanza, peer)
        else:
            self._process(stanza, peer, None)

    def _process(self, stanza: Stanza, peer: str, held: Held | None) -> bool:
        """Whether *stanza* is done with."""
        asked = held is not None and held.asked
        verdict = inbound.judge(self._account, stanza, retry=asked)
        match verdict:
            case verdicts.Deliver():
                self._release(held)
                self._deliver(verdict, stanza)
                return True
            case verdicts.Drop():
                self._release(held)
                return True
            case verdicts.NeedContact(jid=jid):
                held = held or self._hold(stanza, peer)
                if held is not None:
                    self._look_up(jid, held)
            case verdicts.NeedKey(jid=jid, header=header):
                held = held or self._hold(stanza, peer)
                if held is not None:
                    self._ask_key(jid, header)
                    if self._refused(jid, header, held):
                        self._give_up_waiting(held)
        return False

    def _deliver(self, verdict: verdicts.Deliver, stanza: Stanza) -> None:
        missing = verdict.missing
        if missing is not None:
            self._ask_key(missing.jid, missing.header, page=True)
        used = verdict.used
        if used is not None and not self._inbox.seen.used(verdict.key, verdict.digest):
            used = None
        if not self._fresh(verdict):
            return
        seal = (verdict.key, verdict.digest) if verdict.key else None
        self._give(verdict.message, stanza, seal)
        if used is not None and self._session.connected:
            peer = str(Jid.parse(stanza.from_ or self._account.jid).bare)
            rotations = self._session.house.rotations(self._account)
            request = rotations.ask(peer, used)
            if request is not None:
                self._session.send_own(request)

    def _refused(self, owner: str, header: Header, held: Held) -> bool:
        """Whether waiting for the key is pointless, and nothing stands there yet."""
        refused = self._requests.refused(owner, header.lane)
        return refused and not held.shown and self._session.available

    @property
    def _requests(self) -> keyrequests.KeyRequests:
        return self._session.house.key_requests(self._account)

    def _ask_key(self, owner: str, header: Header, *, page: bool = False) -> None:
        if self._session.connected:
            for request in self._requests.ask(owner, header, page=page):
                self._session.send_own(request)

    def _fresh(self, verdict: verdicts.Deliver) -> bool:
        if not verdict.key:
            return True
        return self._inbox.seen.fresh(
            verdict.key,
            verdict.digest,
            self._stream,
            self._account.stream_names(),
            self._account.clock(),
        )

    def _give(
        self, message: Element, stanza: Stanza, seal: tuple[str, bytes] | None = None
    ) -> None:
        unchanged = message is stanza.tree()
        data = stanza.to_bytes() if unchanged else tree.serialise(message)
        row = ""
        if _worth_keeping(message, stanza):
            now = self._account.clock()
            row = self._inbox.add(data, self._stream, _what(stanza, seal), now)
        if self._session.deliver(data, row) and row:
            self._account.in_flight[row] = self._session

    # -- held ------

    def _hold(self, stanza: Stanza, peer: str) -> Held | None:
        """Keep *stanza* for later; where there is no room, its placeholder goes out
        now and the message is given up."""
        if self._inbox.full(peer):
            self._give(inbound.placeholder(self._account, stanza), stanza)
            self._account.notice(peer, f"too many messages of {peer} wait for a key")
            return None
        return self._inbox.hold(
            self._stream, peer, stanza.to_bytes(), self._account.clock()
        )

    def _release(self, held: Held | None) -> None:
        if held is not None:
            self._inbox.release(held)

    def _look_up(self, jid: str, held: Held) -> None:
        if held.asked:
            return

        def settled() -> None:
            held.asked = True
            self.retry(held.peer)

        self._ask_about(jid, settled)

    def _retry_all(self, granter: str) -> None:
        """A key of *granter* came: every stream's messages of it, and what the own
        account's carbons bring of it."""
        for stream in list(self._account.streams) or [self._session]:
            stream.retry(granter)
            if granter != self._account.jid:
                stream.retry(self._account.jid)

    def retry(self, peer: str) -> None:
        """Try again what is held of *peer*, in order."""
        for held in self._own_held():
            if held.peer != peer or held not in self._inbox.load_held():
                continue
            stanza = self._reread(held)
            if stanza is None:
                continue
            if any(name.startswith(_LAYER) for name in stanza.children):
                self._inbox.release(held)
                self._layer(stanza, Jid.parse(stanza.from_ or self._account.jid))
            elif not self._process(stanza, peer, held) and not held.shown:
                return

    def _reread(self, held: Held) -> Stanza | None:
        """The stanza that was held; one that cannot be read again is given up."""
        try:
            return Stanza.of(tree.stored(held.data))
        except PeerFault:
            self._inbox.release(held)
            self._account.notice(held.peer, "a message that was held cannot be read")
            return None

    def _own_held(self) -> list[Held]:
        """What is held for this stream, and what streams that ended left behind."""
        live = {one.stream for one in self._account.streams if one is not self._session}
        return [held for held in self._inbox.load_held() if held.stream not in live]

    def tick(self, now: int) -> None:
        """Placeholders for what waited too long; a last farewell after 14 days."""
        again: dict[str, None] = {}
        for held in self._own_held():
            if held.shown:
                if now - held.since > KEPT_LATE:
                    self._inbox.release(held)
            elif now - held.since >= HELD_FOR and self._session.available:
                self._give_up_waiting(held)
                again[held.peer] = None
            elif not held.asked and now >= self._again_at:
                # there was no room for its look-up before
                again[held.peer] = None
        if now >= self._again_at:
            self._again_at = now + AGAIN
        for peer in list(again)[:MOST_AGAIN]:
            self.retry(peer)

    def _give_up_waiting(self, held: Held) -> None:
        """The placeholder goes out; the message is kept in case its key comes."""
        stanza = self._reread(held)
        if stanza is None:
            return
        if any(name.startswith(_LAYER) for name in stanza.children):
            self._inbox.release(held)
            return
        held.shown = True
        self._inbox.save(held)
        self._give(inbound.placeholder(self._account, stanza), stanza)

    # -- the client ------

    def client_ready(self) -> None:
        """The client is available: what earlier streams left is for it."""
        account = self._account
        busy = {row for row, one in account.in_flight.items() if not one.over}
        for row, data in self._inbox.owed(busy):
            self._give_again(row, data)
        held = self._own_held()
        for one in held:
            one.asked = False
        for peer in dict.fromkeys(one.peer for one in held):
            self.retry(peer)

    def _give_again(self, row: str, data: bytes) -> None:
        """What an earlier stream did not get to its client, readdressed to this."""
        message = tree.stored(data)
        if message.get("to") and self._session.jid is not None:
            message.set("to", str(self._session.jid))
        if self._session.deliver(tree.serialise(message), row):
            self._account.in_flight[row] = self._session

    def delivered(self, rows: list[str]) -> None:
        for row in rows:
            self._account.in_flight.pop(row, None)
        self._inbox.delivered(rows)

    # -- this layer's own messages ------

    def _layer(self, stanza: Stanza, sender: Jid) -> None:
        """Grants, key requests, linking: never for the client."""
        if stanza.type in ("error", "groupchat"):
            return
        for child in stanza.tree():
            try:
                self._layer_child(child, stanza, sender)
            except REMOTE as fault:
                self._account.notice(str(sender.bare), fault.text, show=False)

    def _layer_child(self, child: Element, stanza: Stanza, sender: Jid) -> None:
        bare = str(sender.bare)
        if child.tag == grants.GRANTS:
            self._grants(stanza, bare)
        elif child.tag == keyrequests.KEYREQ:
            self._requested(child, stanza, bare)
        elif child.tag == keyrequests.NO:
            if self._requests.take_no(child, bare):
                self._retry_all(bare)
        elif child.tag == rotation.ROTATE:
            self._session.house.rotations(self._account).requested(child, bare)
        elif bare == self._account.jid and sender != self._session.jid:
            self._linking(child, sender)

    def _grants(self, stanza: Stanza, granter: str, *, asked: bool = False) -> None:
        need, taken = grants.take_beside(self._account, stanza, granter, retry=asked)
        if taken:
            self._retry_all(granter)
        elif need is not None and not self._ask_about(
            need.jid, lambda: self._grants(stanza, granter, asked=True)
        ):
            self._hold(stanza, granter)

    def introduced(self, stanza: Stanza) -> None:
        """Somebody asks to see the own presence: the keys of an unknown one are
        looked up, so that the first message finds them.  The presence itself is not
        sealed, and waits for nothing."""
        try:
            sender = Jid.parse(stanza.from_ or "").bare
        except PeerFault:
            return
        jid = str(sender)
        if sender.local and jid != self._account.jid:
            contact = self._account.contacts.get(jid)
            if contact is None:
                self._ask_about(jid, lambda: None)

    def _ask_about(self, jid: str, settled: Callable[[], None]) -> bool:
        """Whether *jid* is being looked up now."""
        return self._session.connected and self._account.look_up(
            self._session, jid, settled, stranger=True
        )

    def _requested(self, element: Element, stanza: Stanza, requester: str) -> None:
        requests = self._requests
        request = requests.read(element, requester)

        def answer() -> None:
            try:
                for cleared in requests.answer(request):
                    self._session.send_own(cleared)
            except TrustFault as fault:
                self._account.notice(requester, fault.text, show=False)

        if not requests.needs_look_up(request):
            answer()
        elif not self._ask_about(requester, answer):
            self._hold(stanza, requester)

    def _linking(self, child: Element, sender: Jid) -> None:
        link = self._session.house.linking(self._account)
        if child.tag == linking.REQUEST:
            answer = link.requested(child, str(sender))
            if answer is not None:
                if link.added:
                    self._account.publication.publish(self._session)
                self._session.send_own(answer, kept=False)
        elif child.tag == linking.ANSWER and link.answered(child):
            if self._session.phase is Phase.LINKING:
                self._session.uplink.vouching.linked()
                return
            self._account.publication.publish_prekey(self._session)
            for stream in self._account.streams:
                stream.pump()


_LAYER = f"{{{classes.LANE}}}"


def _own_event(stanza: Stanza) -> bool:
    if _EVENT not in stanza.children:
        return False
    event = stanza.tree().find(_EVENT)
    return event is not None and any(
        child.get("node", "").startswith(_OWN_NODES) for child in event
    )


def _archived(stanza: Stanza) -> bool:
    return any(name.endswith("}result") for name in stanza.children)


def _what(stanza: Stanza, seal: tuple[str, bytes] | None) -> bytes:
    """What the copies of one message have in common, those for two streams and a
    carbon beside the message itself: its seal's name, or its content; 16 bytes."""
    if seal is not None:
        return sha256(fields("shown-seal", *seal)).digest()[:16]
    *_, message = stanza.tree().iter("{jabber:client}message")
    made = classes.SERVER_MADE_OUTSIDE
    parts = [tree.serialise(child) for child in message if child.tag not in made]
    root = [message.get(name) for name in ("from", "type", "id")]
    return sha256(fields("shown", *root, *parts)).digest()[:16]


def _worth_keeping(message: Element, stanza: Stanza) -> bool:
    """Whether a kill may not lose it: not typing, not what can be read again."""
    if stanza.type == "headline" or _archived(stanza):
        return False
    names = [
        child.tag for child in message if not child.tag.startswith("{urn:xmpp:hints}")
    ]
    return bool(names) and not classes.transient(names)
