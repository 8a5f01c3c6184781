"""The stream to the local client, as dialogues: bytes in, outputs out."""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import pytest
from lxml import etree

from proxy.core.clientleg import ClientLeg
from proxy.core.vocabulary import (
    ClientOutput,
    Close,
    Ended,
    Incoming,
    Live,
    Login,
    Register,
    Send,
    StartTls,
)
from proxy.errors import EnvFault, Fault, LocalFault, PeerFault
from proxy.suites.fields import b64

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = "http://etherx.jabber.org/streams"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
STARTTLS = f"<starttls xmlns='{TLS}'/>".encode()
MESSAGE = b"<message to='romeo@b.test' type='chat'><body>hi</body></message>"
GOOD = b"\0juliet\0pencil"
LOGIN = Login("juliet", "a.test", "pencil")
BIND = Element("{urn:ietf:params:xml:ns:xmpp-bind}bind")


def hello(
    to: str | None = "a.test", *, extra: str = "", version: str = "version='1.0'"
) -> bytes:
    addressed = "" if to is None else f" to='{to}'"
    return (
        f"<stream:stream xmlns='jabber:client' xmlns:stream='{STREAMS}'"
        f"{addressed} {version} {extra}>"
    ).encode()


def auth(message: bytes | str | None = GOOD, attributes: str = "") -> bytes:
    if isinstance(message, bytes):
        message = b64(message)
    return (
        f"<auth xmlns='{SASL}' mechanism='PLAIN' {attributes}>{message or ''}</auth>"
    ).encode()


def leg(*, tls: bool = True, secure: bool = False) -> ClientLeg:
    numbers = count(1)
    return ClientLeg(
        tls_available=tls, secure=secure, stream_id=lambda: f"id{next(numbers)}"
    )


def greeted() -> ClientLeg:
    one = leg()
    assert one.data(hello())
    return one


def waiting() -> ClientLeg:
    """A leg whose login is being decided."""
    one = greeted()
    assert one.data(auth()) == [LOGIN]
    return one


def live() -> ClientLeg:
    one = waiting()
    one.admit([BIND])
    assert one.data(hello())[-1] == Live()
    return one


def sent(outputs: list[ClientOutput]) -> bytes:
    return b"".join(one.data for one in outputs if isinstance(one, Send))


def fault_of(outputs: list[ClientOutput]) -> Fault | None:
    assert [type(one) for one in outputs[-2:]] == [Close, Ended], outputs
    assert sum(isinstance(one, Ended) for one in outputs) == 1
    last = outputs[-1]
    assert isinstance(last, Ended)
    return last.fault


def killed(outputs: list[ClientOutput], condition: str) -> str:
    """The stream ended with this condition; give the text."""
    said = sent(outputs)
    names = "urn:ietf:params:xml:ns:xmpp-streams"
    pattern = rb"<stream:error>.*</stream:error></stream:stream>$"
    found = re.search(pattern, said, re.DOTALL)
    assert found, said
    whole = etree.fromstring(
        f"<s xmlns:stream='{STREAMS}'>".encode()
        + found[0].removesuffix(b"</stream:stream>")
        + b"</s>"
    )[0]
    assert whole.find(f"{{{names}}}{condition}") is not None, said
    fault = fault_of(outputs)
    assert fault is not None
    text: str = whole.findtext(f"{{{names}}}text") or ""
    assert text
    return text


def failed(outputs: list[ClientOutput], condition: str) -> str:
    """SASL failed with this condition and the stream goes on; give the text."""
    (one,) = outputs
    assert isinstance(one, Send)
    failure = etree.fromstring(one.data)
    assert failure.tag == f"{{{SASL}}}failure"
    assert failure[0].tag == f"{{{SASL}}}{condition}"
    text: str = failure.findtext(f"{{{SASL}}}text") or ""
    assert text
    return text


def dead(one: ClientLeg) -> bool:
    """Nothing gets a word out of a leg that is over."""
    silent = [
        one.data(hello()),
        one.data(MESSAGE),
        one.secured(),
        one.admit([]),
        one.refuse("not-authorized", "no"),
        one.stanza(MESSAGE),
        one.end(EnvFault("late")),
        one.end(None),
        one.lost(),
    ]
    return not any(silent)


