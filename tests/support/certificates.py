"""A certificate authority that lives as long as one test bed.

Certificates run for 30 days: ejabberd's checker crashes on far dates.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Leaf:
    """Files of one certificate: the chain and its key, both PEM."""

    certificate: Path
    key: Path

    def server_context(self, *, alpn: bool = True) -> ssl.SSLContext:
        """Return a context that presents this certificate (TLS 1.2 and up)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if alpn:
            context.set_alpn_protocols(["xmpp-client"])
        return context


class Authority:
    """A private CA in a folder; `ca` is its PEM file, for `--ca`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Test bed CA")
        self.ca = folder / "ca.pem"
        authority = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_ca_usage(), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(authority.public_bytes(Encoding.PEM))

    def leaf(
        self,
        *names: str,
        label: str = "leaf",
        clients: bool = False,
        starts: datetime.timedelta = datetime.timedelta(days=-1),
        lasts: datetime.timedelta = datetime.timedelta(days=30),
    ) -> Leaf:
        """Issue a server certificate for DNS names and IP addresses.

        A negative `lasts` gives one that has expired. With `clients` it is good
        for the connecting side too (extended key usage).
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(names[0]), key, starts=starts, lasts=lasts)
        builder = _for_server(builder, names, clients=clients)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._files(label, certificate, key, self.ca.read_bytes())

    def self_signed(self, *names: str, label: str = "self-signed") -> Leaf:
        """Make a server certificate that only its own key vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(names[0])
        builder = self._builder(subject, key, issuer=key)
        builder = _for_server(builder, names, clients=True)
        return self._files(label, builder.sign(key, hashes.SHA256()), key)

    def _files(
        self,
        label: str,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        chain: bytes = b"",
    ) -> Leaf:
        files = Leaf(self.folder / f"{label}.pem", self.folder / f"{label}.key")
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM) + chain)
        files.key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        files.key.chmod(0o600)
        return files

    def client_context(self, *, alpn: bool = True) -> ssl.SSLContext:
        """Return a context that trusts this CA alone and checks the name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if alpn:
            context.set_alpn_protocols(["xmpp-client"])
        return context

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        issuer: ec.EllipticCurvePrivateKey | None = None,
        starts: datetime.timedelta = datetime.timedelta(days=-1),
        lasts: datetime.timedelta = datetime.timedelta(days=30),
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        begin = min(now + starts, now + lasts - datetime.timedelta(days=1))
        issuing = (issuer or self._key).public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name if issuer is None else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now + lasts)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing),
                critical=False,
            )
        )


def _for_server(
    builder: x509.CertificateBuilder, names: Sequence[str], *, clients: bool
) -> x509.CertificateBuilder:
    san = x509.SubjectAlternativeName([_general_name(one) for one in names])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    if clients:
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return (
        builder.add_extension(san, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
