"""Addresses and listeners, as they are written in options, variables and the file."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..errors import ConfigFault
from .sources import PUBLIC_SWITCH, Origin, Sources


class Address(NamedTuple):
    """A host (an IP address without brackets, or a name) and a TCP or UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Listener(NamedTuple):
    """One listening address and what is spoken on it first."""

    address: Address
    security: Literal["starttls", "tls"]

    def __str__(self) -> str:
        return f"{self.address} ({self.security})"


def address_of(text: str, origin: Origin, *, lowest: int = 1) -> Address:
    """Parse ``HOST:PORT`` or ``[V6]:PORT``; ``localhost`` becomes 127.0.0.1."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    wrong = origin.fault(
        f'"{text}" is not of the form HOST:PORT',
        "for example 127.0.0.1:5222, or [::1]:5222",
    )
    if not colon or not host or bracketed != (":" in host) or not plain(host):
        raise wrong
    # int() alone would take "+1", "1_0" and other scripts' digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise wrong
    if not lowest <= int(port) <= 65535:
        raise origin.fault(f'the port in "{text}" is not in {lowest}..65535')
    if bracketed and ip_of(host) is None:
        raise wrong
    # A name may be answered by whoever runs DNS; this one has one meaning only
    # (RFC 6761, 6.3), and the loopback checks below count on it.
    if host.lower().rstrip(".") == "localhost":
        host = "127.0.0.1"
    return Address(host, int(port))


def plain(host: str) -> bool:
    """Whether nothing in *host* could be taken for anything but a name."""
    return host.isprintable() and not set(host) & set(" /@[]=,\"'")


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """*host* as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether *host* is an IP address of this machine's own."""
    ip = ip_of(host)
    return ip is not None and ip.is_loopback


def resolver_of(sources: Sources) -> Address | None:
    """The DNS server to ask, None for the system's."""
    found = sources.text("resolver")
    if not found:
        return None
    address = address_of(*found)
    if ip_of(address.host) is None:
        raise found[1].fault(f'"{address.host}" is a name; an IP address is wanted')
    return address


def listeners_of(sources: Sources, *, public: bool) -> tuple[Listener, ...]:
    """*listen* and *listen-tls* in the order in which they were given.

    :param public: whether addresses that other machines reach may be among them.
    :raises ConfigFault: one is wrong, not allowed, or there twice.
    """
    clear = [
        Listener(address, "starttls")
        for address in _listen_addresses(sources, "listen", public=public)
    ]
    direct = [
        Listener(address, "tls")
        for address in _listen_addresses(sources, "listen-tls", public=public)
    ]
    given = _in_order(clear, direct, sources.options.get("listen_order"))
    taken: set[Address] = set()
    for one in given:
        if one.address in taken:
            raise ConfigFault(f"{one.address} is to be listened on twice")
        if one.address.port:
            taken.add(one.address)
    return tuple(given)


def _in_order(
    clear: list[Listener], direct: list[Listener], order: object
) -> list[Listener]:
    queues = {"listen": list(clear), "listen_tls": list(direct)}
    names = order if isinstance(order, list | tuple) else ()
    # Without a word on the order (variables, file) the order is as written here.
    out = [queues[name].pop(0) for name in names if queues.get(name)]
    return out + queues["listen"] + queues["listen_tls"]


def _listen_addresses(
    sources: Sources, name: str, *, public: bool
) -> Iterator[Address]:
    texts, origin = sources.texts(name) or ((), Origin(name, "file"))
    for text in texts:
        address = address_of(text, origin, lowest=0)
        if ip_of(address.host) is None:
            raise origin.fault(
                f'"{address.host}" is a name; a listener needs an IP address',
                "for example 127.0.0.1:5222, or [::1]:5222",
            )
        if not public and not is_loopback(address.host):
            # Not origin.fault: the form is right, it is the wish that is refused.
            raise ConfigFault(
                f"{origin.name}: {address} can be reached from other machines,"
                " and passwords would cross the network to get there",
                hint="listen on 127.0.0.1 or [::1];"
                f" if it really must be, say so with --{PUBLIC_SWITCH}",
            )
        yield address
