"""Links to scripted servers on loopback sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, NoRouteError
from twisted.internet.task import Clock

from proxy.errors import ConfigFault, EnvFault
from proxy.net import connector as connector_module
from proxy.net import link as link_module
from proxy.net.connector import Connector, Link, TlsMode, _Race, check_overrides
from proxy.net.dns import Candidate
from proxy.net.tls import CertificateFault, server_key

from .authority import Authority, Identity, authority
from .scripted import Owner, Peer, Server, closed_port, reactor, serving

NAME = "example.org"
BIG = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def root() -> Authority:
    return authority()


@pytest.fixture(scope="module")
def anchors(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return root.write(tmp_path_factory.mktemp("anchors"))


@pytest.fixture(scope="module")
def good(root: Authority) -> Identity:
    return root.issue(NAME)


class Places:
    """Answers in place of DNS."""

    def __init__(
        self, *found: Candidate, addresses: dict[str, list[str]] | None = None
    ) -> None:
        self.found = list(found)
        self.known = addresses or {}
        self.asked: list[str] = []

    async def candidates(
        self, name: str, within: float, role: str = "client"
    ) -> list[Candidate]:
        self.asked.append(name)
        return self.found

    async def addresses(self, host: str, within: float) -> list[str]:
        self.asked.append(host)
        if self.known.get(host) == []:
            raise EnvFault(f"{host} has no address in DNS")
        return self.known.get(host, ["127.0.0.1"])


class Silence(Places):
    """DNS that never answers."""

    async def candidates(
        self, name: str, within: float, role: str = "client"
    ) -> list[Candidate]:
        await Deferred()
        raise AssertionError


def connector(
    server: Server | None = None,
    *,
    mode: TlsMode | None = None,
    places: Places | None = None,
    anchors: Path | None = None,
    timeout: float = 5,
) -> Connector:
    return Connector(
        reactor,
        places or Places(),
        servers={NAME: ("127.0.0.1", server.port)} if server else {},
        tls={NAME: mode} if mode else {},
        trust_anchors=anchors,
        timeout=timeout,
    )


async def failing(connecting: Deferred[Link]) -> EnvFault:
    with pytest.raises(EnvFault) as caught:
        await connecting
    return caught.value


def negotiate(context: SSL.Context) -> Callable[[Peer, bytes], None]:
    """The server's side of a very short STARTTLS."""

    def on_data(peer: Peer, data: bytes) -> None:
        if data == b"<starttls/>":
            peer.transport.write(b"<proceed/>")
            peer.start_tls(context)

    return on_data


async def secured(server: Server, owner: Owner, anchors: Path, **more: Any) -> Link:
    link = await connector(server, anchors=anchors, **more).connect(NAME, owner)
    owner.on_data = lambda data: link.start_tls() if data == b"<proceed/>" else None
    link.write(b"<starttls/>")
    return link


# -- STARTTLS ---------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_starttls(good: Identity, anchors: Path) -> None:
    with serving() as server:
        server.on_data = negotiate(good.server())
        owner = Owner()
        link = await secured(server, owner, anchors)
        assert (link.mode, link.direct) == ("starttls", False)
        assert link.peer == f"127.0.0.1:{server.port}"
        assert link.facts is None
        await owner.watch.until(lambda: "secure" in owner.calls)
        assert owner.calls == ["up", "data", "secure"]
        assert owner.facts is not None
        assert owner.facts is link.facts
        assert owner.facts.version == "TLSv1.3"
        assert link.server_key == server_key(good.certificate)
        link.write(b"hello")
        await server.heard(b"hello")
        server.peers[0].transport.write(b"welcome")
        await owner.heard(b"welcome")
        handle = server.peers[0].transport.getHandle()
        assert handle.get_servername() == NAME.encode()
        link.abort()


