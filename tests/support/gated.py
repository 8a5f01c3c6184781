"""The world of ``simulator`` with a gate before each of its domains.

The gate's stream is played here, bent where a test says so; what it admits is
decided by the very ``gate.admission`` that the program runs.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from proxy.core.account import Settings
from proxy.core.streams import BINDINGS
from proxy.core.vocabulary import TlsFacts
from proxy.errors import TrustFault
from proxy.gate.questions import (
    Allocate,
    Answer,
    Issued,
    Linking,
    MayTry,
    No,
    Object,
    Refused,
    Registered,
    Removed,
    Resume,
    Stale,
    Streamed,
    Vouch,
    Vouched,
    Wanted,
)
from proxy.keys import servers, tokens
from proxy.keys.documents import make_doc
from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_present,
    presented_statement,
    vouch_statement,
)
from proxy.keys.identity import RootPrivate, check_device_signature
from proxy.keys.manifest import open_manifest
from proxy.keys.registry import MemoryRegistry
from proxy.keys.tokens import open_token
from proxy.suites.entropy import token as random_bytes
from proxy.suites.fields import b64, unb64

from .persons import ask
from .raw import BIND, CLIENT, SASL
from .scripted import SM, STREAMS
from .simulator import Client
from .world import Line, ResumingWorld, _ResumingTillie

if TYPE_CHECKING:
    from proxy.core.session import Session

    from .simulator import Tillie

AUTH = "urn:x-tillie:auth:0"
KEY = "urn:x-tillie:key:0"
REGISTER = "jabber:iq:register"
FORM = "jabber:x:data"
FIELD = "urn:x-tillie:key:0#fingerprint"
ERRORS = "urn:x-tillie:errors:0"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


@dataclass
class Domain:
    """One domain's gate: its key, its registry, and what it does wrong.

    :ivar gone: there is no gate any more.
    :ivar tls13: whether TLS is new enough for an exporter.
    :ivar bug: ``unproved``, ``other-key``, ``other-exporter``, ``no-document``,
        ``bad-token``, ``silent`` before login, ``mute`` behind it.
    :ivar skew: how far its clock is off, in milliseconds.
    :ivar passwords: how many SASL messages came.
    :ivar mechanisms: what it offers before login; only PLAIN is played to the end.
    :ivar bindings: types of XEP-0440, if it lists any.
    :ivar words: the SASL message of each login, with its mechanism.
    """

    name: str
    now: int
    key: RootPrivate = field(default_factory=RootPrivate.generate)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    gone: bool = False
    tls13: bool = True
    bug: str = ""
    skew: int = 0
    passwords: int = 0
    mechanisms: tuple[str, ...] = ("PLAIN",)
    bindings: tuple[str, ...] = ()
    words: list[tuple[str, str]] = field(default_factory=list)
    rollovers: list[str] = field(default_factory=list)
    seq: int = 1
    vouches: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publish()

    def publish(self) -> None:
        claims = servers.server_claims(self.name, self.seq, self.key.public, self.now)
        self.document = make_doc(claims, servers.SERVER, self.key)

    def roll_over(self) -> None:
        """A new key, for which the old one vouches."""
        old, self.key = self.key, RootPrivate.generate()
        claims = servers.rollover_claims(
            self.name, old.public.fingerprint, self.key.public, self.now
        )
        self.rollovers = [make_doc(claims, servers.ROLLOVER, old)]
        self.publish()

    def replace_key(self) -> None:
        """A new key, for which nobody vouches."""
        self.key, self.rollovers = RootPrivate.generate(), []
        self.publish()


class GateLine(Line):
    """A stream by way of a gate."""

    world: GatedWorld

    def __init__(self, world: GatedWorld, tillie: Tillie, session: Session) -> None:
        super().__init__(world, tillie, session)
        self.exporter = random_bytes(32)
        self.nonce = random_bytes(16)
        self.shown: Presentation | None = None
        self.judged = Vouched("", b"")
        self.open = False
        self.lingers = False
        self.waiting: list[str] = []
        self.asked: set[str] = set()

    @property
    def domain(self) -> Domain:
        return self.world.domain(self._reader.header.get("to", ""))

    @property
    def facts(self) -> TlsFacts:
        new = self.world.tls13
        return TlsFacts("TLSv1.3", None, None, self.exporter if new else None)

    # -- what the Tillie sends ------

    def _greet(self) -> None:
        if self.bare or self.domain.gone:
            super()._greet()
            return
        self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
            f" xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"
            f" from='{self.domain.name}' id='s'><stream:features>{self._offer()}"
            f"<keys xmlns='{AUTH}' nonce='{b64(self.nonce)}' policy='keys-only'/>"
            "</stream:features>"
        )

    def _offer(self) -> str:
        names = "".join(
            f"<mechanism>{one}</mechanism>" for one in self.domain.mechanisms
        )
        types = "".join(
            f"<channel-binding type='{one}'/>" for one in self.domain.bindings
        )
        listed = f"<sasl-channel-binding xmlns='{BINDINGS}'>{types}" + (
            "</sasl-channel-binding>"
        )
        offer = f"<mechanisms xmlns='{SASL}'>{names}</mechanisms>"
        return offer + (listed if types else "")

    def _element(self, element: Element) -> None:
        if self.over:
            return
        registers = element.find(f"{{{REGISTER}}}query") is not None
        if registers and not self.bare:
            self._account(element)
        elif registers and self._changes(element):
            return
        elif self.domain.gone:
            super()._element(element)
        elif element.tag.startswith(f"{{{AUTH}}}"):
            getattr(self, f"_{element.tag.partition('}')[2]}")(element)
        elif element.tag == f"{{{SASL}}}auth":
            self._login(element)
        elif self.open or element.find(f"{{{BIND}}}bind") is not None:
            super()._element(element)
            if element.tag == f"{{{SM}}}enable":
                self._ask(Streamed(self.bare, self.previd, self.jid))
        elif element.tag == f"{{{SM}}}resume":
            self._try_resume(element)
        elif self.shown is not None and self.bare and self._passes(element):
            super()._element(element)
        elif element.tag.startswith(f"{{{CLIENT}}}"):
            self.world.refused.append(element)

    # -- accounts ------

    def _account(self, element: Element) -> None:
        """In-band registration, before login (14.14)."""
        query = element.find(f"{{{REGISTER}}}query")
        assert query is not None
        ident = element.get("id", "")
        if element.get("type") == "get":
            field = (
                f"<x xmlns='{FORM}' type='form'><field type='hidden' var='FORM_TYPE'>"
                f"<value>{REGISTER}</value></field><field var='{FIELD}'>"
                "<required/></field></x>"
            )
            if self.domain.gone:
                field = ""
            self.send(
                f"<iq type='result' id='{ident}'><query xmlns='{REGISTER}'>"
                f"<username/><password/>{field}</query></iq>"
            )
            return
        name = query.findtext(f"{{{REGISTER}}}username") or ""
        manifest = query.findtext(f"{{{AUTH}}}manifest")
        root = query.findtext(
            f"{{{FORM}}}x/{{{FORM}}}field[@var='{FIELD}']/{{{FORM}}}value"
        )
        if not self.world.lose:
            self._register(ident, f"{name}@{self.domain.name}", manifest, root)

    def _register(
        self, ident: str, jid: str, manifest: str | None, root: str | None
    ) -> None:
        name = jid.partition("@")[0]
        if not self.domain.gone:
            assert self.shown is not None
            assert manifest is not None
            assert root is not None
            asked = Allocate(jid, self.shown.device, unb64(root), manifest.encode())
            if isinstance(self._ask(asked), Refused):
                self._no(ident, "not-acceptable")
                return
        done = name not in self.world.taken
        if not self.domain.gone:
            self._ask(Registered(jid, unb64(root or ""), done))
        if done:
            self.world.taken.add(name)
            self.world.registered.append((name, False))
        if self.world.mute:
            return
        if done:
            self.send(f"<iq type='result' id='{ident}'/>")
        else:
            self._no(ident, "conflict")

    def _no(self, ident: str, condition: str) -> None:
        self.send(
            f"<iq type='error' id='{ident}'><error type='cancel'>"
            f"<{condition} xmlns='{STANZAS}'/></error></iq>"
        )

    def _changes(self, element: Element) -> bool:
        """A password is changed or the account removed, as the test says."""
        query = element.find(f"{{{REGISTER}}}query")
        if query is None or not self.bare:
            return False
        if query.find(f"{{{REGISTER}}}remove") is not None:
            self._ask(Removed(self.bare))
        ident = element.get("id", "")
        if self.world.change == "result":
            self.send(f"<iq type='result' id='{ident}'/>")
        else:
            self._no(ident, "not-allowed")
        return True

    def _present(self, element: Element) -> None:
        domain = self.domain
        root = element.get("root")
        shown = Presentation(
            unb64(element.get("device", "")), unb64(root) if root else None
        )
        channel = Channel(domain.name, self.nonce, self.exporter)
        check_present(channel, shown, unb64(element.text or ""))
        self.shown = shown
        known = element.get("server") == b64(self._digest())
        time = self.world.now + domain.skew
        key = RootPrivate.generate() if domain.bug == "other-key" else domain.key
        if domain.bug == "other-exporter":
            channel = Channel(domain.name, self.nonce, bytes(32))
        proof = key.sign_ed25519(presented_statement(channel, shown, time))
        if domain.bug == "unproved":
            proof = bytes(64)
        rollovers = "".join(f"<rollover>{one}</rollover>" for one in domain.rollovers)
        server = (
            f"<server xmlns='{KEY}'><document>{domain.document}</document>"
            f"{rollovers}</server>"
        )
        if known or domain.bug == "no-document":
            server = ""
        if domain.bug != "silent":
            self.send(
                f"<presented xmlns='{AUTH}' time='{time}'>{server}"
                f"<proof>{b64(proof)}</proof></presented>"
            )

    def _digest(self) -> bytes:
        domain = self.domain
        return servers.open_server(domain.document.encode(), domain.name).digest

    def _login(self, element: Element) -> None:
        self.domain.passwords += 1
        assert self.shown is not None
        said = base64.b64decode(element.text or "").decode()
        mechanism = element.get("mechanism", "")
        self.domain.words.append((mechanism, said))
        if mechanism != "PLAIN":
            self.send(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
            return
        local = said.split("\0")[1]
        account = f"{local}@{self.domain.name}"
        asked = MayTry(account, self.shown.device, self.shown.root)
        if isinstance(self._ask(asked), No):
            self.send(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
        else:
            super()._element(element)

    def _ask(self, question: object) -> Answer:
        return ask(self.domain.registry, question, self.world.now)  # type: ignore[arg-type]

    def _passes(self, element: Element) -> bool:
        items = "{http://jabber.org/protocol/pubsub}pubsub/"
        items += "{http://jabber.org/protocol/pubsub}items"
        if element.tag.endswith("}iq"):
            ping = element.find("{urn:xmpp:ping}ping") is not None
            reads = element.get("type") == "get" and element.find(items) is not None
            return ping or reads
        linking = [
            one.tag
            for one in element
            if one.tag.endswith(("}link-request", "}link-answer"))
        ]
        return self.lingers and len(linking) == 1

    # -- vouching ------

    def _vouch(self, element: Element) -> None:
        domain = self.domain
        assert self.shown is not None
        text = element.get("digest")
        digest = unb64(text) if text else None
        channel = Channel(domain.name, self.nonce, self.exporter)
        statement = vouch_statement(channel, self.shown, self.jid, digest)
        proof = unb64(element.findtext(f"{{{AUTH}}}proof") or "")
        check_device_signature(self.shown.device, proof, statement)
        manifest = element.findtext(f"{{{AUTH}}}manifest")
        rollover = element.findtext(f"{{{AUTH}}}rollover")
        domain.vouches.append(
            "manifest" if manifest else "digest" if digest else "none"
        )
        answer = self.world.verdict or self._ask(
            Vouch(
                self.bare,
                self.shown.device,
                self.shown.root,
                digest,
                manifest.encode() if manifest else None,
                rollover=rollover.encode() if rollover else None,
                code=element.findtext(f"{{{AUTH}}}code") or "",
            )
        )
        if isinstance(answer, Vouched):
            self.judged = answer
        if domain.bug != "mute":
            self._say(answer)

    def _say(self, answer: Answer) -> None:
        match answer:
            case Vouched():
                self._vouched(answer)
            case Wanted():
                self.send(f"<wanted xmlns='{AUTH}'/>")
            case Stale(manifest=manifest):
                self.send(
                    f"<stale xmlns='{AUTH}'><manifest>{manifest}</manifest></stale>"
                )
            case Linking(manifest=manifest):
                self.lingers = True
                self.send(
                    f"<linking xmlns='{AUTH}'><manifest>{manifest}</manifest></linking>"
                )
            case Refused(condition=condition, text=text):
                self.send(
                    f"<stream:error><not-authorized xmlns='{STREAMS}'/>"
                    f"<text xmlns='{STREAMS}'>{text}</text>"
                    f"<{condition} xmlns='{ERRORS}'/></stream:error></stream:stream>"
                )
                self.over = True

    def _vouched(self, answer: Vouched) -> None:
        domain, now = self.domain, self.world.now
        manifest = open_manifest(answer.manifest.encode(), self.bare)
        token = answer.token
        if not token or not self._signed_by_us(token):
            key = RootPrivate.generate() if domain.bug == "bad-token" else domain.key
            claims = tokens.token_claims(
                manifest, random_bytes(16), now, answer.previous
            )
            token = make_doc(claims, tokens.TYP, key)
            opened = open_token(token.encode(), self.bare, key.public)
            self._ask(
                Issued(self.bare, token, opened.digest, manifest.digest, opened.expires)
            )
        reset = f" reset='{answer.reset}'" if answer.reset else ""
        self.open = True
        self.send(f"<vouched xmlns='{AUTH}'{reset}><token>{token}</token></vouched>")
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            super().send(one)

    def _signed_by_us(self, token: str) -> bool:
        """Not where it was signed before the domain's key changed."""
        try:
            open_token(token.encode(), self.bare, self.domain.key.public)
        except TrustFault:
            return False
        return True

    def _object(self, element: Element) -> None:
        assert self.shown is not None
        due = int(element.get("reset", "0"))
        self.world.objections.append(self.bare)
        self._ask(Object(self.bare, self.shown.device, due))

    # -- resumption ------

    def _try_resume(self, element: Element) -> None:
        assert self.shown is not None
        previd = element.get("previd", "")
        answer = self._ask(
            Resume(previd, self.domain.name, self.shown.device, self.shown.root)
        )
        if isinstance(answer, No):
            super().send(
                f"<failed xmlns='{SM}'><not-authorized xmlns='{STANZAS}'/></failed>"
            )
            return
        self.open = True
        super()._element(element)


