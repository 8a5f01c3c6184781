"""The stream to the server, as dialogues: bytes in, outputs out."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import pytest
import scramp
from scramp import core as scramp_core

from proxy.core.management import ResumePoint
from proxy.core.presenting import Presenting
from proxy.core.serverleg import ServerLeg
from proxy.core.servers import Servers
from proxy.core.vocabulary import (
    Acked,
    Authenticated,
    Close,
    Derive,
    Enabled,
    Ended,
    Incoming,
    NotEnabled,
    Resumed,
    ResumeFailed,
    Send,
    ServerOutput,
    StartTls,
    TlsFacts,
    TooBig,
)
from proxy.errors import EnvFault, Fault, LocalFault, PeerFault, TrustFault
from proxy.keys.identity import DevicePrivate
from proxy.keys.store import MemoryStore
from proxy.suites.fields import b64, unb64
from proxy.wire.jid import Jid
from proxy.wire.stanza import Cleared

ACCOUNT = Jid.parse("juliet@a.test")
DEVICE = DevicePrivate.generate()
FACTS = TlsFacts("TLSv1.3", bytes(range(32)), hashlib.sha256(b"cert").digest())
UNBOUND = TlsFacts("TLSv1.3", None, None)
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' from='a.test' id='s1' "
    b"version='1.0' xml:lang='en'>"
)
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
STARTTLS = f"<starttls xmlns='{TLS}'><required/></starttls>"
PROCEED = f"<proceed xmlns='{TLS}'/>".encode()
MANAGEMENT = f"<sm xmlns='{SM}'/>"
BIND = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
MESSAGE = b"<message from='romeo@b.test' type='chat'><body>hi</body></message>"

Floor = str | None


def features(*inner: str) -> bytes:
    return f"<stream:features>{''.join(inner)}</stream:features>".encode()


def mechanisms(*names: str) -> str:
    inner = "".join(f"<mechanism>{name}</mechanism>" for name in names)
    return f"<mechanisms xmlns='{SASL}'>{inner}</mechanisms>"


def bindings(*types: str) -> str:
    inner = "".join(f"<channel-binding type='{name}'/>" for name in types)
    ns = "urn:xmpp:sasl-cb:0"
    return f"<sasl-channel-binding xmlns='{ns}'>{inner}</sasl-channel-binding>"


def sasl(name: str, message: bytes | str | None = None) -> bytes:
    if isinstance(message, bytes):
        message = b64(message)
    return f"<{name} xmlns='{SASL}'>{message or ''}</{name}>".encode()


def leg(
    tls: Literal["starttls", "direct", "off"] = "starttls",
    floor: Floor = None,
    resume: ResumePoint | None = None,
) -> ServerLeg:
    return ServerLeg(
        account=ACCOUNT,
        password="pencil",
        tls=tls,
        floor=floor,
        presenting=Presenting(
            ACCOUNT.domain, DEVICE, None, Servers(MemoryStore()), lambda: 0
        ),
        resume=resume,
    )


def sent(outputs: list[ServerOutput]) -> bytes:
    return b"".join(one.data for one in outputs if isinstance(one, Send))


def payload(outputs: list[ServerOutput]) -> bytes:
    """What the one SASL element sent carries."""
    found = re.search(rb">([A-Za-z0-9+/=]*)</", sent(outputs))
    return unb64(found[1].decode()) if found else b""


def ended(outputs: list[ServerOutput]) -> Fault | None:
    assert [type(one) for one in outputs[-2:]] == [Close, Ended], outputs
    assert sum(isinstance(one, Ended) for one in outputs) == 1
    last = outputs[-1]
    assert isinstance(last, Ended)
    return last.fault


def dead(one: ServerLeg) -> bool:
    """Nothing gets a word out of a leg that is over."""
    stanza = Cleared(MESSAGE)
    silent = [
        one.data(HEADER),
        one.data(MESSAGE),
        one.secured(FACTS),
        one.derived(bytes(32)),
        one.stanza(stanza),
        one.nonza(stanza),
        one.enable(),
        one.acknowledge(),
        one.request_ack(),
        one.close(),
        one.lost(None),
        one.lost(EnvFault("late")),
    ]
    return not any(silent)


def in_clear() -> ServerLeg:
    """A leg that has sent its header in clear and read one."""
    one = leg()
    one.connected()
    assert one.data(HEADER) == []
    return one


def at_mechanisms(
    facts: TlsFacts = FACTS, floor: Floor = None, resume: ResumePoint | None = None
) -> ServerLeg:
    one = leg("direct", floor, resume)
    one.connected()
    one.secured(facts)
    assert one.data(HEADER) == []
    return one


def at_challenge() -> tuple[ServerLeg, str]:
    """A leg that has sent SCRAM's first message, and its nonce."""
    one = at_mechanisms(UNBOUND)
    out = one.data(features(mechanisms("SCRAM-SHA-256")))
    return one, payload(out).decode().rpartition("r=")[2]


