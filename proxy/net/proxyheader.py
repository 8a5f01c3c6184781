"""The PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt).

Written towards a server that shall see the client's address; read from balancers
in front of the gate, and from nobody else (TLS-17).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, Literal, TypeAlias

from ..errors import PeerFault

Version: TypeAlias = Literal["v1", "v2"]
Ends: TypeAlias = tuple[str, int]
"""IP address and port."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_V1: Final = 107
_LONGEST_V2: Final = 2048
_HEAD_V2: Final = 16
_FAMILIES: Final = {0x11: (4, 12), 0x21: (16, 36)}
"""TCP over IPv4 and IPv6: size of an address, size of the block."""


def written(version: Version, client: Ends, here: Ends) -> bytes:
    """The header that tells a server who *client* is and which address it called."""
    ends = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (client, here)]
    if ends[0].version != ends[1].version:
        ends = [ipaddress.IPv6Address(_mapped(one)) for one in ends]
    if version == "v1":
        family = "TCP4" if ends[0].version == 4 else "TCP6"
        return f"PROXY {family} {ends[0]} {ends[1]} {client[1]} {here[1]}\r\n".encode()
    block = ends[0].packed + ends[1].packed + struct.pack("!HH", client[1], here[1])
    family_byte = 0x11 if ends[0].version == 4 else 0x21
    return _SIGNATURE + struct.pack("!BBH", 0x21, family_byte, len(block)) + block


def _mapped(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"::ffff:{ip}" if ip.version == 4 else str(ip)


class HeaderReader:
    """Reads the header at the beginning of a connection.

    :ivar client: the address that it names; None where it names none, as a
        balancer's own health checks do.
    """

    def __init__(self) -> None:
        self.client: Ends | None = None
        self._buffer = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; what is behind the header, or None while it is not whole.

        :raises PeerFault: there is no header, or not one of TCP.
        """
        self._buffer += data
        head = self._buffer
        if head[:1] == b"P":
            return self._line(head)
        if _SIGNATURE.startswith(head[: len(_SIGNATURE)]):
            return self._block(head)
        raise PeerFault("a connection from a balancer has no PROXY header")

    def _line(self, head: bytes) -> bytes | None:
        line, end, rest = head.partition(b"\r\n")
        if not end:
            if len(head) >= _LONGEST_V1 or not b"PROXY ".startswith(head[:6]):
                raise PeerFault("a PROXY header of version 1 does not end")
            return None
        words = line.decode("ascii", "replace").split(" ")
        if words[:2] == ["PROXY", "UNKNOWN"]:
            return rest
        if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
            raise PeerFault("a PROXY header of version 1 is malformed")
        port = words[4]
        if not (port.isascii() and port.isdigit() and len(port) <= 5):
            raise PeerFault("a PROXY header names no port")
        self.client = (_address(words[2], words[1]), int(port))
        return rest

    def _block(self, head: bytes) -> bytes | None:
        if len(head) < _HEAD_V2:
            return None
        kind, family, size = struct.unpack("!BBH", head[12:_HEAD_V2])
        if kind not in (0x20, 0x21) or size > _LONGEST_V2:
            raise PeerFault("a PROXY header of version 2 is malformed")
        if len(head) < _HEAD_V2 + size:
            return None
        block, rest = head[_HEAD_V2 : _HEAD_V2 + size], head[_HEAD_V2 + size :]
        if kind == 0x21 and family in _FAMILIES:
            width, least = _FAMILIES[family]
            if size < least:
                raise PeerFault("a PROXY header of version 2 is too short")
            (port,) = struct.unpack("!H", block[2 * width : 2 * width + 2])
            self.client = (_text(ipaddress.ip_address(block[:width])), port)
        return rest


def _address(text: str, family: str) -> str:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise PeerFault("a PROXY header names no IP address") from None
    if ip.version != (4 if family == "TCP4" else 6):
        raise PeerFault("a PROXY header names an address of another family")
    return _text(ip)


def _text(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return str(ip)
