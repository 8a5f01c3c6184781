"""The table of what stays outside a seal."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from proxy.rules import classes
from proxy.rules.classes import Class, class_of, outside, transient
from proxy.wire import tree


def parse(text: str) -> Element:
    return tree.parse(text.encode())


@pytest.mark.parametrize(
    "name",
    [
        "{jabber:client}body",
        "{jabber:client}subject",
        "{jabber:client}thread",
        "{http://jabber.org/protocol/xhtml-im}html",
        "{jabber:x:oob}x",
        "{urn:xmpp:reply:0}reply",
        "{urn:xmpp:reactions:0}reactions",
        "{urn:xmpp:message-correct:0}replace",
        "{urn:xmpp:receipts}received",
        "{urn:xmpp:chat-markers:0}displayed",
        "{urn:xmpp:chat-markers:0}markable",
        "{http://jabber.org/protocol/chatstates}composing",
        "{http://jabber.org/protocol/geoloc}geoloc",
        "{jabber:x:encrypted}x",
        "{eu.siacs.conversations.axolotl}encrypted",
        "{urn:xmpp:attention:0}attention",
        "{urn:never:heard:of}it",
        "{urn:xmpp:hints}unknown-hint",
        "{urn:xmpp:hints:1}store",
        "store",
        "body",
        "",
    ],
)
def test_enc_02_unknown_and_all_that_clients_say_is_sealed(name: str) -> None:
    assert class_of(name) is Class.SEALED


@pytest.mark.parametrize("name", ["store", "no-store", "no-copy", "no-permanent-store"])
def test_hints_stay_outside(name: str) -> None:
    assert class_of(f"{{{classes.HINTS}}}{name}") is Class.CLEAR


@pytest.mark.parametrize(
    "name",
    [
        "{urn:xmpp:mam:2}result",
        "{urn:xmpp:carbons:2}received",
        "{urn:xmpp:carbons:2}sent",
        "{http://jabber.org/protocol/muc#user}x",
        "{jabber:client}iq",
        "{jabber:client}presence",
        "{jabber:client}message",
        "{jabber:client}error",
        "{urn:xmpp:sid:0}stanza-id",
        "{urn:xmpp:occupant-id:0}occupant-id",
        "{http://jabber.org/protocol/pubsub#event}event",
        "{urn:x-tillie:seal:0}encrypted",
        "{urn:x-tillie:seal:0}transient",
        "{urn:x-tillie:lane:0}grants",
        "{urn:x-tillie:lane:0}keyreq",
        "{urn:x-tillie:lane:0}link-request",
        "{urn:x-tillie:lane:0}link-answer",
    ],
)
def test_enc_28_what_servers_and_this_layer_make_is_never_content(name: str) -> None:
    assert class_of(name) is Class.SERVER


FULL = [
    "<request xmlns='urn:xmpp:receipts' a='W'>W<z xmlns='urn:z' a='W'>W</z></request>",
    "<origin-id xmlns='urn:xmpp:sid:0' id='o' a='W'>W<z xmlns='urn:z'/></origin-id>",
    "<store xmlns='urn:xmpp:hints' a='W'>W<z xmlns='urn:W'/></store>",
    "<private xmlns='urn:xmpp:carbons:2' a='W'>W</private>",
    "<x xmlns='jabber:x:conference' jid='r@m.test' reason='W' password='W' thread='W'>W</x>",
    "<noreply xmlns='urn:xmpp:noreply:0' a='W'>W</noreply>",
    "<amp xmlns='http://jabber.org/protocol/amp' per-hop='true' from='W' status='W'>W"
    "<rule action='drop' condition='deliver' value='none' a='W'>W<z xmlns='urn:W'/></rule>"
    "<W/><z xmlns='urn:z'>W</z></amp>",
]


@pytest.mark.parametrize("text", FULL)
def test_enc_02_copy_outside_says_no_more_than_the_table(text: str) -> None:
    element = parse(text)
    element.tail = "W"
    copy = outside(element)
    assert b"W" not in tree.serialise(copy)
    assert copy.tag == element.tag
    assert copy.tail is None
    # what is shown already shows nothing less the second time: the guard asks
    assert tree.serialise(outside(copy)) == tree.serialise(copy)
    assert b"W" in tree.serialise(element)


def test_what_servers_act_on_stays_in_the_copy() -> None:
    amp = outside(parse(FULL[-1]))
    assert amp.get("per-hop") == "true"
    [rule] = amp
    assert dict(rule.attrib) == {
        "action": "drop",
        "condition": "deliver",
        "value": "none",
    }
    assert outside(parse(FULL[1])).get("id") == "o"
    assert outside(parse(FULL[4])).get("jid") == "r@m.test"


@pytest.mark.parametrize(
    ("names", "passing"),
    [
        (["composing"], True),
        (["active", "gone"], True),
        (["composing", "body"], False),
        (["body"], False),
        (["unknown"], False),
    ],
)
def test_i09_chat_states_alone_are_of_passing_interest(
    names: list[str], passing: bool
) -> None:
    states = {"composing", "active", "gone"}
    full = [
        f"{{{classes.CHATSTATES if name in states else classes.CLIENT}}}{name}"
        for name in names
    ]
    assert transient(full) is passing


def test_no_element_is_in_two_classes() -> None:
    names = [name for names in classes._TABLE.values() for name in names]
    assert len(names) == len(set(names))


def test_specification_names_every_element_of_the_table() -> None:
    """Adding a row to the table is adding it to docs/protocol.md, section 4."""
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    for class_ in (Class.CLEAR, Class.COPIED):
        for name in classes._TABLE[class_]:
            assert name.partition("}")[2] in text, name
