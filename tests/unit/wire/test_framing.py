"""The byte-level cases of docs/threats.md, each in four chunkings."""

from __future__ import annotations

import time
from unittest import mock
from xml.parsers import expat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LocalFault
from proxy.wire import framing, restricted, skim
from proxy.wire.framing import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    Broken,
    Closed,
    Framer,
    Limits,
    Opened,
    Received,
    Skipped,
)
from proxy.wire.tree import parse, serialise

from ...support.badxml import (
    BEHIND,
    FIRST,
    FORMAT,
    GOOD,
    HEADER,
    MALFORMED,
    PASSED,
    POLICY,
    RESTRICTED,
)
from ...support.strategies import cuts, stanzas
from .streams import (
    SMALL,
    Stanza,
    after_header,
    condition,
    read,
    received,
    run,
    skipped,
)


@pytest.mark.parametrize(("data", "expected"), FIRST.values(), ids=FIRST)
def test_start_of_stream_is_refused(data: bytes, expected: str) -> None:
    events = read(data, BEFORE_LOGIN)
    assert condition(events) == expected
    assert received(events) == []


@pytest.mark.parametrize(("data", "expected"), BEHIND.values(), ids=BEHIND)
def test_behind_the_header_is_refused(data: bytes, expected: str) -> None:
    events = after_header(data, BEFORE_LOGIN)
    assert condition(events) == expected
    assert len(events) == 1


@pytest.mark.parametrize(("data", "expected"), BEHIND.values(), ids=BEHIND)
def test_what_stands_before_is_received(data: bytes, expected: str) -> None:
    events = after_header(GOOD + b"\n" + data, BEFORE_LOGIN)
    assert received(events) == [GOOD]
    assert condition(events) == expected
    assert len(events) == 2


def test_xml_16_forbidden_bytes_between_stanzas() -> None:
    assert condition(after_header(b" \x0b")) == FORMAT


def test_xml_35_unbalanced_end() -> None:
    events = after_header(b"<message></message></message>")
    assert received(events) == [b"<message></message>"]
    assert condition(events) == MALFORMED


def test_xml_35_end_of_an_empty_stanza() -> None:
    events = after_header(b"<message/></message>")
    assert received(events) == [b"<message/>"]
    assert condition(events) == MALFORMED


def test_nothing_is_taken_after_the_end() -> None:
    framer = Framer(AFTER_LOGIN)
    assert isinstance(framer.feed(HEADER + b"<!--")[-1], Broken)
    assert not framer.clean
    with pytest.raises(LocalFault):
        framer.feed(GOOD)


@pytest.mark.parametrize(
    "first", [b"P", b"\x16", b"\xff", b"\0", b"{", b"\xef\xbb\xbfX", b"<1", b"<\0"]
)
def test_loc_03_other_protocols_end_at_their_first_byte(first: bytes) -> None:
    framer = Framer(BEFORE_LOGIN)
    for at in range(len(first) - 1):
        assert framer.feed(first[at : at + 1]) == []
    assert isinstance(framer.feed(first[-1:])[0], Broken)


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
def test_passes_byte_for_byte(data: bytes) -> None:
    events = after_header(b" " + data + b"\r\n" + GOOD, BEFORE_LOGIN)
    assert received(events) == [data, GOOD]
    assert len(events) == 2


def test_xml_18_mark_at_the_start() -> None:
    assert received(read(b"\xef\xbb\xbf" + HEADER + GOOD)) == [GOOD]


def test_xml_20_declaration_of_utf8() -> None:
    header = HEADER.replace(b"'?>", b"' encoding='utf-8' standalone='yes'?>")
    assert received(read(header + GOOD)) == [GOOD]


def test_stream_without_declaration() -> None:
    assert received(read(b" \n" + HEADER[21:] + GOOD)) == [GOOD]


def test_opened_says_what_the_header_says() -> None:
    header = HEADER[:-1] + b" xml:lang='de'>"
    (opened,) = read(header)
    assert opened == Opened(
        {
            "to": "a.test",
            "version": "1.0",
            "{http://www.w3.org/XML/1998/namespace}lang": "de",
        },
        "jabber:client",
        False,
    )


def test_stanza_says_what_its_tags_say() -> None:
    (stanza,) = after_header(
        b"<iq type='get' id='1' xmlns:p='u}v' p:q='r'>"
        b"<p:a><b/></p:a><query xmlns='x y'/><c/></iq>"
    )
    assert stanza[:4] == (
        "iq",
        "jabber:client",
        {"type": "get", "id": "1", "{u}v}q": "r"},
        ("{u}v}a", "{x y}query", "{jabber:client}c"),
    )


