"""How often an address may come and fail, and how many stand at the door (RES-01).

Bounded whatever strangers do: addresses beyond the bound push out the oldest,
and an IPv6 network of 64 bits, which one host has to itself, is one address.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Final

ADDRESSES: Final = 65_536
BURST: Final = 20
REFILL_MS: Final = 3_000
"""After a burst of failed logins one more is allowed in so many milliseconds."""
ARRIVALS: Final = 2_000
"""An address may open so many connections at once at most,"""
ARRIVAL_MS: Final = 50
"""and behind them one in so many milliseconds."""
_OURS: Final = frozenset({"127.0.0.1", "::1"})
"""Where everybody comes from whom a relay on this machine brings: an onion service, a
balancer that tells no addresses."""
STANZA_MS: Final = 60_000
"""In which a stanza that has begun is all there: the largest one at 4.4 KB/s."""
LOGINS_A_SECOND: Final = 50
TURN_MS: Final = 20_000
"""Who would wait longer for a turn is told to come again."""


@lru_cache(maxsize=4_096)
def origin(address: str) -> str:
    """What counts as one address: IPv4 whole, of IPv6 the first 64 bits."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))


class Rate:
    """How often something happened, by address: a bucket each.

    :param burst: so often at once, and behind that once in *refill* milliseconds.
    """

    def __init__(self, burst: int, refill: int) -> None:
        self._burst = burst
        self._refill = refill
        self._spent: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def exhausted(self, address: str, now: int) -> bool:
        """Whether *address* has to wait; *now* in Unix milliseconds."""
        # a fraction of one is none yet
        return self._left(origin(address), now) > self._burst - 1

    def add(self, address: str, now: int) -> None:
        """It happened once more, from *address*."""
        key = origin(address)
        self._spent[key] = (self._left(key, now) + 1, now)
        self._spent.move_to_end(key)
        if len(self._spent) > ADDRESSES:
            self._spent.popitem(last=False)

    def _left(self, key: str, now: int) -> float:
        """Failures that are not worked off yet."""
        spent, at = self._spent.get(key, (0.0, now))
        left = spent - max(now - at, 0) / self._refill
        if left > 0:
            return left
        self._spent.pop(key, None)
        return 0.0


class Failures(Rate):
    """Failed logins; good ones leave it alone."""

    def __init__(self) -> None:
        super().__init__(BURST, REFILL_MS)


class Arrivals(Rate):
    """Connections, whatever becomes of them: who comes and goes without end costs
    little more than who does not come (RES-01, RES-02)."""

    def __init__(self, each: int) -> None:
        super().__init__(0, ARRIVAL_MS)
        self.allow(each)

    def allow(self, each: int) -> None:
        """At once as many of one address as may stand at the door."""
        self._burst = min(each, ARRIVALS)

    def enter(self, address: str, now: int) -> bool:
        """Let one in, unless its address has opened too many of late."""
        if address in _OURS:
            return True
        if self.exhausted(address, now):
            return False
        self.add(address, now)
        return True


class Pace:
    """How fast logins are let on to the server when all come at once (REL-27)."""

    def __init__(self, a_second: int = LOGINS_A_SECOND) -> None:
        self._step = 1000 / a_second
        self._burst = 1000.0
        self._free_at = 0.0

    def turn(self, now: int) -> int | None:
        """When it is the turn of one that comes at *now*: milliseconds from then.

        A second's worth goes at once; those behind wait in the order they came.
        None: too many wait already, and this one does not count as waiting.
        """
        free_at = max(self._free_at, now - self._burst) + self._step
        if free_at - now > TURN_MS:
            return None
        self._free_at = free_at
        return max(int(free_at - now), 0)


class Half:
    """How long the client's stanza that has begun is under way (14.8.1)."""

    def __init__(self) -> None:
        self._since: int | None = None

    @property
    def there(self) -> bool:
        """Whether one has begun and not ended."""
        return self._since is not None

    def fed(self, now: int, *, whole: bool, more: bool) -> None:
        """Bytes came at *now*, in Unix milliseconds.

        :param whole: whether nothing waits for the rest of it behind them.
        :param more: whether something ended in them.
        """
        if whole:
            self._since = None
        elif more or self._since is None:
            self._since = now

    def late(self, now: int, *, reading: bool) -> bool:
        """Whether it took too long; while nobody reads, that is not its fault."""
        if self._since is not None and not reading:
            self._since = now
        return self._since is not None and now - self._since > STANZA_MS


class Crowd:
    """Connections that have not logged in: how many, and how many of each address."""

    def __init__(self, total: int, each: int) -> None:
        self.total = total
        self.each = each
        self.count = 0
        self._by_address: dict[str, int] = {}

    def enter(self, address: str, chance: float) -> bool:
        """Let one in, unless there are too many.

        From half of *total* on, ever more are turned away at random, so that who
        holds many connections cannot hold all of them.

        :param chance: uniformly from [0, 1).
        """
        key = origin(address)
        there = self._by_address.get(key, 0)
        half = self.total / 2
        crowded = (self.count - half) / half if half else 1.0
        if there >= self.each or self.count >= self.total or chance < crowded:
            return False
        self._by_address[key] = there + 1
        self.count += 1
        return True

    def leave(self, address: str) -> None:
        """One that was let in logged in or went."""
        key = origin(address)
        self.count -= 1
        there = self._by_address.pop(key) - 1
        if there:
            self._by_address[key] = there
