"""A bench for the review: accounts and sessions in memory, the far side by hand."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from proxy.core import inbound, outbound
from proxy.core.account import Settings
from proxy.core.arrivals import Arrivals
from proxy.core.house import House
from proxy.core.ledger import Ledger
from proxy.core.phase import Phase
from proxy.core.session import Session
from proxy.core.vocabulary import Send, ToClient, ToServer
from proxy.keys.store import MemoryStore
from proxy.wire import tree
from proxy.wire.jid import Jid
from proxy.wire.stanza import Cleared, Stanza


class Leg:
    def __init__(self):
        self.sent = self.received = 0

    def stanza(self, cleared):
        self.sent += 1
        return [Send(cleared.data)]

    nonza = stanza

    def acknowledge(self):
        return []

    def request_ack(self):
        return []

    def close(self):
        return [Send(b"</stream:stream>")]

    def lost(self, fault):
        return []


class Client:
    domain = "x"

    def stanza(self, data):
        return [Send(data)]

    def end(self, fault):
        return []

    def lost(self):
        return []


class Person:
    """One Tillie with one account and one live stream."""

    def __init__(self, jid, clock, settings=None, store=None):
        self.now = clock
        self.store = store or MemoryStore()
        self.house = House(self.store, lambda: clock[0], settings or Settings())
        self.jid = jid
        self.account = self.house.account(jid)
        self.session = self.live("tillie1")

    def live(self, resource):
        s = self.house.session(tls_available=False, secure=False)
        s.account = self.account
        s.phase = Phase.LIVE
        s.jid = Jid.parse(f"{self.jid}/{resource}")
        s.bound_at = self.now[0]
        s.available = True
        s.client = Client()
        u = s.uplink
        u._ledger = Ledger(self.store, self.jid)
        u._leg = Leg()
        u._managed = True
        u._heard = self.now[0]
        s._arrivals = Arrivals(self.account, s)
        self.account.streams.append(s)
        return s

    def keys(self):
        with self.store.transaction():
            self.account.identity.ensure_device(self.now[0])
            self.account.identity.create("one", self.now[0])
        return self

    def learn(self, other):
        with self.store.transaction():
            ident = other.account.identity
            self.account.contacts.learn(
                other.jid, ident.manifest, [ident.public_prekey()], self.now[0]
            )
        return self

    def say(self, to, inner="<body>hi</body>", type_="chat"):
        st = Stanza.of(
            tree.parse(f"<message to='{to}' type='{type_}' id='1'>{inner}</message>".encode())
        )
        with self.store.transaction():
            v = outbound.decide(self.account, st, self.now[0])
        return v

    def get(self, data, session=None):
        """A stanza of the server; returns (to server, to client)."""
        s = session or self.session
        if isinstance(data, str):
            data = data.encode()
        with self.store.transaction():
            s.uplink._incoming(Stanza.of(tree.parse(data)))
        return self.effects(s)

    def effects(self, s=None):
        up, down = [], []
        for e in (s or self.session).take():
            if isinstance(e, ToServer):
                up.append(e.data.decode())
            elif isinstance(e, ToClient):
                down.append(e.data.decode())
        return up, down


def from_(sender, cleared, to=None):
    e = tree.parse(cleared.data)
    e.set("from", sender)
    if to:
        e.set("to", to)
    return tree.serialise(e)


def pair():
    clock = [1_700_000_000_000]
    a = Person("alice@a.test", clock).keys()
    b = Person("bob@b.test", clock).keys()
    a.learn(b)
    b.learn(a)
    return clock, a, b
