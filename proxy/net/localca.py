"""A certificate authority of one machine, for the leg between client and proxy.

Some clients insist on TLS even on loopback.  The authority is made once and
kept; a person may import ``ca.pem`` into a client.  Certificates for domains
are made when asked for and kept beside it until a month before they expire.

``ca-key.pem`` is what counts; ``ca.pem`` is the part of it to give away.  A
file that cannot be read is never replaced: that would break every client that
trusts it, and might hide that somebody meddled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import EnvFault
from .dns import a_label, ip_literal

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from OpenSSL import SSL

    Identity: TypeAlias = tuple[EllipticCurvePrivateKey, x509.Certificate]

AUTHORITY_NAME: Final = "Tillie on this machine"
_AUTHORITY_LIFE: Final = timedelta(days=3650)
_LEAF_LIFE: Final = timedelta(days=365)
_RENEW_BEFORE: Final = timedelta(days=30)
# A client whose clock is a little behind still accepts it.
_BACKDATED: Final = timedelta(hours=1)
_MAX_CONTEXTS: Final = 64
_MAX_NAME: Final = 200


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalCertificates:
    """Certificates for the local leg, kept in *directory* (mode 0700, files 0600).

    Nothing is read or made before it is asked for.

    :param now: the time, with a time zone.
    """

    def __init__(self, directory: Path, now: Callable[[], datetime] = _utc_now) -> None:
        self._directory = directory
        self._now = now
        self._authority: Identity | None = None
        self._contexts: dict[str, tuple[datetime, SSL.Context]] = {}

    @property
    def ca_path(self) -> Path:
        """The authority's certificate (PEM), for clients to import.

        :raises EnvFault: it cannot be read or made.
        """
        self._load_authority()
        return self._directory / "ca.pem"

    def context(self, domain: str) -> SSL.Context:
        """A server context with a certificate for *domain*, localhost and loopback.

        :raises EnvFault: a file is damaged or cannot be written; the domain is
            none.
        """
        name = ip_literal(domain) or a_label(domain)
        kept = self._contexts.get(name)
        if kept is not None and self._now() < kept[0]:
            return kept[1]
        from .tls import server_context

        _, authority = self._load_authority()
        key, leaf = self._load_leaf(name)
        context = server_context(leaf, key, (authority,))
        if len(self._contexts) >= _MAX_CONTEXTS:
            del self._contexts[next(iter(self._contexts))]
        self._contexts[name] = (leaf.not_valid_after_utc - _RENEW_BEFORE, context)
        return context

    # -- the authority

    def _load_authority(self) -> Identity:
        if self._authority is None:
            self._authority = self._read_authority() or self._make_authority()
        _, certificate = self._authority
        now = self._now()
        if (
            not certificate.not_valid_before_utc
            <= now
            < certificate.not_valid_after_utc
        ):
            raise EnvFault(
                f"the local certificate authority in {self._directory} is valid from "
                f"{certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}, but today is "
                f"{now:%Y-%m-%d}",
                hint=f"Check the clock, or delete {self._directory} for a new one.",
            )
        return self._authority

    def _read_authority(self) -> Identity | None:
        secret, public = self._directory / "ca-key.pem", self._directory / "ca.pem"
        found = _read(secret)
        published = _read(public)
        if found is None:
            if published is not None:
                raise EnvFault(
                    f"{secret} is missing, so no local certificates can be made",
                    hint=f"Restore it, or delete {public} for a new authority, which "
                    "your clients then have to trust anew.",
                )
            return None
        identity = _parse(found, secret)
        pem = _certificate_pem(identity[1])
        if published is None:
            _write(public, pem)
        elif published.strip() != pem.strip():
            raise EnvFault(
                f"{public} does not belong to {secret}",
                hint=f"Delete {public}; it is written again.",
            )
        return identity

    def _make_authority(self) -> Identity:
        identity = _issue_authority(self._now())
        secret = self._directory / "ca-key.pem"
        _make_directory(self._directory)
        if not _write(secret, _identity_pem(identity), replace=False):
            # Another process was faster; its authority is the one.
            identity = _parse(_read(secret) or b"", secret)
        _write(self._directory / "ca.pem", _certificate_pem(identity[1]))
        return identity

    # -- leaves

    def _load_leaf(self, name: str) -> Identity:
        if len(name) > _MAX_NAME:
            raise EnvFault(
                f"{name[:40]}… is too long a name for a local certificate",
                condition="host-unknown",
            )
        # The prefix keeps a domain called "ca" away from the authority's files.
        path = self._directory / f"leaf-{name.replace(':', '_')}.pem"
        found = _read(path)
        if found is not None:
            identity = _parse(found, path)
            if self._still_good(identity[1]):
                return identity
        identity = _issue_leaf(self._load_authority(), name, self._now())
        _write(path, _identity_pem(identity))
        return identity

    def _still_good(self, leaf: x509.Certificate) -> bool:
        from cryptography.exceptions import InvalidSignature

        _, authority = self._load_authority()
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            return False
        last = leaf.not_valid_after_utc - _RENEW_BEFORE
        return leaf.not_valid_before_utc <= self._now() < last


# -- certificates -----------------------------------------------------------


def _issue_authority(now: datetime) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY_NAME)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _issue_leaf(authority: Identity, name: str, now: datetime) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    signer, issuer = authority
    key = ec.generate_private_key(ec.SECP256R1())
    common = x509.NameAttribute(NameOID.COMMON_NAME, "Tillie, local connection")
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        x509.CertificateBuilder(
            issuer_name=issuer.subject, subject_name=x509.Name([common])
        )
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(min(now + _LEAF_LIFE, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName(_general_names(name)), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return key, certificate


def _general_names(name: str) -> list[x509.GeneralName]:
    from cryptography import x509

    domains = [] if ip_literal(name) else [name]
    addresses = [name] if ip_literal(name) else []
    return [
        *(x509.DNSName(each) for each in dict.fromkeys([*domains, "localhost"])),
        *(
            x509.IPAddress(ip_address(each))
            for each in dict.fromkeys([*addresses, "127.0.0.1", "::1"])
        ),
    ]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# -- files ------------------------------------------------------------------


def _identity_pem(identity: Identity) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key, certificate = identity
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem + _certificate_pem(certificate)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _parse(data: bytes, path: Path) -> Identity:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(data, None)
        certificate = x509.load_pem_x509_certificate(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _damaged(path) from None
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or certificate.public_key() != key.public_key()
    ):
        raise _damaged(path)
    return key, certificate


def _damaged(path: Path) -> EnvFault:
    return EnvFault(
        f"{path} is damaged",
        hint="Restore it from a backup, or delete it and a new one is made.",
    )


def _make_directory(directory: Path) -> None:
    try:
        missing = [
            each for each in (directory, *directory.parents) if not each.exists()
        ]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            each.chmod(0o700)
        directory.chmod(0o700)
    except OSError as problem:
        raise _unusable(directory, problem) from problem


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise _unusable(path, problem) from problem


def _write(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write the file whole or not at all, mode 0600; False if it is there already."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        return _put(draft, path, replace=replace)
    except OSError as problem:
        raise _unusable(path, problem) from problem
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path, *, replace: bool) -> bool:
    if replace:
        draft.replace(path)
        return True
    try:
        # Unlike a rename, a link never takes the place of what is there.
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    return True


def _unusable(path: Path, problem: OSError) -> EnvFault:
    return EnvFault(
        f"{path} cannot be used: {problem.strerror}",
        condition="internal-server-error",
    )
