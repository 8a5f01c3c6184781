"""Ports that are listened on."""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.tcp import Port

BACKLOG: Final = 1024
ACCEPTS: Final = 100
"""Connections that are accepted before others have their turn."""


class _Port(Port):  # type: ignore[misc] # Twisted has no types here
    """A port of one family, which lets in a few at a time.

    Twisted takes as many as there are, ever more: while it does, everybody who is in
    waits.  And ``[::]`` would take all of IPv4 too: it could not be had beside
    ``0.0.0.0``, and IPv4 clients would be called ``::ffff:192.0.2.1`` in logs and
    policies.
    """

    numberAccepts = property(lambda _: ACCEPTS, lambda *_: None)

    def createInternetSocket(self) -> socket.socket:
        opened: socket.socket = super().createInternetSocket()
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return opened


def open_port(reactor: Any, address: tuple[str, int], factory: Any) -> Any:
    """Listen on an IP address, for its own family alone.

    :raises twisted.internet.error.CannotListenError: the address cannot be had.
    """
    host, number = address
    port = _Port(number, factory, BACKLOG, host, reactor)
    port.startListening()
    return port
