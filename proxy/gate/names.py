"""What a gate says: namespaces, answers and the words for people (clauses 14, 17)."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement

from ..core.streams import SASL, STANZA_CONDITIONS
from ..wire.restricted import XML_NS
from ..wire.stanza import Stanza, error_reply
from ..wire.tree import serialise

AUTH: Final = "urn:x-tillie:auth:0"
KEY: Final = "urn:x-tillie:key:0"
PREKEY: Final = "urn:x-tillie:prekey:0"
LANE: Final = "urn:x-tillie:lane:0"
ERRORS: Final = "urn:x-tillie:errors:0"

SASL2: Final = "urn:xmpp:sasl:2"
BIND: Final = "urn:ietf:params:xml:ns:xmpp-bind"
REGISTER: Final = "jabber:iq:register"
LEGACY_AUTH: Final = "jabber:iq:auth"
PING: Final = "urn:xmpp:ping"
PUBSUB: Final = "http://jabber.org/protocol/pubsub"
HINTS: Final = "urn:xmpp:hints"
FORM: Final = "jabber:x:data"

NO_KEY: Final = (
    "This server lets nobody in without a key. Run Tillie on this computer and"
    " connect through it (127.0.0.1, port 5222): account and password stay the same."
)
OTHER_DEVICE: Final = (
    "The account has keys, and this device is not, or no longer, one of its devices."
    " Link it: tillie link."
)
TOO_MANY: Final = "Too many logins failed from this address; wait a minute."
BAD_PROOF: Final = "The key that was presented does not prove anything here and now."
CROWDED: Final = "Very many log in just now; try again in a minute."
LATER: Final = "The server cannot check keys just now; try again in a minute."
BACKEND_DOWN: Final = "The server behind the gate cannot be reached; try again later."
NO_SERVER: Final = "the server of {domain} cannot be reached where backend says"
NO_STREAM: Final = (
    "the server of {domain} takes no stream from the gate: ejabberd with the printed "
    'lines wants PROXY headers (proxy-protocol = "v2"), Prosody understands none'
)
BACKEND_GONE: Final = "The server behind the gate went away; connect again."
BACKEND_CLOSED: Final = (
    "the server offers no way to log in: on the port behind the gate it must not ask"
    " for TLS (c2s_require_encryption = false, or starttls_required off)"
)
LEGACY: Final = "This way of logging in (XEP-0078) is not served here; use SASL."
NOT_YET: Final = "Vouch for a key first; until then nothing else passes."


def sasl_failure(ns: str, condition: str, text: str) -> bytes:
    """``<failure/>`` of SASL (RFC 6120, 6.5) or, by *ns*, of SASL2 (XEP-0388)."""
    failure = Element(f"{{{ns}}}failure")
    SubElement(failure, f"{{{SASL}}}{condition}")
    said = SubElement(failure, f"{{{ns}}}text", {f"{{{XML_NS}}}lang": "en"})
    said.text = text
    return serialise(failure)


def refusal(
    stanza: Stanza,
    condition: str,
    text: str,
    application: str = "",
    *,
    kind: str = "auth",
    from_: str | None = None,
) -> bytes:
    """The error answer to *stanza*, with a condition of clause 17.3 in it."""
    reply = error_reply(stanza, condition, text, kind=kind, from_=from_)
    if application:
        reply[0].append(Element(f"{{{ERRORS}}}{application}"))
    return serialise(reply)


def managed_failure(ns: str, condition: str, application: str = "") -> bytes:
    """``<failed/>`` of XEP-0198."""
    failed = Element(f"{{{ns}}}failed")
    SubElement(failed, f"{{{STANZA_CONDITIONS}}}{condition}")
    if application:
        SubElement(failed, f"{{{ERRORS}}}{application}")
    return serialise(failed)


def bound(jid: str) -> bytes:
    """The address that SASL2 named, before its ``<success/>`` may be seen (14.8)."""
    return serialise(Element(f"{{{AUTH}}}bound", {"jid": jid}))


def verdict(name: str, **documents: str) -> bytes:
    """One of the gate's answers to ``<vouch/>`` (14.9)."""
    answer = Element(f"{{{AUTH}}}{name}")
    for part, document in documents.items():
        SubElement(answer, f"{{{AUTH}}}{part}").text = document
    return serialise(answer)


def vouched(token: str, reset: int) -> bytes:
    """``<vouched/>``; *reset* is when a reset is due (14.11), 0 for none."""
    answer = Element(f"{{{AUTH}}}vouched", {"reset": str(reset)} if reset else {})
    SubElement(answer, f"{{{AUTH}}}token").text = token
    return serialise(answer)
