"""The gate's listener on the wire, in front of a server that records every byte."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from OpenSSL import SSL

from ..support.bed import Bed
from ..support.crowd import address, knock, silent
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.persons import Person
from ..support.raw import SASL, TLS, RawClient, RefusedError, StreamEndedError
from ..support.recorder import Flaws, Recorder
from ..support.securesocket import SecureSocket
from ..support.waiting import until
from ..unit.wire.test_framing import BEHIND, PASSED

ALICE = "alice@a.test"


@pytest.fixture
def alice() -> Person:
    return Person(ALICE)


@pytest.fixture
def recorder(bed: Bed) -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.stop()


def before(bed: Bed, recorder: Recorder, **options: object) -> Gate:
    return bed.gate(backends={"a.test": recorder.port}, **options)


def plainly(client: GateClient) -> GateClient:
    """Log in where every password is right."""
    client.secure()
    client.present()
    client.authenticate(ALICE, "any")
    client.open_stream()
    client.bind()
    client.vouch()
    return client


def closed(client: RawClient) -> bytes:
    """What came until the gate closed, from now on."""
    at = len(client.received)
    return client.wait_closed()[at:]


# -- without a key --------------------------------------------------------------


def test_auth_08_nobody_comes_in_as_nobody(bed: Bed, recorder: Recorder) -> None:
    gate = before(bed, recorder)
    client = bed.at_gate(gate, ALICE)
    client.secure()
    there = recorder.last.received
    for said in ("", "=", "c2lyaGM="):
        client.send(f"<auth xmlns='{SASL}' mechanism='ANONYMOUS'>{said}</auth>")
        failure = client.expect(f"{{{SASL}}}failure")
        assert failure.find(f"{{{SASL}}}not-authorized") is not None
    assert recorder.last.received == there
    assert "no key: login refused from 127.0.0.1 (a.test)" in gate.errors


# -- XML ------------------------------------------------------------------------


def test_xml_cases_reach_the_server_as_nothing(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    """Each of section 2.1 that a framer refuses, through TLS and behind a key."""
    gate = before(bed, recorder)
    for name, (data, condition) in BEHIND.items():
        client = bed.at_gate(gate, alice)
        client.secure()
        client.present()
        there = recorder.last.received
        with contextlib.suppress(ConnectionError):
            client.send(data)
        said = closed(client)
        assert condition.encode() in said or b"policy-violation" in said, name
        assert said.endswith(b"</stream:stream>"), name
        until(lambda: recorder.last.closed, "the server's side to end")
        assert recorder.last.received == there, name


def test_xml_what_is_allowed_arrives_byte_for_byte(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    client = plainly(bed.at_gate(before(bed, recorder), alice))
    for data in PASSED.values():
        recorder.last.received = b""
        client.send(data)
        recorder.last.until(data)
        assert recorder.last.received == data
        recorder.last.send(data)
        until(lambda wanted=data: _arrived(client, wanted), "it to come back")


def _arrived(client: GateClient, data: bytes) -> bool:
    with contextlib.suppress(TimeoutError):
        client.wait_for(lambda _: False, seconds=0.05)
    return data in client.received


# -- TLS ------------------------------------------------------------------------


def test_tls_09_only_version_1_3(bed: Bed, recorder: Recorder) -> None:
    gate = before(bed, recorder, direct=True)
    for version in (SSL.TLS1_2_VERSION, SSL.TLS1_1_VERSION):
        client = bed.at_gate(gate, ALICE, port=gate.direct_port)
        with pytest.raises(ConnectionError):
            client.start_secure(highest=version)
    client = bed.at_gate(gate, ALICE, port=gate.direct_port)
    client.secure(direct=True)
    assert isinstance(client._socket, SecureSocket)
    assert client._socket.version == "TLSv1.3"


def test_tls_09_no_early_data(bed: Bed, recorder: Recorder) -> None:
    """What is sent in the first flight could be sent again by anybody."""
    gate = before(bed, recorder, direct=True)
    kept = bed.folder / "session.pem"
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gate.direct_port}"]
    command += ["-servername", "a.test", "-alpn", "xmpp-client", "-tls1_3"]
    header = b"<?xml version='1.0'?><stream:stream to='a.test' version='1.0'"
    header += b" xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    # the ticket comes behind the handshake, with the first bytes of the stream
    said = subprocess.run(
        [*command, "-sess_out", str(kept), "-ign_eof"],
        input=header + b"</stream:stream>",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"TLSv1.3" in said.stdout
    told = subprocess.run(
        ["openssl", "sess_id", "-in", str(kept), "-noout", "-text"],
        capture_output=True,
        check=True,
    )
    assert b"Max Early Data: 0" in told.stdout


def test_tls_10_a_name_with_a_nul_is_nobody_s(bed: Bed, recorder: Recorder) -> None:
    gate = before(bed, recorder, direct=True)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    hello = SSL.Connection(context, None)
    hello.set_tlsext_host_name(b"a.test")
    hello.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        hello.do_handshake()
    data = hello.bio_read(65_536)
    assert data.count(b"a.test") == 1
    with socket.create_connection(("127.0.0.1", gate.direct_port), 5) as raw:
        raw.sendall(data.replace(b"a.test", b"a\0test"))
        with contextlib.suppress(ConnectionResetError):
            # an alert at most: no certificate of anybody
            assert len(_all(raw)) <= 7


@pytest.mark.parametrize("direct", [False, True])
def test_tls_10_names_of_nobody_get_no_certificate(
    bed: Bed, recorder: Recorder, direct: bool
) -> None:
    gate = bed.gate(
        backends={"a.test": recorder.port, "b.test": recorder.port}, direct=direct
    )
    port = gate.direct_port if direct else gate.port
    wrong = ["c.test", "a.test.", "xn--a.test", "127.0.0.1", "x" * 200]
    for name in [*wrong, None] if direct else wrong:
        client = bed.at_gate(gate, ALICE, port=port)
        if not direct:
            client.open_stream()
            client.send(f"<starttls xmlns='{TLS}'/>")
            client.expect(f"{{{TLS}}}proceed")
        with pytest.raises(ConnectionError):
            client.start_secure(name)
    client = bed.at_gate(gate, ALICE, port=port)
    client.secure(direct=direct, name="A.test")


def test_tls_10_each_domain_shows_its_own_certificate(
    bed: Bed, recorder: Recorder
) -> None:
    leaves = {one: bed.authority.leaf(one, label=one) for one in ("a.test", "b.test")}
    ports = {"a.test": recorder.port, "b.test": recorder.port}
    gate = bed.gate(backends=ports, leaves=leaves, direct=True)
    shown = {}
    for domain in ports:
        client = bed.at_gate(gate, f"x@{domain}", port=gate.direct_port)
        client.start_secure()
        assert isinstance(client._socket, SecureSocket)
        shown[domain] = client._socket.certificate
        wanted = ssl.PEM_cert_to_DER_cert(
            leaves[domain].certificate.read_text().split("-----END")[0]
            + "-----END CERTIFICATE-----\n"
        )
        assert shown[domain] == wanted
    assert len(set(shown.values())) == 2


@pytest.mark.parametrize("alpn", [b"http/1.1", b"h2"])
def test_tls_11_another_protocol_is_refused(
    bed: Bed, recorder: Recorder, alpn: bytes
) -> None:
    gate = before(bed, recorder, direct=True)
    client = bed.at_gate(gate, ALICE, port=gate.direct_port)
    with pytest.raises(ConnectionError):
        client.start_secure(alpn=alpn)
    client = bed.at_gate(gate, ALICE, port=gate.direct_port)
    client.secure(direct=True, alpn=b"xmpp-client")


def test_tls_01_02_nothing_smuggled_before_tls(bed: Bed, recorder: Recorder) -> None:
    gate = before(bed, recorder)
    client = bed.at_gate(gate, ALICE)
    client.open_stream()
    client.send(f"<starttls xmlns='{TLS}'/><presence/>")
    assert closed(client) == b""
    assert not recorder.conversations


def test_tls_12_a_handshake_that_never_ends_is_ended(
    bed: Bed, recorder: Recorder
) -> None:
    gate = before(bed, recorder, direct=True)
    with socket.create_connection(("127.0.0.1", gate.direct_port)) as silent:
        silent.settimeout(8)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_tls_13_a_cut_inside_a_stanza_completes_nothing(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    client = plainly(bed.at_gate(before(bed, recorder), alice))
    client.send("<message to='x@a.test'><body>hal")
    client.reset()
    until(lambda: recorder.last.closed, "the server's side to end")
    assert b"hal" not in recorder.last.received
    assert b"</stream:stream>" not in recorder.last.received, "it may be resumed"


def test_tls_18_the_wrong_port_ends_at_once(bed: Bed, recorder: Recorder) -> None:
    gate = before(bed, recorder, direct=True)
    with RawClient(gate.direct_port, "a.test", seconds=2) as client:
        client.send("<?xml version='1.0'?><stream:stream to='a.test'>")
        client.wait_closed()
    with socket.create_connection(("127.0.0.1", gate.port), 2) as hello:
        hello.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert hello.recv(100) == b""


# -- PROXY ----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_server_is_told_the_client_s_address(
    bed: Bed, recorder: Recorder, version: str
) -> None:
    gate = before(bed, recorder, arguments=["--proxy-protocol", version])
    client = bed.at_gate(gate, ALICE)
    client.secure()
    head = recorder.last.received
    if version == "v1":
        assert head.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
        assert head.split(b"\r\n")[0].endswith(str(gate.port).encode())
    else:
        assert head.startswith(
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01"
        )


def test_tls_17_headers_are_taken_from_balancers_only(
    bed: Bed, recorder: Recorder
) -> None:
    gate = before(bed, recorder, arguments=["--proxy-from", "127.0.0.2/32"])
    header = b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 5222\r\n"
    client = bed.at_gate(gate, ALICE)
    client.send(header)
    assert closed(client) == b""
    through = GateClient(gate.port, "a.test", bed.authority.ca, source="127.0.0.2")
    through.send(header)
    through.secure()
    with pytest.raises(RefusedError):
        through.authenticate(ALICE, "any")
    through.abort()
    assert "login refused from 192.0.2.7 (a.test)" in gate.errors
    bare = GateClient(gate.port, "a.test", bed.authority.ca, source="127.0.0.2")
    bare.send("<?xml version='1.0'?>")
    assert closed(bare) == b""
    bare.abort()


# -- resources ------------------------------------------------------------------


def test_res_03_a_client_that_reads_nothing_stops_the_server(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder)
    plainly(bed.at_gate(gate, alice))
    start = _memory(gate.pid)
    page = b"<message from='x@a.test'><body>" + b"y" * 50_000 + b"</body></message>"
    recorder.last.connection.settimeout(1.0)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 40_000_000:
            recorder.last.connection.sendall(page)
            sent += len(page)
    assert sent < 30_000_000
    assert _memory(gate.pid) - start < 8_000_000
    other = plainly(bed.at_gate(gate, alice))
    other.ping()


def test_res_04_out_of_file_descriptors_it_waits_and_recovers(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder, start=False)
    gate.limit_files = 256
    gate.start()
    client = plainly(bed.at_gate(gate, alice))
    crowd = silent(gate.port, 300)
    client.ping()
    assert _busy(gate.pid) < 0.5
    for one in crowd:
        one.close()
    plainly(bed.at_gate(gate, alice)).ping()
    client.ping()


def test_res_01_strangers_end_by_themselves_and_leave_nothing(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder, arguments=["--strangers", "600"])
    plainly(bed.at_gate(gate, alice)).close()
    files, start = _files(gate.pid), _memory(gate.pid)
    crowd = silent(gate.port, 250)
    until(lambda: _files(gate.pid) >= files + 245, "the crowd to be let in")
    assert _memory(gate.pid) - start < 250 * 65_536
    plainly(bed.at_gate(gate, alice, seconds=2)).close()
    for one in crowd:
        one.settimeout(40)
        assert b"connection-timeout" in _all(one)
        one.close()
    until(lambda: _files(gate.pid) <= files, "the sockets to be closed")


def test_res_02_connections_that_come_and_go_leave_nothing(
    bed: Bed, recorder: Recorder
) -> None:
    """Each address comes a few times only: the gate looks at all of them."""
    gate = before(bed, recorder, arguments=["--metrics", "127.0.0.1:0"])

    def come_and_go(times: int) -> None:
        for number in range(times):
            knock(gate.port, number).close()

    files = _files(gate.pid)
    sizes = []
    for _ in range(6):
        come_and_go(5_000)
        until(lambda: _files(gate.pid) <= files, "them to be gone")
        sizes.append(_memory(gate.pid))
    # threats.md's bound; that no object stays is tests/unit/net/test_gate.py's
    # the allocator settles in the first rounds
    assert sizes[-1] - sizes[2] < 8 * 1024 * 1024, sizes
    assert 'event="crowded"' not in _metrics(gate)


def test_res_02_who_comes_and_goes_without_end_is_not_looked_at(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    few = ["--metrics", "127.0.0.1:0", "--strangers-each", "100"]
    gate = before(bed, recorder, arguments=few)
    client = plainly(bed.at_gate(gate, alice))
    for _ in range(300):
        # all of one address: ten strangers have one
        knock(gate.port, 0).close()
    client.ping()
    plainly(bed.at_gate(gate, alice)).ping()
    until(lambda: 'event="crowded"' in _metrics(gate), "some to be left out")
    # patience, and the address is as good as any
    until(lambda: _greeted(gate), "it to be let in again")


# -- operation ------------------------------------------------------------------


def test_rel_06_sigterm_tells_everybody_and_ends_well(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder)
    client = plainly(bed.at_gate(gate, alice))
    waiting = bed.at_gate(gate, ALICE)
    waiting.open_stream()
    assert gate.stop(seconds=5) == 0
    assert b"<system-shutdown" in closed(client)
    assert b"<system-shutdown" in closed(waiting)
    until(lambda: recorder.last.closed, "the server's side to end")
    assert b"</stream:stream>" not in recorder.last.received


def test_rel_28_a_server_that_is_down_is_told_and_comes_back(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder)
    client = plainly(bed.at_gate(gate, alice))
    recorder.last.drop()
    assert b"<system-shutdown" in closed(client)
    # bound and not listening: nobody answers there, and nobody else can take it
    with socket.socket() as down:
        down.bind(("127.0.0.1", 0))
        lonely = bed.gate("lonely", backends={"a.test": down.getsockname()[1]})
        client = bed.at_gate(lonely, ALICE)
        with pytest.raises((StreamEndedError, AssertionError)):
            client.secure()
        assert b"<remote-connection-failed" in client.wait_closed()
    plainly(bed.at_gate(gate, alice)).ping()


def test_sighup_takes_new_certificates_and_drops_nobody(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    leaf = bed.authority.leaf("a.test", label="a")
    gate = before(bed, recorder, leaves={"a.test": leaf}, direct=True)
    client = plainly(bed.at_gate(gate, alice))
    old = _certificate(bed, gate)
    bed.authority.leaf("a.test", label="a")
    gate.send_signal(signal.SIGHUP)
    until(lambda: "configuration reloaded" in gate.errors, "the reload")
    assert _certificate(bed, gate) != old
    client.ping()
    new = _certificate(bed, gate)
    leaf.certificate.write_text("no certificate")
    gate.send_signal(signal.SIGHUP)
    until(lambda: "was not reloaded" in gate.errors, "the refusal")
    assert _certificate(bed, gate) == new
    client.ping()


def test_expiring_certificates_are_told(bed: Bed, recorder: Recorder) -> None:
    leaf = bed.authority.leaf(
        "elsewhere.test", label="old", lasts=datetime.timedelta(days=2)
    )
    gate = before(bed, recorder, leaves={"a.test": leaf})
    assert "is not for a.test" in gate.errors
    assert "ends on" in gate.errors


def test_metrics_and_health(bed: Bed, alice: Person, recorder: Recorder) -> None:
    gate = before(bed, recorder, arguments=["--metrics", "127.0.0.1:0"])
    line = until(lambda: _line(gate, "metrics on "), "the metrics' line")
    plainly(bed.at_gate(gate, alice))
    client = bed.at_gate(gate, ALICE)
    client.secure()
    with pytest.raises(RefusedError):
        client.authenticate(ALICE, "any")
    with urllib.request.urlopen(f"http://{line}/metrics") as answer:
        text = answer.read().decode()
    assert 'tillie_gate_events_total{event="vouched"} 1.0' in text
    assert 'tillie_gate_events_total{event="refused"} 1.0' in text
    assert "tillie_gate_streams 1.0" in text
    assert "alice" not in text
    with urllib.request.urlopen(f"http://{line}/healthz") as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{line}/")


def test_logs_hold_no_passwords_and_no_tokens(
    bed: Bed, alice: Person, recorder: Recorder
) -> None:
    gate = before(bed, recorder, arguments=["--log-level", "debug"])
    client = plainly(bed.at_gate(gate, alice))
    secret = bed.canaries.secret()
    client.send(f"<message to='x@a.test'><body>{secret}</body></message>")
    recorder.last.until(secret)
    client.send(f"<auth xmlns='{SASL}' mechanism='PLAIN'>{secret}</auth>")
    closed(client)
    assert secret not in gate.errors
    assert client.token[:40] not in gate.errors
    assert "first key of alice@a.test" in gate.errors


@pytest.mark.parametrize(
    "flaws",
    [
        Flaws(
            instead={"auth": "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><x/>"}
        ),
        Flaws(instead={"bind": "<iq type='result' id='raw-1'/>"}),
        Flaws(instead={"header": "HTTP/1.1 400 Bad Request\r\n\r\n"}),
        Flaws(
            door="<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
        ),
    ],
    ids=["auth_15", "auth_12_nobody", "no_xmpp", "tls"],
)
def test_a_server_that_errs_is_not_passed_on(
    bed: Bed, alice: Person, flaws: Flaws
) -> None:
    recorder = Recorder(flaws=flaws)
    gate = before(bed, recorder)
    client = bed.at_gate(gate, alice)
    with pytest.raises((StreamEndedError, AssertionError, ValueError)):
        plainly(client)
    assert b"<internal-server-error" in client.wait_closed()
    recorder.stop()


# -- small things ----------------------------------------------------------------


def _certificate(bed: Bed, gate: Gate) -> bytes:
    client = bed.at_gate(gate, ALICE, port=gate.direct_port)
    client.start_secure()
    assert isinstance(client._socket, SecureSocket)
    return client._socket.certificate


def _line(gate: Gate, words: str) -> str:
    lines = [one for one in gate.output.splitlines() if words in one]
    return lines[-1].partition(words)[2] if lines else ""


def _metrics(gate: Gate) -> str:
    line = until(lambda: _line(gate, "metrics on "), "the metrics' line")
    with urllib.request.urlopen(f"http://{line}/metrics") as answer:
        return str(answer.read().decode())


def _greeted(gate: Gate) -> bool:
    """Whether a stream header from the first strangers' address is answered."""
    with RawClient(gate.port, "a.test", source=address(0)) as client:
        try:
            client.open_stream()
        except (StreamEndedError, ConnectionError):
            return False
    return True


def _all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _memory(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _busy(pid: int) -> float:
    """Processor seconds that a process takes in one second of the clock."""
    import time

    def spent() -> float:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    start = spent()
    time.sleep(1)
    return spent() - start