def past_sasl(resume: ResumePoint | None = None) -> ServerLeg:
    one = at_mechanisms(resume=resume)
    one.data(features(mechanisms("PLAIN")))
    one.data(sasl("success"))
    assert one.data(HEADER) == []
    return one


def live(*offered: str) -> ServerLeg:
    one = past_sasl()
    one.data(features(BIND, *offered))
    return one


def managed() -> ServerLeg:
    one = live(MANAGEMENT)
    one.enable()
    out = one.data(f"<enabled xmlns='{SM}' id='p1' resume='true'/>".encode())
    assert out == [Enabled("p1", None)]
    return one


class Server:
    """scramp's server half behind SASL's elements."""

    def __init__(self, mechanism: str, binding: tuple[str, bytes] | None) -> None:
        mech = scramp.ScramMechanism(mechanism)
        info = mech.make_auth_info("pencil")
        self._half: Any = mech.make_server(
            lambda user: {"juliet": info}[user], channel_binding=binding
        )

    def challenge(self, first: bytes) -> bytes:
        self._half.set_client_first(first.decode())
        return self._half.get_server_first().encode()  # type: ignore[no-any-return]

    def final(self, message: bytes) -> bytes:
        self._half.set_client_final(message.decode())
        return self._half.get_server_final().encode()  # type: ignore[no-any-return]


def derive(outputs: list[ServerOutput]) -> bytes:
    (wanted,) = outputs
    assert isinstance(wanted, Derive)
    return hashlib.pbkdf2_hmac(
        wanted.hash_name, wanted.password, wanted.salt, wanted.iterations
    )


# -- the way in -------------------------------------------------------------


def feed(one: ServerLeg, data: bytes, step: int) -> list[ServerOutput]:
    out: list[ServerOutput] = []
    for at in range(0, len(data), step):
        out += one.data(data[at : at + step])
    return out


@pytest.fixture
def any_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """scramp refuses the name tls-exporter; its arithmetic does not look at it."""
    names = scramp_core.CbName.SUPPORTED_TYPES | {"tls-exporter"}
    monkeypatch.setattr(scramp_core.CbName, "UNSUPPORTED_TYPES", frozenset())
    monkeypatch.setattr(scramp_core.CbName, "SUPPORTED_TYPES", names)


