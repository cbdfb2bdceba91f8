"""What the recipes are about: a camera, the service, and both of them going away. ``make recipes`` says with what."""

import contextlib
import signal
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import tiny_model
from tests.photos import encode, solid
from tests.processes import COMMANDS, free_port, start, until_ready

RED, GREEN = (encode(solid(colour), "JPEG") for colour in ((240, 9, 9), (9, 240, 9)))
#: No colour stands out.
GREY = encode(solid((120, 120, 118)), "JPEG")


class Camera:
    """A camera with an address for snapshots.

    Attributes:
        shows: what it sends.
        content_type: what it says that this is.
        status: the status that it sends this with.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.shows, self.content_type, self.status = RED, "image/jpeg", 200
        self._server: socketserver.BaseServer | None = None

    def come(self) -> None:
        """Begins to answer."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(camera.status)
                self.send_header("Content-Type", camera.content_type)
                self.send_header("Content-Length", str(len(camera.shows)))
                self.end_headers()
                self.wfile.write(camera.shows)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def go(self) -> None:
        """Answers no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextlib.contextmanager
    def showing(self, shows: bytes, content_type: str = "image/jpeg", status: int = 200) -> Iterator[None]:
        """Sends something else for a while."""
        before = self.shows, self.content_type, self.status
        self.shows, self.content_type, self.status = shows, content_type, status
        yield
        self.shows, self.content_type, self.status = before


class Service:
    """The service with the tiny model, on one port however often it comes and goes."""

    def __init__(self, model: Path) -> None:
        self.port = free_port()
        self._model = model
        self._process = None

    def come(self) -> None:
        """Starts."""
        self._process = start(COMMANDS["module"], model=self._model, host="127.0.0.1", port=self.port)
        until_ready(self._process, self.port).close()

    def go(self) -> None:
        """Ends."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=30)
            self._process = None


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    camera.come()
    yield camera
    camera.go()


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    service = Service(tiny_model.write(tmp_path / "tiny.onnx", tiny_model.contract(unknown_below=0.6)))
    service.come()
    yield service
    service.go()