def stream(data: bytes) -> etree._Element:
    """Read what we sent from a header on as a document."""
    return etree.fromstring(
        data.removeprefix(b"<?xml version='1.0'?>") + b"</stream:stream>"
    )


# -- the way in -------------------------------------------------------------


def feed(one: ClientLeg, data: bytes, step: int) -> list[ClientOutput]:
    out: list[ClientOutput] = []
    for at in range(0, len(data), step):
        out += one.data(data[at : at + step])
    return out


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("declaration", [b"", b"<?xml version='1.0'?>\n"])
@pytest.mark.parametrize("tls", [True, False])
def test_whole_login(step: int, declaration: bytes, tls: bool) -> None:
    one = leg()
    assert one.domain is None
    out = feed(one, declaration + hello(), step)
    if tls:
        out = feed(one, STARTTLS, step)
        assert out == [Send(f"<proceed xmlns='{TLS}'/>".encode()), StartTls()]
        assert one.secured() == []
        out = feed(one, declaration + hello(), step)
    assert one.domain == "a.test"
    top = stream(sent(out))
    assert top.get("from") == "a.test"
    assert top.get("version") == "1.0"
    assert top.get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
    (offer,) = top
    assert offer.tag == f"{{{STREAMS}}}features"
    assert (offer.find(f"{{{TLS}}}starttls") is None) == tls
    names = offer.findall(f"{{{SASL}}}mechanisms/{{{SASL}}}mechanism")
    assert [name.text for name in names] == ["PLAIN"]

    assert feed(one, auth(), step) == [LOGIN]
    assert one.admit([BIND]) == [Send(f"<success xmlns='{SASL}'/>".encode())]
    out = feed(one, declaration + hello(), step)
    assert out[-1] == Live()
    (offer,) = stream(sent(out))
    assert [child.tag for child in offer] == [BIND.tag]
    (got,) = feed(one, MESSAGE, step)
    assert isinstance(got, Incoming)
    assert got.stanza.to_bytes() == MESSAGE
    assert one.stanza(b"<presence/>") == [Send(b"<presence/>")]


def test_each_header_has_its_own_id() -> None:
    one = leg()
    first = stream(sent(one.data(hello()))).get("id")
    one.data(auth())
    one.admit([])
    assert stream(sent(one.data(hello()))).get("id") != first


@pytest.mark.parametrize(("tls", "secure"), [(False, False), (True, True)])
def test_starttls_is_not_offered(tls: bool, secure: bool) -> None:
    one = leg(tls=tls, secure=secure)
    assert b"starttls" not in sent(one.data(hello()))
    out = one.data(STARTTLS)
    assert sent(out).startswith(f"<failure xmlns='{TLS}'/>".encode())
    assert fault_of(out) is not None


@pytest.mark.parametrize(
    ("to", "domain"),
    [("A.TEST", "a.test"), ("a.test.", "a.test"), ("localhost", "localhost")],
)
def test_domain_is_normalised(to: str, domain: str) -> None:
    one = leg()
    one.data(hello(to))
    assert one.domain == domain


def test_from_of_the_client_is_answered() -> None:
    # sendxmpp does this.
    out = leg().data(hello(extra="from='local&apos;host'"))
    assert stream(sent(out)).get("to") == "local'host"


@pytest.mark.parametrize(
    ("header", "condition"),
    [
        pytest.param(hello(None), "improper-addressing", id="TLS-14-missing"),
        pytest.param(hello(""), "improper-addressing", id="TLS-14-empty"),
        pytest.param(hello("romeo@a.test"), "host-unknown", id="TLS-14-local"),
        pytest.param(hello("a.test/x"), "host-unknown", id="TLS-14-resource"),
        pytest.param(hello("a..test"), "host-unknown", id="TLS-14-malformed"),
        pytest.param(hello(version=""), "unsupported-version", id="no-version"),
        pytest.param(hello(version="version='0.9'"), "unsupported-version", id="0.9"),
        pytest.param(hello(version="version='x'"), "unsupported-version", id="x"),
    ],
)
def test_bad_header(header: bytes, condition: str) -> None:
    one = leg()
    out = one.data(header)
    killed(out, condition)
    assert sent(out).count(b"<stream:stream ") == 1
    assert dead(one)


