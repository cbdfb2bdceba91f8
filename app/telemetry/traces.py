"""OpenTelemetry traces: one span a request, with the stages of a photo below it. Imported only where they are on.

Where they are sent to, how often and how many of them, is for the standard ``OTEL_*`` variables to say, which the SDK
reads. Names and attributes follow OpenTelemetry's semantic conventions for HTTP servers.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from .. import __version__
from .metrics import STAGES
from .request_record import RequestRecord

#: A collector that is down must not keep the process from ending.
_LAST_EXPORT_S: Final = 3.0


class Traces:
    """Makes spans of requests that have ended, and sends them in the background."""

    def __init__(self, is_probe: Callable[[str], bool]) -> None:
        """Configures the SDK; connects to nothing before there are spans to send.

        Args:
            is_probe: whether a path is one of those that leave no span.
        """
        self._is_probe = is_probe
        service = Resource.create({"service.name": "edge-classifier", "service.version": __version__})
        self._provider = TracerProvider(resource=service.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("edge-classifier", __version__)
        self._parents = TraceContextTextMapPropagator()

    def observe(self, scope: Scope, record: RequestRecord, duration_s: float) -> None:
        """Makes the spans of one request that has just ended, and notes its trace id; probes leave none.

        The stages are known by their durations. They follow each other, so they are laid end to end from the request's
        start; what is left at its end is neither of them (parsing the headers, writing the answer).
        """
        if self._is_probe(scope["path"]):
            return
        end_ns = time.time_ns()
        start_ns = end_ns - round(duration_s * 1e9)
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        route = record.route_of(scope)
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            self._parents.extract(carrier),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "http.response.status_code": record.status,
                "http.request.body.size": record.bytes_in,
                "http.response.body.size": record.bytes_out,
                "url.path": scope["path"][:200],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
                "client.address": scope["client"][0] if scope.get("client") else "",
                "edge_classifier.request_id": record.request_id,
                "edge_classifier.images": record.images,
            },
            start_time=start_ns,
        )
        if route != "unmatched":
            span.set_attribute("http.route", route)
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        if span.is_recording():
            if record.problem:
                span.set_attribute("edge_classifier.problem", record.problem)
            if record.status >= 500:
                span.set_attribute("error.type", record.problem or str(record.status))
                span.set_status(StatusCode.ERROR)
            inside = set_span_in_context(span)
            at_ns = start_ns
            for stage in STAGES:
                if stage in record.timings_s:
                    child = self._tracer.start_span(stage, inside, start_time=at_ns)
                    at_ns += round(record.timings_s[stage] * 1e9)
                    child.end(at_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Sends what is left, or gives up after three seconds."""
        thread = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(_LAST_EXPORT_S)
