"""Listening on all addresses of both families at one port, as docs/gate.md has it."""

from __future__ import annotations

import socket

import pytest
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory

from proxy.net.ports import ACCEPTS, open_port


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_res_01_a_port_does_not_accept_ever_more_at_a_time(host: str) -> None:
    """Twisted raises the number whenever it was reached."""
    port = open_port(reactor, (host, 0), Factory())
    try:
        port.numberAccepts += 20
        assert port.numberAccepts == ACCEPTS
    finally:
        port.stopListening()
