"""The directory of one domain: what the component ``keys.DOMAIN`` answers (clause 16).

Stanzas in, effects back.  A look-up is answered from the registry and from what
the domain's key signs (``gate.lookups``); nobody else is ever asked because of
one (DIR-07), and whether somebody is online is not known here at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from ..errors import Fault, PeerFault
from ..wire.framing import COMPONENT_NS
from ..wire.jid import Jid
from ..wire.stanza import Stanza, error_reply
from .lookups import KEY, Effects, Lookups, Reply, Shown, server_element
from .rates import Rate

DISCO_INFO: Final = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS: Final = "http://jabber.org/protocol/disco#items"
PING: Final = "urn:xmpp:ping"

A_MINUTE: Final = 60
"""Questions of one address in a minute."""
A_MINUTE_OF_A_DOMAIN: Final = 600
A_MINUTE_IN_ALL: Final = 30_000
"""Of all other domains together: what a flood of domains may cost."""
MOST_OPEN: Final = 2_000
"""Look-ups without an answer yet."""
_ADDRESSES_KEPT: Final = 10_000
_DOMAINS_KEPT: Final = 2_000

_INFO: Final = f"{{{DISCO_INFO}}}query"
_ITEMS: Final = f"{{{DISCO_ITEMS}}}query"
_TOO_MANY: Final = "too many questions: ask again in a minute"


class Directory:
    """See the module.

    :param domain: whose accounts are answered for.
    :param address: of the component.
    :param shown: what the domain's key is now; raises EnvFault without one.
    :param clock: Unix milliseconds.
    :param siblings: other domains of this gate, which are nobody's components.
    """

    def __init__(
        self,
        domain: str,
        address: str,
        shown: Callable[[], Shown],
        clock: Callable[[], int],
        *,
        siblings: frozenset[str] = frozenset(),
    ) -> None:
        self.domain = domain
        self.address = address
        self._shown = shown
        self._clock = clock
        self._siblings = siblings
        self._lookups = Lookups(shown, clock)
        self._addresses = Rate(A_MINUTE, _ADDRESSES_KEPT)
        self._domains = Rate(A_MINUTE_OF_A_DOMAIN, _DOMAINS_KEPT)
        self._all = Rate(A_MINUTE_IN_ALL, 1)
        self._open = 0
        self.answered = 0
        self.refused = 0

    def received(self, stanza: Stanza) -> Effects:
        """Answer what came in.  Presence, errors and results have no answer."""
        try:
            asker = Jid.parse(stanza.from_ or "")
            to = Jid.parse(stanza.to or "")
        except PeerFault:
            return []
        if stanza.name == "presence" or stanza.type in ("error", "result"):
            return []
        if not self._allows(asker):
            self.refused += 1
            return _no(stanza, "resource-constraint", _TOO_MANY, kind="wait")
        if stanza.name == "message" or str(to) != self.address:
            return _no(stanza, "service-unavailable")
        return self._asked(stanza)

    def _allows(self, asker: Jid) -> bool:
        """The own domain's people are no strangers, yet each has their own limit."""
        now = self._clock()
        if asker.domain != self.domain and not (
            self._domains.allows(asker.domain, now) and self._all.allows("", now)
        ):
            return False
        return self._addresses.allows(str(asker.bare), now)

    def _asked(self, stanza: Stanza) -> Effects:
        if len(stanza.children) != 1 or stanza.type not in ("get", "set"):
            return _no(stanza, "bad-request", kind="modify")
        payload = stanza.tree()[0]
        match (stanza.type, payload.tag):
            case ("get", "{urn:x-tillie:key:0}lookup"):
                return self._look_up(stanza, payload)
            case ("get", "{http://jabber.org/protocol/disco#info}query"):
                return self._info(stanza, payload)
            case ("get", "{http://jabber.org/protocol/disco#items}query"):
                # who has an account here is nobody's to list
                return _described(stanza, payload, Element(_ITEMS))
            case ("get", "{urn:xmpp:ping}ping"):
                return [Reply(_result(stanza))]
        return _no(stanza, "service-unavailable")

    def _info(self, stanza: Stanza, payload: Element) -> Effects:
        query = Element(_INFO)
        identity = {"category": "directory", "type": "user", "name": "Keys"}
        SubElement(query, f"{{{DISCO_INFO}}}identity", identity)
        for feature in (DISCO_INFO, DISCO_ITEMS, KEY, PING):
            SubElement(query, f"{{{DISCO_INFO}}}feature", {"var": feature})
        return _described(stanza, payload, query)

    # -- look-ups -----------------------------------------------------------

    def _look_up(self, stanza: Stanza, payload: Element) -> Effects:
        try:
            jid = Jid.parse(payload.get("jid", ""))
        except PeerFault as fault:
            return _no(stanza, "jid-malformed", fault.text, kind="modify")
        if jid.resource:
            return _no(stanza, "bad-request", "keys are of accounts", kind="modify")
        if jid.domain != self.domain or not jid.local:
            return self._entity(stanza, jid)
        if self._open >= MOST_OPEN:
            self.refused += 1
            return _no(stanza, "resource-constraint", _TOO_MANY, kind="wait")
        self._open += 1

        def told(answer: Element | Fault) -> Effects:
            self._open -= 1
            return self._tell(stanza, answer)

        return self._lookups.of(str(jid), told)

    def _entity(self, stanza: Stanza, jid: Jid) -> Effects:
        """The domain itself, and what lies below it and is no domain of its own."""
        below = jid.domain.endswith(f".{self.domain}")
        own = jid.domain == self.domain or (below and jid.domain not in self._siblings)
        if jid.local or not own:
            text = f"this directory answers for accounts of {self.domain} alone"
            return _no(stanza, "not-allowed", text)
        return self._tell(stanza, Element(f"{{{KEY}}}record"))

    def _tell(self, stanza: Stanza, answer: Element | Fault) -> Effects:
        try:
            if isinstance(answer, Fault):
                raise answer
            answer.append(server_element(self._shown()))
        except Fault:
            # the operator's log has the reason; a stranger needs none
            text = "the directory cannot answer now: ask again later"
            return _no(stanza, "internal-server-error", text, kind="wait")
        self.answered += 1
        return [Reply(_result(stanza, answer))]


def _described(stanza: Stanza, payload: Element, answer: Element) -> Effects:
    """Service discovery of the component itself, which has no nodes (XEP-0030)."""
    if payload.get("node"):
        return _no(stanza, "item-not-found")
    return [Reply(_result(stanza, answer))]


def _result(stanza: Stanza, payload: Element | None = None) -> Element:
    reply = Element(f"{{{COMPONENT_NS}}}iq", {"type": "result"})
    for name, value in (("from", stanza.to), ("to", stanza.from_), ("id", stanza.id)):
        if value is not None:
            reply.set(name, value)
    if payload is not None:
        reply.append(payload)
    return reply


def _no(
    stanza: Stanza, condition: str, text: str = "", kind: str = "cancel"
) -> Effects:
    return [Reply(error_reply(stanza, condition, text, kind=kind))]
