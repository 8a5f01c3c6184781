"""A blocking TLS client socket that gives the exporter, which `ssl` does not."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from OpenSSL import SSL

from proxy.keys.handshake import EXPORTER_LABEL, EXPORTER_SIZE


class SecureSocket:
    """TLS over a connected socket; what RawClient calls on a socket is here.

    `early` is sent in clear in one piece with the ClientHello, before it.
    Raises ConnectionError where the handshake fails.
    """

    def __init__(
        self,
        raw: socket.socket,
        ca: Path,
        name: str | None,
        *,
        alpn: bytes | None = None,
        highest: int | None = None,
    ) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(str(ca))
        context.set_verify(SSL.VERIFY_PEER, lambda *arguments: bool(arguments[-1]))
        if highest is not None:
            context.set_max_proto_version(highest)
        self._raw = raw
        self._tls = SSL.Connection(context, None)
        if name is not None:
            self._tls.set_tlsext_host_name(name.encode())
        if alpn is not None:
            self._tls.set_alpn_protos([alpn])
        self._tls.set_connect_state()
        self._step(self._tls.do_handshake)

    @property
    def exporter(self) -> bytes:
        return self._tls.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, b"")

    @property
    def version(self) -> str:
        return self._tls.get_protocol_version_name()

    @property
    def certificate(self) -> bytes:
        """DER of what the server showed."""
        shown = self._tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        from cryptography.hazmat.primitives.serialization import Encoding

        return shown.public_bytes(Encoding.DER)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.send(bytes(view[:16_384])) :]
            self._flush()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.recv(size)
            except SSL.WantReadError:
                if not self._fill():
                    return b""
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                raise ConnectionError(str(error)) from error

    def settimeout(self, seconds: float | None) -> None:
        self._raw.settimeout(seconds)

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        self._raw.setsockopt(level, name, value)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()

    def shutdown(self) -> None:
        """Say close_notify."""
        with contextlib.suppress(SSL.Error):
            self._tls.shutdown()
        self._flush()

    def _step(self, call: object) -> None:
        while True:
            try:
                call()  # type: ignore[operator]
            except SSL.WantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionError("closed during the handshake") from None
            except SSL.Error as error:
                self._flush()
                raise ConnectionError(f"handshake: {error}") from error
            else:
                self._flush()
                return

    def _fill(self) -> bool:
        data = self._raw.recv(65_536)
        if data:
            self._tls.bio_write(data)
        return bool(data)

    def _flush(self) -> None:
        while True:
            try:
                data = self._tls.bio_read(65_536)
            except SSL.WantReadError:
                return
            self._raw.sendall(data)
