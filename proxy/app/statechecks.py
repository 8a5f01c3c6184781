"""``tillie gate check``, what the gate says of itself (docs/protocol.md, 14.15).

Behind its proof, on the same stream: whether the directory answers, and whether the
gate can look up and sign.  That it can sign is not believed but verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from ..core.streams import STREAM_CONDITIONS, STREAMS, read_error
from ..errors import EnvFault, Fault, PeerFault, TrustFault
from ..gate.names import AUTH, KEY
from ..gate.outside import Finding
from ..keys.servers import ServerDocument
from ..keys.tokens import TOKEN_MS, open_absence
from ..net.visit import Visit
from .checking import Place, day

_ASK: Final = f"<state xmlns='{AUTH}'/>".encode()
_LOG: Final = "the gate's log says why"


@dataclass(frozen=True, slots=True)
class State:
    """What one gate said.

    :param directory: ``answering``, ``away`` or ``none``.
    :param tokens: until when a token lasts that is signed now, Unix milliseconds;
        0 if it did not show that it can sign one.
    :param unasked: why it said nothing, if it was not for a fault of its own.
    :param fault: what was wrong with the answer.
    """

    place: Place
    directory: str = ""
    tokens: int = 0
    unasked: str = ""
    fault: str = ""


async def ask(visit: Visit, place: Place, document: ServerDocument, now: int) -> State:
    """Ask on *visit*, where the gate has proved itself with *document*."""
    try:
        visit.send(_ASK)
        answer = await visit.read()
        if (answer.ns, answer.name) == (STREAMS, "error"):
            condition, _, text = read_error(answer.tree(), STREAM_CONDITIONS)
            if condition == "resource-constraint":
                return State(place, unasked=text)
            raise EnvFault(f"the gate ended the stream: {condition} “{text}”")
        if (answer.ns, answer.name) != (AUTH, "state"):
            raise PeerFault(f"it was answered with <{answer.name}/>")
        tree = answer.tree()
        tokens = _tokens(tree, document, now)
        return State(place, tree.get("directory", ""), tokens)
    except Fault as fault:
        return State(place, fault=fault.text)


def _tokens(state: Element, document: ServerDocument, now: int) -> int:
    """Until when a token lasts, 0 where the gate shows no signature.

    :raises Fault: what it shows is not what it should be.
    """
    absent = state.find(f"{{{KEY}}}absent")
    if absent is None:
        return 0
    text = absent.findtext(f"{{{KEY}}}document") or ""
    absence = open_absence(text.encode(), absent.get("jid", ""), document.keys)
    if absence.jid.partition("@")[2] != document.domain:
        raise TrustFault("it signed for another domain")
    if not absence.current(now):
        raise TrustFault("what it signed is out of time")
    until = state.get("tokens", "")
    if not (until.isascii() and until.isdigit()) or len(until) > 16:
        raise PeerFault("it does not say how long tokens last")
    # nobody takes a token whose key's document is over
    return min(int(until), now + TOKEN_MS, document.expires)


def findings(
    document: ServerDocument | None, states: Sequence[State], now: int
) -> list[Finding]:
    """The rows on directory and tokens, of all places together."""
    if document is None:
        text = "the gate did not prove itself"
        return [Finding(name, "", None, text) for name in ("directory", "tokens")]
    return [_directory(document, states), *_signing(states, now)]


def _directory(document: ServerDocument, states: Sequence[State]) -> Finding:
    name = document.directory
    if name is None:
        return Finding(
            "directory",
            "",
            False,
            "the gate's document names none: nobody learns the keys of who is offline",
            "tillie gate run --component HOST:PORT --component-secret-file FILE",
        )
    there = [one for one in states if one.directory == "answering"]
    if there:
        away = [one.place.name for one in states if one.directory == "away"]
        text = "directory answering"
        if away:
            # of several gates one is the directory, and it does not matter which
            text += f"; another gate than the one at {', '.join(away)}"
        return Finding("directory", name, True, text)
    said = [one for one in states if one.directory]
    if not said:
        return _unasked("directory", name, states)
    return Finding(
        "directory",
        name,
        False,
        "the server passes nothing on to it: others cannot learn the domain's keys",
        "is the component in the server's configuration, with the same secret and"
        f" port (tillie gate config)? {_LOG}",
    )


def _signing(states: Sequence[State], now: int) -> list[Finding]:
    """One row for each place that fails, or one for all."""
    bad = [one for one in states if one.directory and not one.tokens]
    if bad:
        return [
            Finding(
                "tokens",
                one.place.name,
                False,
                "the gate does not look up or does not sign: nobody new gets in, and"
                " tokens run out",
                f"is its database there, and its signing process? {_LOG}",
            )
            for one in bad
        ]
    until = [one.tokens for one in states if one.tokens]
    if not until:
        return [_unasked("tokens", "", states)]
    if min(until) <= now:
        text = f"over since {day(min(until) / 1000)}, with the domain's key"
        return [Finding("tokens", "", False, text, "see server-key")]
    text = f"the gate signs; tokens of today valid until {day(min(until) / 1000)}"
    return [Finding("tokens", "", True, text)]


def _unasked(check: str, where: str, states: Sequence[State]) -> Finding:
    wrong = [one for one in states if one.fault]
    if wrong:
        text = f"the gate does not say: {wrong[0].fault}"
        return Finding(check, where, False, text, _LOG)
    return Finding(check, where, None, f"the gate does not say: {states[0].unasked}")
