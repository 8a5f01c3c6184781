"""From the server's yes to a bound stream: what is remembered of a login, and who
is told what.

The server's word on who is logged in is the only one that counts (RFC 6120, 7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EnvFault, PeerFault, TrustFault
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import sasl
from .gatefacts import Login, note_login
from .ledger import Ledger
from .phase import Phase
from .presenting import Presenting
from .resending import send_left_over

if TYPE_CHECKING:
    from .uplink import Uplink
    from .vocabulary import Authenticated

_BIND = "urn:ietf:params:xml:ns:xmpp-bind"


class Entering:
    """The way in of the session of *uplink*."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._session = uplink.session
        self._house = uplink.session.house
        self._bind_id: str | None = None

    # -- before ------

    def presenting(self) -> Presenting:
        """What a gate is shown of the account."""
        account = self._session.own
        identity = account.identity
        return Presenting(
            self._uplink.domain,
            identity.device_to_show(),
            identity.shown_root,
            self._house.servers,
            self._house.clock,
            self.floor(),
        )

    def floor(self) -> str | None:
        """The strongest mechanism that the account ever logged in with."""
        data = self._house.store.get("own", self._session.own.jid, "mechanism")
        return data.decode() if data else None

    # -- logged in ------

    def authenticated(self, done: Authenticated, server_key: bytes | None) -> None:
        """:param server_key: SHA-256 of the key of the server's certificate."""
        session, account = self._session, self._session.own
        if server_key is not None:
            self._note_server_key(server_key)
        self._uplink.note_gate()
        account.refused, account.turned_away = "", False
        proved = self._uplink.gated
        note_login(self._house.store, account.jid, Login(account.clock(), proved))
        floor = sasl.stronger(self.floor(), done.mechanism)
        if floor != self.floor():
            self._house.store.put("own", account.jid, "mechanism", floor.encode())
        if session.phase is Phase.CUT:
            # the server forgot the session: the client has to begin anew
            session.end(
                EnvFault(
                    "the connection to the server was lost and the server has "
                    "closed the session; connect again",
                    condition="reset",
                )
            )
            return
        session.phase = Phase.BINDING
        self._uplink.ledger = Ledger(self._house.store, account.jid)
        self._uplink.watch.heard()
        session.admitted(list(done.features))

    def _note_server_key(self, server_key: bytes) -> None:
        """A certificate with another key than last time is told (TLS-08).

        Only behind a login: nothing is stored for whoever merely tries one.
        """
        account, store = self._session.own, self._house.store
        known = store.get("own", account.jid, "server-key")
        if known == server_key:
            return
        store.put("own", account.jid, "server-key", server_key)
        if known is not None:
            domain = self._uplink.domain
            account.notice(
                domain,
                f"the server {domain} shows another certificate key than "
                "before; its certificate is valid, and most often it was renewed",
            )

    # -- binding ------

    @property
    def binding(self) -> bool:
        """Whether a bind request is under way."""
        return self._bind_id is not None

    def bind_requested(self, id_: str) -> None:
        self._bind_id = id_
        self._uplink.watch.heard()

    def takes(self, stanza: Stanza) -> bool:
        """Whether *stanza* is the result of binding, which is dealt with then."""
        if (
            self._session.phase is not Phase.BINDING
            or stanza.name != "iq"
            or self._bind_id is None
            or (stanza.id or "") != self._bind_id
        ):
            return False
        self._bind_id = None
        if stanza.type != "result":
            return False
        self._bound(stanza)
        return True

    def _bound(self, stanza: Stanza) -> None:
        """The server's word on who is logged in; nothing else is believed."""
        session = self._session
        text = stanza.tree().findtext(f"{{{_BIND}}}bind/{{{_BIND}}}jid") or ""
        try:
            jid = Jid.parse(text)
        except PeerFault:
            session.end(PeerFault("the server bound an address that is none"))
            return
        if str(jid.bare) != session.own.jid:
            fault = TrustFault(
                f"the server logged in {jid.bare} instead", condition="conflict"
            )
            session.end(fault)
        elif self._uplink.gated:
            self._uplink.vouching.begin(jid, stanza)
        else:
            self.admit(jid, stanza)

    def admit(self, jid: Jid, result: Stanza) -> None:
        """The client is told that it is bound, and everything flows."""
        session, uplink = self._session, self._uplink
        session.bound(jid, result)
        uplink.enable()
        send_left_over(uplink, session.own, uplink.recovery.taken())
        session.own.publication.settle(session)
        session.pump()
