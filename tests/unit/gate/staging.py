"""A stream of the gate without sockets: a registry in memory, a scripted server."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

from proxy.core.streams import SASL, TLS, header
from proxy.gate import effects
from proxy.gate.admission import answer
from proxy.gate.between import Domains, Outcome
from proxy.gate.disclosure import DirectoryState
from proxy.gate.enforce import Enforcement, Terms
from proxy.gate.inquiry import Finding
from proxy.gate.line import World
from proxy.gate.policy import Policies
from proxy.gate.questions import Answer, Question, Unavailable
from proxy.gate.stream import Stream
from proxy.keys import servers
from proxy.keys.documents import make_doc
from proxy.keys.handshake import Channel, Presentation, present, vouch_statement
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import Manifest
from proxy.keys.registry import MemoryRegistry
from proxy.suites.fields import b64, unb64
from tests.support.persons import NOW, Person

AUTH = "urn:x-tillie:auth:0"
DOMAIN = "capulet.example"
ADDRESS = "192.0.2.7"
BIND = "urn:ietf:params:xml:ns:xmpp-bind"
MECHANISMS = (
    f"<mechanisms xmlns='{SASL}'><mechanism>SCRAM-SHA-1</mechanism>"
    "<mechanism>PLAIN</mechanism></mechanisms>"
)
AFTER = f"<bind xmlns='{BIND}'/><sm xmlns='urn:xmpp:sm:3'/>"
_KEY = RootPrivate.generate()


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Stage:
    """One stream; what it sends is in `to_client` and `to_server`, in order.

    `away` makes the registry unavailable, `held` keeps its answers back until
    `release()`. `directory` is what is known of the directory, without `signs` the signing
    process is away. `sought` holds probes and inquiries until `find()`. `notes`, `revoked` and `reached` hold what else it asked for.
    """

    person: Person | None = field(default_factory=Person)
    policies: Policies = field(default_factory=Policies)
    domains: tuple[str, ...] = (DOMAIN,)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    world: World | None = None
    direct: bool = False
    address: str = ADDRESS
    clock: Clock = field(default_factory=Clock)
    away: bool = False
    held: bool = False
    enforcement: Enforcement = field(
        default_factory=lambda: Enforcement("pass", "pass")
    )
    others: Domains | None = None
    directory: DirectoryState = "answering"
    signs: bool = True

    def __post_init__(self) -> None:
        if self.world is None:
            self.world = World(
                self.domains,
                self.policies,
                self.clock,
                map(str, count()).__next__,
                terms=Terms(self.enforcement, self.others),
            )
        self.stream = Stream(self.world, self.address, direct=self.direct)
        self.to_client = b""
        self.to_server = b""
        self.notes: list[effects.Note] = []
        self.revoked: list[tuple[str, tuple[bytes, ...]]] = []
        self.reached: list[str] = []
        self.asked: list[Question] = []
        self.delays: list[int] = []
        self.sought: list[effects.Probe | effects.Inquire] = []
        self.signatures = 0
        self.closed = False
        self.tls = ""
        self.nonce = b""
        self.jid = ""
        self.exporter = bytes(range(32))
        self.device = self.person.device if self.person else DevicePrivate.generate()
        self.root = self.person.fingerprint if self.person else None
        self._waiting: list[effects.Effect] = []

    @property
    def user(self) -> str:
        return self.person.jid.partition("@")[0] if self.person else "juliet"

    @property
    def keyed(self) -> list[str]:
        """The accounts that have a key."""
        with self.registry.transaction():
            return [one.jid for one in self.registry.accounts()]

    # -- moving bytes ------

    def client(self, data: str | bytes) -> bytes:
        """The client sends; what the client gets for it."""
        raw = data.encode() if isinstance(data, str) else data
        return self._run(lambda: self.stream.client_data(raw))

    def server(self, data: str | bytes) -> bytes:
        """The server sends; what the client gets for it."""
        raw = data.encode() if isinstance(data, str) else data
        return self._run(lambda: self.stream.backend_data(raw))

    def call(self, call: Any, *arguments: Any) -> bytes:
        """Anything else happens; what the client gets for it."""
        return self._run(lambda: call(*arguments))

    def wait(self, milliseconds: int) -> bytes:
        """Time passes."""
        self.clock.now += milliseconds
        return self.call(self.stream.tick)

    def passed(self, data: str | bytes) -> bytes:
        """The client sends; what the server gets for it."""
        before = len(self.to_server)
        self.client(data)
        return self.to_server[before:]

    def release(self) -> bytes:
        """The registry answers what was held."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        return self._run(lambda: [self._one(effect) for effect in waiting])

    def find(self, finding: Outcome | Finding) -> bytes:
        """The oldest probe or inquiry that somebody waits for comes to *finding*."""
        while not (effect := self.sought.pop(0)).number:
            pass
        return self._run(lambda: self.stream.found(effect.number, finding))

    def _run(self, call: Any) -> bytes:
        before = len(self.to_client)
        call()
        while effects_ := self.stream.take():
            for effect in effects_:
                self._one(effect)
        return self.to_client[before:]

    def _one(self, effect: effects.Effect) -> None:
        match effect:
            case effects.ToClient(data=data):
                assert not self.closed
                self.to_client += data
            case effects.ToBackend(data=data):
                self.to_server += data
            case effects.Reach(domain=domain):
                self.reached.append(domain)
            case effects.StartTls(domain=domain):
                self.tls = domain
            case effects.Close():
                self.closed = True
            case effects.Note():
                self.notes.append(effect)
            case effects.Revoke(account=account, devices=devices):
                self.revoked.append((account, devices))
            case effects.Probe() | effects.Inquire():
                self.sought.append(effect)
            case _ if self.held:
                self._waiting.append(effect)
            case effects.Later(number=number, milliseconds=milliseconds):
                self.delays.append(milliseconds)
                self.stream.due(number)
            case effects.Ask(number=number, question=question):
                self.asked.append(question)
                self.stream.answered(number, self.answer(question))
            case effects.Prove(number=number, domain=domain, statement=statement):
                proof = _KEY.sign_ed25519(statement)
                self.stream.proved(number, proof, server_document(domain))
            case effects.Hear(number=number):
                self.stream.found(number, self.directory)
            case effects.Sign(number=number, typ=typ, claims=claims):
                signed = make_doc(claims, typ, _KEY) if self.signs else None
                self.signatures += signed is not None
                self.stream.signed(number, signed)

    def answer(self, question: Question) -> Answer:
        if self.away:
            return Unavailable("away")
        with self.registry.transaction():
            return answer(question, self.registry, self.clock.now)

    # -- the way in ------

    def secured(self) -> Stage:
        """TLS is up; nothing was sent in it yet."""
        if not self.direct:
            self.client(header(to=DOMAIN))
            self.client(f"<starttls xmlns='{TLS}'/>")
        self.call(self.stream.client_secured, self.exporter, DOMAIN)
        return self

    def at_door(self, features: str = MECHANISMS) -> Stage:
        """The client has the server's features."""
        self.secured()
        self.client(header(to=DOMAIN))
        self.call(self.stream.backend_up)
        said = self.greet(features)
        if found := re.search(rb"nonce='([^']*)'", said):
            self.nonce = unb64(found[1].decode())
        return self

    def greet(self, features: str) -> bytes:
        """The server's header and features."""
        hello = header(from_=DOMAIN, stream_id="s1").decode()
        return self.server(f"{hello}<stream:features>{features}</stream:features>")

    @property
    def channel(self) -> Channel:
        return Channel(DOMAIN, self.nonce, self.exporter)

    def presentation(self) -> str:
        signature = b64(present(self.channel, self.device, self.root))
        root = f" root='{b64(self.root)}'" if self.root else ""
        return (
            f"<present xmlns='{AUTH}' device='{b64(self.device.public)}'{root}>"
            f"{signature}</present>"
        )

    def presented(self, features: str = MECHANISMS) -> Stage:
        self.at_door(features)
        assert b"<presented" in self.client(self.presentation())
        return self

    def logged_in(self, *, shown: bool = True) -> Stage:
        """SASL is done and the features behind it are there."""
        if shown:
            self.presented()
        else:
            self.at_door()
        self.client(plain(self.user, "secret"))
        self.server(f"<success xmlns='{SASL}'/>")
        self.client(header(to=DOMAIN))
        self.greet(AFTER)
        return self

    def bound(self, *, shown: bool = True, resource: str = "r") -> Stage:
        """The server has named the account."""
        self.logged_in(shown=shown)
        self.bind(f"{self.user}@{DOMAIN}/{resource}")
        return self

    def bind(self, jid: str) -> bytes:
        self.client(f"<iq type='set' id='b1'><bind xmlns='{BIND}'/></iq>")
        self.jid = jid
        return self.server(
            f"<iq type='result' id='b1'><bind xmlns='{BIND}'><jid>{jid}</jid></bind></iq>"
        )

    def vouch(self, manifest: Manifest | None = None, *, sent: bool = True) -> str:
        assert self.person is not None
        shown = manifest or self.person.manifest
        return self.vouching(
            shown.digest,
            f"<manifest>{shown.document}</manifest>" if sent else "",
        )

    def vouching(self, digest: bytes | None, inside: str = "") -> str:
        statement = vouch_statement(
            self.channel, Presentation(self.device.public, self.root), self.jid, digest
        )
        attribute = f" digest='{b64(digest)}'" if digest else ""
        proof = b64(self.device.sign(statement))
        return (
            f"<vouch xmlns='{AUTH}'{attribute}>{inside}<proof>{proof}</proof></vouch>"
        )

    def open(self) -> Stage:
        """A vouched stream: stanzas flow."""
        self.bound()
        assert b"<vouched" in self.client(self.vouch())
        return self

    @property
    def said(self) -> list[str]:
        """The lines for the log."""
        return [note.text for note in self.notes if note.text]


def plain(user: str, password: str, authzid: str = "") -> str:
    secret = base64.b64encode(f"{authzid}\0{user}\0{password}".encode()).decode()
    return f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>"


@cache
def server_document(domain: str) -> servers.ServerDocument:
    claims = servers.server_claims(domain, 1, _KEY.public, NOW)
    return servers.open_server(make_doc(claims, servers.SERVER, _KEY).encode(), domain)


def ended(said: bytes, condition: str, application: str = "") -> bool:
    """Whether these bytes end the stream with that error and no other."""
    if not said.endswith(b"</stream:stream>"):
        return False
    error = said[said.rindex(b"<stream:error>") :]
    inside = f"<{application} xmlns='urn:x-tillie:errors:0'/>".encode()
    return f"<{condition} xmlns=".encode() in error and (
        inside in error if application else b"urn:x-tillie:errors:0" not in error
    )
