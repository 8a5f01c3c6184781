"""An account is registered through Tillie, before there is a login (XEP-0077; 14.14).

The client's queries go to the server over a connection of their own.  At a gate
the new account's keys go with them: the form's field for the key is hidden from
the client and filled here, and the manifest stands beside it.  Where there is
no gate the form passes as it is, and the keys are made at the first login.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Literal
from xml.etree.ElementTree import Element, SubElement

from ..errors import EnvFault, Fault, PeerFault, TrustFault
from ..keys.identity import DevicePrivate
from ..suites.fields import b64
from ..wire.jid import Jid
from ..wire.stanza import Stanza, error_reply
from ..wire.tree import serialise
from . import guard
from .identity import Standing
from .presenting import AUTH, Presenting
from .serverleg import ServerLeg
from .vocabulary import (
    Close,
    Connect,
    Ended,
    Incoming,
    ServerClose,
    ServerTls,
    StartTls,
    Unauthenticated,
)

if TYPE_CHECKING:
    from .account import Account
    from .session import Session
    from .vocabulary import ServerOutput, TlsFacts

REGISTER = "jabber:iq:register"
QUERY = f"{{{REGISTER}}}query"
FIELD = "urn:x-tillie:key:0#fingerprint"
PATIENCE = 30_000
MOST = 8
_FORM = "jabber:x:data"
_X = f"{{{_FORM}}}x"
_FIELD = f"{{{_FORM}}}field"
_VALUE = f"{{{_FORM}}}value"
_FORM_TYPE = "FORM_TYPE"


class Registering:
    """The queries of *session*'s client, and the connection that they go over."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._house = session.house
        self._domain = ""
        self._device = DevicePrivate.generate()
        self._root: bytes | None = None
        self._leg: ServerLeg | None = None
        self._presenting: Presenting | None = None
        self._ready = False
        self._waiting: list[Stanza] = []
        self._asked: dict[str, Stanza] = {}
        self._made: dict[str, Account] = {}
        self._until = 0
        self.active = False

    # -- the client ------

    def ask(self, stanza: Stanza, domain: str) -> None:
        """The client, which is not logged in, asks about an account of *domain*."""
        if len(self._asked) >= MOST or not stanza.id or stanza.id in self._asked:
            self._refuse(stanza, "bad-request", "one query at a time, with an id")
            return
        self._domain = domain
        self._asked[stanza.id] = stanza
        self._waiting.append(stanza)
        self._until = self._house.clock() + PATIENCE
        if not self.active:
            self._connect()
        elif self._ready:
            self._go_on()

    def _connect(self) -> None:
        self.active, self._ready = True, False
        self._leg = None
        self._session.do(Connect(self._domain))

    def finish(self) -> None:
        """A login follows, or the end: the connection is given up."""
        if not self.active:
            return
        self.active, self._ready = False, False
        self._leg = None
        self._waiting.clear()
        self._asked.clear()
        self._session.do(ServerClose(abort=True))

    def tick(self, now: int) -> None:
        if self._asked and now > self._until:
            self._failed(
                EnvFault(
                    f"the server of {self._domain} did not answer in time",
                    condition="remote-server-timeout",
                )
            )

    # -- the edge ------

    def connected(self, mode: Literal["starttls", "direct", "off"]) -> None:
        self._presenting = Presenting(
            self._domain,
            self._device,
            self._root,
            self._house.servers,
            self._house.clock,
        )
        self._leg = ServerLeg(
            account=Jid("", self._domain, ""),
            password=None,
            tls=mode,
            presenting=self._presenting,
        )
        self._outputs(self._leg.connected())

    def secured(self, facts: TlsFacts) -> None:
        if self._leg is not None:
            self._outputs(self._leg.secured(facts))

    def data(self, data: bytes) -> None:
        if self._leg is not None:
            self._outputs(self._leg.data(data))

    def lost(self, fault: Fault | None) -> None:
        """The connection is gone, or could not be made."""
        if self._leg is not None:
            self._outputs(self._leg.lost(fault))
        else:
            self._failed(fault or EnvFault("the server closed the connection"))

    def _outputs(self, outputs: list[ServerOutput]) -> None:
        for output in outputs:
            match output:
                case StartTls():
                    self._session.do(ServerTls())
                case Unauthenticated():
                    self._ready = True
                    self._go_on()
                case Incoming(stanza=stanza):
                    self._answered(stanza)
                case Close():
                    self._session.do(ServerClose())
                case Ended(fault=fault):
                    self._failed(fault or EnvFault("the server closed the connection"))
                case _:
                    self._session.uplink.perform(output)

    def _failed(self, fault: Fault) -> None:
        """Every query that is open gets the reason; keys of accounts whose fate is
        not known stay, for the same registration to come again."""
        asked = list(self._asked.values())
        self.finish()
        self._made.clear()
        text = f"{fault.text}; {fault.hint}" if fault.hint else fault.text
        for stanza in asked:
            self._refuse(stanza, "remote-server-timeout", text, kind="wait")

    # -- to the server ------

    def _go_on(self) -> None:
        while self._waiting and self._ready:
            stanza = self._waiting[0]
            try:
                query = self._query(stanza)
            except (PeerFault, TrustFault) as fault:
                self._waiting.pop(0)
                self._asked.pop(stanza.id or "", None)
                self._refuse(stanza, "not-acceptable", fault.text)
                continue
            if query is None:
                # the account's own device has to be shown instead
                self._session.do(ServerClose(abort=True))
                self._connect()
                return
            self._waiting.pop(0)
            if self._leg is not None:
                self._outputs(self._leg.stanza(guard.registration(query)))

    def _query(self, stanza: Stanza) -> Element | None:
        """What is sent for *stanza*; None where another device has to be shown.

        :raises PeerFault: it names no account that could be.
        :raises TrustFault: the account has keys that are not here.
        """
        query = stanza.tree().find(QUERY)
        assert query is not None
        made = Element("{jabber:client}iq", {"type": stanza.type or "get"})
        made.set("id", stanza.id or "")
        copied = deepcopy(query)
        made.append(copied)
        gated = self._presenting is not None and self._presenting.proved
        if stanza.type != "set" or not gated:
            return made
        account = self._house.account(_account(query, self._domain))
        new = not account.identity.has_manifest
        if not self._prepare(account):
            return None
        if new:
            self._made[stanza.id or ""] = account
        _fill(copied, account)
        return made

    def _prepare(self, account: Account) -> bool:
        """Keys for *account*, made once; whether the device shown is its own."""
        identity = account.identity
        if not identity.has_manifest:
            if identity.standing is not Standing.NEW:
                raise TrustFault(f"{account.jid} has keys on another device")
            identity.use_device(self._device)
            identity.create(account.settings.label, self._house.clock())
            account.token.mark_untried()
        if not identity.owner:
            raise TrustFault(f"{account.jid} has its keys on another device")
        own, root = identity.device, identity.fingerprint
        if own.public == self._device.public and self._root in (None, root):
            return True
        self._device, self._root = own, root
        return False

    # -- to the client ------

    def _answered(self, stanza: Stanza) -> None:
        asked = self._asked.get(stanza.id or "")
        if stanza.name != "iq" or stanza.type not in ("result", "error"):
            return
        if asked is None:
            return
        del self._asked[stanza.id or ""]
        account = self._made.pop(stanza.id or "", None)
        if account is not None and stanza.type == "error":
            self._unmade(account)
        reply = Element("{jabber:client}iq", {"id": stanza.id or ""})
        reply.set("type", stanza.type)
        reply.set("from", self._domain)
        for child in stanza.tree():
            if stanza.type == "result" or child.tag == "{jabber:client}error":
                reply.append(_without_key(child))
        self._session.to_client_early(serialise(reply))

    def _unmade(self, account: Account) -> None:
        """The server said no: keys that were made for nothing go.

        Only those that were made for this very query.  Older ones went with one
        whose answer was lost: it may have been a yes, and "taken" means us.
        """
        account.identity.wipe()
        self._house.forget_if_unknown(account)

    def _refuse(
        self, stanza: Stanza, condition: str, text: str, kind: str = "cancel"
    ) -> None:
        reply = error_reply(stanza, condition, text, kind=kind, from_=self._domain)
        self._session.to_client_early(serialise(reply))


