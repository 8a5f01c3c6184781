"""Logging in through Tillie: its two legs, DNS, refusals in words, and the keys."""

from __future__ import annotations

import base64
import datetime
import os
import shutil
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.names import dns

from ..support.bed import Bed
from ..support.certificates import Authority, Leaf
from ..support.raw import (
    BIND,
    CLIENT,
    SASL,
    STREAM,
    TLS,
    RawClient,
    RefusedError,
    StreamEndedError,
    local_certificate,
    text_of,
)
from ..support.scripted import PUBSUB, STREAMS, Scripted, render
from ..support.tap import Tap, Way
from ..support.tillie import Tillie
from ..support.waiting import free_ports, until
from .test_conversations import ALICE, BOB, CAROL, ready

DOMAIN = "a.test"
KEY, PREKEY = "urn:x-tillie:key:0", "urn:x-tillie:prekey:0"
SESSION = "urn:ietf:params:xml:ns:xmpp-session"
COMPRESS = "http://jabber.org/protocol/compress"
BINDING = (
    "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>"
    "<channel-binding type='{}'/></sasl-channel-binding>"
)
IQ = f"{{{CLIENT}}}iq"


def behind(bed: Bed, server: Scripted, **options: list[str]) -> Tillie:
    """A Tillie whose one domain is a scripted server."""
    mode = "direct" if server.direct else "starttls"
    return bed.tillie(
        "t",
        servers={server.domain: server.port},
        tls={server.domain: mode},
        **options,  # type: ignore[arg-type]
    )


def refusal(bed: Bed, tillie: Tillie, jid: str = ALICE, password: str = "") -> str:
    """The words with which a login fails; never a connection that just drops."""
    bed.passwords.setdefault(jid, "unused-password")
    with RawClient(tillie.port, jid.partition("@")[2], seconds=20) as client:
        client.open_stream()
        with pytest.raises(RefusedError) as caught:
            client.authenticate(jid, password or bed.passwords[jid])
    return ElementTree.fromstring(str(caught.value)).findtext(f"{{{SASL}}}text") or ""


def never_published(server: Scripted) -> bool:
    return b"<publish" not in bytes(server.received)


# DNS: a name server of a few lines, on loopback.


