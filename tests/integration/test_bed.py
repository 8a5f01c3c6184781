"""The test bed itself: a bed that finds nothing must be one that could find."""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
import subprocess
import sys
import time
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from scramp import ScramClient, ScramException

from ..support.bed import Bed
from ..support.canary import Canaries, encodings
from ..support.clients import (
    Bot,
    Finch,
    Mcabber,
    Person,
    Poezio,
    Profanity,
    go_sendxmpp,
    sendxmpp,
)
from ..support.raw import (
    CLIENT,
    SASL,
    TLS,
    RawClient,
    RefusedError,
    StreamEndedError,
    local_certificate,
    text_of,
)
from ..support.scripted import EVENT, STANZAS, Scripted
from ..support.tap import Way
from ..support.waiting import until

ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@a.test"


def through(bed: Bed, jid: str, resource: str = "raw") -> RawClient:
    """Log in through a new tap with the test's own TLS."""
    tap = bed.tap(jid.partition("@")[2])
    return bed.raw(
        jid,
        tap.port,
        tls=bed.authority.client_context(),
        direct=True,
        resource=resource,
    )


def test_messages_pass_the_tap_and_are_recorded(bed: Bed) -> None:
    bed.start()
    alice, bob = through(bed, ALICE), through(bed, BOB)
    seen = bed.canaries.clear()
    alice.say(BOB, f"{seen} Grüße 😀")
    received = bob.message(seen)
    assert text_of(received) == f"{seen} Grüße 😀"
    assert received.get("from") == alice.jid == f"{ALICE}/raw"
    assert seen.encode() in bed.taps[0].recorded(Way.OUT)
    assert seen.encode() not in bed.taps[0].recorded(Way.IN)
    assert seen.encode() in bed.taps[1].recorded(Way.IN)


def test_starttls_port_takes_clients(bed: Bed) -> None:
    bed.start()
    alice = bed.raw(
        ALICE, bed.server.starttls_port, tls=bed.authority.client_context(alpn=False)
    )
    assert alice.ping().get("type") == "result"


def test_wrong_password_is_refused(bed: Bed) -> None:
    bed.start(ALICE)
    tap = bed.tap("a.test")
    with (
        RawClient(tap.port, "a.test") as client,
        pytest.raises(RefusedError, match="not-authorized"),
    ):
        client.login(ALICE, "wrong", tls=bed.authority.client_context(), direct=True)


def test_a_secret_on_the_wire_is_found(bed: Bed) -> None:
    bed.start()
    alice = through(bed, ALICE)
    secret = bed.canaries.secret()
    alice.say(BOB, secret)
    alice.ping()
    found = {hit.place for hit in bed.hits()}
    assert "tap a.test, connection 1, to the server" in found
    # The offline store of the server is searched as well.
    assert any(place.startswith(str(bed.server.folder)) for place in found)
    bed.canaries.secrets.clear()


@pytest.mark.parametrize("form", list(encodings("0" * 32)))
def test_a_planted_canary_is_found_in_each_encoding(form: str) -> None:
    canaries = Canaries()
    text = canaries.add(f"Grüße 😀 <&> {secrets.token_hex(8)}")
    planted = encodings(text)[form]
    hits = canaries.search({"here": b"before" + planted + b"after", "there": b"none"})
    assert [hit.place for hit in hits] == ["here"]
    # Some forms are the same bytes for some texts, base64 and base64url above all.
    assert encodings(text)[hits[0].encoding] == planted


@pytest.mark.parametrize("before", range(3))
def test_a_canary_is_found_in_real_base64(before: int) -> None:
    canaries = Canaries()
    coded = base64.b64encode(b"x" * before + canaries.secret().encode() + b"?")
    wrapped = b"\n".join(coded[at : at + 11] for at in range(0, len(coded), 11))
    assert canaries.search({"whole": coded})
    assert canaries.search({"wrapped": wrapped})


def test_an_unrelated_text_is_no_hit() -> None:
    canaries = Canaries()
    canaries.secret()
    assert not canaries.search({"other": canaries.clear().encode() * 3})


def test_files_and_write_ahead_logs_are_searched(bed: Bed) -> None:
    tillie = bed.tillie("unstarted", servers={}, start=False)
    tillie.state.mkdir()
    (tillie.state / "store.sqlite-wal").write_bytes(
        b"\0" * 50 + bed.canaries.secret().encode("utf-16-le")
    )
    assert "UTF-16-LE" in {hit.encoding for hit in bed.hits()}
    bed.canaries.secrets.clear()


