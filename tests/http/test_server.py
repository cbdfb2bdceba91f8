"""Slow, rude and leaving clients, and a server that goes away without losing a photo."""

import asyncio
import re
import signal
import threading
import time
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from app.http.body_reader import Body, BodyReader
from app.http.limits import Limits
from app.http.server import MAX_HEAD_BYTES
from tests.conftest import serving, wait_until, worker_held
from tests.http.connections import connect, everything
from tests.internals import expect_jobs_to_take, service_of
from tests.photos import encode, solid
from tests.processes import COMMANDS, free_port, start, until_ready

RED = encode(solid((240, 9, 9)), "JPEG")


@pytest.fixture(scope="module")
def impatient(tiny):
    with serving(
        tiny, header_timeout_seconds=0.3, body_timeout_seconds=0.3, max_buffered_bytes=200_000, workers=1
    ) as client:
        yield client


@pytest.mark.parametrize("sent", [b"", b"POST /pre", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_slow_head(impatient, sent):
    with connect(impatient) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"header-timeout" in answer


def test_a_slow_second_head(impatient):
    with connect(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /hea")
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        (b"Content-Length: 1000\r\n\r\nabc", b": 3 of its 1000 bytes came"),
        (b"Content-Length: 1000\r\n\r\n", b": 0 of its 1000 bytes came"),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b": 3 bytes of it came"),
    ],
)
def test_a_slow_body(impatient, sent, came):
    with connect(impatient) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body-timeout" in answer
    # A length that was counted too high looks the same, and this tells.
    assert came in answer


def test_the_rest_of_a_refused_body(impatient):
    """It is thrown away: if it ends in time the connection goes on, else it does not."""
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    with connect(impatient) as connection:
        for _ in range(2):
            connection.sendall(head)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ")
            connection.sendall(b"0123456789")
        connection.sendall(head + b"012")
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.count(b"HTTP/1.1 ") == 1


def test_a_body_too_large_ends_the_connection(impatient):
    """At once for whoever listens; within the time for a head for whoever sends on."""
    with connect(impatient) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99000000\r\n\r\nabc")
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        try:
            for _ in range(1000):
                connection.sendall(b"x" * 1000)
                time.sleep(0.01)
        except OSError:
            return
    raise AssertionError("whoever sends on is listened to for ever")


def test_a_huge_head(impatient):
    with connect(impatient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 10))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"headers-too-large" in answer


def test_not_http(impatient):
    with connect(impatient) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "not-http"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET /hea", 408, "header-timeout"),
    ],
)
def test_what_the_application_does_not_see_is_counted_and_logged(impatient, caplog, sent, status, slug):
    def counted(text: str) -> tuple[str, ...]:
        return tuple(
            re.search(rf"^{re.escape(name)} (\S+)", text, re.MULTILINE)[1] if name in text else "0"
            for name in (
                f'classifier_problems_total{{type="{slug}"}}',
                f'classifier_requests_total{{route="unmatched",status="{status}"}}',
            )
        )

    before = counted(impatient.get("/metrics").text)
    with caplog.at_level("INFO", logger="app.request"), connect(impatient) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    after = counted(impatient.get("/metrics").text)
    assert [float(b) - float(a) for a, b in zip(before, after, strict=True)] == [1.0, 1.0]
    noted = [record.fields for record in caplog.records if record.name == "app.request"]
    (line,) = [fields for fields in noted if fields.get("problem") == slug]
    assert line["status"] == status
    assert line["request_id"].encode() in answer


def test_bodies_in_memory_are_bounded(tiny):
    with serving(tiny, max_buffered_bytes=200_000, workers=1) as client:
        assert client.post("/predict", content=b"x" * 300_000).status_code == 413
        with connect(client) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\n\r\n" + b"x" * 149_999)
            while "classifier_buffered_bytes 149999.0" not in client.get("/metrics").text:
                pass
            response = client.post("/predict", content=b"x" * 150_000)
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["type"].endswith(":overloaded")
            connection.sendall(b"x")
            assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
        assert client.post("/predict", content=RED).status_code == 200
        assert "classifier_buffered_bytes 0.0" in client.get("/metrics").text