@pytest.mark.parametrize("after", ["tls", "sasl"])
def test_tls_14_another_domain_on_the_same_connection(after: str) -> None:
    one = greeted()
    if after == "tls":
        one.data(STARTTLS)
        one.secured()
    else:
        one.data(auth())
        one.admit([])
    killed(one.data(hello("b.test")), "host-unknown")


def test_tls_14_the_same_domain_spelt_otherwise() -> None:
    one = waiting()
    one.admit([])
    assert one.data(hello("A.Test."))[-1] == Live()


# -- junk -------------------------------------------------------------------

JUNK = {
    "LOC-02-post": b"POST / HTTP/1.1\r\nHost: 127.0.0.1:5222\r\n\r\n" + hello(),
    "LOC-03-get": b"GET /" + hello(),
    "LOC-03-options": b"OPTIONS / HTTP/1.1\r\n\r\n",
    "LOC-03-client-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "LOC-03-http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "LOC-03-nul": b"\0" * 10,
    "LOC-03-socks": b"\x05\x01\x00",
    "LOC-03-angles": b"<<<<GET / HTTP/1.1\r\n\r\n",
    "LOC-03-utf16": "<?xml?>".encode("utf-16-be"),
    "LOC-03-ssh": b"SSH-2.0-x\r\n",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
@pytest.mark.parametrize("step", [1, 100_000])
def test_junk_is_closed_without_a_word(junk: bytes, step: int) -> None:
    one = leg()
    out: list[ClientOutput] = []
    read = 0
    while not out and read < len(junk):
        out = one.data(junk[read : read + step])
        read += step
    assert [type(item) for item in out] == [Close, Ended]
    assert read <= max(8, step)
    # Never finds back into XMPP.
    assert dead(one)


def test_loc_03_a_megabyte_of_white_space_first() -> None:
    one = leg()
    out: list[ClientOutput] = []
    for _ in range(16):
        out += one.data(b"\n" * 65_536)
    out += one.data(b"POST / HTTP/1.1\r\n")
    assert sent(out) == b""
    fault_of(out)


@pytest.mark.parametrize(
    ("first", "condition"),
    [
        (b"<!DOCTYPE s [<!ENTITY x 'y'>]>", "restricted-xml"),
        (f"<stream:stream xmlns='jabber:server' xmlns:stream='{STREAMS}'>".encode(),
         "invalid-namespace"),
    ],
)  # fmt: skip
def test_a_real_stream_gone_wrong_gets_an_answer(first: bytes, condition: str) -> None:
    out = leg().data(first)
    killed(out, condition)
    assert b"<stream:stream " in sent(out)


# -- STARTTLS ---------------------------------------------------------------


def test_auth_09_registration_is_handed_over_and_nothing_is_live() -> None:
    """XEP-0077: the one thing but a login that a stranger may ask."""
    one = greeted()
    query = b"<iq type='set' id='1'><query xmlns='jabber:iq:register'/></iq>"
    [asked] = one.data(query)
    assert isinstance(asked, Register)
    assert asked.domain == "a.test"
    assert sent(one.early(b"<iq/>")) == b"<iq/>"
    killed(one.data(MESSAGE), "not-authorized")


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(auth(), id="TLS-02-auth"),
        pytest.param(b"<presence/>", id="TLS-02-presence"),
        pytest.param(hello(), id="TLS-02-header"),
        pytest.param(STARTTLS, id="TLS-02-again"),
        pytest.param(b"</stream:stream>", id="TLS-02-end"),
        pytest.param(b"<message fro", id="TLS-03-part-of-a-tag"),
        pytest.param(b"x", id="TLS-03-text"),
        pytest.param(b"\x16\x03\x01", id="TLS-03-client-hello"),
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_nothing_before_the_handshake_counts(behind: bytes, segments: int) -> None:
    one = greeted()
    if segments == 1:
        out = one.data(STARTTLS + behind)
    else:
        one.data(STARTTLS)
        out = one.data(behind)
    assert out[:-1] == [Close()]
    assert fault_of(out) is not None
    assert dead(one)


def test_tls_03_the_parser_is_new_behind_tls() -> None:
    one = greeted()
    assert one.data(STARTTLS + b"\r\n")[-1] == StartTls()
    one.secured()
    # In the old stream this would be a child of it.
    assert b"<stream:features>" in sent(one.data(hello()))


def test_login_in_clear_is_not_held_against_tls_later() -> None:
    one = greeted()
    failed(one.data(auth(b"\0juliet")), "malformed-request")
    assert one.data(STARTTLS)[-1] == StartTls()
    one.secured()
    one.data(hello())
    assert one.data(auth()) == [LOGIN]


# -- PLAIN ------------------------------------------------------------------

FOREIGN = (
    "id='12' xmlns:ga='http://www.google.com/talk/protocol/auth' "
    "ga:client-uses-full-bind-result='true'"
)


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(auth(attributes=FOREIGN), id="mcabber"),
        pytest.param(auth(b"juliet@a.test" + GOOD), id="authzid-sendxmpp"),
        pytest.param(auth(b"Juliet@A.TEST" + GOOD), id="authzid-case"),
        pytest.param(auth(b"\0juliet@a.test\0pencil"), id="domain-in-user"),
        pytest.param(auth(b"\0JULIET\0pencil"), id="case"),
        pytest.param(b" \n " + auth() + b" \n", id="white-space"),
        pytest.param(auth().replace(b"'", b'"'), id="quotes"),
    ],
)
def test_logins_of_real_clients(element: bytes) -> None:
    assert greeted().data(element) == [LOGIN]