@pytest.mark.usefixtures("any_binding")
@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("proof", ["success", "challenge"])
@pytest.mark.parametrize("listed", ["tls-exporter", "tls-server-end-point", None])
def test_whole_login(step: int, proof: str, listed: str | None) -> None:
    name = "SCRAM-SHA-256-PLUS" if listed else "SCRAM-SHA-256"
    data = FACTS.exporter if listed == "tls-exporter" else FACTS.end_point
    assert data is not None
    server = Server(name, (listed, data) if listed else None)

    one = leg()
    out = one.connected()
    assert b"to='a.test'" in sent(out)
    assert b"from=" not in sent(out)
    out = feed(one, HEADER + features(STARTTLS, mechanisms("PLAIN")), step)
    assert sent(out) == f"<starttls xmlns='{TLS}'/>".encode()
    assert feed(one, PROCEED, step) == [StartTls()]
    out = one.secured(FACTS)
    assert b"from='juliet@a.test'" in sent(out)

    offer = features(mechanisms(name, "PLAIN"), bindings(listed) if listed else "")
    out = feed(one, HEADER + offer, step)
    assert f'mechanism="{name}"'.encode() in sent(out).replace(b"'", b'"')
    out = feed(one, sasl("challenge", server.challenge(payload(out))), step)
    out = one.derived(derive(out))
    final = server.final(payload(out))
    if proof == "challenge":
        out = feed(one, sasl("challenge", final), step)
        assert sent(out).startswith(b"<response")
        final = b""
    out = feed(one, sasl("success", final), step)
    assert b"<stream:stream" in sent(out)
    assert b"from='juliet@a.test'" in sent(out)

    out = feed(one, HEADER + features(BIND, MANAGEMENT), step)
    (done,) = out
    assert isinstance(done, Authenticated)
    assert done.mechanism == name
    assert done.features.find("{urn:ietf:params:xml:ns:xmpp-bind}bind") is not None
    (got,) = feed(one, MESSAGE, step)
    assert isinstance(got, Incoming)
    assert got.stanza.name == "message"


def test_direct_tls_sends_nothing_before_tls() -> None:
    one = leg("direct")
    assert one.connected() == []
    assert sent(one.secured(FACTS)).count(b"<stream:stream") == 1


def test_plain_on_loopback() -> None:
    one = leg("off")
    assert b"from='juliet@a.test'" in sent(one.connected())
    out = one.data(HEADER + features(mechanisms("PLAIN")))
    assert payload(out) == b"\0juliet\0pencil"


def test_features_of_60_kilobytes_are_read() -> None:
    one = at_mechanisms()
    many = "".join(f"<x xmlns='urn:x:{n}'/>" for n in range(20)) + "<y>" + "z" * 60_000
    out = one.data(features(mechanisms("PLAIN"), many + "</y>"))
    assert payload(out) == b"\0juliet\0pencil"


def test_features_of_70_kilobytes_are_not() -> None:
    fault = ended(at_mechanisms().data(features("<y>" + "z" * 70_000 + "</y>")))
    assert isinstance(fault, PeerFault)
    assert fault.condition == "policy-violation"


@pytest.mark.parametrize("version", ["", "version='0.9'", "version='x'"])
def test_old_server_is_refused(version: str) -> None:
    one = leg()
    one.connected()
    fault = ended(
        one.data(HEADER.replace(b"version='1.0' xml", f"{version} xml".encode()))
    )
    assert isinstance(fault, EnvFault)
    assert "XMPP 1.0" in fault.text


# -- TLS --------------------------------------------------------------------

BEHIND = {
    "features": features(mechanisms("PLAIN")),
    "message": MESSAGE,
    "header": HEADER,
    "part-of-a-tag": b"<message fro",
    "text": b"x",
    "proceed-again": PROCEED,
    "end": b"</stream:stream>",
    "junk": b"\x16\x03\x01",
}


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(
            data, id=f"{'TLS-03' if name.startswith('part') else 'TLS-01'}-{name}"
        )
        for name, data in BEHIND.items()
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_nothing_before_the_handshake_counts(behind: bytes, segments: int) -> None:
    one = in_clear()
    one.data(features(STARTTLS))
    if segments == 1:
        out = one.data(PROCEED + behind)
    else:
        assert one.data(PROCEED) == [StartTls()]
        out = one.data(behind)
    assert isinstance(ended(out), TrustFault)
    assert len(out) == 2
    assert dead(one)


