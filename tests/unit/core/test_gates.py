"""Logging in by way of a gate: who proves what, and what the client is told."""

from __future__ import annotations

from typing import cast
from xml.etree.ElementTree import SubElement

import pytest

from proxy.core.directory import KEY, record, record_item
from proxy.core.identity import Standing
from proxy.core.phase import Phase
from proxy.core.servers import Shown
from proxy.core.streams import header
from proxy.errors import Fault, TrustFault
from proxy.gate.judging import code_digest
from proxy.gate.questions import Refused
from proxy.keys import servers, tokens
from proxy.keys.documents import make_doc
from proxy.keys.manifest import open_manifest
from proxy.keys.registry import Enrolment, Reset
from proxy.keys.tokens import TOKEN_MS
from proxy.rules import envelope
from proxy.suites.fields import b64
from tests.support.gated import Domain, GatedWorld
from tests.support.persons import Person
from tests.support.simulator import (
    ALICE,
    BOB,
    DAY,
    Client,
    Tillie,
    link,
    sealed,
)

from ..gate.staging import plain

A = "a.test"


def failure(client: Client) -> str:
    """What the client was told of a login that failed."""
    return client.raw.decode().rpartition("<failure")[2]


def entered() -> tuple[GatedWorld, Tillie, Client]:
    world = GatedWorld()
    tillie = world.tillie()
    return world, tillie, world.login(tillie, ALICE)


# -- before login ---------------------------------------------------------------------


def test_the_first_login_makes_keys_that_are_vouched_for() -> None:
    world, tillie, alice = entered()
    account = tillie.account(ALICE)
    assert account.identity.standing is Standing.READY
    token = account.token.current
    assert token is not None
    assert token.covers(account.identity.manifest)
    assert alice.session.phase is Phase.LIVE
    assert world.domain(A).vouches == ["manifest"]
    assert b"<jid>alice@a.test/one</jid>" in alice.raw


def test_the_client_is_bound_only_when_the_gate_has_vouched() -> None:
    world, tillie, alice = entered()
    alice.close()
    world.domain(A).bug = "mute"
    client = world.login(tillie, ALICE)
    raw = bytes(world.gate_line(client).raw)
    # the device was shown, then the password, then the vouching
    order = [raw.index(one) for one in (b"<present", b"<auth", b"<vouch")]
    assert order == sorted(order)
    assert b"<success" in client.raw
    assert b"<jid>" not in client.raw
    assert b"<enable" not in raw


@pytest.mark.parametrize("bug", ["unproved", "other-key", "other-exporter"])
@pytest.mark.parametrize("known", [True, False], ids=["pinned", "first-time"])
def test_auth_10_no_password_goes_to_a_gate_that_does_not_prove_itself(
    bug: str, known: bool
) -> None:
    world = GatedWorld()
    tillie = world.tillie()
    if known:
        world.login(tillie, ALICE).close()
    before = world.domain(A).passwords
    world.domain(A).bug = bug
    client = world.login(tillie, ALICE)
    assert world.domain(A).passwords == before
    assert b"<auth" not in world.gate_line(client).raw
    assert "the password was not sent" in failure(client)
    assert not client.bodies


def test_auth_10_no_document_and_no_pin_is_no_proof() -> None:
    world = GatedWorld()
    world.domain(A).bug = "no-document"
    client = world.login(world.tillie(), ALICE)
    assert world.domain(A).passwords == 0
    assert "did not prove" in failure(client)


def test_tls_without_an_exporter_sends_no_password() -> None:
    world = GatedWorld()
    world.tls13 = False
    client = world.login(world.tillie(), ALICE)
    assert world.domain(A).passwords == 0
    assert "TLS 1.3" in failure(client)


def test_a_domain_that_had_a_gate_is_never_entered_without() -> None:
    world, tillie, alice = entered()
    alice.close()
    world.domain(A).gone = True
    client = world.login(tillie, ALICE)
    assert b"<auth" not in world.gate_line(client).raw
    assert "had a gate" in failure(client)
    assert "tillie forget a.test" in failure(client)
    # nor by another account of this Tillie
    other = world.login(tillie, f"carol@{A}")
    assert b"<auth" not in world.gate_line(other).raw
    tillie.command("forget", jid=A)
    assert world.login(tillie, ALICE).session.phase is Phase.LIVE


