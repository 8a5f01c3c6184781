"""``/metrics`` and ``/healthz`` of a gate, over HTTP: numbers, no names.

Imported only where they are asked for: the library and Twisted's web server take
their time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.defer import Deferred
from twisted.web.resource import NoResource, Resource
from twisted.web.server import NOT_DONE_YET, Site

_HEALTHY: Final = b"ok\n"


class Metrics:
    """What a gate counts.

    :param gauges: name, what it is, and how its value is had.
    """

    def __init__(self, gauges: list[tuple[str, str, Callable[[], float]]]) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "tillie_gate_events",
            "What happened on client streams.",
            ["event"],
            registry=self._registry,
        )
        for name, text, value in gauges:
            Gauge(f"tillie_gate_{name}", text, registry=self._registry).set_function(
                value
            )

    def count(self, event: str) -> None:
        """Something happened once more."""
        self._events.labels(event).inc()

    def text(self) -> bytes:
        """All of it, in the form that Prometheus reads."""
        return generate_latest(self._registry)

    def site(self, healthy: Callable[[], Deferred[bool]]) -> Site:
        """The web server.

        :param healthy: whether logins can go on; asked for each ``/healthz``.
        """
        root = Resource()
        root.putChild(b"metrics", _Text(self))
        root.putChild(b"healthz", _Health(healthy))
        root.putChild(b"", NoResource())
        return _Quiet(root)


class _Quiet(Site):  # type: ignore[misc] # Twisted has no types here
    noisy = False

    def log(self, request: Any) -> None:
        """Who asks for numbers is not worth a line."""


class _Text(Resource):  # type: ignore[misc] # Twisted has no types here
    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Any) -> bytes:
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode("ascii"))
        return self._metrics.text()


class _Health(Resource):  # type: ignore[misc] # Twisted has no types here
    isLeaf = True

    def __init__(self, healthy: Callable[[], Deferred[bool]]) -> None:
        super().__init__()
        self._healthy = healthy

    def render_GET(self, request: Any) -> int:
        gone: list[bool] = []
        request.notifyFinish().addErrback(lambda _: gone.append(True))
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")

        def answer(healthy: bool) -> None:
            if gone:
                return
            if not healthy:
                request.setResponseCode(503)
            request.write(_HEALTHY if healthy else b"no logins\n")
            request.finish()

        self._healthy().addCallback(answer)
        return int(NOT_DONE_YET)
