"""What the client sends: one queue, in order, each stanza judged at its head.

A stanza that has to wait holds back what is behind it, so nothing overtakes
(RFC 6120, 10.1), and an answered ping says that all before it was dealt with.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from ..errors import LocalFault, PeerFault, TrustFault
from ..wire import tree
from ..wire.jid import Jid
from ..wire.stanza import Stanza, error_reply
from . import guard, outbound, verdicts
from .phase import LOCAL_DOMAIN, Phase
from .questions import PING
from .vouching import LINK

if TYPE_CHECKING:
    from .session import Session

HOLD = 15_000
MOST = 1_000
MOST_BYTES = 16 * 1024 * 1024
_BIND = "{urn:ietf:params:xml:ns:xmpp-bind}bind"
_SESSION = "{urn:ietf:params:xml:ns:xmpp-session}session"
_CSI = "urn:xmpp:csi:0"


class Departures:
    """The outgoing queue of *session*."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: deque[tuple[int, Stanza]] = deque()
        self._bytes = 0
        self._pumping = False

    def __len__(self) -> int:
        return len(self._queue)

    def clear(self) -> None:
        self._queue.clear()
        self._bytes = 0

    def add(self, stanza: Stanza) -> None:
        """The client sent *stanza*."""
        size = _size(stanza)
        if len(self._queue) >= MOST or self._bytes + size > MOST_BYTES:
            self._bounce(
                stanza, "resource-constraint", "not sent: too much is waiting", "wait"
            )
            return
        self._bytes += size
        self._queue.append((self._session.house.clock(), stanza))
        self.pump()

    def pump(self) -> None:
        """Handle what waits, in order, as far as it goes."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and self._may_go(self._queue[0][1]):
                since, stanza = self._queue[0]
                if not self._handle(stanza, since):
                    break
                if self._session.over:
                    return
                self._queue.popleft()
                self._bytes -= _size(stanza)
        finally:
            self._pumping = False

    def _may_go(self, stanza: Stanza) -> bool:
        session = self._session
        if session.phase is Phase.BINDING:
            # only the bind request itself, and what some clients ask before it
            return not session.uplink.entering.binding and stanza.name == "iq"
        return session.phase in (Phase.LIVE, Phase.DRAINING, Phase.LINKING)

    def _handle(self, stanza: Stanza, since: int) -> bool:
        """Whether *stanza* is done with."""
        try:
            if self._session.phase is Phase.BINDING:
                self._unbound(stanza)
                return True
            if not self._address_is_own(stanza):
                self._session.end(
                    PeerFault("that is not your address", condition="invalid-from")
                )
                return True
            if self._session.phase is Phase.LINKING:
                self._unlinked(stanza)
                return True
            return self._bound(stanza, since)
        except PeerFault as fault:
            self._bounce(stanza, fault.condition, fault.text, "modify")
        except (TrustFault, LocalFault) as fault:
            # the guard refused what a rule let through: it stays here
            text = f"not sent: {fault.text}"
            self._refuse(stanza, verdicts.Return("policy-violation", text))
        return True

    def _unbound(self, stanza: Stanza) -> None:
        if _BIND in stanza.children:
            self._session.uplink.entering.bind_requested(stanza.id or "")
        self._session.uplink.send_uncounted(guard.instruction(stanza))

    def _unlinked(self, stanza: Stanza) -> None:
        """A gate passes nothing of a device that is not the account's yet (14.12)."""
        if self._is_local(stanza) or self._is_session(stanza):
            return
        session = self._session
        ping = stanza.name == "iq" and stanza.children == (PING,)
        if ping or (stanza.name == "iq" and stanza.type in ("result", "error")):
            session.uplink.send_uncounted(guard.instruction(stanza))
        elif stanza.name == "presence":
            self._unlinked_presence(stanza)
        elif stanza.is_stanza:
            text = f"not sent: {outbound.not_linked(session.own.jid)}"
            self._refuse(stanza, verdicts.Return("not-authorized", text, LINK))

    def _unlinked_presence(self, stanza: Stanza) -> None:
        session = self._session
        if not stanza.to and stanza.type is None and not session.available:
            session.available = True
            session.show_notice(f"{outbound.not_linked(session.own.jid)}: {LINK}")

    def _bound(self, stanza: Stanza, since: int) -> bool:
        if self._is_local(stanza) or self._is_session(stanza):
            return True
        if stanza.ns == _CSI:
            self._session.uplink.nonza(guard.nonza(stanza))
        elif stanza.name == "message":
            return self._message(stanza, since)
        else:
            self._instruction(stanza)
        return True

    def _address_is_own(self, stanza: Stanza) -> bool:
        """ID-09: a client speaks for itself only."""
        jid = self._session.jid
        if stanza.from_ is None or jid is None:
            return True
        try:
            return Jid.parse(stanza.from_) in (jid, jid.bare)
        except PeerFault:
            return False

    def _is_local(self, stanza: Stanza) -> bool:
        """What is addressed to Tillie itself stays here."""
        if not stanza.to or Jid.parse(stanza.to).domain != LOCAL_DOMAIN:
            return False
        if stanza.name == "iq" and stanza.type in ("get", "set"):
            text = "nothing is asked here"
            self._bounce(stanza, "service-unavailable", text, "cancel")
        elif stanza.name == "message" and stanza.type != "error":
            self._session.show_notice(
                "Tillie takes no words here yet; use its command line."
            )
        return True

    def _is_session(self, stanza: Stanza) -> bool:
        """RFC 3921, 3, gone from RFC 6121: old clients ask unasked and give up on
        an error, and a bound stream needs no more, so it is granted here."""
        if stanza.type != "set" or _SESSION not in stanza.children:
            return False
        reply = Element("{jabber:client}iq", {"type": "result", "id": stanza.id or ""})
        self._session.to_client(tree.serialise(reply))
        return True

    # -- presence and iq ------

    def _instruction(self, stanza: Stanza) -> None:
        if stanza.name == "iq" and guard.needs_permit(stanza):
            if stanza.type in ("get", "set"):
                self._content_query(stanza)
            else:
                self._not_answered(stanza)
            return
        self._session.uplink.instructed(stanza)
        repeats = self._session.repeats
        if repeats is not None and stanza.type in ("get", "set"):
            repeats.asked(stanza.id or "")
        if stanza.name == "presence" and not stanza.to:
            self._session.own.catch_up.presence(self._session, stanza)
            if stanza.type is None:
                self._session.now_available()

    def _content_query(self, stanza: Stanza) -> None:
        """Files and calls are not sealed yet: by permit only (ENC-03)."""
        account = self._session.own
        peer = str(Jid.parse(stanza.to).bare) if stanza.to else account.jid
        if account.contacts.policy(peer) != "clear":
            text = "not sent: files and calls are not sealed yet"
            hint = f"to allow them unencrypted: tillie allow {peer}"
            self._refuse(stanza, verdicts.Return("policy-violation", text, hint))
            return
        try:
            permit = account.contacts.permit(peer)
        except TrustFault as fault:
            text = f"not sent: files and calls are not sealed yet, and {fault.text}"
            self._refuse(stanza, verdicts.Return(fault.condition, text))
            return
        # sent again after a cut it would need another permit
        self._session.uplink.send(
            guard.permitted(stanza, permit), kept=False, clear_to=peer
        )

    def _not_answered(self, stanza: Stanza) -> None:
        """A result that would carry content: the asker gets an error instead."""
        reply = Element("{jabber:client}iq", {"type": "error", "id": stanza.id or ""})
        if stanza.to:
            reply.set("to", stanza.to)
        error = SubElement(reply, "{jabber:client}error", {"type": "cancel"})
        SubElement(error, "{urn:ietf:params:xml:ns:xmpp-stanzas}not-acceptable")
        self._session.uplink.send(guard.own_query(reply), kept=False)

    # -- messages ------

    def _message(self, stanza: Stanza, since: int) -> bool:
        session, account = self._session, self._session.own
        if session.repeats is not None and session.repeats.known(stanza):
            return True
        verdict = outbound.decide(account, stanza, since)
        late = session.house.clock() - since >= HOLD
        match verdict:
            case verdicts.Go():
                self._go(stanza, verdict)
            case verdicts.Return():
                self._refuse(stanza, verdict)
            case verdicts.LookUp(jid=jid) if late:
                self._too_late(stanza, f"the keys of {jid} did not come in time")
            case verdicts.Wait(text=text) if late:
                self._too_late(stanza, text)
            case verdicts.LookUp(jid=jid):
                if not account.looking_up(jid):
                    account.look_up(session, jid, session.pump)
                return False
            case verdicts.Wait():
                return False
        return True

    def _go(self, stanza: Stanza, verdict: verdicts.Go) -> None:
        session = self._session
        for cleared in verdict.stanzas:
            session.uplink.send(cleared, kept=verdict.kept, clear_to=verdict.clear_to)
        if verdict.kept and session.repeats is not None:
            session.repeats.sent(stanza, session.house.clock())

    def _too_late(self, stanza: Stanza, text: str) -> None:
        verdict = verdicts.Return("remote-server-timeout", f"not sent: {text}")
        self._refuse(stanza, verdict)

    def _refuse(self, stanza: Stanza, verdict: verdicts.Return) -> None:
        text = f"{verdict.text} ({verdict.hint})" if verdict.hint else verdict.text
        self._bounce(stanza, verdict.condition, text, "auth")
        if stanza.name == "message":
            account = self._session.own
            account.notice(stanza.to or account.jid, text)

    def _bounce(self, stanza: Stanza, condition: str, text: str, kind: str) -> None:
        """Back to the client; never for errors, results and nonzas."""
        if stanza.type in ("error", "result") or not stanza.is_stanza:
            return
        jid = self._session.jid
        own = str(jid.bare) if jid is not None else None
        reply = error_reply(stanza, condition, text, kind=kind, from_=stanza.to or own)
        if jid is not None:
            reply.set("to", str(jid))
        self._session.to_client(tree.serialise(reply))


def _size(stanza: Stanza) -> int:
    return len(stanza.raw or b"") or 1_000
