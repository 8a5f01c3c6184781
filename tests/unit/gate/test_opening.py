"""How a stream begins and ends: headers, TLS, limits, time (RFC 6120, 4 and 5)."""

from __future__ import annotations

import pytest

from proxy.core.streams import SASL, TLS, header
from proxy.gate.stream import BUDGET
from tests.unit.gate.staging import AFTER, DOMAIN, MECHANISMS, Stage, ended, plain

STARTTLS = f"<starttls xmlns='{TLS}'/>"


def test_before_tls_only_tls_is_offered_and_the_server_hears_nothing() -> None:
    stage = Stage()
    said = stage.client(header(to=DOMAIN))
    assert said.endswith(
        b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'>"
        b"<required/></starttls></stream:features>"
    )
    stage.client(STARTTLS)
    assert stage.tls == DOMAIN
    assert not stage.reached


@pytest.mark.parametrize(
    "sent",
    [
        plain("juliet", "secret"),
        "<presence/>",
        "<iq type='get' id='r'><query xmlns='jabber:iq:register'/></iq>",
        "<present xmlns='urn:x-tillie:auth:0'/>",
    ],
)
def test_nothing_is_done_in_clear(sent: str) -> None:
    stage = Stage()
    stage.client(header(to=DOMAIN))
    assert ended(stage.client(sent), "policy-violation")
    assert stage.closed
    assert not stage.reached


@pytest.mark.parametrize(
    "behind", [plain("juliet", "x"), "<presence/>", "<mess", "x", header(to=DOMAIN)]
)
def test_tls_02_03_nothing_before_the_handshake_counts_after_it(
    behind: str | bytes,
) -> None:
    stage = Stage()
    stage.client(header(to=DOMAIN))
    tail = behind.encode() if isinstance(behind, str) else behind
    stage.client(STARTTLS.encode() + tail)
    assert stage.closed
    assert not stage.tls


def test_tls_02_bytes_during_the_handshake_end_it() -> None:
    stage = Stage()
    stage.client(header(to=DOMAIN))
    stage.client(STARTTLS)
    stage.client("<presence/>")
    assert stage.closed


@pytest.mark.parametrize(
    ("to", "condition"),
    [
        (None, "improper-addressing"),
        ("elsewhere.example", "host-unknown"),
        ("juliet@capulet.example", "host-unknown"),
        ("127.0.0.1", "host-unknown"),
        ("montague.example", "host-unknown"),
    ],
)
def test_tls_14_a_stream_is_for_the_domain_of_its_tls(
    to: str | None, condition: str
) -> None:
    stage = Stage(domains=(DOMAIN, "montague.example")).secured()
    assert ended(stage.client(header(to=to)), condition)
    assert not stage.reached


def test_tls_14_the_certificate_decides_where_sni_and_header_differ() -> None:
    stage = Stage(domains=(DOMAIN, "montague.example"))
    stage.client(header(to=DOMAIN))
    stage.client(STARTTLS)
    stage.call(stage.stream.client_secured, stage.exporter, "montague.example")
    assert ended(stage.client(header(to=DOMAIN)), "host-unknown")


def test_tls_14_other_spellings_are_the_same_domain() -> None:
    stage = Stage().secured()
    stage.client(header(to="CAPULET.example."))
    assert stage.reached == [DOMAIN]


def test_the_server_is_reached_behind_tls_and_a_header_only() -> None:
    stage = Stage(direct=True).secured()
    assert not stage.reached
    stage.client(header(to=DOMAIN, from_="juliet@capulet.example", lang="it"))
    assert stage.reached == [DOMAIN]
    assert not stage.to_server
    stage.call(stage.stream.backend_up)
    assert stage.to_server == header(
        to=DOMAIN, from_="juliet@capulet.example", lang="it"
    )


def test_the_client_sees_the_server_s_header_and_no_foreign_prefix() -> None:
    stage = Stage().secured()
    stage.client(header(to=DOMAIN))
    stage.call(stage.stream.backend_up)
    hello = header(from_=DOMAIN, stream_id="i&d", lang="it").replace(
        b"<stream:stream", b"<stream:stream xmlns:db='urn:x'"
    )
    offered = f"<stream:features><db:y/>{MECHANISMS}</stream:features>".encode()
    said = stage.server(hello + offered)
    assert b"xmlns:db" not in said
    assert b"id='i&amp;d'" in said
    assert b"xml:lang='it'" in said
    assert b"<y xmlns='urn:x'/>" in said


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"])
def test_tls_18_what_is_no_xmpp_is_closed_without_a_word(junk: bytes) -> None:
    stage = Stage()
    assert stage.client(junk) == b""
    assert stage.closed


