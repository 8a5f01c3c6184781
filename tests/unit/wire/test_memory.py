"""What a long stream keeps: nothing (threats.md XML-37 to XML-42)."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proxy.wire.framing import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    Broken,
    Framer,
    Received,
    Skipped,
)

from .streams import HEADER

KIB = 1024


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that returns the bytes that Python holds (expat's too)."""
    tracemalloc.start()
    try:

        def held() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        yield held
    finally:
        tracemalloc.stop()


def chats(n: int) -> bytes:
    return b"<message id='%d' to='b@b.test'><body>number %d</body></message>" % (n, n)


def new_names(n: int) -> bytes:
    return b"<message><a%d b%d='' xmlns='u%d'/></message>" % (n, n, n)


def new_prefixes(n: int) -> bytes:
    return b"<message xmlns:p%d='u%d'/>" % (n, n)


def keepalives(_n: int) -> bytes:
    return b" " * 2000


@pytest.mark.parametrize(
    "make", [chats, new_names, new_prefixes, keepalives], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("split", [0, 13], ids=["whole", "always-open"])
def test_xml_40_41_42_nothing_adds_up(make: Callable[[int], bytes], split: int) -> None:
    """The parser's own memory is Python's here, so tracing sees all of it."""
    with traced() as held:
        framer = Framer(AFTER_LOGIN)
        framer.feed(HEADER)
        # Read boundaries never fall between two stanzas in the second form.
        rest = b""
        base = 0
        for n in range(24_000):
            data = rest + make(n)
            cut = len(data) - split
            rest = data[cut:]
            framer.feed(data[:cut])
            if n == 4000:
                base = held()
        # One stanza in 20,000 keeps 52 bytes at the most.
        assert held() - base < KIB * KIB


def test_xml_12_38_endless_token_is_cut_at_the_limit() -> None:
    for start in (HEADER + b"<m a='", HEADER + b"<m>&#", b"<?xml version='1.0'?><!x"):
        framer = Framer(BEFORE_LOGIN)
        fed = 0
        events: list[object] = list(framer.feed(start))
        while not (events and isinstance(events[-1], Broken)):
            events += framer.feed(b"0" * 64)
            fed += 64
            assert fed <= BEFORE_LOGIN.stanza + 64


@pytest.mark.parametrize(
    "inside",
    [
        b"".join(b"<a%d/>" % n for n in range(200_000)),
        b"<a>" * 30_000 + b"</a>" * 30_000,
        b"<a xmlns='" + b"u" * 100_000 + b"'>" + b"<b/>" * 100_000 + b"</a>",
        b"".join(b"<a xmlns:p%d='u'/>" % n for n in range(90_000)),
        b"<a " + b"".join(b"a%d='' " % n for n in range(70_000)) + b"/>",
        b"x" * 2_000_000,
    ],
    ids=["names", "deep", "namespace", "prefixes", "attributes", "text"],
)
def test_res_15_left_out_costs_no_memory(inside: bytes) -> None:
    data = b"<message>" + inside + b"</message>"
    assert len(data) < AFTER_LOGIN.hard
    with traced() as held:
        framer = Framer(AFTER_LOGIN, skip_over_limits=True)
        framer.feed(HEADER)
        base = held()
        tracemalloc.reset_peak()
        events: list[object] = []
        for at in range(0, len(data), 16_384):
            events += framer.feed(data[at : at + 16_384])
        assert isinstance(events[0], Skipped)
        assert len(events) == 1
        peak = tracemalloc.get_traced_memory()[1]
        events.clear()
        assert peak - base < 24 * KIB * KIB
        assert held() - base < 256 * KIB


def test_broken_stream_keeps_nothing() -> None:
    with traced() as held:
        base = held()
        framers = []
        for _ in range(20):
            framer = Framer(AFTER_LOGIN)
            framer.feed(HEADER + b"<m>" + b"x" * 200_000)
            framer.feed(b"</n>")
            framers.append(framer)
        assert held() - base < 20 * 32 * KIB


def test_xml_38_a_long_stanza_leaves_no_buffer_behind() -> None:
    with traced() as held:
        framer = Framer(AFTER_LOGIN)
        framer.feed(HEADER)
        base = held()
        framer.feed(b"<message><body>" + b"x" * 200_000 + b"</body></message>")
        assert held() - base < 8 * KIB


def test_a_closed_framer_waits_for_no_collector() -> None:
    gc.disable()
    try:
        tracemalloc.start()
        base = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            framer = Framer(AFTER_LOGIN)
            framer.feed(HEADER + b"<message>")
            framer.close()
        assert tracemalloc.get_traced_memory()[0] - base < 60 * KIB
    finally:
        tracemalloc.stop()
        gc.enable()


def test_res_01_a_quiet_stream_gives_up_its_parser() -> None:
    """Most streams are quiet most of the time, and strangers' are."""
    with traced() as held:
        base = held()
        framers = [Framer(AFTER_LOGIN) for _ in range(50)]
        for framer in framers:
            framer.feed(HEADER + chats(1))
        busy = held() - base
        assert busy < 50 * 19 * KIB
        for framer in framers:
            framer.rest()
        # something came since the last time, which was never
        assert held() - base > busy - 50 * KIB
        for framer in framers:
            framer.rest()
        assert held() - base < 50 * 3 * KIB
        for framer in framers:
            framer.feed(b" ")
        assert held() - base < 50 * 3 * KIB
        assert all(framer.feed(chats(2)) for framer in framers)


def test_res_02_a_long_header_is_not_read_again_for_each_small_stanza() -> None:
    """A stranger chooses it: 9 KB for each 23 bytes would be cheap for nobody else."""
    names = b"".join(b" xmlns:n%d='%s'" % (at, b"u" * 150) for at in range(50))
    with traced() as held:
        base = held()
        framer = Framer(BEFORE_LOGIN)
        framer.feed(HEADER[:-1] + names + b">" + chats(1))
        busy = held() - base
        framer.rest(at_once=True)
        assert held() - base > busy - KIB
        # once it is quiet it is like any other
        framer.rest()
        assert held() - base < busy - 4 * KIB


def test_a_stanza_that_waits_for_its_rest_keeps_its_parser() -> None:
    framer = Framer(AFTER_LOGIN)
    framer.feed(HEADER + b"<message><body>a")
    framer.rest(at_once=True)
    (event,) = framer.feed(b"b</body></message>")
    assert isinstance(event, Received)
    assert event.stanza.to_bytes() == b"<message><body>ab</body></message>"
