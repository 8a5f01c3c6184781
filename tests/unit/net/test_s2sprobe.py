"""Probing servers as a server does, on loopback sockets (protocol.md, 17.2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from proxy.app.addresses import Address
from proxy.app.gatebeyond import Beyond, borders
from proxy.gate.between import BAD_MS, GOOD_MS, UNREACHED_MS, Domains, Outcome
from proxy.net import s2sprobe
from proxy.net.connector import Connector
from proxy.net.dns import Candidate, Resolver
from proxy.net.registry import RegistryWorker
from proxy.net.s2sprobe import Prober
from tests.support.signer import MemorySigner

from .authority import NOW, Authority, Identity, authority, srv_name
from .scripted import Peer, Server, closed_port, reactor, serving
from .zone import Zone, answering

NAME = "verona.example"
DAY = timedelta(days=1)
HEADER = (
    b"<stream:stream xmlns='jabber:server' xmlns:stream="
    b"'http://etherx.jabber.org/streams' from='verona.example' id='1' version='1.0'>"
)
FEATURES = (
    b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    b"</stream:features>"
)
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


@pytest.fixture(scope="module")
def root() -> Authority:
    return authority()


@pytest.fixture(scope="module")
def anchors(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return root.write(tmp_path_factory.mktemp("anchors"))


class Places:
    """Answers in place of DNS; all of them lead to loopback."""

    def __init__(self, *found: Candidate) -> None:
        self.found = list(found)
        self.asked: list[tuple[str, str]] = []
        self.here = ["127.0.0.1"]

    async def candidates(
        self, name: str, within: float, role: str = "client"
    ) -> list[Candidate]:
        self.asked.append((name, role))
        return self.found

    async def addresses(self, host: str, within: float) -> list[str]:
        return self.here


class Stage:
    def __init__(self, anchors: Path, *found: Candidate, timeout: float = 5) -> None:
        self.now = 1_000_000
        self.places = Places(*found)
        self.domains = Domains(("capulet.example",), lambda: self.now)
        connector = Connector(
            reactor,
            self.places,
            servers={},
            tls={},
            trust_anchors=anchors,
            timeout=timeout,
            role="server",
        )
        self.prober = Prober(reactor, connector, "capulet.example", self.domains)


def speaks(
    identity: Identity | None, *, features: bytes = FEATURES, proceed: bytes = PROCEED
) -> Callable[[Peer, bytes], None]:
    """A server's side up to TLS."""

    def on_data(peer: Peer, data: bytes) -> None:
        if b"<stream:stream" in data:
            assert b"xmlns='jabber:server'" in data
            assert b"from='capulet.example' to='verona.example'" in data
            peer.transport.write(HEADER + features)
        elif b"<starttls" in data:
            peer.transport.write(proceed)
            if identity is not None:
                peer.start_tls(identity.server())

    return on_data


def starttls(server: Server) -> Candidate:
    return Candidate("localhost", server.port, direct=False)


@pytest_twisted.ensureDeferred
async def test_a_valid_certificate_by_starttls(root: Authority, anchors: Path) -> None:
    with serving() as server:
        server.on_data = speaks(root.issue(NAME))
        stage = Stage(anchors, starttls(server))
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)
        assert stage.places.asked == [(NAME, "server")]
        await server.deserted()
        sent = b"".join(peer.received for peer in server.peers)
        assert b"<message" not in sent
        assert b"<iq" not in sent


@pytest_twisted.ensureDeferred
async def test_a_valid_certificate_by_direct_tls(
    root: Authority, anchors: Path
) -> None:
    with serving(root.issue(NAME).server(alpn=b"xmpp-server")) as server:
        stage = Stage(anchors, Candidate("localhost", server.port, direct=True))
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)