def test_xml_29_prefix_is_no_name() -> None:
    data = (
        b"<message xmlns:stream='jabber:client'><stream:body>q</stream:body></message>"
    )
    (stanza,) = after_header(data)
    assert stanza.children == ("{jabber:client}body",)


@pytest.mark.parametrize(
    ("data", "ns", "name"),
    [
        (b"<message xmlns=''/>", "", "message"),
        (b"<message xmlns='jabber:server'/>", "jabber:server", "message"),
        (b"<message xmlns='jabber:client:'/>", "jabber:client:", "message"),
        (b"<MESSAGE/>", "jabber:client", "MESSAGE"),
    ],
)
def test_xml_30_namespace_is_told(data: bytes, ns: str, name: str) -> None:
    (event,) = Framer(AFTER_LOGIN).feed(HEADER + data)[1:]
    assert isinstance(event, Received)
    assert (event.stanza.ns, event.stanza.name) == (ns, name)
    assert not event.stanza.is_stanza


@pytest.mark.parametrize(
    "uri", ["u|jabber:client", "u}jabber:client", "{u}", "u jabber:client", "u&#10;v"]
)
def test_xml_32_separators_stay_in_the_name(uri: str) -> None:
    (stanza,) = after_header(f"<m xmlns='{uri}'/>".encode())
    assert (stanza.ns, stanza.name) == (uri.replace("&#10;", "\n"), "m")


@pytest.mark.parametrize("separator", ["\x01", "\x0c", "\x1e", "\x1f"])
def test_xml_32_control_characters(separator: str) -> None:
    events = after_header(f"<m xmlns='u{separator}jabber:client'/>".encode())
    assert condition(events) == MALFORMED


def test_xml_34_end_of_stream() -> None:
    assert after_header(GOOD + b"</stream:stream > \n") == [
        *after_header(GOOD),
        Closed(),
    ]


@pytest.mark.parametrize("behind", [GOOD, b"x", b"</stream:stream>", HEADER, b"<!--"])
def test_xml_34_bytes_behind_the_end(behind: bytes) -> None:
    events = after_header(b"</stream:stream>" + behind)
    assert events[0] == Closed()
    assert condition(events) == FORMAT
    assert len(events) == 2


def test_xml_37_limit_is_exact() -> None:
    deep = b"<a>" * 32 + b"</a>" * 32
    assert received(after_header(deep, BEFORE_LOGIN)) == [deep]
    deep = b"<a>" * 64 + b"</a>" * 64
    assert received(after_header(deep)) == [deep]
    assert condition(after_header(b"<a>" * 65)) == POLICY


def test_xml_38_limit_is_exact() -> None:
    fits = b"<m>" + b"x" * (SMALL.stanza - 7) + b"</m>"
    assert received(after_header(GOOD + fits + GOOD, SMALL)) == [GOOD, fits, GOOD]
    over = fits.replace(b"xx", b"xxx", 1)
    assert condition(after_header(GOOD + over, SMALL)) == POLICY


def test_xml_38_fault_within_the_limit_is_named() -> None:
    inside = b"<m a='" + b"x" * 1900 + b"<"
    assert condition(after_header(inside + b"x" * 200, SMALL)) == MALFORMED
    last = b"<m a='" + b"x" * 1993 + b"<"
    assert condition(after_header(last + b"x" * 200, SMALL)) == MALFORMED
    behind = b"<m a='" + b"x" * 1994 + b"<"
    assert condition(after_header(behind + b"x" * 200, SMALL)) == POLICY


def test_xml_38_whole_limit_comes_before_what_is_behind_it() -> None:
    data = b"<m>" + b"x" * 2500 + b"</n>"
    assert condition(after_header(data, SMALL)) == POLICY


def test_xml_39_text_about_declarations_is_text() -> None:
    data = b"<m>" + b"xmlns='u' " * 100 + b"</m>"
    assert received(after_header(data)) == [data]
    data = b"<m>" + b"<a xmlns='u'/>" * 64 + b"</m>"
    assert received(after_header(data)) == [data]


