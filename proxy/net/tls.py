"""TLS on both legs: contexts, whom a certificate speaks for, channel binding.

Towards the server, a certificate has to lead to a trust anchor and name the
account's domain; the name that DNS gave for the server counts for nothing
(RFC 6120, 13.7.2).  Both are decided inside OpenSSL's verification callback,
so the handshake itself fails and no byte of ours goes to a wrong server.

Accepted are the DNS-ID and the SRV-ID of the domain, for ``_xmpp-client`` or,
where we come as a server does, ``_xmpp-server``.  Not accepted: the common
name, IP addresses, and XmppAddr, which RFC 6120, 13.7.1.4 keeps for old
certificates only.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, SRV_ID, verify_service_identity
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from ..core.vocabulary import TlsFacts
from ..errors import ConfigFault, EnvFault
from ..keys.handshake import EXPORTER_LABEL, EXPORTER_SIZE
from .dns import Role

ALPN: Final = b"xmpp-client"
_MAX_CHAIN: Final = 8
_NAMES_SHOWN: Final = 6
# Authenticated encryption with forward secrecy; level 2 refuses keys under
# 112 bits of strength and signatures with MD5 or SHA-1.
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:@SECLEVEL=2"
_BINDING_LABEL: Final = b"EXPORTER-Channel-Binding"
_SRV_NAME: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_XMPP_ADDR: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")

_CODES: Final = SSL.X509VerificationCodes
# OpenSSL's include/openssl/x509_vfy.h; pyOpenSSL has no names for these three.
_KEY_TOO_SMALL: Final = (66, 67)
_DIGEST_TOO_WEAK: Final = 68
_REASONS: Final = {
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "is self-signed",
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: (
        "comes from an authority that this machine does not trust"
    ),
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT: "does not lead to a known authority",
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: (
        "does not lead to an authority that this machine trusts"
    ),
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: (
        "does not lead to an authority that this machine trusts"
    ),
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "has a wrong signature",
    _CODES.ERR_CERT_CHAIN_TOO_LONG: "has too long a chain of authorities",
    _CODES.ERR_PATH_LENGTH_EXCEEDED: "has too long a chain of authorities",
    _CODES.ERR_INVALID_CA: "was signed with a certificate that may not sign",
    _CODES.ERR_INVALID_PURPOSE: "is not meant for servers",
    _CODES.ERR_CERT_REVOKED: "was revoked",
    _CODES.ERR_UNHANDLED_CRITICAL_EXTENSION: (
        "has a critical extension that is not known here"
    ),
    _DIGEST_TOO_WEAK: "is signed with MD5 or SHA-1",
    **dict.fromkeys(_KEY_TOO_SMALL, "has too weak a key"),
}


class CertificateFault(EnvFault):
    """The server's certificate is not good for the domain; trying again is no use."""


# -- towards the server -----------------------------------------------------


def client_context(trust_anchors: Path | None = None) -> SSL.Context:
    """One context for all upstream connections.

    :param trust_anchors: a PEM file of authorities beside the system's.
    :raises ConfigFault: that file cannot be used.
    """
    context = _context(SSL.TLS_CLIENT_METHOD)
    context.set_default_verify_paths()
    if trust_anchors is not None:
        try:
            context.load_verify_locations(str(trust_anchors))
        except SSL.Error:
            raise ConfigFault(
                f"no certificates could be read from {trust_anchors}",
                hint="--ca takes a file with certificates in PEM form.",
            ) from None
    context.set_verify(SSL.VERIFY_PEER, _verify)
    context.set_verify_depth(_MAX_CHAIN)
    context.set_ocsp_client_callback(_stapled)
    return context


class _Judged(SSL.Connection):
    """A connection that knows who judges its certificate.

    Twisted takes the application data of pyOpenSSL for itself; the reference
    is weak, so that a closed connection is freed without the collector.
    """

    judge: weakref.ref[ClientTls]


