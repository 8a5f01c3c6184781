"""What Tillie says while it runs, on standard error: never a stanza, a password
or a key (LOC-11); one line each, control characters escaped (LOC-17)."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from .terminal import escaped

_as_json = False
_LEVELS = ("debug", "info", "warn", "error", "critical")


def start(level: str, *, as_json: bool) -> None:
    """Send what Twisted's loggers say from *level* up to standard error."""
    from twisted.logger import globalLogBeginner

    global _as_json
    _as_json = as_json
    names = _LEVELS[_LEVELS.index("warn" if level == "warning" else level) :]

    def observer(event: dict[str, Any]) -> None:
        name = event["log_level"].name
        # what the library says in passing is of no use to the person
        ours = event.get("log_namespace", "").startswith("proxy")
        if name in names and (ours or name in _LEVELS[2:]):
            _write(name, _text(event), as_json=as_json)

    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def _text(event: dict[str, Any]) -> str:
    from twisted.logger import formatEvent

    failure = event.get("log_failure") or event.get("failure")
    if failure is None:
        return str(formatEvent(event))
    # the words of an unexpected error may hold what somebody wrote
    places = "; ".join(f"{frame[1]}:{frame[2]}" for frame in failure.frames)
    return f"unexpected {failure.type.__name__} at {places}"


def say(text: str) -> None:
    """Tell the person something of ``info``, in the form that was asked for."""
    _write("info", text, as_json=_as_json)


def _write(level: str, text: str, *, as_json: bool) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if as_json:
        line = json.dumps({"time": now, "level": level, "text": text})
    else:
        line = "\n".join(f"tillie: {escaped(part)}" for part in text.splitlines())
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        # a full log device or a closed standard error stops nothing (REL-39)
        return