def test_tls_03_the_parser_is_new_behind_tls() -> None:
    one = in_clear()
    one.data(features(STARTTLS))
    assert one.data(PROCEED + b"\n ") == [StartTls()]
    one.secured(FACTS)
    # Inside the old stream this would be an end tag out of place.
    assert one.data(HEADER) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(features(), "offers no TLS", id="TLS-04-none"),
        pytest.param(features(mechanisms("PLAIN")), "offers no TLS", id="TLS-04-sasl"),
        pytest.param(
            features("<starttls xmlns='urn:other'/>"), "no TLS", id="TLS-04-namespace"
        ),
    ],
)
def test_no_tls_no_password(answer: bytes, says: str) -> None:
    one = in_clear()
    out = one.data(answer)
    fault = ended(out)
    assert isinstance(fault, EnvFault)
    assert says in fault.text
    assert fault.hint
    assert sent(out) == b"</stream:stream>"
    assert dead(one)


def test_tls_04_failure() -> None:
    one = in_clear()
    one.data(features(STARTTLS))
    out = one.data(f"<failure xmlns='{TLS}'/></stream:stream>".encode())
    fault = ended(out)
    assert isinstance(fault, EnvFault)
    assert "refused to start" in fault.text


def test_tls_04_hangs_up() -> None:
    one = in_clear()
    one.data(features(STARTTLS))
    (last,) = one.lost(None)
    assert isinstance(last, Ended)
    assert last.fault is not None
    assert "when TLS was to start" in last.fault.text


def see_other(host: str) -> bytes:
    ns = "urn:ietf:params:xml:ns:xmpp-streams"
    return (
        f"<stream:error><see-other-host xmlns='{ns}'>{host}</see-other-host>"
        f"<text xmlns='{ns}'>go there</text></stream:error></stream:stream>"
    ).encode()


def test_tls_05_other_host_before_tls_is_not_named() -> None:
    fault = ended(in_clear().data(see_other("evil.test:5222")))
    assert isinstance(fault, EnvFault)
    assert "evil" not in fault.text
    assert "go there" not in fault.text
    assert "before TLS" in fault.text


def test_tls_05_other_host_inside_tls_is_named() -> None:
    fault = ended(at_mechanisms().data(see_other("node2.a.test:5222")))
    assert isinstance(fault, EnvFault)
    assert fault.condition == "see-other-host"
    assert "node2.a.test:5222" in fault.text
    assert "go there" in fault.text


@pytest.mark.parametrize("half", [b"<message><body>x", b"<message><body>x</body>"])
def test_tls_13_half_a_stanza_is_dropped(half: bytes) -> None:
    one = live()
    assert one.data(half) == []
    fault = EnvFault("connection reset")
    assert one.lost(fault) == [Ended(fault)]
    assert dead(one)


def test_tls_15_compression_is_never_asked_for() -> None:
    compress = (
        "<compression xmlns='http://jabber.org/features/compress'>"
        "<method>zlib</method></compression>"
    )
    one = at_mechanisms()
    out = one.data(features(compress, mechanisms("PLAIN")))
    out += one.data(sasl("success"))
    out += one.data(HEADER + features(compress, BIND))
    assert b"compress" not in sent(out)


# -- SASL -------------------------------------------------------------------