class _GatedTillie(_ResumingTillie):
    world: GatedWorld

    def _connected(self, session: Session) -> None:
        line = GateLine(self.world, self, session)
        self.world.upstreams.append(line)
        self.call(session, lambda: session.server_connected("direct"))
        self.call(session, lambda: session.server_secured(line.facts, None))


class GatedWorld(ResumingWorld):
    """See the module.

    :ivar verdict: what every gate says instead of what it should.
    :ivar refused: stanzas that a gate did not pass.
    :ivar objections: accounts of which a device objected to a reset.
    :ivar taken: names that cannot be registered any more.
    :ivar registered: what was, with whether the server saw anything of a key.
    :ivar mute: registrations are done and their answers lost; ``lose``: they are
        not even done.
    :ivar change: what a change of an account is answered with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.domains: dict[str, Domain] = {}
        self.verdict: Answer | None = None
        self.refused: list[Element] = []
        self.objections: list[str] = []
        self.tls13 = True
        self.taken: set[str] = set()
        self.registered: list[tuple[str, bool]] = []
        self.mute = False
        self.lose = False
        self.change = ""

    def domain(self, name: str) -> Domain:
        if name not in self.domains:
            self.domains[name] = Domain(name, self.now)
        return self.domains[name]

    def tillie(self, settings: Settings | None = None) -> Tillie:
        self._tillies.append(_GatedTillie(self, settings or Settings()))
        return self._tillies[-1]

    def gate_line(self, client: Client) -> GateLine:
        found = client.upstream
        assert isinstance(found, GateLine)
        return found
