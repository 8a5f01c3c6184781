"""Every road in, with and without a key (clauses 14.3 to 14.6)."""

from __future__ import annotations

import base64
from xml.etree.ElementTree import Element, fromstring

import pytest

from proxy.core.streams import BINDINGS, SASL, header
from proxy.gate.policy import Policies, Rule
from proxy.gate.questions import MayTry
from proxy.keys.identity import DevicePrivate
from tests.support.persons import ROMEO, Person, ask
from tests.support.ssdp import ScramClient, ScramServer, offered
from tests.unit.gate.staging import (
    AUTH,
    DOMAIN,
    Stage,
    ended,
    plain,
)

SASL2 = "urn:xmpp:sasl:2"
OPTIONAL = Policies(default="optional")

SCRAM = base64.b64encode(b"n,,n=juliet,r=abc").decode()
ROADS = {
    "plain": plain("juliet", "secret"),
    "scram": f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{SCRAM}</auth>",
    "auth_08_anonymous": f"<auth xmlns='{SASL}' mechanism='ANONYMOUS'/>",
    "unknown": f"<auth xmlns='{SASL}' mechanism='X-NEW'>AAAA</auth>",
    "auth_07_sasl2": (
        f"<authenticate xmlns='{SASL2}' mechanism='SCRAM-SHA-1'>"
        f"<initial-response>{SCRAM}</initial-response></authenticate>"
    ),
    "auth_07_bind2": (
        f"<authenticate xmlns='{SASL2}' mechanism='PLAIN'>"
        "<bind xmlns='urn:xmpp:bind:0'/></authenticate>"
    ),
    "auth_07_fast": (
        f"<authenticate xmlns='{SASL2}' mechanism='HT-SHA-256-NONE'>"
        "<initial-response>AAAA</initial-response>"
        "<fast xmlns='urn:xmpp:fast:0'/></authenticate>"
    ),
    "auth_09_legacy": (
        "<iq type='set' id='l'><query xmlns='jabber:iq:auth'><username>juliet</username>"
        "<password>secret</password></query></iq>"
    ),
    "auth_09_register": (
        "<iq type='get' id='g'><query xmlns='jabber:iq:register'/></iq>"
    ),
    "auth_09_registration": (
        "<iq type='set' id='g'><query xmlns='jabber:iq:register'>"
        "<username>juliet</username><password>secret</password></query></iq>"
    ),
    "tls_16_resume": "<resume xmlns='urn:xmpp:sm:3' previd='guessed' h='0'/>",
    "auth_15_bind": (
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
    ),
}
STANZAS = {
    "auth_15_message": "<message to='romeo@capulet.example'><body>x</body></message>",
    "auth_15_presence": "<presence/>",
    "auth_15_success": f"<success xmlns='{SASL}'/>",
    "response": f"<response xmlns='{SASL}'>AAAA</response>",
    "unknown": "<x xmlns='urn:none'/>",
}


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_without_a_key_nothing_is_relayed(road: str) -> None:
    stage = Stage(person=None).at_door()
    before = stage.to_server
    said = stage.client(road)
    assert stage.to_server == before
    assert b"not-authorized" in said or b"service-unavailable" in said
    assert b"<success" not in said
    assert any("login refused from 192.0.2.7" in one for one in stage.said) or (
        b"<bind" in road.encode()
    )


@pytest.mark.parametrize("sent", STANZAS.values(), ids=STANZAS)
def test_out_of_order_before_login(sent: str) -> None:
    stage = Stage().presented()
    before = stage.to_server
    assert ended(stage.client(sent), "not-authorized")
    assert stage.closed
    assert stage.to_server == before


def test_the_refusal_tells_a_person_what_to_do() -> None:
    said = Stage(person=None).at_door().client(plain("juliet", "secret"))
    assert (
        b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/>" in said
    )
    assert b"Run Tillie on this computer" in said
    assert (
        Stage(person=None)
        .at_door()
        .client(ROADS["auth_07_sasl2"])
        .startswith(b"<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf")
    )


def test_registration_without_a_key_says_why() -> None:
    said = Stage(person=None).at_door().client(ROADS["auth_09_register"])
    assert b"<not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>" in said
    assert b"<key-required xmlns='urn:x-tillie:errors:0'/>" in said


