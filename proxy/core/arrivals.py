"""Messages that come in on one stream: judged, held, kept and delivered.

What ``inbound`` says of each is carried out here.  A message that has to wait
for a key holds back later ones of the same sender and nobody else's; after
30 s a placeholder takes its place, and it is shown once its key comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ..errors import Fault, PeerFault
from ..rules import classes
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import inbound, keyrequests, linking
from .inbox import HELD_FOR, HELD_PER_PEER, KEPT_LATE, Held

if TYPE_CHECKING:
    from .account import Account
    from .session import Session

_EVENT = "{http://jabber.org/protocol/pubsub#event}event"
_OWN_NODES = "urn:x-tillie:"


class Arrivals:
    """The incoming messages of *session*."""

    def __init__(self, account: Account, session: Session) -> None:
        self._account = account
        self._session = session
        self._inbox = account.inbox

    # -- one message ------

    def message(self, stanza: Stanza) -> None:
        """A message came from the server."""
        try:
            sender = Jid.parse(stanza.from_ or self._account.jid)
        except PeerFault:
            return
        if _own_event(stanza):
            return
        layer = [name for name in stanza.children if name.startswith(_LAYER)]
        if layer:
            self._layer(stanza, sender)
            return
        peer = str(sender.bare)
        if self._inbox.blocking(self._session.stream, peer) and not _from_archive(
            stanza
        ):
            self._hold(stanza, peer)
            return
        self._carry_out(inbound.judge(self._account, stanza), stanza, peer, None)

    def _carry_out(
        self, verdict: inbound.Verdict, stanza: Stanza, peer: str, held: Held | None
    ) -> bool:
        """Whether *stanza* is done with."""
        match verdict:
            case inbound.Deliver(message=message):
                self._release(held)
                if message is not None and self._fresh(verdict):
                    self._give(message, stanza)
                return True
            case inbound.Drop():
                self._release(held)
                return True
            case inbound.NeedContact(jid=jid):
                held = held or self._hold(stanza, peer)
                if held is not None:
                    self._look_up(jid, held)
            case inbound.NeedKey(jid=jid, header=header):
                held = held or self._hold(stanza, peer)
                if held is not None and self._session.connected:
                    requests = self._session.house.key_requests(self._account)
                    for request in requests.ask(jid, header):
                        self._session.send_own(request)
        return False

    def _fresh(self, verdict: inbound.Deliver) -> bool:
        if not verdict.key:
            return True
        return self._inbox.fresh(
            verdict.key,
            verdict.digest,
            self._session.stream or "00" * 8,
            self._session.bound_at,
            self._account.clock(),
        )

    def _give(self, message: Element, stanza: Stanza) -> None:
        unchanged = message is stanza.tree()
        data = stanza.to_bytes() if unchanged else tree.serialise(message)
        row = ""
        if _worth_keeping(message, stanza):
            row = self._inbox.add(data, self._account.clock())
        if self._session.deliver(data, row) and row:
            self._account.in_flight[row] = self._session

    # -- held ------

    def _hold(self, stanza: Stanza, peer: str) -> Held | None:
        if self._inbox.count(peer) >= HELD_PER_PEER:
            self._account.notice(
                peer, f"too many messages of {peer} wait for a key; one was left out"
            )
            return None
        return self._inbox.hold(
            self._session.stream, peer, stanza.to_bytes(), self._account.clock()
        )

    def _release(self, held: Held | None) -> None:
        if held is not None:
            self._inbox.release(held)

    def _look_up(self, jid: str, held: Held) -> None:
        if held.asked or not self._session.connected:
            return

        def settled() -> None:
            held.asked = True
            self.retry()

        self._account.look_up(self._session, jid, settled)

    def retry(self) -> None:
        """Try again what is held, each sender's messages in order."""
        stuck: set[str] = set()
        for held in self._own_held():
            if held.peer in stuck:
                continue
            stanza = Stanza.of(tree.parse(held.data))
            verdict = inbound.judge(self._account, stanza, retry=held.asked)
            done = self._carry_out(verdict, stanza, held.peer, held)
            if not done and not held.shown:
                stuck.add(held.peer)

    def _own_held(self) -> list[Held]:
        """What is held for this stream, and what streams that ended left behind."""
        live = {one.stream for one in self._account.streams if one is not self._session}
        return [held for held in self._inbox.load_held() if held.stream not in live]

    def tick(self, now: int) -> None:
        """Placeholders for what waited too long; a last farewell after 14 days."""
        late = False
        for held in self._own_held():
            if held.shown:
                if now - held.since > KEPT_LATE:
                    self._inbox.release(held)
            elif now - held.since >= HELD_FOR and self._session.available:
                held.shown = late = True
                self._inbox.save(held)
                stanza = Stanza.of(tree.parse(held.data))
                self._give(inbound.placeholder(self._account, stanza), stanza)
        if late:
            self.retry()

    # -- the client ------

    def client_ready(self) -> None:
        """The client is available: what earlier streams left is for it."""
        account = self._account
        for row, data in self._inbox.waiting():
            holder = account.in_flight.get(row)
            if holder is not None and not holder.over:
                continue
            message = tree.parse(data)
            if message.get("to") and self._session.jid is not None:
                message.set("to", str(self._session.jid))
            if self._session.deliver(tree.serialise(message), row):
                account.in_flight[row] = self._session
        for held in self._inbox.load_held():
            held.asked = False
        self.retry()

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
            except Fault as fault:
                self._account.notice(str(sender.bare), fault.text, show=False)

    def _layer_child(self, child: Element, stanza: Stanza, sender: Jid) -> None:
        bare = str(sender.bare)
        if child.tag == inbound.GRANTS:
            self._grants(child, bare)
        elif child.tag == keyrequests.KEYREQ:
            self._requested(child, bare)
        elif bare == self._account.jid and sender != self._session.jid:
            self._linking(child, sender)

    def _grants(self, grants: Element, granter: str, *, asked: bool = False) -> None:
        need = inbound.take_grant_message(self._account, grants, granter, retry=asked)
        if need is None:
            self.retry()
        elif self._session.connected:
            self._account.look_up(
                self._session,
                need.jid,
                lambda: self._grants(grants, granter, asked=True),
            )

    def _requested(self, element: Element, requester: str) -> None:
        requests = self._session.house.key_requests(self._account)
        request = requests.read(element, requester)

        def answer() -> None:
            try:
                for cleared in requests.answer(request):
                    self._session.send_own(cleared)
            except Fault as fault:
                self._account.notice(requester, fault.text, show=False)

        if requests.needs_look_up(request) and self._session.connected:
            self._account.look_up(self._session, requester, answer)
        else:
            answer()

    def _linking(self, child: Element, sender: Jid) -> None:
        link = self._session.house.linking(self._account)
        if child.tag == linking.REQUEST:
            answer = link.requested(child, str(sender))
            if answer is not None:
                if link.added:
                    self._account.publish(self._session)
                self._session.send_own(answer, kept=False)
        elif child.tag == linking.ANSWER and link.answered(child):
            self._account.publish_prekey(self._session)
            self.retry()
            for stream in self._account.streams:
                stream.pump()


_LAYER = f"{{{classes.LANE}}}"


def _own_event(stanza: Stanza) -> bool:
    if _EVENT not in stanza.children:
        return False
    return any(
        child.get("node", "").startswith(_OWN_NODES)
        for child in stanza.tree().find(_EVENT) or ()
    )


def _from_archive(stanza: Stanza) -> bool:
    return any(name.endswith("}result") for name in stanza.children)


def _worth_keeping(message: Element, stanza: Stanza) -> bool:
    """Whether a kill may not lose it: not typing, not what can be read again."""
    if stanza.type == "headline" or _from_archive(stanza):
        return False
    names = [
        child.tag for child in message if not child.tag.startswith("{urn:xmpp:hints}")
    ]
    return bool(names) and not classes.transient(names)