def test_password_is_passed_as_it_is() -> None:
    password = "pä ss\u00a0=,@\U0001f600"
    (login,) = greeted().data(auth(b"\0juliet\0" + password.encode()))
    assert login == Login("juliet", "a.test", password)
    assert password not in repr(login)


def test_without_initial_response() -> None:
    one = greeted()
    assert sent(one.data(auth(None))) == f"<challenge xmlns='{SASL}'/>".encode()
    assert one.data(f"<response xmlns='{SASL}'>{b64(GOOD)}</response>".encode()) == [
        LOGIN
    ]


@pytest.mark.parametrize(
    ("encoded", "condition"),
    [
        pytest.param(" " + b64(GOOD), "incorrect-encoding", id="AUTH-13-blank-first"),
        pytest.param(b64(GOOD) + "\n", "incorrect-encoding", id="AUTH-13-newline"),
        pytest.param("AGp1\nbGlldABwZW5jaWw=", "incorrect-encoding", id="AUTH-13-inside"),
        pytest.param("AGp1bGlldABwZW5jaWw", "incorrect-encoding", id="AUTH-13-unpadded"),
        pytest.param("AGp1bGlldABwZW5jaWx=", "incorrect-encoding", id="AUTH-13-tail"),
        pytest.param("AGp1bGlldABwZW5jaWw==", "incorrect-encoding", id="AUTH-13-2-pads"),
        pytest.param("AGp1bGlldAB_ZW5jaWw=", "incorrect-encoding", id="AUTH-13-url"),
        pytest.param("==", "incorrect-encoding", id="AUTH-13-two-equals"),
        pytest.param("é", "incorrect-encoding", id="AUTH-13-umlaut"),
        pytest.param("=", "malformed-request", id="AUTH-13-equals-alone"),
        pytest.param(b64(b"juliet\0pencil"), "malformed-request", id="one-nul"),
        pytest.param(b64(GOOD + b"\0"), "malformed-request", id="three-nuls"),
        pytest.param(b64(b"\0\0pencil"), "malformed-request", id="no-user"),
        pytest.param(b64(b"\0juliet\0"), "malformed-request", id="no-password"),
        pytest.param(b64(b"\0juliet\0\xff"), "malformed-request", id="not-utf8"),
        pytest.param("<x/>" + b64(GOOD), "malformed-request", id="child"),
        pytest.param(b64(b"\0a/b\0p"), "not-authorized", id="user-with-resource"),
        pytest.param(b64(b"\0j@b.test\0p"), "not-authorized", id="user-elsewhere"),
        pytest.param(b64(b"\0j@a.test/x\0p"), "not-authorized", id="user-full-jid"),
        pytest.param(b64(b"\0@a.test\0p"), "not-authorized", id="user-no-local"),
        pytest.param(b64(b"\0a b\0p"), "not-authorized", id="user-blank"),
        pytest.param(b64(b"bob@a.test" + GOOD), "invalid-authzid", id="AUTH-12-other"),
        pytest.param(b64(b"juliet" + GOOD), "invalid-authzid", id="AUTH-12-no-jid"),
        pytest.param(b64(b"juliet@b.test" + GOOD), "invalid-authzid", id="AUTH-12-host"),
        pytest.param(b64(b"juliet@a.test/x" + GOOD), "invalid-authzid", id="AUTH-12-full"),
        pytest.param(b64(b"@" + GOOD), "invalid-authzid", id="AUTH-12-malformed"),
    ],
)  # fmt: skip
def test_bad_plain(encoded: str, condition: str) -> None:
    one = greeted()
    failed(one.data(auth(encoded)), condition)
    # The next try is judged afresh.
    assert one.data(auth()) == [LOGIN]