def _account(query: Element, domain: str) -> str:
    """The bare JID that a filled form is about.

    :raises PeerFault: it names none.
    """
    name = query.findtext(f"{{{REGISTER}}}username") or ""
    for field in query.findall(f"{_X}/{_FIELD}"):
        if field.get("var") == "username":
            name = name or field.findtext(_VALUE) or ""
    jid = Jid.parse(f"{name}@{domain}")
    if not name or not jid.local or jid.resource or jid.domain != domain:
        raise PeerFault("the form names no account that can be had")
    return str(jid)


def _fill(query: Element, account: Account) -> None:
    """Put the key into the form, as field and manifest."""
    form = query.find(_X)
    if form is None:
        form = SubElement(query, _X, {"type": "submit"})
        hidden = SubElement(form, _FIELD, {"type": "hidden", "var": _FORM_TYPE})
        SubElement(hidden, _VALUE).text = REGISTER
    for field in form.findall(_FIELD):
        if field.get("var") == FIELD:
            form.remove(field)
    field = SubElement(form, _FIELD, {"var": FIELD})
    SubElement(field, _VALUE).text = b64(account.identity.fingerprint)
    manifest = SubElement(query, f"{{{AUTH}}}manifest")
    manifest.text = account.identity.manifest.document


def _without_key(element: Element) -> Element:
    """A form as its person is to see it: the key is not theirs to fill in."""
    shown = deepcopy(element)
    form = shown.find(_X)
    if form is None:
        return shown
    hidden = [one for one in form.findall(_FIELD) if one.get("var") == FIELD]
    for field in hidden:
        form.remove(field)
    left = [one for one in form.findall(_FIELD) if one.get("var") != _FORM_TYPE]
    if hidden and not left:
        # it was made for that field alone
        shown.remove(form)
    return shown
