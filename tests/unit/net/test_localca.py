"""The local certificate authority: made once, kept, never replaced by itself."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from proxy.errors import EnvFault
from proxy.net.localca import LocalCertificates
from proxy.net.tls import ServerTls

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Today:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def today() -> Today:
    return Today()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ca"


@pytest.fixture
def local(directory: Path, today: Today) -> LocalCertificates:
    return LocalCertificates(directory, today)


def shown(context: SSL.Context) -> x509.Certificate:
    """What a client sees that checks nothing."""
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    server = ServerTls(context).serverConnectionForTLS(None)
    server.set_accept_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
    certificate = client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate


def names(certificate: x509.Certificate) -> tuple[list[str], set[str]]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    addresses = san.value.get_values_for_type(x509.IPAddress)
    return san.value.get_values_for_type(x509.DNSName), {
        str(each) for each in addresses
    }


def verify(certificate: x509.Certificate, anchors: Path, at: datetime) -> None:
    """As a client does that trusts *anchors*."""
    store = crypto.X509Store()
    store.load_locations(str(anchors))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.set_time(at)
    crypto.X509StoreContext(
        store, crypto.X509.from_cryptography(certificate)
    ).verify_certificate()


def test_a_leaf_that_strict_clients_accept(local: LocalCertificates) -> None:
    leaf = shown(local.context("Example.org"))
    verify(leaf, local.ca_path, NOW)
    assert names(leaf) == (["example.org", "localhost"], {"127.0.0.1", "::1"})
    assert leaf.not_valid_before_utc == NOW - timedelta(hours=1)
    assert leaf.not_valid_after_utc == NOW + 365 * DAY


def test_the_authority(local: LocalCertificates) -> None:
    authority = x509.load_pem_x509_certificate(local.ca_path.read_bytes())
    assert authority.subject.rfc4514_string() == "CN=Tillie on this machine"
    assert authority.not_valid_before_utc == NOW - timedelta(hours=1)
    assert authority.not_valid_after_utc == NOW + 3650 * DAY
    assert b"PRIVATE" not in local.ca_path.read_bytes()


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("münchen.example", (["xn--mnchen-3ya.example", "localhost"], set())),
        ("localhost", (["localhost"], set())),
        ("192.0.2.1", (["localhost"], {"192.0.2.1"})),
        ("::1", (["localhost"], set())),
        ("ca", (["ca", "localhost"], set())),
    ],
)
def test_names_of_leaves(
    local: LocalCertificates, domain: str, expected: tuple[list[str], set[str]]
) -> None:
    dns, addresses = names(shown(local.context(domain)))
    assert dns == expected[0]
    assert addresses == expected[1] | {"127.0.0.1", "::1"}
    assert all(ip_address(each) for each in addresses)


def test_kept_in_memory_and_on_disk(
    local: LocalCertificates, directory: Path, today: Today
) -> None:
    first = local.context("example.org")
    assert local.context("EXAMPLE.org") is first
    again = LocalCertificates(directory, today)
    assert shown(again.context("example.org")) == shown(first)
    assert again.ca_path.read_bytes() == local.ca_path.read_bytes()
    assert shown(again.context("example.net")) != shown(first)


def test_nothing_is_made_before_it_is_asked_for(
    local: LocalCertificates, directory: Path
) -> None:
    assert not directory.exists()
    local.context("example.org")
    made = {path.name for path in directory.iterdir()}
    assert made == {"ca.pem", "ca-key.pem", "leaf-example.org.pem"}


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_loc_02_modes_whatever_the_umask(
    local: LocalCertificates, directory: Path
) -> None:
    local.context("example.org")
    for folder in (directory, directory.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_renewed_before_it_expires(
    local: LocalCertificates, directory: Path, today: Today
) -> None:
    first = shown(local.context("example.org"))
    today.now = NOW + 334 * DAY
    assert shown(local.context("example.org")) == first
    today.now = NOW + 336 * DAY
    second = shown(local.context("example.org"))
    assert second.not_valid_after_utc == today.now + 365 * DAY
    verify(second, local.ca_path, today.now)
    again = LocalCertificates(directory, today)
    assert shown(again.context("example.org")) == second


def test_a_leaf_from_the_future_is_made_anew(
    local: LocalCertificates, directory: Path, today: Today
) -> None:
    local.ca_path  # noqa: B018
    today.now = NOW + 30 * DAY
    local.context("example.org")
    today.now = NOW + 1 * DAY
    leaf = shown(LocalCertificates(directory, today).context("example.org"))
    assert leaf.not_valid_before_utc < today.now


def test_no_leaf_outlives_the_authority(local: LocalCertificates, today: Today) -> None:
    local.context("example.org")
    today.now = NOW + 3500 * DAY
    leaf = shown(local.context("example.org"))
    assert leaf.not_valid_after_utc == NOW + 3650 * DAY


@pytest.mark.parametrize("days", [-1, 3651])
def test_an_authority_out_of_its_time_is_told(
    local: LocalCertificates, directory: Path, today: Today, days: int
) -> None:
    local.context("example.org")
    before = contents(directory)
    today.now = NOW + days * DAY
    with pytest.raises(EnvFault, match="2026-03-01 to 2036-02-27") as caught:
        LocalCertificates(directory, today).context("example.net")
    assert f"{today.now:%Y-%m-%d}" in caught.value.text
    assert caught.value.hint
    assert contents(directory) == before


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["ca-key.pem", "ca.pem", "leaf-example.org.pem"])
@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_damage_is_told_and_never_replaced(
    local: LocalCertificates, tmp_path: Path, today: Today, name: str, damage: str
) -> None:
    local.context("example.org")
    path = local.ca_path.with_name(name)
    data = path.read_bytes()
    if damage == "foreign":
        other = LocalCertificates(tmp_path / "other", today)
        other.context("example.org")
        theirs = other.ca_path.with_name(name).read_bytes()
        # The key of one with the certificate of another, where there is a key.
        head = data.index(b"-----BEGIN CERT")
        path.write_bytes(data[:head] + theirs[theirs.index(b"-----BEGIN CERT") :])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    before = contents(path.parent)
    with pytest.raises(EnvFault) as caught:
        LocalCertificates(path.parent, today).context("example.org")
    assert str(path) in caught.value.text
    assert "elete" in caught.value.hint
    assert contents(path.parent) == before


def test_a_lost_key_is_told(local: LocalCertificates, today: Today) -> None:
    public = local.ca_path
    secret = public.with_name("ca-key.pem")
    secret.unlink()
    with pytest.raises(EnvFault, match="is missing") as caught:
        LocalCertificates(public.parent, today).context("example.org")
    assert str(public) in caught.value.hint
    assert not secret.exists()


def test_the_public_part_is_written_again(
    local: LocalCertificates, today: Today
) -> None:
    public = local.ca_path
    before = public.read_bytes()
    public.unlink()
    assert LocalCertificates(public.parent, today).ca_path.read_bytes() == before


def test_leaves_of_an_earlier_authority_are_made_anew(
    local: LocalCertificates, today: Today
) -> None:
    local.context("example.org")
    directory = local.ca_path.parent
    for name in ("ca.pem", "ca-key.pem"):
        (directory / name).unlink()
    again = LocalCertificates(directory, today)
    verify(shown(again.context("example.org")), again.ca_path, NOW)


def test_two_at_once_end_with_one_authority(
    directory: Path, today: Today, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = (
        LocalCertificates(directory, today),
        LocalCertificates(directory, today),
    )
    theirs: list[bytes] = []
    # The slow one finds nothing; then the fast one makes it all.
    read = slow._read_authority

    def read_and_lose() -> object:
        found = read()
        theirs.append(fast.ca_path.read_bytes())
        return found

    monkeypatch.setattr(slow, "_read_authority", read_and_lose)
    verify(shown(slow.context("example.net")), fast.ca_path, NOW)
    assert [fast.ca_path.read_bytes()] == theirs


def test_unwritable_directory(tmp_path: Path, today: Today) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "ca"):
        with pytest.raises(EnvFault, match="cannot be used"):
            LocalCertificates(directory, today).context("example.org")


@pytest.mark.parametrize("domain", ["../evil", "a b", "", "l." * 110 + "example"])
def test_no_domain_no_file(
    local: LocalCertificates, directory: Path, domain: str
) -> None:
    with pytest.raises(EnvFault) as caught:
        local.context(domain)
    assert caught.value.condition == "host-unknown"
    if directory.exists():
        assert {path.name for path in directory.iterdir()} == {"ca.pem", "ca-key.pem"}


def test_contexts_in_memory_are_bounded(local: LocalCertificates) -> None:
    first = local.context("d0.example")
    for number in range(1, 70):
        local.context(f"d{number}.example")
    assert local.context("d0.example") is not first
    assert len(local._contexts) <= 64


def test_key_and_certificate_on_disk_fit(local: LocalCertificates) -> None:
    data = local.ca_path.with_name("ca-key.pem").read_bytes()
    key = load_pem_private_key(data, None)
    assert key.public_key() == x509.load_pem_x509_certificate(data).public_key()
