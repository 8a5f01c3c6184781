"""Keys at bare JIDs: look-ups that an unmodified server hands on (16.3), as docs/gate.md
has it; Prosody with Debian's prosody-modules, and ejabberd."""

from __future__ import annotations

import re
import secrets
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from proxy.keys.manifest import open_manifest
from proxy.keys.servers import open_server
from proxy.keys.tokens import open_absence, open_token

from ..support.bed import Bed
from ..support.ejabberd import Ejabberd
from ..support.federation import directory, printed
from ..support.gate import Gate
from ..support.gateclient import GateClient
from ..support.pages import blocks
from ..support.persons import Person
from ..support.prosody import Prosody
from ..support.raw import RawClient, text_of
from ..support.tap import Way
from ..support.tillie import Tillie
from ..support.waiting import free_ports, until
from .test_conversations import error_of, ready

ALICE, BOB, CAROL, DAVE = "alice@a.test", "bob@b.test", "carol@a.test", "dave@b.test"
KEYS = "keys.a.test"
KEY = "urn:x-tillie:key:0"
INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"

pytestmark = pytest.mark.timeout(300)

_PROSODY = """\
component_ports = {{ {port} }}
Component "keys.a.test"
    component_secret = "{secret}"
Component "keys.b.test"
    component_secret = "{secret}"
"""


@pytest.fixture(params=["prosody", "ejabberd"])
def gate(bed: Bed, request: pytest.FixtureRequest) -> Gate:
    """A server that hands look-ups on, and a gate before both its domains."""
    arguments = {"prosody": _prosody, "ejabberd": _ejabberd}[request.param](bed)
    for jid in (ALICE, BOB, CAROL, DAVE):
        bed.account(jid)
    backends = dict.fromkeys(bed.domains, bed.server.starttls_port)
    # what a Tillie of b.test asks is read on its way to the server
    backends["b.test"] = bed.tap("b.test", plain=True).port
    made = bed.gate(arguments=arguments, backends=backends)
    until(
        lambda: f"{KEYS} is there" in made.errors,
        "the directory to be there",
        seconds=30,
    )
    return made


def _documented(language: str) -> str:
    (lines,) = blocks("gate.md", language)
    return lines.replace("example.org", "a.test")


def _prosody(bed: Bed) -> list[str]:
    (port,) = free_ports(1)
    secret = secrets.token_hex(16)
    components = _PROSODY.format(port=port, secret=secret)
    bed.start(require_encryption=False, options=components + _documented("lua"))
    text = f'component_ports = {{ {port} }} component_secret = "{secret}"'
    return directory(text, bed.folder / "secret")


def _ejabberd(bed: Bed) -> list[str]:
    lines = printed("ejabberd", *bed.domains)
    server = Ejabberd(bed.folder / "ejabberd", bed.leaf, bed.domains, behind_gate=lines)
    for section in re.findall(r"^\w+:\n(?: .*\n)+", _documented("yaml"), re.MULTILINE):
        name = section.partition("\n")[0]
        assert f"{name}\n" in server.configuration
        server.configuration = server.configuration.replace(f"{name}\n", section)
    bed.server = server  # type: ignore[assignment]
    server.start()
    return [*directory(lines, bed.folder / "secret"), "--proxy-protocol", "v2"]


def behind(bed: Bed, gate: Gate, label: str) -> Tillie:
    ports = dict.fromkeys(bed.domains, gate.port)
    return bed.tillie(label, servers=ports, tls=dict.fromkeys(ports, "starttls"))


def entered(bed: Bed, gate: Gate, jid: str) -> GateClient:
    return bed.at_gate(gate, Person(jid), seconds=30).enter(bed.passwords[jid])


def look_up(client: RawClient, to: str) -> Element:
    answer = client.ask("get", f"<lookup xmlns='{KEY}'/>", to=to, seconds=30)
    assert (answer.get("type"), answer.get("from")) == ("result", to), (
        ElementTree.tostring(answer)
    )
    return answer[0]


def text(answer: Element, path: str) -> bytes:
    found = answer.findtext("/".join(f"{{{KEY}}}{part}" for part in path.split("/")))
    assert found is not None
    return found.encode()


