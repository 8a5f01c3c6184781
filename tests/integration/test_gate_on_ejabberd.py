"""Gates in front of an unmodified ejabberd, with the lines that Tillie prints for it."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest

from ..support.bed import Bed
from ..support.clients import Mcabber, Profanity
from ..support.ejabberd import Ejabberd
from ..support.federation import directory, printed
from ..support.gate import Gate
from ..support.persons import Person
from ..support.raw import RawClient, RefusedError, StreamEndedError, text_of
from ..support.tillie import Tillie
from ..support.waiting import until

ALICE, BOB, CAROL = "alice@a.test", "bob@b.test", "carol@a.test"
REGISTER = "jabber:iq:register"
FORM = "jabber:x:data"
FIELD = "urn:x-tillie:key:0#fingerprint"

# Debian's line, without its 10 minutes between two registrations of one address
_REGISTRATION = """\
  mod_register:
    ip_access: loopback
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def gate(bed: Bed) -> Gate:
    """An ejabberd for both domains that no client reaches but by this gate."""
    lines = printed("ejabberd", *bed.domains)
    server = Ejabberd(bed.folder / "ejabberd", bed.leaf, bed.domains, behind_gate=lines)
    text = server.configuration.replace("modules:\n", f"modules:\n{_REGISTRATION}")
    text = text.replace("loglevel:", "registration_timeout: infinity\nloglevel:")
    server.configuration = text.replace(
        "access_rules:\n", "access_rules:\n  loopback:\n    allow: loopback\n"
    )
    bed.server = server  # type: ignore[assignment]
    server.start()
    arguments = [*directory(lines, bed.folder / "gate"), "--proxy-protocol", "v2"]
    made = bed.gate(arguments=arguments)
    for domain in bed.domains:
        until(
            lambda name=domain: f"keys.{name} is there" in made.errors,
            "the directories to be there",
            seconds=30,
        )
    return made


@pytest.fixture
def tillie(bed: Bed, gate: Gate) -> Callable[[str], Tillie]:
    """Makes a Tillie that reaches both domains by way of the gate."""

    def make(label: str) -> Tillie:
        ports = dict.fromkeys(bed.domains, gate.port)
        return bed.tillie(label, servers=ports, tls=dict.fromkeys(ports, "starttls"))

    return make


def published(one: Tillie) -> None:
    until(lambda: account(one)["published"], "the keys to be published", seconds=30)


def account(one: Tillie) -> dict[str, object]:
    [only] = one.json("status")["accounts"]
    return dict(only)


def level(one: Tillie) -> str:
    return str(one.json("contacts")[0]["level"])


def query(inside: str) -> str:
    return f"<query xmlns='{REGISTER}'>{inside}</query>"


def filled(name: str, password: str) -> str:
    return query(f"<username>{name}</username><password>{password}</password>")


def fields(form: Element) -> set[str | None]:
    return {one.get("var") for one in form.iter(f"{{{FORM}}}field")}


def test_the_plans_words_two_people_and_a_third_without_tillie(
    bed: Bed, gate: Gate, tillie: Callable[[str], Tillie]
) -> None:
    """Unmodified clients: first keys, tokens, sealed both ways; the third is refused,
    and ejabberd hears of each client's own address (PROXY)."""
    for jid in (ALICE, BOB, CAROL):
        bed.account(jid)
    ta, tb = tillie("ta"), tillie("tb")
    alice = bed.keep(Mcabber(bed.home("alice"), ALICE, bed.passwords[ALICE], ta.port))
    bob = bed.keep(Profanity(bed.home("bob"), BOB, bed.passwords[BOB], tb.port))
    alice.login()
    bob.login()
    published(ta)
    published(tb)
    there, back = bed.canaries.secret(), bed.canaries.secret()
    alice.say(BOB, there)
    bob.sees(there, seconds=30)
    bob.say(ALICE, back)
    alice.sees(back, seconds=30)
    until(
        lambda: (level(ta), level(tb)) == ("vouched", "vouched"),
        "both levels",
        seconds=30,
    )
    for jid in (ALICE, BOB):
        assert f"first key of {jid} from 127.0.0.1" in gate.errors
    carol = bed.keep(
        Mcabber(bed.home("c"), CAROL, bed.passwords[CAROL], gate.port, tls=True)
    )
    assert "Authentication failed" in carol.refused()
    client = bed.at_gate(gate, CAROL, source="127.0.0.9")
    client.secure()
    with pytest.raises(RefusedError, match="Run Tillie on this computer"):
        client.authenticate(CAROL, bed.passwords[CAROL])
    assert "login refused from 127.0.0.9 (a.test)" in gate.errors
    person = bed.at_gate(gate, Person(CAROL), source="127.0.0.9")
    person.enter(bed.passwords[CAROL])
    until(lambda: "127.0.0.9" in bed.server.log, "the address in the log", seconds=30)


