"""`tillie gate check` on real servers: what is well, and each thing that is not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from proxy.app import clientchecks, gatecheck
from proxy.app.addresses import Address
from proxy.app.checking import Asked
from proxy.app.gatecheck import look
from proxy.gate.outside import Finding

from ..support.certificates import Leaf
from ..support.ejabberd import Ejabberd
from ..support.federation import Federation, directory
from ..support.gate import Gate
from ..support.names import Names
from ..support.prosody import Prosody
from ..support.tap import Tap
from ..support.tillie import ROOT

A = "a.test"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path)
    yield federation
    federation.close()


@pytest.fixture
def gate(federation: Federation) -> Iterator[Gate]:
    """A gate in front of a Prosody that has the printed lines."""
    server = federation.prosody(A, federation.leaf(A))
    federation.start()
    gate = gate_before(federation, server)
    yield gate
    gate.kill()


def gate_before(
    federation: Federation, server: Prosody | Ejabberd, *arguments: str
) -> Gate:
    folder = federation.folder / "gate"
    if server.behind_gate:
        arguments = (*arguments, *directory(server.behind_gate, folder))
    return Gate(
        folder,
        {A: server.starttls_port},
        {A: federation.leaf(A)},
        arguments,
        direct=True,
    ).start()


def command(federation: Federation, *arguments: str) -> tuple[int, str]:
    """Run `tillie gate check a.test` with the test's authority."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy", "gate", "check", A),
            *("--ca", str(federation.authority.ca), *arguments),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def asked(federation: Federation, **options: Any) -> Asked:
    options = {"usual_ports": (), "seconds": 5.0, **options}
    return Asked(domain=A, ca=federation.authority.ca, **options)


def local(port: int) -> Address:
    return Address("127.0.0.1", port)


async def looked(what: Asked) -> list[Finding]:
    """What is found, on the reactor of the tests."""
    return await look(reactor, what)


def bad(found: list[Finding]) -> dict[str, str]:
    return {one.check: one.text for one in found if one.ok is False}


def words(found: list[Finding], check: str) -> list[tuple[bool | None, str]]:
    return [(one.ok, one.text) for one in found if one.check == check]


def test_all_is_well_behind_a_gate_with_the_printed_lines(
    federation: Federation, gate: Gate
) -> None:
    other = federation.authority.leaf("x.test", label="x")
    s2s = f"127.0.0.1:{federation.servers[A].s2s_port}"
    code, out = command(
        *(federation, "--server", f"127.0.0.1:{gate.port}", "--s2s", s2s, "--json"),
        *("--s2s-cert", str(other.certificate), "--s2s-key", str(other.key)),
    )
    rows = json.loads(out)
    assert [row for row in rows if row["ok"] is False] == []
    assert code == 0
    well = {row["check"] for row in rows if row["ok"] is True}
    assert well >= {
        *("tls", "old-tls", "policy", "proof", "server-key", "no-key", "around"),
        *("s2s-tls", "s2s-no-tls", "s2s-no-certificate", "s2s-wrong-certificate"),
        *("s2s-right-certificate", "s2s-other-name", "s2s-directory"),
        *("directory", "tokens"),
    }
    assert [row for row in rows if row["ok"] is None] == []
    # product.md's words
    texts = {row["check"]: row["text"] for row in rows}
    assert texts["directory"] == "directory answering"
    week = datetime.now(UTC) + timedelta(days=7)
    assert f"tokens of today valid until {week:%Y-%m-%d}" in texts["tokens"]
    year = datetime.now(UTC) + timedelta(days=366)
    assert f"valid until {year:%Y-%m-%d}" in texts["server-key"]
    roads = " ".join(row["text"] for row in rows if row["check"] == "no-key")
    for road in ("PLAIN", "SCRAM-SHA-1", "ANONYMOUS", "registration", "XEP-0078"):
        assert road in roads
    assert "Run Tillie on this computer" in roads


@pytest_twisted.ensureDeferred
async def test_direct_tls_is_noticed_by_itself(
    federation: Federation, gate: Gate
) -> None:
    s2s = local(federation.servers[A].s2s_port)
    found = await looked(asked(federation, server=local(gate.direct_port), s2s=s2s))
    assert not bad(found)
    assert "direct TLS" in next(one.where for one in found if one.check == "tls")


