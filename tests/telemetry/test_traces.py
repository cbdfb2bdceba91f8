"""Traces that arrive at a real OTLP receiver, and what happens where there is none."""

import contextlib
import http.server
import itertools
import json
import queue
import signal
import socket
import sys
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import serving
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure, free_port, start, until_ready

RED = encode(solid((240, 9, 9)), "JPEG")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


@pytest.fixture
def receiver(monkeypatch):
    """What arrives is put into a queue, parsed."""
    arrived: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            arrived.put(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=barn")
        yield arrived
        server.shutdown()
        thread.join()


def everything(arrived):
    """All spans by name, and the resource's attributes."""
    spans, resource = {}, {}
    with contextlib.suppress(queue.Empty):
        while True:
            for group in arrived.get_nowait().resource_spans:
                resource |= values(group.resource.attributes)
                for scoped in group.scope_spans:
                    for span in scoped.spans:
                        spans.setdefault(span.name, []).append(span)
    return spans, resource


def values(attributes):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def test_spans(tiny, receiver, caplog):
    with caplog.at_level("INFO", logger="app.request"), serving(tiny, traces="on") as client:
        assert client.post("/predict", content=RED, headers={**TRACEPARENT, "x-request-id": "me"}).status_code == 200
        client.post("/predict", content=b"rubbish")
        client.get("/some/path?secret=1")
        client.get("/health/ready")
        client.post("/predict/batch", files={"file": RED}, headers={"traceparent": "rubbish"})
    # The service has shut down, so everything was sent.
    spans, resource = everything(receiver)
    assert resource["service.name"] == "edge-classifier"
    assert resource["deployment.environment.name"] == "barn", "the standard variables are read"
    assert set(spans) == {
        "POST /predict",
        "POST /predict/batch",
        "GET unmatched",
        "read",
        "queue",
        "decode",
        "infer",
    }, "a probe leaves none"
    answered, refused = spans["POST /predict"]
    assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == (TRACE, PARENT)
    assert answered.trace_state == "vendor=1"
    assert answered.kind == answered.SPAN_KIND_SERVER
    found = values(answered.attributes)
    assert found["http.request.method"] == "POST"
    assert found["http.route"] == "/predict"
    assert found["http.response.status_code"] == 200
    assert found["http.request.body.size"] == len(RED)
    assert found["url.path"] == "/predict"
    assert found["url.scheme"] == "http"
    assert found["network.protocol.version"] == "1.1"
    assert found["client.address"] == "127.0.0.1"
    assert found["edge_classifier.request_id"] == "me"
    assert answered.status.code == answered.status.STATUS_CODE_UNSET

    stages = [spans[stage][0] for stage in ("read", "queue", "decode", "infer")]
    assert all(stage.parent_span_id == answered.span_id and stage.trace_id == answered.trace_id for stage in stages)
    assert stages[0].start_time_unix_nano == answered.start_time_unix_nano
    for before, after in itertools.pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= answered.end_time_unix_nano
    logged = next(record.fields for record in caplog.records if record.fields["request_id"] == "me")
    assert logged["trace_id"] == TRACE
    for stage in stages:
        took_ms = (stage.end_time_unix_nano - stage.start_time_unix_nano) / 1e6
        assert took_ms == pytest.approx(logged[f"{stage.name}_ms"], abs=0.002)
    took_ms = (answered.end_time_unix_nano - answered.start_time_unix_nano) / 1e6
    assert took_ms == pytest.approx(logged["duration_ms"], abs=0.002)

    assert refused.parent_span_id == b""
    assert refused.trace_id != answered.trace_id
    assert values(refused.attributes)["edge_classifier.problem"] == "not-an-image"
    assert refused.status.code == refused.status.STATUS_CODE_UNSET, "a client's mistake is no error of a server's"
    (unmatched,) = spans["GET unmatched"]
    assert values(unmatched.attributes)["url.path"] == "/some/path"
    assert "http.route" not in values(unmatched.attributes)
    assert not any("secret" in str(value) for value in values(unmatched.attributes).values())


def test_who_is_not_sampled_is_not_sent(tiny, receiver):
    with serving(tiny, traces="on") as client:
        client.post("/predict", content=RED, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert receiver.empty()


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "never answers"])
def test_without_a_receiver(tiny, monkeypatch, answers):
    """Requests are answered and the process ends in the usual way; the log says what was lost."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers else free_port()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        port = free_port()
        process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, drain_seconds=0, traces="on")
        with until_ready(process, port) as client:
            for _ in range(20):
                assert client.post("/predict", content=RED, headers=TRACEPARENT).status_code == 200
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    assert len([line for line in lines if line.get("trace_id") == TRACE]) == 20


def test_on_without_the_extra(tiny):
    # FastAPI itself needs OpenTelemetry's interfaces; what sends is in the extra.
    without = "import sys; sys.modules['opentelemetry.sdk'] = None; from app.__main__ import main; main()"
    output = failure([sys.executable, "-c", without], model=tiny, traces="on")
    assert output.startswith("CLASSIFIER_TRACES: ")
    assert "pip install '.[traces]'" in output
    assert output.count("\n") == 1


def test_off_nothing_is_imported_or_sent(tiny, receiver, monkeypatch):
    """Not even where the variables that others obey say so: FastAPI has an exporter of its own."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    port = free_port()
    program = (
        "import sys; from app.__main__ import main; main(); "
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'requests'))])"
    )
    process = start([sys.executable, "-c", program], model=tiny, host="127.0.0.1", port=port, log_level="info")
    with until_ready(process, port) as client:
        assert client.post("/predict", content=RED, headers=TRACEPARENT).status_code == 200
        assert client.get("/model", headers=TRACEPARENT).status_code == 200
        assert client.get("/nothing", headers=TRACEPARENT).status_code == 404
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    # The last lines of the log may come after it.
    assert "[]" in output.splitlines()
    assert receiver.empty()