@pytest_twisted.ensureDeferred
async def test_tls_01_plain_bytes_after_proceed_never_follow_the_handshake(
    good: Identity, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = lambda peer, data: (
            peer.transport.write(b"<proceed/>")
            or reactor.callLater(0.05, peer.transport.write, b"<message from='evil'/>")
        )
        owner = Owner()
        await secured(server, owner, anchors)
        fault = await owner.lost()
        assert owner.calls == ["up", "data", "lost"]
        assert owner.received == b"<proceed/>"
        assert fault is not None
        assert "TLS handshake" in fault.text


@pytest_twisted.ensureDeferred
async def test_what_waits_for_the_handshake_is_not_sent_to_a_wrong_server(
    root: Authority, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = negotiate(root.issue("example.com").server())
        owner = Owner()
        link = await secured(server, owner, anchors)
        owner.on_data = lambda data: (link.start_tls(), link.write(b"secret"))
        fault = await owner.lost()
        assert isinstance(fault, CertificateFault)
        assert "expected: example.org, seen: example.com" in fault.text
        assert "secure" not in owner.calls
        await server.deserted()
        assert server.peers[0].received == b"<starttls/>"


@pytest_twisted.ensureDeferred
async def test_what_waits_for_the_handshake_is_sent_after_it(
    good: Identity, anchors: Path
) -> None:
    with serving() as server:
        server.on_data = negotiate(good.server())
        owner = Owner()
        link = await secured(server, owner, anchors)
        owner.on_data = lambda data: (link.start_tls(), link.write(b"early"))
        await server.heard(b"<starttls/>early")
        link.abort()


# -- direct TLS and the order of candidates ---------------------------------


@pytest_twisted.ensureDeferred
async def test_direct_tls_is_up_when_it_is_verified(
    good: Identity, anchors: Path
) -> None:
    with serving(good.server(alpn=b"xmpp-client")) as server:
        owner = Owner()
        link = await connector(server, mode="direct", anchors=anchors).connect(
            NAME, owner
        )
        assert owner.calls == ["up"]
        assert link.direct
        assert link.facts is not None
        assert link.facts.exporter is not None
        link.write(b"hello")
        await server.heard(b"hello")
        handle = server.peers[0].transport.getHandle()
        assert handle.get_alpn_proto_negotiated() == b"xmpp-client"
        link.abort()


@pytest_twisted.ensureDeferred
async def test_next_candidate_after_each_kind_of_failure(
    root: Authority, good: Identity, anchors: Path
) -> None:
    wrong = root.issue("example.com")
    with serving(wrong.server()) as bad, serving(good.server()) as right:
        places = Places(
            Candidate("nowhere.example", 5222, False),
            Candidate("closed.example", closed_port(), False),
            Candidate("wrong.example", bad.port, True),
            Candidate("right.example", right.port, True),
            addresses={"nowhere.example": []},
        )
        owner = Owner()
        link = await connector(places=places, anchors=anchors).connect(NAME, owner)
        assert link.peer == f"right.example:{right.port}"
        assert owner.calls == ["up"]
        await bad.deserted()
        assert [peer.received for peer in bad.peers] == [b""]
        link.abort()


@pytest_twisted.ensureDeferred
async def test_the_fault_names_everything_that_was_tried(
    root: Authority, anchors: Path
) -> None:
    with serving(root.issue("example.com").server()) as bad:
        port = closed_port()
        places = Places(
            Candidate("nowhere.example", 5222, False),
            Candidate("closed.example", port, False),
            Candidate("wrong.example", bad.port, True),
            addresses={"nowhere.example": []},
        )
        owner = Owner()
        fault = await failing(
            connector(places=places, anchors=anchors).connect(NAME, owner)
        )
        assert fault.text == (
            "no server for example.org could be reached: "
            "nowhere.example has no address in DNS; "
            f"closed.example:{port} refused the connection; "
            f"the certificate of wrong.example:{bad.port} is for another name "
            "(expected: example.org, seen: example.com)"
        )
        assert isinstance(fault, CertificateFault)
        assert fault.hint
        assert owner.calls == []


@pytest_twisted.ensureDeferred
async def test_a_long_list_of_failures_is_cut() -> None:
    found = [Candidate(f"h{n}.example", 5222, False) for n in range(32)]
    places = Places(*found, addresses={each.host: [] for each in found})
    fault = await failing(connector(places=places).connect(NAME, Owner()))
    assert fault.text.endswith("h7.example has no address in DNS; 24 more failed too")
    assert not isinstance(fault, CertificateFault)


@pytest_twisted.ensureDeferred
async def test_plain_text_on_a_direct_port(anchors: Path) -> None:
    with serving() as server:
        server.on_connect = lambda peer: peer.transport.write(b"220 mail ready\r\n")
        connecting = connector(server, mode="direct", anchors=anchors)
        fault = await failing(connecting.connect(NAME, Owner()))
        assert "TLS handshake" in fault.text


@pytest_twisted.ensureDeferred
async def test_hang_up_during_the_handshake(anchors: Path) -> None:
    with serving() as server:
        server.on_data = lambda peer, data: peer.transport.loseConnection()
        connecting = connector(server, mode="direct", anchors=anchors)
        fault = await failing(connecting.connect(NAME, Owner()))
        assert "hung up during the TLS handshake" in fault.text


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("drip", [False, True])
async def test_tls_12_handshake_has_a_deadline(anchors: Path, drip: bool) -> None:
    def on_data(peer: Peer, data: bytes) -> None:
        # A record header announces 100 bytes that then come one by one.
        for number, byte in enumerate(b"\x16\x03\x03\x00\x64" + b"\x02" * 95):
            reactor.callLater(number / 50, send, peer, bytes([byte]))

    def send(peer: Peer, data: bytes) -> None:
        if not peer.gone:
            peer.transport.write(data)

    with serving() as server:
        if drip:
            server.on_data = on_data
        connecting = connector(server, mode="direct", anchors=anchors, timeout=0.2)
        fault = await failing(connecting.connect(NAME, Owner()))
        assert "did not finish the TLS handshake in 0.2 s" in fault.text
        await server.deserted()


@pytest_twisted.ensureDeferred
async def test_tls_12_deadline_holds_after_starttls_too(anchors: Path) -> None:
    with serving() as server:
        server.on_data = lambda peer, data: (
            peer.transport.write(b"<proceed/>") if data == b"<starttls/>" else None
        )
        owner = Owner()
        await secured(server, owner, anchors, timeout=0.2)
        fault = await owner.lost()
        assert fault is not None
        assert "did not finish the TLS handshake" in fault.text


@pytest_twisted.ensureDeferred
async def test_everything_together_has_a_deadline() -> None:
    places = Silence()
    connecting = connector(places=places, timeout=0.1).connect(NAME, Owner())
    fault = await failing(connecting)
    assert fault.text == (
        "no server for example.org could be reached: it took longer than 0.3 s"
    )


@pytest_twisted.ensureDeferred
async def test_res_11_dns_has_one_budget_for_all_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connector_module, "_DNS_SECONDS", 0.2)
    given: list[float] = []

    class Slow(Places):
        async def candidates(
            self, name: str, within: float, role: str = "client"
        ) -> list[Candidate]:
            given.append(within)
            await pause(0.05)
            return await super().candidates(name, within)

        async def addresses(self, host: str, within: float) -> list[str]:
            given.append(within)
            await pause(0.05)
            return await super().addresses(host, within)

    found = [Candidate(f"h{n}.example", 5222, False) for n in range(2)]
    places = Slow(*found, addresses={each.host: [] for each in found})
    await failing(connector(places=places).connect(NAME, Owner()))
    assert len(given) == 3
    assert given[0] == 0.2
    assert given[1] <= 0.15
    assert given[2] <= 0.1


def pause(seconds: float) -> Deferred[None]:
    over: Deferred[None] = Deferred()
    reactor.callLater(seconds, over.callback, None)
    return over


@pytest_twisted.ensureDeferred
async def test_cancelling_leaves_nothing_behind(anchors: Path) -> None:
    with serving() as server:
        owner = Owner()
        connecting = connector(server, mode="direct", anchors=anchors).connect(
            NAME, owner
        )
        await server.accepted()
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting
        await server.deserted()
        assert owner.calls == []


@pytest_twisted.ensureDeferred
async def test_a_domain_that_is_none() -> None:
    fault = await failing(connector().connect("not a domain", Owner()))
    assert fault.condition == "host-unknown"


@pytest_twisted.ensureDeferred
async def test_an_owner_that_fails_does_not_keep_the_connection() -> None:
    class Broken(Owner):
        def link_up(self, link: Link) -> None:
            raise RuntimeError("broken owner")

    with serving() as server:
        with pytest.raises(RuntimeError, match="broken owner"):
            await connector(server).connect(NAME, Broken())
        await server.deserted()


# -- addresses --------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_second_address_when_the_first_refuses() -> None:
    with serving() as server:
        places = Places(
            Candidate("host.example", server.port, False),
            addresses={"host.example": ["127.0.0.9", "127.0.0.1"]},
        )
        owner = Owner()
        link = await connector(places=places).connect(NAME, owner)
        assert link.peer == f"host.example:{server.port}"
        link.abort()


class Dialling:
    """A race on a clock of its own, its dials answered by hand."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.cancelled: list[str] = []
        self.dials: dict[str, Deferred[Any]] = {}
        self.race = _Race(
            self.clock, [str(n) for n in range(count)], self.dial, self.explain
        )
        self.race.start_one()

    def dial(self, address: str) -> Deferred[Any]:
        self.dials[address] = Deferred(lambda _: self.cancelled.append(address))
        return self.dials[address]

    def explain(self, errors: list[BaseException]) -> EnvFault:
        return EnvFault(", ".join(type(each).__name__ for each in errors))

    def result(self) -> list[Any]:
        results: list[Any] = []
        self.race.won.addBoth(results.append)
        return results


def test_a_silent_address_costs_a_quarter_of_a_second() -> None:
    dialling = Dialling(3)
    assert list(dialling.dials) == ["0"]
    dialling.clock.advance(0.25)
    assert list(dialling.dials) == ["0", "1"]
    results = dialling.result()
    dialling.dials["1"].callback("a link")
    dialling.race.over()
    assert results == ["a link"]
    assert dialling.cancelled == ["0"]
    dialling.clock.advance(9)
    assert list(dialling.dials) == ["0", "1"]


def test_a_failure_starts_the_next_at_once_and_all_are_told() -> None:
    dialling = Dialling(2)
    results = dialling.result()
    dialling.dials["0"].errback(NoRouteError())
    assert list(dialling.dials) == ["0", "1"]
    assert results == []
    dialling.dials["1"].errback(ConnectionRefusedError())
    assert results[0].value.text == "NoRouteError, ConnectionRefusedError"


def test_a_race_of_nobody_ends() -> None:
    dialling = Dialling(0)
    assert isinstance(dialling.result()[0].value, EnvFault)


# -- modes ------------------------------------------------------------------


def test_mode() -> None:
    made = Connector(
        reactor,
        Places(),
        servers={"Example.ORG": ("127.0.0.1", 1), "münchen.example": ("::1", 1)},
        tls={"example.net": "direct", "münchen.example": "off"},
    )
    assert made.mode("example.org.") == "starttls"
    assert made.mode("example.net") == "direct"
    assert made.mode("xn--mnchen-3ya.example") == "off"
    assert made.mode("example.com") is None


@pytest.mark.parametrize("host", ["192.0.2.1", "xmpp.example.org", "127.0.0.1.example"])
def test_tls_is_not_turned_off_towards_other_machines(host: str) -> None:
    with pytest.raises(ConfigFault, match=f"--tls {NAME}=off"):
        check_overrides({NAME: (host, 5222)}, {NAME: "off"})
    with pytest.raises(ConfigFault):
        check_overrides({}, {NAME: "off"})
    with pytest.raises(ConfigFault):
        Connector(reactor, Places(), servers={NAME: (host, 1)}, tls={NAME: "off"})


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"]
)
def test_tls_may_be_off_on_this_machine(host: str) -> None:
    check_overrides({NAME: (host, 5222)}, {NAME: "off"})


@pytest_twisted.ensureDeferred
async def test_localhost_has_to_be_this_machine_where_tls_is_off() -> None:
    made = Connector(
        reactor,
        Places(addresses={"localhost": ["192.0.2.1"]}),
        servers={NAME: ("localhost", 5222)},
        tls={NAME: "off"},
    )
    fault = await failing(made.connect(NAME, Owner()))
    assert "localhost is not this machine" in fault.text


@pytest_twisted.ensureDeferred
async def test_mode_picks_among_what_dns_says(good: Identity, anchors: Path) -> None:
    with serving(good.server()) as direct, serving() as plain:
        places = Places(
            Candidate("plain.example", plain.port, False),
            Candidate("direct.example", direct.port, True),
        )
        link = await connector(places=places, mode="direct", anchors=anchors).connect(
            NAME, Owner()
        )
        assert link.peer == f"direct.example:{direct.port}"
        assert plain.peers == []
        link.abort()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("mode", "port"), [("direct", 5223), ("starttls", 5222)])
async def test_mode_without_a_fitting_record(mode: TlsMode, port: int) -> None:
    places = Places(
        Candidate("other.example", 1, mode != "direct"), addresses={NAME: ["127.0.0.9"]}
    )
    fault = await failing(connector(places=places, mode=mode).connect(NAME, Owner()))
    assert f"{NAME}:{port} refused" in fault.text
    assert places.asked == [NAME, NAME]


@pytest_twisted.ensureDeferred
async def test_server_option_asks_no_dns_for_the_domain() -> None:
    places = Places()
    with serving() as server:
        link = await connector(server, places=places).connect(NAME, Owner())
        assert places.asked == ["127.0.0.1"]
        link.abort()


# -- the end of a link ------------------------------------------------------


async def direct(server: Server, owner: Owner, anchors: Path) -> tuple[Link, Peer]:
    link = await connector(server, mode="direct", anchors=anchors).connect(NAME, owner)
    link.write(b"hello")
    await server.heard(b"hello")
    return link, server.peers[0]


@pytest_twisted.ensureDeferred
async def test_close_by_the_server_is_orderly(good: Identity, anchors: Path) -> None:
    with serving(good.server()) as server:
        owner = Owner()
        _, peer = await direct(server, owner, anchors)
        peer.transport.write(b"bye")
        peer.transport.loseConnection()
        assert await owner.lost() is None
        assert owner.received == b"bye"
        await server.deserted()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_tls_13_end_without_close_notify(
    good: Identity, anchors: Path, how: str, version: int
) -> None:
    with serving(good.server(version)) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        peer.transport.write(b"<message><body>half")
        await owner.heard(b"half")
        getattr(peer, how)()
        fault = await owner.lost()
        assert isinstance(fault, EnvFault)
        assert fault.text == f"the connection to {link.peer} was cut"
        assert owner.faults == [fault]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_end_of_a_plain_connection(how: str) -> None:
    with serving() as server:
        owner = Owner()
        await connector(server, mode="off").connect(NAME, owner)
        peer = await server.accepted()
        getattr(peer, how)()
        fault = await owner.lost()
        assert (fault is None) == (how == "cut")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("paused", [False, True])
async def test_close_sends_what_waits_and_delivers_nothing_more(
    good: Identity, anchors: Path, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 60)
    with serving(good.server()) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        server.on_data = lambda peer, data: peer.transport.write(b"too late")
        link.write(BIG)
        if paused:
            link.pause()
        link.close()
        link.write(b"never")
        link.close()
        await server.watch.until(lambda: len(peer.received) == 5 + len(BIG))
        assert await owner.lost() is None
        await server.deserted()
        assert peer.received == b"hello" + BIG
        assert owner.received == b""
        assert owner.faults == [None]


@pytest_twisted.ensureDeferred
async def test_close_does_not_wait_for_ever(
    good: Identity, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 0.1)
    with serving(good.server()) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        peer.transport.pauseProducing()
        link.write(BIG * 16)
        link.close()
        assert await owner.lost() is None
        assert not peer.gone


@pytest_twisted.ensureDeferred
async def test_abort(good: Identity, anchors: Path) -> None:
    with serving(good.server()) as server:
        owner = Owner()
        link, _ = await direct(server, owner, anchors)
        link.abort()
        link.abort()
        assert owner.faults == []
        assert await owner.lost() is None
        link.abort()
        link.close()
        link.write(b"never")
        link.pause()
        link.resume()
        await server.deserted()
        assert owner.faults == [None]


@pytest_twisted.ensureDeferred
async def test_close_during_the_handshake(anchors: Path) -> None:
    with serving() as server:
        server.on_data = lambda peer, data: (
            peer.transport.write(b"<proceed/>") if data == b"<starttls/>" else None
        )
        owner = Owner()
        link = await secured(server, owner, anchors)
        await owner.watch.until(lambda: "data" in owner.calls)
        link.close()
        assert await owner.lost() is None
        await server.deserted()


# -- flow -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_pressure_is_passed_on(good: Identity, anchors: Path) -> None:
    with serving(good.server()) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        peer.transport.pauseProducing()
        while "pause" not in owner.calls:
            link.write(BIG)
            await pause(0)
        assert "resume" not in owner.calls
        peer.transport.resumeProducing()
        await owner.watch.until(lambda: "resume" in owner.calls)
        link.abort()


@pytest_twisted.ensureDeferred
async def test_pause_stops_reading(good: Identity, anchors: Path) -> None:
    with serving(good.server()) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        link.pause()
        peer.transport.write(BIG * 16)
        link.write(b"echo?")
        await server.heard(b"echo?")
        assert len(owner.received) <= 1 << 16
        link.resume()
        await owner.watch.until(lambda: len(owner.received) == 16 * len(BIG))
        assert owner.received == BIG * 16
        link.abort()


@pytest_twisted.ensureDeferred
async def test_small_writes_are_not_held_back_and_reads_acknowledged_at_once(
    good: Identity, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good.server()) as server:
        owner = Owner()
        link, peer = await direct(server, owner, anchors)
        real = link._socket
        assert real is not None
        assert real.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        options: list[tuple[int, int, int]] = []

        class Spy:
            def setsockopt(self, *option: int) -> None:
                options.append(option)
                raise OSError("not supported here")

        monkeypatch.setattr(link, "_socket", Spy())
        for number in range(3):
            peer.transport.write(b"%d" % number)
            await owner.heard(b"%d" % number)
        assert options == [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)] * 3
        link.abort()
