"""Prometheus metrics: the only place that knows their names and buckets."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from app.contract import Contract
from app.observation import Observation

#: Seconds; from a decode of a small photo to a full queue budget.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: A photo's way through the service.
STAGES: Final = ("read", "queue", "decode", "infer")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What one service counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "classifier_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._duration = Histogram(
            "classifier_request_seconds",
            "Time from head to answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "classifier_stage_seconds",
            "Time of a photo by stage.",
            ["stage"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        # Looked up once: finding a child by its labels costs more than observing.
        self._by_stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self._photos = Counter("classifier_photos", "Photos answered.", registry=self._registry)
        self._frames = Counter(
            "classifier_frames",
            "Photos by whether they got an earlier frame's scores, where frames are remembered.",
            ["outcome"],
            registry=self._registry,
        )
        self._problems = Counter(
            "classifier_problems", "Requests answered with a problem, by its type.", ["type"], registry=self._registry
        )
        self.in_flight = Gauge("classifier_requests_in_flight", "Requests being worked on.", registry=self._registry)
        self._depth = Gauge("classifier_queue_depth", "Photos that wait for a lane.", registry=self._registry)
        self._service = Gauge(
            "classifier_service_seconds", "Moving average of a photo's time in its lane.", registry=self._registry
        )
        self._held = Gauge("classifier_held_bytes", "Request bodies in memory.", registry=self._registry)
        self._info = Gauge(
            "classifier_model_info", "The model served.", ["name", "version", "precision"], registry=self._registry
        )

    def watch(
        self, contract: Contract, depth: Callable[[], int], service_s: Callable[[], float], held: Callable[[], int]
    ) -> None:
        """Reads these when somebody asks, not while photos pass."""
        self._info.labels(contract.name, contract.version, contract.precision).set(1)
        self._depth.set_function(depth)
        self._service.set_function(service_s)
        self._held.set_function(held)

    def observe(self, scope: Scope, seen: Observation, duration_s: float) -> None:
        """Counts one request that has ended."""
        # The pattern, not the path: whoever scans for paths must not make a time series of each.
        route = seen.route or getattr(scope.get("route"), "path", "unmatched")
        self._requests.labels(route, seen.status).inc()
        self._duration.labels(route).observe(duration_s)
        if seen.images:
            self._photos.inc(seen.images)
        if seen.cached is not None:
            self._frames.labels("cached" if seen.cached else "computed").inc()
        for stage, seconds in seen.timings_s.items():
            self._by_stage[stage].observe(seconds)
        if seen.problem:
            self._problems.labels(seen.problem).inc()

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)