def test_resumption_before_login_says_why() -> None:
    said = Stage(person=None).at_door().client(ROADS["tls_16_resume"])
    assert said.startswith(b"<failed xmlns='urn:xmpp:sm:3'><not-authorized")
    assert b"<key-required xmlns='urn:x-tillie:errors:0'/>" in said


@pytest.mark.parametrize(
    "road", ["plain", "scram", "auth_08_anonymous", "unknown", "auth_07_sasl2"]
)
def test_behind_a_presentation_sasl_passes_untouched(road: str) -> None:
    stage = Stage().presented()
    assert stage.passed(ROADS[road]) == ROADS[road].encode()


@pytest.mark.parametrize("policies", [Policies(), OPTIONAL], ids=["keys", "optional"])
def test_auth_09_legacy_login_is_never_served(policies: Policies) -> None:
    stage = Stage(policies=policies).presented()
    assert stage.passed(ROADS["auth_09_legacy"]) == b""
    assert b"<service-unavailable" in stage.to_client


def test_the_password_is_not_told_right_or_wrong() -> None:
    """AUTH-10, AUTH-16: without a key, right and wrong look the same."""
    words = {
        Stage(person=None).at_door().client(plain("juliet", password))
        for password in ("secret", "wrong")
    }
    assert len(words) == 1


# -- the filter (14.6) --------------------------------------------------------


def test_a_device_of_the_account_may_try() -> None:
    stage = Stage()
    assert stage.person is not None
    ask(stage.registry, stage.person.vouch())
    assert (
        stage.presented().passed(plain("juliet", "x")) == plain("juliet", "x").encode()
    )


@pytest.mark.parametrize(
    "login",
    [
        plain("juliet", "x"),
        plain("JULIET", "x"),
        plain("juliet@capulet.example", "x"),
        plain("romeo", "x", authzid="juliet@capulet.example"),
        ROADS["scram"],
        ROADS["auth_07_sasl2"],
    ],
)
def test_another_account_s_device_may_not(login: str) -> None:
    """I6: no password is tried for an account that has keys by who has others."""
    stage = Stage(person=Person(ROMEO))
    ask(stage.registry, Person().vouch())
    stage.presented()
    assert stage.passed(login) == b""
    assert b"<not-authorized" in stage.to_client


def test_a_removed_device_may_not() -> None:
    stage = Stage()
    assert stage.person is not None
    other = DevicePrivate.generate()
    stage.person.add(other)
    ask(stage.registry, stage.person.vouch())
    stage.person.drop(stage.person.device)
    ask(stage.registry, stage.person.vouch(device=other))
    assert stage.presented().passed(plain("juliet", "x")) == b""


def test_a_device_without_a_root_may_try() -> None:
    stage = Stage()
    ask(stage.registry, Person().vouch())
    stage.root = None
    assert stage.presented().passed(plain("juliet", "x"))


def test_the_first_response_is_read_where_auth_was_empty() -> None:
    stage = Stage(person=Person(ROMEO))
    ask(stage.registry, Person().vouch())
    stage.presented()
    assert stage.passed(f"<auth xmlns='{SASL}' mechanism='PLAIN'/>")
    stage.server(f"<challenge xmlns='{SASL}'/>")
    secret = base64.b64encode(b"\0juliet\0x").decode()
    assert stage.passed(f"<response xmlns='{SASL}'>{secret}</response>") == b""
    assert stage.closed


@pytest.mark.parametrize("text", ["AA", "A A==", "AB==", "AA==\n", "%%%%", "=AAA"])
def test_auth_13_odd_base64_is_not_relayed(text: str) -> None:
    stage = Stage().presented()
    said = f"<auth xmlns='{SASL}' mechanism='PLAIN'>{text}</auth>"
    assert stage.passed(said) == b""
    assert b"<incorrect-encoding" in stage.to_client


def test_auth_13_too_much_before_login() -> None:
    stage = Stage().presented()
    said = stage.client(f"<auth xmlns='{SASL}' mechanism='PLAIN'>" + "A" * 1_000_000)
    assert ended(said, "policy-violation")
    assert b"AAAA" not in stage.to_server