def test_an_account_is_made_changed_and_removed_for_good(
    bed: Bed, gate: Gate, tillie: Callable[[str], Tillie]
) -> None:
    """In-band (XEP-0077): the key field is there, for Tillie; the client knows nothing
    of it. What is removed leaves a tombstone: its device is never let in again, and
    whoever gets the name next brings a first key."""
    person = Person(CAROL)
    bare = bed.at_gate(gate, person, account=False)
    bare.secure()
    bare.present()
    assert FIELD in fields(bare.ask("get", query("")))
    one = tillie("ta")
    password, changed = bed.canaries.secret(), bed.canaries.secret()
    with RawClient(one.port, "a.test", seconds=30) as client:
        client.open_stream()
        assert FIELD not in fields(client.ask("get", query("")))
        assert client.ask("set", filled("carol", password)).get("type") == "result"
        client.close()
    assert "carol@a.test registered" in gate.errors
    bed.passwords[CAROL] = password
    carol = bed.raw(CAROL, one.port)
    published(one)
    assert account(one)["gate"] is True
    assert "first key" not in gate.errors.partition("carol@a.test registered")[2]
    assert carol.ask("set", filled("carol", changed)).get("type") == "result"
    carol.close()
    with pytest.raises(RefusedError, match="not-authorized"):
        bed.raw(CAROL, one.port)
    bed.passwords[CAROL] = changed
    again = bed.raw(CAROL, one.port)
    assert again.ask("set", query("<remove/>")).get("type") == "result"
    again.close()
    assert "carol@a.test removed" in gate.errors
    # they stand in ejabberd's log and in mod_register's words to its modules
    bed.canaries.secrets.remove(password)
    bed.canaries.secrets.remove(changed)
    del bed.passwords[CAROL]
    bed.account(CAROL)
    with pytest.raises((RefusedError, StreamEndedError)):
        bed.raw(CAROL, one.port)
    bed.at_gate(gate, person).enter(bed.passwords[CAROL])


def test_i5_a_second_device_is_linked_used_and_removed(
    bed: Bed, gate: Gate, tillie: Callable[[str], Tillie]
) -> None:
    for jid in (ALICE, BOB):
        bed.account(jid)
    ta, tb, second = tillie("ta"), tillie("tb"), tillie("ta2")
    alice, bob = bed.raw(ALICE, ta.port), bed.raw(BOB, tb.port)
    published(ta)
    published(tb)
    waiting = bed.raw(ALICE, second.port, resource="laptop")
    until(lambda: account(second)["state"] == "linking", "the state", seconds=30)
    assert second.json("link", ta.json("link")["code"]) == {"joined": True}
    waiting.close()
    laptop = bed.raw(ALICE, second.port, resource="laptop")
    published(second)
    for device in (alice, laptop):
        device.ask("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
    for sender, to, readers in (
        (bob, ALICE, (alice, laptop)),
        (laptop, BOB, (bob, alice)),
        (alice, BOB, (bob, laptop)),
    ):
        secret = bed.canaries.secret()
        sender.say(to, secret)
        for reader in readers:
            reader.wait_for(
                lambda one, it=secret: it in "".join(one.itertext()), seconds=30
            )
    this = next(one["id"] for one in second.json("devices") if one["this"])
    assert ta.command("devices", "remove", this).returncode == 0
    laptop.wait_closed(seconds=20)
    last = bed.canaries.secret()
    alice.say(BOB, last)
    assert text_of(bob.message(last, seconds=30)) == last