def test_dir_06_a_gates_new_key_stops_the_login() -> None:
    world, tillie, alice = entered()
    alice.close()
    passwords = world.domain(A).passwords
    world.domain(A).replace_key()
    client = world.login(tillie, ALICE)
    assert world.domain(A).passwords == passwords
    assert "another key than before" in failure(client)
    notices = tillie.command("notices", account=ALICE)
    assert any("another key" in one["text"] for one in notices)  # type: ignore[index,union-attr,attr-defined]


def test_a_rollover_is_followed_and_told() -> None:
    world, tillie, alice = entered()
    alice.close()
    world.domain(A).roll_over()
    client = world.login(tillie, ALICE)
    assert client.session.phase is Phase.LIVE
    assert any("changed its key" in one for one in _notices(tillie))
    assert tillie.house.servers.pin(A).held.keys == world.domain(A).key.public  # type: ignore[union-attr]


def test_a_clock_that_is_off_is_told() -> None:
    world = GatedWorld()
    world.domain(A).skew = 6 * 60 * 1000
    tillie = world.tillie()
    assert world.login(tillie, ALICE).session.phase is Phase.LIVE
    assert any("clock" in one for one in _notices(tillie))


def _notices(tillie: Tillie, jid: str = ALICE) -> list[str]:
    rows = tillie.command("notices", account=jid)
    return [one["text"] for one in rows]  # type: ignore[attr-defined]


# -- behind binding -------------------------------------------------------------------


def test_what_the_client_sends_meanwhile_is_not_lost() -> None:
    world, tillie, alice = entered()
    alice.close()
    bob = world.login(world.tillie(), BOB)
    world.domain(A).bug = "mute"
    alice = world.login(tillie, ALICE)
    alice.say(BOB, "sent early")
    assert alice.session.phase is Phase.VOUCHING
    assert bob.bodies == []
    world.domain(A).bug = ""
    line = world.gate_line(alice)
    line._vouched(line.judged)
    world.settle()
    assert bob.bodies == ["sent early"]
    assert not world.refused


def test_a_manifest_that_the_gate_lost_is_sent_when_it_is_wanted() -> None:
    world, tillie, alice = entered()
    alice.close()
    held = world.domain(A)
    held.registry = type(held.registry)()
    client = world.login(tillie, ALICE)
    assert client.session.phase is Phase.LIVE
    assert held.vouches == ["manifest", "digest", "manifest"]


def test_a_false_token_ends_the_stream() -> None:
    world = GatedWorld()
    world.domain(A).bug = "bad-token"
    client = world.login(world.tillie(), ALICE)
    assert client.closed
    assert b"<jid>" not in client.raw
    assert b"does not vouch" in client.raw


def test_a_silent_gate_ends_the_stream_in_time() -> None:
    world = GatedWorld()
    world.domain(A).bug = "mute"
    client = world.login(world.tillie(), ALICE)
    assert client.session.phase is Phase.VOUCHING
    assert not client.closed
    world.wait(31_000)
    assert client.closed
    assert b"<jid>" not in client.raw
    assert b"did not answer in 30 s" in client.raw


def test_keys_that_the_gate_does_not_hold_are_refused_in_words() -> None:
    world, _, alice = entered()
    alice.close()
    other = world.tillie()
    # somebody else's keys are published nowhere: this one makes its own
    world.pep.clear()
    client = world.login(other, ALICE, "two")
    assert client.closed
    assert b"holds another key" in client.raw
    assert not other.account(ALICE).identity.has_manifest
    # and from now on it waits to be linked
    again = world.login(other, ALICE, "two")
    assert again.session.phase is Phase.LINKING


# -- levels, records, renewal -----------------------------------------------------------


def rows(tillie: Tillie, name: str = "contacts") -> list[dict[str, object]]:
    found = tillie.command(name)
    assert isinstance(found, list)
    return found


