"""Random messages through two Tillies: what is opened is what was sealed."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from proxy.rules import marks
from proxy.rules.classes import Class, class_of
from proxy.wire import tree
from tests.support.simulator import ALICE, BOB, MESSAGE, Couple, couple
from tests.support.strategies import elements, stanzas, texts

WELL_KNOWN = (
    "<request xmlns='urn:xmpp:receipts'/>",
    "<received xmlns='urn:xmpp:receipts' id='1'/>",
    "<origin-id xmlns='urn:xmpp:sid:0' id='o'/>",
    "<store xmlns='urn:xmpp:hints'/>",
    "<no-copy xmlns='urn:xmpp:hints'/>",
    "<subject>s</subject>",
    "<thread parent='p'>t</thread>",
    "<x xmlns='jabber:x:conference' jid='r@m.test' reason='r'/>",
    "<active xmlns='http://jabber.org/protocol/chatstates'/>",
    "<replace xmlns='urn:xmpp:message-correct:0' id='1'/>",
    "<delay xmlns='urn:xmpp:delay' from='alice@a.test' stamp='2026-01-01T00:00:00Z'/>",
    "<html xmlns='http://jabber.org/protocol/xhtml-im'>"
    "<body xmlns='http://www.w3.org/1999/xhtml'>a<b>c</b>d</body></html>",
)

quick = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


_couples: list[Couple] = []


def talking() -> Couple:
    """One couple for many examples; a new one where an example broke it."""
    last = _couples[-1] if _couples else None
    if last is None or last.alice.closed or last.bob.closed or last.a.faults:
        _couples.append(couple())
    return _couples[-1]


@st.composite
def messages(draw: st.DrawFn) -> Element:
    """A message of a client: random, and what clients really send, mixed."""
    message = draw(stanzas(depth=2).filter(lambda one: one.tag == MESSAGE))
    for text in draw(st.lists(st.sampled_from(WELL_KNOWN), max_size=4)):
        message.append(tree.parse(text.encode()))
    for name in ("to", "from", "id", "type"):
        message.attrib.pop(name, None)
    message.set("type", draw(st.sampled_from(("chat", "normal", "headline"))))
    return message


def written(elements: list[Element]) -> list[bytes]:
    """Elements as bytes, in an order of their own, without what stands between."""
    out = []
    for one in elements:
        copy = tree.parse(tree.serialise(one))
        copy.tail = None
        out.append(tree.serialise(copy))
    return sorted(out)


def content(message: Element) -> list[Element]:
    """The children that go inside, as the reader should see them."""
    wrapper = Element(MESSAGE)
    for child in message:
        sealed = class_of(child.tag) in (Class.SEALED, Class.COPIED)
        empty = child.tag == marks.SUBJECT and not child.text and not len(child)
        if sealed and not empty:
            copy = tree.parse(tree.serialise(child))
            wrapper.append(copy)
    marks.defuse(wrapper)
    return list(wrapper)


MADE_BY_SERVERS = b"<message type='chat'><body>b</body><message/></message>"


@quick
@given(messages())
@example(tree.parse(MADE_BY_SERVERS))
def test_what_is_opened_is_what_was_sealed(message: Element) -> None:
    """Modulo what only servers act on, text between elements, and false marks.

    What holds something that only servers make comes back whole (4.3).
    """
    c = talking()
    expected = content(message)
    assume(expected)
    assume(not all("chatstates" in one.tag for one in expected))
    assume(not marks.imitated(message))
    message.set("to", BOB)
    before, errors = len(c.bob.messages), len(c.alice.errors)
    c.alice.send(tree.serialise(message))
    if any(class_of(one.tag) is Class.SERVER for one in message):
        assert len(c.alice.errors) == errors + 1
        assert len(c.bob.messages) == before
        return
    assert len(c.alice.errors) == errors, c.alice.errors[-1].itertext()
    [got] = c.bob.messages[before:]
    assert written(list(got)) == written(expected)
    kept = {k: v for k, v in message.attrib.items() if k not in ("to", "type")}
    assert {k: got.get(k) for k in kept} == kept
    assert got.get("type") == message.get("type")


@quick
@given(messages(), st.sampled_from([f"{BOB}/one", BOB]))
def test_enc_07_clear_text_of_somebody_with_keys_is_marked_or_dropped(
    message: Element, sender: str
) -> None:
    c = talking()
    message.set("from", sender)
    before = len(c.alice.messages)
    c.world.inject(c.alice, tree.serialise(message).decode())
    assert not c.a.faults
    for one in c.alice.messages[before:]:
        for tag in (marks.BODY, marks.SUBJECT):
            for text in one.findall(tag):
                assert (text.text or "").startswith(marks.CLEAR)
        assert one.find(marks.XHTML) is None


@quick
@given(
    st.sampled_from(
        [BOB, f"{BOB}/one", ALICE, f"{ALICE}/one", "a.test", "", "@", "x@y.test"]
    ),
    st.sampled_from(["chat", "normal", "groupchat", "error", "headline", "odd"]),
    st.lists(
        st.one_of(
            elements(depth=2),
            st.sampled_from(
                [
                    f"<{name} xmlns='{namespace}'{attributes}>{inner}</{name}>"
                    for name, namespace, attributes in (
                        ("encrypted", "urn:x-tillie:seal:0", ""),
                        ("transient", "urn:x-tillie:seal:0", ""),
                        ("grants", "urn:x-tillie:lane:0", " device='AAAA' seq='9'"),
                        ("keyreq", "urn:x-tillie:lane:0", " n='1' lane='AAAA'"),
                        ("link-request", "urn:x-tillie:lane:0", " device='AAAA'"),
                        ("link-answer", "urn:x-tillie:lane:0", " device='AAAA'"),
                        ("no", "urn:x-tillie:lane:0", ""),
                        ("result", "urn:xmpp:mam:2", ""),
                        ("received", "urn:xmpp:carbons:2", ""),
                        ("sent", "urn:xmpp:carbons:2", ""),
                        ("event", "http://jabber.org/protocol/pubsub#event", ""),
                    )
                    for inner in (
                        "",
                        "AAAA",
                        "<payload>AAAA</payload>",
                        "<grant to='alice@a.test' device='AAAA' prekey='1'>AAAA</grant>",
                        "<forwarded xmlns='urn:xmpp:forward:0'/>",
                        "<forwarded xmlns='urn:xmpp:forward:0'>"
                        "<message xmlns='jabber:client' from='bob@b.test'>"
                        "<encrypted xmlns='urn:x-tillie:seal:0'><payload>AAAA</payload>"
                        "</encrypted></message></forwarded>",
                        "<items node='urn:x-tillie:key:0'/>",
                    )
                ]
            ).map(lambda text: tree.parse(text.encode())),
        ),
        max_size=3,
    ),
)
def test_enc_19_nothing_malformed_ends_a_stream_or_draws_an_error(
    sender: str, kind: str, children: list[Element]
) -> None:
    """Whatever comes: no exception, no error stanza, no message but key requests."""
    c = talking()
    message = Element(MESSAGE, {"type": kind, "to": f"{ALICE}/one"})
    if sender:
        message.set("from", sender)
    message.extend(children)
    before = len(c.alice.upstream.stanzas)
    c.world.inject(c.alice, tree.serialise(message).decode())
    c.world.now += 1
    assert not c.a.faults
    assert not c.alice.closed
    for one in c.alice.upstream.stanzas[before:]:
        assert one.get("type") != "error"
        assert one.tag != MESSAGE or one[0].tag.startswith("{urn:x-tillie:lane:0}")


@quick
@given(
    st.lists(st.tuples(st.booleans(), texts(20)), min_size=1, max_size=6), st.randoms()
)
def test_any_order_of_arrival_shows_each_once(
    sent: list[tuple[bool, str]],
    random: st.Random,  # type: ignore[name-defined]
) -> None:
    """Reordered and doubled by the server: each is shown once."""
    c = talking()
    with c.caught() as kept:
        for at, _ in enumerate(sent):
            c.bob.say(ALICE, f"{len(c.alice.messages)} {at}")
    arriving = kept + [one for one, (twice, _) in zip(kept, sent, strict=True) if twice]
    random.shuffle(arriving)
    before = len(c.alice.messages)
    expected = sorted(f"{before} {at}" for at in range(len(sent)))
    for one in arriving:
        c.world.inject(c.alice, one)
    shown = [one.findtext(marks.BODY) for one in c.alice.messages[before:]]
    assert sorted(map(str, shown)) == expected