def _judge(connection: SSL.Connection) -> ClientTls | None:
    return connection.judge() if isinstance(connection, _Judged) else None


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """One TLS connection to a server, and what is to be said about it.

    :param name: the account's domain as A-label; SNI and expected name.
    :param peer: how the far side is called in messages.
    :param direct: TLS from the first byte; only then ALPN is sent (XEP-0368).
    :param role: as whom we come.
    """

    def __init__(
        self,
        context: SSL.Context,
        name: str,
        peer: str,
        *,
        direct: bool,
        role: Role = "client",
    ) -> None:
        self.fault: CertificateFault | None = None
        self._context = context
        self._name = name
        self._peer = peer
        self._direct = direct
        self._role: Role = role
        self._alpn = f"xmpp-{role}".encode()
        self._named = False
        self._connection: SSL.Connection | None = None

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        connection = _Judged(self._context, None)
        connection.judge = weakref.ref(self)
        connection.set_tlsext_host_name(self._name.encode("ascii"))
        if self._direct:
            connection.set_alpn_protos([self._alpn])
        connection.request_ocsp()
        self._connection = connection
        return connection

    def secured(self) -> tuple[TlsFacts, bytes]:
        """Call when the handshake is over; SHA-256 of the server's SPKI comes second.

        :raises EnvFault: the connection is not to be used.
        """
        connection = self._connection
        # Nothing but a verified handshake sets _named: a path around the
        # callback (a resumed session, say) ends here.
        if connection is None or not self._named:
            raise CertificateFault(f"{self._peer} showed no certificate")
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise CertificateFault(f"{self._peer} showed no certificate")
        if connection.get_alpn_proto_negotiated() not in (b"", self._alpn):
            raise EnvFault(f"{self._peer} chose a protocol other than XMPP")
        try:
            return _facts(connection, certificate), server_key(certificate)
        except (ValueError, UnsupportedAlgorithm):
            raise CertificateFault(
                f"the certificate of {self._peer} has a key of an unknown kind"
            ) from None

    def failure(self, error: BaseException) -> EnvFault:
        """What to say of a handshake that ended with *error*."""
        if self.fault is not None:
            return self.fault
        reasons = _openssl_reasons(error)
        if not reasons:
            return EnvFault(f"{self._peer} hung up during the TLS handshake")
        if "unsupported protocol" in reasons or "protocol version" in reasons:
            return EnvFault(f"{self._peer} speaks no TLS newer than 1.1")
        return EnvFault(f"the TLS handshake with {self._peer} failed: {reasons}")

    def closed_by_peer(self) -> bool:
        """Whether a close_notify came: without one, what came last may be cut off."""
        connection = self._connection
        return connection is not None and bool(
            connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN
        )

    # -- asked by OpenSSL, which must never see an exception

    def judge(self, certificate: Any, code: int, depth: int, ok: bool) -> bool:
        if ok and depth:
            return True
        try:
            return self._judge(certificate.to_cryptography(), code, depth, ok)
        except Exception:
            # Hostile bytes reach parsers here.  Whatever they raise, the answer
            # is no; let through, it would surface in the reactor instead.
            self._named = False
            self.fault = CertificateFault(
                f"the certificate of {self._peer} cannot be read"
            )
            return False

    def _judge(
        self, certificate: x509.Certificate, code: int, depth: int, ok: bool
    ) -> bool:
        self._named = ok and speaks_for(certificate, self._name, self._role)
        if not self._named:
            why = "is for another name" if ok else _why(certificate, code, depth)
            self._refuse(certificate, why, own=depth == 0)
        return self._named

    def revoked(self, certificate: x509.Certificate) -> None:
        self._refuse(certificate, "was revoked", own=True)

    def _refuse(self, certificate: x509.Certificate, why: str, *, own: bool) -> None:
        self._named = False
        seen = f", seen: {seen_names(certificate)}" if own else ""
        self.fault = CertificateFault(
            f"the certificate of {self._peer} {why} (expected: {self._name}{seen})",
            hint="Only the server's operator can mend this; nothing was sent to it.",
        )


def speaks_for(certificate: x509.Certificate, name: str, role: Role = "client") -> bool:
    """Whether the certificate names the domain *name* (an A-label).

    :param role: as whom we come: a server's certificate may name one service only.
    """
    if name.replace(".", "").isdigit():
        return False
    for wanted in (DNS_ID(name), SRV_ID(f"_xmpp-{role}.{name}")):
        try:
            verify_service_identity(extract_patterns(certificate), [wanted], [])
        except VerificationError:
            continue
        except (CertificateError, IndexError):
            # One malformed name spoils the whole certificate: nobody honest
            # has one, and what else the issuer let pass is unknown.
            return False
        return True
    return False


def seen_names(certificate: x509.Certificate) -> str:
    """The names in the certificate, in a form that is safe to print."""
    names = [f"{value} (common name only)" for value in _common_names(certificate)]
    try:
        san = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        pass
    else:
        names = [_general_name(name) for name in san.value] or names
    shown = [repr(name)[1:-1][:100] for name in names[:_NAMES_SHOWN]]
    if len(names) > _NAMES_SHOWN:
        shown.append(f"{len(names) - _NAMES_SHOWN} more")
    return ", ".join(shown) or "no name"


