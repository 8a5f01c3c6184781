"""TLS of a gate: version 1.3, one certificate for each domain, chosen by SNI (14.1).

Whoever names no domain of here gets no certificate at all, so that nobody is ever
shown another domain's (TLS-10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from ..errors import ConfigFault, EnvFault
from ..keys.handshake import EXPORTER_LABEL, EXPORTER_SIZE
from .dns import a_label
from .tls import accepting, server_context, speaks_for

EVERY: Final = 3600.0
DAYS: Final = (14, 3, 1, 0)
"""So many days before a certificate's end it is told that it will come (REL-22)."""


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one domain: the certificate with its chain, and its key."""

    certificate: Path
    key: Path


class GateCertificates:
    """The certificates of all domains of a gate.

    :param files: by prepared domain.
    :raises ConfigFault: one of them cannot be used.

    :ivar warnings: one line each, about certificates that work and should not stay.
    :ivar ends: when the certificate of each domain does.
    """

    def __init__(self, files: Mapping[str, Files]) -> None:
        self.warnings: list[str] = []
        self.ends: dict[str, datetime] = {}
        self._base = _strict(accepting())
        self._base.set_tlsext_servername_callback(_by_name)
        self._domains: dict[str, str] = {}
        self._contexts: dict[str, SSL.Context] = {}
        for domain, one in files.items():
            self._domains[a_label(domain)] = domain
            self._contexts[domain] = self._load(domain, one)

    def creator(self, nameless: str | None) -> GateTls:
        """For one connection.

        :param nameless: the domain of a client that sends no SNI; None where it
            cannot be known.
        """
        return GateTls(self, nameless)

    def choose(self, connection: _Named, asked: str | None) -> None:
        """Give *connection* the certificate of the domain that is asked for."""
        domain = connection.nameless if asked is None else self._domains.get(asked)
        context = None if domain is None else self._contexts.get(domain)
        if context is not None and domain is not None:
            connection.domain = domain
            connection.set_context(context)

    def connection(self) -> _Named:
        """A connection that has no certificate before a domain was chosen."""
        return _Named(self._base, None)

    def _load(self, domain: str, files: Files) -> SSL.Context:
        chain = _certificates(files.certificate)
        leaf = chain[0]
        key = _key(files.key)
        context = _strict(server_context(leaf, key, tuple(chain[1:])))
        try:
            context.check_privatekey()
        except SSL.Error:
            raise ConfigFault(
                f"{files.key} is not the key of the certificate in {files.certificate}"
            ) from None
        if not speaks_for(leaf, a_label(domain)):
            self.warnings.append(
                f"the certificate in {files.certificate} is not for {domain}:"
                " no client will accept it"
            )
        self.ends[domain] = leaf.not_valid_after_utc
        return context


class Endings:
    """Tells of certificates that come to their end while the gate runs.

    Streams that are open go on; nobody new gets in behind the end.

    :param ends: gives when the certificate of each domain ends, as it is now.
    :param say: takes a line for the operator.
    """

    def __init__(
        self,
        reactor: Any,
        ends: Callable[[], Mapping[str, datetime]],
        say: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reactor = reactor
        self._ends = ends
        self._say = say
        self._now = now
        self._told: dict[tuple[str, datetime], int] = {}
        self._next: Any = None

    def look(self) -> None:
        """Look now, and every hour from now on; of each certificate it is said once
        for each of :data:`DAYS`."""
        self.stop()
        now = self._now()
        for domain, end in self._ends().items():
            reached = [days for days in DAYS if end <= now + timedelta(days=days)]
            if reached and reached[-1] < self._told.get((domain, end), DAYS[0] + 1):
                self._told[domain, end] = reached[-1]
                self._say(_ending(domain, end, past=end <= now))
        self._next = self._reactor.callLater(EVERY, self._again)

    def stop(self) -> None:
        following, self._next = self._next, None
        if following is not None:
            following.cancel()

    def _again(self) -> None:
        self._next = None
        self.look()


def _ending(domain: str, end: datetime, *, past: bool) -> str:
    on = f"{end:%Y-%m-%d at %H:%M} UTC"
    if past:
        return (
            f"the certificate of {domain} ended on {on}: nobody new gets in;"
            " put a new one in its place and reload"
        )
    return f"the certificate of {domain} ends on {on}: renew it and reload"


class _Named(SSL.Connection):
    """A connection that knows which domain's certificate it shows.

    Twisted takes the application data of pyOpenSSL for itself.
    """

    certificates: GateCertificates
    nameless: str | None = None
    domain: str = ""


@implementer(IOpenSSLServerConnectionCreator)
class GateTls:
    """One TLS connection: ``transport.startTLS(GateTls(…))``."""

    def __init__(self, certificates: GateCertificates, nameless: str | None) -> None:
        self._certificates = certificates
        self._nameless = nameless
        self._connection: _Named | None = None

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        connection = self._certificates.connection()
        connection.certificates = self._certificates
        connection.nameless = self._nameless
        self._connection = connection
        return connection

    def secured(self) -> tuple[bytes, str]:
        """The exporter of 14.1 and the domain, once the handshake is over.

        :raises EnvFault: this is not the TLS that was asked for.
        """
        connection = self._connection
        if connection is None or not connection.domain:
            raise EnvFault("a TLS handshake ended without a domain")
        if connection.get_protocol_version() < SSL.TLS1_3_VERSION:
            raise EnvFault("a TLS handshake ended below version 1.3")
        exporter = connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, b"")
        return exporter, connection.domain


def _by_name(connection: Any) -> None:
    # OpenSSL must never see an exception here; a name that cannot be read is none.
    if isinstance(connection, _Named):
        asked = connection.get_servername()
        name = None if asked is None else asked.decode("ascii", "replace").lower()
        connection.certificates.choose(connection, name)


def _strict(context: SSL.Context) -> SSL.Context:
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    return context


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigFault(
            f"there is no certificate in {path}",
            hint="a PEM file is wanted: the domain's certificate first, then its chain",
        ) from None


def _key(path: Path) -> Any:
    try:
        return load_pem_private_key(_read(path), None)
    except TypeError:
        raise ConfigFault(
            f"the key in {path} is locked with a passphrase",
            hint="a gate starts without anybody there: store the key unlocked, 0600",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigFault(
            f"there is no private key in {path}", hint="a PEM file is wanted"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigFault(f"{path} cannot be read: {error.strerror}") from error
