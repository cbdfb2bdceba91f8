"""Real servers on real sockets with real models; what a test needs is made here once."""

import contextlib
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.factory import create_server
from app.settings import Settings
from tests import tiny_model

ROOT = Path(__file__).parent.parent
# Labelled photos and pretrained weights, where a machine has them beside the checkout; nothing needs them.
SHARED = ROOT.parent / "shared"
if "KERAS_HOME" not in os.environ and (SHARED / "keras").is_dir():
    os.environ["KERAS_HOME"] = str(SHARED / "keras")


@contextlib.contextmanager
def serving(model: Path, verify: ssl.SSLContext | bool = True, **settings) -> Iterator[httpx.Client]:
    """The service as it is run, on a free port in a thread, and a client for it; ``verify`` is the client's."""
    server = create_server(Settings(**{"model": model, "host": "127.0.0.1", "port": 0, "drain_seconds": 0, **settings}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server.socket]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    assert server.started, "the service did not start"
    scheme = "https" if "tls_key" in settings else "http"
    url = f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=30, verify=verify) as client:
        client.server = server
        yield client
    server.loop.call_soon_threadsafe(server.stop)
    thread.join(30)
    assert not thread.is_alive(), "the service did not shut down"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny.fp32.onnx")


@pytest.fixture(scope="session")
def client(tiny) -> Iterator[httpx.Client]:
    """A client of a service with the tiny model and small limits."""
    with serving(tiny, max_body_bytes=1_000_000, max_pixels=4_000_000, max_batch_images=4) as client:
        yield client


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