def friends() -> tuple[GatedWorld, Tillie, Client, Tillie, Client]:
    world, a, alice = entered()
    b = world.tillie()
    bob = world.login(b, BOB)
    alice.say(BOB, "hello")
    bob.say(ALICE, "hello yourself")
    assert bob.bodies == ["hello"]
    assert alice.bodies == ["hello yourself"]
    return world, a, alice, b, bob


def test_contacts_are_vouched_for_by_their_domains() -> None:
    _, a, _, b, _ = friends()
    assert [row["level"] for row in rows(a)] == ["vouched"]
    assert [row["level"] for row in rows(b)] == ["vouched"]


def test_the_record_holds_token_and_domain_document() -> None:
    world, a, _ = entered()
    record = world.pep[ALICE, KEY]["current"][0]
    token = record.findtext(f"{{{KEY}}}token")
    assert token == a.account(ALICE).token.current.document  # type: ignore[union-attr]
    document = record.findtext(f"{{{KEY}}}server/{{{KEY}}}document")
    assert document == world.domain(A).document


def test_status_tells_of_the_gate() -> None:
    world, a, _ = entered()
    [row] = rows(a, "accounts")
    assert row["gate"] is True
    expires = row["token_expires"]
    assert isinstance(expires, str)
    assert expires.endswith("Z")
    assert expires > "2025-06-1"
    assert world.now + TOKEN_MS - 2_000 <= a.account(ALICE).token.current.expires  # type: ignore[union-attr]


def test_rel_22_an_expired_token_lowers_the_level_and_stops_nothing() -> None:
    world, a, alice, _, bob = friends()
    bob.close()
    world.now += 8 * DAY
    alice.say(BOB, "still sealed")
    assert rows(a)[0]["level"] == "seen"
    assert len(sealed(alice.upstream.stanzas)) == 2


def test_rel_22_a_token_with_less_than_two_days_left_is_renewed() -> None:
    world, a, alice = entered()
    first = a.account(ALICE).token.current
    assert first is not None
    world.now += 4 * DAY
    world.wait(3_000)
    assert a.account(ALICE).token.current == first
    world.now += DAY + 3_600_000
    world.wait(3_000)
    second = a.account(ALICE).token.current
    assert second is not None
    assert second.expires > first.expires
    record = world.pep[ALICE, KEY]["current"][0]
    assert record.findtext(f"{{{KEY}}}token") == second.document
    assert alice.session.phase is Phase.LIVE


def test_a_gate_that_says_nothing_is_asked_again_and_the_stream_goes_on() -> None:
    world, a, alice = entered()
    world.domain(A).bug = "mute"
    world.now += 6 * DAY
    world.wait(200_000)
    asked = len(world.domain(A).vouches)
    assert 2 <= asked <= 6
    assert alice.session.phase is Phase.LIVE
    world.domain(A).bug = ""
    world.wait(400_000)
    token = a.account(ALICE).token.current
    assert token is not None
    assert token.expires > world.now + 6 * DAY


def test_a_reset_is_objected_to_and_told() -> None:
    world, a, alice = entered()
    alice.close()
    due = world.now + 3 * DAY
    registry = world.domain(A).registry
    with registry.transaction():
        registry.put_reset(Reset(ALICE, world.now, due, forced=False))
    again = world.login(a, ALICE)
    assert world.objections == [ALICE]
    assert any("objected" in one for one in again.notices + _notices(a))
    with registry.transaction():
        assert registry.reset(ALICE) is None


# -- devices ------------------------------------------------------------------------------


def two_devices() -> tuple[GatedWorld, Tillie, Client, Tillie]:
    world, a, alice = entered()
    other = world.tillie()
    waiting = world.login(other, ALICE, "two")
    assert waiting.session.phase is Phase.LINKING
    link(a, other, ALICE)
    assert waiting.closed
    assert b"linked to the account now; connect again" in waiting.raw
    return world, a, alice, other