def test_while_the_registry_is_away_no_login_goes_on() -> None:
    """DIR-11: failing closed, and not blaming the password."""
    stage = Stage().presented()
    stage.away = True
    assert stage.passed(plain("juliet", "x")) == b""
    assert b"<temporary-auth-failure" in stage.to_client


def test_nothing_is_relayed_while_the_registry_thinks() -> None:
    stage = Stage().presented()
    stage.held = True
    assert stage.passed(plain("juliet", "x")) == b""
    assert not stage.stream.hears_client
    stage.release()
    assert stage.to_server.endswith(plain("juliet", "x").encode())
    assert stage.asked == [
        MayTry("juliet@capulet.example", stage.device.public, stage.root)
    ]


# -- failures -----------------------------------------------------------------


def test_auth_14_wrong_passwords_from_one_address_are_slowed_down() -> None:
    stage = Stage()
    world = stage.world
    for _ in range(5):
        one = Stage(world=world, clock=stage.clock).presented()
        for _ in range(4):
            assert one.passed(plain("juliet", "wrong"))
            one.server(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
    last = Stage(world=world, clock=stage.clock).presented()
    assert last.passed(plain("juliet", "wrong")) == b""
    assert b"<temporary-auth-failure" in last.to_client
    elsewhere = Stage(
        world=world, clock=stage.clock, address="198.51.100.1"
    ).presented()
    assert elsewhere.passed(plain("juliet", "right")), "strangers lock nobody out"
    stage.clock.now += 60_000
    assert (
        Stage(world=world, clock=stage.clock).presented().passed(plain("juliet", "x"))
    )


def test_clients_without_a_key_use_up_no_patience() -> None:
    stage = Stage(person=None)
    for _ in range(40):
        Stage(person=None, world=stage.world).at_door().client(plain("juliet", "x"))
    assert Stage(world=stage.world).presented().passed(plain("juliet", "x"))


def test_a_few_failures_end_the_connection() -> None:
    stage = Stage().presented()
    for _ in range(5):
        assert not stage.closed
        stage.client(plain("juliet", "wrong"))
        stage.server(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
    assert ended(stage.to_client, "policy-violation")


def test_a_failed_login_is_one_line_with_the_address() -> None:
    stage = Stage().presented()
    stage.client(plain("juliet", "hunter2"))
    stage.server(f"<failure xmlns='{SASL}'><not-authorized/></failure>")
    assert stage.said == [
        "the server's refusal: login refused from 192.0.2.7 (capulet.example)"
    ]


def test_rel_27_logins_that_come_at_once_take_their_turn() -> None:
    first = Stage().presented()
    delays = []
    for _ in range(120):
        one = Stage(world=first.world, clock=first.clock, person=first.person)
        one.presented()
        assert one.passed(plain("juliet", "x"))
        delays += one.delays
    assert len(delays) <= 71
    assert delays == sorted(delays)
    assert 1_300 <= delays[-1] <= 1_500
    for _ in range(2_000):
        first.world.pace.turn(first.clock.now)
    late = Stage(world=first.world, clock=first.clock).presented()
    assert late.passed(plain("juliet", "x")) == b""
    assert b"<temporary-auth-failure" in late.to_client


# -- optional -----------------------------------------------------------------


def test_optional_lets_the_keyless_pass() -> None:
    stage = Stage(person=None, policies=OPTIONAL).at_door()
    assert b"policy='optional'" in stage.to_client
    assert stage.passed(plain("juliet", "x"))


def test_rows_decide_by_account_and_network() -> None:
    import ipaddress

    inside = ipaddress.ip_network("192.0.2.0/24")
    policies = Policies((Rule("optional", account="bot-*@*", network=inside),))
    stage = Stage(person=None, policies=policies).at_door()
    assert b"policy='optional'" in stage.to_client
    assert stage.passed(plain("juliet", "x")) == b""
    assert stage.passed(f"<auth xmlns='{SASL}' mechanism='X-NEW'>AAAA</auth>") == b""
    assert stage.passed(plain("bot-1", "x"))
    outside = Stage(person=None, policies=policies, address="198.51.100.1").at_door()
    assert b"policy='keys-only'" in outside.to_client
    assert outside.passed(plain("bot-1", "x")) == b""


def test_auth_15_a_second_login_while_one_runs() -> None:
    stage = Stage().presented()
    stage.client(ROADS["scram"])
    assert stage.passed(ROADS["scram"]) == b""
    assert ended(stage.to_client, "not-authorized")


def test_auth_15_success_that_nobody_asked_for() -> None:
    stage = Stage().presented()
    said = stage.server(f"<success xmlns='{SASL}'/>")
    assert ended(said, "internal-server-error")


def test_mechanisms_and_bindings_pass_byte_for_byte() -> None:
    """AUTH-06: what XEP-0474 hashes is what the server offers."""
    offered = (
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        f'<mechanisms xmlns="{SASL}"><mechanism>SCRAM-SHA-256-PLUS</mechanism >'
        "<mechanism>PLAIN</mechanism>\n<hostname xmlns='urn:xmpp:domain-based-name:1'>"
        "h</hostname></mechanisms>"
        "<compression xmlns='http://jabber.org/features/compress'><method>zlib</method>"
        "</compression><auth xmlns='http://jabber.org/features/iq-auth'/>"
        "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>"
        "<channel-binding type='tls-exporter'/></sasl-channel-binding>"
        "<register xmlns='http://jabber.org/features/iq-register'/>"
    )
    said = Stage().secured()
    said.client(header(to=DOMAIN))
    said.call(said.stream.backend_up)
    features = said.greet(offered)
    kept = offered.encode().replace(
        b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", b""
    )
    kept = (
        kept[: kept.index(b"<compression")]
        + kept[kept.index(b"<sasl-channel-binding") :]
    )
    assert kept in features
    assert features.endswith(b"policy='keys-only'/></stream:features>")
    assert b"starttls" not in features
    assert b"iq-auth" not in features


LISTS = {
    "behind a gate": (["SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"], []),
    "auth_04 with bindings": (
        ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"],
        ["tls-server-end-point", "tls-exporter"],
    ),
    "auth_05 unknown ones": (["X-NEW", "SCRAM-SHA-256"], ["x-unknown"]),
}


@pytest.mark.parametrize(("mechanisms", "bindings"), LISTS.values(), ids=LISTS)
def test_auth_06_a_client_that_checks_the_lists_logs_in(
    mechanisms: list[str], bindings: list[str]
) -> None:
    """XEP-0474: what the client sees hashes to what the server says that it offers."""
    offer = "".join(f"<mechanism>{one}</mechanism>" for one in mechanisms)
    features = f"<mechanisms xmlns='{SASL}'>{offer}</mechanisms>"
    if bindings:
        listed = "".join(f"<channel-binding type='{one}'/>" for one in bindings)
        features += (
            f"<sasl-channel-binding xmlns='{BINDINGS}'>{listed}</sasl-channel-binding>"
        )
    stage = Stage().presented(features)
    seen = seen_features(stage.to_client)
    server = ScramServer("pencil", offered(mechanisms, bindings))
    client = ScramClient("juliet", "pencil", "n" if bindings else "y")
    told = client.first()
    auth = f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>{b64(told)}</auth>"
    assert stage.passed(auth) == auth.encode()
    challenge = server.first(told)
    stage.server(f"<challenge xmlns='{SASL}'>{b64(challenge)}</challenge>")
    answer = client.final(
        challenge,
        [one.text or "" for one in seen.iter(f"{{{SASL}}}mechanism")],
        [one.get("type", "") for one in seen.iter(f"{{{BINDINGS}}}channel-binding")],
    )
    response = f"<response xmlns='{SASL}'>{b64(answer)}</response>"
    assert stage.passed(response) == response.encode()
    done = f"<success xmlns='{SASL}'>{b64(server.final(answer))}</success>"
    assert stage.server(done) == done.encode()


def seen_features(said: bytes) -> Element:
    features = said[said.rindex(b"<stream:features>") : said.rindex(b"<presented")]
    wrapped = b"<s xmlns:stream='http://etherx.jabber.org/streams'>%b</s>" % features
    return fromstring(wrapped)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_server_that_wants_tls_behind_the_gate_is_named_in_the_log() -> None:
    stage = Stage().at_door("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    assert ended(stage.to_client, "internal-server-error")
    assert any("c2s_require_encryption" in one for one in stage.said)


def test_present_is_never_relayed() -> None:
    assert AUTH.encode() not in Stage().open().to_server
