"""What a domain says of one account: its record, or that there is none (clause 16.1).

Pure policy in steps: each returns effects, and what comes back calls the next.
Tokens are made anew when they are older than a day, signed absences when half
their hour is over; whoever asks for the same meanwhile waits for the same one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar
from xml.etree.ElementTree import Element, SubElement

from ..errors import REMOTE, EnvFault, Fault, LocalFault
from ..keys import tokens
from ..keys.manifest import open_manifest
from ..keys.servers import ServerDocument
from ..suites.entropy import token as random_bytes
from .questions import Answer, Issued, LookUp, No, Question, Record

KEY: Final = "urn:x-tillie:key:0"
DAY_MS: Final = 24 * 3600 * 1000
_ABSENCES_KEPT: Final = 2_000
_COUNTING_KEPT: Final = 10_000
_JTI: Final = 16
LARGEST: Final = 48 * 1024
"""Bytes of a record."""


class Shown(Protocol):
    """What a domain shows of itself: ``net.signer.Published``."""

    @property
    def document(self) -> ServerDocument: ...
    @property
    def rollovers(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """The registry is asked; *then* gets the answer."""

    question: Question
    then: Callable[[Answer], Effects]


@dataclass(frozen=True, slots=True)
class Sign:
    """The domain's key signs *claims*; *then* gets the JWS, or why there is none."""

    typ: str
    claims: Mapping[str, object]
    then: Callable[[str | Fault], Effects]


@dataclass(frozen=True, slots=True)
class Reply:
    """This stanza goes out on the component's stream."""

    stanza: Element


Effect: TypeAlias = Ask | Sign | Reply
Effects: TypeAlias = list[Effect]
Told: TypeAlias = Callable[[Element | Fault], Effects]
T = TypeVar("T")
Signed: TypeAlias = Callable[[str | Fault], Effects]


def server_element(shown: Shown) -> Element:
    """``<server/>``: the domain's key, and what led to it (13.3)."""
    server = Element(f"{{{KEY}}}server")
    SubElement(server, f"{{{KEY}}}document").text = shown.document.document
    for rollover in shown.rollovers:
        SubElement(server, f"{{{KEY}}}rollover").text = rollover
    return server


def fit(record: Element) -> None:
    """Leave out the oldest of the account's rollovers as long as *record* is larger
    than what a reader takes (clause 10)."""
    for rollover in record.findall(f"{{{KEY}}}rollover"):
        if sum(map(len, record.itertext())) > LARGEST:
            record.remove(rollover)


