"""What device and gate sign at login (clause 14): the bytes, and their checks.

All of it is bound to one TLS connection by its exporter and to one stream by
the gate's nonce, so that nothing said here can be said again elsewhere
(AUTH-11).  The gate's side and the proxy's use the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import TrustFault
from ..suites.fields import fields
from .identity import DevicePrivate, RootPublic, check_device_signature
from .tokens import SKEW_MS

EXPORTER_LABEL: Final = b"EXPERIMENTAL-tillie-login-0"
EXPORTER_SIZE: Final = 32
NONCE_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a login takes place.

    :param domain: the account's domain, normalised.
    :param nonce: of the gate's features, 16 bytes.
    :param exporter: of the TLS connection, 32 bytes.
    :raises TrustFault: a wrong size.
    """

    domain: str
    nonce: bytes
    exporter: bytes

    def __post_init__(self) -> None:
        if len(self.nonce) != NONCE_SIZE or len(self.exporter) != EXPORTER_SIZE:
            raise TrustFault("a login at a gate without nonce or TLS exporter")


@dataclass(frozen=True, slots=True)
class Presentation:
    """The device that a stream is for (14.3).

    :param device: Ed25519 public key, 32 bytes.
    :param root: fingerprint of its account's root, None if it has none yet.
    """

    device: bytes
    root: bytes | None

    def statement(self, channel: Channel) -> bytes:
        return fields(
            "present",
            channel.domain,
            channel.nonce,
            channel.exporter,
            self.device,
            self.root,
        )


def present(channel: Channel, device: DevicePrivate, root: bytes | None) -> bytes:
    """Sign a presentation; 64 bytes."""
    return device.sign(Presentation(device.public, root).statement(channel))


def check_present(channel: Channel, shown: Presentation, signature: bytes) -> None:
    """:raises TrustFault: the device did not sign this here and now."""
    check_device_signature(shown.device, signature, shown.statement(channel))


def presented_statement(channel: Channel, shown: Presentation, time: int) -> bytes:
    """What the gate signs to prove itself (14.4); *time* in Unix milliseconds."""
    return fields(
        "presented",
        "gate",
        channel.domain,
        channel.exporter,
        channel.nonce,
        shown.device,
        shown.root,
        time,
    )


def check_presented(
    channel: Channel,
    shown: Presentation,
    server: RootPublic,
    time: int,
    signature: bytes,
) -> None:
    """:raises TrustFault: the holder of the domain's key did not sign this."""
    statement = presented_statement(channel, shown, time)
    check_device_signature(server.ed25519, signature, statement)


def clock_differs(theirs: int, ours: int) -> bool:
    """Whether two clocks are further apart than documents allow."""
    return abs(theirs - ours) > SKEW_MS


def vouch_statement(
    channel: Channel, shown: Presentation, jid: str, manifest: bytes | None
) -> bytes:
    """What the device signs behind binding (14.7).

    :param jid: the full JID that the server bound.
    :param manifest: the manifest's digest, None where it waits to be linked.
    """
    return fields(
        "vouch",
        channel.domain,
        channel.nonce,
        channel.exporter,
        shown.device,
        shown.root,
        jid,
        manifest,
    )


def objection_statement(domain: str, account: str, device: bytes, due: int) -> bytes:
    """What a device signs against a reset that is due at *due* (14.11)."""
    return fields("object", domain, account, device, due)
