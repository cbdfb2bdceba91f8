"""The Python client against real services, and against servers that misbehave."""

import asyncio
import contextlib
import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.client import AsyncClient, Client, Label, ProblemError, Unreachable, _retry_after_s
from app.errors import Overloaded
from tests.conftest import serving
from tests.internals import service_of
from tests.photos import encode, heic, quarters, solid
from tests.processes import free_port
from tests.tiny_model import LABELS, scores_of

RED = encode(solid((240, 30, 9)), "PNG")


class InTheLoop:
    """An AsyncClient to be called like a Classifier, so that one test holds for both."""

    def __init__(self, url, **options):
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name):
        return lambda *args, **options: self._runner.run(getattr(self._client, name)(*args, **options))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._client.__aexit__())
        self._runner.close()


BOTH = pytest.mark.parametrize("kind", [Client, InTheLoop], ids=["sync", "async"])


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
            assert result.appearance.contrast == 0
        assert len(classifier.predict(RED).predictions) == len(LABELS)
        assert classifier.predict(RED, min_score=1).predictions == ()


@BOTH
def test_a_part_of_a_photo(kind, client):
    photo = encode(quarters(), "PNG")
    with kind(str(client.base_url)) as classifier:
        assert classifier.predict(photo, crop=(0.5, 0, 0.5, 0.5)).predictions[0].label == "green"
        assert classifier.predict(photo, crop=(1 / 3, 1 / 3, 1 / 7, 1e-7)).appearance.contrast == 0
        with pytest.raises(ProblemError, match="over the photo's edge"):
            classifier.predict(photo, crop=(0.5, 0, 0.6, 0.5))


def test_a_photo_from_an_iphone(client):
    with Client(str(client.base_url)) as classifier:
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
        service_of(client).leaving = True
        try:
            assert not classifier.health().ready
        finally:
            service_of(client).leaving = False


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
    with Client(str(client.base_url)) as classifier:
        classifier.predict(RED)
        before = set(client.server.server_state.connections)
        for _ in range(5):
            classifier.predict(RED)
        assert set(client.server.server_state.connections) == before


@contextlib.contextmanager
def saturated(client):
    """Fills the workers with jobs that wait for the event that is given."""
    workers, loop, gate = service_of(client).workers, client.server.loop, threading.Event()

    async def fill():
        tasks = []
        with contextlib.suppress(Overloaded):
            while True:
                workers.admit()
                tasks.append(asyncio.create_task(workers.submit(gate.wait)))
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
        serving(tiny, workers=1, queue_budget_ms=1) as client,
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
    with serving(tiny, workers=1, queue_budget_ms=1) as client, saturated(client):
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
def scripted(*answers: bytes, until: bytes = RED):
    """A server that gives these answers, one a connection, and a list of the requests' heads; empty: it hangs up.

    ``until`` is what the requests end with.
    """
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    received = b""
                    while b"\r\n\r\n" not in received or not received.endswith(until):
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


@BOTH
def test_the_camera_is_sent(kind):
    with scripted(FINE) as (url, heads), kind(url) as classifier:
        classifier.predict(RED, camera="yard")
    assert heads[0].startswith("POST /predict?camera=yard HTTP/1.1")


