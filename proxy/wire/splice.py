"""Taking children out of an element, and putting one in, byte for byte.

For what must pass as it is but for one part: all other bytes stay the same.
"""

from __future__ import annotations

from collections.abc import Callable

from .restricted import strict_parser
from .stanza import Stanza
from .tree import clark, serialise

_HEADER = (
    b"<stream:stream xmlns='jabber:client'"
    b" xmlns:stream='http://etherx.jabber.org/streams'>"
)


def spliced(stanza: Stanza, drop: Callable[[str], bool], added: bytes = b"") -> bytes:
    """Give the bytes of *stanza* with some of its children left out.

    :param drop: is asked the Clark name of each child.
    :param added: an element that becomes the last child; it declares its own
        namespace.
    """
    raw = stanza.raw
    if raw is None:
        raw = serialise(stanza.tree())
    if not added and not any(map(drop, stanza.children)):
        return raw
    if raw.endswith(b"/>") and not stanza.children:
        tag = raw[:-2]
        return tag + b">" + added + b"</" + tag[1:].split(None, 1)[0] + b">"
    starts, end = _cuts(raw)
    out = [raw[: starts[0][0]] if starts else raw[:end]]
    bounds = [*(at for at, _ in starts), end][1:]
    out += [
        raw[at:until]
        for (at, name), until in zip(starts, bounds, strict=True)
        if not drop(name)
    ]
    return b"".join([*out, added, raw[end:]])


def _cuts(raw: bytes) -> tuple[list[tuple[int, str]], int]:
    """Where each child begins, with its name, and where the closing tag does."""
    starts: list[tuple[int, str]] = []
    parser = strict_parser({})
    depth, end = 0, len(raw)

    def start(tag: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth == 3:
            starts.append((parser.CurrentByteIndex - len(_HEADER), clark(tag)))

    def stop(_tag: str) -> None:
        nonlocal depth, end
        depth -= 1
        if depth == 1:
            end = parser.CurrentByteIndex - len(_HEADER)

    parser.StartElementHandler = start
    parser.EndElementHandler = stop
    parser.Parse(_HEADER, False)
    parser.Parse(raw, False)
    return starts, end