def test_auth_13_megabyte() -> None:
    one = greeted()
    out: list[ClientOutput] = one.data(
        b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"
    )
    for _ in range(16):
        out += one.data(b"QUFB" * 16_384)
    killed(out, "policy-violation")


def test_empty_response_is_malformed() -> None:
    one = greeted()
    one.data(auth(None))
    failed(one.data(f"<response xmlns='{SASL}'/>".encode()), "malformed-request")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "plain", "ANONYMOUS", ""])
def test_only_plain(mechanism: str) -> None:
    element = auth().replace(b"PLAIN", mechanism.encode())
    failed(greeted().data(element), "invalid-mechanism")


def test_abort() -> None:
    one = greeted()
    one.data(auth(None))
    failed(one.data(f"<abort xmlns='{SASL}'/>".encode()), "aborted")
    assert one.data(auth()) == [LOGIN]


def test_abort_of_a_login_being_decided_ends_the_stream() -> None:
    one = waiting()
    out = one.data(f"<abort xmlns='{SASL}'/>".encode())
    assert b"<aborted" in sent(out)
    assert fault_of(out) is None
    # The decision comes too late.
    assert dead(one)


def test_refused_three_times() -> None:
    one = greeted()
    for _ in range(3):
        assert one.data(auth()) == [LOGIN]
        text = failed(
            one.refuse("not-authorized", "wrong <password> & so"), "not-authorized"
        )
        assert text == "wrong <password> & so"
    killed(one.data(auth()), "policy-violation")
    assert dead(one)


def test_condition_that_is_not_of_sasl() -> None:
    failed(
        waiting().refuse("remote-connection-failed", "no TLS"), "temporary-auth-failure"
    )


# -- before login -----------------------------------------------------------


@pytest.mark.parametrize(
    "early",
    [
        pytest.param(MESSAGE, id="AUTH-15-message"),
        pytest.param(b"<presence/>", id="AUTH-15-presence"),
        pytest.param(
            b"<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
            id="AUTH-15-bind",
        ),
        pytest.param(
            b"<iq type='set' id='1'><query xmlns='jabber:iq:auth'/></iq>",
            id="AUTH-09-iq-auth",
        ),
        pytest.param(
            b"<iq type='result' id='1'><query xmlns='jabber:iq:register'/></iq>",
            id="AUTH-09-register-result",
        ),
        pytest.param(
            b"<iq type='set' id='1'><query xmlns='jabber:iq:register'/><body>x</body></iq>",
            id="AUTH-09-register-and-more",
        ),
        pytest.param(f"<enable xmlns='{SM}'/>".encode(), id="AUTH-15-enable"),
        pytest.param(f"<response xmlns='{SASL}'/>".encode(), id="AUTH-15-response"),
        pytest.param(f"<success xmlns='{SASL}'/>".encode(), id="AUTH-15-success"),
        pytest.param(b"<x xmlns='urn:x'/>", id="AUTH-15-unknown"),
        pytest.param(f"<resume xmlns='{SM}' previd='x' h='0'/>".encode(), id="TLS-16"),
    ],
)
def test_only_negotiation_before_login(early: bytes) -> None:
    one = greeted()
    out = one.data(early + auth())
    killed(out, "not-authorized")
    assert not any(isinstance(item, Login | Incoming) for item in out)
    assert dead(one)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(MESSAGE, id="AUTH-15-message"),
        pytest.param(auth(), id="AUTH-15-auth"),
        pytest.param(b"<mess", id="AUTH-15-part-of-a-tag"),
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_nothing_behind_auth_before_the_answer(behind: bytes, segments: int) -> None:
    one = greeted()
    if segments == 1:
        out = one.data(auth() + behind)
    else:
        one.data(auth())
        out = one.data(behind)
    killed(out, "not-authorized")
    assert not any(isinstance(item, Login) for item in out)
    assert dead(one)


