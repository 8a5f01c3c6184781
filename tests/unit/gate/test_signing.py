"""What the signing process signs: what a gate may say, and nothing else (13.1)."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import Fault, PeerFault, TrustFault
from proxy.gate.signing import Signing
from proxy.keys import servers, tokens
from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_presented,
    objection_statement,
    presented_statement,
    vouch_statement,
)
from proxy.keys.identity import RootPrivate
from proxy.keys.manifest import TYP as MANIFEST
from proxy.suites.fields import b64, fields
from tests.support.persons import DAY, HOUR, JULIET, NOW, Person

DOMAIN = "capulet.example"
KEY = RootPrivate.generate()
NEXT = RootPrivate.generate()
FINGERPRINT = KEY.public.fingerprint
CHANNEL = Channel(DOMAIN, b"n" * 16, b"e" * 32)
SHOWN = Presentation(b"d" * 32, b"r" * 32)


@pytest.fixture(scope="module")
def signing() -> Signing:
    return Signing({DOMAIN: [KEY, NEXT], "montague.example": [RootPrivate.generate()]})


@pytest.fixture(scope="module")
def juliet() -> Person:
    return Person()


def server(**changed: Any) -> dict[str, object]:
    return servers.server_claims(DOMAIN, 1, KEY.public, NOW) | changed


def rollover(to: RootPrivate = NEXT, **changed: Any) -> dict[str, object]:
    return servers.rollover_claims(DOMAIN, FINGERPRINT, to.public, NOW) | changed


def absence(jid: str = JULIET, **changed: Any) -> dict[str, object]:
    return tokens.absence_claims(jid, b"j" * 16, NOW) | changed


def test_each_of_the_four_documents_is_signed(signing: Signing, juliet: Person) -> None:
    made = {
        typ: signing.sign(typ, claims, FINGERPRINT, NOW).encode()
        for typ, claims in {
            tokens.TYP: tokens.token_claims(juliet.manifest, b"j" * 16, NOW, b"p" * 32),
            tokens.ABSENCE_TYP: absence(),
            servers.SERVER: server(next=b64(NEXT.public.fingerprint)),
            servers.ROLLOVER: rollover(),
        }.items()
    }
    token = tokens.open_token(made[tokens.TYP], JULIET, KEY.public)
    assert token.covers(juliet.manifest)
    assert tokens.open_absence(made[tokens.ABSENCE_TYP], JULIET, KEY.public)
    assert servers.open_server(made[servers.SERVER], DOMAIN).keys == KEY.public
    to = servers.open_rollover(made[servers.ROLLOVER], DOMAIN, KEY.public)
    assert to == NEXT.public


def test_absence_is_said_of_the_domain_itself_too(signing: Signing) -> None:
    signing.sign(tokens.ABSENCE_TYP, absence(DOMAIN), FINGERPRINT, NOW)


def test_the_proof_of_a_login_is_signed(signing: Signing) -> None:
    for shown in (SHOWN, Presentation(b"d" * 32, None)):
        statement = presented_statement(CHANNEL, shown, NOW)
        proof = signing.prove(statement, FINGERPRINT, NOW)
        check_presented(CHANNEL, shown, KEY.public, NOW, proof)


OTHER = RootPrivate.generate()
REFUSED: dict[str, tuple[str, dict[str, object]]] = {
    "a manifest": (MANIFEST, absence()),
    "no typ": ("", absence()),
    "absence for another domain": (
        tokens.ABSENCE_TYP,
        absence("romeo@montague.example"),
    ),
    "DIR-01 issuer not of the subject": (
        tokens.ABSENCE_TYP,
        absence("romeo@montague.example", iss=DOMAIN),
    ),
    "subject below the domain": (
        tokens.ABSENCE_TYP,
        absence("romeo@keys.capulet.example", iss=DOMAIN),
    ),
    "subject not prepared": (tokens.ABSENCE_TYP, absence(sub="JULIET@capulet.example")),
    "subject with a resource": (tokens.ABSENCE_TYP, absence(sub=f"{JULIET}/desk")),
    "a member too many": (tokens.ABSENCE_TYP, absence(seq=1)),
    "a member too few": (tokens.ABSENCE_TYP, {"iss": DOMAIN}),
    "nothing": (tokens.ABSENCE_TYP, {}),
    "absence for two hours": (
        tokens.ABSENCE_TYP,
        absence(exp=(NOW + 2 * HOUR) // 1000),
    ),
    "absence that ends before it begins": (tokens.ABSENCE_TYP, absence(exp=1)),
    "absence for tomorrow": (
        tokens.ABSENCE_TYP,
        tokens.absence_claims(JULIET, b"j" * 16, NOW + DAY),
    ),
    "absence of yesterday": (
        tokens.ABSENCE_TYP,
        tokens.absence_claims(JULIET, b"j" * 16, NOW - DAY),
    ),
    "a short jti": (tokens.ABSENCE_TYP, absence(jti=b64(b"j"))),
    "a number as issuer": (tokens.ABSENCE_TYP, absence(iss=5)),
    "a float": (tokens.ABSENCE_TYP, absence(iat=NOW / 1000)),
    "another key's document": (
        servers.SERVER,
        servers.server_claims(DOMAIN, 1, OTHER.public, NOW),
    ),
    "a document of another domain": (servers.SERVER, server(sub="montague.example")),
    "a document without end": (servers.SERVER, server(exp=(NOW + 400 * DAY) // 1000)),
    "a document with number 0": (servers.SERVER, server(seq=0)),
    "an account as directory": (servers.SERVER, server(directory="a@keys.example")),
    "a rollover to a stranger's key": (servers.ROLLOVER, rollover(OTHER)),
    "a rollover to itself": (servers.ROLLOVER, rollover(KEY)),
    "a rollover from another key": (
        servers.ROLLOVER,
        rollover() | {"from": b64(b"x" * 32)},
    ),
    "a rollover of an account": (servers.ROLLOVER, rollover(sub=JULIET)),
}


@pytest.mark.parametrize("typ_and_claims", REFUSED.values(), ids=REFUSED.keys())
def test_nothing_else_is(
    signing: Signing, typ_and_claims: tuple[str, dict[str, object]]
) -> None:
    with pytest.raises(Fault):
        signing.sign(*typ_and_claims, FINGERPRINT, NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"level": "hosted"},
        {"seq": 0},
        {"seq": 2**32},
        {"root": b64(b"r" * 31)},
        {"manifest": "AA"},
        {"prev": b64(b"p")},
        {"iss": "montague.example"},
        {"sub": "romeo@montague.example"},
        {"exp": (NOW + 8 * DAY) // 1000},
        {"hosted": 1},
    ],
    ids=str,
)
def test_dir_01_a_token_that_says_more_or_less(
    signing: Signing, juliet: Person, changed: dict[str, object]
) -> None:
    claims = tokens.token_claims(juliet.manifest, b"j" * 16, NOW) | changed
    with pytest.raises(Fault):
        signing.sign(tokens.TYP, claims, FINGERPRINT, NOW)


def test_a_key_signs_for_its_own_domain_only(signing: Signing) -> None:
    with pytest.raises(TrustFault, match="no such key"):
        signing.sign(
            tokens.ABSENCE_TYP, absence("romeo@montague.example"), FINGERPRINT, NOW
        )


STATEMENT = presented_statement(CHANNEL, SHOWN, NOW)


@pytest.mark.parametrize(
    "statement",
    [
        b"",
        b"x" * 200,
        STATEMENT[:-1],
        STATEMENT + b"\0\0\0\0",
        fields("presented", "gate"),
        fields("presented", "proxy", *([b"x"] * 6)),
        SHOWN.statement(CHANNEL),
        vouch_statement(CHANNEL, SHOWN, JULIET, b"m" * 32),
        objection_statement(DOMAIN, JULIET, b"d" * 32, NOW),
        fields("root", b"e" * 32, b"m" * 1952),
        presented_statement(CHANNEL, Presentation(b"d" * 31, b"r" * 32), NOW),
        presented_statement(CHANNEL, Presentation(b"d" * 32, b"r" * 31), NOW),
        presented_statement(CHANNEL, Presentation(b"d" * 32, b""), NOW),
        b"eyJ0eXAiOiJ4In0.eyJpc3MiOiJ4In0",
    ],
)
def test_auth_11_nothing_but_a_gates_answer_is_proved(
    signing: Signing, statement: bytes
) -> None:
    with pytest.raises(PeerFault):
        signing.prove(statement, FINGERPRINT, NOW)


def test_a_proof_is_for_now_and_for_an_own_domain(signing: Signing) -> None:
    for time in (NOW - DAY, NOW + DAY):
        with pytest.raises(TrustFault):
            signing.prove(presented_statement(CHANNEL, SHOWN, time), FINGERPRINT, NOW)
    elsewhere = Channel("montague.example", b"n" * 16, b"e" * 32)
    with pytest.raises(TrustFault):
        signing.prove(presented_statement(elsewhere, SHOWN, NOW), FINGERPRINT, NOW)
