"""Certificates for tests, good ones and such as no authority would issue."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")


def srv_name(text: str) -> x509.OtherName:
    return x509.OtherName(SRV_NAME, bytes([0x16, len(text)]) + text.encode())


def xmpp_addr(text: str) -> x509.OtherName:
    return x509.OtherName(XMPP_ADDR, bytes([0x0C, len(text)]) + text.encode())


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@dataclass
class Identity:
    """A key, its certificate, and what leads up to the root."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    def server(
        self, version: int | None = None, alpn: bytes | None = None
    ) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if version is not None:
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        if alpn is not None:
            context.set_alpn_select_callback(lambda _, offered: alpn)
        context.use_privatekey(self.key)
        context.use_certificate(self.certificate)
        for issuer in self.chain:
            context.add_extra_chain_cert(issuer)
        return context


@dataclass
class Authority:
    """An authority; *chain* is empty for a root."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = field(default=())

    def write(self, directory: Path) -> Path:
        path = directory / "root.pem"
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(
        self,
        *names: str | x509.GeneralName,
        subject: str = "a server",
        since: datetime = NOW - DAY,
        until: datetime = NOW + DAY,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        unknown: bool = False,
        garbled: bool = False,
        key: Any = None,
    ) -> Identity:
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder(
                issuer_name=self.certificate.subject, subject_name=common_name(subject)
            )
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if names:
            general = [x509.DNSName(n) if isinstance(n, str) else n for n in names]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(general), critical=False
            )
        if unknown:
            strange = x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"
            )
            builder = builder.add_extension(strange, critical=True)
        if garbled:
            nonsense = x509.UnrecognizedExtension(
                x509.ObjectIdentifier("2.5.29.17"), b"\x30\x05\x82\x40ab"
            )
            builder = builder.add_extension(nonsense, critical=False)
        chain = (self.certificate, *self.chain) if self.chain else ()
        return Identity(key, builder.sign(self.key, hashes.SHA256()), chain)

    def under(self, name: str, **times: datetime) -> Authority:
        made = authority(name, self, **times)
        return Authority(made.key, made.certificate, (self.certificate, *self.chain))


def authority(
    name: str = "test root",
    parent: Authority | None = None,
    *,
    since: datetime = NOW - DAY,
    until: datetime = NOW + DAY,
    key: Any = None,
) -> Authority:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = common_name(name)
    certificate = (
        x509.CertificateBuilder(
            issuer_name=parent.certificate.subject if parent else subject,
            subject_name=subject,
        )
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(parent.key if parent else key, hashes.SHA256())
    )
    return Authority(key, certificate)


def self_signed(*names: str) -> Identity:
    made = authority("a server")
    issued = made.issue(*names, key=made.key)
    return Identity(made.key, issued.certificate)


def signed_with(identity: Identity, issuer: Any, digest: Any, last: int) -> Identity:
    """The same certificate with the RSA signature made anew with an old *digest*.

    :param last: last arc of the algorithm's object identifier, 1.2.840.113549.1.1.
    """
    arc = bytes.fromhex("06092a864886f70d0101")
    new, old = arc + bytes([last]), arc + b"\x0b"
    signed = identity.certificate.tbs_certificate_bytes.replace(old, new)
    signature = issuer.sign(signed, padding.PKCS1v15(), digest)
    algorithm = b"\x30\x0d" + new + b"\x05\x00"
    bits = _der(0x03, b"\x00" + signature)
    der = _der(0x30, signed + algorithm + bits)
    return Identity(identity.key, x509.load_der_x509_certificate(der))


def _der(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 128:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value