def test_i5_a_second_device_waits_to_be_linked() -> None:
    world, _, _ = entered()
    other = world.tillie()
    client = world.login(other, ALICE, "two")
    assert client.session.phase is Phase.LINKING
    assert b"<jid>alice@a.test/two</jid>" in client.raw
    client.say(BOB, "not yet", ident="m1")
    [error] = [one for one in client.errors if one.get("id") == "m1"]
    assert "tillie link" in "".join(error.itertext())
    assert any("tillie link CODE here" in one for one in client.notices)
    # nothing of it reached the server, and nothing was sent for the gate to refuse
    assert not world.refused
    assert b"not yet" not in world.wire


def test_i5_linking_goes_through_the_gate() -> None:
    world, a, alice, other = two_devices()
    again = world.login(other, ALICE, "two")
    assert again.session.phase is Phase.LIVE
    assert len(a.account(ALICE).identity.manifest.active) == 2
    bob = world.login(world.tillie(), BOB)
    bob.say(ALICE, "to both")
    assert alice.bodies == ["to both"]
    assert again.bodies == ["to both"]
    again.say(BOB, "from the second")
    assert bob.bodies == ["from the second"]
    assert world.domain(A).registry._rows.account[ALICE].seq == 2


def test_a_changed_manifest_is_vouched_for_before_it_is_published() -> None:
    world, a, _, other = two_devices()
    world.login(other, ALICE, "two")
    published: list[tuple[str, int]] = []

    def watch(stream: object, stanza: object) -> None:
        text = "".join(stanza.itertext())  # type: ignore[attr-defined]
        if "tillie-" in str(stanza.get("id", "")) and "payload" in text:  # type: ignore[attr-defined]
            published.append(("publish", len(world.domain(A).vouches)))

    world.leaving = watch  # type: ignore[assignment]
    before = len(world.domain(A).vouches)
    device = other.account(ALICE).identity.device
    a.command("devices-remove", id=device.id.hex(), account=ALICE)
    assert published
    assert published[0][1] > before
    held = world.domain(A).registry._rows.account[ALICE]
    assert device.public in held.removed
    token = a.account(ALICE).token.current
    assert token is not None
    assert token.covers(a.account(ALICE).identity.manifest)


def test_a_removed_device_is_refused_in_words() -> None:
    world, a, _, other = two_devices()
    device = other.account(ALICE).identity.device
    a.command("devices-remove", id=device.id.hex(), account=ALICE)
    client = world.login(other, ALICE, "two")
    assert client.session.phase is not Phase.LIVE
    assert b"<jid>" not in client.raw


# -- resumption -----------------------------------------------------------------------------


def test_a_cut_line_is_resumed_through_the_gate() -> None:
    world, _, alice, _, bob = friends()
    world.break_line(alice)
    assert alice.session.phase is Phase.LIVE
    assert world.gate_line(alice).raw.count(b"<present") == 1
    assert b"<vouch" not in world.gate_line(alice).raw
    alice.say(BOB, "after the cut")
    assert bob.bodies[-1] == "after the cut"


def test_rel_01_a_killed_tillie_fetches_what_came_through_the_gate() -> None:
    world, a, alice, _, bob = friends()
    old = world.line(alice)
    a.restart()
    bob.say(ALICE, "while it was dead")
    again = world.login(a, ALICE)
    assert world.resumed == [old.previd]
    assert again.bodies == ["while it was dead"]


def test_the_token_is_renewed_on_a_resumed_stream() -> None:
    world, a, alice, _, _ = friends()
    world.break_line(alice)
    world.now += 6 * DAY
    world.wait(3_000)
    token = a.account(ALICE).token.current
    assert token is not None
    assert token.expires > world.now + 6 * DAY


# -- a gate that refuses; one that lies is test_lying_gate's ---------------------------------


def test_a_refusal_on_an_open_stream_ends_it_with_the_gates_words() -> None:
    world, _, alice = entered()
    world.verdict = Refused("unknown-device", "this device was removed")
    world.now += 6 * DAY
    world.wait(3_000)
    assert alice.closed
    assert b"this device was removed" in alice.raw


# -- the token inside the seal ----------------------------------------------------------------