@pytest_twisted.ensureDeferred
async def test_all_is_well_before_ejabberd_with_the_printed_lines(
    federation: Federation,
) -> None:
    server = federation.ejabberd(A, federation.leaf(A))
    federation.start()
    # It takes nobody without PROXY on that port.
    gate = gate_before(federation, server, "--proxy-protocol", "v2")
    try:
        found = await looked(
            asked(
                federation,
                server=local(gate.port),
                s2s=local(server.s2s_port),
                usual_ports=(server.http_port,),
            )
        )
    finally:
        gate.kill()
    assert not bad(found)
    assert words(found, "directory") == [(True, "directory answering")]
    assert any("SCRAM-SHA-1" in one.text for one in found if one.check == "no-key")


def test_dir_09_the_server_itself_where_a_gate_should_be(
    federation: Federation,
) -> None:
    server = federation.prosody(A, federation.leaf(A))
    federation.start()
    code, out = command(
        *(federation, "--server", f"127.0.0.1:{server.starttls_port}"),
        *("--s2s", f"127.0.0.1:{server.s2s_port}"),
    )
    assert code == 1
    assert "no gate answers here" in out
    assert "hint: gate: let the server listen on loopback only" in out


@pytest_twisted.ensureDeferred
async def test_dir_09_dns_leads_around_the_gate(
    federation: Federation, gate: Gate
) -> None:
    server = federation.servers[A]
    names = Names()
    try:
        names.services(A, {"_xmpp-client": gate.port, "_xmpp-server": server.s2s_port})
        names.service(f"_xmpp-client._tcp.{A}", "localhost", server.starttls_port)
        found = await looked(asked(federation, resolver=local(names.port)))
    finally:
        names.stop()
    assert "no gate answers here" in bad(found)["gate"]
    where = [one.where for one in found if one.check == "gate"]
    assert where
    assert all(f":{server.starttls_port} " in one for one in where)
    assert any(one.check == "proof" and one.ok for one in found)


@pytest_twisted.ensureDeferred
async def test_what_ends_tls_in_front_of_a_gate_is_found(
    federation: Federation, gate: Gate
) -> None:
    balancer = Tap(federation.authority, federation.leaf(A), gate.direct_port, A)
    balancer.start()
    try:
        s2s = local(federation.servers[A].s2s_port)
        found = await looked(asked(federation, server=local(balancer.port), s2s=s2s))
    finally:
        balancer.stop()
    assert "another TLS connection" in bad(found)["proof"]


@pytest.mark.parametrize("printed", [True, False])
@pytest_twisted.ensureDeferred
async def test_dir_09_bosh_and_websocket_are_roads_around_the_gate(
    federation: Federation, printed: bool
) -> None:
    server = federation.prosody(
        A, federation.leaf(A), behind_gate=printed, modules=("bosh", "websocket")
    )
    federation.start()
    gate = gate_before(federation, server)
    try:
        found = await looked(
            asked(
                federation,
                server=local(gate.port),
                s2s=local(server.s2s_port),
                usual_ports=(server.http_port,),
            )
        )
    finally:
        gate.kill()
    around = {one.where: one.text for one in found if one.check == "around"}
    if printed:
        assert around == {"127.0.0.1": f"no way in at {server.http_port}"}
    else:
        place = f"127.0.0.1:{server.http_port}"
        assert set(around) == {f"{place}/http-bind", f"{place}/xmpp-websocket"}


HOST_META = (
    "<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>"
    "<Link rel='urn:xmpp:alt-connections:{rel}' href='{link}'/></XRD>"
)


@contextmanager
def web_server(leaf: Leaf, page: str) -> Iterator[int]:
    """A web server with TLS that has one page, as host-meta; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/.well-known/host-meta"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(page.encode() if found else b"")

        def log_message(self, *_: object) -> None:
            """Requests are no news."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = leaf.server_context(alpn=False)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


@pytest.mark.parametrize(
    ("rel", "scheme", "path"),
    [("xbosh", "http", "/http-bind"), ("websocket", "ws", "/xmpp-websocket")],
)
@pytest_twisted.ensureDeferred
async def test_dir_09_what_host_meta_names_is_tried(
    federation: Federation, rel: str, scheme: str, path: str
) -> None:
    """XEP-0156: on a port that nobody would guess."""
    server = federation.prosody(
        A, federation.leaf(A), behind_gate=False, modules=("bosh", "websocket")
    )
    federation.start()
    gate = gate_before(federation, server)
    link = f"{scheme}://localhost:{server.http_port}{path}"
    names = Names()
    names.services(A, {"_xmpp-client": gate.port, "_xmpp-server": server.s2s_port})
    try:
        page = HOST_META.format(rel=rel, link=link)
        with web_server(federation.leaf(A), page) as port:
            found = await looked(
                asked(federation, resolver=local(names.port), web_port=port)
            )
    finally:
        names.stop()
        gate.kill()
    around = [one.where for one in found if one.check == "around" and not one.ok]
    assert around == [f"localhost:{server.http_port}{path}"]