class Lookups:
    """Answers for the accounts of one domain.

    :param shown: what the domain's key is now; raises EnvFault without one.
    :param clock: Unix milliseconds.
    """

    def __init__(self, shown: Callable[[], Shown], clock: Callable[[], int]) -> None:
        self._shown = shown
        self._clock = clock
        self._absences: OrderedDict[str, tuple[str, int, bytes]] = OrderedDict()
        self._counting: OrderedDict[str, tuple[bytes | None, bytes]] = OrderedDict()
        self._waiting: dict[tuple[str, str], list[Signed]] = {}

    def of(self, account: str, then: Told) -> Effects:
        """Tell *then* ``<record/>`` or ``<absent/>`` of *account*, or the fault.

        Whether an account exists, and whether it has a key, takes the same steps.

        :param account: bare JID of the own domain.
        """

        def found(answer: Answer) -> Effects:
            if isinstance(answer, Record):
                return self._record(answer, then)
            if isinstance(answer, No):
                return self._absence(account, then)
            return then(EnvFault("the gate's registry cannot be asked now"))

        return [Ask(LookUp(account), found)]

    # -- records ------------------------------------------------------------

    def _record(self, record: Record, then: Told) -> Effects:
        def settled(token: str | Fault) -> Effects:
            if isinstance(token, str):
                return then(_with_token(record, token))
            in_time = record.expires > self._clock()
            if record.token and in_time and self._counts(record):
                # a day old or more, and still good
                return then(_with_token(record, record.token))
            return then(token)

        fresh = record.expires - self._clock() > tokens.TOKEN_MS - DAY_MS
        if record.token and fresh and self._counts(record):
            return settled(record.token)
        return self._once("token", record.account, settled, lambda: self._renew(record))

    def _counts(self, record: Record) -> bool:
        """Not where it was signed before the domain's key was changed.

        A token is verified once under a key: that takes longer than all the rest.
        """
        try:
            keys = self._shown().document.keys
            found = (record.token_digest, keys.fingerprint)
            if self._counting.get(record.account) != found:
                tokens.open_token(record.token.encode(), record.account, keys)
                _keep(self._counting, record.account, found, _COUNTING_KEPT)
        except Fault:
            return False
        return True

    def _renew(self, record: Record) -> Effects:
        """A token for the same manifest; the registry keeps it before it is shown."""
        account = record.account
        manifest = open_manifest(record.manifest.encode(), account)
        claims = tokens.token_claims(
            manifest, random_bytes(_JTI), self._clock(), record.token_digest
        )

        def signed(document: str | Fault) -> Effects:
            try:
                if isinstance(document, Fault):
                    raise document
                # by the key that is shown beside it, or it is of no use
                keys = self._shown().document.keys
                token = tokens.open_token(document.encode(), account, keys)
            except Fault as fault:
                return self._settle("token", account, fault)
            issued = Issued(
                account, document, token.digest, manifest.digest, token.expires
            )
            return [Ask(issued, lambda _: self._settle("token", account, document))]

        return [Sign(tokens.TYP, claims, signed)]

    # -- absences -----------------------------------------------------------

    def _absence(self, account: str, then: Told) -> Effects:
        document, until, key = self._absences.get(account, ("", 0, b""))
        if self._clock() < until - tokens.ABSENCE_MS // 2 and key == self._key():
            return then(_absent(document))

        def settled(signed: str | Fault) -> Effects:
            return then(_absent(signed) if isinstance(signed, str) else signed)

        return self._once("absence", account, settled, lambda: self._deny(account))

    def _deny(self, account: str) -> Effects:
        now, key = self._clock(), self._key()
        claims = tokens.absence_claims(account, random_bytes(_JTI), now)

        def signed(document: str | Fault) -> Effects:
            if isinstance(document, str):
                kept = (document, now + tokens.ABSENCE_MS, key)
                _keep(self._absences, account, kept, _ABSENCES_KEPT)
            return self._settle("absence", account, document)

        return [Sign(tokens.ABSENCE_TYP, claims, signed)]

    def _key(self) -> bytes:
        """Fingerprint of the key that is shown now, empty for none: what an earlier
        one signed is of no use beside it."""
        try:
            return self._shown().document.keys.fingerprint
        except Fault:
            return b""

    # -- what several wait for ----------------------------------------------

    def _once(
        self, what: str, account: str, then: Signed, begin: Callable[[], Effects]
    ) -> Effects:
        waiting = self._waiting.get((what, account))
        if waiting is not None:
            waiting.append(then)
            return []
        self._waiting[what, account] = [then]
        try:
            return begin()
        except REMOTE as fault:
            # what is held cannot be read: nobody waits for it for ever
            return self._settle(what, account, LocalFault(fault.text))

    def _settle(self, what: str, account: str, signed: str | Fault) -> Effects:
        waiting = self._waiting.pop((what, account), [])
        return [effect for then in waiting for effect in then(signed)]


def _keep(kept: OrderedDict[str, T], name: str, value: T, most: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > most:
        kept.popitem(last=False)


def _with_token(record: Record, token: str) -> Element:
    element = Element(f"{{{KEY}}}record")
    SubElement(element, f"{{{KEY}}}manifest").text = record.manifest
    for rollover in record.rollovers:
        SubElement(element, f"{{{KEY}}}rollover").text = rollover
    SubElement(element, f"{{{KEY}}}token").text = token
    return element


def _absent(document: str) -> Element:
    absent = Element(f"{{{KEY}}}absent")
    SubElement(absent, f"{{{KEY}}}document").text = document
    return absent
