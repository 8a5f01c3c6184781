"""Tillies on their way through real gates to a real Prosody."""

from __future__ import annotations

import datetime
import json
import re
import signal

import pytest

from ..support.bed import Bed
from ..support.gate import Gate
from ..support.raw import RawClient, RefusedError, text_of
from ..support.tillie import Tillie
from ..support.waiting import until

ALICE, BOB = "alice@a.test", "bob@b.test"
REGISTER = "jabber:iq:register"


def gated(bed: Bed, *accounts: str) -> Gate:
    """A Prosody that takes clients without TLS, and a gate before both its domains."""
    bed.start(*accounts, require_encryption=False)
    return bed.gate()


def behind(bed: Bed, gate: Gate, label: str) -> Tillie:
    """A Tillie that reaches both domains by way of the gate."""
    return bed.tillie(
        label,
        servers=dict.fromkeys(bed.domains, gate.port),
        tls=dict.fromkeys(bed.domains, "starttls"),
    )


def status(tillie: Tillie) -> dict[str, object]:
    [account] = tillie.json("status")["accounts"]
    return dict(account)


def published(tillie: Tillie) -> None:
    until(lambda: status(tillie)["published"], "the keys to be published", seconds=20)


def level(tillie: Tillie) -> str:
    return str(tillie.json("contacts")[0]["level"])


@pytest.fixture
def two(bed: Bed) -> tuple[Bed, Gate, Tillie, Tillie]:
    gate = gated(bed, ALICE, BOB)
    return bed, gate, behind(bed, gate, "ta"), behind(bed, gate, "tb")


def say(bed: Bed, sender: RawClient, to: str, reader: RawClient) -> None:
    secret = bed.canaries.secret()
    sender.say(to, secret)
    assert text_of(reader.message(secret, seconds=20)) == secret


def test_two_people_behind_gates_are_vouched_for(
    two: tuple[Bed, Gate, Tillie, Tillie],
) -> None:
    bed, _, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    say(bed, alice, BOB, bob)
    say(bed, bob, ALICE, alice)
    until(lambda: (level(ta), level(tb)) == ("vouched", "vouched"), "the levels")
    assert status(ta)["gate"] is True
    assert str(status(ta)["token_expires"]).endswith("Z")


