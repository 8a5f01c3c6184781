"""A session vouches for itself at the gate, before its client is told that it is in.

The bind result is held until the gate has said ``<vouched/>`` (14.7 to 14.9).
On the open stream the same words renew the token and put changed manifests into
force.  Where there is no gate nothing here happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from ..errors import REMOTE, EnvFault, Fault, TrustFault
from ..keys.manifest import Manifest, open_manifest
from . import directory
from .directory import Absent, Failed, Found, Outcome
from .identity import Standing
from .phase import Phase
from .presenting import AUTH, Vouched
from .serverfaults import Refusal

if TYPE_CHECKING:
    from ..wire.jid import Jid
    from ..wire.stanza import Stanza
    from .uplink import Uplink

RENEW = 48 * 3600 * 1000
"""A token with less left is renewed (14.9)."""
PATIENCE = 10_000
"""So long a publication waits for the gate's word on what it publishes."""
AGAIN = 60_000
MOST_AGAIN = 3_600_000
MOST_TRIES = 4
MOST_HELD = 500
_MILLISECONDS = re.compile("[0-9]{1,16}", re.ASCII)
LINK = "run tillie link there, and tillie link CODE here"


class Awaiting(Enum):
    """What is waited for."""

    BINDING = auto()
    RECORD = auto()
    VERDICT = auto()
    LINK = auto()
    NOTHING = auto()