def test_xml_40_names_of_one_stanza() -> None:
    limits = Limits(stanza=100_000, hard=100_000, depth=8, children=9999)
    names = b"".join(b"<a%d/>" % n for n in range(4097))
    data = HEADER + b"<m>" + names + b"</m>"
    assert condition(run([data], limits)) == POLICY


def test_xml_42_names_of_many_stanzas_are_no_fault() -> None:
    data = b"".join(b"<m%d a%d='' xmlns:p%d='u'/>" % (n, n, n) for n in range(9000))
    assert len(received(run([HEADER, data]))) == 9000
    pieces = [data[at : at + 999] for at in range(0, len(data), 999)]
    assert len(received(run([HEADER, *pieces]))) == 9000


def test_foreign_header() -> None:
    header = HEADER[:-1] + b" xmlns:p='urn:p'>"
    framer = Framer(AFTER_LOGIN)
    opened, event = framer.feed(header + b"<m p:a='1'><p:b>c</p:b></m>")
    assert isinstance(opened, Opened)
    assert opened.foreign
    assert isinstance(event, Received)
    assert event.stanza.children == ("{urn:p}b",)
    assert event.stanza.raw is None
    # It stands for itself under a header that does not know the prefix.
    again = parse(event.stanza.to_bytes())
    assert serialise(again) == event.stanza.to_bytes()
    assert again.get("{urn:p}a") == "1"
    assert again[0].tag == "{urn:p}b"


def test_other_prefix_for_the_stream_is_foreign() -> None:
    header = HEADER.replace(b"stream:stream", b"s:stream")
    header = header.replace(b"xmlns:stream", b"xmlns:s")
    opened, stanza, closed = read(header + GOOD + b"</s:stream>")
    assert opened.foreign
    assert received([stanza]) == [GOOD]
    assert closed == Closed()


def test_raw_needs_no_copy_of_the_stream_prefix() -> None:
    framer = Framer(AFTER_LOGIN)
    data = b"<stream:features><bind xmlns='urn:b'/></stream:features>"
    _, event = framer.feed(HEADER + data)
    assert isinstance(event, Received)
    assert event.stanza.raw == data
    assert event.stanza.tree().tag == "{http://etherx.jabber.org/streams}features"


def test_clean_tells_of_waiting_bytes() -> None:
    framer = Framer(BEFORE_LOGIN)
    assert framer.clean
    framer.feed(b" <")
    assert not framer.clean
    framer.feed(HEADER[22:])
    assert framer.clean
    framer.feed(GOOD + b" \n")
    assert framer.clean
    for waiting in (b"<", b"mess", b"age>", b"</message"):
        framer.feed(waiting)
        assert not framer.clean
    framer.feed(b">")
    assert framer.clean


def test_limits_can_be_raised() -> None:
    framer = Framer(BEFORE_LOGIN)
    long = b"<m>" + b"x" * 20_000 + b"</m>"
    framer.feed(HEADER + GOOD)
    framer.limits = AFTER_LOGIN
    assert received(map_plain(framer, long)) == [long]


def map_plain(framer: Framer, data: bytes) -> list[Stanza]:
    return [
        Stanza(e.stanza.name, e.stanza.ns, {}, (), e.stanza.to_bytes())
        for e in framer.feed(data)
        if isinstance(e, Received)
    ]


# -- left out ---------------------------------------------------------------

OVER = {
    "XML-37": (
        b"<message from='x@y' id='7'>" + b"<a>" * 8 + b"</a>" * 8 + b"</message>",
        "nests",
    ),
    "XML-38-text": (
        b"<message from='x@y' id='7'>" + b"x" * 2500 + b"</message>",
        "longer",
    ),
    "XML-38-tags": (
        b"<message from='x@y' id='7'><a>" + b"<b></b>" * 500 + b"</a></message>",
        "longer",
    ),
    "XML-38-attribute": (
        b"<message a='" + b"x>" * 1500 + b"' from='x@y' id='7'/>",
        "longer",
    ),
    "XML-38-name": (
        b"<message from='x@y' id='7'><" + b"x" * 513 + b"/></message>",
        "name",
    ),
    "XML-38-namespace": (
        b"<message from='x@y' id='7'><a xmlns='" + b"x" * 600 + b"'/></message>",
        "name",
    ),
    "XML-39-attributes": (
        b"<message a='' b='' c='' d='' e='' from='x@y' id='7'/>",
        "attributes",
    ),
    "XML-39-children": (
        b"<message from='x@y' id='7'>" + b"<a/>" * 11 + b"</message>",
        "children",
    ),
    "XML-39-declarations": (
        b"<message from='x@y' id='7'>"
        + b"<a>"
        + b"<a xmlns:b='u'/>" * 65
        + b"</a></message>",
        "declares",
    ),
    "cdata": (
        b"<message from='x@y' id='7'>" + b"<![CDATA[<!--]]>" * 300 + b"</message>",
        "longer",
    ),
    "gt": (b"<message from='x@y' id='7'>" + b"/>" * 1500 + b"</message>", "longer"),
}


