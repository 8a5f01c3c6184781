"""A reader that stays warm reads what one that is new each time reads."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import PeerFault
from proxy.wire import framing
from proxy.wire.reader import Reader
from proxy.wire.tree import parse

from .streams import shape
from .test_framing import FRAGMENTS

NAME = "{urn:example}e"
GOOD = b"<e xmlns='urn:example' a='1'>x<b xmlns='jabber:client'>&lt;</b> y</e>"


def outcome(read: object, data: bytes) -> object:
    assert callable(read)
    try:
        return shape(read(data))
    except PeerFault as fault:
        return fault.condition, fault.text


# what stands inside, what is around it, and what would end the stream around it
BYTES = st.lists(
    st.one_of(
        st.sampled_from(
            [*FRAGMENTS, GOOD, b"<e xmlns='urn:example'>", b"</e>", b"<_:e/>", b"_"]
        ),
        st.binary(max_size=4),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(BYTES, min_size=1, max_size=5))
def test_it_says_what_a_fresh_parser_says_whatever_came_before(
    several: list[bytes],
) -> None:
    reader = Reader(NAME)
    for data in several:
        assert outcome(reader.read, data) == outcome(parse, data)
        assert shape(reader.read(GOOD)) == shape(parse(GOOD))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        GOOD + GOOD,
        GOOD + b"</stream:stream>",
        GOOD + b"text",
        GOOD[:-1],
        b"<e xmlns='urn:example'>",
        b"<!DOCTYPE e>" + GOOD,
        b"<?xml version='1.0'?>" + GOOD,
        b"<e xmlns='urn:example'><!-- --></e>",
        b"<e xmlns='urn:example'>" + b"<f/>" * 1025 + b"</e>",
        b"<e xmlns='urn:example'>" + b"<f>" * 64 + b"</f>" * 64 + b"</e>",
        b"<p:e/>",
        b"<stream:stream/>",
        b"<stream:error/>",
        b"<_:e/>",
        b"<e xmlns='urn:example'><_:error/></e>",
        b"</_:stream>",
    ],
)
def test_what_is_refused_is_refused_each_time_and_leaves_nothing(data: bytes) -> None:
    reader = Reader(NAME)
    for _ in range(3):
        reader.read(GOOD)
        with pytest.raises(PeerFault):
            reader.read(data)
    assert shape(reader.read(GOOD)) == shape(parse(GOOD))


def test_the_parser_stays_and_is_renewed_before_names_add_up() -> None:
    reader = Reader(NAME)
    with mock.patch.object(framing, "_RENEW_AFTER_NAMES", 200):
        most = 0
        for number in range(2_000):
            reader.read(b"<e xmlns='urn:example'><n%d/></e>" % number)
            assert reader._framer is not None
            most = max(most, len(reader._framer._names))
    assert most < 220
