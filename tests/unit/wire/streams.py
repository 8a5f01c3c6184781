"""Bytes of streams, and what a framer makes of them however they are cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from proxy.wire.framing import (
    AFTER_LOGIN,
    Broken,
    Event,
    Framer,
    Limits,
    Opened,
    Received,
    Skipped,
)
from proxy.wire.stanza import Stanza as RealStanza

from ...support.badxml import HEADER

SMALL = Limits(stanza=2000, hard=8000, depth=8, attributes=6, children=10)


class Stanza(NamedTuple):
    """All of a received stanza, comparable."""

    name: str
    ns: str
    attrs: dict[str, str]
    children: tuple[str, ...]
    data: bytes


def shape(element: Element) -> Any:
    """All of a tree, comparable; the tail of the topmost is not its own."""
    inside = [(shape(child), child.tail) for child in element]
    return element.tag, dict(element.attrib), element.text, inside


def read_again(stanza: RealStanza) -> Element:
    """The tree of a stanza's bytes alone, whether or not one grew in the framer."""
    bare = RealStanza("none", {}, (), data=stanza._data, foreign=stanza._foreign)
    return bare.tree()


def plain(event: Event) -> Any:
    """Make *event* comparable."""
    if isinstance(event, Received):
        one = event.stanza
        assert shape(one.tree()) == shape(read_again(one))
        return Stanza(one.name, one.ns, dict(one.attrs), one.children, one.to_bytes())
    return event


def run(
    pieces: Iterable[bytes],
    limits: Limits = AFTER_LOGIN,
    *,
    skip: bool = False,
    quiet: bool = False,
) -> list[Any]:
    """Feed the pieces until the stream breaks.

    :param quiet: before each there is a rest that is long enough to be one.
    """
    framer = Framer(limits, skip_over_limits=skip)
    events: list[Any] = []
    for piece in pieces:
        if quiet:
            framer.rest(at_once=True)
        events += map(plain, framer.feed(piece))
        if events and isinstance(events[-1], Broken):
            break
    return events


def _whole(data: bytes) -> list[bytes]:
    return [data]


def _bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def _inside(data: bytes) -> list[bytes]:
    """Cut behind each '<' and '/', before each '>', inside each character."""
    at = [found.end() for found in re.finditer(rb"[<&/!?\[]|.(?=[>;\x80-\xbf])", data)]
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def _halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


CHUNKINGS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": _whole,
    "bytewise": _bytewise,
    "inside": _inside,
    "halves": _halves,
}


def read(data: bytes, limits: Limits = AFTER_LOGIN, *, skip: bool = False) -> list[Any]:
    """Read *data* in the four chunkings, with and without rests, which must agree;
    return the events."""
    results = {
        f"{name}, quiet: {quiet}": run(cut(data), limits, skip=skip, quiet=quiet)
        for name, cut in CHUNKINGS.items()
        for quiet in (False, True)
    }
    expected = results["whole, quiet: False"]
    for name, result in results.items():
        assert result == expected, name
    return expected


def after_header(
    data: bytes, limits: Limits = AFTER_LOGIN, *, skip: bool = False
) -> list[Any]:
    """Read *data* behind a good header; return the events behind `Opened`."""
    opened, *events = read(HEADER + data, limits, skip=skip)
    assert isinstance(opened, Opened)
    return events


def received(events: Iterable[Any]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Stanza)]


def condition(events: list[Any]) -> str:
    """The condition with which the stream broke, or ''."""
    return events[-1].condition if events and isinstance(events[-1], Broken) else ""


def skipped(events: Iterable[Any]) -> list[Skipped]:
    return [event for event in events if isinstance(event, Skipped)]
