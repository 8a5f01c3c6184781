"""More of the world of ``simulator``: a server that resumes, and who lies.

The server here keeps streams that were cut (XEP-0198, 5), so that what a kill or
a dead line leaves can be tried stanza by stanza.
"""

from __future__ import annotations

import base64
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from proxy.core import grants
from proxy.core.account import Account, Settings
from proxy.core.directory import KEY, PREKEY
from proxy.core.keyrequests import Request
from proxy.core.writing import Reader
from proxy.errors import EnvFault
from proxy.rules import envelope
from proxy.suites import lanes
from proxy.suites.fields import b64

from .raw import BIND, CLIENT, SASL, STREAM
from .scripted import SM, render
from .simulator import (
    ALICE,
    BOB,
    CARBONS,
    LANE,
    MESSAGE,
    PAYLOAD,
    SEAL,
    SEALS,
    Client,
    Couple,
    Tillie,
    Upstream,
    World,
    parsed,
    payload_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.core.session import Session


# -- a server that resumes -------------------------------------------------------


class Line(Upstream):
    """A stream that can be resumed.

    :ivar lossy: while true, what the Tillie writes gets lost on the way.
    :ivar told: how many stanzas its Tillie has acknowledged.
    :ivar unacknowledged: the stanzas that its Tillie has not acknowledged.
    """

    world: ResumingWorld

    def __init__(self, world: World, tillie: Tillie, session: Session) -> None:
        super().__init__(world, tillie, session)
        self.lossy = False
        self.previd = ""
        self.sent = 0
        self.told = 0
        self.unacknowledged: deque[tuple[int, str]] = deque()

    def take(self, data: bytes) -> None:
        if self.over:
            return
        self.raw += data
        if self.lossy:
            return
        if data.startswith(b"<?xml"):
            self.world.later(self._greet)
        if data.endswith(b"</stream:stream>"):
            self._closed()
            return
        for element in self._reader.feed(data):
            if element.tag == f"{{{SM}}}a":
                self._acknowledged(int(element.get("h", "0")))
            else:
                self.world.later(lambda element=element: self._element(element))

    def hold(self, stanza: str | Element) -> None:
        """A stanza comes for this stream while nobody listens."""
        self.sent += 1
        text = render(stanza) if isinstance(stanza, Element) else stanza
        self.unacknowledged.append((self.sent, text))

    def send(self, xml: str) -> None:
        if self.managed and not self.over and xml.startswith(("<m", "<p", "<i")):
            for one in parsed(f"<all>{xml}</all>"):
                self.hold(one)
        super().send(xml)

    def _acknowledged(self, h: int) -> None:
        self.told = max(self.told, h)
        while self.unacknowledged and self.unacknowledged[0][0] <= h:
            self.unacknowledged.popleft()

    def _closed(self) -> None:
        """A good end: what was not acknowledged is for the next login."""
        self.over = True
        self.world.cut.pop(self.previd, None)
        for _, text in self.unacknowledged:
            stanza = parsed(text)
            if stanza.tag == MESSAGE:
                self.world._store(self.bare, stanza)

    def _element(self, element: Element) -> None:
        if self.over:
            return
        if element.tag == f"{{{SM}}}enable":
            self.managed, self.handled, self.sent = True, 0, 0
            self.previd = f"previd-{next(self.world.names)}"
            self.world.cut[self.previd] = self
            super().send(f"<enabled xmlns='{SM}' resume='true' id='{self.previd}'/>")
        elif element.tag == f"{{{SM}}}resume":
            self._resume(element.get("previd", ""), int(element.get("h", "0")))
        else:
            super()._element(element)

    def _resume(self, previd: str, h: int) -> None:
        self.world.resumed.append(previd)
        old = self.world.cut.get(previd)
        if old is not None and h < old.told:
            # as Prosody does: who knows less than it said before is not believed
            super().send(f"<failed xmlns='{SM}' h='{old.handled}'/>")
            super().send(
                "<stream:error><undefined-condition"
                " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
                "</stream:stream>"
            )
            old._closed()
            self.over = True
            return
        if old is None:
            super().send(
                f"<failed xmlns='{SM}'><item-not-found"
                " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
            )
            return
        old.over, self.managed = True, True
        self.jid, self.bare, self.available = old.jid, old.bare, old.available
        self.carbons, self.handled, self.sent = old.carbons, old.handled, old.sent
        self.previd, self.unacknowledged = previd, old.unacknowledged
        self.told = old.told
        self.world.cut[previd] = self
        self._acknowledged(h)
        super().send(f"<resumed xmlns='{SM}' previd='{previd}' h='{self.handled}'/>")
        for _, text in list(self.unacknowledged):
            self.world.later(lambda text=text: Upstream.send(self, text))


class _ResumingTillie(Tillie):
    def call(self, session: Session | None, work: Callable[[], None]) -> None:
        if session is None or session in self.clients:
            # a killed program does nothing more, whatever was under way for it
            super().call(session, work)

    def _connected(self, session: Session) -> None:
        self.world.upstreams.append(Line(self.world, self, session))
        self.call(session, lambda: session.server_connected("off"))


class ResumingWorld(World):
    """Its server keeps cut streams.

    :ivar cut: by the id that resumes it: each stream that has not ended well.
    :ivar resumed: the ids that Tillies asked to resume, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut: dict[str, Line] = {}
        self.resumed: list[str] = []
        self.names = itertools.count(1)

    def tillie(self, settings: Settings | None = None) -> Tillie:
        self._tillies.append(_ResumingTillie(self, settings or Settings()))
        return self._tillies[-1]

    def step(self) -> bool:
        """Do one thing that is under way; whether there was one."""
        if self._work:
            self._work.popleft()()
        return bool(self._work)

    def line(self, client: Client) -> Line:
        found = client.upstream
        assert isinstance(found, Line)
        return found

    def break_line(self, client: Client) -> None:
        """The connection between a Tillie and its server dies; both notice."""
        client.upstream.over = True
        fault = EnvFault("the line is dead")
        client.tillie.call(client.session, lambda: client.session.server_lost(fault))
        self.settle()

    def begin_login(self, tillie: Tillie, jid: str, resource: str = "one") -> Client:
        """What :meth:`World.login` does, with nothing done yet behind the Tillie."""
        local, _, domain = jid.partition("@")
        session = tillie.house.session(tls_available=False, secure=False)
        client = tillie.clients[session] = Client(tillie, session)
        header = (
            f"<?xml version='1.0'?><stream:stream xmlns='{CLIENT}'"
            f" xmlns:stream='{STREAM}' to='{domain}' version='1.0'>"
        )
        plain = base64.b64encode(f"\0{local}\0secret-of-{local}".encode()).decode()

        def write(text: str) -> None:
            tillie.call(session, lambda: session.client_data(text.encode()))

        write(header)
        write(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>")

        def rest() -> None:
            # the client goes on when it was let in, which is later
            if b"<success" not in bytes(client.raw):
                if session in tillie.clients and not session.over:
                    self.later(rest)
                return
            write(header)
            write(
                f"<iq type='set' id='bind'><bind xmlns='{BIND}'>"
                f"<resource>{resource}</resource></bind></iq>"
            )
            write(f"<iq type='set' id='cc'><enable xmlns='{CARBONS}'/></iq>")
            write("<presence/>")

        self.later(rest)
        return client


# -- who lies ----------------------------------------------------------------------

Items = dict[tuple[str, str], dict[str, Element]]


def impostor(jid: str) -> tuple[Account, Items]:
    """Keys that somebody made in the name of *jid*: all of them, and as published."""
    world = World()
    tillie = world.tillie()
    world.login(tillie, jid)
    return tillie.account(jid), {
        (jid, node): world.pep[jid, node] for node in (KEY, PREKEY)
    }


def lane_of(message: Element) -> bytes:
    """The id of the lane that a sealed *message* is under."""
    return lanes.Header.unpack(payload_of(message)).lane


def keyreq(
    signer: Account, owner: str, lane: bytes, *, now: int, seq: int = 1, prekey: int = 1
) -> str:
    """A key request of *signer*'s device, as its Tillie would sign it."""
    identity = signer.identity
    request = Request(
        requester=signer.jid,
        root=identity.fingerprint,
        device=identity.device.public,
        owner=owner,
        lane=lane,
        n=0,
        prekey=prekey,
        seq=seq,
        time=now,
        nonce=bytes(16),
        signature=b"",
    )
    signed = replace(request, signature=identity.device.sign(request.statement()))
    return (
        f"<keyreq xmlns='{LANE}' owner='{owner}' root='{b64(signed.root)}'"
        f" device='{b64(signed.device)}' lane='{b64(lane)}' n='0' prekey='{prekey}'"
        f" seq='{seq}' time='{now}' nonce='{b64(signed.nonce)}'>"
        f"{b64(signed.signature)}</keyreq>"
    )


def reseal(
    c: Couple,
    *,
    sender: str = BOB,
    to: str = ALICE,
    accounts: object = None,
    content: bytes = b"<body xmlns='jabber:client'>misused</body>",
) -> Element:
    """A message of Bob's whose inside says what he should not say.

    Bob holds real keys and breaks the rules; the lane is granted to Alice.

    :param content: the bytes between the envelope's content tags.
    """
    bob = c.b.account(BOB)
    contact = bob.contacts.get(ALICE)
    assert contact is not None
    inside = envelope.Envelope("chat", "m", sender, to, (), {})
    plaintext = envelope.write(inside, c.world.now)
    empty = b"<content/>" if b"<content/>" in plaintext else b"<content></content>"
    assert plaintext.count(empty) == 1
    plaintext = plaintext.replace(empty, b"<content>" + content + b"</content>")
    with c.b.writing():
        bob.ratchets.rotate(ALICE)
        readers = [Reader(ALICE, one.public, key) for one, key in contact.readers]
        audience = accounts or bob.audience(contact)
        lane = bob.ratchets.ready(ALICE, audience, readers, c.world.now)  # type: ignore[arg-type]
        bob.ratchets.mark_granted(ALICE, lane, readers)
        boxes = [
            grants.grant_for(one, bob.ratchets.grant(lane, one)) for one in readers
        ]
        payload = bob.ratchets.seal(
            ALICE,
            lane,
            plaintext,
            lanes.Bound("chat", BOB),
            flags=lanes.WITH_GRANTS,
        )
    message = Element(
        MESSAGE, {"from": f"{BOB}/one", "to": ALICE, "type": "chat", "id": "m"}
    )
    seal = SubElement(message, SEALS[0])
    SubElement(seal, PAYLOAD).text = b64(payload)
    seal.append(grants.wrapped(bob, boxes))
    return message


def unknown_seal(salt: int) -> str:
    """A seal of the right form under a lane that nobody has."""
    header = bytes((0, 1, 0)) + salt.to_bytes(16, "big") + bytes(4 + 8 + 16)
    payload = base64.b64encode(header + bytes(64 + 32 + 16)).decode()
    return f"<encrypted xmlns='{SEAL}'><payload>{payload}</payload></encrypted>"


@contextmanager
def refusing(c: Couple, shelf: str) -> Iterator[None]:
    """While it lasts, Alice's disk cannot be read where *shelf* lies."""
    from proxy.errors import StoreFault

    store = c.a.store

    def broken(read: Callable[..., object]) -> Callable[..., object]:
        def reading(on: str, *rest: object) -> object:
            if on == shelf:
                raise StoreFault("the disk cannot be read")
            return read(on, *rest)

        return reading

    store.get, store.scan = broken(store.get), broken(store.scan)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del store.get, store.scan  # type: ignore[method-assign]