@pytest.mark.parametrize(
    ("service", "keyed"), [("_xmpp-server", True), ("_xmpp-client", False)]
)
@pytest_twisted.ensureDeferred
async def test_tls_07_a_name_for_one_service_is_for_that_service(
    service: str, keyed: bool, root: Authority, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = speaks(root.issue(srv_name(f"{service}.{NAME}")))
        stage = Stage(anchors, starttls(server))
        assert (await stage.prober.ask(NAME)).keyed is keyed


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (lambda root: root.issue("other.example"), "another name"),
        (
            lambda root: root.issue(NAME, since=NOW - 3 * DAY, until=NOW - DAY),
            "expired",
        ),
        (lambda root: authority().issue(NAME), "signature"),
    ],
    ids=["other-name", "expired", "another-authority"],
)
@pytest_twisted.ensureDeferred
async def test_tls_06_no_key_no_link(
    made: Callable[[Authority], Identity], word: str, root: Authority, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = speaks(made(root))
        outcome = await Stage(anchors, starttls(server)).prober.ask(NAME)
        assert not outcome.keyed
        assert outcome.reached
        assert word in outcome.text


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (speaks(None, features=b"<stream:features/>"), "no TLS"),
        (
            speaks(None, proceed=b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            "refused to begin TLS",
        ),
        (
            speaks(
                None,
                features=b"<stream:error><host-unknown xmlns="
                b"'urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
            ),
            "host-unknown",
        ),
        (lambda peer, data: peer.transport.write(b"HTTP/1.1 400\r\n\r\n"), "XMPP"),
        (lambda peer, data: peer.reset(), "closed"),
    ],
    ids=["no-starttls", "failure", "stream-error", "http", "reset"],
)
@pytest_twisted.ensureDeferred
async def test_tls_04_what_has_no_tls_has_no_key(
    script: Callable[[Peer, bytes], None], word: str, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = script
        outcome = await Stage(anchors, starttls(server)).prober.ask(NAME)
        assert not outcome.keyed
        assert outcome.reached
        assert word in outcome.text or "cut" in outcome.text


@pytest_twisted.ensureDeferred
async def test_tls_01_bytes_behind_proceed_count_for_nothing(
    root: Authority, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = speaks(
            root.issue("other.example"), proceed=PROCEED + b"<stream:features/>"
        )
        assert not (await Stage(anchors, starttls(server)).prober.ask(NAME)).keyed


@pytest_twisted.ensureDeferred
async def test_nobody_there(anchors: Path) -> None:
    stage = Stage(anchors, Candidate("localhost", closed_port(), direct=False))
    outcome = await stage.prober.ask(NAME)
    assert (outcome.keyed, outcome.reached) == (False, False)
    assert "refused the connection" in outcome.text


@pytest_twisted.ensureDeferred
async def test_res_11_it_is_over_in_time(
    anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2sprobe, "_SECONDS", 0.3)
    with serving() as server:
        stage = Stage(anchors, starttls(server))
        outcome = await stage.prober.ask(NAME)
        assert not outcome.keyed
        await server.deserted()


@pytest_twisted.ensureDeferred
async def test_res_06_one_probe_for_all_who_ask(root: Authority, anchors: Path) -> None:
    with serving() as server:
        server.on_data = speaks(root.issue(NAME))
        stage = Stage(anchors, starttls(server))
        asked: list[Deferred[Outcome]] = [stage.prober.ask(NAME) for _ in range(50)]
        outcomes = await gatherResults(asked)
        assert outcomes == [Outcome(keyed=True)] * 50
        assert len(server.peers) == 1
        stage.now += GOOD_MS - 1
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)
        assert len(server.peers) == 1
        stage.now += 1
        await stage.prober.ask(NAME)
        assert len(server.peers) == 2


@pytest_twisted.ensureDeferred
async def test_a_mended_server_is_found_out_after_5_minutes(
    root: Authority, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = speaks(root.issue("other.example"))
        stage = Stage(anchors, starttls(server))
        assert not (await stage.prober.ask(NAME)).keyed
        server.on_data = speaks(root.issue(NAME))
        stage.now += BAD_MS - 1
        assert not (await stage.prober.ask(NAME)).keyed
        stage.now += 1
        assert (await stage.prober.ask(NAME)).keyed


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_down_is_asked_again_soon(anchors: Path) -> None:
    stage = Stage(anchors, Candidate("localhost", closed_port(), direct=False))
    await stage.prober.ask(NAME)
    await stage.prober.ask(NAME)
    assert len(stage.places.asked) == 1
    stage.now += UNREACHED_MS
    await stage.prober.ask(NAME)
    assert len(stage.places.asked) == 2


@pytest_twisted.ensureDeferred
async def test_records_of_servers_are_asked_for(root: Authority, anchors: Path) -> None:
    """SRV ``_xmpp-server``, through the resolver that was configured."""
    zone = Zone()
    with serving() as server, answering(zone) as nameserver:
        server.on_data = speaks(root.issue(NAME))
        zone.srv(f"_xmpp-server._tcp.{NAME}", (0, 0, server.port, "localhost"))
        connector: Any = Connector(
            reactor,
            Resolver(reactor, nameserver),
            servers={},
            tls={},
            trust_anchors=anchors,
            role="server",
        )
        domains = Domains(("capulet.example",), lambda: 0)
        prober = Prober(reactor, connector, "capulet.example", domains)
        assert await prober.ask(NAME) == Outcome(keyed=True)
        asked = {name for name, _ in zone.asked}
        assert asked == {f"_xmpp-server._tcp.{NAME}", f"_xmpps-server._tcp.{NAME}"}


@pytest_twisted.ensureDeferred
async def test_another_server_of_the_domain_has_the_key(
    root: Authority, anchors: Path
) -> None:
    """Who connects takes whichever of them is good: RFC 6120, 3.2.1."""
    with serving() as bad, serving() as mute, serving() as good:
        bad.on_data = speaks(root.issue("other.example"))
        mute.on_data = speaks(None, features=b"<stream:features/>")
        good.on_data = speaks(root.issue(NAME))
        there = [starttls(one) for one in (bad, mute, good)]
        stage = Stage(anchors, *there)
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)
        # each once, in the order of DNS, which was asked once
        assert [len(one.peers) for one in (bad, mute, good)] == [1, 1, 1]
        assert stage.places.asked == [(NAME, "server")]


@pytest_twisted.ensureDeferred
async def test_tls_06_none_of_its_servers_has_a_key(
    root: Authority, anchors: Path
) -> None:
    with serving() as one, serving() as two:
        one.on_data = speaks(root.issue("other.example"))
        two.on_data = speaks(None, features=b"<stream:features/>")
        gone = Candidate("localhost", closed_port(), direct=False)
        stage = Stage(anchors, starttls(one), gone, starttls(two))
        outcome = await stage.prober.ask(NAME)
        assert (outcome.keyed, outcome.reached) == (False, True)
        assert "another name" in outcome.text
        assert "no TLS" in outcome.text


@pytest_twisted.ensureDeferred
async def test_a_silent_server_does_not_hide_the_next(
    root: Authority, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2sprobe, "EACH_SECONDS", 0.2)
    with serving() as silent, serving() as good:
        good.on_data = speaks(root.issue(NAME))
        stage = Stage(anchors, starttls(silent), starttls(good))
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)
        await silent.deserted()


