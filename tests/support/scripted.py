"""A small XMPP server whose every answer can be bent, for hostile tests.

It is honest until a switch says otherwise: streams, STARTTLS or direct TLS,
SASL PLAIN and SCRAM, bind, PEP of its accounts, messages between them with an
offline store, XEP-0198 with resumption. It knows no rooms, no other domain, no
roster, no archive and no carbons.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

from scramp import ScramException, ScramMechanism

from .certificates import Leaf
from .raw import BIND, CLIENT, SASL, STREAM, TLS
from .waiting import until

SM = "urn:xmpp:sm:3"
PUBSUB = "http://jabber.org/protocol/pubsub"
EVENT = f"{PUBSUB}#event"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
INFO = "http://jabber.org/protocol/disco#info"
XML = "{http://www.w3.org/XML/1998/namespace}"

T = TypeVar("T")
# (from whom or to whom, the stanza) -> None for "as it is", or what takes its place.
Hook = Callable[[str, Element], Iterable[Element | str] | None]


@dataclass
class Switches:
    """What the server does; change any of it at any time.

    `starttls` offers and does STARTTLS; without it the stream stays in clear.
    `after_proceed` is sent in one packet with <proceed/>, before TLS (TLS-01).
    `mechanisms` is offered as it is; `features` is XML put beside it, and
    `late_features` XML beside bind. `iterations` is what SCRAM asks for, a text
    too. `bad_signature` spoils SCRAM's server signature. `refuse` answers each
    login with this SASL condition. `silent_at` names the stage from which on
    nothing is answered: stream, tls, auth, bind, live. `header` replaces the
    stream header. `sm` and `resume` offer XEP-0198 and its resumption;
    `refuse_resume` answers <failed/>. `answers_acks` answers <r/>. `pep_errors`
    maps (bare JID, node) to a stanza error condition, `pep_silent` has those
    that are never answered, `pep_access` answers to others than the owner.
    `from_client` and `to_client` see each stanza and may drop, change, double.
    """

    starttls: bool = True
    after_proceed: bytes = b""
    mechanisms: tuple[str, ...] = ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN")
    features: str = ""
    late_features: str = ""
    iterations: int | str = 4096
    bad_signature: bool = False
    refuse: str = ""
    silent_at: str = ""
    header: str = ""
    sm: bool = True
    resume: bool = True
    refuse_resume: bool = False
    answers_acks: bool = True
    pep_errors: dict[tuple[str, str], str] = field(default_factory=dict)
    pep_silent: set[tuple[str, str]] = field(default_factory=set)
    pep_access: bool = True
    from_client: Hook = lambda _jid, _stanza: None
    to_client: Hook = lambda _jid, _stanza: None


@dataclass
class Session:
    """One bound stream; with XEP-0198 it outlives its connection."""

    jid: str
    writer: asyncio.StreamWriter | None
    available: bool = False
    sm_id: str = ""
    handled: int = 0
    acked: int = 0
    unacked: list[str] = field(default_factory=list)

    @property
    def bare(self) -> str:
        return self.jid.partition("/")[0]


class SilenceError(Exception):
    """A switch says that nothing is answered from here on."""


class Scripted:
    """The server, on a thread of its own; methods are called from the test's.

    `sent` holds every byte that reached clients and `received` every byte from
    them, both as after TLS; `stanzas` what they sent, as (full JID, stanza).
    """

    def __init__(
        self, leaf: Leaf, domain: str, accounts: dict[str, str], *, direct: bool = False
    ) -> None:
        self.domain = domain
        self.accounts = accounts
        self.direct = direct
        self.switches = Switches()
        self.port = 0
        self.received = bytearray()
        self.sent = bytearray()
        self.stanzas: list[tuple[str, Element]] = []
        self.logins: list[tuple[str, str]] = []
        self.connections = 0
        self.pep: dict[tuple[str, str], dict[str, Element]] = {}
        self.offline: dict[str, list[Element]] = {}
        self.sessions: dict[str, Session] = {}
        self.errors: list[BaseException] = []
        self._leaf = leaf
        self._count = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> Scripted:
        """Listen on a free loopback port."""
        self._thread.start()
        self._ask(self._listen())
        return self

    def stop(self) -> None:
        """Close everything; raises what went wrong in the server itself."""
        if self._loop.is_closed():
            return
        self._ask(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if self.errors:
            raise self.errors[0]

    def inject(self, to: str, stanza: Element | str) -> None:
        """Send a stanza to a full JID, or to all sessions of a bare one."""

        async def send() -> None:
            for session in self._sessions_of(to):
                self._deliver(session, stanza)

        self._ask(send())

    def send_raw(self, to: str, data: bytes) -> None:
        """Send bytes as they are and uncounted, for what is no stanza."""

        async def send() -> None:
            for session in self._sessions_of(to):
                self._write(session.writer, data.decode("utf-8", "surrogateescape"))

        self._ask(send())

    def cut(self, jid: str = "") -> None:
        """Break the connections of an account, a session, or all."""

        async def abort() -> None:
            for session in self._sessions_of(jid):
                if session.writer is not None:
                    session.writer.transport.abort()

        self._ask(abort())

    def forget(self, jid: str = "") -> None:
        """Break connections and drop the sessions: resumption finds nothing."""
        self.cut(jid)

        async def drop() -> None:
            for session in self._sessions_of(jid):
                self.sessions.pop(session.jid, None)

        self._ask(drop())

    def wait_for(
        self, matches: Callable[[str, Element], bool], *, seconds: float = 10
    ) -> Element:
        """Return the first stanza from a client, ever, that matches."""
        return until(
            lambda: next((one for jid, one in self.stanzas if matches(jid, one)), None),
            "a stanza at the scripted server",
            seconds=seconds,
            also=lambda: "\n".join(render(one)[:300] for _, one in self.stanzas[-10:]),
        )

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _sessions_of(self, jid: str) -> list[Session]:
        return [one for one in self.sessions.values() if jid in ("", one.bare, one.jid)]

    async def _listen(self) -> None:
        tls = self._leaf.server_context() if self.direct else None
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        connection = _Connection(self, reader, writer)
        try:
            await connection.run()
        except SilenceError:
            await self._listen_only(reader)
        except (EOFError, OSError, ssl.SSLError, asyncio.CancelledError):
            pass
        except ElementTree.ParseError:
            self._write(writer, _stream_error("not-well-formed"))
        except Exception as error:
            self.errors.append(error)
        finally:
            connection.gone()
            writer.transport.abort()

    async def _listen_only(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(65536):
                self.received += data
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            pass

    def _write(self, writer: asyncio.StreamWriter | None, text: str) -> None:
        if writer is not None and not writer.is_closing():
            data = text.encode("utf-8", "surrogateescape")
            self.sent += data
            writer.write(data)

    # What the server does with stanzas.

    def take(self, session: Session, stanza: Element) -> None:
        """Handle a stanza from a client as the switches say."""
        session.handled += 1
        self.stanzas.append((session.jid, stanza))
        instead = self.switches.from_client(session.jid, stanza)
        for one in [stanza] if instead is None else instead:
            copy = _parsed(one if isinstance(one, str) else render(one))
            copy.set("from", session.jid)
            self._route(session, copy)

    def _route(self, session: Session, stanza: Element) -> None:
        kind = stanza.tag.partition("}")[2]
        to = stanza.get("to", "")
        if kind == "presence":
            self._presence(session, stanza)
        elif kind == "message":
            self._message(session, stanza, to or session.bare)
        elif to in self.sessions:
            self._deliver(self.sessions[to], stanza)
        elif stanza.get("type") in ("get", "set"):
            self._iq(session, stanza, to or session.bare)

    def _presence(self, session: Session, stanza: Element) -> None:
        if stanza.get("to"):
            for one in self._sessions_of(stanza.get("to", "")):
                self._deliver(one, stanza)
            return
        session.available = stanza.get("type") != "unavailable"
        while session.available and self.offline.get(session.bare):
            self._deliver(session, self.offline[session.bare].pop(0))

    def _message(self, session: Session, stanza: Element, to: str) -> None:
        bare = to.partition("/")[0]
        if to in self.sessions:
            self._deliver(self.sessions[to], stanza)
        elif bare not in self.accounts:
            self._error(session, stanza, "service-unavailable")
        elif ready := [one for one in self._sessions_of(bare) if one.available]:
            for one in ready:
                self._deliver(one, stanza)
        else:
            self.offline.setdefault(bare, []).append(stanza)

    def _iq(self, session: Session, stanza: Element, to: str) -> None:
        payload = stanza[0] if len(stanza) else Element("none")
        if payload.tag == f"{{{PUBSUB}}}pubsub":
            self._pubsub(session, stanza, payload, to)
        elif payload.tag == f"{{{INFO}}}query":
            kind = "type='im' category='server'"
            if to != self.domain:
                kind = "type='pep' category='pubsub'"
            features = "".join(
                f"<feature var='{one}'/>"
                for one in (INFO, "urn:xmpp:ping", f"{PUBSUB}#publish-options")
            )
            self._result(
                session,
                stanza,
                f"<query xmlns='{INFO}'><identity {kind}/>{features}</query>",
            )
        elif payload.tag in ("{jabber:iq:roster}query",):
            self._result(session, stanza, "<query xmlns='jabber:iq:roster'/>")
        elif payload.tag in (
            "{urn:xmpp:ping}ping",
            "{urn:ietf:params:xml:ns:xmpp-session}session",
        ):
            self._result(session, stanza, "")
        else:
            self._error(session, stanza, "service-unavailable")

    def _pubsub(
        self, session: Session, stanza: Element, payload: Element, to: str
    ) -> None:
        part = payload[0]
        key = (to, part.get("node", ""))
        if key in self.switches.pep_silent:
            return
        if key in self.switches.pep_errors:
            self._error(session, stanza, self.switches.pep_errors[key])
        elif stanza.get("type") == "get":
            self._items(session, stanza, part, key)
        elif to != session.bare:
            self._error(session, stanza, "forbidden")
        elif part.tag == f"{{{PUBSUB}}}publish":
            for item in part:
                ident = item.get("id") or f"item-{next(self._count)}"
                self.pep.setdefault(key, {})[ident] = item
                self._notify(session.bare, key[1], ident, item)
            self._result(session, stanza, "")
        elif part.tag == f"{{{PUBSUB}}}retract":
            for item in part:
                self.pep.get(key, {}).pop(item.get("id", ""), None)
            self._result(session, stanza, "")
        else:
            self._error(session, stanza, "feature-not-implemented")

    def _items(
        self, session: Session, stanza: Element, part: Element, key: tuple[str, str]
    ) -> None:
        if key[0] != session.bare and not self.switches.pep_access:
            self._error(session, stanza, "forbidden")
        elif key not in self.pep:
            self._error(session, stanza, "item-not-found")
        else:
            asked = {one.get("id") for one in part}
            found = "".join(
                render(item, PUBSUB, {"id": ident})
                for ident, item in self.pep[key].items()
                if not asked or ident in asked
            )
            self._result(
                session,
                stanza,
                f"<pubsub xmlns='{PUBSUB}'><items node={quoteattr(key[1])}>{found}"
                "</items></pubsub>",
            )

    def _notify(self, bare: str, node: str, ident: str, item: Element) -> None:
        content = "".join(render(one, EVENT) for one in item)
        for one in self._sessions_of(bare):
            self._deliver(
                one,
                f"<message from='{bare}' to='{one.jid}' type='headline'><event"
                f" xmlns='{EVENT}'><items node={quoteattr(node)}>"
                f"<item id={quoteattr(ident)}>{content}</item>"
                "</items></event></message>",
            )

    def _result(self, session: Session, stanza: Element, payload: str) -> None:
        self._answer(session, stanza, "result", payload)

    def _error(self, session: Session, stanza: Element, condition: str) -> None:
        if stanza.get("type") not in ("error", "result"):
            error = f"<error type='cancel'><{condition} xmlns='{STANZAS}'/></error>"
            self._answer(session, stanza, "error", error)

    def _answer(
        self, session: Session, stanza: Element, kind: str, payload: str
    ) -> None:
        name = stanza.tag.partition("}")[2]
        origin = stanza.get("to")
        sender = f" from={quoteattr(origin)}" if origin else ""
        ident = quoteattr(stanza.get("id", ""))
        self._deliver(
            session,
            f"<{name} type='{kind}' id={ident}{sender} to={quoteattr(session.jid)}>"
            f"{payload}</{name}>",
        )

    def _deliver(self, session: Session, stanza: Element | str) -> None:
        element = _parsed(stanza) if isinstance(stanza, str) else stanza
        instead = self.switches.to_client(session.jid, element)
        for one in [stanza] if instead is None else instead:
            text = one if isinstance(one, str) else render(one)
            if session.sm_id:
                session.unacked.append(text)
            self._write(session.writer, text)


class _Connection:
    """One TCP connection: negotiation, then stanzas to the server."""

    def __init__(
        self,
        server: Scripted,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.session: Session | None = None
        self.bare = ""
        self._ready: list[Element] = []

    @property
    def switches(self) -> Switches:
        return self.server.switches

    def gone(self) -> None:
        """The connection ended: a session without XEP-0198 ends with it."""
        if self.session is None or self.session.writer is not self.writer:
            return
        self.session.writer = None
        if not self.session.sm_id:
            self.server.sessions.pop(self.session.jid, None)

    async def run(self) -> None:
        secure = self.server.direct
        await self._open("stream")
        if not secure and self.switches.starttls:
            self._features(f"<starttls xmlns='{TLS}'><required/></starttls>")
            await self._start_tls()
            await self._open("stream")
        await self._authenticate()
        await self._open("bind")
        sm = f"<sm xmlns='{SM}'/>" if self.switches.sm else ""
        self._features(f"<bind xmlns='{BIND}'/>{sm}{self.switches.late_features}")
        while True:
            self._take(await self._next("live"))

    async def _start_tls(self) -> None:
        while (await self._next("tls")).tag != f"{{{TLS}}}starttls":
            pass
        proceed = f"<proceed xmlns='{TLS}'/>".encode() + self.switches.after_proceed
        self.server.sent += proceed
        self.writer.write(proceed)
        await self.writer.start_tls(self.server._leaf.server_context(alpn=False))

    async def _authenticate(self) -> None:
        offer = "".join(f"<mechanism>{x}</mechanism>" for x in self.switches.mechanisms)
        self._features(
            f"<mechanisms xmlns='{SASL}'>{offer}</mechanisms>{self.switches.features}"
        )
        while not self.bare:
            request = await self._next("auth")
            mechanism = request.get("mechanism", "")
            initial = base64.b64decode(request.text or "")
            if self.switches.refuse:
                self._fail(self.switches.refuse)
            elif request.tag != f"{{{SASL}}}auth":
                self._fail("malformed-request")
            elif mechanism == "PLAIN":
                self._plain(initial)
            elif mechanism.removesuffix("-PLUS") in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
                await self._scram(mechanism, initial)
            else:
                self._fail("invalid-mechanism")

    def _plain(self, initial: bytes) -> None:
        _, local, password = initial.decode().split("\0")
        bare = f"{local}@{self.server.domain}"
        if self.server.accounts.get(bare) != password:
            self._fail("not-authorized")
        else:
            self._welcome("PLAIN", bare, "")

    async def _scram(self, name: str, initial: bytes) -> None:
        mechanism = ScramMechanism(name)
        users: list[str] = []

        def secrets_of(local: str) -> Any:
            users.append(f"{local}@{self.server.domain}")
            return mechanism.make_auth_info(
                self.server.accounts[users[-1]], iteration_count=4096
            )

        binding = None
        if name.endswith("-PLUS"):
            der = ssl.PEM_cert_to_DER_cert(
                self.server._leaf.certificate.read_text().partition("-----END")[0]
                + "-----END CERTIFICATE-----\n"
            )
            binding = ("tls-server-end-point", hashlib.sha256(der).digest())
        exchange = mechanism.make_server(secrets_of, channel_binding=binding)
        try:
            exchange.set_client_first(initial.decode())
            first = exchange.get_server_first()
            if self.switches.iterations != 4096:
                first = first.replace("i=4096", f"i={self.switches.iterations}")
            self._send(f"<challenge xmlns='{SASL}'>{_b64(first)}</challenge>")
            response = await self._next("auth")
            if response.tag != f"{{{SASL}}}response":
                return self._fail("aborted")
            exchange.set_client_final(base64.b64decode(response.text or "").decode())
            final = exchange.get_server_final()
        except (ScramException, KeyError):
            return self._fail("not-authorized")
        if self.switches.bad_signature:
            final = "v=" + base64.b64encode(bytes(20)).decode()
        return self._welcome(name, users[-1], _b64(final))

    def _welcome(self, mechanism: str, bare: str, final: str) -> None:
        self.bare = bare
        self.server.logins.append((bare, mechanism))
        self._send(f"<success xmlns='{SASL}'>{final}</success>")

    def _fail(self, condition: str) -> None:
        self._send(f"<failure xmlns='{SASL}'><{condition}/></failure>")

    def _take(self, element: Element) -> None:
        if element.tag.startswith(f"{{{SM}}}"):
            self._manage(element.tag.partition("}")[2], element)
        elif self.session is not None:
            self.server.take(self.session, element)
        elif element.find(f"{{{BIND}}}bind") is not None:
            self._bind(element)

    def _bind(self, request: Element) -> None:
        wanted = request.findtext(f"{{{BIND}}}bind/{{{BIND}}}resource")
        jid = f"{self.bare}/{wanted or f'scripted-{next(self.server._count)}'}"
        old = self.server.sessions.get(jid)
        if old is not None and old.writer is not None:
            self.server._write(old.writer, _stream_error("conflict"))
            old.writer.close()
        self.session = self.server.sessions[jid] = Session(jid, self.writer)
        self._send(
            f"<iq type='result' id={quoteattr(request.get('id', ''))}>"
            f"<bind xmlns='{BIND}'><jid>{escape(jid)}</jid></bind></iq>"
        )

    def _manage(self, name: str, element: Element) -> None:
        """XEP-0198: enable, resume, r, a."""
        session = self.session
        if name == "resume":
            self._resume(element)
        elif session is None:
            self._send(f"<failed xmlns='{SM}'><unexpected-request/></failed>")
        elif name == "enable":
            session.sm_id = f"sm-{next(self.server._count)}"
            session.handled = session.acked = 0
            resume = " resume='true' max='300'" if self.switches.resume else ""
            self._send(f"<enabled xmlns='{SM}' id='{session.sm_id}'{resume}/>")
        elif name == "r" and self.switches.answers_acks:
            self._send(f"<a xmlns='{SM}' h='{session.handled}'/>")
        elif name == "a":
            self._acknowledged(session, int(element.get("h", "0")))

    def _resume(self, element: Element) -> None:
        wanted = element.get("previd")
        session = next(
            (
                one
                for one in self.server.sessions.values()
                if one.sm_id and one.sm_id == wanted and one.bare == self.bare
            ),
            None,
        )
        if session is None or self.switches.refuse_resume:
            self._send(
                f"<failed xmlns='{SM}'><item-not-found xmlns='{STANZAS}'/></failed>"
            )
            return
        if session.writer is not None:
            session.writer.transport.abort()
        self._acknowledged(session, int(element.get("h", "0")))
        session.writer = self.writer
        self.session = session
        self._send(f"<resumed xmlns='{SM}' previd='{wanted}' h='{session.handled}'/>")
        for stanza in session.unacked:
            self._send(stanza)

    def _acknowledged(self, session: Session, count: int) -> None:
        del session.unacked[: max(0, count - session.acked)]
        session.acked = max(count, session.acked)

    async def _open(self, stage: str) -> None:
        self._parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(
            ["start", "end"]
        )
        self._path: list[Element] = []
        self._ready.clear()
        while not self._path:
            await self._receive()
        self._quiet(stage)
        self._send(
            self.switches.header
            or f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
            f" xmlns:stream='{STREAM}' version='1.0' from='{self.server.domain}'"
            f" id='stream-{next(self.server._count)}'>"
        )

    async def _next(self, stage: str) -> Element:
        while not self._ready:
            await self._receive()
        self._quiet(stage)
        return self._ready.pop(0)

    def _quiet(self, stage: str) -> None:
        if self.switches.silent_at == stage:
            raise SilenceError(stage)

    async def _receive(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise EOFError
        self.server.received += data
        self._parser.feed(data)
        events = cast("Iterator[tuple[str, Element]]", self._parser.read_events())
        for event, element in events:
            if event == "start":
                self._path.append(element)
            else:
                self._path.pop()
                if not self._path:
                    self._end()
                elif len(self._path) == 1:
                    self._path[0].remove(element)
                    self._ready.append(element)

    def _end(self) -> None:
        if self.session is not None:
            self.session.sm_id = ""
        self._send("</stream:stream>")
        raise EOFError

    def _features(self, inner: str) -> None:
        self._send(f"<stream:features>{inner}</stream:features>")

    def _send(self, text: str) -> None:
        self.server._write(self.writer, text)


def render(
    element: Element,
    inherited: str = CLIENT,
    attributes: dict[str, str] | None = None,
) -> str:
    """Serialise as XMPP does: no prefixes, xmlns where the namespace changes."""
    namespace, _, name = element.tag.rpartition("}")
    namespace = namespace.removeprefix("{")
    parts = [name]
    if namespace != inherited:
        parts.append(f"xmlns={quoteattr(namespace)}")
    for at, (key, value) in enumerate((element.attrib | (attributes or {})).items()):
        if key.startswith(XML):
            key = f"xml:{key.removeprefix(XML)}"
        elif key.startswith("{"):
            foreign, _, key = key.removeprefix("{").partition("}")
            parts.append(f"xmlns:n{at}={quoteattr(foreign)}")
            key = f"n{at}:{key}"
        parts.append(f"{key}={quoteattr(value)}")
    inner = escape(element.text or "") + "".join(
        render(one, namespace) + escape(one.tail or "") for one in element
    )
    return f"<{' '.join(parts)}>{inner}</{name}>"


def _parsed(stanza: str) -> Element:
    return ElementTree.fromstring(f"<x xmlns='{CLIENT}'>{stanza}</x>")[0]


def _stream_error(condition: str) -> str:
    return (
        f"<stream:error><{condition} xmlns='{STREAMS}'/></stream:error></stream:stream>"
    )


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
