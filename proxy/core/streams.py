"""What both legs say and read of a stream: names, header, conditions (RFC 6120)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PeerFault
from ..wire.tree import quoted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

STREAMS = "http://etherx.jabber.org/streams"
STREAM_CONDITIONS = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_CONDITIONS = "urn:ietf:params:xml:ns:xmpp-stanzas"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
BINDINGS = "urn:xmpp:sasl-cb:0"
MANAGEMENT = "urn:xmpp:sm:3"
COMPRESSION = "http://jabber.org/protocol/compress"
STATE_INDICATION = "urn:xmpp:csi:0"

END = b"</stream:stream>"

STREAM_ERRORS = frozenset(
    {
        "bad-format",
        "bad-namespace-prefix",
        "conflict",
        "connection-timeout",
        "host-gone",
        "host-unknown",
        "improper-addressing",
        "internal-server-error",
        "invalid-from",
        "invalid-namespace",
        "invalid-xml",
        "not-authorized",
        "not-well-formed",
        "policy-violation",
        "remote-connection-failed",
        "reset",
        "resource-constraint",
        "restricted-xml",
        "see-other-host",
        "system-shutdown",
        "undefined-condition",
        "unsupported-encoding",
        "unsupported-feature",
        "unsupported-stanza-type",
        "unsupported-version",
    }
)
"""The defined conditions of RFC 6120, 4.9.3."""

SASL_ERRORS = frozenset(
    {
        "aborted",
        "account-disabled",
        "credentials-expired",
        "encryption-required",
        "incorrect-encoding",
        "invalid-authzid",
        "invalid-mechanism",
        "malformed-request",
        "mechanism-too-weak",
        "not-authorized",
        "temporary-auth-failure",
    }
)
"""The defined conditions of RFC 6120, 6.5."""

_SHOWN = 300


def header(
    *,
    to: str | None = None,
    from_: str | None = None,
    stream_id: str | None = None,
    lang: str | None = None,
) -> bytes:
    """Give the XML declaration and the opening tag of a stream (RFC 6120, 4.7)."""
    given = {"from": from_, "to": to, "id": stream_id}
    attributes = "".join(
        f" {name}='{quoted(value)}'"
        for name, value in given.items()
        if value is not None
    )
    return (
        "<?xml version='1.0'?>"
        f"<stream:stream xmlns='jabber:client' xmlns:stream='{STREAMS}'"
        f"{attributes} version='1.0' xml:lang='{quoted(lang or 'en')}'>"
    ).encode()


def speaks_xmpp(version: str | None) -> bool:
    """Tell whether a stream header's ``version`` is 1.0 or later (RFC 6120, 4.7.5)."""
    major, dot, minor = (version or "").partition(".")
    digits = f"{major}{minor}"
    known = bool(dot and major and minor) and digits.isascii() and digits.isdigit()
    return known and len(digits) < 9 and int(major) >= 1


def stream_condition(condition: str) -> str:
    """Give *condition* if a stream error may carry it, else the undefined one."""
    return condition if condition in STREAM_ERRORS else "undefined-condition"


def sasl_condition(condition: str) -> str:
    """Give *condition* if a SASL failure may carry it, else the temporary one.

    The temporary one is the only condition that does not blame the password.
    """
    return condition if condition in SASL_ERRORS else "temporary-auth-failure"


def read_error(element: Element, ns: str) -> tuple[str, str, str]:
    """Read ``<stream:error/>`` or ``<failure/>``: (condition, its content, text).

    :param ns: the namespace of the condition and of ``<text/>``.  Absent parts
        are empty; what is there is cut and on one line, so that it can be shown.
    """
    condition = content = text = ""
    prefix = f"{{{ns}}}"
    for child in element:
        name = child.tag.removeprefix(prefix)
        if name == child.tag:
            continue
        if name == "text":
            text = shown(child.text or "")
        elif not condition:
            condition, content = shown(name), shown(child.text or "")
    return condition, content, text


def shown(text: str, most: int = _SHOWN) -> str:
    """Make text of the far side fit for a sentence of ours: one short, printable line.

    Escape sequences and line breaks could otherwise forge output of ours.

    :param most: characters that are kept.
    """
    line = " ".join(text[: 4 * most].split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)[:most]


def out_of_order(who: str, name: str) -> PeerFault:
    """The fault of an element ``<name/>`` that has no place in the login."""
    return PeerFault(
        f"{who} sent <{shown(name)}/> out of order during login",
        condition="not-authorized",
    )
