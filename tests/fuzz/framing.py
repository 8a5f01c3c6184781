# Any bytes, however cut, give the same events and nothing but events: stanzas that
# another parser reads alone, and at most one end of the stream, behind which nothing is.
"""What a connection may send: the framer, in every cutting."""

from __future__ import annotations

from xml.parsers import expat

from proxy.wire.framing import Broken, Closed, Limits

from ..support.badxml import BEHIND, FIRST, HEADER, PASSED
from ..unit.wire.streams import received, run

LIMITS = (
    Limits(stanza=700, hard=1_400, depth=8, attributes=6, children=10),
    Limits(stanza=180, hard=300, depth=3, attributes=2, children=3),
)
LONGEST = 1_000
# a fault inside a long tag may wait for the tag's end or for the limit: this is past it
BEYOND = b"x" * 1_500


def seeds() -> list[bytes]:
    """The lists of docs/threats.md; files in the corpus stand beside them."""
    behind = [HEADER + data for data, _ in BEHIND.values()]
    passed = [HEADER + data for data in PASSED.values()]
    return [data for data, _ in FIRST.values()] + behind + passed


def one(data: bytes) -> None:
    """The first byte says whether stanzas over the limits are left out."""
    skip, data = bool(data[:1] > b"\x7f"), data[:LONGEST] + BEYOND
    for limits in LIMITS:
        whole = run([data], limits, skip=skip)
        for cut in (1, 7):
            pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
            assert run(pieces, limits, skip=skip) == whole
        end = [at for at, one in enumerate(whole) if isinstance(one, Broken | Closed)]
        assert not end or not received(whole[end[0] :]), "read on behind the end"
        assert not any(isinstance(one, Broken) for one in whole[:-1])
        for stanza in received(whole):
            parser = expat.ParserCreate("utf-8", "|")
            parser.Parse(HEADER)
            parser.Parse(stanza)
