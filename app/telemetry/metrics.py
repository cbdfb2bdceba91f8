"""Prometheus metrics: the only place that knows their names and buckets."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from .request_record import RequestRecord

#: Seconds; from a decode of a small photo to a full queue budget.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: A photo's way through the service.
STAGES: Final = ("read", "queue", "decode", "infer", "draw")
#: Names of groups that get a time series each, over all models that are served one after the other; what is beyond is
#: counted under "", as a model without groups is.
MOST_GROUPS: Final = 256
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Counted(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, documentation: str, read: Callable[[], int]) -> None:
        self._name = name
        self._documentation = documentation
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, self._read())


class Metrics:
    """What one service counts."""

    def __init__(self, problems: Iterable[str], outcomes: Iterable[str]) -> None:
        """Starts at zero.

        Args:
            problems: types of problems, whose counts are there from the start, so that the first one is an increase.
            outcomes: what can become of a new model file, likewise.
        """
        self._registry = CollectorRegistry()
        self._models: Callable[[], Iterable[tuple[str, str, str]]] = list
        self._requests = Counter(
            "classifier_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._duration = Histogram(
            "classifier_request_seconds",
            "Time from a request's headers to its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "classifier_stage_duration_seconds",
            "Time of a photo by stage.",
            ["stage"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        # Looked up once: finding a child by its labels costs more than observing.
        self._by_stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self._photos = Counter("classifier_photos", "Photos answered.", registry=self._registry)
        self._predictions = Counter(
            "classifier_predictions",
            "Photos by their best group, and by whether they are unknown.",
            ["group", "unknown"],
            registry=self._registry,
        )
        self._groups: set[str] = set()
        self._cache = Counter(
            "classifier_cache_requests",
            "Photos by whether they got an earlier frame's scores, where frames are remembered.",
            ["result"],
            registry=self._registry,
        )
        self._problems = Counter(
            "classifier_problems", "Requests answered with a problem, by its type.", ["type"], registry=self._registry
        )
        for problem in problems:
            self._problems.labels(problem)
        self.in_flight = Gauge("classifier_requests_in_flight", "Requests being worked on.", registry=self._registry)
        self._depth = Gauge("classifier_queue_depth", "Photos that wait for a worker.", registry=self._registry)
        self._service = Gauge(
            "classifier_worker_seconds", "Moving average of a photo's time in its worker.", registry=self._registry
        )
        self._buffered = Gauge("classifier_buffered_bytes", "Request bodies in memory.", registry=self._registry)
        self._buffered_limit = Gauge(
            "classifier_buffered_bytes_limit", "Above it, bodies are refused.", registry=self._registry
        )
        self._info = Gauge(
            "classifier_model_info", "The models served.", ["name", "version", "precision"], registry=self._registry
        )
        self._swaps = Counter(
            "classifier_model_swaps", "New model files, by what became of them.", ["outcome"], registry=self._registry
        )
        for outcome in outcomes:
            self._swaps.labels(outcome)

    def watch(
        self,
        models: Callable[[], Iterable[tuple[str, str, str]]],
        depth: Callable[[], int],
        service_s: Callable[[], float],
        buffered: Callable[[], int],
        buffered_limit: int,
        dropped: Callable[[], int],
    ) -> None:
        """Reads these when somebody asks, not while photos pass.

        Args:
            models: name, version and precision of each model that is served.
            depth: photos that wait.
            service_s: moving average of a photo's time in its worker, in seconds.
            buffered: bytes of request bodies in memory.
            buffered_limit: above so many, bodies are refused.
            dropped: log lines that were not written.
        """
        self._models = models
        self._depth.set_function(depth)
        self._service.set_function(service_s)
        self._buffered.set_function(buffered)
        self._buffered_limit.set(buffered_limit)
        self._registry.register(
            _Counted("classifier_log_lines_dropped", "Log lines that nobody took in time.", dropped)
        )

    def observe(self, scope: Scope, record: RequestRecord, duration_s: float) -> None:
        """Counts one request that has ended."""
        route = record.route_of(scope)
        self._requests.labels(route, record.status).inc()
        self._duration.labels(route).observe(duration_s)
        if record.images:
            self._photos.inc(record.images)
            # Within: what a refused batch had got as far as is not answered.
            for group, unknown in record.answers:
                self._predictions.labels(self._bounded(group), str(unknown).lower()).inc()
        if record.cached is not None:
            self._cache.labels("cached" if record.cached else "computed").inc()
        for stage, seconds in record.timings_s.items():
            self._by_stage[stage].observe(seconds)
        if record.problem:
            self._problems.labels(record.problem).inc()

    def _bounded(self, group: str) -> str:
        if group not in self._groups:
            if len(self._groups) == MOST_GROUPS:
                return ""
            self._groups.add(group)
        return group

    def count_refusal(self, problem: str, status: int) -> None:
        """Counts what was answered before it was a request: not HTTP, too slow, too large."""
        self._requests.labels("unmatched", status).inc()
        self._problems.labels(problem).inc()

    def count_swap(self, outcome: str) -> None:
        """Counts what became of a new model file."""
        self._swaps.labels(outcome).inc()

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        self._info.clear()
        for model in self._models():
            self._info.labels(*model).set(1)
        return generate_latest(self._registry)
