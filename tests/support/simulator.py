"""A world in memory: Tillies with their clients, and one server for all of them.

No sockets, threads or real time: bytes go through the very sessions that the
program runs, by the same rule as in ``net.driver`` (one call, one commit, then
the effects).  The server is honest until a hook says otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import cast
from xml.etree.ElementTree import Element, SubElement
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from proxy.core.account import Account, Settings
from proxy.core.house import House
from proxy.core.session import Session
from proxy.core.vocabulary import (
    ClientClose,
    Connect,
    Derive,
    DeriveKey,
    Effect,
    ServerClose,
    ToClient,
    ToServer,
)
from proxy.errors import Fault, StoreFault
from proxy.keys.store import MemoryStore

from .raw import BIND, CLIENT, SASL, STREAM
from .scripted import PUBSUB, SM, STANZAS, render

CARBONS = "urn:xmpp:carbons:2"
FORWARD = "urn:xmpp:forward:0"
SEAL = "urn:x-tillie:seal:0"
LANE = "urn:x-tillie:lane:0"
MESSAGE = f"{{{CLIENT}}}message"
BODY = f"{{{CLIENT}}}body"
SEALS = (f"{{{SEAL}}}encrypted", f"{{{SEAL}}}transient")
PAYLOAD = f"{{{SEAL}}}payload"
GRANTS = f"{{{LANE}}}grants"
GRANT = f"{{{LANE}}}grant"
KEYREQ = f"{{{LANE}}}keyreq"
NO = f"{{{LANE}}}no"
ROTATE = f"{{{LANE}}}rotate"
DAY = 24 * 3600 * 1000

# (the stream, a stanza of it) -> None for "as it is", or what takes its place
Hook = Callable[["Upstream", Element], "list[Element] | None"]


def parsed(xml: str) -> Element:
    """One element, in ``jabber:client`` where it says nothing else."""
    reader = _Reader()
    [element] = reader.feed(f"<_ xmlns='{CLIENT}'>{xml}</_>".encode())
    return element


class _Reader:
    """The elements of a stream; a new XML declaration begins a new stream.

    ElementTree's own parser refuses namespaces with a brace in them.
    """

    def __init__(self) -> None:
        self.header: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._path: list[Element] = []
        self._done: list[Element] = []
        self._parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = Element(_clark(name), {_clark(k): v for k, v in attributes.items()})
        if len(self._path) >= 2:
            self._path[-1].append(element)
        self._path.append(element)
        if len(self._path) == 1:
            self.header = dict(element.attrib)

    def _end(self, _: str) -> None:
        element = self._path.pop()
        if len(self._path) == 1:
            self._done.append(element)

    def _text(self, text: str) -> None:
        if len(self._path) < 2:
            return
        inside = self._path[-1]
        if len(inside):
            inside[-1].tail = (inside[-1].tail or "") + text
        else:
            inside.text = (inside.text or "") + text

    def feed(self, data: bytes) -> list[Element]:
        if data.startswith(b"<?xml"):
            self._begin()
        self._parser.Parse(data, False)
        done, self._done = self._done, []
        return done


_SEPARATOR = "\x1f"


def _clark(name: str) -> str:
    return "{" + name.replace(_SEPARATOR, "}") if _SEPARATOR in name else name


class Client:
    """A client's connection to its Tillie: what it sends and what it is shown."""

    def __init__(self, tillie: Tillie, session: Session) -> None:
        self.tillie = tillie
        self.session = session
        self.raw = bytearray()
        self.stanzas: list[Element] = []
        self.closed = False
        self._reader = _Reader()

    def take(self, data: bytes) -> None:
        self.raw += data
        self.stanzas += self._reader.feed(data)

    def send(self, stanza: str | bytes | Element) -> None:
        """Write a stanza and let the world come to rest."""
        text = render(stanza) if isinstance(stanza, Element) else stanza
        data = text.encode() if isinstance(text, str) else text
        self.tillie.call(self.session, lambda: self.session.client_data(data))
        self.tillie.world.settle()

    def say(self, to: str, text: str, *, ident: str = "", kind: str = "chat") -> None:
        """Send a message with nothing but a body."""
        message = Element(MESSAGE, {"to": to, "type": kind})
        if ident:
            message.set("id", ident)
        SubElement(message, BODY).text = text
        self.send(message)

    @property
    def messages(self) -> list[Element]:
        """What came from the network, notices of the own Tillie left out."""
        return [
            one
            for one in self.stanzas
            if one.tag == MESSAGE and "proxy.invalid" not in one.get("from", "")
        ]

    @property
    def bodies(self) -> list[str]:
        return [
            one.findtext(BODY) or ""
            for one in self.messages
            if one.get("type") != "error"
        ]

    @property
    def errors(self) -> list[Element]:
        return [one for one in self.stanzas if one.get("type") == "error"]

    @property
    def notices(self) -> list[str]:
        return [
            one.findtext(BODY) or ""
            for one in self.stanzas
            if "proxy.invalid" in one.get("from", "")
        ]

    def close(self) -> None:
        self.tillie.call(self.session, self.session.client_lost)
        self.tillie.world.settle()

    @property
    def upstream(self) -> Upstream:
        """This client's stream as the server has it now."""
        return next(
            one
            for one in reversed(self.tillie.world.upstreams)
            if one.session is self.session
        )