@pytest_twisted.ensureDeferred
async def test_links_that_certificates_do_not_decide_on_are_found(
    federation: Federation,
) -> None:
    """Debian's dialback without the printed lines."""
    server = federation.prosody(A, federation.leaf(A), behind_gate=False)
    federation.start()
    gate = gate_before(federation, server)
    try:
        found = await looked(
            asked(federation, server=local(gate.port), s2s=local(server.s2s_port))
        )
    finally:
        gate.kill()
    wrong = bad(found)
    # That gate has no component either: nothing was printed.
    assert "names none" in wrong.pop("directory")
    assert set(wrong) == {"s2s-no-certificate", "s2s-wrong-certificate"}
    assert all("dialback is offered" in one for one in wrong.values())


@pytest_twisted.ensureDeferred
async def test_optional_is_no_lock(federation: Federation) -> None:
    server = federation.prosody(A, federation.leaf(A))
    federation.start()
    gate = gate_before(federation, server, "--policy", "optional")
    try:
        found = await looked(
            asked(federation, server=local(gate.port), s2s=local(server.s2s_port))
        )
    finally:
        gate.kill()
    assert set(bad(found)) == {"policy"}
    assert [one.ok for one in found if one.check == "no-key"] == [None]


# -- directory, tokens, the domain's key (14.15) ------


@pytest_twisted.ensureDeferred
async def test_a_directory_that_is_away_is_found(
    federation: Federation, gate: Gate
) -> None:
    """Another secret than the server's: the component never gets in."""
    server = federation.servers[A]
    asking = asked(federation, server=local(gate.port), s2s=local(server.s2s_port))
    assert words(await looked(asking), "directory") == [(True, "directory answering")]
    (gate.folder / "component-secret").write_text("another")
    gate.restart()
    found = await looked(asking)
    assert "passes nothing on" in bad(found)["directory"]
    assert words(found, "tokens")[0][0] is True


@pytest_twisted.ensureDeferred
async def test_a_gate_that_cannot_look_up_is_found(
    federation: Federation, gate: Gate
) -> None:
    """Its table is taken away: the gate proves itself, and can vouch for nobody."""
    with closing(sqlite3.connect(gate.state / "gate.sqlite3")) as registry:
        registry.execute("ALTER TABLE account RENAME TO elsewhere")
    s2s = local(federation.servers[A].s2s_port)
    found = await looked(asked(federation, server=local(gate.port), s2s=s2s))
    assert set(bad(found)) == {"tokens"}
    assert "does not look up or does not sign" in bad(found)["tokens"]


@pytest_twisted.ensureDeferred
async def test_dir_06_a_key_that_is_not_the_one_that_was_named(
    federation: Federation, gate: Gate
) -> None:
    s2s = local(federation.servers[A].s2s_port)
    at = {"server": local(gate.port), "s2s": s2s}
    said = words(await looked(asked(federation, **at)), "server-key")[0][1]
    key = bytes.fromhex(said.partition(",")[0])
    assert not bad(await looked(asked(federation, **at, server_key=key)))
    wrong = bad(await looked(asked(federation, **at, server_key=bytes(32))))
    assert set(wrong) == {"server-key"}
    assert key.hex() in wrong["server-key"]


@pytest.mark.parametrize(
    ("days", "row"),
    [
        (150, "valid until"),
        (300, "and the gate does not renew it"),
        (400, "which is over: every proxy refuses it"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_key_that_nobody_renews_is_seen_before_it_is_over(
    federation: Federation,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    row: str,
) -> None:
    """Seen from that many days later: the gate's document is of today then."""
    later = days * 24 * 3600 * 1000
    real = clientchecks._now()
    for module in (clientchecks, gatecheck):
        monkeypatch.setattr(module, "_now", lambda: real + later)
    s2s = local(federation.servers[A].s2s_port)
    found = await looked(asked(federation, server=local(gate.port), s2s=s2s))
    [(ok, text)] = words(found, "server-key")
    assert ok is (days == 150)
    assert row in text
    # its clock is that far off, and what it signs is out of time
    assert {"clock", "tokens"} <= set(bad(found))
