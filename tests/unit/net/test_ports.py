"""Listening on all addresses of both families at one port, as docs/gate.md has it."""

from __future__ import annotations

import socket

import pytest
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory

from proxy.net.ports import open_port


def test_both_families_share_a_port() -> None:
    four = open_port(reactor, ("0.0.0.0", 0), Factory())
    number = four.getHost().port
    six = open_port(reactor, ("::", number), Factory())
    try:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, number), 5).close()
        with pytest.raises(CannotListenError):
            open_port(reactor, ("::", number), Factory())
    finally:
        four.stopListening()
        six.stopListening()
