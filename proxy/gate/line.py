"""What the parts of one stream share: where it stands, and how they act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..core.streams import header
from ..keys.handshake import Channel, Presentation
from ..keys.servers import ServerDocument
from ..wire.stanza import Stanza, stream_error
from .between import Outcome
from .complaints import Complaints
from .disclosure import DirectoryState, Disclosed
from .effects import (
    Ask,
    Close,
    Effect,
    Hear,
    Inquire,
    Later,
    Note,
    Occasion,
    Probe,
    Prove,
    Sign,
    ToBackend,
    ToClient,
)
from .enforce import Terms
from .inquiry import Finding
from .limits import Failures, Pace
from .names import ERRORS
from .phases import BEFORE_LOGIN, Phase
from .policy import Policies, Policy
from .questions import Answer, Question

LOGIN_MS: Final = 30_000
"""A client is logged in within so many milliseconds (RES-01)."""
TLS_MS: Final = 5_000


@dataclass(slots=True)
class World:
    """What all streams of a gate share.

    :param domains: prepared; the first one speaks for a client that names none.
    :param now: Unix milliseconds.
    :param stream_id: a fresh, unguessable id for a stream header.
    :param terms: what holds behind login (clause 17).
    :param disclosed: what was said of the gate itself (14.15).
    """

    domains: tuple[str, ...]
    policies: Policies
    now: Callable[[], int]
    stream_id: Callable[[], str]
    failures: Failures = field(default_factory=Failures)
    pace: Pace = field(default_factory=Pace)
    terms: Terms = field(default_factory=Terms)
    disclosed: Disclosed = field(default_factory=Disclosed)
    complaints: Complaints = field(default_factory=Complaints)


class Line:
    """One client's stream through the gate.

    :ivar address: the client's IP address.
    :ivar domain: what its header names, prepared; empty before.
    :ivar channel: what a presentation is bound to; None before TLS.
    :ivar shown: the device that was presented (14.3).
    :ivar server: the domain's document when that was.
    :ivar jid: what the server named: the full JID as bound, as it wrote it.
    :ivar account: its bare JID, prepared.
    :ivar root: fingerprint of the root that was vouched for.
    :ivar opened: whether a header of ours stands on the client's stream.
    :ivar since: when the phase that may time out began.
    :ivar patience: milliseconds that it may take.
    :ivar tls_by: when the handshake has to be done.
    """

    def __init__(self, world: World, address: str) -> None:
        self.world = world
        self.address = address
        self.phase = Phase.CLEAR_HEADER
        self.domain = ""
        self.channel: Channel | None = None
        self.shown: Presentation | None = None
        self.server: ServerDocument | None = None
        self.jid = ""
        self.account = ""
        self.root: bytes | None = None
        self.opened = False
        self.since = world.now()
        self.patience = LOGIN_MS
        self.tls_by = 0
        self.effects: list[Effect] = []
        self.client_waits = 0
        self.backend_waits = 0
        self._calls: dict[int, Callable[..., None]] = {}
        self._number = 0

    # -- acting ------

    def to_client(self, data: bytes) -> None:
        self.effects.append(ToClient(data))

    def to_backend(self, data: bytes) -> None:
        self.effects.append(ToBackend(data))

    def complain(self, text: str) -> None:
        """Tell the operator what is wrong with all streams of the domain, now and then.

        :param text: with ``{domain}`` in it.
        """
        text = text.format(domain=self.domain)
        due = self.world.complaints.due(text, self.world.now())
        # no client is named: it is not one's doing
        self.effects.append(Note("trouble", text if due else ""))

    def note(self, occasion: Occasion, text: str = "") -> None:
        """Count something; *text* is a line for the log, the client put behind it."""
        if text:
            text = f"{text} from {self.address} ({self.domain or 'no domain'})"
        self.effects.append(Note(occasion, text))

    def refused(self, why: str, *, counts: bool = False) -> None:
        """A login was refused or failed: one line in the log.

        :param counts: against the address that it came from (AUTH-14); not for
            clients without a key, who try no password and may try for ever beside
            others behind the same address.
        """
        if counts:
            self.world.failures.add(self.address, self.world.now())
        self.note("refused", f"{why}: login refused")

    def handshake(self) -> None:
        """TLS begins, and has to be done in time."""
        self.phase = Phase.HANDSHAKE
        self.tls_by = self.world.now() + TLS_MS

    def hurry(self, milliseconds: int) -> None:
        """What is awaited now has to come in time."""
        self.since = self.world.now()
        self.patience = milliseconds

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    @property
    def unknown(self) -> bool:
        """Whether nobody has logged in on this stream."""
        return self.phase in BEFORE_LOGIN

    def by_server(self, stanza: Stanza) -> bool:
        """Whether the server itself sent *stanza*, not somebody by way of it."""
        own = (None, self.domain, self.account or self.domain, self.jid or self.domain)
        return stanza.from_ in own

    def policy(self, account: str | None) -> Policy:
        """What holds for *account* at this address (14.5)."""
        return self.world.policies.judge(self.domain, self.address, account)

    def end(self, condition: str, text: str, application: str = "") -> None:
        """End the stream with an error (RFC 6120, 4.9.3; 17.3)."""
        if self.over:
            return
        if self.phase is not Phase.HANDSHAKE:
            if not self.opened:
                self.to_client(self.own_header())
            clark = f"{{{ERRORS}}}{application}" if application else ""
            self.to_client(stream_error(condition, text, clark))
        self.drop()

    def drop(self) -> None:
        """End without a word."""
        if not self.over:
            self.phase = Phase.OVER
            self._calls.clear()
            self.effects.append(Close())

    def smuggled(self) -> None:
        """Bytes came where a new layer was to begin (TLS-02, TLS-03)."""
        self.note("refused", "data across the start of a new stream")
        self.drop()

    def out_of_step(self, what: str) -> None:
        """The server did what no server does."""
        self.note("trouble", what)
        self.end("internal-server-error", "the server is out of step")

    def own_header(self) -> bytes:
        """The header with which the gate itself speaks."""
        domain = self.domain or self.world.domains[0]
        return header(from_=domain, stream_id=self.world.stream_id())

    # -- asking ------

    def ask(
        self,
        question: Question,
        then: Callable[[Answer], None],
        *,
        hold: bool = True,
    ) -> None:
        """Have *question* answered.

        :param hold: what the client sends waits until *then* has been called.
        """
        number = self._expect(then, hold=hold)
        self.effects.append(Ask(number, question))

    def tell(self, question: Question) -> None:
        """Have something written down on which nothing here waits."""
        self.ask(question, lambda _: None, hold=False)

    def prove(self, statement: bytes, then: Callable[..., None]) -> None:
        """Have the server key sign *statement*; ``then(signature, server)``."""
        number = self._expect(then, hold=True)
        self.effects.append(Prove(number, self.domain, statement))

    def later(self, milliseconds: int, then: Callable[[], None]) -> None:
        """Go on after a while; what the client sends waits."""
        number = self._expect(then, hold=True)
        self.effects.append(Later(number, milliseconds))

    def sign(
        self,
        typ: str,
        claims: dict[str, object],
        then: Callable[[str | None], None],
        *,
        hold: bool,
    ) -> None:
        """Have a document signed; None where that cannot be done now."""
        number = self._expect(then, hold=hold)
        self.effects.append(Sign(number, self.domain, typ, claims))

    def probe(
        self, domain: str, then: Callable[[Outcome], None], *, inward: bool
    ) -> None:
        """Have *domain* probed; that direction of the stream waits for it."""
        number = self._expect(then, hold=not inward, hold_backend=inward)
        self.effects.append(Probe(number, domain))

    def inquire(self, account: str, then: Callable[[Finding], None]) -> None:
        """Have it found out whether *account* has a key; the client waits."""
        number = self._expect(then, hold=True)
        self.effects.append(Inquire(number, self.domain, account))

    def directory(self, then: Callable[[DirectoryState], None]) -> None:
        """Have it found out whether the domain's directory answers; the client
        waits."""
        number = self._expect(then, hold=True)
        self.effects.append(Hear(number, self.domain))

    def answer(self, number: int, *values: Any) -> None:
        """The edge brings what was asked for; late ones are dropped."""
        call = self._calls.pop(number, None)
        if call is not None:
            call(*values)

    def _expect(
        self, then: Callable[..., None], *, hold: bool, hold_backend: bool = False
    ) -> int:
        self._number += 1
        self.client_waits += hold
        self.backend_waits += hold_backend

        def call(*values: Any) -> None:
            self.client_waits -= hold
            self.backend_waits -= hold_backend
            then(*values)

        self._calls[self._number] = call
        return self._number