def plaintexts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is sealed from now on."""
    kept: list[bytes] = []
    write = envelope.write

    def writing(one: envelope.Envelope, now: int) -> bytes:
        kept.append(write(one, now))
        return kept[-1]

    monkeypatch.setattr(envelope, "write", writing)
    return kept


def test_i9_the_first_message_of_a_lane_brings_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, a, alice = entered()
    bob = world.login(world.tillie(), BOB)
    kept = plaintexts(monkeypatch)
    alice.say(BOB, "one")
    alice.say(BOB, "two")
    assert bob.bodies == ["one", "two"]
    token = a.account(ALICE).token.current
    assert token is not None
    # the first is written once without and once with the token, which left
    assert [token.document.encode() in one for one in kept] == [False, True, False]
    name = b" token='" + b64(token.digest[:16]).encode() + b"'"
    assert all(name in one for one in kept)


def test_a_message_that_has_no_room_for_the_token_goes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, _, alice = entered()
    bob = world.login(world.tillie(), BOB)
    kept = plaintexts(monkeypatch)
    alice.say(BOB, "x" * 36_000)
    assert [len(one) for one in bob.bodies] == [36_000]
    assert max(map(len, kept)) > 40_960


def test_a_token_in_a_seal_raises_the_level_again() -> None:
    world, a, alice, b, bob = friends()
    world.now += 6 * DAY
    world.wait(70_000)
    renewed = a.account(ALICE).token.current
    assert renewed is not None
    # bob's last look-up is old, and PEP answers nothing any more
    world.now += 2 * DAY
    world.pep_answers[ALICE, KEY] = "service-unavailable"
    assert rows(b)[0]["level"] == "seen"
    alice.say(BOB, "on a new lane")
    assert bob.bodies[-1] == "on a new lane"
    assert rows(b)[0]["level"] == "vouched"


# -- whose word a domain's key is -----------------------------------------------------------


def false_document(world: GatedWorld, name: str) -> str:
    return Domain(name, world.now).document


def with_server(world: GatedWorld, jid: str, document: str) -> None:
    """What *jid* publishes names another key as its domain's."""
    record = world.pep[jid, KEY]["current"][0]
    found = record.find(f"{{{KEY}}}server/{{{KEY}}}document")
    assert found is not None
    found.text = document


def test_dir_05_a_users_record_does_not_gate_a_domain() -> None:
    """Anybody with an account can publish whatever he likes as its domain's key."""
    world = GatedWorld()
    world.domain("b.test").gone = True
    mallory = f"mallory@{'b.test'}"
    m, a = world.tillie(), world.tillie()
    world.login(m, mallory)
    record = world.pep[mallory, KEY]["current"][0]
    server = SubElement(record, f"{{{KEY}}}server")
    SubElement(server, f"{{{KEY}}}document").text = false_document(world, "b.test")
    alice = world.login(a, ALICE)
    alice.say(mallory, "hello")
    assert a.house.servers.pin("b.test") is not None
    assert not a.house.servers.gated("b.test")
    # an account of that domain logs in here as ever, without a gate
    assert world.login(a, BOB).session.phase is Phase.LIVE


def test_dir_06_a_record_cannot_move_or_alarm_a_proved_pin() -> None:
    world, a, alice = entered()
    world.login(world.tillie(), f"carol@{A}")
    with_server(world, f"carol@{A}", false_document(world, A))
    before = a.house.servers.pin(A)
    alice.say(f"carol@{A}", "hello")
    assert a.house.servers.pin(A) == before
    assert rows(a)[0]["level"] == "vouched"
    alice.close()
    assert world.login(a, ALICE).session.phase is Phase.LIVE


def test_dir_06_two_records_that_disagree_on_a_domain_count_for_nothing() -> None:
    world, a, alice = entered()
    for name in ("bob", "carol"):
        world.login(world.tillie(), f"{name}@b.test")
    with_server(world, "carol@b.test", false_document(world, "b.test"))
    alice.say(BOB, "hello")
    assert rows(a)[0]["level"] == "vouched"
    alice.say("carol@b.test", "hello")
    assert {row["level"] for row in rows(a)} == {"seen"}
    assert any("another key" in one for one in _notices(a))


