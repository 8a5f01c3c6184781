"""What a gate must look like from outside: questions, and what the answers mean.

For ``tillie gate check``, which has no account and no secret.  Everything here is
bytes in, findings out; the edge connects, and tells what it saw.

A road in is closed if the gate itself refuses it.  Whether it did is told by an
attempt that no server would refuse in the same way: a mechanism that does not exist
(RFC 6120, 6.5.7).  What the gate says to that, it must say on every other road.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from ..core.streams import (
    MANAGEMENT,
    SASL,
    STREAM_CONDITIONS,
    STREAMS,
    read_error,
    shown,
)
from ..suites.fields import b64
from ..wire.restricted import CLIENT_NS
from ..wire.stanza import STANZAS_NS, Stanza
from .names import AUTH, BIND, ERRORS, LEGACY_AUTH, REGISTER, SASL2

NO_MECHANISM: Final = "X-TILLIE-CHECK"
_NOBODY: Final = "tillie-check"
_KEY_REQUIRED: Final = f"{{{ERRORS}}}key-required"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of what was found.

    :param check: a word for programs.
    :param where: which place was looked at, for people.
    :param ok: None if it was not tried; *text* then says why.
    :param hint: what to do about it.
    """

    check: str
    where: str
    ok: bool | None
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt.

    :param stanza: the first element that came, None if none did.
    :param end: how the connection ended without one.
    """

    stanza: Stanza | None
    end: str = ""


@dataclass(frozen=True, slots=True)
class Road:
    """One way to an account, tried without a key.

    :param kind: ``sasl``, ``iq``, ``resume``: what an answer is judged by.
    """

    name: str
    kind: str
    data: bytes


def offers_keys(features: Stanza) -> tuple[str, str] | None:
    """(nonce, policy) of the gate's ``<keys/>`` (14.2), None if there is none."""
    keys = features.tree().find(f"{{{AUTH}}}keys")
    if keys is None:
        return None
    return keys.get("nonce", ""), shown(keys.get("policy", ""), 40)


# -- roads in ---------------------------------------------------------------


def roads(features: Stanza) -> list[Road]:
    """Every road to try: what the features offer, and what nobody offers."""
    found = [_sasl(NO_MECHANISM)]
    found += [_sasl(one) for one in mechanisms(features)]
    if "ANONYMOUS" not in mechanisms(features):
        found.append(_sasl("ANONYMOUS"))
    if f"{{{SASL2}}}authentication" in features.children:
        found.append(_sasl2(mechanisms(features)))
    return [*found, *_OTHERS]


def mechanisms(features: Stanza) -> list[str]:
    """SASL mechanisms on offer, of both generations; odd names are left out."""
    tree = features.tree()
    named = [
        *tree.iterfind(f"{{{SASL}}}mechanisms/{{{SASL}}}mechanism"),
        *tree.iterfind(f"{{{SASL2}}}authentication/{{{SASL2}}}mechanism"),
    ]
    names = dict.fromkeys((one.text or "").strip() for one in named)
    return [one for one in names if _is_mechanism(one)][:16]


def _is_mechanism(name: str) -> bool:
    # RFC 4422, 3.1; nothing else may stand in what is sent.
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    return 0 < len(name) <= 20 and set(name) <= allowed


def _first_message(mechanism: str) -> bytes:
    if mechanism == "PLAIN":
        return f"\0{_NOBODY}\0{_NOBODY}".encode()
    if mechanism.startswith("SCRAM-"):
        return f"n,,n={_NOBODY},r={_NOBODY}".encode()
    return _NOBODY.encode()


def _sasl(mechanism: str) -> Road:
    message = b64(_first_message(mechanism))
    data = f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{message}</auth>"
    return Road(f"SASL {mechanism}", "sasl", data.encode())


def _sasl2(offered: list[str]) -> Road:
    mechanism = offered[0] if offered else NO_MECHANISM
    message = b64(_first_message(mechanism))
    data = (
        f"<authenticate xmlns='{SASL2}' mechanism='{mechanism}'>"
        f"<initial-response>{message}</initial-response></authenticate>"
    )
    return Road("SASL2", "sasl", data.encode())


