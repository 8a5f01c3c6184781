"""``tillie doctor``, the gate: is there one, is it the same, does it vouch?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

Row = dict[str, object]

_OPERATOR: Final = (
    "ask the operator of {domain} whether its key was changed; only if it was: "
    "tillie forget {domain}"
)
_SOURCES: Final = {
    "stream": "proved at a login",
    "directory": "by its directory",
    "record": "by an account's word only",
}
_ALARMS: Final = {
    "server-key-changed": "another key was shown since, and nothing vouches for it",
    "server-fork": "two documents of it with one number were shown",
}
_STATES: Final = {
    "linking": "run tillie link on the device that has the keys, and tillie link CODE"
    " here",
    "alarm": "tillie notices says what was found",
}


def gate_rows(
    account: Mapping[str, Any], facts: Mapping[str, Any], now: int
) -> Iterator[Row]:
    """What to tell of one account.

    :param account: of the house's ``accounts``; *facts* of its ``gates``.
    :param now: Unix milliseconds.
    """
    domain = str(account["server"])
    if not facts["gated"]:
        yield _row("gate", True, f"{domain} has no gate that this Tillie knows of")
        return
    yield _key(facts, domain)
    yield _proof(facts, domain, str(account["jid"]))
    yield _token(facts, account, now)


def _key(facts: Mapping[str, Any], domain: str) -> Row:
    text = (
        f"{domain} has a gate; its key {facts['key']} is pinned since"
        f" {_day(facts['since'])} ({_SOURCES[facts['source']]})"
    )
    if facts["alarm"]:
        text += f"; {_ALARMS[facts['alarm']]}"
        return _row("gate", False, text, _OPERATOR.format(domain=domain))
    if not facts["current"]:
        text += "; what is known of it is out of date"
        return _row(
            "gate", False, text, "log in again; if that fails, ask its operator"
        )
    return _row("gate", True, text)


def _proof(facts: Mapping[str, Any], domain: str, jid: str) -> Row:
    if facts["refused"]:
        text = f"the last login of {jid} failed: {facts['refused']}"
        hint = f"if this stays so, ask the operator of {domain}"
        return _row("gate-proof", False, text, hint)
    if not facts["login"]:
        text = f"{jid} has not logged in since this is written down"
        return _row("gate-proof", True, text)
    when = _time(facts["login"])
    if not facts["proved"]:
        text = f"the last login of {jid}, {when}, was without the gate's proof"
        hint = "log in again: from now on no password is sent without it"
        return _row("gate-proof", False, text, hint)
    text = f"the gate proved itself at the last login of {jid}, {when}"
    return _row("gate-proof", True, text)


def _token(facts: Mapping[str, Any], account: Mapping[str, Any], now: int) -> Row:
    jid, until = account["jid"], facts["token"]
    hint = _STATES.get(account["state"], "")
    if not until:
        text = f"the gate does not vouch for the keys of {jid}"
        return _row("gate-token", False, text, hint or "log in with your client")
    if not facts["covers"]:
        text = f"the token of {jid} is for other keys than those that are here"
        return _row("gate-token", False, text, hint or "log in with your client")
    when = _time(until)
    if until <= now:
        text = f"the token of {jid} is over since {when}: contacts see no vouching"
        hint = "log in with your client; it is renewed then"
        return _row("gate-token", False, text, hint)
    return _row("gate-token", True, f"the gate vouches for {jid} until {when}")


def _row(check: str, ok: bool, text: str, hint: str = "") -> Row:
    return {"check": check, "ok": ok, "text": text, "hint": hint}


def _time(milliseconds: int) -> str:
    stamp = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%SZ")


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")