def doctor(tillie: Tillie) -> dict[str, tuple[object, str, str]]:
    """Each row of `tillie doctor`, whatever its exit code."""
    done = tillie.command("doctor", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == (0 if all(row["ok"] for row in rows) else 1)
    return {row["check"]: (row["ok"], row["text"], row["hint"]) for row in rows}


def test_the_doctor_tells_of_the_gate(two: tuple[Bed, Gate, Tillie, Tillie]) -> None:
    bed, gate, ta, _ = two
    alice = bed.raw(ALICE, ta.port)
    published(ta)
    found = doctor(ta)
    assert [found[one][0] for one in ("gate", "gate-proof", "gate-token")] == [True] * 3
    [key] = re.findall(r"a\.test is known by key (\w{16})", gate.errors)
    assert f"its key {key}" in found["gate"][1]
    assert "proved at a login" in found["gate"][1]
    assert "the gate proved itself at the last login" in found["gate-proof"][1]
    assert f"vouches for {ALICE} until" in found["gate-token"][1]
    alice.close()
    # somebody else answers in its place
    gate.kill()
    other = bed.gate("other")
    ta.kill()
    ta.servers = dict.fromkeys(bed.domains, other.port)
    ta.start()
    with pytest.raises(RefusedError):
        bed.raw(ALICE, ta.port)
    wrong = doctor(ta)
    assert wrong["gate"][0] is False
    assert "another key was shown since" in wrong["gate"][1]
    assert "tillie forget a.test" in wrong["gate"][2]
    assert wrong["gate-proof"][0] is False
    assert "the password was not sent" in wrong["gate-proof"][1]


def test_rel_01_a_kill_is_resumed_through_the_gate(
    two: tuple[Bed, Gate, Tillie, Tillie],
) -> None:
    bed, _, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    say(bed, alice, BOB, bob)
    say(bed, bob, ALICE, alice)
    ta.kill()
    alice.close()
    secret = bed.canaries.secret()
    bob.say(ALICE, secret)
    bob.ping()
    ta.start()
    again = bed.raw(ALICE, ta.port)
    assert text_of(again.message(secret, seconds=20)) == secret
    say(bed, again, BOB, bob)


def test_i5_a_second_device_joins_through_the_gate(
    two: tuple[Bed, Gate, Tillie, Tillie],
) -> None:
    bed, gate, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    second = behind(bed, gate, "ta2")
    waiting = bed.raw(ALICE, second.port, resource="laptop")
    until(lambda: status(second)["state"] == "linking", "the state")
    code = ta.json("link")["code"]
    assert second.json("link", code) == {"joined": True}
    waiting.close()
    laptop = bed.raw(ALICE, second.port, resource="laptop")
    published(second)
    say(bed, bob, ALICE, laptop)
    say(bed, laptop, BOB, bob)
    device = next(one["id"] for one in second.json("devices") if one["this"])
    assert ta.command("devices", "remove", device).returncode == 0
    with pytest.raises((RefusedError, AssertionError)):
        bed.raw(ALICE, second.port, resource="laptop").ping(seconds=5)
    say(bed, alice, BOB, bob)
    joined_again(bed, ta, second)
    laptop = bed.raw(ALICE, second.port, resource="laptop")
    until(lambda: status(second)["state"] == "ready", "the second device", seconds=20)
    published(second)
    # by its first word the contact learns of it
    say(bed, laptop, BOB, bob)
    say(bed, bob, ALICE, laptop)
    assert device not in [one["id"] for one in second.json("devices") if one["this"]]


def joined_again(bed: Bed, first: Tillie, second: Tillie) -> None:
    """A removed device, whose key the gate refuses, is linked under a new one (7.4)."""
    code = first.json("link")["code"]
    refused = second.command("link", code)
    assert refused.returncode == 1
    assert "say tillie link CODE once more" in refused.stderr
    waiting = bed.raw(ALICE, second.port, resource="laptop")
    until(lambda: status(second)["state"] == "linking", "the state", seconds=20)
    assert second.json("link", code) == {"joined": True}
    waiting.close()


@pytest.mark.parametrize("killed", [False, True])
def test_an_account_gets_new_keys_signed_by_the_old_ones(
    two: tuple[Bed, Gate, Tillie, Tillie], killed: bool
) -> None:
    """3.10: the gate follows, the contact follows, and no client notices."""
    bed, gate, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    say(bed, alice, BOB, bob)
    say(bed, bob, ALICE, alice)
    before = status(ta)["fingerprint"]
    if killed:
        # written down, and killed before anything of it is shown
        gate.kill()
        told = ta.json("devices", "rollover")
        assert told["done"] is False
        assert status(ta)["fingerprint"] == before
        ta.kill()
        alice.close()
        gate.start()
        ta.start()
        alice = bed.raw(ALICE, ta.port)
        until(lambda: status(ta)["fingerprint"] != before, "the new keys", seconds=90)
        # his stream was cut too, and comes back when it comes back
        bob.close()
        bob = bed.raw(BOB, tb.port)
    else:
        told = ta.json("devices", "rollover")
        assert told["done"] is True
    assert told["before"] == before
    assert status(ta)["fingerprint"] == told["fingerprint"] != before
    say(bed, alice, BOB, bob)
    say(bed, bob, ALICE, alice)
    [row] = tb.json("contacts")
    assert row["fingerprint"] == told["fingerprint"]
    assert row["level"] == "vouched"
    texts = [one["text"] for one in tb.json("notices")]
    assert any("the old ones vouch for the new" in text for text in texts)


def test_auth_10_a_gate_with_another_key_gets_no_password(
    two: tuple[Bed, Gate, Tillie, Tillie],
) -> None:
    """Its certificate is good: only the pinned key tells that it is another gate."""
    bed, gate, ta, _ = two
    bed.raw(ALICE, ta.port)
    published(ta)
    gate.kill()
    other = bed.gate("other")
    ta.kill()
    ta.servers = dict.fromkeys(bed.domains, other.port)
    ta.start()
    with pytest.raises(RefusedError) as refused:
        bed.raw(ALICE, ta.port)
    assert "another key than before" in str(refused.value)
    assert "tillie forget a.test" in str(refused.value)


def test_an_account_is_registered_by_a_client_that_knows_no_keys(bed: Bed) -> None:
    bed.start(
        require_encryption=False,
        options="allow_registration = true\nmin_seconds_between_registrations = 0\n",
    )
    gate = bed.gate()
    tillie = behind(bed, gate, "ta")
    password, changed = bed.canaries.secret(), bed.canaries.secret()
    client = RawClient(tillie.port, "a.test")
    features = client.open_stream()
    assert features.find("{http://jabber.org/features/iq-register}register") is not None
    form = client.ask("get", f"<query xmlns='{REGISTER}'/>", seconds=20)
    names = {one.get("var") for one in form.iter("{jabber:x:data}field")}
    assert "urn:x-tillie:key:0#fingerprint" not in names
    filled = f"<username>carol</username><password>{password}</password>"
    query = f"<query xmlns='{REGISTER}'>{filled}</query>"
    assert client.ask("set", query, seconds=20).get("type") == "result"
    client.close()
    assert "carol@a.test registered" in gate.errors
    carol = RawClient(tillie.port, "a.test").login("carol@a.test", password)
    published(tillie)
    assert status(tillie)["gate"] is True
    # the key of the registration is the one that is vouched for
    assert "first key" not in gate.errors.partition("carol@a.test registered")[2]
    filled = f"<username>carol</username><password>{changed}</password>"
    query = f"<query xmlns='{REGISTER}'>{filled}</query>"
    assert carol.ask("set", query, seconds=20).get("type") == "result"
    carol.close()
    again = RawClient(tillie.port, "a.test").login("carol@a.test", changed)
    query = f"<query xmlns='{REGISTER}'><remove/></query>"
    assert again.ask("set", query, seconds=20).get("type") == "result"
    again.close()
    # they stand in the server's account store, where passwords are not hashed
    bed.canaries.secrets.remove(password)
    bed.canaries.secrets.remove(changed)


def test_a_gates_next_key_is_followed(two: tuple[Bed, Gate, Tillie, Tillie]) -> None:
    """Also by tokens: one that the old key signed would not count any more."""
    bed, gate, ta, tb = two
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    say(bed, alice, BOB, bob)
    alice.close()
    for domain in bed.domains:
        done = gate.command("gate", "rotate", "--now", "--domain", domain)
        assert done.returncode == 0, done.stderr
    gate.kill()
    gate.start()
    again = bed.raw(ALICE, ta.port)
    say(bed, bob, ALICE, again)
    texts = [one["text"] for one in ta.json("notices")]
    assert any("a.test changed its key" in one for one in texts)


def test_rel_23_a_certificate_that_is_replaced_by_a_bad_one(bed: Bed) -> None:
    """Whoever is in stays in and writes on; who comes anew is told why not, and gets
    in when it is good again."""
    bed.start(ALICE, BOB, require_encryption=False)
    names = ("a.test", "b.test")
    leaf = bed.authority.leaf(*names, label="gate")
    gate = bed.gate(leaves=dict.fromkeys(names, leaf))
    ta, tb = behind(bed, gate, "ta"), behind(bed, gate, "tb")
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    say(bed, alice, BOB, bob)
    bed.authority.leaf(*names, label="gate", lasts=-datetime.timedelta(hours=1))
    reload(gate)
    assert "nobody new gets in" in gate.errors
    say(bed, bob, ALICE, alice)
    alice.close()
    with pytest.raises(RefusedError) as refused:
        bed.raw(ALICE, ta.port)
    assert "expired" in str(refused.value)
    bed.authority.leaf(*names, label="gate")
    reload(gate)
    again = bed.raw(ALICE, ta.port)
    say(bed, again, BOB, bob)


def reload(gate: Gate) -> None:
    """SIGHUP, and wait until it is done."""
    before = gate.errors.count("configuration reloaded")
    gate.send_signal(signal.SIGHUP)
    until(
        lambda: gate.errors.count("configuration reloaded") > before,
        "the gate's reload",
    )
