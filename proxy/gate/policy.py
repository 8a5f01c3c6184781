"""Who may come without a key: rows over domain, account and network (14.5)."""

from __future__ import annotations

import fnmatch
import ipaddress
from dataclasses import dataclass
from typing import Literal, TypeAlias

Policy: TypeAlias = Literal["keys-only", "optional"]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """One row; a part that is empty, or None, matches everything.

    :param domain: prepared.
    :param account: a shell pattern over bare JIDs, in lower case.
    """

    policy: Policy
    domain: str = ""
    account: str = ""
    network: Network | None = None

    def concerns(self, domain: str, address: str) -> bool:
        """Whether domain and network match; *address* is an IP address as text."""
        if self.domain and self.domain != domain:
            return False
        return self.network is None or within(address, (self.network,))

    def names(self, account: str | None) -> bool:
        """Whether the account matches; None, which is not known, matches no pattern."""
        if not self.account:
            return True
        return account is not None and fnmatch.fnmatchcase(account, self.account)


@dataclass(frozen=True, slots=True)
class Policies:
    """The rows in order, of which the first that matches decides.

    :param default: where none does.
    """

    rules: tuple[Rule, ...] = ()
    default: Policy = "keys-only"

    def announced(self, domain: str, address: str) -> Policy:
        """What the features say (14.2): ``optional`` if somebody may come without."""
        for rule in self.rules:
            if not rule.concerns(domain, address):
                continue
            if rule.policy == "optional" or not rule.account:
                return rule.policy
        return self.default

    def judge(self, domain: str, address: str, account: str | None) -> Policy:
        """What holds for *account*, a bare JID; None where it is not known."""
        for rule in self.rules:
            if rule.concerns(domain, address) and rule.names(account):
                return rule.policy
        return self.default


def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether *address* is in one of the networks; an IPv4 one also where the
    socket calls it ``::ffff:…``."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip.version == one.version and ip in one for one in networks)
