"""What the commands of ``tillie`` print for people, made of what they were answered.

Everything passes ``terminal.escaped`` or ``terminal.table``, which does: names and
notices are chosen by strangers.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .terminal import escaped, table


def table_text(
    found: Sequence[Mapping[str, object]], columns: Sequence[str], nothing: str
) -> str:
    if not found:
        return nothing
    # A terminal is folded to its width; a pipe gets whole lines.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return table(
        [column.replace("_", " ") for column in columns],
        [[cell(one[column]) for column in columns] for one in found],
        width,
    )


def cell(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(cell, value)) or "-"
        case Mapping():
            return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
        case _:
            return str(value)


def count(value: object) -> int:
    return len(value) if isinstance(value, list) else int(str(value))


def status_text(found: Mapping[str, Any]) -> str:
    columns = ("jid", "server", "connected", "gate", "token_expires")
    lines = [f"tillie {escaped(cell(found['version']))}"]
    lines += [f"listening on {escaped(cell(one))}" for one in found["listeners"]]
    lines.append(table_text(found["accounts"], columns, "no account has logged in yet"))
    if waiting := count(found["notices"]):
        lines.append(f"{waiting} notices; tillie notices shows them")
    return "\n".join(lines)


def device_text(found: Mapping[str, Any]) -> str:
    gone = "removed" if found.get("removed") else cell(found.get("name"))
    return escaped(f"{found['id']}: {gone}")


def rollover_text(found: Mapping[str, Any]) -> str:
    done = "in force" if found["done"] else "written down, and in force at a login soon"
    return (
        f"new keys are {done}\n"
        f"fingerprint: {escaped(found['fingerprint'])}\n"
        f"before:      {escaped(found['before'])}"
    )


def enrol_text(answer: object) -> str:
    jid = answer.get("jid") if isinstance(answer, dict) else ""
    return f"the code is shown to the gate at the first login of {jid}"


def policy_text(found: Mapping[str, Any]) -> str:
    return escaped(f"{found['jid']}: {cell(found['policy'])}")


def link_text(found: Mapping[str, Any]) -> str:
    if found.get("joined"):
        return "this device now belongs to the account"
    code, fingerprint = escaped(found["code"]), escaped(found["fingerprint"])
    return (
        f"code: {code}\n"
        f"fingerprint: {fingerprint}\n"
        "on the other device: tillie link CODE"
    )


def all_well(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(check, dict) and check.get("ok") is True for check in found
    )


def doctor_text(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for check in found:
        word = "ok   " if check["ok"] is True else "wrong"
        lines.append(f"{word}  {escaped(check['check'])}: {escaped(check['text'])}")
        if check.get("hint"):
            lines.append(f"       hint: {escaped(check['hint'])}")
    return "\n".join(lines)