class NameServer:
    """Answers from `zone`: (name, type) to payloads; all else does not exist."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, int], list[object]] = {}
        self.asked: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def srv(
        self, service: str, port: int, target: str, priority: int = 1, weight: int = 0
    ) -> None:
        record = dns.Record_SRV(priority, weight, port, target)
        name = f"{service}._tcp.{DOMAIN}"
        self.zone.setdefault((name, dns.SRV), []).append(record)

    def address(self, name: str, address: str = "127.0.0.1") -> None:
        self.zone.setdefault((name, dns.A), []).append(dns.Record_A(address))

    def stop(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(data), sender)
            except OSError:
                return

    def _answer(self, data: bytes) -> bytes:
        message = dns.Message()
        message.fromStr(data)
        query = message.queries[0]
        name = query.name.name.decode().lower()
        self.asked.append((name, query.type))
        message.answer = True
        message.answers = [
            dns.RRHeader(name, query.type, dns.IN, 60, payload)
            for payload in self.zone.get((name, query.type), [])
        ]
        known = any(one == name for one, _ in self.zone)
        message.rCode = dns.OK if known else dns.ENAME
        encoded = message.toStr()
        assert isinstance(encoded, bytes)
        return encoded


@pytest.fixture
def names(bed: Bed) -> NameServer:
    server = NameServer()
    server.address("xmpp.hosting.test")
    return bed.keep(server)


def resolving(bed: Bed, names: NameServer) -> Tillie:
    """A Tillie that is told nothing of any server but whom to ask."""
    return bed.tillie(
        "t", servers={}, arguments=["--resolver", f"127.0.0.1:{names.port}"]
    )


def closed_port() -> int:
    return free_ports(1)[0]


@pytest.mark.parametrize("first", ["_xmpps-client", "_xmpp-client"])
def test_srv_the_better_priority_is_tried_first(
    bed: Bed, names: NameServer, first: str
) -> None:
    """XEP-0368: both services are one list; targets do not matter to the name."""
    direct = bed.scripted(DOMAIN, ALICE, direct=True)
    plain = bed.scripted(DOMAIN, ALICE)
    for service, server in (("_xmpps-client", direct), ("_xmpp-client", plain)):
        rank = 1 if service == first else 2
        names.srv(service, server.port, "xmpp.hosting.test", rank, 10)
    tillie = resolving(bed, names)
    bed.raw(ALICE, tillie.port).ping()
    used, unused = (direct, plain) if first == "_xmpps-client" else (plain, direct)
    assert (len(used.logins), unused.connections) == (1, 0)
    assert ("_xmpps-client._tcp.a.test", dns.SRV) in names.asked
    assert ("_xmpp-client._tcp.a.test", dns.SRV) in names.asked


def test_srv_dead_candidates_fall_back(bed: Bed, names: NameServer) -> None:
    """Nobody there; a name without address; TLS that is none; then a server."""
    alive = bed.scripted(DOMAIN, ALICE)
    with socket.create_server(("127.0.0.1", 0)) as junk:
        answering = threading.Thread(target=_say_hello, args=[junk], daemon=True)
        answering.start()
        names.srv("_xmpps-client", closed_port(), "xmpp.hosting.test", 1)
        names.srv("_xmpps-client", 5223, "gone.hosting.test", 2)
        names.srv("_xmpps-client", junk.getsockname()[1], "xmpp.hosting.test", 3)
        names.srv("_xmpp-client", alive.port, "xmpp.hosting.test", 4)
        bed.raw(ALICE, resolving(bed, names).port).ping()
        answering.join(10)
    assert alive.logins == [(ALICE, "SCRAM-SHA-256")]


def _say_hello(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"220 mail.hosting.test ESMTP\r\n")


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "starttls"])
def test_tls_06_the_certificate_is_for_the_domain_not_the_srv_target(
    bed: Bed, names: NameServer, direct: bool
) -> None:
    leaf = bed.authority.leaf("xmpp.hosting.test", label="target")
    passwords = {ALICE: "never-sent-password"}
    server = bed.keep(Scripted(leaf, DOMAIN, passwords, direct=direct).start())
    service = "_xmpps-client" if direct else "_xmpp-client"
    names.srv(service, server.port, "xmpp.hosting.test")
    text = refusal(bed, resolving(bed, names), password=passwords[ALICE])
    assert "is for another name (expected: a.test, seen: xmpp.hosting.test)" in text
    assert b"<auth" not in bytes(server.received)


def test_srv_a_domain_may_say_that_it_has_no_xmpp(bed: Bed, names: NameServer) -> None:
    names.srv("_xmpp-client", 0, "")
    assert "no XMPP service" in refusal(bed, resolving(bed, names))


def test_without_srv_the_domain_itself_is_tried_on_5222(
    bed: Bed, names: NameServer
) -> None:
    """RFC 6120, 3.2.2; 127.77.0.1 is loopback too and its port 5222 is free."""
    names.address(DOMAIN, "127.77.0.1")
    with socket.create_server(("127.77.0.1", 5222)) as listener:
        listener.settimeout(20)
        tillie = resolving(bed, names)
        with RawClient(tillie.port, DOMAIN) as client:
            client.open_stream()
            local = base64.b64encode(b"\0alice\0unused-password").decode()
            client.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{local}</auth>")
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                hello = connection.recv(4096)
    assert b"to='a.test'" in hello
    assert b"alice" not in hello, "who logs in is nobody's business before TLS"


def test_a_domain_without_any_address_is_told(bed: Bed, names: NameServer) -> None:
    text = refusal(bed, resolving(bed, names), "you@nowhere.test")
    assert "no server for nowhere.test could be reached" in text
    assert "no address" in text


# The server leg.


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "starttls"])
def test_the_server_leg_speaks_tls(bed: Bed, direct: bool) -> None:
    server = bed.scripted(DOMAIN, ALICE, direct=direct)
    alice = bed.raw(ALICE, behind(bed, server).port)
    assert alice.jid == f"{ALICE}/raw"
    alice.ping()
    assert server.logins == [(ALICE, "SCRAM-SHA-256")]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "starttls"])
def test_a_wrong_password_is_told_and_the_right_one_then_works(
    bed: Bed, direct: bool
) -> None:
    """On a real server; first again on the same stream, then on a new one."""
    bed.start(ALICE)
    port = bed.server.direct_port if direct else bed.server.starttls_port
    mode = "direct" if direct else "starttls"
    tillie = bed.tillie("t", servers={DOMAIN: port}, tls={DOMAIN: mode})
    with RawClient(tillie.port, DOMAIN, seconds=20) as client:
        client.open_stream()
        with pytest.raises(RefusedError) as caught:
            client.authenticate(ALICE, "wrong-password")
        failure = ElementTree.fromstring(str(caught.value))
        assert failure.find(f"{{{SASL}}}not-authorized") is not None
        text = failure.findtext(f"{{{SASL}}}text") or ""
        assert "did not accept the password of alice@a.test" in text
        assert "wrong-password" not in text
        client.authenticate(ALICE, bed.passwords[ALICE])
        client.open_stream()
        assert client.bind("again") == f"{ALICE}/again"
    assert "did not accept" in refusal(bed, tillie, password="other-password")
    bed.raw(ALICE, tillie.port).ping()
    ready(tillie)
    assert "wrong-password" not in tillie.errors


def test_several_accounts_and_clients_at_once_in_one_process(bed: Bed) -> None:
    bed.start(ALICE, BOB, CAROL)
    tillie = bed.tillie("t")
    clients = {
        (jid, name): bed.raw(jid, tillie.port, resource=name)
        for jid in (ALICE, BOB, CAROL)
        for name in ("desk", "phone")
    }
    ready(tillie, 3)
    assert len(tillie.json("status")["accounts"]) == 3
    for jid, other in ((ALICE, BOB), (BOB, CAROL), (CAROL, ALICE)):
        text = bed.canaries.secret()
        clients[jid, "desk"].say(other, text)
        for name in ("desk", "phone"):
            got = clients[other, name].message(text, seconds=20)
            assert (text_of(got), got.get("from")) == (text, f"{jid}/desk")
    for (jid, _), client in clients.items():
        client.ping()
        assert len(client.messages()) == 1, jid
    known = {one["jid"] for one in tillie.json("contacts", "--account", ALICE)}
    assert known == {BOB, CAROL}


def test_tls_04_no_tls_on_offer(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.starttls = False
    tillie = behind(bed, server)
    assert "offers no TLS, so the password was not sent" in refusal(bed, tillie)
    assert b"<auth" not in bytes(server.received)
    server.switches.starttls = True
    bed.raw(ALICE, tillie.port).ping()


@pytest.mark.parametrize("mode", ["starttls", "direct"])
def test_an_unreachable_server_is_told(bed: Bed, mode: str) -> None:
    port = closed_port()
    tillie = bed.tillie("t", servers={DOMAIN: port}, tls={DOMAIN: mode})
    text = refusal(bed, tillie)
    assert f"127.0.0.1:{port} refused the connection" in text


def self_signed(folder: Path, name: str) -> Leaf:
    """A certificate that nobody else signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    leaf = Leaf(folder / "self.pem", folder / "self.key")
    leaf.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    leaf.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return leaf