def test_tls_15_compression_is_refused() -> None:
    stage = Stage().presented()
    compress = (
        "<compress xmlns='http://jabber.org/protocol/compress'>"
        "<method>zlib</method></compress>"
    )
    assert stage.passed(compress) == b""
    assert b"<unsupported-method/>" in stage.to_client
    opened = Stage().open()
    assert opened.passed(compress) == b""
    assert b"<unsupported-method/>" in opened.to_client


def test_starttls_inside_tls_is_refused() -> None:
    stage = Stage().presented()
    assert b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" in stage.client(
        STARTTLS
    )
    assert stage.closed


# -- limits and time ----------------------------------------------------------


def test_xml_38_ten_kilobytes_before_login() -> None:
    stage = Stage().presented()
    pad = "A" * 9_900
    assert stage.passed(f"<auth xmlns='{SASL}' mechanism='X'>{pad}</auth>")
    stage = Stage().presented()
    said = stage.client(f"<auth xmlns='{SASL}' mechanism='X'>{pad}{pad}</auth>")
    assert ended(said, "policy-violation")


def test_xml_37_depth_32_before_login_64_behind() -> None:
    def nested(depth: int) -> str:
        return "<iq type='get' id='d'>" + "<a>" * depth + "</a>" * depth + "</iq>"

    assert ended(Stage().presented().client(nested(32)), "policy-violation")
    assert Stage().open().passed(nested(63))
    assert ended(Stage().open().client(nested(64)), "policy-violation")


def test_res_01_a_budget_of_bytes_before_login() -> None:
    stage = Stage().presented()
    spent = 0
    while not stage.closed:
        stage.client(" " * 4096)
        spent += 4096
    assert spent <= BUDGET + 8192
    assert ended(stage.to_client, "policy-violation")


@pytest.mark.parametrize("direct", [False, True])
def test_tls_12_a_handshake_has_five_seconds(direct: bool) -> None:
    stage = Stage(direct=direct)
    if not direct:
        stage.client(header(to=DOMAIN))
        stage.wait(20_000)
        stage.client(STARTTLS)
    stage.wait(4_000)
    assert not stage.closed
    stage.wait(2_000)
    assert stage.closed


@pytest.mark.parametrize("far", ["nothing", "header", "tls", "door", "sasl"])
def test_res_01_a_login_has_thirty_seconds_in_all(far: str) -> None:
    stage = Stage()
    if far == "header":
        stage.client(header(to=DOMAIN))
    elif far == "tls":
        stage.secured()
    elif far != "nothing":
        stage.presented()
        if far == "sasl":
            stage.client(plain("juliet", "x"))
    stage.wait(29_000)
    assert not stage.closed
    stage.wait(2_000)
    assert stage.closed


def test_who_is_vouched_for_has_all_the_time() -> None:
    stage = Stage().open()
    stage.wait(10_000_000)
    assert not stage.closed
    assert not stage.stream.hurried


def test_binding_has_its_own_thirty_seconds() -> None:
    stage = Stage().presented()
    stage.wait(29_000)
    stage.client(plain("juliet", "x"))
    stage.server(f"<success xmlns='{SASL}'/>")
    stage.wait(29_000)
    assert not stage.closed
    stage.wait(2_000)
    assert ended(stage.to_client, "connection-timeout")


# -- across the restart -------------------------------------------------------


@pytest.mark.parametrize("behind", ["<presence/>", "<pre", "x"])
def test_auth_15_nothing_crosses_into_the_new_stream(behind: str) -> None:
    stage = Stage().presented()
    stage.client(plain("juliet", "x"))
    stage.client(behind)
    if not stage.closed:
        stage.server(f"<success xmlns='{SASL}'/>")
    assert stage.closed
    assert b"<success" not in stage.to_client
    assert not stage.to_server.endswith(behind.encode())


def test_the_server_s_bytes_do_not_cross_either() -> None:
    stage = Stage().presented()
    stage.client(plain("juliet", "x"))
    said = stage.server(f"<success xmlns='{SASL}'/><message><body>x</body></message>")
    assert ended(said, "internal-server-error")


