"""What Prometheus is told, and the little server that tells it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

#: Bytes and seconds of a request; connections at a time.
_MAX_REQUEST: Final = 8192
_TIMEOUT_S: Final = 5.0
_MOST_CONNECTIONS: Final = 16
#: Seconds; a frame that is older than max_age_seconds is not judged.
_AGES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._frames = Counter("cameras_frames", "How many frames came", ["camera"], registry=self.registry)
        self._faults = Counter("cameras_faults", "Looks without an answer", ["camera", "fault"], registry=self.registry)
        self._ages = Histogram(
            "cameras_judged_age_seconds", "Age of a frame when its answer came", buckets=_AGES, registry=self.registry
        )
        self._events = Counter(
            "cameras_events", "Changes of a region's state", ["camera", "region"], registry=self.registry
        )
        self._available = Gauge(
            "cameras_region_available",
            "1: a label or unknown; 0: unavailable, or nothing is known yet",
            ["camera", "region"],
            registry=self.registry,
        )
        self._last = Gauge(
            "cameras_last_frame_age_seconds", "Since the last frame came", ["camera"], registry=self.registry
        )
        self._connected = Gauge("cameras_mqtt_connected", "Whether the broker is there", registry=self.registry)
        self._undelivered = Counter(
            "cameras_undelivered",
            "Events that an output has given up",
            ["output"],
            registry=self.registry,
        )

    def know(self, camera: str, regions: list[str]) -> None:
        """A camera is there from now on."""
        began = time.monotonic()
        self._last.labels(camera).set_function(lambda: time.monotonic() - began)
        self._frames.labels(camera)
        for region in regions:
            self._available.labels(camera, region).set(0)
            self._events.labels(camera, region)

    def forget(self, camera: str, regions: list[str]) -> None:
        """A camera is gone."""
        for metric in (self._frames, self._last):
            with contextlib.suppress(KeyError):
                metric.remove(camera)
        self._faults.remove_by_labels({"camera": camera})
        for region in regions:
            for metric in (self._available, self._events):
                with contextlib.suppress(KeyError):
                    metric.remove(camera, region)

    def frame(self, camera: str) -> None:
        """A frame has come."""
        self._frames.labels(camera).inc()
        came = time.monotonic()
        self._last.labels(camera).set_function(lambda: time.monotonic() - came)

    def fault(self, camera: str, kind: str) -> None:
        """A look had no answer."""
        self._faults.labels(camera, kind).inc()

    def judged(self, age_s: float) -> None:
        """An answer has come for a frame of this age."""
        self._ages.observe(age_s)

    def event(self, camera: str, region: str) -> None:
        """A region's state has changed."""
        self._events.labels(camera, region).inc()

    def known(self, camera: str, region: str, available: bool) -> None:
        """A region's state is known."""
        self._available.labels(camera, region).set(int(available))

    def connected(self, there: bool) -> None:
        """The broker is there, or gone."""
        self._connected.set(int(there))

    def undelivered(self, output: str) -> None:
        """An output has given up an event."""
        self._undelivered.labels(output).inc()


async def serve(metrics: Metrics, host: str, port: int) -> Callable[[], None]:
    """Answers ``GET /metrics`` and ``GET /health/live``, one request a connection.

    Returns:
        What ends it.

    Raises:
        OSError: the address cannot be bound.
    """
    places = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if not places.locked():
                async with asyncio.timeout(_TIMEOUT_S), places:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_answer(metrics, head.split(b" ", 2)))
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST)
    return server.close


def _answer(metrics: Metrics, words: list[bytes]) -> bytes:
    status, kind, body = "404 Not Found", "text/plain; charset=utf-8", b"There are /metrics and /health/live.\n"
    if words[0] not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b"GET is what there is.\n"
    elif words[1:2] == [b"/metrics"]:
        status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
    elif words[1:2] == [b"/health/live"]:
        status, body = "200 OK", b"alive\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if words[0] == b"HEAD" else body)