def bad_leaf(bed: Bed, fault: str) -> tuple[Leaf, str]:
    """A certificate with one fault, and the words for it."""
    days = datetime.timedelta
    match fault:
        case "wrong-name":
            return bed.authority.leaf("b.test", label="bad"), "is for another name"
        case "expired":
            leaf = bed.authority.leaf(DOMAIN, label="bad", lasts=days(days=-2))
            return leaf, "expired on "
        case "not-yet":
            leaf = bed.authority.leaf(
                DOMAIN, label="bad", starts=days(days=2), lasts=days(days=9)
            )
            return leaf, "is not valid before "
        case "unknown-authority":
            other = Authority(bed.folder / "other-ca")
            return other.leaf(DOMAIN), "authority"
        case _:
            return self_signed(bed.folder, DOMAIN), "self-signed"


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "starttls"])
@pytest.mark.parametrize(
    "fault", ["wrong-name", "expired", "not-yet", "unknown-authority", "self-signed"]
)
def test_tls_06_a_bad_certificate_is_told(bed: Bed, fault: str, direct: bool) -> None:
    leaf, words = bad_leaf(bed, fault)
    bed.passwords[ALICE] = "never-sent-password"
    server = Scripted(leaf, DOMAIN, dict(bed.passwords), direct=direct)
    text = refusal(bed, behind(bed, bed.keep(server.start())))
    assert "certificate" in text
    assert words in text
    assert b"<auth" not in bytes(server.received)


