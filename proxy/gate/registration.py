"""In-band registration and removal of accounts (XEP-0077; clause 14.14).

The key goes with the form: the gate keeps account and root together before the
server hears of the account, and forgets them if the server says no.  Field and
manifest never reach the server.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement

from ..errors import PeerFault
from ..suites.entropy import token as random_bytes
from ..suites.fields import unb64
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from ..wire.tree import serialise
from . import names
from .names import AUTH, FORM, KEY, REGISTER
from .questions import Allocate, Answer, Refused, Registered, Removed, Yes

if TYPE_CHECKING:
    from .line import Line

FIELD: Final = f"{KEY}#fingerprint"
FORM_MS: Final = 300_000
"""A person fills the form while the stream waits."""
_PENDING_MOST: Final = 8
_QUERY: Final = f"{{{REGISTER}}}query"
_X: Final = f"{{{FORM}}}x"
_FORM_FIELD: Final = f"{{{FORM}}}field"
_VALUE: Final = f"{{{FORM}}}value"
_MANIFEST: Final = f"{{{AUTH}}}manifest"
_REMOVE: Final = f"{{{REGISTER}}}remove"


@dataclass(frozen=True, slots=True)
class _Form:
    """The form was asked for."""


@dataclass(frozen=True, slots=True)
class _Passed:
    """An answer that concerns no key."""


@dataclass(frozen=True, slots=True)
class _Account:
    """*account* is being registered with *root*."""

    account: str
    root: bytes


@dataclass(frozen=True, slots=True)
class _Removal:
    """*account* is being removed; the client asked under *id*."""

    account: str
    id: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a filled form says of the key.

    :param query: without field and manifest.
    """

    account: str
    root: bytes
    manifest: bytes
    query: Element


