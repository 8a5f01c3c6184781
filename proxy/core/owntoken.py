"""The own account's token: what the gate of its domain says of its keys (13.2)."""

from __future__ import annotations

import re

from ..errors import PeerFault, TrustFault
from ..keys.manifest import Manifest
from ..keys.store import Store
from ..keys.tokens import Token, open_token
from ..wire.jid import Jid
from .servers import Servers, Shown

_NAME = "token"
_UNTRIED = "untried"
_CODE_NAME = "code"
_CODE = re.compile("[A-Z2-7]{5}(-[A-Z2-7]{1,5}){5}", re.ASCII)


class OwnToken:
    """The newest token of *account*, in the store."""

    def __init__(self, store: Store, account: str, servers: Servers) -> None:
        self._store = store
        self._account = account
        self._domain = Jid.parse(account).domain
        self._servers = servers
        self._cached: Token | None = None

    def forget_caches(self) -> None:
        """The last transaction was rolled back."""
        self._cached = None

    @property
    def gated(self) -> bool:
        return self._servers.gated(self._domain)

    @property
    def current(self) -> Token | None:
        """None where there is none, or none under the key that is pinned now."""
        if self._cached is None:
            data = self._store.get("own", self._account, _NAME)
            self._cached = None if data is None else self._opened(data)
        return self._cached

    def _opened(self, document: bytes) -> Token | None:
        pin = self._servers.pin(self._domain)
        if pin is None or not pin.gated:
            return None
        try:
            return open_token(document, self._account, pin.held.keys)
        except (PeerFault, TrustFault):
            return None

    def take(self, document: str, manifest: Manifest, now: int) -> Token:
        """Keep what the gate gave for the own *manifest*.

        :raises TrustFault: it is no token for exactly that, under the domain's key.
        """
        token = self._opened(document.encode())
        if token is None or not token.covers(manifest) or not token.current(now):
            raise TrustFault(
                f"the gate of {self._domain} gave a token that does not vouch for "
                "the keys that it was shown",
                hint="ask the server's operator",
            )
        if self._cached is None or self._cached.document != document:
            self._store.put("own", self._account, _NAME, document.encode())
        self._cached = token
        for name in (_UNTRIED, _CODE_NAME):
            self._store.delete("own", self._account, name)
        return token

    def for_record(self, manifest: Manifest) -> tuple[str, Shown | None]:
        """The token and the domain's document to publish beside *manifest*."""
        token, pin = self.current, self._servers.pin(self._domain)
        if token is None or pin is None or not token.covers(manifest):
            return "", None
        return token.document, Shown(pin.held.document)

    # -- keys that no gate has seen yet ------

    def keep_code(self, text: str) -> None:
        """The one-time code of the account's administrator (14.10).

        :raises TrustFault: not one.
        """
        code = text.strip().upper()
        if not _CODE.fullmatch(code):
            raise TrustFault(
                "that is not a code of an administrator",
                hint="copy it as tillie gate enrol shows it",
            )
        self._store.put("own", self._account, _CODE_NAME, code.encode())

    @property
    def code(self) -> str:
        """That code, empty where there is none or the gate has vouched already."""
        data = self._store.get("own", self._account, _CODE_NAME)
        return data.decode() if data else ""

    def mark_untried(self) -> None:
        """Keys were just made here, behind a gate that has not said what it holds."""
        self._store.put("own", self._account, _UNTRIED, b"1")

    @property
    def untried(self) -> bool:
        return self._store.get("own", self._account, _UNTRIED) is not None