def test_white_space_while_the_login_is_decided() -> None:
    one = waiting()
    assert one.data(b" \n ") == []
    assert one.admit([])


def test_client_goes_away_while_the_login_is_decided() -> None:
    one = waiting()
    assert fault_of(one.data(b"</stream:stream>")) is None
    assert dead(one)


@pytest.mark.parametrize("at", ["auth", "response"])
def test_starttls_during_sasl(at: str) -> None:
    one = greeted()
    one.data(auth(None) if at == "response" else auth())
    killed(one.data(STARTTLS), "not-authorized")


def test_tls_15_compression_before_login() -> None:
    one = greeted()
    ns = "http://jabber.org/protocol/compress"
    out = one.data(f"<compress xmlns='{ns}'><method>zlib</method></compress>".encode())
    assert b"unsupported-method" in sent(out)
    assert one.data(auth()) == [LOGIN]


def test_ten_thousand_bytes_are_the_limit_before_login() -> None:
    long = b"\0juliet\0" + b"p" * 7_000
    assert greeted().data(auth(long)) == [Login("juliet", "a.test", "p" * 7_000)]
    killed(greeted().data(auth(long + b"p" * 1_000)), "policy-violation")


# -- live -------------------------------------------------------------------


def test_stanza_of_200_kilobytes_passes_after_login() -> None:
    big = b"<message><body>" + b"x" * 200_000 + b"</body></message>"
    (got,) = live().data(big)
    assert isinstance(got, Incoming)
    killed(live().data(big.replace(b"x", b"xx")), "policy-violation")


def test_order_is_kept() -> None:
    out = live().data(b"<presence/> <iq type='get' id='1'/>\n" + MESSAGE)
    names = [item.stanza.name for item in out if isinstance(item, Incoming)]
    assert names == ["presence", "iq", "message"]


@pytest.mark.parametrize("name", ["active", "inactive"])
def test_client_state_is_passed_on(name: str) -> None:
    (got,) = live().data(f"<{name} xmlns='urn:xmpp:csi:0'/>".encode())
    assert isinstance(got, Incoming)
    assert (got.stanza.ns, got.stanza.name) == ("urn:xmpp:csi:0", name)


@pytest.mark.parametrize("name", ["enable", "resume"])
def test_stream_management_is_not_here(name: str) -> None:
    one = live()
    out = one.data(f"<{name} xmlns='{SM}' previd='x' h='0'/>".encode() + MESSAGE)
    answer = etree.fromstring(sent(out))
    assert answer.tag == f"{{{SM}}}failed"
    assert answer[0].tag.endswith("}feature-not-implemented")
    assert isinstance(out[-1], Incoming)


def test_acks_are_ignored() -> None:
    # profanity asks after nearly each stanza.
    both = f"<r xmlns='{SM}'/><a xmlns='{SM}' h='1'/>".encode()
    assert live().data(both + b"  ") == []


def test_tls_15_compression_after_login() -> None:
    ns = "http://jabber.org/protocol/compress"
    out = live().data(
        f"<compress xmlns='{ns}'><method>zlib</method></compress>".encode()
    )
    assert sent(out) == (
        f"<failure xmlns='{ns}'><unsupported-method/></failure>".encode()
    )


@pytest.mark.parametrize(
    ("element", "condition"),
    [
        pytest.param("<message xmlns=''/>", "invalid-namespace", id="XML-30-none"),
        pytest.param(
            "<message xmlns='jabber:server'/>", "invalid-namespace", id="XML-30-server"
        ),
        pytest.param(
            "<iq xmlns='jabber:component:accept'/>",
            "invalid-namespace",
            id="XML-30-component",
        ),
        pytest.param("<MESSAGE/>", "unsupported-stanza-type", id="XML-30-capitals"),
        pytest.param("<a/>", "unsupported-stanza-type", id="XML-47"),
        pytest.param("<x xmlns='urn:x'/>", "unsupported-stanza-type", id="XML-47-ns"),
        pytest.param("<stream:features/>", "unsupported-stanza-type", id="features"),
        pytest.param(auth().decode(), "not-authorized", id="AUTH-15-second-auth"),
        pytest.param(STARTTLS.decode(), "unsupported-stanza-type", id="starttls"),
        pytest.param(
            "<x xmlns='urn:xmpp:csi:0'/>", "unsupported-stanza-type", id="csi-unknown"
        ),
        pytest.param(
            f"<x xmlns='{SM}'/>", "unsupported-stanza-type", id="sm-unknown"
        ),
    ],
)  # fmt: skip
def test_nothing_unknown_is_passed_on(element: str, condition: str) -> None:
    one = live()
    out = one.data(MESSAGE + element.encode() + MESSAGE)
    assert [type(item) for item in out[:2]] == [Incoming, Send]
    killed(out, condition)
    assert dead(one)


