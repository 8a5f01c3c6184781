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
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from .delegation import Asked, advertised, form, handed_on, nested
from .lookups import KEY, Effects, Lookups, Reply, Shown, fit, server_element
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

_LOOKUP: Final = f"{{{KEY}}}lookup"
_INFO: Final = f"{{{DISCO_INFO}}}query"
_ITEMS: Final = f"{{{DISCO_ITEMS}}}query"


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
        if str(asker) == self.domain and self._by_server(stanza):
            return self._of_server(stanza)
        asked = Asked(stanza)
        if not self._allows(asker):
            return self._too_many(asked)
        if stanza.name == "message" or str(to) != self.address:
            return _no(asked, "service-unavailable")
        return self._asked(asked)

    def _allows(self, asker: Jid) -> bool:
        """The own domain's people are no strangers, yet each has their own limit."""
        now = self._clock()
        if asker.domain != self.domain and not (
            self._domains.allows(asker.domain, now) and self._all.allows("", now)
        ):
            return False
        return self._addresses.allows(str(asker.bare), now)

    def _too_many(self, asked: Asked) -> Effects:
        self.refused += 1
        text = "too many questions: ask again in a minute"
        return _no(asked, "resource-constraint", text, kind="wait")

    def _asked(self, asked: Asked) -> Effects:
        stanza = asked.stanza
        if len(stanza.children) != 1 or stanza.type not in ("get", "set"):
            return _no(asked, "bad-request", kind="modify")
        payload = stanza.tree()[0]
        match (stanza.type, payload.tag):
            case ("get", "{urn:x-tillie:key:0}lookup"):
                return self._look_up(asked, payload.get("jid", ""))
            case ("get", "{http://jabber.org/protocol/disco#info}query"):
                return self._info(asked, payload)
            case ("get", "{http://jabber.org/protocol/disco#items}query"):
                # who has an account here is nobody's to list
                return _described(asked, payload, Element(_ITEMS))
            case ("get", "{urn:xmpp:ping}ping"):
                return [Reply(asked.result())]
        return _no(asked, "service-unavailable")

    # -- what the own server hands on, or asks for itself (XEP-0355) ----------

    def _by_server(self, stanza: Stanza) -> bool:
        return (
            advertised(stanza)
            or handed_on(stanza) is not None
            or _nesting(stanza) != ""
        )

    def _of_server(self, stanza: Stanza) -> Effects:
        asked = handed_on(stanza)
        if asked is not None:
            return self._handed(asked)
        return [] if stanza.name == "message" else self._nest(Asked(stanza))

    def _handed(self, asked: Asked) -> Effects:
        """A look-up at a bare JID is about that JID, whoever sends it there."""
        question = asked.stanza
        try:
            asker = Jid.parse(question.from_ or "")
            to = Jid.parse(question.to or self.domain)
        except PeerFault:
            return _no(asked, "bad-request", kind="modify")
        if not self._allows(asker):
            return self._too_many(asked)
        if question.children != (_LOOKUP,) or question.type != "get":
            return _no(asked, "service-unavailable")
        jid = question.tree()[0].get("jid", str(to))
        try:
            same = Jid.parse(jid) == to
        except PeerFault:
            same = False
        if not same:
            return _no(asked, "bad-request", kind="modify")
        return self._look_up(asked, jid)

    def _nest(self, asked: Asked) -> Effects:
        """What the server shows in its own discovery: the same for all accounts."""
        query = Element(_INFO, {"node": asked.stanza.tree()[0].get("node", "")})
        if _nesting(asked.stanza) == "bare":
            SubElement(query, f"{{{DISCO_INFO}}}feature", {"var": KEY})
            query.append(form(KEY, directory=self.address))
        return [Reply(asked.result(query))]

    # -- what the component is ------------------------------------------------

    def _info(self, asked: Asked, payload: Element) -> Effects:
        query = Element(_INFO)
        identity = {"category": "directory", "type": "user", "name": "Keys"}
        SubElement(query, f"{{{DISCO_INFO}}}identity", identity)
        for feature in (DISCO_INFO, DISCO_ITEMS, KEY, PING):
            SubElement(query, f"{{{DISCO_INFO}}}feature", {"var": feature})
        return _described(asked, payload, query)

    # -- look-ups -----------------------------------------------------------

    def _look_up(self, asked: Asked, text: str) -> Effects:
        try:
            jid = Jid.parse(text)
        except PeerFault as fault:
            return _no(asked, "jid-malformed", fault.text, kind="modify")
        if jid.resource:
            return _no(asked, "bad-request", "keys are of accounts", kind="modify")
        if jid.domain != self.domain or not jid.local:
            return self._entity(asked, jid)
        if self._open >= MOST_OPEN:
            return self._too_many(asked)
        self._open += 1

        def told(answer: Element | Fault) -> Effects:
            self._open -= 1
            return self._tell(asked, answer)

        return self._lookups.of(str(jid), told)

    def _entity(self, asked: Asked, jid: Jid) -> Effects:
        """The domain itself, and what lies below it and is no domain of its own."""
        below = jid.domain.endswith(f".{self.domain}")
        own = jid.domain == self.domain or (below and jid.domain not in self._siblings)
        if jid.local or not own:
            text = f"this directory answers for accounts of {self.domain} alone"
            return _no(asked, "not-allowed", text)
        return self._tell(asked, Element(f"{{{KEY}}}record"))

    def _tell(self, asked: Asked, answer: Element | Fault) -> Effects:
        try:
            if isinstance(answer, Fault):
                raise answer
            answer.append(server_element(self._shown()))
            fit(answer)
        except Fault:
            # the operator's log has the reason; a stranger needs none
            text = "the directory cannot answer now: ask again later"
            return _no(asked, "internal-server-error", text, kind="wait")
        self.answered += 1
        return [Reply(asked.result(answer))]


def _described(asked: Asked, payload: Element, answer: Element) -> Effects:
    """Service discovery of the component itself, which has no nodes (XEP-0030)."""
    if payload.get("node"):
        return _no(asked, "item-not-found")
    return [Reply(asked.result(answer))]


def _nesting(stanza: Stanza) -> str:
    """For whom a server asks what to show in its discovery; empty for no such IQ."""
    if stanza.children != (_INFO,) or stanza.type != "get":
        return ""
    return nested(stanza.tree()[0].get("node", ""), KEY)


def _no(asked: Asked, condition: str, text: str = "", kind: str = "cancel") -> Effects:
    return [Reply(asked.error(condition, text, kind))]