@pytest.mark.parametrize("what", ["other-domain", "other-account", "other-manifest"])
def test_dir_01_a_token_about_somebody_else_does_not_count(what: str) -> None:
    world, a, alice = entered()
    bob = world.login(world.tillie(), BOB)
    carol = Person("carol@b.test")
    jid = {"other-account": carol.jid}.get(what, BOB)
    manifest = Person(jid).manifest
    key = world.domain(A).key if what == "other-domain" else world.domain("b.test").key
    if what == "other-domain":
        text = world.pep[BOB, KEY]["current"][0].findtext(f"{{{KEY}}}manifest") or ""
        manifest = open_manifest(text.encode(), BOB)
    claims = tokens.token_claims(manifest, bytes(16), world.now)
    record = world.pep[BOB, KEY]["current"][0]
    found = record.find(f"{{{KEY}}}token")
    assert found is not None
    found.text = make_doc(claims, tokens.TYP, key)
    bob.close()
    alice.say(BOB, "hello")
    assert rows(a)[0]["level"] == "seen"


def test_a_gates_key_that_changes_under_an_open_stream_is_followed() -> None:
    """The new token is by a key that was not proved here yet: the stream comes back,
    the gate proves itself, and the client notices nothing."""
    world, a, alice, _, bob = friends()
    world.domain(A).roll_over()
    world.now += 6 * DAY
    world.wait(70_000)
    token = a.account(ALICE).token.current
    assert token is not None
    assert token.expires > world.now + 6 * DAY
    assert a.house.servers.pin(A).held.keys == world.domain(A).key.public  # type: ignore[union-attr]
    assert not alice.closed
    alice.say(BOB, "on the same stream")
    assert bob.bodies[-1] == "on the same stream"


def test_two_documents_with_one_number_are_told_and_the_first_stays() -> None:
    world, a, alice = entered()
    alice.close()
    before = a.house.servers.pin(A)
    assert before is not None
    domain = world.domain(A)
    claims = servers.server_claims(
        A, domain.seq, domain.key.public, world.now, directory=f"keys.{A}"
    )
    domain.document = make_doc(claims, servers.SERVER, domain.key)
    again = world.login(a, ALICE)
    # the key is the pinned one, and proved: the login goes on
    assert again.session.phase is Phase.LIVE
    held = a.house.servers.pin(A)
    assert held is not None
    assert held.held == before.held
    assert held.alarm == "server-fork"
    assert any("the same number" in one for one in _notices(a))


def test_a_record_that_would_be_too_large_goes_without_the_domains_document() -> None:
    """Everybody can ask the domain for that (13.3)."""
    world, a, _ = entered()
    account = a.account(ALICE)
    manifest = account.identity.manifest
    token, server = account.token.for_record(manifest)
    assert server is not None
    large = Shown(server.document + " " * 40_000)
    item = record_item(manifest, token, large)
    assert item.find(f".//{{{KEY}}}token") is not None
    assert item.find(f".//{{{KEY}}}server") is None
    found = record(record_item(manifest, token, server)[0], ALICE)
    assert (found.manifest, found.token, found.server) == (manifest, token, server)
    assert world.domain(A).document == server.document


def test_a_second_stream_of_the_account_is_vouched_for_too() -> None:
    world, a, alice = entered()
    second = world.login(a, ALICE, "two")
    assert second.session.phase is Phase.LIVE
    assert world.domain(A).vouches == ["manifest", "digest"]
    bob = world.login(world.tillie(), BOB)
    bob.say(ALICE, "to both streams")
    assert alice.bodies == second.bodies == ["to both streams"]


def test_a_first_key_is_taken_only_with_the_code_that_was_given_out() -> None:
    world, code = GatedWorld(), "ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-Z"
    registry = world.domain(A).registry
    with registry.transaction():
        registry.put_enrolment(Enrolment(ALICE, code_digest(ALICE, code), world.now))
    stranger, tillie = world.tillie(), world.tillie()
    assert world.login(stranger, ALICE).closed
    assert ALICE not in registry._rows.account
    with pytest.raises(TrustFault):
        tillie.command("enrol", jid=ALICE, code="no code")
    tillie.command("enrol", jid=ALICE, code=f" {code.lower()} ")
    assert world.login(tillie, ALICE).session.phase is Phase.LIVE
    assert tillie.account(ALICE).token.code == ""