def server_key(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo (DER)."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def end_point(certificate: x509.Certificate) -> bytes | None:
    """The ``tls-server-end-point`` binding (RFC 5929, 4.1); None where undefined."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:  # Ed25519 and its like sign without a hash of their own
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    der = certificate.public_bytes(serialization.Encoding.DER)
    return hashlib.new(name.replace("-", "_"), der).digest()


def _facts(connection: SSL.Connection, certificate: x509.Certificate) -> TlsFacts:
    exporter = login = None
    # Below 1.3 the value is unique only under conditions that OpenSSL does not
    # show (RFC 9266, 3).
    if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
        exporter = connection.export_keying_material(_BINDING_LABEL, 32, b"")
        login = connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, b"")
    return TlsFacts(
        version=connection.get_protocol_version_name(),
        exporter=exporter,
        end_point=end_point(certificate),
        login=login,
    )


def _verify(
    connection: SSL.Connection,
    certificate: crypto.X509,
    code: int,
    depth: int,
    ok: int,
) -> bool:
    judge = _judge(connection)
    return judge is not None and judge.judge(certificate, code, depth, bool(ok))


def _stapled(connection: SSL.Connection, staple: bytes, data: object) -> bool:
    """Refuse what the server itself shows to be revoked (RFC 6066, 8).

    The staple's signature is not checked: believing a forged "revoked" costs
    a connection that the forger could have cut anyway, and "good" changes
    nothing.
    """
    certificate = connection.get_peer_certificate(as_cryptography=True)
    judge = _judge(connection)
    if not staple or certificate is None or judge is None:
        return True
    try:
        response = ocsp.load_der_ocsp_response(staple)
        revoked = (
            response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
            and any(
                each.serial_number == certificate.serial_number
                and each.certificate_status is ocsp.OCSPCertStatus.REVOKED
                for each in response.responses
            )
        )
    except (ValueError, UnsupportedAlgorithm):
        return True
    if revoked:
        judge.revoked(certificate)
    return not revoked


def _why(certificate: x509.Certificate, code: int, depth: int) -> str:
    if code == _CODES.ERR_CERT_HAS_EXPIRED:
        reason = f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    elif code == _CODES.ERR_CERT_NOT_YET_VALID:
        reason = f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    else:
        reason = _REASONS.get(code, f"was refused (OpenSSL code {code})")
    if depth == 0:
        return reason
    return f"was issued by an authority whose own certificate {reason}"


def _common_names(certificate: x509.Certificate) -> list[str]:
    attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(attribute.value) for attribute in attributes]


def _general_name(name: x509.GeneralName) -> str:
    if isinstance(name, x509.OtherName):
        kind = {_SRV_NAME: "SRVName", _XMPP_ADDR: "XmppAddr"}.get(name.type_id)
        # The value is one DER string with a length of a single byte.
        text = name.value[2:].decode("utf-8", "replace")
        return f"{kind or name.type_id.dotted_string} {text}"
    return str(name.value)


def _openssl_reasons(error: BaseException) -> str:
    if not isinstance(error, SSL.Error) or not error.args:
        return ""
    queue = error.args[0]
    if not isinstance(queue, list):
        return ""
    return "; ".join(str(entry[-1]) for entry in queue if entry[-1])


# -- towards the client -----------------------------------------------------


def server_context(
    certificate: x509.Certificate, key: Any, chain: tuple[x509.Certificate, ...] = ()
) -> SSL.Context:
    """A context that answers with *certificate*; no session is kept or resumed."""
    context = accepting()
    context.use_certificate(certificate)
    context.use_privatekey(key)
    for issuer in chain:
        context.add_extra_chain_cert(issuer)
    return context


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """The accepting side: ``transport.startTLS(ServerTls(context))``.

    :param context: for a client that names no host, or for all of them if
        there is no *choose*.
    :param choose: the context for the host name of SNI (lower case); with None
        the handshake fails, so nobody is shown another domain's certificate.
    """

    def __init__(
        self,
        context: SSL.Context,
        choose: Callable[[str], SSL.Context | None] | None = None,
    ) -> None:
        self._nameless = context
        self._choose = choose
        self._context = context if choose is None else self._choosing()

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def _choosing(self) -> SSL.Context:
        # It has no certificate of its own: unless another takes its place, no
        # handshake can succeed.
        context = accepting()
        context.set_tlsext_servername_callback(self._by_name)
        return context

    def _by_name(self, connection: SSL.Connection) -> None:
        asked = connection.get_servername()
        if asked is None:
            chosen: SSL.Context | None = self._nameless
        else:
            name = asked.decode("ascii", "replace").lower()
            chosen = self._choose(name) if self._choose else None
        if chosen is not None:
            connection.set_context(chosen)


def _select(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN in offered:
        return ALPN
    # A client that wants another protocol was sent here by somebody (ALPACA):
    # pyOpenSSL turns this into the alert no_application_protocol.
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def accepting() -> SSL.Context:
    """For the accepting side; it has no certificate yet."""
    context = _context(SSL.TLS_SERVER_METHOD)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_select)
    return context


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(_CIPHERS)
    return context
