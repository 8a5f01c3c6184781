"""What a server, or the gate before it, said when it refused: faults for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EnvFault, Fault, TrustFault
from .streams import STREAM_CONDITIONS, read_error, stream_condition

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ERRORS = "urn:x-tillie:errors:0"
_WORDS = {
    "root-changed": (
        "holds another key for this account than the one here",
        "if the device that has it is lost, ask the server's administrator for a reset",
    ),
    "unknown-device": (
        "does not know this device",
        "link it again: tillie link on another device, and tillie link CODE here",
    ),
    "key-required": ("asks for a key that was not shown", ""),
    "bad-proof": ("did not accept what this device showed of its key", ""),
}


class Refusal(TrustFault):
    """A gate that had proved itself refused the device; *word* is its condition."""

    def __init__(self, who: str, word: str, text: str) -> None:
        what, hint = _WORDS[word]
        said = f": {text}" if text else ""
        super().__init__(f"{who} {what}{said}", condition="not-authorized", hint=hint)
        self.word = word


def stream_fault(who: str, error: Element, *, gate: bool) -> Fault:
    """The fault that a stream error stands for (RFC 6120, 4.9).

    :param gate: whether a gate has proved itself on this stream.
    """
    condition, content, text = read_error(error, STREAM_CONDITIONS)
    for word in _WORDS if gate else ():
        if error.find(f"{{{ERRORS}}}{word}") is not None:
            return Refusal(f"the gate of {who}", word, text)
    what = f"the server of {who} ended the stream ({condition or 'no reason given'})"
    if content:
        what += f", naming {content}"
    if text:
        what += f": {text}"
    return EnvFault(what, condition=stream_condition(condition))


def no_tls(who: str, what: str) -> EnvFault:
    """TLS cannot be had from the server of *who*."""
    return EnvFault(
        f"the server of {who} {what}, so the password was not sent",
        hint="ask the server's operator; someone on the way may also have "
        "removed it, so try from another network",
    )


def smuggled(who: str) -> TrustFault:
    """Bytes came where a new layer was to begin."""
    return TrustFault(
        f"the server of {who} sent data across the start of a new stream, which is "
        "how commands are smuggled past TLS; the connection was dropped",
        hint="try from another network, then ask the server's operator",
    )
