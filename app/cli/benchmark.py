"""``edge-classifier doctor --bench``: how fast this machine is, as one line that can be compared with others'."""

import contextlib
import http.client
import io
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageOps

from .. import __version__
from ..errors import ModelError
from ..inference import imaging
from ..inference.classifier import Classifier
from ..inference.decode_budget import DecodeBudget
from ..inference.model import Model
from ..main import planned_cpus
from ..runtime import children
from ..runtime.kernels import int8_kernels
from ..settings import Settings
from .local import load

#: Clients that ask at once, each again when it is answered.
CLIENTS: Final = 16
#: Seconds of asking over HTTP that count, and those before that do not.
_SECONDS: Final = 8.0
_WARM_UP_S: Final = 2.0
#: Photos of each size that are classified in this process, and seconds after which no further one is.
_PHOTOS: Final = 40
_WITHIN_S: Final = 6.0
#: Seconds until the service must have answered for the first time.
_PATIENCE_S: Final = 60.0
#: Standard deviation, in levels, of what is added to each pixel of an enlarged photo, from fine to coarse: a sensor's
#: noise, and the detail that enlarging does not make.
_GRAIN: Final = ((1, 5.0), (2, 6.0), (4, 6.0))
#: Side of the square of noise that is laid over a photo again and again, in pixels.
_TILE: Final = 512


@dataclass(frozen=True, slots=True)
class Size:
    """What a kind of camera sends: width and height in pixels, and the bytes of its JPEG."""

    name: str
    width: int
    height: int
    bytes: int


#: A small picture, a camera's frame and a phone's photo.
SMALL: Final = Size("500x375", 500, 375, 110_000)
FULL_HD: Final = Size("1080p", 1920, 1080, 450_000)
PHONE: Final = Size("12 MP", 4000, 3000, 1_900_000)
_SIZES: Final = (SMALL, FULL_HD, PHONE)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; ``row`` has it as the table in docs/benchmarks.md does.

    Attributes:
        kernels: what int8 runs on.
        workers: photos worked on at once.
        model: its name and precision.
        one_core_ms: milliseconds of a photo in one thread, without HTTP, by its size.
        photos_a_second: small ones over HTTP, by ``CLIENTS`` clients on the same machine.
        version: of this software.
    """

    kernels: str
    workers: int
    model: str
    one_core_ms: dict[str, float]
    photos_a_second: float
    version: str

    def row(self) -> str:
        """The line to share: a row of a Markdown table."""
        times = (f"{milliseconds:.1f}" for milliseconds in self.one_core_ms.values())
        cells = (self.kernels, self.workers, self.model, *times, f"{self.photos_a_second:.0f}", self.version)
        return f"| {' | '.join(map(str, cells))} |"


def run(*, as_json: bool) -> int:
    """Measures what would be served here, and prints the line."""
    settings = Settings()
    model, _ = load(settings)
    print("measuring; this takes less than a minute where nothing else runs", file=sys.stderr)
    workers = planned_cpus(settings).count
    photos = {size.name: enlarged(golden(model), size) for size in _SIZES}
    classifier = Classifier(model, DecodeBudget(max(settings.max_pixels, PHONE.width * PHONE.height)))
    one_core_ms = {name: _one_core_ms(classifier, photo) for name, photo in photos.items()}
    with _served(model, workers) as port:
        photos_a_second = _photos_a_second(port, photos[SMALL.name])
    contract = model.contract
    name = f"{contract.name} {contract.precision}"
    figures = Figures(str(int8_kernels()), workers, name, one_core_ms, photos_a_second, __version__)
    print(json.dumps(asdict(figures)) if as_json else figures.row())
    return 0


def golden(model: Model) -> Image.Image:
    """The photo that every model file brings."""
    side = PHONE.width
    return Image.fromarray(imaging.preview(model.contract.golden.photo, side, DecodeBudget(side * side)))


def enlarged(picture: Image.Image, size: Size, seed: int = 0) -> bytes:
    """A JPEG of this size in pixels and about this size in bytes: the picture, with the detail that a real one has.

    Args:
        picture: RGB; what does not fit the shape is cut off.
        size: what is wanted.
        seed: of the noise; a camera's frames differ by it.
    """
    grown = ImageOps.fit(picture, (size.width, size.height), Image.Resampling.BICUBIC)
    grain = Image.new("L", grown.size)
    tile = _tile(seed)
    for left in range(0, size.width, _TILE):
        for upper in range(0, size.height, _TILE):
            grain.paste(tile, (left, upper))
    grown = ImageChops.add(grown, Image.merge("RGB", (grain, grain, grain)), 1, -128)
    made, low, high = b"", 20, 96
    # The highest quality that fits; of the lowest one, what comes of it.
    while low < high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        grown.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= size.bytes or not made:
            made = buffer.getvalue()
        low, high = (quality + 1, high) if buffer.tell() <= size.bytes else (low, quality)
    return made


def _tile(seed: int) -> Image.Image:
    """Grey noise around 128."""
    random = np.random.default_rng(seed)
    levels = np.full((_TILE, _TILE), 128.0)
    for coarse, deviation in _GRAIN:
        side = _TILE // coarse
        levels += np.kron(random.normal(0, deviation, (side, side)), np.ones((coarse, coarse)))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _one_core_ms(classifier: Classifier, photo: bytes) -> float:
    """The median of a photo's milliseconds in this thread."""
    taken: list[float] = []
    begun = time.perf_counter()
    classifier(photo)
    while len(taken) < _PHOTOS and (not taken or time.perf_counter() - begun < _WITHIN_S):
        started = time.perf_counter()
        classifier(photo)
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


@contextlib.contextmanager
def _served(model: Model, workers: int) -> Iterator[int]:
    """The service in a process of its own, as this machine would run it; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    variables = {
        "CLASSIFIER_MODEL": str(model.path.resolve()),
        "CLASSIFIER_WORKERS": str(workers),
        "CLASSIFIER_HOST": "127.0.0.1",
        "CLASSIFIER_PORT": str(port),
        # A slow machine is to be measured, not to refuse.
        "CLASSIFIER_QUEUE_BUDGET_MS": "60000",
        "CLASSIFIER_DRAIN_SECONDS": "0",
        "CLASSIFIER_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", __package__.partition(".")[0]]
    # This interpreter and our own module; leaving the block waits for its end.
    with subprocess.Popen(  # noqa: S603
        command,
        env=children.environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            _wait_until_ready(process, port)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < _PATIENCE_S and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.05)
    process.kill()
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    raise ModelError(f"the service did not start: {said[:2000] or 'it did not answer in time'}")


def _photos_a_second(port: int, photo: bytes) -> float:
    """Answers a second to ``CLIENTS`` clients, each of which keeps its connection."""
    begins = time.perf_counter() + _WARM_UP_S
    ends = begins + _SECONDS
    answers: list[int] = []
    failures: list[str] = []

    def client() -> None:
        counted = 0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        try:
            while time.perf_counter() < ends:
                connection.request("POST", "/predict", photo, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                if response.status != http.HTTPStatus.OK:
                    failures.append(f"status {response.status}")
                    return
                counted += begins <= time.perf_counter() < ends
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()
            answers.append(counted)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ModelError(f"the service did not answer each photo: {failures[0]}")
    return sum(answers) / _SECONDS