@pytest.mark.parametrize(("data", "reason"), OVER.values(), ids=OVER)
def test_res_15_over_limits_is_left_out(data: bytes, reason: str) -> None:
    events = after_header(GOOD + data + b" " + data + GOOD, SMALL, skip=True)
    assert received(events) == [GOOD, GOOD]
    expected = ("message", "jabber:client", {"from": "x@y", "id": "7"}, len(data))
    for one in skipped(events):
        assert (one.name, one.ns, one.attrs, one.size) == expected
        assert reason in one.reason
    assert len(events) == 4


@pytest.mark.parametrize(("data", "reason"), OVER.values(), ids=OVER)
def test_over_limits_breaks_where_nothing_is_left_out(data: bytes, reason: str) -> None:
    broken = after_header(GOOD + data + GOOD, SMALL)[1]
    assert broken.condition == POLICY
    assert reason in broken.text


@pytest.mark.parametrize(
    ("tag", "ns"),
    [
        (b"a xmlns='u'", "u"),
        (b"p:a xmlns:p='v'", "v"),
        (b"stream:a", "http://etherx.jabber.org/streams"),
        (b"a xmlns=''", ""),
    ],
)
def test_left_out_has_its_namespace(tag: bytes, ns: str) -> None:
    name = tag.split()[0]
    data = b"<" + tag + b">" + b"x" * 2500 + b"</" + name + b">"
    (one,) = after_header(data, SMALL, skip=True)
    assert (one.ns, one.name) == (ns, "a")


def test_left_out_keeps_no_long_attribute() -> None:
    data = b"<m id='" + b"x" * 3072 + b"' to='" + b"x" * 3071 + b"' foo=''/>"
    (one,) = after_header(data, SMALL, skip=True)
    assert one.attrs == {"to": "x" * 3071}


FATAL = {
    "hard": (b"<m>" + b"x" * 8000, POLICY),
    "hard-attribute": (b"<m a='" + b"x" * 8000, POLICY),
    "comment": (b"<m>" + b"x" * 2500 + b"<!--", RESTRICTED),
    "doctype": (b"<m>" + b"x" * 2500 + b"<!DOCTYPE", RESTRICTED),
    "malformed": (b"<m>" + b"x" * 2500 + b"</n>", MALFORMED),
    "entity": (b"<m>" + b"x" * 2500 + b"&foo;", MALFORMED),
    "unclosed": (b"<m>" + b"x" * 2500 + b"</stream:stream>", MALFORMED),
    "deep": (b"<m>" * 200, POLICY),
}


@pytest.mark.parametrize(("data", "expected"), FATAL.values(), ids=FATAL)
def test_over_limits_and_wrong(data: bytes, expected: str) -> None:
    events = after_header(GOOD + data, SMALL, skip=True)
    assert condition(events) == expected
    assert len(events) == 2


def test_res_15_ever_new_names_are_left_out() -> None:
    names = b"".join(b"<a%d b%d=''><!c%d/></a%d>" % (n, n, n, n) for n in range(20_000))
    names = names.replace(b"<!c", b"<c")
    limits = Limits(stanza=100_000, hard=2_000_000, depth=64)
    data = HEADER + b"<m>" + names + b"</m>" + GOOD
    assert len(names) < limits.hard
    for size in (len(data), 997):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        _, one, good = run(pieces, limits, skip=True)
        assert isinstance(one, Skipped)
        assert one.size == len(names) + 7
        assert good.data == GOOD


def test_res_15_parser_is_not_renewed_inside_cdata() -> None:
    names = b"".join(b"<a%d/>" % n for n in range(6000))
    limits = Limits(stanza=60_000, hard=200_000, depth=64)
    opening, rest = b"<m>" + names + b"<![CDATA[<!-- </m>", b"<b> ]]></m>"
    _, one, good = run([HEADER, opening, rest + GOOD], limits, skip=True)
    assert one.size == len(opening + rest)
    assert good.data == GOOD


