"""The Python client against real services, and against servers that misbehave."""

import asyncio
import contextlib
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from app.client import AsyncClassifier, Classifier, Label, ProblemError, Unreachable, _retry_after_s
from app.errors import Overloaded
from tests.app.test_startup import free_port
from tests.conftest import serving
from tests.photos import encode, heic, solid
from tests.tiny_model import LABELS, scores_of

RED = encode(solid((240, 30, 9)), "PNG")


class InTheLoop:
    """An AsyncClassifier to be called like a Classifier, so that one test holds for both."""

    def __init__(self, url, **options):
        self._runner = asyncio.Runner()
        self._client = AsyncClassifier(url, **options)

    def __getattr__(self, name):
        return lambda *args, **options: self._runner.run(getattr(self._client, name)(*args, **options))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._client.__aexit__())
        self._runner.close()


BOTH = pytest.mark.parametrize("kind", [Classifier, InTheLoop], ids=["sync", "async"])


@BOTH
def test_every_form_of_a_photo(kind, client, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(RED)
    with kind(str(client.base_url)) as classifier:
        for photo in (RED, path, io.BytesIO(RED)):
            result = classifier.predict(photo, top_k=2)
            assert (result.model.name, result.model.version, result.unknown) == ("tiny", "1", False)
            assert [p.label for p in result.predictions] == ["red", "green"]
            assert result.predictions[0].score == pytest.approx(scores_of(240, 30, 9)[0], abs=1e-3)
            assert result.timing_ms.infer > 0
            assert result.request_id
        assert len(classifier.predict(RED).predictions) == len(LABELS)
        assert classifier.predict(RED, min_score=1).predictions == ()


def test_a_photo_from_an_iphone(client):
    with Classifier(str(client.base_url)) as classifier:
        assert classifier.predict(heic(solid((240, 30, 9)))).predictions[0].label == "red"


@BOTH
def test_a_batch_with_a_bad_photo(kind, client):
    with kind(str(client.base_url)) as classifier:
        good, bad = classifier.predict_batch([RED, b"rubbish"], top_k=1)
    assert good.predictions[0].label == "red"
    assert isinstance(bad, ProblemError)
    assert (bad.status, bad.slug, bad.request_id) == (415, "not-an-image", good.request_id)


@BOTH
def test_health_and_labels(kind, client):
    with kind(str(client.base_url)) as classifier:
        health = classifier.health()
        assert (health.ready, health.model.name, health.precision) == (True, "tiny", "fp32")
        assert classifier.labels()[0] == Label(0, "red", "n1")
        client.server.config.app.state.service.leaving = True
        try:
            assert not classifier.health().ready
        finally:
            client.server.config.app.state.service.leaving = False


@BOTH
def test_a_problem_is_an_error_with_everything_in_it(kind, client):
    with kind(str(client.base_url)) as classifier, pytest.raises(ProblemError, match="not an image") as caught:
        classifier.predict(b"rubbish")
    error = caught.value
    assert (error.status, error.type) == (415, "urn:edge-classifier:problem:not-an-image")
    assert error.detail
    assert error.request_id


@BOTH
@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
def test_a_photo_that_is_too_large(client, kind, size):
    """The answer comes while the photo is still being sent."""
    with kind(str(client.base_url), attempts=1) as classifier, pytest.raises(ProblemError) as caught:
        classifier.predict(b"x" * size)
    assert caught.value.slug == "body-too-large"


def test_connections_are_reused(client):
    with Classifier(str(client.base_url)) as classifier:
        classifier.predict(RED)
        before = set(client.server.server_state.connections)
        for _ in range(5):
            classifier.predict(RED)
        assert set(client.server.server_state.connections) == before


@contextlib.contextmanager
def saturated(client):
    """Fills the lanes with jobs that wait for the event that is given."""
    lanes, loop, gate = client.server.config.app.state.service.lanes, client.server.loop, threading.Event()

    async def fill():
        tasks = []
        with contextlib.suppress(Overloaded):
            while True:
                lanes.admit()
                tasks.append(asyncio.create_task(lanes.submit(gate.wait)))
                await asyncio.sleep(0)
        return tasks

    tasks = asyncio.run_coroutine_threadsafe(fill(), loop).result(30)
    assert tasks
    try:
        yield gate
    finally:
        gate.set()


def refusals(client) -> int:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('classifier_problems_total{type="overloaded"}')]
    return int(float(found[0].split()[-1])) if found else 0


