"""Prometheus metrics: the only place that knows their names and buckets."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from .request_record import Answer, RequestRecord

#: Seconds; from a decode of a small photo to a full queue budget.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: A photo's way through the service.
STAGES: Final = ("read", "queue", "decode", "infer", "draw")
#: Shares, 0 to 1.
_SCORES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_BRIGHTNESSES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: A photo of something is usually between 0.02 and 0.1, a wall or fog below 0.01.
_SHARPNESSES: Final = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12)
#: Names of groups that get a time series each, over all models that are served one after the other; what is beyond is
#: counted under "", as a model without groups is.
MOST_GROUPS: Final = 256
#: Names of models, likewise.
MOST_MODELS: Final = 16
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Counted(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, documentation: str, read: Callable[[], int]) -> None:
        self._name = name
        self._documentation = documentation
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, self._read())


class _Names:
    """The first so many names, as they come; those beyond are "", so that nobody can make time series without end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def bounded(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) == self._most:
                return ""
            self._known.add(name)
        return name


class Metrics:
    """What one service counts."""

    def __init__(self, problems: Iterable[str], outcomes: Iterable[str], cameras: Iterable[str] = ()) -> None:
        """Starts at zero.

        Args:
            problems: types of problems, whose counts are there from the start, so that the first one is an increase.
            outcomes: what can become of a new model file, likewise.
            cameras: names of those that are counted by themselves. What clients call their cameras is theirs, so no
                other name becomes a time series.
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
            "Photos by model, by their best group, and by whether they are unknown.",
            ["model", "group", "unknown"],
            registry=self._registry,
        )
        self._groups, self._names = _Names(MOST_GROUPS), _Names(MOST_MODELS)
        self._score = Histogram(
            "classifier_top_score", "Best class's score.", ["model"], buckets=_SCORES, registry=self._registry
        )
        self._brightness = Histogram(
            "classifier_brightness", "Mean level of a photo.", ["model"], buckets=_BRIGHTNESSES, registry=self._registry
        )
        self._sharpness = Histogram(
            "classifier_sharpness",
            "Mean difference of a photo's neighbouring levels.",
            ["model"],
            buckets=_SHARPNESSES,
            registry=self._registry,
        )
        self._camera_unknown = Counter(
            "classifier_camera_unknown", "Photos that are unknown, by camera.", ["camera"], registry=self._registry
        )
        self._camera_score = Summary(
            "classifier_camera_top_score", "Best class's score, by camera.", ["camera"], registry=self._registry
        )
        self._camera_brightness = Summary(
            "classifier_camera_brightness", "Mean level of a photo, by camera.", ["camera"], registry=self._registry
        )
        self._camera_sharpness = Summary(
            "classifier_camera_sharpness",
            "Mean difference of a photo's neighbouring levels, by camera.",
            ["camera"],
            registry=self._registry,
        )
        self._cameras = frozenset(cameras)
        for camera in self._cameras:
            self._camera_unknown.labels(camera)
            for summary in (self._camera_score, self._camera_brightness, self._camera_sharpness):
                summary.labels(camera)
        self._shadow = Counter(
            "classifier_shadow_photos",
            "Photos that the shadow has seen too, by what they are called and by whether it agrees.",
            ["label", "unknown", "agrees"],
            registry=self._registry,
        )
        self._shadow_labels = _Names(MOST_GROUPS)
        self._shadow_dropped = Counter(
            "classifier_shadow_dropped", "Photos that the shadow was too late for.", registry=self._registry
        )
        self._shadow_info = Gauge("classifier_shadow_info", "The shadow.", ["name", "version"], registry=self._registry)
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
            for answer in record.answers:
                self._count(answer, record.camera)
        if record.cached is not None:
            self._cache.labels("cached" if record.cached else "computed").inc()
        for stage, seconds in record.timings_s.items():
            self._by_stage[stage].observe(seconds)
        if record.problem:
            self._problems.labels(record.problem).inc()

    def _count(self, answer: Answer, camera: str) -> None:
        model = self._names.bounded(answer.model)
        self._predictions.labels(model, self._groups.bounded(answer.group), str(answer.unknown).lower()).inc()
        self._score.labels(model).observe(answer.score)
        self._brightness.labels(model).observe(answer.brightness)
        self._sharpness.labels(model).observe(answer.sharpness)
        if camera in self._cameras:
            self._camera_unknown.labels(camera).inc(answer.unknown)
            self._camera_score.labels(camera).observe(answer.score)
            self._camera_brightness.labels(camera).observe(answer.brightness)
            self._camera_sharpness.labels(camera).observe(answer.sharpness)

    def name_shadow(self, name: str, version: str) -> None:
        """Says which model is compared with the default one."""
        self._shadow_info.labels(name, version).set(1)

    def count_shadow(self, label: str, unknown: bool, agrees: bool) -> None:
        """Counts a photo that both models have seen: what it is called, whether it is unknown, whether they agree."""
        named = self._shadow_labels.bounded(label)
        self._shadow.labels(named, str(unknown).lower(), str(agrees).lower()).inc()

    def count_shadow_dropped(self) -> None:
        """Counts a photo that was to be compared and was not."""
        self._shadow_dropped.inc()

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
