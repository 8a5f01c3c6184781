"""A scripted server behind a gate: no TLS, records every byte, errs on request."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass, field

from .waiting import until

SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
BIND = "urn:ietf:params:xml:ns:xmpp-bind"
DOOR = (
    f"<mechanisms xmlns='{SASL}'><mechanism>SCRAM-SHA-1</mechanism>"
    "<mechanism>PLAIN</mechanism></mechanisms>"
)
INSIDE = f"<bind xmlns='{BIND}'/><sm xmlns='{SM}'/>"


@dataclass
class Flaws:
    """What the server does wrong; empty for nothing.

    `door`: features before login, in place of good ones. `instead`: bytes sent in
    place of an answer to `<auth/>` (success, failure), to binding (bind) or to the
    header (header). `silent`: it answers nothing at all.
    """

    door: str = DOOR
    inside: str = INSIDE
    instead: dict[str, str] = field(default_factory=dict)
    silent: bool = False


@dataclass
class Conversation:
    """One connection: what came, and a way to send."""

    connection: socket.socket
    received: bytes = b""
    closed: bool = False

    def send(self, data: str | bytes) -> None:
        self.connection.sendall(data.encode() if isinstance(data, str) else data)

    def until(self, wanted: str | bytes, *, seconds: float = 10) -> bytes:
        """Wait until these bytes came; everything that came."""
        raw = wanted.encode() if isinstance(wanted, str) else wanted
        until(lambda: raw in self.received, f"{raw!r} at the server", seconds=seconds)
        return self.received

    def drop(self) -> None:
        """Cut the connection."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Recorder:
    """One server; `conversations` in the order in which they came.

    Every password is right, every resource is bound as `resource`.
    """

    def __init__(self, domain: str = "a.test", flaws: Flaws | None = None) -> None:
        self.domain = domain
        self.flaws = flaws or Flaws()
        self.conversations: list[Conversation] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def last(self) -> Conversation:
        return self.conversations[-1]

    def stop(self) -> None:
        # closing alone would not wake the thread that accepts
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self.conversations:
            one.drop()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one = Conversation(connection)
            self.conversations.append(one)
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: Conversation) -> None:
        answered = 0
        with contextlib.suppress(OSError):
            while data := one.connection.recv(65_536):
                one.received += data
                while not self.flaws.silent:
                    found = _ASKED.search(one.received, answered)
                    if found is None:
                        break
                    answered = found.end()
                    one.send(self._answer(found, one))
        one.closed = True

    def _answer(self, found: re.Match[bytes], one: Conversation) -> str:
        flaws = self.flaws
        if found["header"]:
            logged_in = one.received.count(b"<stream:stream") > 1
            features = flaws.inside if logged_in else flaws.door
            return flaws.instead.get("header") or (
                f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='s'"
                f" xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"
                f" from='{self.domain}'><stream:features>{features}</stream:features>"
            )
        if found["auth"]:
            return flaws.instead.get("auth") or f"<success xmlns='{SASL}'/>"
        if found["enable"]:
            return f"<enabled xmlns='{SM}' id='sm-{len(self.conversations)}' resume='true'/>"
        if found["ping"]:
            return f"<iq type='result' id='{found['ping'].decode()}'/>"
        ident, wanted = found["bind"].decode(), found["wanted"]
        resource = wanted.decode() if wanted else "r"
        user = re.findall(rb"user-([a-z0-9]+)", one.received)
        name = user[-1].decode() if user else "alice"
        return flaws.instead.get("bind") or (
            f"<iq type='result' id='{ident}'><bind xmlns='{BIND}'>"
            f"<jid>{name}@{self.domain}/{resource}</jid></bind></iq>"
        )


_ASKED = re.compile(
    rb"(?P<header><stream:stream[^>]*>)|(?P<auth><auth .*?(?:/>|</auth>))"
    rb"|(?P<enable><enable [^>]*/>)"
    rb"|<iq type='set' id='(?P<bind>[^']*)'><bind[^>]*?"
    rb"(?:/>|>(?:<resource>(?P<wanted>[^<]*)</resource>)?</bind>)"
    rb"|<iq type='get' id='(?P<ping>[^']*)'><ping xmlns='urn:xmpp:ping'/></iq>",
    re.DOTALL,
)