@pytest.mark.parametrize("floor", ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS"])
def test_auth_01_password_is_not_sent_below_the_floor(floor: str) -> None:
    one = at_mechanisms(floor=floor)
    out = one.data(features(mechanisms("PLAIN", "DIGEST-MD5")))
    fault = ended(out)
    assert isinstance(fault, TrustFault)
    assert floor in fault.text
    assert sent(out) == b"</stream:stream>"


def test_auth_02_iterations_never_reach_the_derivation() -> None:
    one, nonce = at_challenge()
    message = f"r={nonce}x,s=QUJD,i=4294967295".encode()
    out = one.data(sasl("challenge", message))
    assert isinstance(ended(out), TrustFault)
    assert dead(one)


@pytest.mark.parametrize(
    "encoded",
    ["!!!", "QUI", "QUJ=", " QUJD", "QUJD\n", "QU\nJD", "=", "", "<x/>"],
)
def test_auth_03_challenge_encoding(encoded: str) -> None:
    one, _ = at_challenge()
    assert isinstance(ended(one.data(sasl("challenge", encoded))), PeerFault)


def at_outcome() -> tuple[ServerLeg, bytes]:
    """A leg that has sent its proof, and the server's right answer."""
    server = Server("SCRAM-SHA-256", None)
    one = at_mechanisms(UNBOUND)
    out = one.data(features(mechanisms("SCRAM-SHA-256")))
    out = one.data(sasl("challenge", server.challenge(payload(out))))
    out = one.derived(derive(out))
    return one, server.final(payload(out))


@pytest.mark.parametrize("data", [b"", b"v=AAAA", b"e=other-error", b"x=1"])
@pytest.mark.parametrize("element", ["success", "challenge"])
def test_auth_03_success_without_the_right_proof(element: str, data: bytes) -> None:
    one, _ = at_outcome()
    out = one.data(sasl(element, data))
    assert ended(out) is not None
    assert b"<stream:stream " not in sent(out)
    assert dead(one)


def test_auth_03_proof_of_another_exchange() -> None:
    _, other = at_outcome()
    one, _ = at_outcome()
    fault = ended(one.data(sasl("success", other)))
    assert isinstance(fault, TrustFault)
    assert "knows the password" in fault.text


def test_auth_03_equals_sign_is_no_proof() -> None:
    one, _ = at_outcome()
    assert isinstance(ended(one.data(sasl("success", "="))), TrustFault)


@pytest.mark.parametrize("early", [b"", b"v=AAAA"])
def test_auth_15_success_instead_of_a_challenge(early: bytes) -> None:
    one, _ = at_challenge()
    fault = ended(one.data(sasl("success", early)))
    assert fault is not None
    assert dead(one)


def test_auth_15_success_without_auth() -> None:
    assert isinstance(ended(at_mechanisms().data(sasl("success"))), PeerFault)


@pytest.mark.parametrize("behind", [features(BIND), MESSAGE, b"<mess", b"x", HEADER])
def test_auth_15_nothing_follows_success_in_the_old_stream(behind: bytes) -> None:
    one = at_mechanisms()
    one.data(features(mechanisms("PLAIN")))
    out = one.data(sasl("success") + behind)
    assert isinstance(ended(out), TrustFault)
    assert not any(isinstance(item, Authenticated | Incoming) for item in out)


@pytest.mark.parametrize("stage", ["clear", "mechanisms", "challenge", "features"])
def test_auth_15_stanza_before_login(stage: str) -> None:
    one = {
        "clear": in_clear,
        "mechanisms": at_mechanisms,
        "challenge": lambda: at_challenge()[0],
        "features": past_sasl,
    }[stage]()
    fault = ended(one.data(MESSAGE))
    assert isinstance(fault, PeerFault)
    assert "out of order" in fault.text


def test_challenge_while_deriving_ends_it() -> None:
    one, nonce = at_challenge()
    message = sasl("challenge", f"r={nonce}x,s=QUJD,i=4096".encode())
    (wanted,) = one.data(message)
    assert isinstance(wanted, Derive)
    assert isinstance(ended(one.data(message)), PeerFault)
    assert one.derived(bytes(32)) == []


def test_plain_gets_no_challenge() -> None:
    one = at_mechanisms()
    one.data(features(mechanisms("PLAIN")))
    assert isinstance(ended(one.data(sasl("challenge", b"more"))), PeerFault)


FAILURE = "<not-authorized/><text xml:lang='en'>No\n such \x7fuser</text>"


def test_wrong_password_is_told_as_such() -> None:
    one, _ = at_outcome()
    out = one.data(sasl("failure", FAILURE))
    fault = ended(out)
    assert isinstance(fault, PeerFault)
    assert fault.condition == "not-authorized"
    assert "did not accept the password of juliet@a.test" in fault.text
    assert "No such \ufffduser" in fault.text
    assert fault.hint
    assert "pencil" not in fault.text


@pytest.mark.parametrize(
    ("inner", "condition"),
    [
        ("<temporary-auth-failure/>", "temporary-auth-failure"),
        ("<account-disabled/>", "account-disabled"),
        ("<made-up/>", "temporary-auth-failure"),
        ("", "temporary-auth-failure"),
    ],
)
@pytest.mark.parametrize("stage", ["challenge", "deriving", "outcome"])
def test_other_failures(inner: str, condition: str, stage: str) -> None:
    one, nonce = at_challenge()
    if stage != "challenge":
        out = one.data(sasl("challenge", f"r={nonce}x,s=QUJD,i=4096".encode()))
        if stage == "outcome":
            one.derived(derive(out))
    fault = ended(one.data(sasl("failure", inner)))
    assert isinstance(fault, EnvFault)
    assert fault.condition == condition


# -- XEP-0198 ---------------------------------------------------------------


def ack(h: int) -> bytes:
    return f"<a xmlns='{SM}' h='{h}'/>".encode()


REQUEST = f"<r xmlns='{SM}'/>".encode()


def test_management_not_offered() -> None:
    one = live()
    assert one.enable() == [NotEnabled()]
    for _ in range(20):
        assert one.stanza(Cleared(MESSAGE)) == [Send(MESSAGE)]
    one.data(MESSAGE + REQUEST)
    assert one.acknowledge() == []
    assert one.request_ack() == []


def test_management_refused() -> None:
    one = live(MANAGEMENT)
    one.enable()
    failed = f"<failed xmlns='{SM}'><unexpected-request/></failed>".encode()
    assert one.data(failed) == [NotEnabled()]
    one.data(MESSAGE)
    assert one.acknowledge() == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("id='p1' resume='true' max='300'", Enabled("p1", 300)),
        ("id='p1' resume='1'", Enabled("p1", None)),
        ("id='p1' resume='true' max='soon'", Enabled("p1", None)),
        ("id='p1'", Enabled(None, None)),
        ("resume='true' max='9'", Enabled(None, None)),
        ("id='' resume='true'", Enabled(None, None)),
    ],
)
def test_enabled(attributes: str, expected: Enabled) -> None:
    one = live(MANAGEMENT)
    assert sent(one.enable()) == f"<enable xmlns='{SM}' resume='true'/>".encode()
    assert one.data(f"<enabled xmlns='{SM}' {attributes}/>".encode()) == [expected]


