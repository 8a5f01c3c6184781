"""Which of the server's features the client is shown behind login."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from .outbound import LARGEST_MESSAGE

_PASSED = frozenset(
    {
        "{urn:ietf:params:xml:ns:xmpp-bind}bind",
        "{urn:ietf:params:xml:ns:xmpp-session}session",
        "{urn:xmpp:features:rosterver}ver",
        "{urn:xmpp:features:pre-approval}sub",
        "{http://jabber.org/protocol/caps}c",
        "{urn:xmpp:csi:0}csi",
    }
)


def behind_login(features: list[Element]) -> list[Element]:
    """Those that concern the client, whole, and Tillie's own limits."""
    passed = [feature for feature in features if feature.tag in _PASSED]
    return [*passed, _limits()]


def _limits() -> Element:
    """What fits a seal (XEP-0478), which is less than what the server takes."""
    limits = Element("{urn:xmpp:stream-limits:0}limits")
    most = SubElement(limits, "{urn:xmpp:stream-limits:0}max-bytes")
    most.text = str(LARGEST_MESSAGE)
    return limits
