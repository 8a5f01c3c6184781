"""The PROXY protocol, both versions, both ways."""

from __future__ import annotations

import pytest

from proxy.errors import PeerFault
from proxy.net.proxyheader import HeaderReader, Version, written

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("client", "here", "read"),
    [
        (("192.0.2.1", 1234), ("198.51.100.1", 5222), "192.0.2.1"),
        (("2001:db8::1", 65535), ("2001:db8::2", 5222), "2001:db8::1"),
        (("192.0.2.1", 1234), ("::1", 5222), "192.0.2.1"),
        (("fe80::1%eth0", 1), ("fe80::2%eth0", 5222), "fe80::1"),
    ],
)
@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_what_is_written_is_read(
    version: Version,
    client: tuple[str, int],
    here: tuple[str, int],
    read: str,
    cut: int,
) -> None:
    data = written(version, client, here) + b"<?xml"
    reader = HeaderReader()
    rest = None
    for at in range(0, len(data), cut):
        if rest is None:
            rest = reader.feed(data[at : at + cut])
        else:
            rest += data[at : at + cut]
    assert rest == b"<?xml"
    assert reader.client == (read, client[1])


def test_the_bytes_of_both_versions() -> None:
    ends = ("192.0.2.1", 1234), ("198.51.100.1", 5222)
    assert written("v1", *ends) == b"PROXY TCP4 192.0.2.1 198.51.100.1 1234 5222\r\n"
    assert written("v2", *ends) == V2 + bytes.fromhex(
        "2111000c c0000201 c6336401 04d2 1466"
    )


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", V2 + b"\x20\x00\x00\x00", V2 + b"\x21\x31\x00\x02xx"],
)
def test_a_balancer_s_own_connections_name_nobody(header: bytes) -> None:
    reader = HeaderReader()
    assert reader.feed(header + b"rest") == b"rest"
    assert reader.client is None


@pytest.mark.parametrize(
    "junk",
    [
        b"<?xml version='1.0'?>",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n",
        b"POST",
        b"PROXX",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1234\r\n",
        b"PROXY TCP4 ::1 198.51.100.1 1234 5222\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.1 1234 5222\r\n",
        b"PROXY TCP4 localhost 198.51.100.1 1234 5222\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 5222\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.1 1 5222\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        V2 + b"\x11\x11\x00\x0c" + bytes(12),
        V2 + b"\x22\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\x00\x04" + bytes(4),
        V2 + b"\x21\x11\xff\xff",
        V2[:5] + b"x",
    ],
)
def test_tls_17_what_is_no_header_is_refused(junk: bytes) -> None:
    with pytest.raises(PeerFault):
        HeaderReader().feed(junk)