def test_what_was_buffered_is_given_back():
    limits = Limits(body_bytes=100, body_timeout_s=10, buffered_bytes=1000, decode_bytes=1, batch_images=1)

    class Request:
        scope: ClassVar = {"type": "http", "headers": [], "client": ("127.0.0.1", 1)}
        headers = httpx.Headers({"content-type": "image/jpeg"})

        def __init__(self, *messages):
            self.messages = list(messages)

        async def receive(self):
            return self.messages.pop(0)

    async def main():
        body_reader = BodyReader(limits)
        parts = ({"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"})
        async with body_reader.read(Request(*parts)) as body:
            assert body == Body("image/jpeg", {}, b"abc")
            assert body_reader.buffered_bytes == 3
        assert body_reader.buffered_bytes == 0
        with pytest.raises(Exception, match="closed the connection"):
            async with body_reader.read(Request(parts[0], {"type": "http.disconnect"})):
                pass
        assert body_reader.buffered_bytes == 0

    asyncio.run(main())


def test_metrics(tiny):
    with serving(tiny) as client:
        client.post("/predict", content=RED)
        client.post("/predict", content=b"rubbish")
        client.get("/some/path/that/is/not/there")
        text = client.get("/metrics").text
    for line in (
        'classifier_requests_total{route="/predict",status="200"} 1.0',
        'classifier_requests_total{route="/predict",status="415"} 1.0',
        'classifier_requests_total{route="unmatched",status="404"} 1.0',
        'classifier_problems_total{type="not-an-image"} 1.0',
        "classifier_photos_total 1.0",
        'classifier_stage_duration_seconds_count{stage="decode"} 1.0',
        'classifier_model_info{name="tiny",precision="fp32",version="1"} 1.0',
        "classifier_queue_depth 0.0",
        "classifier_requests_in_flight 1.0",
    ):
        assert line in text.splitlines(), line


def test_a_client_that_leaves_the_queue_frees_its_place(tiny):
    """The worker is held by a gate; the clients behind it leave; nothing of theirs is worked on."""
    with serving(tiny, workers=1) as client, worker_held(client) as free:
        service = service_of(client)
        request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(RED) + RED
        connections = [connect(client) for _ in range(5)]
        for connection in connections:
            connection.sendall(request)
        wait_until(lambda: service.workers.depth == 5)
        for connection in connections:
            connection.close()
        wait_until(lambda: service.workers.depth == 0)
        free.set()
        text = client.get("/metrics").text
        assert 'classifier_requests_total{route="/predict",status="499"} 5.0' in text
        assert "classifier_photos_total 0.0" in text


def test_overload_is_refused_and_probes_still_answer(tiny):
    with serving(tiny, workers=1, queue_budget_ms=1) as client, worker_held(client) as free:
        expect_jobs_to_take(service_of(client).workers, 1.0)
        response = client.post("/predict", content=RED)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["type"].endswith(":overloaded")
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
        free.set()


def test_sigterm_answers_everything_that_was_accepted(tiny):
    """Clients keep posting while the service goes: readiness turns first, then connections are refused."""
    port = free_port()
    # Long enough for a client that a busy machine keeps waiting to hear that its connection ends.
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, drain_seconds=2, log_level="warning")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: ready(url))
    answered, lost, states = [], [], []

    def post():
        with httpx.Client(base_url=url, timeout=20, verify=False) as client:
            while True:
                try:
                    answered.append(client.post("/predict", content=RED).status_code)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 100)
    process.send_signal(signal.SIGTERM)
    while True:
        try:
            states.append(httpx.get(url + "/health/ready", verify=False).status_code)
        except httpx.HTTPError:
            break
    for thread in threads:
        thread.join(30)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert not lost
    assert set(answered) == {200}
    assert 503 in states


def ready(url: str) -> bool:
    try:
        return httpx.get(url + "/health/ready", verify=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_an_idle_service_uses_no_cpu(tiny):
    """No polling loop: an idle second costs no context switch worth counting."""
    port = free_port()
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port)
    with until_ready(process, port) as client:
        client.post("/predict", content=RED)
    time.sleep(0.3)

    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
        return total

    before = switches()
    time.sleep(2)
    assert switches() - before <= 4
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
