"""Which mechanism is taken, and SCRAM against an independent server half."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import scramp
from hypothesis import given
from hypothesis import strategies as st
from scramp import core as scramp_core
from scramp.utils import ScramException, saslprep

from proxy.core import sasl
from proxy.core.sasl import Choice, Family, Offer, Scram, choose
from proxy.core.vocabulary import Derive, TlsFacts
from proxy.errors import EnvFault, Fault, PeerFault, TrustFault
from proxy.suites.fields import b64, unb64

EXPORTER = bytes(range(32))
END_POINT = hashlib.sha256(b"certificate").digest()
TLS13 = TlsFacts("TLSv1.3", EXPORTER, END_POINT)
TLS12 = TlsFacts("TLSv1.2", None, END_POINT)
UNBOUND = TlsFacts("TLSv1.3", None, None)
BOTH = ("tls-server-end-point", "tls-exporter")
ALL = (
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-512-PLUS",
    "PLAIN",
    "X-OAUTH2",
)
BARE = tuple(name for name in ALL if not name.endswith("-PLUS"))


def derive(wanted: Derive) -> bytes:
    return hashlib.pbkdf2_hmac(
        wanted.hash_name, wanted.password, wanted.salt, wanted.iterations
    )


# -- the choice -------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "listed", "facts", "mechanism", "gs2", "binding"),
    [
        (ALL, BOTH, TLS13, "SCRAM-SHA-512-PLUS", "p=tls-exporter,,", EXPORTER),
        (
            ALL,
            ("tls-server-end-point",),
            TLS13,
            "SCRAM-SHA-512-PLUS",
            "p=tls-server-end-point,,",
            END_POINT,
        ),
        (ALL, BOTH, TLS12, "SCRAM-SHA-512-PLUS", "p=tls-server-end-point,,", END_POINT),
        (
            ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-512"),
            BOTH,
            TLS13,
            "SCRAM-SHA-1-PLUS",
            "p=tls-exporter,,",
            EXPORTER,
        ),
        # -PLUS on offer, no binding in common: "y" would be a lie.
        (ALL, ("tls-unique",), TLS13, "SCRAM-SHA-512", "n,,", b""),
        # No list: nothing is guessed.
        (ALL, None, TLS13, "SCRAM-SHA-512", "n,,", b""),
        # No -PLUS: the server may notice that someone removed it.
        (BARE, None, TLS13, "SCRAM-SHA-512", "y,,", b""),
        (BARE, BOTH, TLS13, "SCRAM-SHA-512", "y,,", b""),
        (BARE, None, UNBOUND, "SCRAM-SHA-512", "n,,", b""),
        (BARE, None, None, "SCRAM-SHA-512", "n,,", b""),
        (ALL, BOTH, None, "SCRAM-SHA-512", "n,,", b""),
        (("SCRAM-SHA-1", "SCRAM-SHA-256"), None, None, "SCRAM-SHA-256", "n,,", b""),
        (("DIGEST-MD5", "PLAIN"), None, TLS13, "PLAIN", "", b""),
    ],
)
def test_strongest_mechanism(
    offered: tuple[str, ...],
    listed: tuple[str, ...] | None,
    facts: TlsFacts | None,
    mechanism: str,
    gs2: str,
    binding: bytes,
) -> None:
    choice = choose(Offer(offered, listed), facts, None)
    assert choice == Choice(mechanism, gs2, binding)


@pytest.mark.parametrize(
    ("floor", "offered", "listed"),
    [
        pytest.param("SCRAM-SHA-1", ("PLAIN",), None, id="AUTH-01-plain"),
        pytest.param("SCRAM-SHA-256-PLUS", ("PLAIN",), BOTH, id="AUTH-01-plain-plus"),
        pytest.param("SCRAM-SHA-1-PLUS", BARE, BOTH, id="AUTH-01-plus-removed"),
        pytest.param("SCRAM-SHA-1-PLUS", ALL, None, id="AUTH-01-list-removed"),
        pytest.param("SCRAM-SHA-1-PLUS", ALL, ("x-new",), id="AUTH-05-unknown-types"),
    ],
)
def test_never_below_what_was_reached(
    floor: str, offered: tuple[str, ...], listed: tuple[str, ...] | None
) -> None:
    with pytest.raises(TrustFault, match="logged in with") as caught:
        choose(Offer(offered, listed), TLS13, floor)
    assert floor in caught.value.text
    assert caught.value.hint


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(("DIGEST-MD5",), id="AUTH-01-digest"),
        pytest.param(("ANONYMOUS",), id="AUTH-01-anonymous"),
        pytest.param(("X-OAUTH", "EXTERNAL"), id="AUTH-01-oauth"),
        pytest.param((), id="AUTH-01-empty"),
        # Something better is on offer, even if it cannot be used.
        pytest.param(("SCRAM-SHA-256-PLUS", "PLAIN"), id="AUTH-01-plus-or-plain"),
    ],
)
def test_nothing_known_is_no_login(offered: tuple[str, ...]) -> None:
    with pytest.raises(EnvFault, match="no way to log in"):
        choose(Offer(offered, None), TLS13, None)


def test_another_hash_is_no_downgrade() -> None:
    choice = choose(Offer(("SCRAM-SHA-1-PLUS",), BOTH), TLS13, "SCRAM-SHA-512-PLUS")
    assert choice.mechanism == "SCRAM-SHA-1-PLUS"


def test_floor_only_rises() -> None:
    floor = None
    reached = []
    for used in ("PLAIN", "SCRAM-SHA-512", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-512"):
        floor = sasl.stronger(floor, used)
        reached.append(sasl.family(floor))
    assert reached == [Family.PLAIN, Family.SCRAM, Family.BOUND, Family.BOUND]


# -- known answers ----------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "nonce", "server_first", "client_final", "server_final"),
    [
        pytest.param(
            "SCRAM-SHA-1",
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,"
            "p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            id="rfc5802-5",
        ),
        pytest.param(
            "SCRAM-SHA-256",
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            id="rfc7677-3",
        ),
    ],
)
def test_published_exchange(
    mechanism: str, nonce: str, server_first: str, client_final: str, server_final: str
) -> None:
    offer = Offer((mechanism,), None)
    scram = Scram(Choice(mechanism, "n,,"), offer, "user", "pencil", nonce)
    assert scram.first() == f"n,,n=user,r={nonce}".encode()
    wanted = scram.challenge(server_first.encode())
    assert scram.final(derive(wanted)) == client_final.encode()
    scram.verify(server_final.encode())


def test_published_hash_of_the_lists() -> None:
    # XEP-0474 0.5.0, 5.3.
    offer = Offer(("SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"), BOTH)
    assert sasl.advertised("sha1", offer) == "G6k/rBLDqgOhRRaCuuatSDFkJ08="


def test_lists_are_hashed_in_octet_order() -> None:
    offer = Offer(("b", "A", "a", "\U0001f600", "\uffee"), ("y", "X"))
    text = "A\x1ea\x1eb\x1e\uffee\x1e\U0001f600\x1fX\x1ey"
    expected = b64(hashlib.sha1(text.encode()).digest())
    assert sasl.advertised("sha1", offer) == expected


# -- against scramp's server ------------------------------------------------


def scramp_server(mechanism: str, choice: Choice, user: str, password: str) -> Any:
    mech = scramp.ScramMechanism(mechanism)
    info = mech.make_auth_info(password)
    binding = (choice.gs2[2:-2], choice.binding) if choice.binding else None

    def known(asked: str) -> Any:
        assert asked == user
        return info

    return mech.make_server(known, channel_binding=binding)


@pytest.fixture
def any_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """scramp refuses the name tls-exporter; its arithmetic does not look at it."""
    monkeypatch.setattr(scramp_core.CbName, "UNSUPPORTED_TYPES", frozenset())
    names = scramp_core.CbName.SUPPORTED_TYPES | {"tls-exporter"}
    monkeypatch.setattr(scramp_core.CbName, "SUPPORTED_TYPES", names)


@pytest.mark.usefixtures("any_binding")
@pytest.mark.parametrize("facts", [TLS13, TLS12, None], ids=["exporter", "end", "none"])
@pytest.mark.parametrize("hash_name", ["SHA-1", "SHA-256", "SHA-512"])
@pytest.mark.parametrize(
    ("user", "password"),
    [("juliet", "pencil"), ("a,b=c", "pass,word=1"), ("jürg", "\u2168 stra\u00dfe")],
)
def test_login_at_scramp(
    facts: TlsFacts | None, hash_name: str, user: str, password: str
) -> None:
    name = f"SCRAM-{hash_name}"
    offer = Offer((name, f"{name}-PLUS"), BOTH)
    choice = choose(offer, facts, None)
    server = scramp_server(choice.mechanism, choice, user, password)
    scram = Scram(choice, offer, user, password)
    server.set_client_first(scram.first().decode())
    wanted = scram.challenge(server.get_server_first().encode())
    assert wanted.iterations == 4096
    server.set_client_final(scram.final(derive(wanted)).decode())
    scram.verify(server.get_server_final().encode())


@pytest.mark.usefixtures("any_binding")
@pytest.mark.parametrize("facts", [TLS13, TLS12], ids=["exporter", "end-point"])
def test_other_channel_is_noticed_by_the_server(facts: TlsFacts) -> None:
    offer = Offer(ALL, BOTH)
    choice = choose(offer, facts, None)
    there = Choice(choice.mechanism, choice.gs2, b"another TLS session")
    server = scramp_server(choice.mechanism, there, "juliet", "pencil")
    scram = Scram(choice, offer, "juliet", "pencil")
    server.set_client_first(scram.first().decode())
    wanted = scram.challenge(server.get_server_first().encode())
    with pytest.raises(ScramException, match="channel bindings don't match"):
        server.set_client_final(scram.final(derive(wanted)).decode())


def test_nonces_are_fresh() -> None:
    offer = Offer(ALL, None)
    firsts = {
        Scram(Choice("SCRAM-SHA-1", "n,,"), offer, "u", "p").first() for _ in range(50)
    }
    assert len(firsts) == 50
    assert min(map(len, firsts)) > 32


# -- hostile servers --------------------------------------------------------

NONCE = "ournonce"
SALT = b64(b"salt of a server")


def fresh() -> Scram:
    offer = Offer(("SCRAM-SHA-256",), None)
    return Scram(Choice("SCRAM-SHA-256", "n,,"), offer, "juliet", "pencil", NONCE)


def test_good_challenge_is_taken() -> None:
    wanted = fresh().challenge(f"r={NONCE}theirs,s={SALT},i=4096".encode())
    assert wanted == Derive("sha256", b"pencil", unb64(SALT), 4096)


@pytest.mark.parametrize(
    "count",
    [
        *[
            "1",
            "4095",
            "600001",
            "1000000000",
            "4294967295",
            "2147483647",
            "-1",
            "+4096",
            "09",
            "04096",
            "4096x",
            "0x1000",
            "4e3",
            "٤4096",
            "4096.0",
        ],
        " 4096",
        "9" * 5000,
    ],
)
def test_auth_02_iteration_count(count: str) -> None:
    with pytest.raises(TrustFault, match="iteration count"):
        fresh().challenge(f"r={NONCE}x,s={SALT},i={count}".encode())


@pytest.mark.parametrize("count", [4096, 600_000])
def test_auth_02_bounds_are_taken(count: int) -> None:
    assert fresh().challenge(f"r={NONCE}x,s={SALT},i={count}".encode())


CHALLENGES = {
    "nonce-other": f"r=theirs,s={SALT},i=4096",
    "nonce-not-extended": f"r={NONCE},s={SALT},i=4096",
    "nonce-behind-theirs": f"r=theirs{NONCE},s={SALT},i=4096",
    "nonce-space": f"r={NONCE} x,s={SALT},i=4096",
    "nonce-umlaut": f"r={NONCE}ü,s={SALT},i=4096",
    "nonce-twice": f"r={NONCE}a,r={NONCE}b,s={SALT},i=4096",
    "extension-first": f"m=x,r={NONCE}a,s={SALT},i=4096",
    "extension-last": f"r={NONCE}a,s={SALT},i=4096,m=x",
    "salt-empty": f"r={NONCE}a,s=,i=4096",
    "salt-missing": f"r={NONCE}a,i=4096",
    "salt-unpadded": f"r={NONCE}a,s=QUI,i=4096",
    "salt-tail-bits": f"r={NONCE}a,s=QUJ=,i=4096",
    "salt-blank": f"r={NONCE}a,s=QU I=,i=4096",
    "salt-1025": f"r={NONCE}a,s={b64(bytes(1025))},i=4096",
    "order": f"s={SALT},r={NONCE}a,i=4096",
    "no-value": f"r={NONCE}a,s={SALT},i=4096,x",
    "long-name": f"r={NONCE}a,s={SALT},i=4096,xx=1",
    "nul": f"r={NONCE}a,s={SALT},i=4096,x=\0",
    "error": "e=other-error",
    "nothing": "",
}


@pytest.mark.parametrize("message", CHALLENGES.values(), ids=CHALLENGES.keys())
def test_auth_03_challenge(message: str) -> None:
    with pytest.raises((TrustFault, PeerFault)):
        fresh().challenge(message.encode())


def test_auth_03_salt_of_1024_bytes_and_unknown_extensions_are_taken() -> None:
    salt = b64(bytes(1024))
    assert fresh().challenge(f"r={NONCE}a,s={salt},i=4096,x=1,y=2=3".encode())


def test_auth_03_error_is_reported() -> None:
    with pytest.raises(PeerFault, match="unknown-user"):
        fresh().challenge(b"e=unknown-user")


def test_auth_03_not_utf8() -> None:
    with pytest.raises(PeerFault, match="UTF-8"):
        fresh().challenge(f"r={NONCE}".encode() + b"\xff,s=QQ==,i=4096")


FINALS = {
    "nothing": b"",
    "error": b"e=other-error",
    "wrong": b"v=" + b64(bytes(32)).encode(),
    "short": b"v=AAAA",
    "empty": b"v=",
    "not-base64": b"v=!!!",
    "other-attribute": b"x=1",
    "extension-first": b"x=1,v=" + b64(bytes(32)).encode(),
}


@pytest.mark.parametrize("message", FINALS.values(), ids=FINALS.keys())
def test_auth_03_final(message: bytes) -> None:
    scram = fresh()
    scram.final(derive(scram.challenge(f"r={NONCE}a,s={SALT},i=4096".encode())))
    with pytest.raises(Fault):
        scram.verify(message)


def test_auth_03_proof_before_ours_is_no_proof() -> None:
    with pytest.raises(TrustFault, match="wrong"):
        fresh().verify(b"v=AAAA")


# -- XEP-0474 ---------------------------------------------------------------


@pytest.mark.parametrize("listed", [None, BOTH, ()], ids=["no-list", "list", "empty"])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256", "sha512"])
def test_hash_of_the_lists_is_checked(
    listed: tuple[str, ...] | None, hash_name: str
) -> None:
    name = {v: k for k, v in sasl._HASHES.items()}[hash_name]
    sent = Offer(ALL, listed)
    h = sasl.advertised(hash_name, sent)
    message = f"r={NONCE}a,s={SALT},i=4096,h={h}".encode()
    stripped = [Offer(BARE, listed), Offer(ALL, ("tls-unique",)), Offer((), listed)]
    if listed is not None:
        stripped.append(Offer(ALL, None))
    for arrived in stripped:
        scram = Scram(Choice(name, "n,,"), arrived, "juliet", "pencil", NONCE)
        with pytest.raises(TrustFault, match="not those that it sent"):
            scram.challenge(message)
    # The order on the wire makes no difference.
    arrived = Offer(ALL[::-1], listed and listed[::-1])
    assert Scram(Choice(name, "n,,"), arrived, "u", "p", NONCE).challenge(message)


# -- passwords --------------------------------------------------------------


@given(st.text(max_size=20))
def test_password_is_prepared_like_saslprep(text: str) -> None:
    try:
        expected = saslprep(text)
    except ScramException:
        return
    assert sasl.prepared(text) == expected.encode()


def test_password_younger_than_saslprep_is_taken() -> None:
    assert sasl.prepared("\N{GRINNING FACE}\u00ad\u00a0x") == "\U0001f600 x".encode()


def test_plain_message() -> None:
    assert sasl.plain("juliet", "pä ss") == "\0juliet\0pä ss".encode()
