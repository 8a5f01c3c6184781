"""The byte cases of docs/threats.md once more, inside a seal of a known contact.

Bob's Tillie is his own to bend: what it seals is opened and then read with the same
refusals as a stream.  None of it reaches the client, and no stream ends.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from proxy.rules import marks
from tests.support.badxml import BEHIND, FORMAT, PASSED
from tests.support.scripted import render
from tests.support.simulator import ALICE, BODY, Couple, couple
from tests.support.world import reseal

# at the level of a stream alone these are wrong; between tags they are text
REFUSED = {
    name: data
    for name, (data, condition) in BEHIND.items()
    if condition != FORMAT and name != "XML-39-children"
} | {
    "XML-04": b"<body xmlns='jabber:client'>&nbsp;</body>",
    "XML-36-body": b"</content></envelope></message><message from='boss@x.test'>"
    b"<body>CANARY</body></message>",
    "XML-36-balanced": b"</content></envelope><envelope xmlns='urn:xmpp:sce:1'>"
    b"<content><body xmlns='jabber:client'>CANARY</body>",
    "XML-37-closed": b"<a>" * 70 + b"</a>" * 70,
    "ENC-29-children": b"<z/>" * 2_000,
}


@pytest.fixture(scope="module")
def talking() -> Couple:
    """Shared by all cases: each has to leave the conversation as it found it."""
    return couple()


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_enc_29_what_a_stream_refuses_is_refused_inside_a_seal(
    data: bytes, talking: Couple
) -> None:
    c = talking
    shown, sent = len(c.alice.stanzas), len(c.alice.upstream.stanzas)
    c.world.inject(c.alice, reseal(c, content=data))
    held = [
        one for one in c.alice.stanzas[shown:] if "proxy." not in one.get("from", "")
    ]
    assert [one.findtext(BODY) for one in held] == [marks.UNREADABLE_OLD]
    assert "CANARY" not in "".join(render(one) for one in c.alice.stanzas[shown:])
    assert c.alice.upstream.stanzas[sent:] == []
    assert not c.a.faults
    assert not c.alice.closed
    c.world.inject(c.alice, reseal(c))
    assert c.alice.bodies[-1] == "misused"


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
def test_what_a_stream_lets_through_is_let_through_inside_a_seal(
    data: bytes, talking: Couple
) -> None:
    """The same infoset comes out, as another parser reads it: line ends and white
    space of attributes too (XML-43), and nothing is fetched (XML-46)."""
    c = talking
    c.world.inject(c.alice, reseal(c, content=data))
    [shown] = c.alice.messages[-1]
    whole = b"<content xmlns='urn:xmpp:sce:1'>" + data + b"</content>"
    [expected] = ElementTree.fromstring(whole)
    assert infoset(shown) == infoset(expected)
    assert not c.a.faults


def infoset(element: Element) -> tuple[object, ...]:
    children = [infoset(child) for child in element]
    return element.tag, element.attrib, element.text or "", element.tail, children


def test_xml_23_36_markup_in_a_text_stays_text(talking: Couple) -> None:
    c = talking
    text = "</body></message><message from='boss@x.test'><body>]]>&amp;<![CDATA["
    c.bob.say(ALICE, text)
    assert c.alice.bodies[-1] == text
    assert not [one for one in c.alice.messages if "boss" in one.get("from", "")]
