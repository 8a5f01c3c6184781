"""The plaintext of a seal: an SCE envelope (XEP-0420), padded.

Bytes in, elements out and back.  Lengths of the padding are never an error on
reading; the writer pads to 512 bytes and then by Padmé, so that a length
tells at most some 12 per cent.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..wire import tree
from ..wire.framing import PAYLOAD
from ..wire.jid import Jid
from ..wire.reader import Reader
from .classes import ADDRESS, DELAY, SEAL, Class, class_of

SCE = "urn:xmpp:sce:1"
_TOKEN = f"{{{SEAL}}}token"
_ENVELOPE = f"{{{SCE}}}envelope"
_SMALLEST = 512
_reader = Reader(_ENVELOPE)
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_ADDRESSES = f"{{{ADDRESS}}}addresses"
_KEPT_OUTSIDE = frozenset({"to", "from", "type", "id"})


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a seal says.

    :param type: the stanza's ``type`` as the client gave it, or its default.
    :param id: the stanza's id, or None where the client gave none.
    :param sender: bare JID; *to* the bare JID it was meant for.
    :param attributes: the root's other attributes, ``xml:lang`` among them.
    :param token_hash: names the sender's token, base64; empty where there is none.
    :param token: that token itself, JWS as text, where it goes along (15.4).
    """

    type: str
    id: str | None
    sender: str
    to: str
    content: tuple[Element, ...]
    attributes: dict[str, str]
    time: str = ""
    token_hash: str = ""
    token: str = ""


def padded(size: int) -> int:
    """Padmé (Nikitin et al. 2019) from 512 bytes up."""
    if size <= _SMALLEST:
        return _SMALLEST
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def write(envelope: Envelope, now: int) -> bytes:
    """The padded bytes of *envelope*; *now* in milliseconds, for display only."""
    parts = [f"<envelope xmlns='{SCE}'><content>"]
    parts += [tree.written(child, inherited=SCE) for child in envelope.content]
    id_ = "" if envelope.id is None else f" id={_quoted(envelope.id)}"
    parts.append(
        f"</content><time stamp='{_stamp(now // 1000)}'/>"
        f"<from jid={_quoted(envelope.sender)}/><to jid={_quoted(envelope.to)}/>"
        f"<bind xmlns='{SEAL}' type={_quoted(envelope.type)}{id_}"
        f"{_token_hash(envelope)}/>"
    )
    if envelope.token:
        token = Element(_TOKEN)
        token.text = envelope.token
        parts.append(tree.written(token, inherited=SCE))
    if envelope.attributes:
        extra = Element(f"{{{SEAL}}}attributes", envelope.attributes)
        parts.append(tree.written(extra, inherited=SCE))
    data = "".join(parts).encode()
    size = len(data) + len(b"<rpad></rpad></envelope>")
    return b"%b<rpad>%b</rpad></envelope>" % (data, b"0" * (padded(size) - size))


@lru_cache(maxsize=4)
def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _token_hash(envelope: Envelope) -> str:
    text = envelope.token_hash
    return f" token={_quoted(text)}" if text else ""


def _quoted(text: str) -> str:
    return f"'{tree.quoted(text)}'"


def read(data: bytes) -> Envelope:
    """Take apart what :func:`write` made.

    :raises PeerFault: not well-formed within the limits, a part is missing or
        doubled, or an address is none.
    """
    root = _reader.read(data)
    if root.tag != _ENVELOPE:
        raise PeerFault("the seal holds no envelope")
    parts: dict[str, Element] = {}
    for child in root:
        if child.tag in parts:
            raise PeerFault("a part of the envelope is doubled")
        parts[child.tag] = child
    try:
        bind = parts[f"{{{SEAL}}}bind"]
        content = parts[f"{{{SCE}}}content"]
        sender = str(Jid.parse(parts[f"{{{SCE}}}from"].get("jid", "")))
        to = str(Jid.parse(parts[f"{{{SCE}}}to"].get("jid", "")))
    except KeyError as error:
        raise PeerFault("a part of the envelope is missing") from error
    time = parts.get(f"{{{SCE}}}time")
    attributes = parts.get(f"{{{SEAL}}}attributes")
    return Envelope(
        type=bind.get("type", "normal"),
        id=bind.get("id"),
        sender=sender,
        to=to,
        content=_bounded(_allowed(content, sender)),
        attributes=dict(attributes.attrib) if attributes is not None else {},
        time="" if time is None else time.get("stamp", ""),
        token_hash=bind.get("token", ""),
        token=root.findtext(_TOKEN) or "",
    )


def _allowed(content: Element, sender: str) -> Iterable[Element]:
    """Children that may come from inside a seal (R5, ENC-28)."""
    for child in content:
        class_ = class_of(child.tag)
        if class_ in (Class.SERVER, Class.CLEAR):
            continue
        if child.tag == f"{{{DELAY}}}delay" and not _own_delay(child, sender):
            continue
        yield _without_origin(child)


def _without_origin(child: Element) -> Element:
    """XEP-0033's ``ofrom`` says who wrote to a room: the room's word alone."""
    if child.tag != _ADDRESSES or all(one.get("type") != "ofrom" for one in child):
        return child
    kept = Element(child.tag, child.attrib)
    kept.extend(one for one in child if one.get("type") != "ofrom")
    return kept


def _bounded(children: Iterable[Element]) -> tuple[Element, ...]:
    kept = tuple(children)
    if len(kept) > PAYLOAD.children:
        raise PeerFault("too many elements under a seal")
    return kept


def _own_delay(delay: Element, sender: str) -> bool:
    try:
        return str(Jid.parse(delay.get("from", "")).bare) == sender
    except PeerFault:
        return False


def root_attributes(attributes: dict[str, str]) -> dict[str, str]:
    """Attributes of the stanza's root that travel inside (R4)."""
    return {
        name: value for name, value in attributes.items() if name not in _KEPT_OUTSIDE
    }


def restore(envelope: Envelope, outer: dict[str, str]) -> Element:
    """The message as the sender's client wrote it, addressed as it arrived."""
    message = Element("{jabber:client}message")
    for name in ("to", "from"):
        if name in outer:
            message.set(name, outer[name])
    if envelope.type != "normal" or outer.get("type"):
        message.set("type", envelope.type)
    id_ = envelope.id if envelope.id is not None else outer.get("id")
    if id_ is not None:
        message.set("id", id_)
    for name, value in envelope.attributes.items():
        if name not in _KEPT_OUTSIDE and name != "xmlns":
            message.set(name, value)
    message.extend(copy(child) for child in envelope.content)
    return message
