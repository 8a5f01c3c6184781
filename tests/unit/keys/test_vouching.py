"""Tokens, signed absence, server documents and rollovers (protocol.md, 13)."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import Fault, PeerFault, TrustFault
from proxy.keys import servers, tokens
from proxy.keys.documents import make_doc
from proxy.keys.handshake import (
    Channel,
    Presentation,
    check_present,
    check_presented,
    present,
    presented_statement,
)
from proxy.keys.identity import DevicePrivate, RootPrivate
from proxy.keys.manifest import Manifest, first_manifest
from proxy.suites.fields import b64

NOW = 1_795_000_000_000
DAY = 24 * 3600 * 1000
JULIET = "juliet@capulet.example"
DOMAIN = "capulet.example"


@pytest.fixture(scope="module")
def server() -> RootPrivate:
    return RootPrivate.generate()


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    device = DevicePrivate.generate()
    return first_manifest(JULIET, RootPrivate.generate(), device, "desk", NOW)


def token(manifest: Manifest, key: RootPrivate, **changed: Any) -> bytes:
    claims = tokens.token_claims(manifest, b"j" * 16, NOW) | changed
    claims = {name: value for name, value in claims.items() if value is not None}
    return make_doc(claims, tokens.TYP, key).encode()


def document(key: RootPrivate, seq: int = 1, now: int = NOW, **more: Any) -> bytes:
    claims = servers.server_claims(DOMAIN, seq, key.public, now, **more)
    return make_doc(claims, servers.SERVER, key).encode()


def rollover(old: RootPrivate, new: RootPrivate, sub: str = DOMAIN) -> bytes:
    claims = servers.rollover_claims(sub, old.public.fingerprint, new.public, NOW)
    return make_doc(claims, servers.ROLLOVER, old).encode()


def test_a_token_covers_the_manifest_it_was_made_for(
    manifest: Manifest, server: RootPrivate
) -> None:
    opened = tokens.open_token(token(manifest, server), JULIET, server.public)
    assert opened.covers(manifest)
    assert opened.current(NOW)
    other = first_manifest(
        JULIET, RootPrivate.generate(), DevicePrivate.generate(), "x", NOW
    )
    assert not opened.covers(other)


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": "romeo@capulet.example"},
        {"sub": "juliet@montague.example"},
        {"iss": "montague.example"},
        {"iss": "example"},
        {"iss": "CAPULET.example"},
        {"level": "hosted"},
        {"exp": NOW // 1000 + 100 * 365 * 86400},
        {"exp": NOW // 1000},
        {"jti": b64(b"j" * 15)},
        {"seq": 0},
        {"seq": None},
        {"root": b64(b"r" * 31)},
        {"prev": b64(b"p" * 31)},
        {"more": 1},
    ],
    ids=str,
)
def test_dir_01_02_03_a_token_of_another_form_or_purpose(
    manifest: Manifest, server: RootPrivate, changed: dict[str, Any]
) -> None:
    with pytest.raises((PeerFault, TrustFault)):
        tokens.open_token(token(manifest, server, **changed), JULIET, server.public)


def test_dir_01_a_token_under_another_key_or_as_another_document(
    manifest: Manifest, server: RootPrivate
) -> None:
    other = RootPrivate.generate()
    with pytest.raises(TrustFault):
        tokens.open_token(token(manifest, other), JULIET, server.public)
    absence = make_doc(
        tokens.absence_claims(JULIET, b"j" * 16, NOW), tokens.ABSENCE_TYP, server
    ).encode()
    with pytest.raises(Fault):
        tokens.open_token(absence, JULIET, server.public)
    with pytest.raises(Fault):
        tokens.open_absence(token(manifest, server), JULIET, server.public)
    assert tokens.open_absence(absence, JULIET, server.public).current(NOW)


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (NOW, True),
        (NOW - 4 * 60_000, True),
        (NOW - 6 * 60_000, False),
        (NOW + 7 * DAY + 4 * 60_000, True),
        (NOW + 7 * DAY + 6 * 60_000, False),
    ],
)
def test_dir_03_the_time_of_a_token(
    manifest: Manifest, server: RootPrivate, now: int, good: bool
) -> None:
    opened = tokens.open_token(token(manifest, server), JULIET, server.public)
    assert opened.current(now) is good


# -- server documents -------------------------------------------------------


def judged(
    pin: servers.Pin | None, doc: bytes, *links: bytes, now: int = NOW
) -> servers.Verdict:
    return servers.judge(pin, servers.open_server(doc, DOMAIN), links, now)


def test_first_use_pins_and_a_higher_number_is_taken(server: RootPrivate) -> None:
    first = judged(None, document(server))
    assert first.taken
    second = judged(first.pin, document(server, 2, directory="keys.capulet.example"))
    assert second.taken
    assert second.pin.held.directory == "keys.capulet.example"
    assert second.pin.since == first.pin.since
    older = judged(second.pin, document(server, 1))
    assert older.taken
    assert older.pin.held.seq == 2


def test_dir_06_another_server_key_is_an_alarm_once(server: RootPrivate) -> None:
    pinned = judged(None, document(server)).pin
    thief = RootPrivate.generate()
    verdict = judged(pinned, document(thief, 9))
    assert not verdict.taken
    assert verdict.notice
    assert verdict.pin.held.keys == server.public
    again = judged(verdict.pin, document(thief, 9))
    assert not again.taken
    assert again.notice == ""


@pytest.mark.parametrize("source", ["record", "directory"])
def test_dir_06_who_only_shows_the_old_document_does_not_end_the_alarm(
    server: RootPrivate, source: servers.Source
) -> None:
    """Everybody has that document; only a login proves who holds its key."""
    first = servers.open_server(document(server), DOMAIN)
    pinned = servers.judge(None, first, (), NOW, "stream").pin
    other = servers.open_server(document(RootPrivate.generate(), 9), DOMAIN)
    alarmed = servers.judge(pinned, other, (), NOW, "stream").pin
    assert not alarmed.trusted
    for again in (
        document(server),
        document(server, 2),
        document(server, 1, now=NOW + 1000),
    ):
        shown = servers.open_server(again, DOMAIN)
        assert not servers.judge(alarmed, shown, (), NOW, source).pin.trusted
    assert servers.judge(alarmed, first, (), NOW, "stream").pin.trusted


def test_dir_06_two_documents_with_one_number(server: RootPrivate) -> None:
    pinned = judged(None, document(server)).pin
    verdict = judged(pinned, document(server, 1, directory="keys.evil.example"))
    assert not verdict.taken
    assert verdict.pin.alarm == "server-fork"


def test_a_rollover_signed_by_the_old_key_is_followed(server: RootPrivate) -> None:
    second, third = RootPrivate.generate(), RootPrivate.generate()
    pinned = judged(None, document(server)).pin
    chain = (rollover(server, second), rollover(second, third))
    assert judged(pinned, document(second, 2), chain[0]).taken
    verdict = judged(pinned, document(third, 3), *chain)
    assert verdict.taken
    assert verdict.pin.held.keys == third.public
    # who was there for the first already passes over its link
    middle = judged(pinned, document(second, 2), chain[0]).pin
    assert judged(middle, document(third, 3), *chain).taken


def test_dir_06_a_rollover_by_somebody_else_is_none(server: RootPrivate) -> None:
    thief, second = RootPrivate.generate(), RootPrivate.generate()
    pinned = judged(None, document(server)).pin
    for link in (
        rollover(thief, second),
        rollover(server, second, sub="montague.example"),
        b"{}",
        b"",
    ):
        assert not judged(pinned, document(second, 2), link).taken


def test_a_server_document_out_of_date_or_for_another(server: RootPrivate) -> None:
    with pytest.raises(TrustFault) as caught:
        judged(None, document(server, now=NOW - 400 * DAY))
    assert "clock" in caught.value.hint
    with pytest.raises(TrustFault):
        servers.open_server(document(server), "montague.example")


# -- handshake --------------------------------------------------------------


def test_auth_11_a_presentation_holds_on_its_own_channel_only() -> None:
    device = DevicePrivate.generate()
    here = Channel(DOMAIN, b"n" * 16, b"e" * 32)
    signature = present(here, device, b"r" * 32)
    shown = Presentation(device.public, b"r" * 32)
    check_present(here, shown, signature)
    for channel in (
        Channel("montague.example", b"n" * 16, b"e" * 32),
        Channel(DOMAIN, b"m" * 16, b"e" * 32),
        Channel(DOMAIN, b"n" * 16, b"f" * 32),
    ):
        with pytest.raises(TrustFault):
            check_present(channel, shown, signature)
    for other in (
        Presentation(device.public, None),
        Presentation(device.public, b"s" * 32),
        Presentation(DevicePrivate.generate().public, b"r" * 32),
    ):
        with pytest.raises(TrustFault):
            check_present(here, other, signature)


def test_i3_the_gates_proof_binds_time_and_device(server: RootPrivate) -> None:
    here = Channel(DOMAIN, b"n" * 16, b"e" * 32)
    shown = Presentation(DevicePrivate.generate().public, None)
    signature = server.sign_ed25519(presented_statement(here, shown, NOW))
    check_presented(here, shown, server.public, NOW, signature)
    with pytest.raises(TrustFault):
        check_presented(here, shown, server.public, NOW + 1, signature)
    with pytest.raises(TrustFault):
        check_presented(here, shown, RootPrivate.generate().public, NOW, signature)