class Tillie:
    """One running Tillie with a store that outlives it; see :meth:`restart`.

    :ivar faults: what ended a session, as ``net.driver`` would have met it.
    :ivar refuse_commits: while true, the disk is full.
    """

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.settings = settings
        self.refuse_commits = False
        self.commits = 0
        self.store = MemoryStore(self._before_commit)
        self.faults: list[Fault] = []
        self.clients: dict[Session, Client] = {}
        self.house = House(self.store, lambda: world.now, settings)

    def _before_commit(self) -> None:
        self.commits += 1
        if self.refuse_commits:
            raise StoreFault("the disk is full")

    def account(self, jid: str) -> Account:
        return self.house.account(jid)

    def restart(self) -> None:
        """Killed and started again: connections are gone, the store is there."""
        for upstream in self.world.upstreams:
            if upstream.session in self.clients:
                upstream.over = True
        self.clients.clear()
        self.house = House(self.store, lambda: self.world.now, self.settings)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For a test that calls what the core calls inside a transaction."""
        with self.store.transaction():
            yield

    def rows(self) -> dict[tuple[str, str, str], bytes]:
        """The whole state, to be compared, without the notices for people."""
        return {k: v for k, v in self.store._rows.items() if k[0] != "notice"}

    def command(self, name: str, **args: object) -> object:
        """One command of the control socket; a fault is raised."""
        got: list[object] = []
        self.call(None, lambda: self.house.command(name, args, got.append))
        self.world.settle()
        if got and isinstance(got[0], Fault):
            raise got[0]
        return got[0] if got else got

    def call(self, session: Session | None, work: Callable[[], None]) -> None:
        """One call, one commit, then the effects."""
        try:
            with self.store.transaction():
                work()
                found = self._collect()
        except Fault as fault:
            self.faults.append(fault)
            self._failed(session, fault)
            return
        for one, effects in found:
            self._perform(one, effects)

    def _collect(self) -> list[tuple[Session, list[Effect]]]:
        found = []
        while self.house.dirty:
            session = self.house.dirty.pop()
            found.append((session, session.take()))
        return found

    def _failed(self, session: Session | None, fault: Fault) -> None:
        self.house.rolled_back()
        hit = {one for one in self.clients if one.pending}
        if session is not None:
            hit.add(session)
        self.house.dirty.clear()
        for one in hit:
            one.take()
            one.fail(fault)
            self._perform(one, one.take())
        self.house.dirty.clear()

    def _perform(self, session: Session, effects: list[Effect]) -> None:
        client = self.clients.get(session)
        if client is None:
            return
        rows = []
        for effect in effects:
            match effect:
                case ToClient(data=data, row=row):
                    client.take(data)
                    rows += [row] if row else []
                case ToServer(data=data):
                    client.upstream.take(data)
                case Connect():
                    self.world.later(lambda: self._connected(session))
                case DeriveKey(request=request):
                    self._derive(session, request)
                case ServerClose():
                    client.upstream.over = True
                case ClientClose():
                    client.closed = True
        if rows:
            self.world.later(lambda: self.call(session, lambda: session.flushed(rows)))

    def _connected(self, session: Session) -> None:
        self.world.upstreams.append(Upstream(self.world, self, session))
        self.call(session, lambda: session.server_connected("off"))

    def _derive(self, session: Session, request: Derive) -> None:
        salted = hashlib.pbkdf2_hmac(
            request.hash_name, request.password, request.salt, request.iterations
        )
        self.world.later(lambda: self.call(session, lambda: session.derived(salted)))

    def tick(self) -> None:
        self.call(None, self.house.tick)
        for session in [one for one in self.clients if not one.over]:
            self.call(session, session.tick)


class Upstream:
    """A stream from a Tillie, at the server.

    :ivar stanzas: what came from the Tillie, as it came.
    :ivar raw: its bytes.
    """

    def __init__(self, world: World, tillie: Tillie, session: Session) -> None:
        self.world = world
        self.tillie = tillie
        self.session = session
        self.over = False
        self.bare = ""
        self.jid = ""
        self.available = False
        self.carbons = False
        self.handled = 0
        self.managed = False
        self.raw = bytearray()
        self.stanzas: list[Element] = []
        self._reader = _Reader()

    def take(self, data: bytes) -> None:
        if self.over:
            return
        self.raw += data
        if data.startswith(b"<?xml"):
            self.world.later(self._greet)
        if data.endswith(b"</stream:stream>"):
            self.over = True
            return
        for element in self._reader.feed(data):
            self.world.later(lambda element=element: self._element(element))

    def send(self, xml: str) -> None:
        if not self.over:
            data = xml.encode()
            self.tillie.call(self.session, lambda: self.session.server_data(data))

    def _greet(self) -> None:
        domain = self._reader.header.get("to", "")
        inner = (
            f"<bind xmlns='{BIND}'/>" + (f"<sm xmlns='{SM}'/>" if self.world.sm else "")
            if self.bare
            else f"<mechanisms xmlns='{SASL}'><mechanism>PLAIN</mechanism></mechanisms>"
        )
        self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
            f" xmlns:stream='{STREAM}' version='1.0' from='{domain}' id='s'>"
            f"<stream:features>{inner}</stream:features>"
        )

    def _element(self, element: Element) -> None:
        if self.over:
            return
        if element.tag == f"{{{SASL}}}auth":
            local = base64.b64decode(element.text or "").decode().split("\0")[1]
            self.bare = f"{local}@{self._reader.header['to']}"
            self.send(f"<success xmlns='{SASL}'/>")
        elif element.tag == f"{{{SM}}}enable":
            self.managed, self.handled = True, 0
            self.send(f"<enabled xmlns='{SM}'/>")
        elif element.tag == f"{{{SM}}}r":
            self.send(f"<a xmlns='{SM}' h='{self.handled}'/>")
        elif element.tag.startswith(f"{{{CLIENT}}}"):
            self.handled += 1
            self.stanzas.append(deepcopy(element))
            self.world.route(self, element)


class World:
    """See the module.

    :ivar now: milliseconds since 1970.
    :ivar pep: by (bare JID, node): the items by id.
    :ivar pep_answers: by (bare JID, node): ``silent`` or an error condition.
    :ivar leaving: sees each stanza that a Tillie sends, before it is routed.
    :ivar arriving: sees each stanza before a Tillie gets it.
    """

    def __init__(self, *, sm: bool = True) -> None:
        self.now = 1_750_000_000_000
        self.sm = sm
        self.pep: dict[tuple[str, str], dict[str, Element]] = {}
        self.pep_answers: dict[tuple[str, str], str] = {}
        self.offline: dict[str, list[Element]] = {}
        self.accounts: set[str] = set()
        self.upstreams: list[Upstream] = []
        self.leaving: Hook = lambda _stream, _stanza: None
        self.arriving: Hook = lambda _stream, _stanza: None
        self._tillies: list[Tillie] = []
        self._work: deque[Callable[[], None]] = deque()
        self._count = itertools.count(1)

    # -- what a test does ------

    def tillie(self, settings: Settings | None = None) -> Tillie:
        self._tillies.append(Tillie(self, settings or Settings()))
        return self._tillies[-1]

    def login(
        self, tillie: Tillie, jid: str, resource: str = "one", *, available: bool = True
    ) -> Client:
        """A client logs in, binds, enables carbons and says that it is there."""
        local, _, domain = jid.partition("@")
        self.accounts.add(jid)
        session = tillie.house.session(tls_available=False, secure=False)
        client = tillie.clients[session] = Client(tillie, session)
        header = (
            f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
            f" xmlns:stream='{STREAM}' to='{domain}' version='1.0'>"
        )
        plain = base64.b64encode(f"\0{local}\0secret-of-{local}".encode()).decode()
        client.send(header)
        client.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>")
        client.send(header)
        client.send(
            f"<iq type='set' id='bind'><bind xmlns='{BIND}'>"
            f"<resource>{resource}</resource></bind></iq>"
        )
        client.send(f"<iq type='set' id='cc'><enable xmlns='{CARBONS}'/></iq>")
        if available:
            client.send("<presence/>")
        return client

    def settle(self) -> None:
        """Do what is under way, until nothing is."""
        while self._work:
            self._work.popleft()()

    def later(self, work: Callable[[], None]) -> None:
        self._work.append(work)

    def wait(self, milliseconds: int) -> None:
        """Let time pass second by second, and the Tillies notice it.

        For days, set ``now``: what follows is as after a computer's sleep.
        """
        until = self.now + milliseconds
        while self.now < until:
            self.now = min(until, self.now + 1_000)
            for tillie in self._tillies:
                tillie.tick()
                self.settle()

    def inject(self, client: Client, stanza: str | Element) -> None:
        """The server sends *stanza* to *client*, past the hooks."""
        text = render(stanza) if isinstance(stanza, Element) else stanza
        client.upstream.send(text)
        self.settle()

    @property
    def wire(self) -> bytes:
        """Every byte that any Tillie sent."""
        return b"".join(bytes(one.raw) for one in self.upstreams)

    # -- the server ------

    def route(self, stream: Upstream, stanza: Element) -> None:
        instead = self.leaving(stream, stanza)
        for one in [stanza] if instead is None else instead:
            if one.tag == f"{{{CLIENT}}}iq" and one.find(f"{{{BIND}}}bind") is not None:
                self._bind(stream, one)
                continue
            one.set("from", stream.jid)
            to = one.get("to", "")
            if one.tag == MESSAGE:
                self._message(stream, one, to or stream.bare)
            elif one.tag.endswith("presence"):
                self._presence(stream, one, to)
            else:
                self._iq(stream, one, to or stream.bare)

    def deliver(self, stream: Upstream, stanza: Element) -> None:
        instead = self.arriving(stream, stanza)
        for one in [stanza] if instead is None else instead:
            text = render(one)
            self.later(lambda text=text: stream.send(text))

    def live(self, jid: str) -> list[Upstream]:
        """The streams of a bare JID, or the one of a full JID."""
        return [
            one
            for one in self.upstreams
            if not one.over and one.jid and jid in (one.bare, one.jid)
        ]

    def _bind(self, stream: Upstream, stanza: Element) -> None:
        path = f"{{{BIND}}}bind/{{{BIND}}}resource"
        stream.jid = f"{stream.bare}/{stanza.findtext(path) or next(self._count)}"
        self.accounts.add(stream.bare)
        inner = f"<bind xmlns='{BIND}'><jid>{stream.jid}</jid></bind>"
        ident = quoteattr(stanza.get("id", ""))
        stream.send(f"<iq type='result' id={ident}>{inner}</iq>")

    def _message(self, stream: Upstream, stanza: Element, to: str) -> None:
        bare = to.partition("/")[0]
        if bare not in self.accounts:
            self._refuse(stream, stanza, "service-unavailable")
            return
        targets = [one for one in self.live(to) if "/" in to or one.available]
        if not targets and "/" in to:
            targets = [one for one in self.live(bare) if one.available]
        if not targets:
            self._store(bare, stanza)
        for one in targets:
            self.deliver(one, deepcopy(stanza))
        if stanza.get("type") == "chat" and not _private(stanza):
            self._copy(stanza, "received", bare, targets)
            self._copy(stanza, "sent", stream.bare, [stream, *targets])

    def _store(self, bare: str, stanza: Element) -> None:
        names = {child.tag for child in stanza}
        if "{urn:xmpp:hints}no-store" in names or stanza.get("type") == "error":
            return
        self.offline.setdefault(bare, []).append(deepcopy(stanza))

    def _copy(
        self, stanza: Element, word: str, bare: str, without: list[Upstream]
    ) -> None:
        for one in self.live(bare):
            if one.carbons and one not in without:
                self.deliver(one, carbon(stanza, word, bare, one.jid))

    def _presence(self, stream: Upstream, stanza: Element, to: str) -> None:
        if to:
            for one in self.live(to):
                self.deliver(one, deepcopy(stanza))
            return
        stream.available = stanza.get("type") != "unavailable"
        for one in self.live(stream.bare):
            self.deliver(one, deepcopy(stanza))
            if one is not stream and one.available:
                self.deliver(stream, parsed(f"<presence from='{one.jid}'/>"))
        while stream.available and self.offline.get(stream.bare):
            self.deliver(stream, self.offline[stream.bare].pop(0))

    def _iq(self, stream: Upstream, stanza: Element, to: str) -> None:
        payload = stanza[0] if len(stanza) else Element("none")
        if "/" in to:
            for one in self.live(to):
                self.deliver(one, deepcopy(stanza))
        elif stanza.get("type") not in ("get", "set"):
            return
        elif payload.tag.endswith("}pubsub"):
            self._pubsub(stream, stanza, payload, to)
        elif payload.tag == f"{{{CARBONS}}}enable":
            stream.carbons = True
            self.answer(stream, stanza)
        elif payload.tag == "{urn:xmpp:ping}ping":
            self.answer(stream, stanza)
        else:
            self._refuse(stream, stanza, "service-unavailable")

    def _pubsub(
        self, stream: Upstream, stanza: Element, payload: Element, to: str
    ) -> None:
        part = payload[0]
        key = (to, part.get("node", ""))
        word = self.pep_answers.get(key, "")
        if word == "silent":
            return
        if word:
            self._refuse(stream, stanza, word)
        elif stanza.get("type") == "get":
            self._items(stream, stanza, key)
        else:
            for item in part if part.tag.endswith("}publish") else ():
                ident = item.get("id") or f"item-{next(self._count)}"
                self.pep.setdefault(key, {})[ident] = item
            for item in part if part.tag.endswith("}retract") else ():
                self.pep.get(key, {}).pop(item.get("id", ""), None)
            self.answer(stream, stanza)

    def _items(self, stream: Upstream, stanza: Element, key: tuple[str, str]) -> None:
        if key not in self.pep:
            self._refuse(stream, stanza, "item-not-found")
            return
        found = "".join(render(one, PUBSUB) for one in self.pep[key].values())
        self.answer(
            stream,
            stanza,
            f"<pubsub xmlns='{PUBSUB}'><items node={quoteattr(key[1])}>{found}"
            "</items></pubsub>",
        )

    def answer(self, stream: Upstream, stanza: Element, payload: str = "") -> None:
        self._reply(stream, stanza, "result", payload)

    def _refuse(self, stream: Upstream, stanza: Element, condition: str) -> None:
        if stanza.get("type") not in ("error", "result"):
            error = f"<error type='cancel'><{condition} xmlns='{STANZAS}'/></error>"
            self._reply(stream, stanza, "error", error)

    def _reply(
        self, stream: Upstream, stanza: Element, kind: str, payload: str
    ) -> None:
        name = stanza.tag.partition("}")[2]
        sender = f" from={quoteattr(stanza.get('to', ''))}" if stanza.get("to") else ""
        ident = f" id={quoteattr(stanza.get('id', ''))}" if stanza.get("id") else ""
        self.deliver(
            stream,
            parsed(
                f"<{name} type='{kind}'{ident}{sender} to={quoteattr(stream.jid)}>"
                f"{payload}</{name}>"
            ),
        )


def carbon(stanza: Element, word: str, bare: str, to: str) -> Element:
    """A copy as the server of *bare* makes it (XEP-0280)."""
    outer = Element(MESSAGE, {"from": bare, "to": to, "type": "chat"})
    wrapper = SubElement(outer, f"{{{CARBONS}}}{word}")
    SubElement(wrapper, f"{{{FORWARD}}}forwarded").append(deepcopy(stanza))
    return outer


def without(tag: str) -> Hook:
    """Stanzas with such a child get lost."""
    return lambda _, stanza: [] if stanza.find(tag) is not None else None


def _private(stanza: Element) -> bool:
    names = {child.tag for child in stanza}
    return bool(names & {f"{{{CARBONS}}}private", "{urn:xmpp:hints}no-copy"})


def sealed(stanzas: list[Element]) -> list[Element]:
    """Those that carry a seal."""
    return [
        one
        for one in stanzas
        if one.tag == MESSAGE and any(child.tag in SEALS for child in one)
    ]


def payload_of(message: Element) -> bytes:
    """The sealed bytes of a message."""
    seal = next(child for child in message if child.tag in SEALS)
    return base64.b64decode(seal.findtext(PAYLOAD) or "")


def with_payload(
    message: Element, payload: bytes | str, *, grants: bool = False
) -> Element:
    """A copy of *message* with another payload, without its grants unless said."""
    fresh = deepcopy(message)
    seal = next(child for child in fresh if child.tag in SEALS)
    for part in list(seal):
        if part.tag == PAYLOAD:
            text = payload if isinstance(payload, str) else None
            part.text = text or base64.b64encode(cast("bytes", payload)).decode()
        elif not grants:
            seal.remove(part)
    return fresh


ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@c.test"


@dataclass
class Couple:
    """Alice and Bob, each behind a Tillie of their own.

    ``a`` is Alice's Tillie and ``b`` Bob's.
    """

    world: World
    a: Tillie
    b: Tillie
    alice: Client
    bob: Client

    @property
    def account(self) -> Account:
        """Alice's account, on whom most attacks of the tests fall."""
        return self.a.account(ALICE)

    def capture(self, text: str = "a captured text", *, kind: str = "chat") -> Element:
        """A sealed message of Bob to Alice that did not reach her."""
        with self.caught() as kept:
            self.bob.say(ALICE, text, kind=kind, ident=f"id of {text}")
        return kept[0]

    @contextmanager
    def caught(self) -> Iterator[list[Element]]:
        """Sealed messages are kept from all readers meanwhile, and gathered."""
        kept: list[Element] = []

        def keep(_: Upstream, stanza: Element) -> list[Element] | None:
            if stanza.tag != MESSAGE:
                return None
            kept.append(deepcopy(stanza))
            return []

        before, self.world.arriving = self.world.arriving, keep
        yield kept
        self.world.arriving = before


def couple(*, talked: bool = True, settings: Settings | None = None) -> Couple:
    """Both logged in; *talked* where each has read a message of the other."""
    world = World()
    a, b = world.tillie(settings), world.tillie()
    both = Couple(world, a, b, world.login(a, ALICE), world.login(b, BOB))
    if talked:
        both.alice.say(BOB, "first of alice")
        both.bob.say(ALICE, "first of bob")
        assert both.bob.bodies == ["first of alice"]
        assert both.alice.bodies == ["first of bob"]
    return both


def link(old: Tillie, new: Tillie, jid: str) -> None:
    """Join *new* to the account of *old*; a client is logged in at each."""
    offer = cast("dict[str, str]", old.command("link", account=jid))
    assert new.command("link", account=jid, code=offer["code"]) == {"joined": True}
