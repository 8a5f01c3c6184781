"""A password that is changed, and an account that is removed, on the open stream.

XEP-0077, 3.2 and 3.3: what is remembered changes with the server's ``result``,
never before, and the password in memory only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .registering import QUERY, REGISTER

if TYPE_CHECKING:
    from ..wire.stanza import Stanza

MOST = 8
_PASSWORD = f"{{{REGISTER}}}password"
_REMOVE = f"{{{REGISTER}}}remove"


@dataclass(frozen=True, slots=True)
class Changed:
    """The account's password is *password* from now on; None: it is removed."""

    password: str | None


class Passwords:
    """The changes that one stream's client asked for.

    :param account: its bare JID; *domain* is that of the server.
    """

    def __init__(self, account: str, domain: str) -> None:
        self._servers = {None, account, domain}
        self._asked: OrderedDict[str, Changed] = OrderedDict()

    def sent(self, stanza: Stanza) -> None:
        """The client's *stanza* leaves for the server."""
        if QUERY not in stanza.children or stanza.type != "set" or not stanza.id:
            return
        query = stanza.tree().find(QUERY)
        if query is None or stanza.to not in self._servers:
            return
        if query.find(_REMOVE) is not None:
            self._note(stanza.id, Changed(None))
        elif password := query.findtext(_PASSWORD):
            self._note(stanza.id, Changed(password))

    def _note(self, id_: str, change: Changed) -> None:
        self._asked[id_] = change
        while len(self._asked) > MOST:
            self._asked.popitem(last=False)

    def answered(self, stanza: Stanza) -> Changed | None:
        """What came about with the server's *stanza*."""
        if stanza.name != "iq" or stanza.type not in ("result", "error"):
            return None
        if stanza.from_ not in self._servers:
            return None
        change = self._asked.pop(stanza.id or "", None)
        return change if stanza.type == "result" else None