@BOTH
def test_a_refusal_is_asked_again_after_its_time(kind, tiny):
    with (
        serving(tiny, lanes=1, queue_budget_ms=1) as client,
        kind(str(client.base_url)) as classifier,
        saturated(client) as gate,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(classifier.predict, RED)
        while not refusals(client):
            assert not asked.done(), asked.result()
        gate.set()
        assert asked.result(30).predictions[0].label == "red"


@BOTH
def test_a_refusal_that_stays_is_told(kind, tiny):
    with serving(tiny, lanes=1, queue_budget_ms=1) as client, saturated(client):
        # Retry-After is a second: more than there is.
        for options, expected in (({"attempts": 1}, 1), ({"total_s": 0.5}, 2)):
            with kind(str(client.base_url), **options) as classifier, pytest.raises(ProblemError) as caught:
                classifier.predict(RED)
            assert (caught.value.status, caught.value.slug) == (503, "overloaded")
            assert refusals(client) == expected


@BOTH
def test_a_service_that_is_restarted(kind, tiny):
    port = free_port()
    with kind(f"http://127.0.0.1:{port}", attempts=100) as classifier, ThreadPoolExecutor(1) as pool:
        with serving(tiny, port=port):
            assert classifier.predict(RED).predictions[0].label == "red"
        asked = pool.submit(classifier.predict, RED)
        with serving(tiny, port=port):
            assert asked.result(30).predictions[0].label == "red"


@BOTH
def test_nobody_there(kind):
    with (
        kind(f"http://127.0.0.1:{free_port()}", attempts=2) as classifier,
        pytest.raises(Unreachable, match=r"/predict: .*(refused|failed)"),
    ):
        classifier.predict(RED)


@contextlib.contextmanager
def scripted(*answers: bytes):
    """A server that gives these answers, one a connection, and a list of the requests' heads; empty: it hangs up."""
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    received = b""
                    while b"\r\n\r\n" not in received or not received.endswith(RED):
                        received += connection.recv(65536)
                    heads.append(received.partition(b"\r\n\r\n")[0].decode())
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join(30)
        assert not thread.is_alive(), "it was asked less often than expected"


HEAD = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n"
ANSWER = (
    b'{"model":{"name":"m","version":"1","new":1},"predictions":[],"unknown":true,"timing_ms":{"queue":1,"decode":1,'
    b'"infer":1,"new":1},"request_id":"r","new":1}'
)
FINE = HEAD % (b"200 OK", len(ANSWER), b"application/json") + ANSWER


@BOTH
def test_a_connection_that_breaks_is_asked_again(kind):
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
    with scripted(b"", half, FINE) as (url, heads), kind(url) as classifier:
        assert classifier.predict(RED).unknown
    assert len(heads) == 3


@BOTH
def test_the_key_and_the_model_are_sent(kind):
    with scripted(FINE) as (url, heads), kind(url, api_key="secret") as classifier:
        classifier.predict(RED, model="birds")
    assert "authorization: bearer secret" in heads[0].lower()
    assert heads[0].startswith("POST /predict?model=birds HTTP/1.1")


@pytest.mark.parametrize(
    ("status", "text", "media_type"),
    [
        (b"502 Bad Gateway", b"<h1>nginx</h1>", b"text/html"),
        (b"200 OK", b"<h1>log in</h1>", b"text/html"),
        (b"200 OK", b'{"another": "service"}', b"application/json"),
        (b"200 OK", b"not json", b"application/json"),
    ],
)
def test_an_answer_that_is_not_the_services(status, text, media_type):
    answer = HEAD % (status, len(text), media_type) + text
    with scripted(answer) as (url, _), Classifier(url) as classifier, pytest.raises(ProblemError) as caught:
        classifier.predict(RED)
    assert (caught.value.type, caught.value.detail) == ("about:blank", text.decode())
    assert caught.value.status == int(status[:3])


def test_an_answer_that_takes_too_long_is_not_asked_again():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Classifier(url, timeout_s=0.2) as classifier, pytest.raises(Unreachable, match="timed out"):
            classifier.predict(RED)
        silent.accept()[0].close()
        silent.settimeout(0.2)
        with pytest.raises(TimeoutError):
            silent.accept()


def test_retry_after():
    assert _retry_after_s("7") == 7
    assert _retry_after_s("") == _retry_after_s("soon") == _retry_after_s("-1") == 0
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 98 < _retry_after_s(format_datetime(later, usegmt=True)) <= 100
    assert _retry_after_s(format_datetime(later - timedelta(seconds=200), usegmt=True)) == 0