def test_counting_starts_with_enable_and_enabled() -> None:
    one = live(MANAGEMENT)
    one.stanza(Cleared(MESSAGE))
    one.enable()
    one.stanza(Cleared(MESSAGE))
    one.data(MESSAGE + f"<enabled xmlns='{SM}'/>".encode() + MESSAGE + MESSAGE)
    assert (one.sent, one.received) == (1, 2)


def test_every_tenth_stanza_asks() -> None:
    one = managed()
    asked = [REQUEST in sent(one.stanza(Cleared(MESSAGE))) for _ in range(30)]
    assert [n for n, it in enumerate(asked, 1) if it] == [10, 20, 30]
    assert one.nonza(Cleared(b"<active xmlns='urn:xmpp:csi:0'/>"))
    assert one.sent == 30
    assert one.request_ack() == [Send(REQUEST)]


def test_request_is_answered_only_when_the_session_says_so() -> None:
    one = managed()
    out = one.data(MESSAGE + REQUEST + MESSAGE)
    assert [type(item) for item in out] == [Incoming, Incoming]
    assert one.ack_wanted
    assert one.acknowledge() == [Send(ack(2))]
    assert one.acknowledge() == []
    # Asked again with nothing new, it is told again.
    one.data(REQUEST)
    assert one.acknowledge() == [Send(ack(2))]
    assert not one.ack_wanted


def test_only_stanzas_count() -> None:
    one = managed()
    other = (
        b"<x xmlns='urn:x'/><active xmlns='urn:xmpp:csi:0'/><message xmlns='urn:x'/>"
    )
    assert one.data(other + features(BIND) + b" \n ") == []
    one.data(b"<presence/><iq type='get' id='1'/>")
    assert one.received == 2