def test_tls_08_a_changed_certificate_key_is_noticed(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    tillie = behind(bed, server)
    first = bed.raw(ALICE, tillie.port)
    ready(tillie)
    first.close()
    assert tillie.json("notices") == []
    server._leaf = bed.authority.leaf(DOMAIN, label="renewed")
    bed.raw(ALICE, tillie.port, resource="later").ping()
    [notice] = tillie.json("notices")
    assert "shows another certificate key" in notice["text"]


@pytest.mark.parametrize(
    "smuggled",
    [
        "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"
        "<mechanism>PLAIN</mechanism></mechanisms></stream:features>",
        "<message from='bob@b.test'><body>from before TLS</body></message>",
        "<message fro",
    ],
    ids=["TLS-01-features", "TLS-01-message", "TLS-03-fragment"],
)
def test_tls_01_03_what_comes_before_tls_is_dropped(bed: Bed, smuggled: str) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.after_proceed = smuggled.encode()
    tillie = behind(bed, server)
    assert "smuggled past TLS" in refusal(bed, tillie)
    assert b"<auth" not in bytes(server.received)
    server.switches.after_proceed = b""
    alice = bed.raw(ALICE, tillie.port)
    alice.ping()
    assert alice.messages() == []


def test_tls_05_see_other_host_before_tls_leads_nowhere(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.settimeout(0.5)
        place = f"127.0.0.1:{evil.getsockname()[1]}"
        server.switches.header = (
            f"<stream:stream xmlns='{CLIENT}' xmlns:stream='{STREAM}' version='1.0'"
            f" from='{DOMAIN}' id='1'><stream:error><see-other-host"
            f" xmlns='{STREAMS}'>{place}</see-other-host></stream:error>"
        )
        text = refusal(bed, behind(bed, server))
        assert "see-other-host" in text
        assert place not in text
        with pytest.raises(TimeoutError):
            evil.accept()


def test_tls_13_half_a_stanza_is_never_completed(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    tillie = behind(bed, server)
    alice = bed.raw(ALICE, tillie.port)
    ready(tillie)
    seen = len(server.logins)
    server.send_raw(ALICE, b"<message from='carol@a.test'><body>half")
    server.cut(ALICE)
    until(lambda: len(server.logins) > seen, "Tillie to log in again", seconds=15)
    whole = "<message from='carol@a.test' type='headline'><body>whole</body></message>"
    until(lambda: server._sessions_of(ALICE)[0].writer is not None, "the resumption")
    server.inject(ALICE, whole)
    alice.message("whole")
    assert [text_of(one).count("half") for one in alice.messages()] == [0]


def came_back(tap: Tap, after: int) -> bool:
    return tap.accepted > after


def test_rel_07_a_short_cut_is_unseen_where_only_answers_came(bed: Bed) -> None:
    """What was resumed at is never undercut by a later count: Prosody hangs up."""
    bed.start(ALICE)
    tillie = bed.tillie("t")
    alice = bed.raw(ALICE, tillie.port)
    ready(tillie)
    [tap] = [one for one in bed.taps if one.domain == DOMAIN]
    for turn in range(1, 4):
        for _ in range(3):
            alice.ping()
        tap.cut()
        until(partial(came_back, tap, turn), "Tillie to come back", seconds=15)
        for _ in range(3):
            alice.ping()
    assert b"<resumed " in tap.recorded(Way.IN, 4)
    assert tap.accepted == 4


@pytest.mark.parametrize(
    "count", ["1", "4095", "600001", "4294967295", "1000000000", "-1", "09", "4096x"]
)
def test_auth_02_iteration_counts(bed: Bed, count: str) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.iterations = count
    text = refusal(bed, behind(bed, server))
    assert "iteration count" in text
    assert b"<response" not in bytes(server.received)
    assert server.logins == []


def test_auth_03_a_server_that_does_not_know_the_password(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.bad_signature = True
    tillie = behind(bed, server)
    assert "proof that it knows the password is wrong" in refusal(bed, tillie)
    assert never_published(server)
    [notice] = tillie.json("notices")
    assert "login refused" in notice["text"]


def test_auth_01_plain_is_refused_where_better_was_seen(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    tillie = behind(bed, server)
    bed.raw(ALICE, tillie.port).close()
    server.switches.mechanisms = ("PLAIN",)
    sent = len(server.received)
    text = refusal(bed, tillie)
    assert "offers only PLAIN, but this account has logged in with SCRAM" in text
    tillie.restart()
    assert "offers only PLAIN" in refusal(bed, tillie), "remembered over a kill"
    assert b"<auth" not in bytes(server.received[sent:])
    assert any("offers only PLAIN" in one["text"] for one in tillie.json("notices"))
    server.switches.mechanisms = ("SCRAM-SHA-1", "PLAIN")
    bed.raw(ALICE, tillie.port).ping()


def test_plain_inside_tls_if_nothing_better_was_ever_there(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.mechanisms = ("PLAIN", "X-OAUTH2")
    tillie = behind(bed, server)
    bed.raw(ALICE, tillie.port).ping()
    server.switches.mechanisms = ("X-OAUTH2",)
    assert "no way to log in that can be used here (X-OAUTH2)" in refusal(bed, tillie)
    assert server.logins == [(ALICE, "PLAIN")]


def test_auth_05_plus_is_used_where_a_binding_is_shared(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    plus = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN")
    server.switches.mechanisms = plus
    server.switches.features = BINDING.format("tls-server-end-point")
    tillie = behind(bed, server)
    bed.raw(ALICE, tillie.port).close()
    assert server.logins == [(ALICE, "SCRAM-SHA-256-PLUS")]
    server.switches.features = BINDING.format("x-unknown")
    assert "has logged in with SCRAM-SHA-256-PLUS before" in refusal(bed, tillie)
    server.switches.features = BINDING.format("tls-server-end-point")
    server.switches.mechanisms = ("SCRAM-SHA-256",)
    assert "has logged in with SCRAM-SHA-256-PLUS before" in refusal(bed, tillie)
    server.switches.mechanisms = plus
    bed.raw(ALICE, tillie.port).ping()
    assert {mechanism for _, mechanism in server.logins} == {"SCRAM-SHA-256-PLUS"}


@pytest.mark.timeout(150)
def test_res_10_a_silent_server_is_told_within_a_minute(bed: Bed) -> None:
    """One domain for each stage, all at once; the last falls silent when live."""
    stages = ("stream", "tls", "auth", "bind", "live")
    servers = {}
    for stage in stages:
        domain = f"{stage}.test"
        leaf = bed.authority.leaf(domain, label=stage)
        bed.passwords[f"you@{domain}"] = "right-password-here"
        passwords = {f"you@{domain}": "right-password-here"}
        servers[stage] = bed.keep(Scripted(leaf, domain, passwords).start())
        servers[stage].switches.silent_at = stage if stage != "live" else ""
    ports = {one.domain: one.port for one in servers.values()}
    tillie = bed.tillie("t", servers=ports, tls=dict.fromkeys(ports, "starttls"))
    # Without resumption there is nothing to come back to, so its client is told.
    servers["live"].switches.resume = False
    live = bed.raw("you@live.test", tillie.port)
    ready(tillie)
    servers["live"].switches.silent_at = "live"
    began = time.monotonic()
    clients = {"live": live}
    for stage in stages[:-1]:
        clients[stage] = RawClient(tillie.port, f"{stage}.test")
        bed._raw.append(clients[stage])
        clients[stage].open_stream()
        secret = base64.b64encode(b"\0you\0right-password-here").decode()
        clients[stage].send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>")
    told = {}
    for stage, client in clients.items():
        left = began + 75 - time.monotonic()
        try:
            said = client.wait_for(
                lambda one: one.tag in (f"{{{SASL}}}failure", f"{{{STREAM}}}error"),
                seconds=max(left, 0.1),
            )
        except TimeoutError:
            told[stage] = "nothing"
        else:
            told[stage] = "".join(said.itertext())
    assert {stage: text for stage, text in told.items() if len(text) < 12} == {}


# The local leg.


@contextmanager
def junk(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        yield connection


def answer_to(port: int, data: bytes, *, slowly: bool = False) -> bytes:
    """What comes back until the other side closes, which it must within a second."""
    with junk(port) as connection:
        connection.settimeout(1)
        received = b""
        try:
            if slowly:
                for at in range(len(data)):
                    connection.sendall(data[at : at + 1])
            else:
                connection.sendall(data)
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:
            pass
        return received


def client_hello(*protocols: str) -> bytes:
    """The first bytes of a TLS client, as a browser has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=DOMAIN)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_loc_02_03_a_browser_on_the_port_is_closed_without_a_word(bed: Bed) -> None:
    tillie = bed.tillie("t", servers={})
    stream = (
        f"<stream:stream to='{DOMAIN}' version='1.0' xmlns='{CLIENT}'"
        f" xmlns:stream='{STREAM}'>"
    )
    cases = {
        "GET": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:5222\r\n\r\n",
        "GET with a stream": f"GET /{stream} HTTP/1.1\r\n\r\n".encode(),
        "POST": b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + stream.encode(),
        "POST, body after 1 MB": b"POST / HTTP/1.1\r\n\r\n"
        + b"x" * 1_000_000
        + stream.encode(),
        "WebSocket": b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "ClientHello": client_hello("h2", "http/1.1"),
        "ClientHello of XMPP": client_hello("xmpp-client"),
        "NUL": b"\0" * 64,
        "UTF-16": "<?xml version='1.0'?>".encode("utf-16"),
    }
    answers = {name: answer_to(tillie.port, data) for name, data in cases.items()}
    assert answers == dict.fromkeys(cases, b"")
    assert answer_to(tillie.port, cases["POST"], slowly=True) == b""
    assert tillie.json("status")["accounts"] == []
    assert "rror" not in tillie.errors


def test_loc_03_a_browser_on_the_tls_port_gets_no_word_of_xmpp(bed: Bed) -> None:
    tillie = bed.tillie("t", servers={}, arguments=["--listen-tls", "127.0.0.1:0"])
    port = direct_port(tillie)
    assert b"stream" not in answer_to(port, b"GET / HTTP/1.1\r\n\r\n")
    context = trusting(tillie)
    context.set_alpn_protocols(["http/1.1"])
    with junk(port) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_hostname=DOMAIN)
    assert "unexpected" not in tillie.errors


def direct_port(tillie: Tillie) -> int:
    line = next(x for x in tillie.output.splitlines() if x.endswith("(tls)"))
    return int(line.rpartition(":")[2].split()[0])


def trusting(tillie: Tillie) -> ssl.SSLContext:
    """A context that trusts this Tillie's own CA and nobody else."""
    local_certificate(tillie.port, DOMAIN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=tillie.local_ca())
    return context


def test_the_local_leg_by_starttls_and_by_direct_tls(bed: Bed) -> None:
    """Certificates for the domain, localhost and 127.0.0.1, kept over restarts."""
    bed.start(ALICE)
    tillie = bed.tillie("t", arguments=["--listen-tls", "127.0.0.1:0"])
    context = trusting(tillie)
    context.set_alpn_protocols(["xmpp-client"])
    ca = tillie.local_ca()
    for name in (DOMAIN, "localhost", "127.0.0.1"):
        with (
            junk(direct_port(tillie)) as connection,
            context.wrap_socket(connection, server_hostname=name) as secure,
        ):
            assert secure.selected_alpn_protocol() == "xmpp-client"
    bed.raw(ALICE, tillie.port, tls=context, resource="starttls").ping()
    port = direct_port(tillie)
    bed.raw(ALICE, port, tls=context, direct=True, resource="direct").ping()
    shown = local_certificate(tillie.port, DOMAIN)
    tillie.restart()
    assert (tillie.local_ca(), local_certificate(tillie.port, DOMAIN)) == (ca, shown)


def test_what_real_clients_send_is_taken(bed: Bed) -> None:
    """No declaration, foreign attributes, an authzid, odd blanks, no ids."""
    bed.start(ALICE)
    tillie = bed.tillie("t")
    secret = base64.b64encode(
        f"{ALICE}\0alice\0{bed.passwords[ALICE]}".encode()
    ).decode()
    with RawClient(tillie.port, DOMAIN) as alice:
        header = (
            f'<stream:stream from="localhost" xml:lang="en" to="{DOMAIN}"\n'
            f' xmlns:stream="{STREAM}" version="1.0" xmlns="{CLIENT}">'
        )
        alice.open_stream(header)
        alice.send(
            f"\n <auth xmlns='{SASL}' id='a1' mechanism='PLAIN'"
            " xmlns:ga='http://www.google.com/talk/protocol/auth'"
            f" ga:client-uses-full-bind-result='true'>{secret}</auth>\n"
        )
        alice.expect(f"{{{SASL}}}success")
        alice.open_stream('<?xml version="1.0"?>\n' + header)
        alice.send(
            f"<iq type='set' id='1'><bind xmlns='{BIND}'><required/>"
            "<resource>odd</resource></bind></iq>"
        )
        bound = alice.expect(IQ)
        assert bound.findtext(f"{{{BIND}}}bind/{{{BIND}}}jid") == f"{ALICE}/odd"
        session = alice.ask("set", f"<session xmlns='{SESSION}'></session>")
        assert session.get("type") == "result"
        alice.send(" \n\t ")
        alice.send("<presence xml:lang='en' ></presence >")
        alice.send("<r xmlns='urn:xmpp:sm:3'/><a h='1' xmlns='urn:xmpp:sm:3' />")
        assert alice.ping().get("type") == "result"
        pong = alice.ask("get", "<ping xmlns='urn:xmpp:ping'/>", to=DOMAIN)
        assert pong.get("type") == "result"


def test_a_message_without_an_id_and_with_an_empty_subject_arrives(bed: Bed) -> None:
    bed.start(ALICE, BOB)
    tillie = bed.tillie("t")
    alice, bob = bed.raw(ALICE, tillie.port), bed.raw(BOB, tillie.port)
    ready(tillie, 2)
    texts = [bed.canaries.secret() for _ in range(3)]
    for text in texts:
        alice.send(
            f"<message to='{BOB}'><subject></subject><body>{text}\n</body></message>"
        )
    for text in texts:
        assert text_of(bob.message(text, seconds=20)) == f"{text}\n"
    bob.ping()
    assert len(bob.messages()) == 3


def test_the_servers_own_disco_question_passes_untouched(bed: Bed) -> None:
    """Prosody asks for PEP with id 'disco' from the bare JID; clients answer it."""
    server = bed.scripted(DOMAIN, ALICE)
    alice = bed.raw(ALICE, behind(bed, server).port)
    info = "http://jabber.org/protocol/disco#info"
    question = (
        f"<iq type='get' id='disco' from='{ALICE}' to='{alice.jid}'>"
        f"<query xmlns='{info}' node='caps#1'/></iq>"
    )
    for _ in range(2):
        server.inject(ALICE, question)
        asked = alice.wait_for(lambda one: one.get("id") == "disco")
        wanted = ElementTree.fromstring(f"<x xmlns='{CLIENT}'>{question}</x>")[0]
        assert render(asked) == render(wanted)
        alice.send(
            f"<iq type='result' id='disco' to='{ALICE}'>"
            f"<query xmlns='{info}' node='caps#1'>"
            "<feature var='urn:example:kept'/></query></iq>"
        )
    alice.ping()
    answers = [one for _, one in server.stanzas if one.get("id") == "disco"]
    assert len(answers) == 2
    for one in answers:
        assert (one.get("type"), one.get("to")) == ("result", ALICE)
        assert "urn:example:kept" in render(one)


def test_an_unasked_session_is_answered_where_the_server_knows_none(bed: Bed) -> None:
    """Old clients give up on an error; RFC 6121 has dropped it, so servers may err."""
    server = bed.scripted(DOMAIN, ALICE)

    def refuse(_: str, stanza: Element) -> list[Element | str] | None:
        if stanza.find(f"{{{SESSION}}}session") is None:
            return None
        return [render(stanza).replace(SESSION, "urn:example:unknown")]

    server.switches.from_client = refuse
    alice = bed.raw(ALICE, behind(bed, server).port)
    answer = alice.ask("set", f"<session xmlns='{SESSION}'/>")
    assert answer.get("type") == "result"


def test_rel_33_a_second_login_replaces_the_first(bed: Bed) -> None:
    """The same resource again, the old connection still open: Prosody's conflict."""
    bed.start(ALICE, BOB)
    tillie = bed.tillie("t")
    bob = bed.raw(BOB, tillie.port)
    first = bed.raw(ALICE, tillie.port, resource="home")
    ready(tillie, 2)
    second = bed.raw(ALICE, tillie.port, resource="home")
    assert second.jid == first.jid
    error = first.wait_for(lambda one: one.tag == f"{{{STREAM}}}error")
    assert error[0].tag == f"{{{STREAMS}}}conflict", "".join(error.itertext())
    first.wait_closed()
    text = bed.canaries.secret()
    bob.say(ALICE, text)
    second.message(text, seconds=20)
    second.ping()
    assert len(second.messages()) == 1


def test_a_client_that_vanished_is_replaced(bed: Bed) -> None:
    bed.start(ALICE, BOB)
    tillie = bed.tillie("t")
    bob = bed.raw(BOB, tillie.port)
    bed.raw(ALICE, tillie.port, resource="home").reset()
    again = bed.raw(ALICE, tillie.port, resource="home")
    ready(tillie, 2)
    text = bed.canaries.secret()
    bob.say(ALICE, text)
    assert text_of(again.message(text, seconds=20)) == text


def stream_error(client: RawClient) -> str:
    """The condition with which Tillie ends a stream."""
    error = client.wait_for(lambda one: one.tag == f"{{{STREAM}}}error", seconds=5)
    return error[0].tag.partition("}")[2]


def test_tls_02_14_15_auth_13_15_the_local_leg_takes_no_shortcuts(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    tillie = behind(bed, server)
    port = tillie.port

    def opened(header: str = "") -> RawClient:
        client = RawClient(port, DOMAIN)
        bed._raw.append(client)
        client.open_stream(header)
        return client

    secret = base64.b64encode(f"\0alice\0{bed.passwords[ALICE]}".encode()).decode()
    auth = f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>"
    # TLS-02: a login in clear behind <starttls/>.
    hasty = opened()
    hasty.send(f"<starttls xmlns='{TLS}'/>{auth}")
    assert b"success" not in hasty.wait_closed()
    # TLS-14: no 'to', and another 'to' on the same connection.
    for header in (
        f"<stream:stream xmlns='{CLIENT}' xmlns:stream='{STREAM}' version='1.0'>",
        f"<stream:stream to='you@a.test' xmlns='{CLIENT}' xmlns:stream='{STREAM}'"
        " version='1.0'>",
    ):
        lost = RawClient(port, DOMAIN)
        bed._raw.append(lost)
        lost._new_parser()
        lost.send(header)
        assert stream_error(lost) in ("improper-addressing", "host-unknown")
    with RawClient(port, "A.TEST.") as capital:
        capital.open_stream()
        assert capital.header is not None
        assert capital.header.get("from") == DOMAIN
        capital.send(auth)
        capital.expect(f"{{{SASL}}}success")
        capital._new_parser()
        capital.send(
            f"<stream:stream to='b.test' version='1.0' xmlns='{CLIENT}'"
            f" xmlns:stream='{STREAM}'>"
        )
        assert stream_error(capital) == "host-unknown"
    # TLS-15: compression is not there, and asking for it is no way in.
    bomb = opened()
    bomb.send(f"<compress xmlns='{COMPRESS}'><method>zlib</method></compress>")
    bomb.expect(f"{{{COMPRESS}}}failure")
    # AUTH-13: base64 that is none.
    for text in ("AGE=AGI", "!!!!", "AGFsaWNlAHg", "AB==", secret[:-1] + " "):
        coded = opened()
        coded.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{text}</auth>")
        failure = coded.expect(f"{{{SASL}}}failure")
        assert failure[0].tag.partition("}")[2] in (
            "incorrect-encoding",
            "malformed-request",
        )
    # AUTH-15: stanzas and bind before login; a second login behind the first.
    for early in (
        "<presence/>",
        f"<message to='{BOB}'><body>early</body></message>",
        f"<iq type='set' id='b'><bind xmlns='{BIND}'/></iq>",
        f"{auth}<presence/>",
    ):
        hasty = opened()
        hasty.send(early)
        assert stream_error(hasty) == "not-authorized"
    alice = bed.raw(ALICE, port)
    alice.send(auth)
    assert stream_error(alice) == "not-authorized"
    assert b"early" not in bytes(server.received)
    # Another account's name beside one's own.
    other = base64.b64encode(
        f"{CAROL}\0alice\0{bed.passwords[ALICE]}".encode()
    ).decode()
    greedy = opened()
    greedy.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{other}</auth>")
    failure = greedy.expect(f"{{{SASL}}}failure")
    assert failure.find(f"{{{SASL}}}invalid-authzid") is not None


# Keys.


def items(client: RawClient, jid: str, node: str) -> dict[str, Element] | str:
    """A node's items by id, or the condition of the error that came instead."""
    answer = client.ask(
        "get", f"<pubsub xmlns='{PUBSUB}'><items node='{node}'/></pubsub>", to=jid
    )
    if answer.get("type") == "error":
        error = answer.find(f"{{{CLIENT}}}error")
        assert error is not None
        return error[0].tag.partition("}")[2]
    found = answer.findall(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}items/{{{PUBSUB}}}item")
    return {one.get("id", ""): one for one in found}


def naked(bed: Bed, jid: str, resource: str = "naked") -> RawClient:
    """A client without Tillie."""
    return bed.raw(
        jid,
        bed.server.direct_port,
        tls=bed.authority.client_context(),
        direct=True,
        resource=resource,
    )


def test_loc_13_modes_under_any_umask(bed: Bed) -> None:
    bed.start(ALICE)
    tillie = bed.tillie("t", arguments=["--listen-tls", "127.0.0.1:0"], start=False)
    before = os.umask(0)
    try:
        tillie.start()
    finally:
        os.umask(before)
    bed.raw(ALICE, tillie.port, tls=trusting(tillie)).ping()
    ready(tillie)
    assert tillie.json("notices") == []
    found = [tillie.state, *tillie.state.rglob("*")]
    assert len(found) > 5
    modes = {
        str(one.relative_to(tillie.state)): oct(stat.S_IMODE(one.lstat().st_mode))
        for one in found
        if one.exists()
        and stat.S_IMODE(one.lstat().st_mode) != (0o700 if one.is_dir() else 0o600)
    }
    assert modes == {}
    assert list(tillie.folder.iterdir()) != []


def test_loc_13_a_state_folder_that_was_open_to_others_is_refused(bed: Bed) -> None:
    tillie = bed.tillie("t", servers={})
    tillie.stop()
    tillie.state.chmod(0o755)
    tillie.spawn(*tillie.run_arguments())
    assert tillie.wait() == 1
    assert "open to other users" in tillie.errors
    assert stat.S_IMODE(tillie.state.stat().st_mode) == 0o755


def test_keys_are_published_open_and_kept_over_restarts(bed: Bed) -> None:
    """A stranger, without any presence, reads them; a kill makes no new ones."""
    bed.start(ALICE, BOB)
    tillie = bed.tillie("t")
    alice = bed.raw(ALICE, tillie.port)
    ready(tillie)
    stranger = naked(bed, BOB)
    keys = items(stranger, ALICE, KEY)
    prekeys = items(stranger, ALICE, PREKEY)
    [account] = tillie.json("status")["accounts"]
    [device] = tillie.json("devices")
    assert isinstance(keys, dict)
    assert isinstance(prekeys, dict)
    assert (list(keys), list(prekeys)) == (["current"], [device["id"]])
    alice.abort()
    tillie.restart()
    bed.raw(ALICE, tillie.port, resource="later")
    ready(tillie)
    again = items(stranger, ALICE, KEY)
    assert isinstance(again, dict)
    assert render(again["current"]) == render(keys["current"])
    [after] = tillie.json("status")["accounts"]
    assert after["fingerprint"] == account["fingerprint"]
    assert [one["id"] for one in tillie.json("devices")] == [device["id"]]
    # Nothing of it was shown to Alice's client.
    assert not any(KEY in render(one) for one in alice.stanzas)


def test_foreign_items_in_the_nodes_stay(bed: Bed) -> None:
    """I15: made by something else with its own configuration, merged all the same."""
    bed.start(ALICE, BOB)
    owner = naked(bed, ALICE)
    published = owner.ask(
        "set",
        f"<pubsub xmlns='{PUBSUB}'><publish node='{PREKEY}'><item id='foreign'>"
        "<other xmlns='urn:example:other'>kept</other></item></publish></pubsub>",
    )
    assert published.get("type") == "result"
    tillie = bed.tillie("t")
    bed.raw(ALICE, tillie.port)
    ready(tillie)
    found = items(naked(bed, BOB), ALICE, PREKEY)
    assert isinstance(found, dict), "the node is open to strangers now"
    [device] = tillie.json("devices")
    assert set(found) == {"foreign", device["id"]}
    assert "kept" in render(found["foreign"])


def test_a_record_that_is_no_key_is_not_overwritten(bed: Bed) -> None:
    bed.start(ALICE)
    owner = naked(bed, ALICE)
    owner.ask(
        "set",
        f"<pubsub xmlns='{PUBSUB}'><publish node='{KEY}'><item id='current'>"
        f"<record xmlns='{KEY}'><manifest>broken</manifest></record></item>"
        "</publish></pubsub>",
    )
    tillie = bed.tillie("t")
    alice = bed.raw(ALICE, tillie.port)
    until(lambda: tillie.json("notices"), "a notice", seconds=15)
    alice.ping()
    found = items(owner, ALICE, KEY)
    assert isinstance(found, dict)
    assert "broken" in render(found["current"])
    assert not any(one["published"] for one in tillie.json("status")["accounts"])


@pytest.mark.parametrize(
    "condition", ["internal-server-error", "forbidden", "remote-server-timeout"]
)
def test_a_failing_read_is_not_empty(bed: Bed, condition: str) -> None:
    """Nothing is published over keys that could only not be read."""
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.pep_errors[ALICE, KEY] = condition
    tillie = behind(bed, server)
    alice = bed.raw(ALICE, tillie.port)
    until(lambda: tillie.json("notices"), "a notice", seconds=15)
    alice.ping()
    assert never_published(server)
    assert condition in tillie.json("notices")[0]["text"]
    [account] = tillie.json("status")["accounts"]
    assert (account["published"], account["fingerprint"]) == (False, None)
    # The next login reads again, and now it is known that there is nothing.
    del server.switches.pep_errors[ALICE, KEY]
    alice.close()
    bed.raw(ALICE, tillie.port, resource="later")
    ready(tillie)
    assert (ALICE, KEY) in server.pep


def test_a_read_without_an_answer_is_not_empty(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.pep_silent.add((ALICE, KEY))
    tillie = behind(bed, server)
    alice = bed.raw(ALICE, tillie.port)
    until(lambda: tillie.json("notices"), "a notice", seconds=25)
    alice.ping()
    assert never_published(server)
    assert "did not answer" in tillie.json("notices")[0]["text"]


def test_keys_read_by_an_imposter_are_not_taken(bed: Bed) -> None:
    """ID-06: an answer with the right id from anybody else is no answer."""
    server = bed.scripted(DOMAIN, ALICE)

    def impostor(_: str, stanza: Element) -> list[Element | str] | None:
        if stanza.find(f"{{{PUBSUB}}}pubsub") is None and stanza.get("from"):
            return None
        stanza.set("from", "mallory@b.test")
        return [stanza]

    server.switches.to_client = impostor
    tillie = behind(bed, server)
    alice = bed.raw(ALICE, tillie.port)
    until(lambda: server.stanzas, "the question")
    alice.ping()
    assert alice.ping().get("type") == "result"
    assert not any(one["published"] for one in tillie.json("status")["accounts"])


@pytest.mark.parametrize("lost", ["key file", "database"])
def test_lost_state_makes_no_new_keys_by_itself(bed: Bed, lost: str) -> None:
    """Keys are on the server, but not here any more: a person has to say so."""
    bed.start(ALICE, BOB)
    tillie = bed.tillie("t")
    bed.raw(ALICE, tillie.port)
    ready(tillie)
    before = items(naked(bed, BOB), ALICE, KEY)
    assert isinstance(before, dict)
    tillie.stop()
    files = [one for one in tillie.state.iterdir() if one.is_file()]
    if lost == "database":
        shutil.rmtree(tillie.state)
        tillie.start()
        client = bed.raw(ALICE, tillie.port, resource="later")
        until(
            lambda: tillie.json("status")["accounts"][0]["state"] == "linking",
            "the keys on the server to be seen",
            seconds=15,
        )
        client.ping()
    else:
        keys = [one for one in files if "sqlite" not in one.name and "key" in one.name]
        assert len(keys) == 1, files
        keys[0].unlink()
        tillie.spawn(*tillie.run_arguments())
        assert tillie.wait() == 1
        assert "tillie: error:" in tillie.errors
    after = items(naked(bed, BOB, "again"), ALICE, KEY)
    assert isinstance(after, dict)
    assert render(after["current"]) == render(before["current"])


def test_what_tillie_asks_is_unseen_and_cannot_collide(bed: Bed) -> None:
    """Its ids are random; a client with the same id gets its own answer."""
    bed.start(ALICE)
    tillie = bed.tillie("t")
    alice = bed.raw(ALICE, tillie.port)
    ready(tillie)
    alice.ping()
    own = {one.get("id") for one in alice.stanzas if one.tag == IQ}
    assert all(str(one).startswith("raw-") for one in own), own
    sent = bed.taps[0].recorded(Way.OUT).decode()
    asked = [part.partition("'")[0] for part in sent.split("<iq ")[1:]]
    assert len(asked) >= 4


def test_the_client_leaves_during_login(bed: Bed) -> None:
    """Gone before the answer: no login is left behind, and the next one works."""
    server = bed.scripted(DOMAIN, ALICE)
    tillie = behind(bed, server)
    server.switches.silent_at = "auth"
    client = RawClient(tillie.port, DOMAIN)
    bed._raw.append(client)
    client.open_stream()
    secret = base64.b64encode(f"\0alice\0{bed.passwords[ALICE]}".encode()).decode()
    client.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>")
    until(lambda: server.connections, "Tillie at the server")
    client.reset()
    server.switches.silent_at = ""
    bed.raw(ALICE, tillie.port).ping()
    assert [one for one, _ in server.logins] == [ALICE]
    assert "unexpected" not in tillie.errors


def test_an_ended_stream_upstream_is_told(bed: Bed) -> None:
    server = bed.scripted(DOMAIN, ALICE)
    server.switches.resume = False
    alice = bed.raw(ALICE, behind(bed, server).port)
    alice.ping()
    server.send_raw(
        ALICE,
        f"<stream:error><policy-violation xmlns='{STREAMS}'/></stream:error>"
        "</stream:stream>".encode(),
    )
    server.cut(ALICE)
    with pytest.raises(StreamEndedError):
        alice.wait_for(lambda _: False, seconds=10)
    errors = [one for one in alice.stanzas if one.tag == f"{{{STREAM}}}error"]
    assert len(errors) == 1
    assert "the connection to the server was lost" in "".join(errors[0].itertext())