def _iq(name: str, kind: str, payload: str) -> Road:
    data = f"<iq type='{kind}' id='tillie-check'>{payload}</iq>"
    return Road(name, "iq", data.encode())


_OTHERS: Final = (
    _iq("registration, the form", "get", f"<query xmlns='{REGISTER}'/>"),
    _iq(
        "registration",
        "set",
        # An empty password makes no account, whoever answers.
        f"<query xmlns='{REGISTER}'><username>{_NOBODY}</username><password/></query>",
    ),
    _iq(
        "XEP-0078",
        "get",
        f"<query xmlns='{LEGACY_AUTH}'><username>{_NOBODY}</username></query>",
    ),
    _iq("binding before login", "set", f"<bind xmlns='{BIND}'/>"),
    Road(
        "resumption",
        "resume",
        f"<resume xmlns='{MANAGEMENT}' previd='{_NOBODY}' h='0'/>".encode(),
    ),
)


def judge_road(road: Road, answer: Answer, words: str = "") -> tuple[bool, str]:
    """Whether the gate closed *road*, and a sentence on it.

    :param words: what it said to the mechanism that does not exist; empty for
        that one itself.  They are quoted once.
    """
    stanza = answer.stanza
    if stanza is None:
        return False, f"{road.name}: no answer ({answer.end})"
    tag = f"{{{stanza.ns}}}{stanza.name}"
    if tag == f"{{{STREAMS}}}error":
        condition, _, text = read_error(stanza.tree(), STREAM_CONDITIONS)
        # Whoever ends the stream lets nobody in on it, gate or not.
        return True, f"{road.name}: the stream is ended ({condition}: “{text}”)"
    judge = {"sasl": _judge_sasl, "iq": _judge_iq, "resume": _judge_resume}
    return judge[road.kind](road, stanza, words)


def _judge_sasl(road: Road, stanza: Stanza, words: str) -> tuple[bool, str]:
    if stanza.name != "failure" or stanza.ns not in (SASL, SASL2):
        return False, f"{road.name}: the server answers it with <{stanza.name}/>"
    condition, text = sasl_refusal(stanza)
    if condition != "not-authorized" or not text or (words and text != words):
        said = f"{condition}: “{text}”" if text else condition
        return False, f"{road.name}: the server refuses it, not the gate ({said})"
    return True, _closed(road, text, words)


def _closed(road: Road, text: str, words: str) -> str:
    said = "refused with the same words" if text == words else f"“{text}”"
    return f"{road.name}: {said}"


def sasl_refusal(stanza: Stanza) -> tuple[str, str]:
    """(condition, text) of a ``<failure/>``; the condition is SASL's in both."""
    tree = stanza.tree()
    condition, _, text = read_error(tree, SASL)
    if stanza.ns == SASL2:
        text = shown(tree.findtext(f"{{{SASL2}}}text") or "")
    return condition, text


def _judge_iq(road: Road, stanza: Stanza, words: str) -> tuple[bool, str]:
    if stanza.name != "iq" or stanza.type != "error":
        return False, f"{road.name}: answered as if nobody stood in front"
    error = stanza.tree().find(f"{{{CLIENT_NS}}}error")
    if error is None or error.find(_KEY_REQUIRED) is None:
        condition = _condition(error)
        return False, f"{road.name}: the server refuses it, not the gate ({condition})"
    text = shown(error.findtext(f"{{{STANZAS_NS}}}text") or "")
    return True, _closed(road, text, words)


def _condition(error: Element | None) -> str:
    return "no condition" if error is None else read_error(error, STANZAS_NS)[0]


def _judge_resume(road: Road, stanza: Stanza, _words: str) -> tuple[bool, str]:
    if (stanza.ns, stanza.name) != (MANAGEMENT, "failed"):
        return False, f"{road.name}: answered with <{stanza.name}/>"
    if _KEY_REQUIRED not in stanza.children:
        return False, f"{road.name}: the server refuses it, not the gate"
    return True, f"{road.name}: refused, a key is required"