# -- a device that was removed, or that its account left behind ----------------------------


@pytest.mark.parametrize("online", [True, False])
def test_i08_a_removed_device_joins_again_through_the_gate(online: bool) -> None:
    """The gate lets its old key not even log in: the new one is made before that."""
    world, a, _, other = two_devices()
    device = other.account(ALICE).identity.device
    if online:
        client = world.login(other, ALICE, "two")
        assert client.session.phase is Phase.LIVE
        client.close()
    a.command("devices-remove", id=device.id.hex(), account=ALICE)
    assert world.login(other, ALICE, "two").session.phase is not Phase.LIVE
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    with pytest.raises(Fault) as fault:
        other.command("link", account=ALICE, code=code)
    assert "say tillie link CODE once more" in fault.value.hint
    client = world.login(other, ALICE, "two")
    assert client.session.phase is Phase.LINKING
    assert other.command("link", account=ALICE, code=code) == {"joined": True}
    assert world.login(other, ALICE, "two").session.phase is Phase.LIVE
    assert other.account(ALICE).identity.device.public != device.public
    assert device.public in world.domain(A).registry._rows.account[ALICE].removed


def test_a_refused_login_does_not_keep_what_was_cut_from_the_next() -> None:
    """Its client stays connected, as one that asks for another password does."""
    world, a, _, other = two_devices()
    world.login(other, ALICE, "two")
    other.restart()
    device = other.account(ALICE).identity.device
    a.command("devices-remove", id=device.id.hex(), account=ALICE)
    session = other.house.session(tls_available=False, secure=False)
    refused = other.clients[session] = Client(other, session)
    refused.send(header(to=A))
    refused.send(plain("alice", "secret-of-alice"))
    assert b"not-authorized" in refused.raw
    assert session.phase is Phase.LOGIN
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    with pytest.raises(Fault):
        other.command("link", account=ALICE, code=code)
    assert world.login(other, ALICE, "two").session.phase is Phase.LINKING


@pytest.mark.parametrize("tried", ["nothing", "no answer"])
def test_i08_a_device_that_no_gate_has_refused_keeps_its_key(tried: str) -> None:
    """Its client is away, and it is told a code: the wrong one, or on the wrong one of
    two computers."""
    world, _, _, other = two_devices()
    world.login(other, ALICE, "two").close()
    device = other.account(ALICE).identity.device.public
    if tried == "no answer":
        world.domain(A).bug = "unproved"
        world.login(other, ALICE, "two")
        world.domain(A).bug = ""
    with pytest.raises(Fault) as fault:
        other.command("link", account=ALICE, code="AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-A")
    assert "log in with your client" in fault.value.hint
    assert other.account(ALICE).identity.device.public == device
    assert world.login(other, ALICE, "two").session.phase is Phase.LIVE


def test_i08_a_device_whose_open_stream_the_gate_ended_joins_again() -> None:
    """It was online when it was removed; its client has not tried to come back."""
    world, a, _, other = two_devices()
    online = world.login(other, ALICE, "two")
    device = other.account(ALICE).identity.device
    a.command("devices-remove", id=device.id.hex(), account=ALICE)
    world.gate_line(online)._say(Refused("unknown-device", "it was removed"))
    online.close()
    code = cast("dict[str, str]", a.command("link", account=ALICE))["code"]
    with pytest.raises(Fault):
        other.command("link", account=ALICE, code=code)
    assert world.login(other, ALICE, "two").session.phase is Phase.LINKING
    assert other.command("link", account=ALICE, code=code) == {"joined": True}


def test_the_device_with_the_root_never_starts_over_for_a_code() -> None:
    _, a, alice = entered()
    alice.close()
    before = a.account(ALICE).identity.device.public
    with pytest.raises(Fault):
        a.command("link", account=ALICE, code="AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-A")
    assert a.account(ALICE).identity.device.public == before
    assert a.account(ALICE).identity.owner
