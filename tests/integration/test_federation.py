"""Between servers: no certificate, no link (RFC 6120, 13.7.2), with printed lines."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.certificates import Authority, Leaf
from ..support.federation import CLIENT_ADDRESS, Federation, names
from ..support.raw import CLIENT, RawClient
from ..support.waiting import until

A, B = "a.test", "b.test"
ALICE, BOB = f"alice@{A}", f"bob@{B}"
ERROR = f"{{{CLIENT}}}error"


@dataclass(frozen=True)
class Bad:
    """A certificate that is good for nothing, and what is said of it.

    :ivar make: makes it for a domain.
    :ivar by_prosody: what is heard by who connects to a Prosody with it, and by who
        finds it on a Prosody.
    :ivar by_ejabberd: what is heard on an ejabberd that finds it.
    """

    make: Callable[[Authority, str], Leaf | None]
    by_prosody: tuple[str, str]
    by_ejabberd: str


# By the domain of the server that has it.
BAD = {
    "missing.test": Bad(
        lambda ca, name: None,
        ("certificate could not be validated", "negotiation of encrypted connection"),
        "TLS failed",
    ),
    "expired.test": Bad(
        lambda ca, name: ca.leaf(
            *names(name), label=name, clients=True, lasts=datetime.timedelta(days=-1)
        ),
        ("certificate has expired",) * 2,
        "certificate has expired",
    ),
    "another.test": Bad(
        lambda ca, name: ca.leaf("c.test", label=name, clients=True),
        ("certificate is not valid for this name",) * 2,
        "Certificate host name mismatch",
    ),
    "self-signed.test": Bad(
        lambda ca, name: ca.self_signed(*names(name), label=name),
        ("certificate is not trusted",) * 2,
        "self signed certificate",
    ),
}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path)
    yield federation
    federation.close()


def with_bad_certificates(
    federation: Federation,
) -> tuple[RawClient, dict[str, RawClient]]:
    """Add a Prosody for each bad certificate, start all; Bob, and who is there."""
    for domain, bad in BAD.items():
        federation.prosody(domain, bad.make(federation.authority, domain))
    federation.start()
    others = {domain: federation.login(f"eve@{domain}") for domain in BAD}
    return federation.login(BOB), others


def bounced(sender: RawClient, receiver: RawClient) -> str:
    """Send a message, which must come back and not arrive; the error's texts."""
    ident = sender.say(receiver.jid.partition("/")[0], "is this link good?")
    back = sender.wait_for(lambda one: one.get("id") == ident, seconds=20)
    assert back.get("type") == "error"
    receiver.ping()
    assert all(one.get("type") == "error" for one in receiver.messages())
    error = back.find(ERROR)
    assert error is not None
    return " ".join(one.text or "" for one in error)


def both_ways(one: RawClient, other: RawClient) -> None:
    """Messages between two bare addresses arrive."""
    for sender, receiver in ((one, other), (other, one)):
        sender.say(receiver.jid.partition("/")[0], f"from {sender.jid}")
        receiver.message(f"from {sender.jid}", seconds=20)


def test_two_servers_with_certificates_exchange_messages(
    federation: Federation,
) -> None:
    for domain in (A, B):
        federation.prosody(domain, federation.leaf(domain))
    federation.start()
    both_ways(federation.login(ALICE), federation.login(BOB))


def test_a_server_without_a_good_certificate_gets_no_link_with_prosody(
    federation: Federation,
) -> None:
    federation.prosody(B, federation.leaf(B))
    bob, others = with_bad_certificates(federation)
    for domain, other in others.items():
        connecting, connected = BAD[domain].by_prosody
        assert connecting in bounced(other, bob)
        assert connected in bounced(bob, other)


def test_without_the_printed_lines_an_expired_certificate_gets_one(
    federation: Federation,
) -> None:
    """What the tests above would miss if the lines did nothing."""
    leaf = BAD["expired.test"].make(federation.authority, A)
    federation.prosody(A, leaf, behind_gate=False)
    federation.prosody(B, federation.leaf(B), behind_gate=False)
    federation.start()
    both_ways(federation.login(ALICE), federation.login(BOB))


def test_prosody_and_ejabberd_with_certificates_exchange_messages(
    federation: Federation,
) -> None:
    federation.prosody(A, federation.leaf(A, clients=True))
    federation.ejabberd(B, federation.leaf(B))
    federation.start()
    bob = federation.login(BOB)
    both_ways(federation.login(ALICE), bob)
    # the log is written by a process of ejabberd's own, a little later
    until(lambda: CLIENT_ADDRESS in federation.servers[B].log, "the address in the log")


def test_a_server_without_a_good_certificate_gets_no_link_with_ejabberd(
    federation: Federation,
) -> None:
    federation.ejabberd(B, federation.leaf(B))
    # Before 25.08, and so in Debian 12, what is good for servers only counts as bad
    # when its server connects.
    federation.prosody(A, federation.leaf(A))
    bob, others = with_bad_certificates(federation)
    for domain, other in others.items():
        assert "not-authorized" in bounced(other, bob)
        assert BAD[domain].by_ejabberd in bounced(bob, other)
    alice = federation.login(ALICE)
    assert "not-authorized" in bounced(alice, bob)
    reason = "unsupported certificate purpose"
    until(lambda: reason in federation.servers[B].log, "its log to say why")
    bob.say(ALICE, "towards it")
    alice.message("towards it", seconds=20)