def test_a_second_header_must_name_the_same_domain() -> None:
    stage = Stage(domains=(DOMAIN, "montague.example")).presented()
    stage.client(plain("juliet", "x"))
    stage.server(f"<success xmlns='{SASL}'/>")
    assert ended(stage.client(header(to="montague.example")), "host-unknown")


# -- ends ---------------------------------------------------------------------


def test_rel_28_a_server_that_is_not_there_is_named() -> None:
    stage = Stage().secured()
    stage.client(header(to=DOMAIN))
    said = stage.call(stage.stream.backend_lost)
    assert said.startswith(b"<?xml")
    assert ended(said, "remote-connection-failed")


def _in_vain(stage: Stage, how: str) -> list[str]:
    """A client finds no server; what the operator is told."""
    stage.secured()
    stage.client(header(to=DOMAIN))
    if how != "unreached":
        stage.call(stage.stream.backend_up)
    if how == "error":
        stage.server(
            "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'"
            " xmlns='jabber:client' id='s'><stream:error><bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            "</stream:error>"
        )
    else:
        stage.call(stage.stream.backend_lost)
    assert stage.closed
    assert [note.occasion for note in stage.notes].count("trouble") == 1
    return [note.text for note in stage.notes if note.text]


@pytest.mark.parametrize(
    ("how", "word"),
    [("unreached", "backend"), ("closed", "PROXY"), ("error", "PROXY")],
)
def test_the_operator_is_told_of_a_server_that_takes_no_stream(
    how: str, word: str
) -> None:
    """Once a minute, however many clients find it so: all are counted."""
    first = Stage()
    (text,) = _in_vain(first, how)
    assert f"the server of {DOMAIN}" in text
    assert word in text
    assert _in_vain(Stage(world=first.world, clock=first.clock), how) == []
    first.clock.now += 60_000
    assert _in_vain(Stage(world=first.world, clock=first.clock), how) == [text]


@pytest.mark.parametrize("far", ["door", "open"])
def test_rel_28_a_server_that_goes_away_is_told(far: str) -> None:
    stage = Stage().presented() if far == "door" else Stage().open()
    assert ended(stage.call(stage.stream.backend_lost), "system-shutdown")


def test_rel_06_stopping_is_told() -> None:
    stage = Stage().open()
    assert ended(stage.call(stage.stream.stop), "system-shutdown")
    assert b"</stream:stream>" not in stage.to_server, "what is resumable stays so"


def test_tls_13_half_a_stanza_is_none() -> None:
    stage = Stage().open()
    before = stage.to_server
    stage.client("<message to='romeo@capulet.example'><body>ha")
    stage.call(stage.stream.client_lost)
    assert stage.to_server == before
    assert stage.closed


def test_a_polite_end_passes_both_ways() -> None:
    stage = Stage().open()
    assert stage.passed("</stream:stream>") == b"</stream:stream>"
    assert stage.server("<message><body>last</body></message></stream:stream>") == (
        b"<message><body>last</body></message></stream:stream>"
    )
    assert stage.closed


def test_a_server_that_says_no_farewell_is_not_waited_for() -> None:
    stage = Stage().open()
    stage.client("</stream:stream>")
    stage.wait(6_000)
    assert stage.closed


def test_the_server_s_own_stream_error_passes() -> None:
    stage = Stage().open()
    error = (
        "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        "</stream:error>"
    )
    assert stage.server(error) == f"{error}</stream:stream>".encode()
    assert stage.closed


def test_a_server_that_is_not_well_formed_is_not_passed_on() -> None:
    stage = Stage().open()
    assert ended(stage.server("<message></presence>"), "internal-server-error")


def test_features_behind_login_lose_compression_only() -> None:
    stage = Stage().presented()
    stage.client(plain("juliet", "x"))
    stage.server(f"<success xmlns='{SASL}'/>")
    stage.client(header(to=DOMAIN))
    zlib = (
        "<compression xmlns='http://jabber.org/features/compress'>"
        "<method>zlib</method></compression>"
    )
    said = stage.greet(AFTER + zlib)
    assert said.endswith(f"<stream:features>{AFTER}</stream:features>".encode())
    assert MECHANISMS.encode() not in said
