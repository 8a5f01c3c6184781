"""What is known of domains' keys: one pin each, for all accounts here (13.4).

A domain has one key, whoever asks; what one account learned holds for the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element, SubElement

from ..keys.servers import (
    MOST_ROLLOVERS,
    Pin,
    ServerDocument,
    Source,
    Verdict,
    judge,
    open_server,
)
from ..keys.store import Store
from ..wire.jid import Jid

KEY = "urn:x-tillie:key:0"
SHELF = "server"
_EVERYBODY = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a ``<server/>`` holds, not verified: JWS as text (13.3)."""

    document: str
    rollovers: tuple[str, ...] = ()

    @classmethod
    def read(cls, element: Element | None) -> Shown | None:
        """None where there is none, or none of that form."""
        document = None if element is None else element.findtext(f"{{{KEY}}}document")
        if element is None or not document:
            return None
        rollovers = [one.text or "" for one in element.findall(f"{{{KEY}}}rollover")]
        return cls(document, tuple(rollovers[:MOST_ROLLOVERS]))

    def write(self) -> Element:
        """The ``<server/>``."""
        element = Element(f"{{{KEY}}}server")
        SubElement(element, f"{{{KEY}}}document").text = self.document
        for rollover in self.rollovers:
            SubElement(element, f"{{{KEY}}}rollover").text = rollover
        return element


class Servers:
    """The pins of domains, in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache: dict[str, Pin] = {}

    def forget_caches(self) -> None:
        """The last transaction was rolled back."""
        self._cache.clear()

    def pin(self, domain: str) -> Pin | None:
        """:raises StoreFault: the record cannot be read."""
        found = self._cache.get(domain)
        if found is None:
            data = self._store.get(SHELF, _EVERYBODY, domain)
            if data is None:
                return None
            found = self._cache[domain] = _unpack(data, domain)
        return found

    def gated(self, domain: str) -> bool:
        """Whether nobody logs in at *domain* without its gate's proof."""
        pin = self.pin(domain)
        return pin is not None and pin.gated

    def voucher(self, jid: str) -> bytes:
        """Fingerprint of the key whose word on *jid* counts, empty for none."""
        pin = self.pin(Jid.parse(jid).domain)
        return b"" if pin is None else pin.held.keys.fingerprint

    def judge(
        self,
        offered: ServerDocument,
        rollovers: Sequence[bytes],
        now: int,
        source: Source,
    ) -> Verdict:
        """Judge a verified document and keep what follows for its domain's pin.

        :raises TrustFault: it is out of date.
        """
        pin = self.pin(offered.domain)
        verdict = judge(pin, offered, rollovers, now, source)
        if verdict.pin != pin:
            self._keep(verdict.pin)
        return verdict

    def learn(self, domain: str, shown: Shown, now: int, source: Source) -> Verdict:
        """Verify and judge what stands in a ``<server/>``.

        :raises PeerFault: the form is wrong.
        :raises TrustFault: a signature is not valid, or it is out of date.
        """
        offered = open_server(shown.document.encode(), domain)
        return self.judge(
            offered, [one.encode() for one in shown.rollovers], now, source
        )

    def proved(self, domain: str) -> None:
        """The holder of the pinned key proved it at a login: whatever else was shown
        in its name since is past."""
        pin = self.pin(domain)
        if pin is not None and (pin.alarm or pin.source != "stream"):
            self._keep(replace(pin, alarm="", source="stream"))

    def forget(self, domain: str) -> bool:
        """A person's word: the next key of *domain* is taken as a first one."""
        known = self.pin(domain) is not None
        self._store.delete(SHELF, _EVERYBODY, domain)
        self._cache.pop(domain, None)
        return known

    def _keep(self, pin: Pin) -> None:
        self._store.put(SHELF, _EVERYBODY, pin.held.domain, _pack(pin))
        self._cache[pin.held.domain] = pin


def _pack(pin: Pin) -> bytes:
    record = [pin.held.document, pin.since, pin.alarm, pin.source]
    return json.dumps(record).encode()


def _unpack(data: bytes, domain: str) -> Pin:
    document, since, alarm, source = json.loads(data)
    return Pin(open_server(document.encode(), domain), since, alarm, source)
