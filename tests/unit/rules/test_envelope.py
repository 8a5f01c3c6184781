"""The plaintext of a seal: what goes in comes out, and nothing else does."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.errors import PeerFault
from proxy.rules import envelope
from proxy.rules.envelope import Envelope, padded, read, restore, write
from proxy.wire import tree
from tests.support.simulator import ALICE, BOB, BODY


def body(text: str) -> Element:
    element = Element(BODY)
    element.text = text
    return element


def enveloped(*content: Element, **changes: object) -> Envelope:
    fields: dict[str, object] = {
        "type": "chat",
        "id": "m",
        "sender": BOB,
        "to": ALICE,
        "content": content,
        "attributes": {},
    }
    return Envelope(**(fields | changes))  # type: ignore[arg-type]


def through(*content: Element, **changes: object) -> Element:
    inside = read(write(enveloped(*content, **changes), 0))
    return restore(inside, {"from": f"{BOB}/one", "to": ALICE, "type": "chat"})


def test_what_is_written_is_read() -> None:
    data = write(enveloped(body("text"), attributes={"a": "1"}), 1_750_000_000_000)
    inside = read(data)
    assert (inside.type, inside.id, inside.sender, inside.to) == (
        "chat",
        "m",
        BOB,
        ALICE,
    )
    assert inside.attributes == {"a": "1"}
    assert inside.time == "2025-06-15T15:06:40Z"
    assert [one.text for one in inside.content] == ["text"]


@pytest.mark.parametrize(
    "value", ["", "'", '"', "<&>", "\n\t\r", "]]>", "é\U0001f600", " x "]
)
def test_odd_values_survive(value: str) -> None:
    message = through(body(value), id=value, attributes={"{urn:a}b": value})
    assert message.findtext(BODY) == (value or "")
    assert message.get("id") == value
    assert message.get("{urn:a}b") == value


def test_message_without_id_gets_the_one_outside() -> None:
    inside = read(write(enveloped(body("x"), id=None), 0))
    assert inside.id is None
    assert restore(inside, {"id": "outside"}).get("id") == "outside"
    assert restore(inside, {}).get("id") is None


def test_i23_id_and_type_inside_win() -> None:
    inside = read(write(enveloped(body("x"), type="normal"), 0))
    message = restore(inside, {"id": "outside", "type": "chat"})
    assert (message.get("id"), message.get("type")) == ("m", "normal")


@pytest.mark.parametrize("name", ["to", "from", "type", "id"])
def test_enc_28_attributes_inside_do_not_readdress(name: str) -> None:
    message = through(body("x"), attributes={name: "boss@x.test"})
    assert message.get("from") == f"{BOB}/one"
    assert message.get("to") == ALICE
    assert message.get("type") == "chat"
    assert message.get("id") == "m"
    assert message.tag == "{jabber:client}message"


# -- padding ----------------------------------------------------------------------


def test_enc_25_padding_grows_by_at_most_an_eighth() -> None:
    last = 0
    for size in range(0, 70_000, 7):
        now = padded(size)
        assert now >= max(size, 512, last)
        assert now - max(size, 512) <= max(size, 512) / 8
        last = now


def test_enc_25_padding_has_few_sizes() -> None:
    assert len({padded(size) for size in range(60_000)}) < 140


@pytest.mark.parametrize("size", [0, 1, 17, 300, 1_000, 5_000, 20_000])
def test_enc_25_written_bytes_have_a_padded_size(size: int) -> None:
    data = write(enveloped(body("x" * size)), 0)
    assert padded(len(data)) == len(data)


def test_enc_25_short_texts_share_one_size() -> None:
    sizes = {len(write(enveloped(body("x" * size)), 0)) for size in (1, 20, 100, 200)}
    assert len(sizes) == 1


@pytest.mark.parametrize("rpad", ["", "0", "x" * 5_000])
def test_length_of_the_padding_is_never_an_error(rpad: str) -> None:
    data = write(enveloped(body("x")), 0)
    start, end = data.index(b"<rpad>"), data.index(b"</rpad>")
    assert read(data[: start + 6] + rpad.encode() + data[end:]).id == "m"
    assert read(data[:start] + data[end + 7 :]).id == "m"


# -- bad plaintexts ---------------------------------------------------------------


GOOD = write(enveloped(body("x")), 0).decode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("", id="ENC-29-empty"),
        pytest.param("text", id="ENC-29-no-xml"),
        pytest.param(GOOD + GOOD, id="ENC-29-two"),
        pytest.param(GOOD.replace("envelope", "other"), id="other-element"),
        pytest.param(
            GOOD.replace("urn:xmpp:sce:1", "urn:xmpp:sce:0"), id="other-version"
        ),
        pytest.param(
            GOOD.replace("<content>", "<content/><content>"), id="two-contents"
        ),
        pytest.param(
            GOOD.replace("<from ", "<from jid='a@b.test'/><from "),
            id="ID-10-two-senders",
        ),
        pytest.param(
            GOOD.replace("<to ", "<to jid='a@b.test'/><to "), id="ID-10-two-addressees"
        ),
        pytest.param(GOOD.replace("<bind ", "<z "), id="no-bind"),
        pytest.param(GOOD.replace("<from ", "<z "), id="ID-10-no-sender"),
        pytest.param(GOOD.replace("<to ", "<z "), id="ID-10-no-addressee"),
        pytest.param(GOOD.replace(BOB, "@"), id="ID-13-sender-is-no-address"),
        pytest.param(GOOD.replace(ALICE, "a@b@c"), id="ID-13-addressee-is-no-address"),
        pytest.param("<!DOCTYPE x>" + GOOD, id="XML-01-doctype"),
        pytest.param(
            GOOD.replace("<content>", "<content><!-- c -->"), id="XML-22-comment"
        ),
        pytest.param(
            GOOD.replace("<content>", "<content><?p i?>"), id="XML-23-instruction"
        ),
        pytest.param(GOOD.replace(">x<", ">&x;<"), id="XML-02-entity"),
        pytest.param(GOOD.replace(">x<", ">\x00<"), id="XML-nul"),
        pytest.param(GOOD.replace(">x<", "><p:z/><"), id="XML-unbound-prefix"),
    ],
)
def test_enc_29_bad_plaintext_is_refused(data: str) -> None:
    with pytest.raises(PeerFault):
        read(data.encode())


def test_enc_29_not_utf_8_is_refused() -> None:
    with pytest.raises(PeerFault):
        read(GOOD.replace(">x<", ">\xff<").encode("latin-1"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("<z>" * 100 + "</z>" * 100, id="ENC-29-depth"),
        pytest.param(
            "<z " + " ".join(f"a{n}=''" for n in range(100)) + "/>",
            id="ENC-29-attributes",
        ),
        pytest.param("x" * 300_000, id="ENC-29-size"),
        pytest.param("<z " + "a" * 2_000 + "=''/>", id="ENC-29-name"),
        pytest.param(
            "<z" + "".join(f" xmlns:p{n}='u{n}'" for n in range(500)) + "/>",
            id="ENC-29-namespaces",
        ),
    ],
)
def test_enc_29_limits_hold_inside_as_outside(content: str) -> None:
    with pytest.raises(PeerFault):
        read(GOOD.replace("<content>", "<content>" + content).encode())


@pytest.mark.parametrize("count", [1_025, 60_000])
def test_enc_29_number_of_children_is_bounded_inside_as_outside(count: int) -> None:
    """10**5 children do not reach the client's parser."""
    with pytest.raises(PeerFault):
        read(GOOD.replace("<content>", "<content>" + "<z/>" * count).encode())


def test_own_delay_stays_and_a_servers_does_not() -> None:
    """R5: a sender's own delay is content; a server's comes from outside only."""
    message = Element("x")
    for sender in (f"{BOB}/one", "a.test", "", ALICE):
        SubElement(message, "{urn:xmpp:delay}delay", {"from": sender, "stamp": "s"})
    kept = through(*message)
    assert [one.get("from") for one in kept] == [f"{BOB}/one"]


def test_root_attributes_are_those_that_travel_inside() -> None:
    attributes = {"to": "1", "from": "2", "type": "3", "id": "4", "x": "5", "{u}y": "6"}
    assert envelope.root_attributes(attributes) == {"x": "5", "{u}y": "6"}


def test_no_prefix_of_outside_is_needed_to_read_it() -> None:
    child = tree.parse(b"<p:z xmlns:p='urn:p' p:a='1'><p:y/></p:z>")
    again = through(child)
    assert tree.serialise(again[0]) == tree.serialise(child)
