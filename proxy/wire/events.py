"""What a framer tells of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .stanza import Stanza


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream header came.

    :param attrs: plain names, and Clark names for those with a namespace.
    :param default_ns: the content namespace, which the framer was made for.
    :param foreign: the header declares more than the usual two namespaces, so
        that stanzas cannot be passed on as the bytes they came in.
    """

    attrs: Mapping[str, str]
    default_ns: str
    foreign: bool


@dataclass(frozen=True, slots=True)
class Received:
    """One first-level element of the stream, of whatever name."""

    stanza: Stanza


@dataclass(frozen=True, slots=True)
class Skipped:
    """A well-formed first-level element over the limits came and was left out.

    :param attrs: of ``to``, ``from``, ``id``, ``type`` what was there and no
        longer than a JID can be.
    :param size: bytes.
    :param reason: the limit, for people: "is longer than 262144 bytes".
    """

    name: str
    ns: str
    attrs: Mapping[str, str]
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The far side closed its stream."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream cannot be read on; the last event.

    :param condition: of RFC 6120, 4.9.3.
    :param text: for people.
    """

    condition: str
    text: str


Event: TypeAlias = Opened | Received | Skipped | Closed | Broken
