"""A camera on a real socket that does what a test tells it, however odd."""

import base64
import contextlib
import hashlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.photos import encode

_CHANCE = np.random.default_rng(5)


def picture(colour, kind="JPEG") -> bytes:
    """A frame with this mean colour, and with noise as a sensor has it: no two are the same, and none is flat."""
    coarse = _CHANCE.integers(-60, 61, (12, 16, 3)) + np.array(colour)
    return encode(Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((160, 120)), kind)


def covered() -> bytes:
    """What a camera sends whose lens is covered: black, and the noise of its sensor."""
    return encode(Image.fromarray(_CHANCE.integers(0, 7, (120, 160, 3), np.uint8)), "JPEG")


class Request:
    """What was asked, and the way back."""

    def __init__(self, head: bytes, handler: socketserver.StreamRequestHandler, closing: threading.Event) -> None:
        self.head = head
        self.path = head.split(b" ", 2)[1].decode()
        self.closing = closing
        self._handler = handler

    def header(self, name: str) -> str:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.decode("latin-1").partition(":")
            if key.lower() == name:
                return value.strip()
        return ""

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)

    def hang_up(self) -> None:
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, body: bytes, media_type="image/jpeg", status="200 OK", headers="", length=None) -> None:
        size = len(body) if length is None else length
        self.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n{headers}\r\n".encode()
            + body
        )


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """Clients leave in the middle; that is what is tested."""


class FakeCamera:
    """Answers each connection's requests by ``behave``, which a test sets; counts them."""

    def __init__(self, behave: Callable[[Request], None], port=0) -> None:
        self.behave = behave
        self.asked = 0
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        camera = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                camera._connections.add(self.connection)
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        line = self.rfile.readline(65_536)
                        if not line:
                            return
                        head += line
                    camera.asked += 1
                    with contextlib.suppress(OSError):
                        camera.behave(Request(head, self, camera.closing))

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/snap"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def fake_camera(behave: Callable[[Request], None], port=0) -> Iterator[FakeCamera]:
    camera = FakeCamera(behave, port)
    try:
        yield camera
    finally:
        camera.close()


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def digest_is_right(request: Request, username: str, password: str, realm: str, nonce: str) -> bool:
    """RFC 7616, 3.4.1, with MD5 and qop=auth, as cameras have it."""
    fields = [
        part.strip().partition("=") for part in request.header("authorization").removeprefix("Digest ").split(", ")
    ]
    given = {name: value.strip('"') for name, _, value in fields}
    if given.get("nonce") != nonce:
        return False

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    first, second = md5(f"{username}:{realm}:{password}"), md5(f"GET:{given['uri']}")
    return given["response"] == md5(f"{first}:{nonce}:{given['nc']}:{given['cnonce']}:auth:{second}")
