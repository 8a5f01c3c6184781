"""The only door to the server: what it lets through, and that there is no other."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import pytest

import proxy
from proxy.core import guard
from proxy.core.guard import Permit
from proxy.errors import LocalFault
from proxy.rules import marks
from proxy.suites import lanes
from proxy.suites.fields import b64
from proxy.wire import tree
from proxy.wire.stanza import Cleared, Stanza

PROXY = Path(proxy.__file__).parent
SEAL = "urn:x-tillie:seal:0"
LANE = "urn:x-tillie:lane:0"


def parse(text: str) -> Element:
    return tree.parse(text.encode())


def sealed_message() -> Element:
    payload = b64(bytes((0, 1, 0)) + bytes(lanes.SMALLEST))
    return parse(
        "<message to='bob@b.test' type='chat' id='m'>"
        f"<encrypted xmlns='{SEAL}'><payload>{payload}</payload>"
        f"<grants xmlns='{LANE}' device='AAAA' seq='1'>"
        "<grant to='bob@b.test' device='AAAA' prekey='1'>AAAA</grant></grants></encrypted>"
        "<store xmlns='urn:xmpp:hints'/><request xmlns='urn:xmpp:receipts'/>"
        f"<encryption xmlns='urn:xmpp:eme:0' namespace='{SEAL}' name='Tillie'/>"
        f"<body>{marks.FALLBACK_BODY}</body>"
        f"<fallback xmlns='urn:xmpp:fallback:0' for='{SEAL}'/></message>"
    )


def test_sealed_message_passes() -> None:
    message = sealed_message()
    assert guard.sealed(message) == Cleared(tree.serialise(message))


def _spoiled(message: Element) -> Iterator[tuple[str, Element]]:
    """*message* with content in each position in turn: text, tail, attribute, child."""
    count = sum(1 for _ in message.iter())
    for at in range(count):
        for how in ("text", "tail", "attribute", "child"):
            copy = parse(tree.serialise(message).decode())
            part = list(copy.iter())[at]
            if how == "text":
                part.text = (part.text or "") + "what a person says"
            elif how == "tail":
                part.tail = "what a person says"
            elif how == "attribute":
                part.set("what", "a person says")
            else:
                SubElement(part, "{urn:what}a-person-says").text = "x"
            if how != "tail" or at:
                yield f"{how} at {part.tag}", copy


@pytest.mark.parametrize(
    ("where", "message"),
    list(_spoiled(sealed_message())),
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_enc_02_sealed_message_with_content_beside_is_refused(
    where: str, message: Element
) -> None:
    with pytest.raises(LocalFault):
        guard.sealed(message)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda m: m.remove(m[0]), id="no-seal"),
        pytest.param(
            lambda m: m.append(
                parse(f"<encrypted xmlns='{SEAL}'><payload>AAAA</payload></encrypted>")
            ),
            id="ENC-06-two-seals",
        ),
        pytest.param(lambda m: m[0].clear(), id="empty-seal"),
        pytest.param(lambda m: m.set("from", "boss@x.test"), id="ID-09-from"),
        pytest.param(lambda m: m.append(parse("<body>hello</body>")), id="ENC-04-body"),
        pytest.param(
            lambda m: m.append(parse("<subject>hello</subject>")), id="ENC-02-subject"
        ),
        pytest.param(
            lambda m: m.append(parse("<x xmlns='urn:unknown'/>")), id="ENC-02-unknown"
        ),
        pytest.param(
            lambda m: m.append(parse("<stanza-id xmlns='urn:xmpp:sid:0' id='1'/>")),
            id="server-made",
        ),
        pytest.param(lambda m: setattr(m, "tag", "{jabber:client}iq"), id="iq"),
        pytest.param(
            lambda m: setattr(m[0][0], "text", "not base64 at all"),
            id="ENC-02-payload-of-words",
        ),
        pytest.param(
            lambda m: setattr(m[0][0], "text", "aGVsbG8="),
            id="ENC-02-payload-too-short-for-a-seal",
        ),
        pytest.param(
            lambda m: setattr(m[0][0], "text", "A" * 70_000), id="RES-13-too-long"
        ),
    ],
)
def test_not_a_sealed_message(spoil: Callable[[Element], object]) -> None:
    message = sealed_message()
    spoil(message)
    with pytest.raises(LocalFault):
        guard.sealed(message)


EMPTY = [
    "<message to='b@b.test' type='error' id='e'><error type='cancel'>"
    "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
    "<message to='r@m.test'><x xmlns='http://jabber.org/protocol/muc#user'>"
    "<invite to='carol@c.test'/></x></message>",
    "<message to='b@b.test'><no-store xmlns='urn:xmpp:hints'/></message>",
    "<message to='b@b.test'/>",
]


@pytest.mark.parametrize("text", EMPTY)
def test_message_without_content_passes(text: str) -> None:
    assert guard.without_content(parse(text)).data


@pytest.mark.parametrize(
    ("where", "message"),
    [one for text in EMPTY for one in _spoiled(parse(text))],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_enc_02_content_is_not_without_content(where: str, message: Element) -> None:
    with pytest.raises(LocalFault):
        guard.without_content(message)


@pytest.mark.parametrize(
    "child",
    [
        "<body>hello</body>",
        "<subject>hello</subject>",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<x xmlns='urn:unknown'/>",
        "<request xmlns='urn:xmpp:receipts'/>",
        "<x xmlns='jabber:x:conference' jid='r@m.test'/>",
    ],
)
def test_enc_02_content_needs_a_seal_or_a_permit(child: str) -> None:
    with pytest.raises(LocalFault):
        guard.without_content(parse(f"<message to='b@b.test'>{child}</message>"))


@pytest.mark.parametrize(
    ("to", "passes"),
    [
        ("bob@b.test", True),
        ("bob@b.test/phone", True),
        ("BOB@b.test", True),
        ("boss@b.test", False),
        ("b.test", False),
        ("", False),
    ],
)
def test_permit_names_one_address(to: str, passes: bool) -> None:
    word = f" to='{to}'" if to else ""
    stanza = Stanza.of(parse(f"<message{word}><body>x</body></message>"))
    permit = Permit("bob@b.test", "allowed")
    if passes:
        assert b"<body>x</body>" in guard.permitted(stanza, permit).data
    else:
        with pytest.raises(LocalFault, match="for somebody else"):
            guard.permitted(stanza, permit)


def test_clear_bytes_leave_again_by_a_permit_for_their_address_alone() -> None:
    data, permit = b"<message to='bob@b.test'/>", Permit("bob@b.test", "allowed")
    assert guard.permitted_again(data, "bob@b.test", permit) == Cleared(data)
    for other in ("boss@b.test", "bob@b.test/phone", ""):
        with pytest.raises(LocalFault, match="for somebody else"):
            guard.permitted_again(data, other, permit)


def test_sealed_bytes_of_the_ledger_leave_again_as_they_are() -> None:
    assert guard.again(b"<message/>") == Cleared(b"<message/>")


@pytest.mark.parametrize(
    "text",
    [
        "<message to='b@b.test'><body>x</body></message>",
        "<message to='b@b.test'/>",
        "<iq type='set'><request xmlns='urn:xmpp:http:upload:0'/></iq>",
        "<iq type='set'><jingle xmlns='urn:xmpp:jingle:1'/></iq>",
        "<iq type='result'><data xmlns='urn:xmpp:bob'/></iq>",
        "<iq type='set'><query xmlns='jabber:iq:roster'/><data xmlns='http://jabber.org/protocol/ibb'/></iq>",
        "<active xmlns='urn:xmpp:csi:0'/>",
    ],
)
def test_enc_03_no_instruction(text: str) -> None:
    with pytest.raises(LocalFault, match="may not leave as it is"):
        guard.instruction(Stanza.of(parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "<presence to='b@b.test'><show>away</show></presence>",
        "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
        "<iq type='result' id='1'/>",
        # what an IQ may not carry says nothing about presences
        "<presence><data xmlns='urn:xmpp:bob'/></presence>",
    ],
)
def test_an_instruction_leaves_as_it_came(text: str) -> None:
    stanza = Stanza.of(parse(text))
    assert guard.instruction(stanza) == Cleared(stanza.to_bytes())


QUERY = "<iq type='set' id='1'><query xmlns='jabber:iq:register'/></iq>"


@pytest.mark.parametrize(
    ("door", "passes", "refused"),
    [
        pytest.param(
            guard.own_query,
            [
                "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
                "<iq id='1'/>",
            ],
            [
                "<iq id='1'><a xmlns='u'/><b xmlns='u'/></iq>",
                "<message><body>x</body></message>",
                "<presence/>",
                "<iq xmlns='jabber:server' id='1'/>",
            ],
            id="own-query",
        ),
        pytest.param(
            guard.registration,
            [QUERY],
            [
                "<iq id='1'/>",
                "<message><query xmlns='jabber:iq:register'/></message>",
                QUERY.replace("jabber:iq:register", "jabber:iq:auth"),
                QUERY.replace("</iq>", "<body>x</body></iq>"),
                QUERY.replace("/></iq>", "/><query xmlns='jabber:iq:register'/></iq>"),
            ],
            id="registration",
        ),
    ],
)
def test_queries_of_our_own_have_a_shape(
    door: Callable[[Element], Cleared], passes: list[str], refused: list[str]
) -> None:
    for text in passes:
        assert door(parse(text)) == Cleared(tree.serialise(parse(text)))
    for text in refused:
        with pytest.raises(LocalFault, match="not a "):
            door(parse(text))


def test_the_largest_stanza_of_ours_is_exact() -> None:
    """Clause 5.9, to the byte."""
    query = parse("<iq id='1'><a xmlns='u'/></iq>")
    room = guard.LARGEST - len(tree.serialise(query)) - len("></a>") + len("/>")
    query[0].text = "x" * room
    assert len(guard.own_query(query).data) == guard.LARGEST
    query[0].text += "x"
    with pytest.raises(LocalFault, match="beyond the limit"):
        guard.own_query(query)


@pytest.mark.parametrize(
    "text",
    [
        "<active xmlns='urn:xmpp:csi:1'/>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<active xmlns='urn:xmpp:csi:0'><z xmlns='urn:x'>words</z></active>",
        "<message><body>x</body></message>",
    ],
)
def test_unknown_nonza_is_refused(text: str) -> None:
    with pytest.raises(LocalFault, match="outside of stanzas"):
        guard.nonza(Stanza.of(parse(text)))


def test_nonza_leaves_without_what_the_client_put_there() -> None:
    stanza = Stanza.of(parse("<active xmlns='urn:xmpp:csi:0' a='words'>words</active>"))
    assert b"words" not in guard.nonza(stanza).data


OWN = [
    f"<message to='b@b.test' type='normal' id='i'><keyreq xmlns='{LANE}' n='1'>AAAA</keyreq>"
    "<store xmlns='urn:xmpp:hints'/></message>",
]


@pytest.mark.parametrize(
    "child",
    [
        "<body>hello</body>",
        "<x xmlns='urn:unknown'/>",
        f"<keyreq xmlns='{LANE}'/>",
        f"<encrypted xmlns='{SEAL}'/>",
        "<store xmlns='urn:xmpp:hints'>words</store>",
        "<no-copy xmlns='urn:xmpp:hints' a='words'/>",
    ],
)
def test_own_message_carries_one_thing(child: str) -> None:
    guard.own_message(parse(OWN[0]))
    message = parse(OWN[0])
    message.append(parse(child))
    with pytest.raises(LocalFault):
        guard.own_message(message)


# -- there is no other door -------------------------------------------------------


def _calls(name: str) -> dict[str, int]:
    """How often each file of proxy/ calls something named *name*."""
    found: dict[str, int] = {}
    for path in sorted(PROXY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            word = (
                called.id
                if isinstance(called, ast.Name)
                else getattr(called, "attr", "")
            )
            if word == name:
                where = str(path.relative_to(PROXY))
                found[where] = found.get(where, 0) + 1
    return found


@pytest.mark.parametrize(
    ("name", "only"), [("Cleared", "core/guard.py"), ("Permit", "core/contacts.py")]
)
def test_one_file_alone_makes_them(name: str, only: str) -> None:
    assert list(_calls(name)) == [only]


@pytest.mark.parametrize("name", ["Cleared", "Permit"])
def test_nobody_takes_another_way_to_make_one(name: str) -> None:
    """No alias, no subclass, no ``replace`` of one: by name or not at all."""
    for path in sorted(PROXY.rglob("*.py")):
        text = path.read_text()
        module = ast.parse(text)
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom):
                assert not [x for x in node.names if x.name == name and x.asname], path
            if isinstance(node, ast.ClassDef):
                bases = {
                    getattr(base, "id", getattr(base, "attr", ""))
                    for base in node.bases
                }
                assert name not in bases, path
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                assert node.value.id != name, path


def test_bytes_for_the_server_come_from_the_legs_alone() -> None:
    """ToServer is made where outputs of the server leg are performed, nowhere else."""
    assert set(_calls("ToServer")) <= {"core/uplink.py"}


def _imports(path: Path) -> set[str]:
    """Modules of proxy/ that a file imports, as ``package.module``."""
    package = path.relative_to(PROXY).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= (
                {stem}
                if node.module
                else {f"{stem}.{x.name}".lstrip(".") for x in node.names}
            )
    return found


# What the gate's edges carry between processes and threads, without looking into it.
CARRIED = {
    "registry.py": {"keys.registry"},
    "publisher.py": {"keys.registry"},
    "signer.py": {"keys.servers"},
    "gatetls.py": {"keys.handshake"},
    "tls.py": {"keys.handshake"},
}


def test_net_knows_no_rules_and_of_the_keys_only_the_store() -> None:
    for path in sorted((PROXY / "net").glob("*.py")):
        rules = {
            one for one in _imports(path) if one.split(".")[0] in ("rules", "suites")
        }
        keys = {one for one in _imports(path) if one.split(".")[0] == "keys"}
        assert not rules, path
        assert keys <= {"keys.store"} | CARRIED.get(path.name, set()), path


def test_the_rules_of_imports_are_seen_at_all() -> None:
    """The two tests above look at something."""
    assert "rules.classes" in _imports(PROXY / "core" / "guard.py") | {
        f"{one}.classes" for one in _imports(PROXY / "core" / "guard.py")
    }
    assert _calls("Cleared")["core/guard.py"] >= 3