@pytest.mark.parametrize("when", [greeted, waiting, live])
def test_xml_34_second_header(when: Callable[[], ClientLeg]) -> None:
    one = when()
    out = one.data(hello())
    assert b"<stream:features>" not in sent(out)
    assert b"<stream:error>" in sent(out)
    assert fault_of(out) is not None
    assert not any(isinstance(item, Live | Incoming) for item in out)


@pytest.mark.parametrize(
    "bad", [b"<!DOCTYPE x>", b"<a></b>", b"\xff", b"<?x y?>", b"x"]
)
def test_bad_bytes_end_it(bad: bytes) -> None:
    one = live()
    out = one.data(MESSAGE + bad)
    assert isinstance(out[0], Incoming)
    assert b"<stream:error>" in sent(out)
    assert fault_of(out) is not None
    assert dead(one)


# -- the end ----------------------------------------------------------------


def test_client_closes() -> None:
    one = live()
    out = one.data(MESSAGE + b"</stream:stream>")
    assert isinstance(out[0], Incoming)
    assert sent(out) == b"</stream:stream>"
    assert fault_of(out) is None
    assert dead(one)


def test_stream_error_of_the_client() -> None:
    ns = "urn:ietf:params:xml:ns:xmpp-streams"
    error = f"<stream:error><reset xmlns='{ns}'/></stream:error></stream:stream>"
    one = live()
    out = one.data(error.encode())
    fault = fault_of(out)
    assert isinstance(fault, PeerFault)
    assert fault.condition == "reset"
    assert sent(out) == b"</stream:stream>"


@pytest.mark.parametrize("half", [b"<message><body>x", b"<message><body>x</body>"])
def test_tls_13_half_a_stanza_is_dropped(half: bytes) -> None:
    one = live()
    assert one.data(half) == []
    assert one.lost() == [Ended(None)]
    assert dead(one)


FAULT = EnvFault(
    "the server is <away>", condition="remote-connection-failed", hint="wait"
)


def restarting() -> ClientLeg:
    one = waiting()
    one.admit([])
    return one


@pytest.mark.parametrize("when", [leg, greeted, waiting, restarting, live])
def test_end_with_a_fault(when: Callable[[], ClientLeg]) -> None:
    one = when()
    out = one.end(FAULT)
    text = killed(out, "remote-connection-failed")
    assert text == "the server is <away>; wait"
    # A stream error needs a stream around it.
    needs = when in (leg, restarting)
    assert sent(out).count(b"<stream:stream ") == int(needs)
    if needs:
        stream(sent(out).removesuffix(b"</stream:stream>"))
    assert fault_of(out) is FAULT
    assert dead(one)


def test_end_with_a_condition_of_stanzas() -> None:
    fault = EnvFault("x", condition="not-acceptable")
    killed(live().end(fault), "undefined-condition")


def test_end_in_order() -> None:
    out = live().end(None)
    assert sent(out) == b"</stream:stream>"
    assert fault_of(out) is None


def test_end_before_the_header() -> None:
    assert leg().end(None) == [Close(), Ended(None)]


@pytest.mark.parametrize("fault", [None, FAULT])
def test_end_in_the_handshake_says_nothing(fault: Fault | None) -> None:
    one = greeted()
    one.data(STARTTLS)
    assert one.end(fault) == [Close(), Ended(fault)]


def test_calls_out_of_order_are_bugs_of_ours() -> None:
    one = greeted()
    for call in (
        one.secured,
        lambda: one.admit([]),
        lambda: one.refuse("not-authorized", "no"),
        lambda: one.stanza(MESSAGE),
    ):
        with pytest.raises(LocalFault):
            call()


def test_a_decision_counts_once() -> None:
    one = waiting()
    one.refuse("not-authorized", "no")
    with pytest.raises(LocalFault):
        one.admit([])