def answer(status: bytes, media_type: bytes | None, body: bytes, *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Connection: close", b"Content-Length: %d" % len(body), *more]
    lines += [] if media_type is None else [b"Content-Type: " + media_type]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


JSON_TYPE = b"application/json"
NGINX = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>nginx</body></html>"
FULL = (
    b'{"type":"urn:edge-classifier:problem:body-too-large","title":"T","status":413,"detail":"D","request_id":"R",'
    b'"more":[]}'
)
SLUG = "urn:edge-classifier:problem:body-too-large"


@pytest.mark.parametrize("media_type", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON;x"])
def test_an_answer_is_json_whatever_parameters_its_type_has(media_type):
    with scripted(answer(b"200 OK", media_type, ANSWER)) as (url, _), Client(url) as classifier:
        assert classifier.predict(RED).unknown


@pytest.mark.parametrize(
    ("status", "media_type", "body", "expected"),
    [
        # RFC 9457: whatever parameters; every member may be missing, or is as good as missing if its type is wrong.
        (b"413 X", b"application/problem+json", FULL, (413, SLUG, "T", "D", "R")),
        (b"413 X", b"application/problem+json; charset=utf-8", FULL, (413, SLUG, "T", "D", "R")),
        (b"413 X", b"Application/Problem+JSON ;charset=utf-8", FULL, (413, SLUG, "T", "D", "R")),
        (b"413 X", b"application/problem+json", b"{}", (413, "about:blank", "X", "no detail", "head")),
        (b"413 X", b"application/problem+json", b'{"title":"T"}', (413, "about:blank", "T", "no detail", "head")),
        (b"413 X", b"application/problem+json", b'{"status":200}', (413, "about:blank", "X", "no detail", "head")),
        (
            b"413 X",
            b"application/problem+json",
            b'{"type":1,"title":[],"status":"?","detail":{},"request_id":7}',
            (413, "about:blank", "X", "no detail", "head"),
        ),
        # A problem that is none.
        (b"413 X", b"application/problem+json", NGINX, (413, "about:blank", "X", NGINX.decode(), "head")),
        (b"413 X", b"application/problem+json", b"[1]", (413, "about:blank", "X", "[1]", "head")),
        (b"413 X", b"application/problem+json", b"null", (413, "about:blank", "X", "null", "head")),
        (b"413 X", b"application/problem+json", b'{"type":', (413, "about:blank", "X", '{"type":', "head")),
        (b"413 X", b"application/problem+json", b"\xff\xfe\xfd", (413, "about:blank", "X", "\ufffd" * 3, "head")),
        (b"413 X", b"application/problem+json", b"", (413, "about:blank", "X", "no detail", "head")),
        (b"413 X", b"application/problem+json", b"[" * 99999, (413, "about:blank", "X", "[" * 200, "head")),
        (b"413 X", b"application/problem+json", b"9" * 9999, (413, "about:blank", "X", "9" * 200, "head")),
        # Somebody else's.
        (b"413 Request Entity Too Large", b"text/html", NGINX, (413, "about:blank", None, NGINX.decode(), "head")),
        (b"502 Bad Gateway", b"text/html; charset=klingon", b"<h1>", (502, "about:blank", None, "<h1>", "head")),
        (b"500 X", b"text/plain; charset=latin-1", b"\xe4", (500, "about:blank", "X", "\ufffd", "head")),
        (b"500 X", b"text/plain; charset=utf-16", b"no", (500, "about:blank", "X", "no", "head")),
        (b"500 X", b"text/plain; charset=zlib", b"no", (500, "about:blank", "X", "no", "head")),
        (b"500 ", None, b"", (500, "about:blank", "Internal Server Error", "no detail", "head")),
        (b"599 ", None, b"", (599, "about:blank", "no reason", "no detail", "head")),
        (b"401 X", b"application/json", b'{"error":"no"}', (401, "about:blank", "X", '{"error":"no"}', "head")),
        # A 200 that answers nothing.
        (b"200 X", None, b"", (200, "about:blank", "X", "no detail", "head")),
        (b"200 X", b"application/json", b"", (200, "about:blank", "X", "no detail", "head")),
        (b"200 X", b"application/json", ANSWER[:-9], (200, "about:blank", "X", ANSWER[:-9].decode()[:200], "head")),
        (b"200 X", b"application/json", b"[]", (200, "about:blank", "X", "[]", "head")),
        (b"200 X", b"application/json", b'"text"', (200, "about:blank", "X", '"text"', "head")),
        (b"200 X", b"application/json", b'{"model":{}}', (200, "about:blank", "X", '{"model":{}}', "head")),
        (b"200 X", b"application/json", b"\xff", (200, "about:blank", "X", "\ufffd", "head")),
        (b"200 X", b"application/json", b"[" * 99999, (200, "about:blank", "X", "[" * 200, "head")),
        (b"200 X", b"application/json", b"9" * 9999, (200, "about:blank", "X", "9" * 200, "head")),
        (b"200 X", b"image/jpeg", RED, (200, "about:blank", "X", None, "head")),
        (b"204 X", None, b"", (204, "about:blank", "X", "no detail", "head")),
        (b"201 X", b"application/json", ANSWER, (201, "about:blank", "X", ANSWER.decode()[:200], "head")),
    ],
)
@BOTH
def test_whatever_is_answered_is_a_problem(kind, status, media_type, body, expected):
    with (
        scripted(answer(status, media_type, body, b"X-Request-ID: head")) as (url, _),
        kind(url) as classifier,
        pytest.raises(ProblemError) as caught,
    ):
        classifier.predict(RED)
    error = caught.value
    found = (error.status, error.type, error.title, error.detail, error.request_id)
    assert all(got == wanted for got, wanted in zip(found, expected, strict=True) if wanted is not None), found
    assert error.title
    assert error.detail


@pytest.mark.parametrize("location", [b"https://gateway/predict", b"/elsewhere", b"/predict/"])
@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
def test_a_redirect_says_where_to(status, location):
    """It is not followed: a photo goes, with its key, where the client was told to send it."""
    with (
        scripted(answer(status, None, b"", b"Location: " + location)) as (url, heads),
        Client(url) as classifier,
        pytest.raises(ProblemError) as caught,
    ):
        classifier.predict(RED)
    assert (caught.value.status, caught.value.detail) == (int(status[:3]), f"moved to {location.decode()}")
    assert len(heads) == 1


@BOTH
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"",
    ],
)
def test_a_broken_answer_is_no_answer(kind, raw):
    """Asked again, as whatever broke on its way is; and told when that helps no more."""
    with scripted(raw, raw) as (url, heads), kind(url, attempts=2) as classifier, pytest.raises(Unreachable) as caught:
        classifier.predict(RED)
    assert "/predict: " in str(caught.value)
    assert len(heads) == 2