@pytest.mark.parametrize("direct", [True, False])
@pytest_twisted.ensureDeferred
async def test_another_address_of_the_server_has_the_key(
    direct: bool, root: Authority, anchors: Path
) -> None:
    bad, good = root.issue("other.example"), root.issue(NAME)
    alpn = b"xmpp-server"
    with ExitStack() as stack:
        one = stack.enter_context(serving(bad.server(alpn=alpn) if direct else None))
        two = stack.enter_context(
            serving(
                good.server(alpn=alpn) if direct else None,
                at=("127.0.0.2", one.port),
            )
        )
        if not direct:
            one.on_data, two.on_data = speaks(bad), speaks(good)
        stage = Stage(anchors, Candidate("localhost", one.port, direct=direct))
        stage.places.here = ["127.0.0.1", "127.0.0.2"]
        assert await stage.prober.ask(NAME) == Outcome(keyed=True)
        assert [len(there.peers) for there in (one, two)] == [1, 1]


@pytest_twisted.ensureDeferred
async def test_a_server_that_takes_connections_only_does_not_hide_the_next(
    root: Authority, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the connector that a gate has: the whole time is not for the first one."""
    monkeypatch.setattr(s2sprobe, "EACH_SECONDS", 0.5)
    zone = Zone()
    with serving() as silent, serving() as good, answering(zone) as nameserver:
        good.on_data = speaks(root.issue(NAME))
        zone.srv(f"_xmpps-server._tcp.{NAME}", (0, 0, silent.port, "localhost"))
        zone.srv(f"_xmpp-server._tcp.{NAME}", (1, 0, good.port, "localhost"))
        beyond = Beyond(anchors=anchors, resolver=Address(*nameserver))
        worker = RegistryWorker(reactor, lambda: None)  # type: ignore[arg-type,return-value]
        own = ("capulet.example",)
        made = borders(reactor, own, beyond, worker, MemorySigner(own, 0))
        assert await made.probe(NAME) == Outcome(keyed=True)
        assert len(silent.peers) == 1


@pytest_twisted.ensureDeferred
async def test_res_11_a_domain_of_many_bad_servers_is_over_in_time(
    root: Authority, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first said is told, though the others never answered."""
    monkeypatch.setattr(s2sprobe, "_SECONDS", 1.0)
    with serving() as bad, serving() as silent:
        bad.on_data = speaks(root.issue("other.example"))
        stage = Stage(anchors, starttls(bad), starttls(silent))
        outcome = await stage.prober.ask(NAME)
        assert (outcome.keyed, outcome.reached) == (False, True)
        assert "another name" in outcome.text
        await silent.deserted()