def test_a_leak_fails_the_test_that_leaked(tmp_path: Path) -> None:
    (tmp_path / "test_leak.py").write_text(
        "def test_leak(bed):\n"
        "    (bed.server.folder / 'stored').write_text(bed.canaries.secret())\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "-q",
            f"--rootdir={tmp_path}",
            str(tmp_path / "test_leak.py"),
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "found in clear:" in done.stdout
    assert "1 passed, 1 error" in done.stdout


def test_a_cut_breaks_the_connection_and_new_ones_pass(bed: Bed) -> None:
    bed.start()
    alice = through(bed, ALICE)
    tap = bed.taps[0]
    assert tap.connections() == [1]
    tap.cut()
    with pytest.raises(StreamEndedError):
        alice.read()
    until(lambda: not tap.connections(), "the link to be gone")
    again = bed.raw(ALICE, tap.port, tls=bed.authority.client_context(), direct=True)
    assert again.ping().get("type") == "result"
    assert tap.connections() == [2]


def test_a_refusing_tap_lets_nobody_in(bed: Bed) -> None:
    bed.start()
    tap = bed.tap("a.test")
    tap.refuse()
    with pytest.raises((StreamEndedError, OSError)):
        bed.raw(ALICE, tap.port, tls=bed.authority.client_context(), direct=True)
    assert tap.accepted == 0
    tap.accept()
    bed.raw(ALICE, tap.port, tls=bed.authority.client_context(), direct=True)
    assert tap.accepted == 1


def test_a_paused_tap_holds_bytes_back_and_loses_none(bed: Bed) -> None:
    bed.start()
    alice = through(bed, ALICE)
    bed.taps[0].pause(Way.OUT)
    alice.send("<iq type='get' id='held'><ping xmlns='urn:xmpp:ping'/></iq>")
    with pytest.raises(TimeoutError):
        alice.wait_for(lambda one: one.get("id") == "held", seconds=0.3)
    bed.taps[0].resume(Way.OUT)
    alice.wait_for(lambda one: one.get("id") == "held")


def test_offline_messages_survive_a_kill_of_the_server(bed: Bed) -> None:
    bed.start(BOB)
    alice = through(bed, ALICE)
    text = bed.canaries.clear()
    alice.say(BOB, text)
    alice.ping()
    bed.server.kill()
    bed.server.start()
    assert text_of(through(bed, BOB).message(text)) == text


def test_a_suspended_server_looks_alive_and_answers_later(bed: Bed) -> None:
    bed.start()
    alice = through(bed, ALICE)
    bed.server.suspend()
    try:
        with pytest.raises(TimeoutError):
            alice.ping(seconds=0.3)
    finally:
        bed.server.resume()
    assert alice.ping().get("type") == "result"


def client_of(bed: Bed, name: str, port: int) -> Person:
    """Make one of the real clients for Alice, as it needs to be for this server."""
    home, password = bed.home(name), bed.account(ALICE)
    match name.partition("-")[0]:
        case "mcabber":
            return Mcabber(home, ALICE, password, port, tls="tls" in name)
        case "profanity":
            return Profanity(home, ALICE, password, port, tls="tls" in name)
        case "finch":
            certificate = local_certificate(port, "a.test")
            return Finch(home, ALICE, password, port, certificate=certificate)
        case "poezio":
            ca = bed.authority.ca.read_text()
            return Poezio(home, ALICE, password, port, ca=ca)
        case _:
            return Bot(ALICE, password, port, tls="tls" in name)


@pytest.mark.parametrize(
    "name",
    [
        "mcabber",
        "mcabber-tls",
        "profanity",
        "profanity-tls",
        "finch",
        "poezio",
        "slixmpp",
        "slixmpp-tls",
    ],
)
def test_each_client_is_driven_on_the_bare_server(bed: Bed, name: str) -> None:
    bed.start(require_encryption=False)
    port = bed.server.starttls_port
    bot = bed.keep(Bot(BOB, bed.account(BOB), port))
    bot.login()
    client = bed.keep(client_of(bed, name, port))
    client.login()
    there, back = bed.canaries.clear(), bed.canaries.clear()
    # The text behind the canary: finch's window is narrow and breaks lines.
    bot.say(ALICE, f"{there} Grüße 😀")
    client.sees(there)
    assert "Grüße 😀" in client.sees("Grüße")
    client.say(BOB, f"zurück 😀 {back}")
    assert bot.sees(back) == f"zurück 😀 {back}"
    client.logout()
    bot.logout()
    assert not bot.errors


@pytest.mark.parametrize("name", ["sendxmpp", "sendxmpp-tls", "go-sendxmpp"])
def test_each_sender_sends_on_the_bare_server(bed: Bed, name: str) -> None:
    bed.start(require_encryption=False)
    port = bed.server.starttls_port
    bob = bed.raw(BOB, port)
    text = bed.canaries.clear()
    home, password = bed.home("sender"), bed.account(ALICE)
    if name == "go-sendxmpp":
        done = go_sendxmpp(home, ALICE, password, port, BOB, f"Grüße 😀 {text}")
    else:
        tls = name.endswith("tls")
        done = sendxmpp(home, ALICE, password, port, BOB, f"Grüße 😀 {text}", tls=tls)
    assert done.returncode == 0, done.stderr
    assert text_of(bob.message(text)).strip() == f"Grüße 😀 {text}"


def test_rooms_and_uploads_are_there(bed: Bed) -> None:
    bed.start()
    alice = through(bed, ALICE)
    items = alice.ask(
        "get", "<query xmlns='http://jabber.org/protocol/disco#items'/>", to="a.test"
    )
    found = {one.get("jid") for one in items.iter() if one.get("jid")}
    assert {"conference.a.test", "upload.a.test"} <= found


def test_waiting_ends_at_its_deadline() -> None:
    begun = time.monotonic()
    with pytest.raises(AssertionError, match="for nothing"):
        until(lambda: None, "nothing", seconds=0.1)
    assert time.monotonic() - begun < 2


# The scripted server.

SM = "urn:xmpp:sm:3"


def scripted_login(
    bed: Bed, server: Scripted, jid: str, resource: str = "raw"
) -> RawClient:
    return bed.raw(
        jid,
        server.port,
        tls=bed.authority.client_context(alpn=False),
        direct=server.direct,
        resource=resource,
    )


@pytest.mark.parametrize("direct", [False, True], ids=["starttls", "direct"])
def test_scripted_routes_messages(bed: Bed, direct: bool) -> None:
    server = bed.scripted("a.test", ALICE, CAROL, direct=direct)
    alice = scripted_login(bed, server, ALICE)
    text = bed.canaries.clear()
    alice.say(CAROL, f"{text} <&> 😀")
    assert alice.ping().get("type") == "result"
    carol = scripted_login(bed, server, CAROL)
    received = carol.message(text)
    assert text_of(received) == f"{text} <&> 😀"
    assert received.get("from") == alice.jid
    carol.say(alice.jid, "back")
    assert alice.message("back").get("from") == carol.jid
    assert server.logins == [(ALICE, "PLAIN"), (CAROL, "PLAIN")]


def test_scripted_keeps_pep_items_and_errs_as_told(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE, CAROL)
    alice, carol = (scripted_login(bed, server, one) for one in (ALICE, CAROL))
    pubsub = "http://jabber.org/protocol/pubsub"
    ask = f"<pubsub xmlns='{pubsub}'><items node='n'/></pubsub>"
    absent = carol.ask("get", ask, to=ALICE)
    assert absent.find(f"{{{CLIENT}}}error/{{{STANZAS}}}item-not-found") is not None
    alice.ask(
        "set",
        f"<pubsub xmlns='{pubsub}'><publish node='n'><item id='current'>"
        "<e xmlns='urn:e' a='1'>x &amp; y<f/>z</e></item></publish></pubsub>",
    )
    alice.wait_for(lambda one: one.find(f"{{{EVENT}}}event") is not None)
    found = carol.ask("get", ask, to=ALICE)
    item = found.find(f"{{{pubsub}}}pubsub/{{{pubsub}}}items/{{{pubsub}}}item")
    assert item is not None
    assert item.get("id") == "current"
    assert item[0].attrib == {"a": "1"}
    assert "".join(item[0].itertext()) == "x & yz"
    server.switches.pep_errors[(ALICE, "n")] = "internal-server-error"
    wrong = carol.ask("get", ask, to=ALICE)
    error = wrong.find(f"{{{CLIENT}}}error/{{{STANZAS}}}internal-server-error")
    assert error is not None
    server.switches.pep_silent.add((ALICE, "n"))
    with pytest.raises(TimeoutError):
        carol.ask("get", ask, to=ALICE, seconds=0.3)


def test_scripted_drops_doubles_and_injects(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE, CAROL)
    alice, carol = (scripted_login(bed, server, one) for one in (ALICE, CAROL))

    def bend(_: str, stanza: Element) -> list[Element | str] | None:
        if not stanza.tag.endswith("message"):
            return None
        return [] if "drop" in text_of(stanza) else [stanza, stanza]

    server.switches.from_client = bend
    alice.say(CAROL, "drop this")
    alice.say(CAROL, "twice")
    alice.ping()
    server.inject(CAROL, f"<message from='{ALICE}'><body>forged</body></message>")
    carol.message("forged")
    assert [text_of(one) for one in carol.messages()] == ["twice", "twice", "forged"]


def test_scripted_resumes_and_sends_again(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE, CAROL)
    alice, carol = (scripted_login(bed, server, one) for one in (ALICE, CAROL))
    carol.send(f"<enable xmlns='{SM}' resume='true'/>")
    previd = carol.expect(f"{{{SM}}}enabled").get("id")
    alice.say(CAROL, "one")
    alice.say(CAROL, "two")
    carol.message("two")
    server.cut(CAROL)
    alice.say(CAROL, "three")
    alice.ping()
    again = RawClient(server.port, "a.test")
    with again:
        again.start_over(CAROL, bed.passwords[CAROL], bed.authority.client_context())
        again.send(f"<resume xmlns='{SM}' previd='{previd}' h='1'/>")
        assert again.expect(f"{{{SM}}}resumed").get("h") == "0"
        again.message("three")
        assert [text_of(one) for one in again.messages()] == ["two", "three"]
    server.switches.refuse_resume = True
    with RawClient(server.port, "a.test") as late:
        late.start_over(CAROL, bed.passwords[CAROL], bed.authority.client_context())
        late.send(f"<resume xmlns='{SM}' previd='{previd}' h='2'/>")
        late.expect(f"{{{SM}}}failed")


@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_scripted_speaks_scram(bed: Bed, name: str) -> None:
    server = bed.scripted("a.test", ALICE)
    assert scram(bed, server, name) == (f"{{{SASL}}}success", True)
    assert server.logins == [(ALICE, name)]
    server.switches.bad_signature = True
    assert scram(bed, server, name) == (f"{{{SASL}}}success", False)
    assert scram(bed, server, name, password="wrong")[0] == f"{{{SASL}}}failure"


def scram(
    bed: Bed, server: Scripted, name: str, password: str = ""
) -> tuple[str, bool]:
    """Return the tag of the outcome and whether the server's signature is right."""
    binding = None
    if name.endswith("-PLUS"):
        pem = bed.leaf.certificate.read_text().partition("-----END")[0]
        der = ssl.PEM_cert_to_DER_cert(pem + "-----END CERTIFICATE-----\n")
        binding = ("tls-server-end-point", hashlib.sha256(der).digest())
    exchange = ScramClient(
        [name], "alice", password or bed.passwords[ALICE], channel_binding=binding
    )
    with RawClient(server.port, "a.test") as client:
        client.open_stream()
        client.send(f"<starttls xmlns='{TLS}'/>")
        client.expect(f"{{{TLS}}}proceed")
        client.start_tls(bed.authority.client_context(alpn=False))
        client.open_stream()
        first = base64.b64encode(exchange.get_client_first().encode()).decode()
        client.send(f"<auth xmlns='{SASL}' mechanism='{name}'>{first}</auth>")
        challenge = client.expect(f"{{{SASL}}}challenge").text or ""
        exchange.set_server_first(base64.b64decode(challenge).decode())
        final = base64.b64encode(exchange.get_client_final().encode()).decode()
        client.send(f"<response xmlns='{SASL}'>{final}</response>")
        outcome = client.read()
        try:
            exchange.set_server_final(base64.b64decode(outcome.text or "").decode())
        except ScramException:
            return outcome.tag, False
        return outcome.tag, True


def test_scripted_injects_before_tls(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE)
    server.switches.after_proceed = b"<injected/>"
    with RawClient(server.port, "a.test") as client:
        client.open_stream()
        client.send(f"<starttls xmlns='{TLS}'/>")
        client.wait_for(lambda one: one.tag.endswith("injected"))


@pytest.mark.parametrize("stage", ["stream", "tls", "auth", "bind", "live"])
def test_scripted_falls_silent(bed: Bed, stage: str) -> None:
    server = bed.scripted("a.test", ALICE)
    server.switches.silent_at = stage
    tls = bed.authority.client_context(alpn=False)
    with RawClient(server.port, "a.test", seconds=0.5) as client:

        def log_in_and_ping() -> None:
            client.login(ALICE, bed.passwords[ALICE], tls=tls)
            client.ping()

        with pytest.raises(TimeoutError):
            log_in_and_ping()


def test_scripted_without_tls_and_with_odd_iterations(bed: Bed) -> None:
    server = bed.scripted("a.test", ALICE)
    server.switches.starttls = False
    server.switches.iterations = "1"
    with RawClient(server.port, "a.test") as client:
        features = client.open_stream()
        assert features.find(f"{{{TLS}}}starttls") is None
        exchange = ScramClient(["SCRAM-SHA-1"], "alice", "x")
        first = base64.b64encode(exchange.get_client_first().encode()).decode()
        client.send(f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{first}</auth>")
        challenge = client.expect(f"{{{SASL}}}challenge").text or ""
        assert base64.b64decode(challenge).endswith(b",i=1")
