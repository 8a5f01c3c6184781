"""Ports that are listened on."""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.tcp import Port

BACKLOG: Final = 1024


class _OfOneFamily(Port):  # type: ignore[misc] # Twisted has no types here
    def createInternetSocket(self) -> socket.socket:
        opened: socket.socket = super().createInternetSocket()
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return opened


def open_port(reactor: Any, address: tuple[str, int], factory: Any) -> Any:
    """Listen on an IP address, for its own family alone.

    ``[::]`` would otherwise take all of IPv4 too: it could not be had beside
    ``0.0.0.0``, and IPv4 clients would be called ``::ffff:192.0.2.1`` in logs and
    policies.

    :raises twisted.internet.error.CannotListenError: the address cannot be had.
    """
    host, number = address
    if ":" not in host:
        return reactor.listenTCP(number, factory, interface=host, backlog=BACKLOG)
    port = _OfOneFamily(number, factory, BACKLOG, host, reactor)
    port.startListening()
    return port