# -- properties -------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cut_gives_the_same_events(data: st.DataObject) -> None:
    parts = data.draw(st.lists(stanzas(), max_size=4))
    white = data.draw(st.sampled_from((b"", b" ", b"\r\n")))
    whole = HEADER + white.join(serialise(part) for part in parts)
    whole += data.draw(st.sampled_from((b"", b"</stream:stream>", b"x", b"<!-")))
    pieces = data.draw(cuts(whole))
    skip = data.draw(st.booleans())
    limits = Limits(stanza=400, hard=800, depth=3, attributes=3, children=2)
    expected = run([whole], limits, skip=skip)
    assert run(pieces, limits, skip=skip) == expected
    assert run(pieces, limits, skip=skip, quiet=True) == expected


FRAGMENTS = [
    *(b"<a>", b"</a>", b"<a/>", b"<b c='", b"'", b'"', b">", b"/>", b"<", b"&amp;"),
    *(b"&#x41;", b"&foo;", b"&", b";", b"<![CDATA[", b"]]>", b"]", b"<!--", b"-->"),
    *(b"<?xml version='1.0'?>", b"<?", b"<!", b"<!DOCTYPE", b"\r", b"\n", b" "),
    *(b"xmlns='u'", b"xmlns:p='u' ", b"<p:a ", b"\xc3\xa9", b"\xc3", b"\x80", b"\0"),
    *(b"</stream:stream>", b"<stream:stream>", GOOD, b"x" * 50, b"\xf0\x9f\x98\x80"),
]


def _garbage(data: st.DataObject, end: bytes = b"") -> None:
    fragments = st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=6))
    header = data.draw(st.sampled_from((HEADER, HEADER, HEADER, b"", HEADER[:-1])))
    whole = header + b"".join(data.draw(st.lists(fragments, max_size=24))) + end
    limits = Limits(stanza=180, hard=300, depth=3, attributes=2, children=3)
    skip = data.draw(st.booleans())
    expected = run([whole], limits, skip=skip)
    assert run(data.draw(cuts(whole)), limits, skip=skip) == expected
    single = [whole[at : at + 1] for at in range(len(whole))]
    assert run(single, limits, skip=skip) == expected
    assert run(single, limits, skip=skip, quiet=True) == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbage_never_raises_and_cuts_do_not_matter(data: st.DataObject) -> None:
    _garbage(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbage_where_every_tag_is_long_and_parsers_are_renewed(
    data: st.DataObject,
) -> None:
    with (
        mock.patch.object(restricted, "_LONG_TAG", 3),
        mock.patch.object(framing, "_RENEW_AFTER_NAMES", 2),
        mock.patch.multiple(skim, _RENEW_AFTER_NAMES=1, _PIECE=8),
    ):
        # A fault inside a long tag may wait for the end of the tag, or for the
        # limit, which this is beyond.
        _garbage(data, b"x" * 500)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_xml_48_what_is_accepted_is_well_formed(data: st.DataObject) -> None:
    """A receiver without our restrictions reads the same stanzas."""
    fragments = st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4))
    body = b"".join(data.draw(st.lists(fragments, max_size=20)))
    accepted = received(run([HEADER, body]))
    parser = expat.ParserCreate("utf-8", "|")
    parser.Parse(HEADER)
    for one in accepted:
        parser.Parse(one)
    parser.Parse(b"</stream:stream>", True)
    # And the stanzas stand in the input, in order, with white space between.
    rest = body
    for one in accepted:
        rest = rest.lstrip(b" \t\r\n")
        assert rest.startswith(one)
        rest = rest[len(one) :]


def test_long_tag_in_small_pieces_is_linear() -> None:
    """Compared with half of it, so that the machine does not matter."""

    def seconds(size: int) -> float:
        data = b"<m a='" + b"x>" * (size // 2) + b"'/>"
        pieces = [data[at : at + 64] for at in range(0, len(data), 64)]
        best = 1e9
        for _ in range(5):
            framer = Framer(AFTER_LOGIN)
            framer.feed(HEADER)
            start = time.process_time()
            for piece in pieces:
                events = framer.feed(piece)
            best = min(best, time.process_time() - start)
            assert isinstance(events[0], Received)
        return best

    # Sixteen times the length: at a quadratic cost 256 times the time.
    assert seconds(256_000) < 64 * seconds(16_000)
