"""Roads around a gate: what is said at a port, and whether the server answers it.

A server that hands out its login there is a road in.  BOSH is XEP-0206 over
XEP-0124, WebSocket RFC 7395.
"""

from __future__ import annotations

import struct
from typing import Final

from ..core.streams import SASL, STREAMS
from ..suites.entropy import token
from ..suites.fields import b64
from ..wire.restricted import CLIENT_NS
from ..wire.tree import quoted
from .names import AUTH, SASL2

BOSH_PATHS: Final = ("/http-bind", "/bosh")
WEBSOCKET_PATHS: Final = ("/xmpp-websocket", "/ws")
_BOSH: Final = "http://jabber.org/protocol/httpbind"
_FRAMING: Final = "urn:ietf:params:xml:ns:xmpp-framing"
_ROADS: Final = (SASL.encode(), SASL2.encode(), b"urn:ietf:params:xml:ns:xmpp-tls")


def stream(domain: str) -> bytes:
    """The header of a client's stream."""
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT_NS}'"
        f" xmlns:stream='{STREAMS}' to='{quoted(domain)}' version='1.0'>"
    ).encode()


def page(path: str, host: str) -> bytes:
    """A request for a page."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    ).encode()


def bosh(path: str, domain: str, host: str = "") -> bytes:
    """A request for a BOSH session (XEP-0124, 7.1); *host* if not the domain's."""
    body = (
        f"<body xmlns='{_BOSH}' content='text/xml; charset=utf-8' hold='1' wait='5'"
        f" rid='1573741820' to='{quoted(domain)}' ver='1.6' xml:lang='en'"
        " xmpp:version='1.0' xmlns:xmpp='urn:xmpp:xbosh'/>"
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host or domain}\r\nConnection: close\r\n"
        f"Content-Type: text/xml; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def websocket(path: str, domain: str, host: str = "") -> bytes:
    """The opening handshake of a WebSocket for XMPP (RFC 6455, 4.1; RFC 7395, 3.1)."""
    key = b64(token(16))
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host or domain}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
    ).encode()


def opening(domain: str) -> bytes:
    """``<open/>`` in one masked text frame (RFC 6455, 5.2; RFC 7395, 3.4)."""
    text = f"<open xmlns='{_FRAMING}' to='{quoted(domain)}' version='1.0'/>".encode()
    mask = token(4)
    masked = bytes(one ^ mask[at % 4] for at, one in enumerate(text))
    if len(text) < 126:
        return bytes([0x81, 0x80 | len(text)]) + mask + masked
    return bytes([0x81, 0x80 | 126]) + struct.pack(">H", len(text)) + mask + masked


def upgraded(answer: bytes) -> bool:
    """Whether the WebSocket is open (RFC 6455, 4.2.2)."""
    return answer.split(b"\r\n", 1)[0].split(b" ")[1:2] == [b"101"]


def is_gate(answer: bytes) -> bool:
    """Whether these are a gate's features."""
    return AUTH.encode() in answer


def lets_in(answer: bytes) -> bool:
    """Whether somebody offers a login (or TLS before it) and does not ask for a key.

    By namespace: in what order, under which prefix and in which frame it comes is
    different on every road.
    """
    return any(one in answer for one in _ROADS) and not is_gate(answer)
