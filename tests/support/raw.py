"""A client of plain sockets, for tests that need to know every byte."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, cast
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

CLIENT = "jabber:client"
STREAM = "http://etherx.jabber.org/streams"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
BIND = "urn:ietf:params:xml:ns:xmpp-bind"
PING = "urn:xmpp:ping"
BODY = f"{{{CLIENT}}}body"

Matches = Callable[[Element], bool]


class StreamEndedError(AssertionError):
    """The other side closed the stream or the connection."""


class RefusedError(AssertionError):
    """Login was refused; the text is the failure element as received."""


class RawClient:
    """One XMPP client connection, blocking, each wait with a deadline.

    `received` keeps every byte that arrived and `sent` every byte that left,
    both as after TLS. Not for use from several threads.
    """

    def __init__(
        self,
        port: int,
        domain: str,
        *,
        host: str = "127.0.0.1",
        seconds: float = 10,
        source: str = "",
    ) -> None:
        self.domain = domain
        self.seconds = seconds
        self.jid = ""
        self.sent = b""
        self.received = b""
        self.header: Element | None = None
        self.stanzas: list[Element] = []
        self._ready: list[Element] = []
        self._ended = False
        self._count = 0
        self._socket: socket.socket = socket.create_connection(
            (host, port), seconds, (source, 0) if source else None
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._new_parser()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def login(
        self,
        jid: str,
        password: str,
        *,
        resource: str = "raw",
        tls: ssl.SSLContext | None = None,
        direct: bool = False,
        presence: bool = True,
    ) -> RawClient:
        """Open the stream, authenticate with PLAIN, bind, send presence.

        `tls` upgrades by STARTTLS, or before the first byte when `direct`.
        Raises RefusedError with the server's words.
        """
        self.start_over(jid, password, tls, direct=direct)
        self.bind(resource)
        if presence:
            self.send("<presence/>")
        return self

    def start_over(
        self,
        jid: str,
        password: str,
        tls: ssl.SSLContext | None = None,
        *,
        direct: bool = False,
    ) -> Element:
        """Log in up to where a resource is bound or a session resumed.

        Returns the features offered there. Raises RefusedError.
        """
        if tls is not None and direct:
            self.start_tls(tls)
        self.open_stream()
        if tls is not None and not direct:
            self.send(f"<starttls xmlns='{TLS}'/>")
            self.expect(f"{{{TLS}}}proceed")
            self.start_tls(tls)
            self.open_stream()
        self.authenticate(jid, password)
        return self.open_stream()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Put TLS on the connection; the name that is checked is the domain."""
        self._socket = context.wrap_socket(self._socket, server_hostname=self.domain)

    def open_stream(self, header: str = "") -> Element:
        """Send a stream header and return the features that answer it."""
        self._new_parser()
        self.send(
            header
            or f"<?xml version='1.0'?><stream:stream to='{self.domain}' version='1.0'"
            f" xmlns='{CLIENT}' xmlns:stream='{STREAM}'>"
        )
        return self.expect(f"{{{STREAM}}}features")

    def authenticate(self, jid: str, password: str) -> None:
        """SASL PLAIN (RFC 4616) with the local part as user name."""
        local = jid.partition("@")[0]
        secret = base64.b64encode(f"\0{local}\0{password}".encode()).decode()
        self.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>")
        answer = self.read()
        if answer.tag != f"{{{SASL}}}success":
            raise RefusedError(ElementTree.tostring(answer, encoding="unicode"))

    def bind(self, resource: str = "") -> str:
        """Bind a resource (RFC 6120, 7) and return the full JID."""
        wanted = f"<resource>{resource}</resource>" if resource else ""
        answer = self.ask("set", f"<bind xmlns='{BIND}'>{wanted}</bind>")
        self.jid = answer.findtext(f"{{{BIND}}}bind/{{{BIND}}}jid") or ""
        return self.jid

    def send(self, data: str | bytes) -> None:
        """Send bytes as they are, well-formed or not."""
        raw = data.encode() if isinstance(data, str) else data
        self.sent += raw
        self._socket.sendall(raw)

    def say(self, to: str, body: str, *, ident: str = "", kind: str = "chat") -> str:
        """Send a message with a body and return its id."""
        ident = ident or self.next_id()
        self.send(
            f"<message to='{to}' type='{kind}' id='{ident}'>"
            f"<body>{_escape(body)}</body></message>"
        )
        return ident

    def ask(
        self, kind: str, payload: str, *, to: str = "", seconds: float | None = None
    ) -> Element:
        """Send an iq and return its result or error; other stanzas are kept."""
        ident = self.next_id()
        address = f" to='{to}'" if to else ""
        self.send(f"<iq type='{kind}' id='{ident}'{address}>{payload}</iq>")
        return self.wait_for(
            lambda one: (
                one.tag == f"{{{CLIENT}}}iq"
                and one.get("id") == ident
                and one.get("type") in ("result", "error")
            ),
            seconds=seconds,
        )

    def ping(self, *, seconds: float | None = None) -> Element:
        """Ping the server: what was sent before is accepted when this returns."""
        return self.ask("get", f"<ping xmlns='{PING}'/>", seconds=seconds)

    def read(self, *, seconds: float | None = None) -> Element:
        """Return the next stanza, kept ones first.

        Raises TimeoutError, or StreamEndedError when no stanza can come any more.
        """
        return self.wait_for(lambda _: True, seconds=seconds)

    def expect(self, tag: str, *, seconds: float | None = None) -> Element:
        """Return the next stanza, which must have this tag ({namespace}name)."""
        found = self.read(seconds=seconds)
        text = ElementTree.tostring(found, encoding="unicode")
        assert found.tag == tag, f"expected {tag}, got {text}"
        return found

    def wait_for(self, matches: Matches, *, seconds: float | None = None) -> Element:
        """Return the first stanza that matches; those before it are kept."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        seen = 0
        while True:
            for at in range(seen, len(self._ready)):
                if matches(self._ready[at]):
                    return self._ready.pop(at)
            seen = len(self._ready)
            if self._ended or self._at_end:
                raise StreamEndedError(self._tail())
            self._receive(deadline)

    def message(self, text: str = "", *, seconds: float | None = None) -> Element:
        """Return the next message whose body contains `text`."""
        return self.wait_for(
            lambda one: (
                one.tag == f"{{{CLIENT}}}message"
                and one.find(BODY) is not None
                and text in (one.findtext(BODY) or "")
            ),
            seconds=seconds,
        )

    def messages(self) -> list[Element]:
        """Return all messages with a body received so far, read or not."""
        return [
            one
            for one in self.stanzas
            if one.tag == f"{{{CLIENT}}}message" and one.find(BODY) is not None
        ]

    def wait_closed(self, *, seconds: float | None = None) -> bytes:
        """Read until the other side closes; return everything received."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        while not self._at_end:
            try:
                self._receive(deadline)
            except StreamEndedError:
                break
        return self.received

    def next_id(self) -> str:
        self._count += 1
        return f"raw-{self._count}"

    def close(self) -> None:
        """Close the stream politely, then the connection."""
        if not self._at_end:
            self.send("</stream:stream>")
            with contextlib.suppress(TimeoutError, OSError):
                self.wait_closed(seconds=5)
        self.abort()

    def abort(self) -> None:
        """Drop the connection without closing the stream."""
        self._at_end = True
        self._socket.close()

    def reset(self) -> None:
        """Drop the connection with a TCP reset: unread bytes are thrown away."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.abort()

    def _new_parser(self) -> None:
        self._parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(
            ["start", "end"]
        )
        self._path: list[Element] = []
        self._at_end = False
        self._ended = False

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            kept = [ElementTree.tostring(one)[:200] for one in self._ready[-5:]]
            raise TimeoutError(f"no such stanza arrived in time; unread: {kept}")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            return
        except (ConnectionError, ssl.SSLError) as error:
            self._at_end = True
            raise StreamEndedError(str(error)) from error
        if not data:
            self._at_end = True
            raise StreamEndedError(self._tail())
        self.received += data
        self._parse(data)

    def _tail(self) -> str:
        return f"the other side ended the stream: {self.received[-2000:]!r}"

    def _parse(self, data: bytes) -> None:
        self._parser.feed(data)
        events = cast("Iterator[tuple[str, Element]]", self._parser.read_events())
        for event, element in events:
            if event == "start":
                self._path.append(element)
                if len(self._path) == 1:
                    self.header = element
                continue
            self._path.pop()
            if not self._path:
                self._ended = True
            elif len(self._path) == 1:
                self._path[0].remove(element)
                self.stanzas.append(element)
                self._ready.append(element)


def local_certificate(port: int, domain: str) -> str:
    """Return the certificate (PEM) that STARTTLS on this port presents, unchecked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with RawClient(port, domain) as client:
        client.open_stream()
        client.send(f"<starttls xmlns='{TLS}'/>")
        client.expect(f"{{{TLS}}}proceed")
        client.start_tls(context)
        assert isinstance(client._socket, ssl.SSLSocket)
        presented = client._socket.getpeercert(binary_form=True)
    assert presented is not None
    return ssl.DER_cert_to_PEM_cert(presented)


def text_of(element: Element, path: str = BODY) -> str:
    """Return the text of a child, by default of the body; empty if there is none."""
    return element.findtext(path) or ""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
