"""Handshakes through memory: whose certificate is taken, and what is bound."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from proxy.errors import ConfigFault, EnvFault
from proxy.net.tls import (
    CertificateFault,
    ClientTls,
    ServerTls,
    client_context,
    end_point,
    server_context,
    server_key,
)

from .authority import (
    DAY,
    NOW,
    Authority,
    Identity,
    authority,
    rsa_key,
    self_signed,
    signed_with,
    srv_name,
    xmpp_addr,
)

NAME = "example.org"


@pytest.fixture(scope="module")
def root() -> Authority:
    return authority(key=rsa_key(2048))


@pytest.fixture(scope="module")
def trusted(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> SSL.Context:
    return client_context(root.write(tmp_path_factory.mktemp("anchors")))


def pump(client: SSL.Connection, server: SSL.Connection) -> None:
    """Carry bytes both ways until both sides are through.

    :raises SSL.Error: the client's error if it has one, else the server's.
    """
    errors: dict[SSL.Connection, SSL.Error] = {}
    done: set[SSL.Connection] = set()
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            if one in errors:
                continue
            try:
                one.do_handshake()
                done.add(one)
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                errors[one] = error
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
        if len(done) == 2 or client in errors:
            break
    for one in (client, server):
        if one in errors:
            raise errors[one]
    assert len(done) == 2


def handshake(
    trusted: SSL.Context, server: SSL.Context, name: str = NAME, *, direct: bool = True
) -> tuple[ClientTls, SSL.Connection]:
    tls = ClientTls(trusted, name, "xmpp.example.net:5223", direct=direct)
    client = tls.clientConnectionForTLS(None)
    client.set_connect_state()
    accepting = SSL.Connection(server, None)
    accepting.set_accept_state()
    pump(client, accepting)
    return tls, accepting


def refusal(trusted: SSL.Context, server: SSL.Context, name: str = NAME) -> EnvFault:
    tls = ClientTls(trusted, name, "xmpp.example.net:5223", direct=True)
    client = tls.clientConnectionForTLS(None)
    client.set_connect_state()
    accepting = SSL.Connection(server, None)
    accepting.set_accept_state()
    with pytest.raises(SSL.Error) as caught:
        pump(client, accepting)
    with pytest.raises(CertificateFault):
        tls.secured()
    return tls.failure(caught.value)


# -- refused ----------------------------------------------------------------

Make = Callable[[Authority], Identity]


def chain_of(length: int) -> Make:
    def make(root: Authority) -> Identity:
        last = root
        for number in range(length):
            last = last.under(f"authority {number}")
        return last.issue(NAME)

    return make


REFUSED: dict[str, tuple[Make, str]] = {
    "expired": (
        lambda root: root.issue(NAME, since=NOW - 9 * DAY, until=NOW - 2 * DAY),
        f"expired on {NOW - 2 * DAY:%Y-%m-%d} (expected: example.org, seen: example.org)",
    ),
    "not yet valid": (
        lambda root: root.issue(NAME, since=NOW + 2 * DAY, until=NOW + 9 * DAY),
        f"is not valid before {NOW + 2 * DAY:%Y-%m-%d}",
    ),
    "self-signed": (lambda root: self_signed(NAME), "is self-signed"),
    "unknown authority": (
        lambda root: authority("stranger").issue(NAME),
        "does not lead to an authority that this machine trusts",
    ),
    "unknown root in the chain": (
        lambda root: Identity(*(_with_root(authority("stranger")))),
        "comes from an authority that this machine does not trust",
    ),
    "expired authority": (
        lambda root: root.under("old", since=NOW - 9 * DAY, until=NOW - 2 * DAY).issue(
            NAME
        ),
        "was issued by an authority whose own certificate expired on",
    ),
    "other name": (
        lambda root: root.issue("example.com", "www.example.com"),
        "is for another name (expected: example.org, seen: example.com, www.example.com)",
    ),
    "parent domain": (lambda root: root.issue("org"), "seen: org"),
    "subdomain": (lambda root: root.issue("xmpp.example.org"), "another name"),
    "suffix of a label": (lambda root: root.issue("notexample.org"), "another name"),
    "only CN": (
        lambda root: root.issue(subject=NAME),
        "seen: example.org (common name only)",
    ),
    "SRV target": (
        lambda root: root.issue("xmpp.example.net"),
        "expected: example.org, seen: xmpp.example.net",
    ),
    "SRVName of another service": (
        lambda root: root.issue(srv_name("_imap.example.org")),
        "seen: SRVName _imap.example.org",
    ),
    "SRVName of another domain": (
        lambda root: root.issue(srv_name("_xmpp-client.example.com")),
        "seen: SRVName _xmpp-client.example.com",
    ),
    "NUL in SAN": (
        lambda root: root.issue("example.org\0.evil.example"),
        r"seen: example.org\x00.evil.example",
    ),
    "NUL beside a good name": (
        lambda root: root.issue(NAME, "example.org\0.evil.example"),
        "is for another name",
    ),
    "wildcard of the top": (lambda root: root.issue("*.org"), "another name"),
    "clientAuth only": (
        lambda root: root.issue(NAME, usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        "is not meant for servers",
    ),
    "SHA-1": (
        lambda root: signed_with(root.issue(NAME), root.key, hashes.SHA1(), 5),
        "is signed with MD5 or SHA-1",
    ),
    "MD5": (
        lambda root: signed_with(root.issue(NAME), root.key, hashes.MD5(), 4),
        "is signed with MD5 or SHA-1",
    ),
    "forged signature": (
        lambda root: signed_with(root.issue(NAME), rsa_key(1024), hashes.SHA256(), 11),
        "has a wrong signature",
    ),
    "short RSA key": (
        lambda root: root.issue(NAME, key=rsa_key(1024)),
        "has too weak a key",
    ),
    "unknown critical extension": (
        lambda root: root.issue(NAME, unknown=True),
        "has a critical extension that is not known here",
    ),
    "unreadable names": (lambda root: root.issue(garbled=True), "cannot be read"),
    "20-deep chain": (chain_of(20), "has too long a chain"),
    "leaf as authority": (
        lambda root: _signed_by_a_leaf(root),
        "was signed with a certificate that may not sign",
    ),
}


def _with_root(
    stranger: Authority,
) -> tuple[object, x509.Certificate, tuple[x509.Certificate]]:
    issued = stranger.issue(NAME)
    return issued.key, issued.certificate, (stranger.certificate,)


def _signed_by_a_leaf(root: Authority) -> Identity:
    leaf = root.issue("example.com", subject="a leaf")
    made = Authority(leaf.key, leaf.certificate, (leaf.certificate,)).issue(NAME)
    return Identity(made.key, made.certificate, (leaf.certificate,))


@pytest.mark.parametrize("case", [pytest.param(k, id=f"TLS-06 {k}") for k in REFUSED])
def test_certificate_is_refused(
    root: Authority, trusted: SSL.Context, case: str
) -> None:
    make, text = REFUSED[case]
    fault = refusal(trusted, make(root).server())
    assert isinstance(fault, CertificateFault)
    assert text in fault.text
    assert "xmpp.example.net:5223" in fault.text


def test_tls_06_wildcard_stands_for_one_label(
    root: Authority, trusted: SSL.Context
) -> None:
    server = root.issue("*.example.org").server()
    assert "another name" in refusal(trusted, server, "a.b.example.org").text
    assert "another name" in refusal(trusted, server, "example.org").text


def test_tls_06_address_in_the_certificate_counts_for_nothing(
    root: Authority, trusted: SSL.Context
) -> None:
    server = root.issue(x509.IPAddress(ip_address("127.0.0.1"))).server()
    assert "another name" in refusal(trusted, server, "127.0.0.1").text
    assert "seen: 127.0.0.1" in refusal(trusted, server).text


def staple(root: Authority, of: x509.Certificate, status: ocsp.OCSPCertStatus) -> bytes:
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=of,
            issuer=root.certificate,
            algorithm=hashes.SHA256(),
            cert_status=status,
            this_update=NOW,
            next_update=NOW + DAY,
            revocation_time=NOW if revoked else None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, root.certificate)
        .sign(root.key, hashes.SHA256())
    )
    return response.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_tls_06_revoked_staple(
    root: Authority, trusted: SSL.Context, version: int
) -> None:
    identity = root.issue(NAME)
    server = identity.server(version)
    revoked = staple(root, identity.certificate, ocsp.OCSPCertStatus.REVOKED)
    server.set_ocsp_server_callback(lambda *_: revoked)
    assert "was revoked (expected" in refusal(trusted, server).text


@pytest.mark.parametrize("what", ["good", "another's", "nonsense"])
def test_other_staples_change_nothing(
    root: Authority, trusted: SSL.Context, what: str
) -> None:
    identity, other = root.issue(NAME), root.issue(NAME)
    staples = {
        "good": staple(root, identity.certificate, ocsp.OCSPCertStatus.GOOD),
        "another's": staple(root, other.certificate, ocsp.OCSPCertStatus.REVOKED),
        "nonsense": b"0\x03\x02\x01\x00",
    }
    server = identity.server()
    server.set_ocsp_server_callback(lambda *_: staples[what])
    handshake(trusted, server)[0].secured()


def test_hostile_names_are_shown_harmlessly(
    root: Authority, trusted: SSL.Context
) -> None:
    names = ["\x1b]0;owned\x07.example", *(f"n{i}.example" * 30 for i in range(60))]
    text = refusal(trusted, root.issue(*names).server()).text
    assert r"\x1b]0;owned\x07.example" in text
    assert text.isprintable()
    assert len(text) < 1000
    assert "55 more" in text


# -- accepted ---------------------------------------------------------------

ACCEPTED: dict[str, tuple[str, list[str | x509.GeneralName]]] = {
    "dNSName": (NAME, [NAME]),
    "dNSName in capitals": (NAME, ["EXAMPLE.org"]),
    "dNSName among others": (NAME, ["example.com", NAME]),
    "SRVName": (NAME, [srv_name("_xmpp-client.example.org")]),
    "dNSName beside a foreign SRVName": (NAME, [NAME, srv_name("_imap.example.com")]),
    "SRVName beside a foreign dNSName": (
        NAME,
        ["mail.example.com", srv_name("_xmpp-client.example.org")],
    ),
    "A-label": ("xn--mnchen-3ya.example", ["xn--mnchen-3ya.example"]),
    "wildcard, one label": ("chat.example.org", ["*.example.org"]),
}


@pytest.mark.parametrize("case", [pytest.param(k, id=f"TLS-07 {k}") for k in ACCEPTED])
def test_certificate_is_accepted(
    root: Authority, trusted: SSL.Context, case: str
) -> None:
    name, names = ACCEPTED[case]
    tls, accepting = handshake(trusted, root.issue(*names).server(), name)
    assert tls.secured()[0].version == "TLSv1.3"
    assert accepting.get_servername() == name.encode()


def test_tls_07_intermediate_authorities(root: Authority, trusted: SSL.Context) -> None:
    handshake(trusted, chain_of(3)(root).server())[0].secured()


def test_tls_07_xmpp_addr_is_documented_as_refused(
    root: Authority, trusted: SSL.Context
) -> None:
    fault = refusal(trusted, root.issue(xmpp_addr(NAME)).server())
    assert "seen: XmppAddr example.org" in fault.text


# -- versions, ALPN, bindings -----------------------------------------------


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_tls_09_old_versions(
    root: Authority, trusted: SSL.Context, version: int
) -> None:
    fault = refusal(trusted, root.issue(NAME).server(version))
    assert fault.text == "xmpp.example.net:5223 speaks no TLS newer than 1.1"
    assert not isinstance(fault, CertificateFault)


@pytest.mark.parametrize("cipher", [b"AES128-GCM-SHA256", b"ECDHE-ECDSA-AES128-SHA"])
def test_tls_09_weak_ciphers(
    root: Authority, trusted: SSL.Context, cipher: bytes
) -> None:
    key = rsa_key(2048) if not cipher.startswith(b"ECDHE") else None
    server = root.issue(NAME, key=key).server(SSL.TLS1_2_VERSION)
    server.set_cipher_list(cipher)
    assert "handshake" in refusal(trusted, server).text


def test_tls_09_renegotiation_is_off(root: Authority, trusted: SSL.Context) -> None:
    server = root.issue(NAME).server(SSL.TLS1_2_VERSION)
    tls = ClientTls(trusted, NAME, "peer", direct=True)
    client = tls.clientConnectionForTLS(None)
    client.set_connect_state()
    accepting = SSL.Connection(server, None)
    accepting.set_accept_state()
    pump(client, accepting)
    accepting.renegotiate()
    with pytest.raises(SSL.Error, match="no renegotiation"):
        talk(client, accepting)
    assert client.total_renegotiations() == 0


def talk(client: SSL.Connection, server: SSL.Connection) -> None:
    for _ in range(4):
        pump_once(server, client)
        pump_once(client, server)


def pump_once(one: SSL.Connection, other: SSL.Connection) -> None:
    for action in (one.do_handshake, lambda: one.recv(1)):
        with contextlib.suppress(SSL.WantReadError):
            action()
    with contextlib.suppress(SSL.WantReadError):
        other.bio_write(one.bio_read(1 << 16))


def test_alpn_only_with_direct_tls(root: Authority, trusted: SSL.Context) -> None:
    identity = root.issue(NAME)
    _, direct = handshake(trusted, identity.server(alpn=b"xmpp-client"), direct=True)
    assert direct.get_alpn_proto_negotiated() == b"xmpp-client"
    _, later = handshake(trusted, identity.server(alpn=b"xmpp-client"), direct=False)
    assert later.get_alpn_proto_negotiated() == b""


def test_foreign_alpn_is_refused(root: Authority, trusted: SSL.Context) -> None:
    fault = refusal(trusted, root.issue(NAME).server(alpn=b"http/1.1"))
    # OpenSSL of 2026 refuses by itself; older ones leave it to us.
    assert "bad extension" in fault.text or "other than XMPP" in fault.text


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_facts_are_what_the_server_computes(
    root: Authority, trusted: SSL.Context, version: int
) -> None:
    identity = root.issue(NAME)
    tls, accepting = handshake(trusted, identity.server(version))
    facts, key = tls.secured()
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    assert facts.end_point == hashlib.sha256(der).digest()
    if version == SSL.TLS1_3_VERSION:
        label = b"EXPORTER-Channel-Binding"
        assert facts.version == "TLSv1.3"
        assert facts.exporter == accepting.export_keying_material(label, 32, b"")
        assert facts.exporter is not None
        assert len(facts.exporter) == 32
    else:
        assert (facts.version, facts.exporter) == ("TLSv1.2", None)
    spki = identity.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key == hashlib.sha256(spki).digest()


def test_tls_08_server_key_tells_a_new_key_from_a_new_certificate(
    root: Authority,
) -> None:
    first = root.issue(NAME)
    renewed = root.issue(NAME, key=first.key)
    other = root.issue(NAME)
    assert server_key(first.certificate) == server_key(renewed.certificate)
    assert server_key(first.certificate) != server_key(other.certificate)


def test_end_point_hash_follows_the_signature(root: Authority) -> None:
    identity = root.issue(NAME)

    def digest(of: Identity, name: str) -> bytes:
        der = of.certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.new(name, der).digest()

    for algorithm, last, name in (
        (hashes.MD5(), 4, "sha256"),
        (hashes.SHA1(), 5, "sha256"),
        (hashes.SHA256(), 11, "sha256"),
        (hashes.SHA384(), 12, "sha384"),
        (hashes.SHA512(), 13, "sha512"),
    ):
        signed = signed_with(identity, root.key, algorithm, last)
        assert end_point(signed.certificate) == digest(signed, name)


def test_end_point_is_undefined_for_ed25519() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = authority().certificate.subject
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, None)
    )
    assert end_point(certificate) is None


def test_a_handshake_that_was_not_judged_is_not_used(root: Authority) -> None:
    careless = SSL.Context(SSL.TLS_CLIENT_METHOD)
    tls, _ = handshake(careless, root.issue(NAME).server())
    with pytest.raises(CertificateFault):
        tls.secured()


def test_unusable_file_of_authorities(tmp_path: Path) -> None:
    path = tmp_path / "anchors.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigFault, match=r"anchors\.pem"):
        client_context(path)
    with pytest.raises(ConfigFault):
        client_context(tmp_path / "missing.pem")


def test_without_a_file_only_the_system_is_trusted(root: Authority) -> None:
    fault = refusal(client_context(), root.issue(NAME).server())
    assert "this machine trusts" in fault.text


# -- towards the client -----------------------------------------------------


def local_handshake(
    accepting: ServerTls,
    sni: bytes | None = None,
    alpn: list[bytes] | None = None,
    version: int | None = None,
) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(version)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
    client = SSL.Connection(context, None)
    if sni is not None:
        client.set_tlsext_host_name(sni)
    if alpn is not None:
        client.set_alpn_protos(alpn)
    client.set_connect_state()
    server = accepting.serverConnectionForTLS(None)
    server.set_accept_state()
    pump(client, server)
    return client


def local(root: Authority, *names: str) -> SSL.Context:
    identity = root.issue(*names)
    return server_context(identity.certificate, identity.key, (root.certificate,))


def shown(client: SSL.Connection) -> list[str]:
    certificate = client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return san.value.get_values_for_type(x509.DNSName)


def test_local_leg_shows_its_chain_and_takes_xmpp(root: Authority) -> None:
    accepting = ServerTls(local(root, NAME))
    client = local_handshake(accepting, alpn=[b"h2", b"xmpp-client"])
    assert shown(client) == [NAME]
    chain = client.get_peer_cert_chain(as_cryptography=True)
    assert chain is not None
    assert chain[1] == root.certificate
    assert client.get_alpn_proto_negotiated() == b"xmpp-client"
    assert client.get_protocol_version_name() == "TLSv1.3"
    assert local_handshake(accepting).get_alpn_proto_negotiated() == b""


def test_local_leg_refuses_other_protocols(root: Authority) -> None:
    with pytest.raises(SSL.Error, match="no application protocol"):
        local_handshake(ServerTls(local(root, NAME)), alpn=[b"http/1.1"])


def test_local_leg_refuses_old_versions(root: Authority) -> None:
    with pytest.raises(SSL.Error):
        local_handshake(ServerTls(local(root, NAME)), version=SSL.TLS1_1_VERSION)


def test_local_leg_chooses_by_name_and_never_another(root: Authority) -> None:
    named = {"example.net": local(root, "example.net")}
    accepting = ServerTls(local(root, "localhost"), named.get)
    assert shown(local_handshake(accepting)) == ["localhost"]
    assert shown(local_handshake(accepting, b"EXAMPLE.net")) == ["example.net"]
    with pytest.raises(SSL.Error):
        local_handshake(accepting, b"stranger.example")