def test_big_stanza_is_left_out_and_counted() -> None:
    one = managed()
    big = b"<message id='b'><body>" + b"x" * 300_000 + b"</body></message>"
    first, second = one.data(big + MESSAGE)
    assert isinstance(first, TooBig)
    assert first.skipped.attrs["id"] == "b"
    assert isinstance(second, Incoming)
    assert one.received == 2


def test_big_nonza_is_left_out() -> None:
    one = managed()
    for name in ("x", "message"):
        big = f"<{name} xmlns='urn:x'>{'x' * 300_000}</{name}>"
        assert one.data(big.encode()) == []
    assert one.received == 0


def test_big_stanza_before_the_login_is_done_ends_it() -> None:
    big = b"<message><body>" + b"x" * 300_000 + b"</body></message>"
    assert isinstance(ended(past_sasl().data(big)), PeerFault)


def test_stanza_beyond_all_limits_ends_the_stream() -> None:
    one = managed()
    out: list[ServerOutput] = one.data(b"<message><body>")
    for _ in range(40):
        out += one.data(b"x" * 65_536)
    fault = ended(out)
    assert isinstance(fault, PeerFault)
    assert fault.condition == "policy-violation"


def test_acks() -> None:
    one = managed()
    for _ in range(3):
        one.stanza(Cleared(MESSAGE))
    assert one.data(ack(2)) == [Acked(2)]
    assert one.data(ack(2)) == [Acked(2)]
    assert one.data(ack(3)) == [Acked(3)]


@pytest.mark.parametrize(
    "h",
    [
        pytest.param(4, id="TLS-16-above"),
        pytest.param(1, id="TLS-16-back"),
        pytest.param(2**32 - 1, id="TLS-16-far"),
    ],
)
def test_count_that_cannot_be(h: int) -> None:
    one = managed()
    for _ in range(3):
        one.stanza(Cleared(MESSAGE))
    one.data(ack(2))
    out = one.data(ack(h))
    assert isinstance(ended(out), PeerFault)
    assert b"undefined-condition" in sent(out)
    assert f"h='{h}' send-count='3'".encode() in sent(out)
    assert b"handled-count-too-high" in sent(out)


@pytest.mark.parametrize("h", ["", "h=''", "h='-1'", "h='4294967296'", "h='x'"])
def test_ack_without_a_count(h: str) -> None:
    fault = ended(managed().data(f"<a xmlns='{SM}' {h}/>".encode()))
    assert isinstance(fault, PeerFault)


TOP = 2**32 - 1
POINT = ResumePoint(previd="p'1&", received=TOP, sent=TOP, acked=TOP - 2)


def resuming(point: ResumePoint = POINT) -> tuple[ServerLeg, bytes]:
    one = past_sasl(point)
    return one, sent(one.data(features(BIND, MANAGEMENT)))


def resumed(h: int, previd: str = "p&apos;1&amp;") -> bytes:
    return f"<resumed xmlns='{SM}' previd='{previd}' h='{h}'/>".encode()


def test_resumption_comes_first() -> None:
    one, asked = resuming()
    assert b"<resume" in asked
    assert f'h="{TOP}"'.encode() in asked.replace(b"'", b'"')
    assert one.data(resumed(TOP - 1)) == [Resumed(TOP - 1)]
    assert one.sent == TOP - 1


def test_tls_16_counters_go_round() -> None:
    one, _ = resuming()
    one.data(resumed(TOP - 1))
    for _ in range(3):
        one.stanza(Cleared(MESSAGE))
    assert one.sent == 1
    assert one.data(ack(TOP)) == [Acked(TOP)]
    assert one.data(ack(1)) == [Acked(1)]
    one.data(MESSAGE)
    assert one.received == 0
    assert one.acknowledge() == [Send(ack(0))]
    assert isinstance(ended(one.data(ack(2))), PeerFault)


@pytest.mark.parametrize("h", [0, TOP - 3, 5])
def test_tls_16_resumed_beyond_what_was_sent(h: int) -> None:
    one, _ = resuming()
    out = one.data(resumed(h))
    assert isinstance(ended(out), PeerFault)
    assert b"handled-count-too-high" in sent(out)