@BOTH
def test_an_answer_that_cannot_be_unpacked_is_not_asked_for_again(kind):
    raw = answer(b"200 OK", b"application/json", b"no gzip", b"Content-Encoding: gzip")
    with scripted(raw) as (url, _), kind(url) as classifier, pytest.raises(Unreachable, match="/predict: "):
        classifier.predict(RED)


@BOTH
def test_a_length_that_is_too_small_spoils_no_other_answer(kind):
    """What follows it on the connection is nobody's answer."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n" + ANSWER
    with scripted(cut, FINE) as (url, _), kind(url) as classifier:
        with pytest.raises(ProblemError, match="200"):
            classifier.predict(RED)
        assert classifier.predict(RED).unknown


@pytest.mark.parametrize(
    ("status", "again"), [(b"503 X", 1), (b"429 X", 1), (b"500 X", 0), (b"502 X", 0), (b"504 X", 0), (b"408 X", 0)]
)
def test_only_who_asks_to_come_again_is_asked_again(status, again):
    refusal = answer(status, b"application/problem+json; charset=utf-8", b"{}", b"Retry-After: 0")
    with scripted(*[refusal] * (1 + again)) as (url, heads), Client(url, attempts=2) as classifier:
        with pytest.raises(ProblemError) as caught:
            classifier.predict(RED)
        assert caught.value.status == int(status[:3])
    assert len(heads) == 1 + again


@pytest.mark.parametrize(
    "results",
    [b'[{"problem":{"status":415}}]', b'[{"problem":{"status":415,"type":7,"title":null}}]'],
)
def test_a_batch_with_a_minimal_problem(results):
    body = b'{"model":{"name":"m","version":"1"},"request_id":"r","results":' + results + b"}"
    with scripted(answer(b"200 OK", JSON_TYPE, body), until=b"--\r\n") as (url, _), Client(url) as classifier:
        (problem,) = classifier.predict_batch([RED])
    assert (problem.status, problem.type, problem.detail) == (415, "about:blank", "no detail")


@pytest.mark.parametrize("results", [b"7", b"[7]", b'[{"problem":7}]', b'[{"problem":{}}]', b"[{}]", b"null"])
def test_a_batch_that_is_none(results):
    body = b'{"model":{"name":"m","version":"1"},"request_id":"r","results":' + results + b"}"
    with (
        scripted(answer(b"200 OK", JSON_TYPE, body), until=b"--\r\n") as (url, _),
        Client(url) as classifier,
        pytest.raises(ProblemError) as caught,
    ):
        classifier.predict_batch([RED])
    assert (caught.value.status, caught.value.type) == (200, "about:blank")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "predictions", "status", "type", "results", "problem"]), inner)
    ),
    max_leaves=9,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    status=st.sampled_from([200, 204, 301, 400, 413, 500, 503]),
    media_type=st.sampled_from(["application/json", "application/problem+json", "text/html", ""]),
    parameters=st.sampled_from(["", ";charset=utf-8", "; charset=utf-16", ";;=", '; charset="'])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=5),
    body=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()),
    retry_after=st.sampled_from(["0", "-1", "9" * 400, "soon", "Fri, 31 Dec 9999 23:59:59 -0000", "٣"]),
    cut=st.integers(0, 3),
)
def test_nothing_but_its_own_errors(status, media_type, parameters, body, retry_after, cut):
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body) + cut}\r\n"
    head += f"Content-Type: {media_type}{parameters}\r\nRetry-After: {retry_after}\r\n\r\n"
    with scripted(head.encode() + body) as (url, _), Client(url, attempts=1) as classifier:
        with pytest.raises((ProblemError, Unreachable)) as caught:
            classifier.predict(RED)
        assert str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(r"(Mon|Fri), \d{1,3} (Jan|Feb|Xyz) \d{1,6} \d\d:\d\d:\d\d ([+-]\d{1,6}|GMT|[A-Z])"))
def test_whatever_retry_after_is_it_is_a_number(value):
    assert _retry_after_s(value) >= 0


def test_an_answer_that_takes_too_long_is_not_asked_again():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.2) as classifier, pytest.raises(Unreachable, match="timed out"):
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
