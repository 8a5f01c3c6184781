"""``tillie doctor``: is it the port, the DNS, the certificate or the keys?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.house import House
from ..core.vocabulary import TlsFacts
from ..errors import Fault
from ..net.connector import Connector
from ..net.link import Link
from .gatedoctor import gate_rows


def examine(
    house: House,
    connector: Connector,
    listeners: list[str],
    args: Mapping[str, object],
) -> Any:
    """A Deferred list of ``{check, ok, text, hint}``, in the order to mend them."""
    from twisted.internet.defer import ensureDeferred

    return ensureDeferred(_examine(house, connector, listeners, args))


async def _examine(
    house: House,
    connector: Connector,
    listeners: list[str],
    args: Mapping[str, object],
) -> list[dict[str, object]]:
    rows = [_row("port", True, f"listening on {where}") for where in listeners]
    accounts, gates = _answer(house, "accounts", args), _answer(house, "gates", args)
    if not accounts:
        rows.append(
            _row(
                "account",
                False,
                "nobody has logged in yet",
                "set your client to connect to the address above, with your account",
            )
        )
    for account in accounts:
        rows += await _server(connector, account)
        rows.append(_keys(account))
        rows += gate_rows(account, gates[account["jid"]], house.clock())
    return rows


def _answer(house: House, command: str, args: Mapping[str, object]) -> Any:
    answers: list[Any] = []
    house.command(command, args, answers.append)
    if isinstance(answers[0], Fault):
        raise answers[0]
    return answers[0]


async def _server(
    connector: Connector, account: dict[str, Any]
) -> list[dict[str, object]]:
    domain = str(account["server"])
    try:
        found = await connector.candidates(domain, 10.0)
    except Fault as fault:
        return [_row("dns", False, fault.text, fault.hint)]
    names = ", ".join(f"{one.host}:{one.port}" for one in found[:4])
    rows = [_row("dns", True, f"{domain} is served by {names}")]
    if account["connected"]:
        text = (
            f"the certificate of {domain} is valid, and {account['jid']} is connected"
        )
        rows.append(_row("certificate", True, text))
    else:
        rows.append(await _certificate(connector, domain))
    return rows


async def _certificate(connector: Connector, domain: str) -> dict[str, object]:
    """A connection as far as TLS; with STARTTLS, as far as TCP."""
    visitor = _Visitor()
    try:
        link = await connector.connect(domain, visitor)
    except Fault as fault:
        return _row("certificate", False, fault.text, fault.hint)
    direct = link.facts is not None
    link.abort()
    if direct:
        return _row("certificate", True, f"the certificate of {domain} is valid")
    return _row(
        "certificate",
        True,
        f"{link.peer} answers; its certificate is checked at the next login",
    )


class _Visitor:
    """Comes to look and leaves at once; nothing it is told matters."""

    def link_up(self, link: Link) -> None:
        """See the class."""

    def link_secure(self, facts: TlsFacts) -> None:
        """See the class."""

    def link_data(self, data: bytes) -> None:
        """See the class."""

    def link_lost(self, fault: Fault | None) -> None:
        """See the class."""

    def link_pause(self) -> None:
        """See the class."""

    def link_resume(self) -> None:
        """See the class."""


def _keys(account: dict[str, Any]) -> dict[str, object]:
    jid, state = account["jid"], account["state"]
    if state == "ready" and account["published"]:
        return _row("pep", True, f"the keys of {jid} are published")
    hints = {
        "new": "log in with your client; the keys are made then",
        "linking": "run tillie link on the device that has the keys, and "
        "tillie link CODE here",
        "alarm": "somebody published other keys for this account: change its "
        "password, and look who else uses it",
        "ready": "log in with your client; the server must offer PEP (XEP-0163)",
    }
    return _row("pep", False, f"the keys of {jid} are not published", hints[state])


def _row(check: str, ok: bool, text: str, hint: str = "") -> dict[str, object]:
    return {"check": check, "ok": ok, "text": text, "hint": hint}