def test_another_stream_is_resumed() -> None:
    one, _ = resuming()
    assert isinstance(ended(one.data(resumed(TOP, "p2"))), PeerFault)


@pytest.mark.parametrize(
    ("h", "told"),
    [(f"h='{TOP - 1}'", TOP - 1), ("", None), ("h='7'", None), ("h='x'", None)],
)
def test_resumption_failed(h: str, told: int | None) -> None:
    one, _ = resuming()
    out = one.data(f"<failed xmlns='{SM}' {h}><item-not-found/></failed>".encode())
    assert out[0] == ResumeFailed(told)
    assert isinstance(out[1], Authenticated)
    assert len(out) == 2
    # The new session starts from nothing.
    one.enable()
    one.data(f"<enabled xmlns='{SM}'/>".encode())
    assert (one.sent, one.received) == (0, 0)


def test_resumption_not_offered() -> None:
    one = past_sasl(POINT)
    out = one.data(features(BIND))
    assert out[0] == ResumeFailed(None)
    assert isinstance(out[1], Authenticated)


def test_stanza_before_resumed() -> None:
    one, _ = resuming()
    assert isinstance(ended(one.data(MESSAGE)), PeerFault)


# -- the end ----------------------------------------------------------------


def test_server_closes_in_order() -> None:
    one = live()
    out = one.data(MESSAGE + b"</stream:stream>")
    assert isinstance(out[0], Incoming)
    assert ended(out) is None
    assert sent(out) == b"</stream:stream>"
    assert dead(one)


def test_server_closes_during_login() -> None:
    fault = ended(at_mechanisms().data(b"</stream:stream>"))
    assert isinstance(fault, EnvFault)
    assert "before the login was done" in fault.text


def test_stream_error_keeps_its_text() -> None:
    ns = "urn:ietf:params:xml:ns:xmpp-streams"
    one = live()
    out = one.data(
        f"<stream:error><conflict xmlns='{ns}'/><text xmlns='{ns}'>Replaced"
        "</text><x xmlns='urn:x'/></stream:error></stream:stream>".encode()
    )
    fault = ended(out)
    assert fault is not None
    assert fault.condition == "conflict"
    assert "Replaced" in fault.text
    assert dead(one)


@pytest.mark.parametrize("bad", [b"<!DOCTYPE x>", b"<a></b>", b"\xff", b"<?x y?>"])
def test_what_is_not_xmpp_ends_it(bad: bytes) -> None:
    one = live()
    out = one.data(MESSAGE + bad)
    assert isinstance(out[0], Incoming)
    assert isinstance(ended(out), PeerFault)
    assert b"<stream:error>" in sent(out)
    assert dead(one)


def test_close() -> None:
    one = live()
    out = one.close()
    assert ended(out) is None
    assert sent(out) == b"</stream:stream>"
    assert dead(one)


@pytest.mark.parametrize("tls", ["starttls", "direct"])
def test_close_says_nothing_where_there_is_no_stream(
    tls: Literal["starttls", "direct"],
) -> None:
    one = leg(tls)
    assert one.close() == [Close(), Ended(None)]


def test_lost_during_login_says_so() -> None:
    (last,) = at_mechanisms().lost(None)
    assert isinstance(last, Ended)
    assert isinstance(last.fault, EnvFault)


def test_calls_out_of_order_are_bugs_of_ours() -> None:
    one = leg()
    with pytest.raises(LocalFault, match="twice"):
        managed().enable()
    for call in (
        lambda: one.secured(FACTS),
        lambda: one.derived(b""),
        lambda: one.stanza(Cleared(MESSAGE)),
        lambda: one.nonza(Cleared(MESSAGE)),
        one.enable,
    ):
        with pytest.raises(LocalFault):
            call()


def test_no_password_in_what_may_be_logged() -> None:
    one, nonce = at_challenge()
    out = one.data(sasl("challenge", f"r={nonce}x,s=QUJD,i=4096".encode()))
    assert "pencil" not in repr(out)
