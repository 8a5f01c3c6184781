"""Which domains a gate's people may talk to: those whose server has a key (17.2).

Pure: which domain a stanza concerns, and what is remembered of it.  Finding out
is ``net.s2sprobe``'s.  Presence and iq count as messages do: no key, no link.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..wire.jid import Jid

GOOD_MS: Final = 3_600_000
BAD_MS: Final = 300_000
UNREACHED_MS: Final = 30_000
HOLD_MS: Final = 10_000
"""How long a stanza waits for a probe at most."""
_KEPT: Final = 5_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe of a domain came to.

    :param keyed: it has a server with a valid certificate.
    :param text: why not, for people; empty if it has.
    :param reached: whether a server answered at all.
    """

    keyed: bool
    text: str = ""
    reached: bool = True


class Domains:
    """What is known of other domains.

    :param own: of this gate; they and what lies below them are exempt.
    :param clock: Unix milliseconds.
    """

    def __init__(self, own: tuple[str, ...], clock: Callable[[], int]) -> None:
        self.own = own
        self._clock = clock
        self._known: OrderedDict[str, tuple[Outcome, int]] = OrderedDict()

    def concerned(self, address: str | None) -> str | None:
        """The other domain of *address*; None where there is none to be asked for.

        Only the domain is looked at: what names are valid in front of it and behind
        is its own server's affair.

        :raises PeerFault: it is no domain.
        """
        if address is None:
            return None
        domain = Jid.parse(address.partition("/")[0].rpartition("@")[2]).domain
        return None if self.exempt(domain) else domain

    def exempt(self, domain: str) -> bool:
        """Whether *domain* is an own one, or lies below one (components)."""
        return any(domain == own or domain.endswith(f".{own}") for own in self.own)

    def known(self, domain: str) -> Outcome | None:
        """What holds now; None where it has to be found out."""
        outcome, until = self._known.get(domain, (None, 0))
        return outcome if self._clock() < until else None

    def learn(self, domain: str, outcome: Outcome) -> None:
        lasts = GOOD_MS if outcome.keyed else BAD_MS
        if not outcome.keyed and not outcome.reached:
            lasts = UNREACHED_MS
        self._known[domain] = (outcome, self._clock() + lasts)
        self._known.move_to_end(domain)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)


def words(domain: str, outcome: Outcome) -> str:
    """What the person reads whose stanza came back."""
    return (
        f"Not sent: {domain} has no key between servers, or none that can be trusted "
        f"({outcome.text}). Its operator can mend this."
    )
