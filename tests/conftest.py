"""Real servers on real sockets with real models; what a test needs is made here once."""

import asyncio
import contextlib
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.main import create_server
from app.registry.source import BUNDLED
from app.settings import Settings
from tests import photos, tiny_model
from tests.internals import service_of

ROOT = Path(__file__).parent.parent
# Labelled photos and pretrained weights, where a machine has them beside the checkout; nothing needs them.
SHARED = ROOT.parent / "shared"
if "KERAS_HOME" not in os.environ and (SHARED / "keras").is_dir():
    os.environ["KERAS_HOME"] = str(SHARED / "keras")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and what they start inherits it; the tests send SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What some tests need is named by what makes it: `make image-test` an image, `make recipes` a folder with programs.
collect_ignore = [name for name in ("image", "recipes") if name.upper() not in os.environ]

#: The files that take longest, the longest first.
LONGEST = (
    "model_build/export/test_export.py",
    "model_build/network/test_network.py",
    "model_build/training/test_train.py",
    "model_build/export/test_class_activation_map.py",
    "model_build/training/test_teach.py",
    "registry/test_updates.py",
    "e2e/test_page.py",
    "registry/test_source.py",
    "http/test_openapi_fuzz.py",
    "test_startup.py",
    "cli/test_cli.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files begin first, so that no core waits for one at the end; the others keep their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@contextlib.contextmanager
def serving(model: Path, verify: ssl.SSLContext | bool = False, **settings) -> Iterator[httpx.Client]:
    """The service as it is run, on a free port in a thread, and a client for it.

    ``verify`` is the client's; the authorities that httpx would read for plain HTTP too take it longer than the rest.
    """
    server = create_server(Settings(**{"model": model, "host": "127.0.0.1", "port": 0, "drain_seconds": 0, **settings}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server.socket]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    assert server.started, "the service did not start"
    scheme = "https" if "tls_key" in settings else "http"
    url = f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30, verify=verify) as client:
            client.server = server
            yield client
    finally:
        # Also after a test that has failed: what its service logs later would be another test's failure.
        server.loop.call_soon_threadsafe(server.stop)
        thread.join(30)
    assert not thread.is_alive(), "the service did not shut down"


def wait_until(condition, timeout_s=30):
    """What ``condition`` returns as soon as that is true."""
    ends = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def worker_held(client: httpx.Client) -> Iterator[threading.Event]:
    """The one worker of a service is busy until the event is set, or the block ends."""
    free, busy = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        assert free.wait(60)

    workers = service_of(client).workers
    job = asyncio.run_coroutine_threadsafe(workers.submit(hold), client.server.loop)
    # Where the queue's budget is short, it may be refused at first.
    while not busy.wait(0.05):
        if job.done():
            job = asyncio.run_coroutine_threadsafe(workers.submit(hold), client.server.loop)
    try:
        yield free
    finally:
        free.set()
    job.result(60)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny.fp32.onnx")


@pytest.fixture(scope="session")
def client(tiny) -> Iterator[httpx.Client]:
    """A client of a service with the tiny model and small limits."""
    with serving(tiny, max_body_bytes=1_000_000, max_pixels=4_000_000, max_batch_images=4) as client:
        yield client


@pytest.fixture(scope="session")
def box() -> Iterator[httpx.Client]:
    """A client of a service with the bundled model."""
    (model,) = BUNDLED.glob("*.onnx")
    with serving(model) as client:
        yield client


@pytest.fixture(scope="session", params=["own", "shared"])
def fifty(request) -> list[bytes]:
    """Fifty photos: those that every machine has, and labelled ones where a machine has them."""
    if request.param == "own":
        return photos.fifty()
    if not (files := sorted(SHARED.glob("images/imagenet/*.JPEG"))[::5][:50]):
        pytest.skip("needs photos beside the checkout; the other fifty are everywhere")
    return [path.read_bytes() for path in files]


def scores_of(client: httpx.Client, photo: bytes) -> np.ndarray:
    """What ``/predict`` says about a photo: ``float32 [C]`` by class index."""
    classes = len(client.get("/labels").json()["labels"])
    answer = client.post(f"/predict?top_k={classes}", content=photo)
    assert answer.status_code == 200, answer.text
    by_index = {p["index"]: p["score"] for p in answer.json()["predictions"]}
    return np.array([by_index[i] for i in range(classes)], np.float32)


def assert_problem(response: httpx.Response, status: int, slug: str) -> str:
    """Every error has the same shape; returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "request_id"}
    assert body["type"] == f"urn:edge-classifier:problem:{slug}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"]
    assert body["detail"].endswith(".")
    return body["detail"]