class Registration:
    """Registrations and removals on one stream.

    :ivar shown: whether the form was asked for by somebody with a key: the answer
        is larger than what strangers may send.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._pending: dict[str, _Form | _Passed | _Account | _Removal] = {}
        self.shown = False

    @property
    def unsettled(self) -> bool:
        """Whether the server's word on an account is still to come."""
        return any(
            isinstance(one, _Account | _Removal) for one in self._pending.values()
        )

    # -- before login ------

    def on_client(self, stanza: Stanza, *, barred: bool) -> None:
        """A query came from somebody who is not logged in.

        :param barred: nobody may go on here without a key, and none was shown.
        """
        line = self._line
        if barred:
            line.refused("no key: registration")
            self._no(stanza, "not-authorized", names.NO_KEY, "key-required")
        elif stanza.to not in (None, line.domain):
            self._no(stanza, "not-authorized", "log in first")
        elif not self._may_wait(stanza):
            self._no(stanza, "bad-request", "an id of its own is needed, few at a time")
        elif stanza.type == "get":
            line.patience = max(line.patience, FORM_MS)
            self.shown = line.shown is not None
            self._relay(stanza, _Form() if line.shown else _Passed())
        else:
            self._on_answer(stanza)

    def _on_answer(self, stanza: Stanza) -> None:
        line = self._line
        query = stanza.tree().find(_QUERY)
        assert query is not None
        if line.shown is None:
            account = _account(query, line.domain)
            if account is None and query.find(_REMOVE) is None:
                self._no(stanza, "not-acceptable", "the form names no one account")
            elif line.policy(account) == "keys-only":
                self._no(stanza, "not-authorized", names.NO_KEY, "key-required")
            else:
                self._relay(stanza, _Passed())
            return
        try:
            wish = self._wish(query)
        except PeerFault as fault:
            self._no(stanza, "not-acceptable", fault.text, "bad-proof")
            return
        if wish is None:
            self._no(stanza, "not-authorized", names.NO_KEY, "key-required")
            return
        question = Allocate(wish.account, line.shown.device, wish.root, wish.manifest)
        line.ask(question, lambda answer: self._allocated(stanza, wish, answer))

    def _wish(self, query: Element) -> _Wish | None:
        """Take the key out of a filled form; None if there is none in it.

        Whether the manifest is that account's and lists this device is the
        registry's to verify.

        :raises PeerFault: it names no account, or its parts do not fit.
        """
        manifests, fingerprint = query.findall(_MANIFEST), _field(query, FIELD)
        if not manifests and fingerprint is None:
            return None
        if len(manifests) != 1 or fingerprint is None:
            raise PeerFault("the form needs the key's fingerprint and its manifest")
        account = _account(query, self._line.domain)
        if account is None:
            raise PeerFault("the form names no account that can be had here")
        root = unb64(fingerprint)
        shown = self._line.shown
        if shown is None or shown.root not in (None, root):
            raise PeerFault("the form's fingerprint is not the one presented")
        text = (manifests[0].text or "").encode()
        return _Wish(account, root, text, self._stripped(query))

    def _stripped(self, query: Element) -> Element:
        left = deepcopy(query)
        for manifest in left.findall(_MANIFEST):
            left.remove(manifest)
        for form in left.findall(_X):
            for field in _fields(form):
                if field.get("var") == FIELD:
                    form.remove(field)
            # An empty form would count for more than what stands beside it.
            if all(field.get("var") == "FORM_TYPE" for field in _fields(form)):
                left.remove(form)
        return left

    def _allocated(self, stanza: Stanza, wish: _Wish, answer: Answer) -> None:
        match answer:
            case Yes():
                changed = Element("{jabber:client}iq", dict(stanza.attrs))
                changed.append(wish.query)
                pending = _Account(wish.account, wish.root)
                self._relay(Stanza.of(changed), pending)
            case Refused(condition=condition, text=text):
                self._line.refused("registration", counts=True)
                self._no(stanza, "not-acceptable", text, condition)
            case _:
                self._no(stanza, "resource-constraint", names.LATER, kind="wait")

    def _may_wait(self, stanza: Stanza) -> bool:
        """Whether its answer can be told from every other one."""
        return (
            bool(stanza.id)
            and stanza.id not in self._pending
            and len(self._pending) < _PENDING_MOST
        )

    # -- behind login ------

    def watch(self, stanza: Stanza) -> Stanza:
        """What goes to the server for a query of an open stream.

        A removal goes under an id that nobody else knows: any answer to an id of the
        client's choice could be taken for the server's word that an account is gone.
        What asks for more than a removal is passed as it is and believed nothing of.
        """
        line = self._line
        query = stanza.tree().find(_QUERY)
        removes = query is not None and [one.tag for one in query] == [_REMOVE]
        here = stanza.to in (None, line.domain, line.account)
        if (
            not removes
            or not here
            or stanza.type != "set"
            or not self._may_wait(stanza)
        ):
            return stanza
        assert stanza.id is not None
        fresh = f"tillie-gate-{random_bytes(16).hex()}"
        self._pending[fresh] = _Removal(line.account, stanza.id)
        return _under(stanza, fresh)

    # -- the server ------

    def on_backend(self, stanza: Stanza) -> bytes | None:
        """What the client gets in place of an answer of the server's; None where
        the answer waits for the registry, which has to write it down first."""
        ours = stanza.type in ("result", "error") and self._line.by_server(stanza)
        pending = self._pending.pop(stanza.id or "", None) if ours else None
        done = stanza.type == "result"
        match pending:
            case _Form() if done:
                return self._with_field(stanza)
            case _Account(account=account, root=root):
                self._settle(Registered(account, root, done), stanza)
                return None
            case _Removal(account=account, id=asked):
                told = _under(stanza, asked)
                if not done:
                    return told.to_bytes()
                self._line.note("removed", f"{account} removed")
                self._settle(Removed(account), told)
                return None
            case _:
                return stanza.to_bytes()

    def _settle(self, question: Registered | Removed, stanza: Stanza) -> None:
        line = self._line
        line.backend_waits += 1

        def written(answer: Answer) -> None:
            line.backend_waits -= 1
            if isinstance(question, Registered) and question.done:
                line.note("registered", f"{question.account} registered")
            if not isinstance(answer, Yes):
                line.note("trouble", "the registry did not take a registration")
            line.to_client(stanza.to_bytes())

        line.ask(question, written)

    def _with_field(self, stanza: Stanza) -> bytes:
        """Add the field for the key to the form that the server shows."""
        made = deepcopy(stanza.tree())
        query = made.find(_QUERY)
        if query is None or query.find(f"{{{REGISTER}}}registered") is not None:
            return stanza.to_bytes()
        form = query.find(_X)
        if form is None:
            form = SubElement(query, _X, {"type": "form"})
            hidden = {"type": "hidden", "var": "FORM_TYPE"}
            kind = SubElement(form, _FORM_FIELD, hidden)
            SubElement(kind, _VALUE).text = REGISTER
        label = {"type": "text-single", "var": FIELD, "label": "Key (Tillie fills it)"}
        SubElement(SubElement(form, _FORM_FIELD, label), f"{{{FORM}}}required")
        return serialise(made)

    # -- small things ------

    def _relay(
        self, stanza: Stanza, pending: _Form | _Passed | _Account | _Removal
    ) -> None:
        assert stanza.id is not None
        self._pending[stanza.id] = pending
        self._line.to_backend(stanza.to_bytes())

    def _no(
        self,
        stanza: Stanza,
        condition: str,
        text: str,
        application: str = "",
        kind: str = "auth",
    ) -> None:
        reply = names.refusal(
            stanza, condition, text, application, kind=kind, from_=self._line.domain
        )
        self._line.to_client(reply)


def _fields(form: Element) -> list[Element]:
    return form.findall(_FORM_FIELD)


def _field(query: Element, name: str) -> str | None:
    for form in query.findall(_X):
        for field in _fields(form):
            if field.get("var") == name:
                return field.findtext(_VALUE) or ""
    return None


def _under(stanza: Stanza, id_: str) -> Stanza:
    """The same stanza under another id."""
    made = deepcopy(stanza.tree())
    made.set("id", id_)
    return Stanza.of(made)


def _account(query: Element, domain: str) -> str | None:
    """Whom a form would register: the bare JID, if it names exactly one.

    Servers differ in which of several places they read a name from, and in what
    they make of elements inside one: whatever could be read in two ways is no name.
    """
    forms = query.findall(_X)
    fields = [
        field
        for form in forms
        for field in form.iter(_FORM_FIELD)
        if field.get("var") == "username"
    ]
    said = [*query.iter(f"{{{REGISTER}}}username"), *(v for one in fields for v in one)]
    names_ = {one.text or "" for one in said}
    if len(forms) > 1 or len(fields) > 1 or len(names_) != 1:
        return None
    if any(len(one) for one in said) or any(len(one) != 1 for one in fields):
        return None
    name = names_.pop()
    try:
        jid = Jid.parse(f"{name}@{domain}") if name else None
    except PeerFault:
        return None
    return str(jid) if jid is not None and jid.local and not jid.resource else None