class Vouching:
    """The words between *uplink* and the gate about the session's keys."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._session = uplink.session
        self._awaiting = Awaiting.BINDING
        self._jid = ""
        self._result: tuple[Jid, Stanza] | None = None
        self._held: list[Stanza] = []
        self._offered: Manifest | None = None
        self._tries = 0
        self._waiting: list[Callable[[], None]] = []
        self._until = 0
        self._again_at = 0
        self._pause = AGAIN
        self._distrusted = False

    @property
    def _now(self) -> int:
        return self._session.house.clock()

    # -- behind binding ------

    def begin(self, jid: Jid, result: Stanza) -> None:
        """The server bound *jid*; *result* is for the client once this is settled."""
        self._jid = str(jid)
        self._result = (jid, result)
        self._session.jid = jid
        self._session.phase = Phase.VOUCHING
        self._uplink.watch.heard()
        identity = self._session.own.identity
        if identity.belongs:
            self._vouch(identity.offered, sent=False)
        else:
            self._awaiting = Awaiting.RECORD
            directory.look_up(self._session, self._session.own.jid, None, self._read)

    def hold(self, stanza: Stanza) -> None:
        """The server sent *stanza* before the client was told that it is in."""
        if len(self._held) < MOST_HELD:
            self._held.append(stanza)

    def _read(self, outcome: Outcome) -> None:
        """The own record was read through the gate: keys are made if there are none."""
        if self._awaiting is not Awaiting.RECORD:
            return
        account = self._session.own
        account.identity.ensure_device(self._now)
        match outcome:
            case Failed(text=text):
                why = f"the own keys could not be read: {text}"
                self._session.end(EnvFault(why, condition="remote-server-timeout"))
            case Absent() if account.identity.standing is Standing.NEW:
                manifest = account.identity.create(account.settings.label, self._now)
                account.token.mark_untried()
                self._vouch(manifest, sent=True)
            case Absent() | Found():
                self._vouch(None, sent=False)

    def _vouch(self, manifest: Manifest | None, *, sent: bool) -> None:
        shown = self._uplink.shown_root
        if manifest and shown not in (None, manifest.root.fingerprint):
            # the root was changed behind the presentation, by which the gate judges
            fault = EnvFault("the keys of the account are changed", condition="reset")
            self._uplink.drop(fault)
            return
        self._tries += 1
        if self._tries > MOST_TRIES:
            self._refused(TrustFault("the gate's words on the own keys go in circles"))
            return
        self._awaiting = Awaiting.VERDICT
        self._offered = manifest
        own = self._session.own
        code = own.token.code if sent else ""
        rollover = "".join(own.identity.leading[-1:]) if sent else ""
        self._uplink.vouch(Vouched(self._jid, manifest, sent, code, rollover))

    # -- the gate's words ------

    def take(self, stanza: Stanza) -> None:
        """The gate said something of clause 14.9."""
        if self._awaiting is not Awaiting.VERDICT or stanza.ns != AUTH:
            return
        try:
            match stanza.name:
                case "vouched" if self._offered is None:
                    # listed at the gate, where the answer to this device's request
                    # was lost: only a code says what it is listed in
                    self._linking()
                case "vouched":
                    self._vouched(stanza)
                case "wanted":
                    self._vouch(self._offered, sent=True)
                case "stale":
                    self._stale(_document(stanza, self._session.own.jid))
                case "linking":
                    _document(stanza, self._session.own.jid)
                    self._linking()
        except REMOTE as fault:
            self._refused(fault)

    def _refused(self, fault: Fault) -> None:
        """The gate is not to be believed: nothing goes on at it."""
        account = self._session.own
        account.notice(account.jid, fault.text)
        self._session.end(fault)

    def _vouched(self, stanza: Stanza) -> None:
        account = self._session.own
        assert self._offered is not None
        document = stanza.tree().findtext(f"{{{AUTH}}}token") or ""
        before = account.token.current
        try:
            token = account.token.take(document, self._offered, self._now)
        except TrustFault:
            if self._session.phase is not Phase.LIVE or self._distrusted:
                raise
            # the domain's key may have changed under the open stream: come back,
            # and have the gate prove itself anew
            self._distrusted = True
            self._uplink.drop(EnvFault("the gate signs with another key than before"))
            return
        self._distrusted = False
        pending = account.identity.pending
        if pending and pending.manifest.digest == self._offered.digest:
            account.publication.rolled_over()
        self._tries, self._pause = 0, AGAIN
        self._again_at = self._now + AGAIN
        self._awaiting = Awaiting.NOTHING
        self._object(stanza.attrs.get("reset", ""))
        if self._session.phase is Phase.LINKING:
            self._linked()
        elif self._result is not None:
            self._admit()
        elif before is None or before.document != token.document:
            account.publication.publish_record(self._session)
        self._go_on()

    def _admit(self) -> None:
        assert self._result is not None
        jid, result = self._result
        self._result = None
        held, self._held = self._held, []
        self._uplink.entering.admit(jid, result)
        for stanza in held:
            self._session.from_server(stanza)

    def _object(self, text: str) -> None:
        """Somebody asked for a reset while this device has the keys (14.11)."""
        if _MILLISECONDS.fullmatch(text) is None or int(text) == 0:
            return
        account = self._session.own
        self._uplink.object(int(text))
        account.notice(
            account.jid,
            f"somebody asked the administrator to replace the keys of {account.jid}; "
            "this device objected, and they stay",
        )

    def _stale(self, manifest: Manifest) -> None:
        account = self._session.own
        pending = account.identity.pending
        if pending and pending.manifest.root == manifest.root:
            # it was taken once, and this device's state is a copy from before
            account.publication.rolled_over()
        account.publication.take_newer(manifest)
        self._vouch(account.identity.manifest, sent=True)

    # -- linking ------

    def _linking(self) -> None:
        """The account has keys, and this device none of them yet (14.12)."""
        account, session = self._session.own, self._session
        if account.identity.ready and session.phase is not Phase.LINKING:
            raise TrustFault("the gate does not know this device of the account")
        account.identity.set_standing(Standing.LINKING)
        self._awaiting = Awaiting.LINK
        if self._result is not None:
            jid, result = self._result
            self._result = None
            session.linking(jid, result)
            account.notice(
                account.jid,
                f"{account.jid} has keys on another device already; {LINK}",
            )

    def _linked(self) -> None:
        """The gate knows this device now: the client begins anew, with everything."""
        self._session.end(
            EnvFault(
                "this device is linked to the account now; connect again",
                condition="reset",
            )
        )

    def refused(self, fault: Refusal) -> None:
        """The gate ended the stream over the keys.

        Keys that were made here a moment ago, because the account's record was
        empty, are given up again: the gate holds the true ones.
        """
        account = self._session.own
        identity = account.identity
        pending, offered = identity.pending, self._offered
        if pending:
            # a no to the old root, on a stream that was opened before, is none to the
            # new one: on another stream the gate may have taken that
            meant = offered is not None and offered.digest == pending.manifest.digest
            if meant and fault.word in ("root-changed", "bad-proof"):
                # the gate holds another root than the one that was to hand over
                identity.end_rollover()
        elif account.token.untried and identity.has_manifest:
            if fault.word == "root-changed":
                identity.discard()
        elif fault.word == "unknown-device" and not identity.has_manifest:
            # the gate holds no keys either: the next login makes the first
            identity.set_standing(Standing.NEW)
        account.refused = fault.text
        account.turned_away = True
        account.notice(account.jid, f"{fault.text}; {fault.hint}".rstrip("; "))

    # -- on the open stream ------

    @property
    def covered(self) -> bool:
        """Whether there is nothing to vouch for before something is published."""
        if not self._uplink.gated:
            return True
        account = self._session.own
        token = account.token.current
        return token is not None and token.covers(account.identity.offered)

    def before(self, then: Callable[[], None]) -> None:
        """Call *then* when the gate has taken the own manifest, or does not answer."""
        if self.covered:
            then()
            return
        self._waiting.append(then)
        self._until = self._now + PATIENCE
        if self._session.phase is Phase.LIVE:
            self._renew()

    def _renew(self) -> None:
        if self._awaiting is Awaiting.NOTHING:
            self._again_at = self._now + self._pause
            self._pause = min(2 * self._pause, MOST_AGAIN)
            self._vouch(self._session.own.identity.offered, sent=not self.covered)

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    def tick(self, now: int) -> None:
        """Deadlines, renewal, and what another stream of the account learned."""
        account = self._session.own
        if self._waiting and now >= self._until:
            if self._awaiting is Awaiting.VERDICT:
                self._awaiting, self._tries = Awaiting.NOTHING, 0
            self._go_on()
        if not self._uplink.gated:
            return
        if self._awaiting is Awaiting.LINK and account.identity.ready:
            self.linked()
        elif self._session.phase is Phase.LIVE and now >= self._again_at:
            self._tick_live(now)

    def _tick_live(self, now: int) -> None:
        token = self._session.own.token.current
        due = token is None or token.expires - now < RENEW
        if self._awaiting is Awaiting.VERDICT:
            # the gate says nothing where it cannot judge now (14.9)
            self._awaiting, self._tries = Awaiting.NOTHING, 0
        if self._session.own.identity.ready and (due or not self.covered):
            self._renew()

    def linked(self) -> None:
        """The manifest lists this device now."""
        self._vouch(self._session.own.identity.manifest, sent=True)

    def resumed(self) -> None:
        """The stream goes on over a new connection (14.13)."""
        if self._awaiting is Awaiting.VERDICT:
            # what was asked on the old one is asked again
            self._awaiting, self._tries = Awaiting.NOTHING, 0
            self._again_at, self._pause = 0, AGAIN
        elif self._session.own.identity.pending:
            self._again_at, self._pause = 0, AGAIN


def _document(stanza: Stanza, jid: str) -> Manifest:
    """The manifest in the gate's answer.

    :raises PeerFault: its form is wrong.
    :raises TrustFault: a signature is not valid, or it is another account's.
    """
    text = stanza.tree().findtext(f"{{{AUTH}}}manifest") or ""
    return open_manifest(text.encode(), jid)