def test_the_plans_words_a_strangers_iq_to_a_bare_jid_brings_the_key(
    bed: Bed, gate: Gate
) -> None:
    """Key, fingerprint and token, in the account's own name, also when it is away; a
    signed absence of every other address; and what service discovery shows."""
    alice = entered(bed, gate, ALICE)
    assert alice.person is not None
    bob = entered(bed, gate, BOB)
    for away in (False, True):
        record = look_up(bob, ALICE)
        server = open_server(text(record, "server/document"), "a.test")
        assert alice.server is not None
        assert server.digest == alice.server.digest
        manifest = open_manifest(text(record, "manifest"), ALICE)
        assert manifest.root.fingerprint == alice.person.fingerprint
        token = open_token(text(record, "token"), ALICE, server.keys)
        assert token.covers(manifest)
        if not away:
            discovered(alice, bob)
            alice.close()
    for jid in (CAROL, "nobody@a.test"):
        absent = look_up(bob, jid)
        assert absent.tag == f"{{{KEY}}}absent"
        open_absence(text(absent, "document"), jid, server.keys)
    assert text(look_up(bob, "a.test"), "server/document")


def discovered(alice: GateClient, bob: RawClient) -> None:
    """Who is subscribed sees the feature at the bare JID; a stranger gets an error or
    nothing of it, and neither proves anything."""
    query = f"<query xmlns='{INFO}'/>"
    before = bob.ask("get", query, to=ALICE)
    assert before.get("type") == "error"
    for client in (alice, bob):
        client.ask("get", "<query xmlns='jabber:iq:roster'/>")
        client.send("<presence/>")
    bob.send(f"<presence to='{ALICE}' type='subscribe'/>")
    alice.wait_for(lambda one: one.get("type") == "subscribe", seconds=30)
    alice.send(f"<presence to='{BOB}' type='subscribed'/>")
    bob.wait_for(lambda one: one.get("type") == "subscribed", seconds=30)
    for client in (alice, bob):
        info = client.ask("get", query, to=ALICE)
        features = [one.get("var") for one in info.iter(f"{{{INFO}}}feature")]
        assert features.count(KEY) == 1, features


def test_strangers_write_sealed_and_subscribe(bed: Bed, gate: Gate) -> None:
    """Nobody is subscribed to anybody: bob writes before he asks to be, dave asks first.
    Carol has no key: on Prosody her own node says so to subscribers alone, so that what
    her server hands on decides at first contact."""
    ta, tb = behind(bed, gate, "ta"), behind(bed, gate, "tb")
    alice = bed.raw(ALICE, ta.port)
    bob, dave = bed.raw(BOB, tb.port), bed.raw(DAVE, tb.port)
    ready(ta)
    ready(tb, 2)
    first, second, third = (bed.canaries.secret() for _ in range(3))
    bob.say(ALICE, first)
    assert text_of(alice.message(first, seconds=30)) == first
    bob.send(f"<presence to='{ALICE}' type='subscribe'/>")
    assert subscriber(alice) == BOB
    alice.say(BOB, second)
    assert text_of(bob.message(second, seconds=30)) == second
    dave.send(f"<presence to='{ALICE}' type='subscribe'/>")
    assert subscriber(alice) == DAVE
    levels = {BOB: "vouched", DAVE: "vouched"}
    until(lambda: contacts(ta) == levels, "the look-up of who subscribes", seconds=30)
    dave.say(ALICE, third)
    assert text_of(alice.message(third, seconds=30)) == third
    # who is subscribed finds the node itself, also where nothing is handed on
    alice.send(f"<presence to='{DAVE}' type='subscribed'/>")
    dave.wait_for(lambda one: one.get("from", "").startswith(f"{ALICE}/"), seconds=30)
    items = dave.ask("get", f"<query xmlns='{ITEMS}'/>", to=ALICE)
    assert KEY in [one.get("node") for one in items.iter(f"{{{ITEMS}}}item")]
    assert "has no key" in error_of(bob, bob.say(CAROL, bed.canaries.secret()))
    if isinstance(bed.server, Prosody):
        answers = re.findall(rb"<iq [^>]*>\s*<absent ", bed.taps[0].recorded(Way.IN))
        assert any(b"from='carol@a.test'" in one for one in answers), answers


def subscriber(client: RawClient) -> str | None:
    """Who asks to be subscribed next."""
    asks = client.wait_for(lambda one: one.get("type") == "subscribe", seconds=30)
    return asks.get("from")


def contacts(tillie: Tillie) -> dict[str, str]:
    return {one["jid"]: one["level"] for one in tillie.json("contacts")}
