"""Log lines, and nobody who reads them: real pipes, and the service as a process."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.telemetry.logs import Background, JsonFormatter
from tests.conftest import ROOT
from tests.internals import thread_of
from tests.photos import encode, solid
from tests.processes import free_port


class Pipe:
    """A pipe that is read only when a test wants to."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def lines(self) -> list[dict]:
        """All there are, once nobody writes any more."""
        os.close(self.write)
        with os.fdopen(self.read) as file:
            return [json.loads(line) for line in file]


def logger_to(descriptor: int) -> tuple[logging.Logger, Background]:
    handler = Background(descriptor)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, handler


def formatted(message="m", *, fields=None, exc_info=None, args=()) -> dict:
    record = logging.LogRecord("test", logging.ERROR, "", 0, message, args, exc_info)
    if fields is not None:
        record.fields = fields
    return json.loads(JsonFormatter().format(record))


def test_lines_come_in_their_order():
    pipe = Pipe()
    logger, handler = logger_to(pipe.write)
    for i in range(500):
        logger.info("line", extra={"fields": {"i": i}})
    handler.finish()
    assert [line["i"] for line in pipe.lines()] == list(range(500))
    assert handler.dropped == 0


def test_a_reader_that_reads_misses_nothing():
    """However much it is in all."""
    pipe = Pipe()
    logger, handler = logger_to(pipe.write)
    with os.fdopen(pipe.read) as file:
        # Each time less than may wait, and in all more.
        for i in range(6):
            for _ in range(2500):
                logger.info("x" * 100, extra={"fields": {"i": i}})
            assert [json.loads(file.readline())["i"] for _ in range(2500)] == [i] * 2500
    handler.finish()
    assert handler.dropped == 0
    os.close(pipe.write)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_sleeps_costs_lines_and_no_time(blocking):
    """Were anybody to wait for it, this would never end. Once it reads, it learns how many lines it has missed."""
    pipe = Pipe()
    os.set_blocking(pipe.write, blocking)
    logger, handler = logger_to(pipe.write)
    logged = 0
    while not handler.dropped:
        logger.info("line", extra={"fields": {"i": logged, "text": "x" * 300}})
        logged += 1
    for _ in range(10):
        logger.info("too much")
    read = []
    with os.fdopen(pipe.read) as lines:
        reader = threading.Thread(target=lambda: read.extend(json.loads(line) for line in lines))
        reader.start()
        handler.finish()
        os.close(pipe.write)
        reader.join(30)
    (told,) = [line for line in read if line["logger"] == "app.telemetry.logs"]
    assert (told["level"], told["message"]) == ("warning", "log lines were dropped")
    assert told["lines"] == handler.dropped >= 1
    rest = [line for line in read if line is not told]
    assert len(rest) + told["lines"] == logged + 10
    assert 900_000 < sum(len(json.dumps(line)) for line in rest) < 1_200_000


def test_an_end_that_nobody_reads_is_an_end():
    pipe = Pipe()
    logger, handler = logger_to(pipe.write)
    while not handler.dropped:
        logger.info("line" * 99)
    handler.finish()
    writer = thread_of(handler)
    assert writer.is_alive(), "it still waits, and is not waited for"
    os.close(pipe.read)
    writer.join(30)
    os.close(pipe.write)


def test_lines_that_cannot_be_written_are_counted():
    pipe = Pipe()
    os.close(pipe.read)
    logger, handler = logger_to(pipe.write)
    for _ in range(5):
        logger.info("nobody there")
    handler.finish()
    assert handler.dropped >= 5
    os.close(pipe.write)


def test_a_line_that_cannot_be_made_is_counted():
    """And told: each time, how many were lost since it was told before."""
    pipe = Pipe()
    logger, handler = logger_to(pipe.write)
    with os.fdopen(pipe.read) as file:
        for lost in (1, 3, 2):
            for _ in range(lost):
                logger.info("%d", "no number")
            logger.info("fine")
            fine, told = (json.loads(file.readline()) for _ in range(2))
            assert (fine["message"], told["message"], told["lines"]) == ("fine", "log lines were dropped", lost)
        handler.finish()
    assert handler.dropped == 6
    os.close(pipe.write)


def deep(n: int) -> None:
    if n:
        deep(n - 1)
    raise ValueError("first of all " + "x" * 100_000 + " last of all")


def test_a_traceback_is_cut_in_its_middle():
    try:
        deep(3)
    except ValueError:
        line = formatted(exc_info=sys.exc_info())
    assert len(line["exception"]) < 8100
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("last of all")
    assert "characters left out" in line["exception"]


def test_a_traceback_of_a_common_size_is_whole():
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        line = formatted(exc_info=sys.exc_info())
    assert line["exception"].endswith("ZeroDivisionError: division by zero")
    assert "left out" not in line["exception"]


@pytest.mark.parametrize("text", ["/" * 60_000, "\0" * 60_000, "\ud800" * 60_000, "ä" * 60_000])
def test_what_a_client_sent_does_not_make_a_line_long(text):
    line = formatted(text, fields={"path": text, "status": 200, "duration_ms": 1.5, "lists": [text], "none": None})
    assert len(json.dumps(line)) < 33_000
    assert (line["status"], line["duration_ms"], line["none"], line["level"]) == (200, 1.5, None, "error")
    assert all(len(line[name]) < 1100 for name in ("message", "path", "lists"))


def test_a_line_of_a_common_size_is_whole():
    fields = {"path": "/p" * 500, "status": 200}
    assert formatted(fields=fields).items() >= fields.items()


RED = encode(solid((250, 9, 9)), "JPEG")


@contextlib.contextmanager
def service(tiny, shell: str = "", **streams):
    """The service as a process, its standard streams as given or as a shell redirects them; and a client of it."""
    port = free_port()
    variables = {"MODEL": tiny, "HOST": "127.0.0.1", "PORT": port, "DRAIN_SECONDS": 0}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLASSIFIER_")}
    environment = clean | {f"CLASSIFIER_{name}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "app"]
    if shell:
        command = ["sh", "-c", f'exec "$0" -m app {shell}', sys.executable]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **streams)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not ready(client):
                assert process.poll() is None, "the service ended without being ready"
                # Asking all the time would take the CPU that it starts on.
                time.sleep(0.01)
            yield process, client
    finally:
        process.kill()
        process.wait(30)


def ready(client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_service_whose_log_nobody_reads(tiny):
    """It answers, says on /metrics what is lost, and ends when it is told to."""
    pipe = Pipe()
    with service(tiny, stderr=pipe.write) as (process, client):
        # Each line has a thousand bytes of the request's path; the pipe and the queue take some 1.1 MB.
        for _ in range(1300):
            assert client.get("/" + "x" * 1000).status_code == 404
        assert client.post("/predict", content=RED).status_code == 200
        lost = client.get("/metrics").text.partition("\nclassifier_log_lines_dropped_total ")[2]
        assert float(lost.split()[0]) > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    os.close(pipe.read)
    os.close(pipe.write)


def test_libraries_do_not_wait_for_who_reads_either(tiny):
    """libtiff writes a line itself for each row of a fax that it cannot read, past Python and its logging."""
    noise = np.random.default_rng(0).integers(0, 2, (200, 200), np.uint8) * 255
    fax = bytearray(encode(Image.fromarray(noise).convert("1"), "TIFF", compression="group4"))
    fax[100:-200:7] = bytes(byte ^ 0x5A for byte in fax[100:-200:7])
    pipe = Pipe()
    os.set_blocking(pipe.read, False)
    with service(tiny, stderr=pipe.write) as (process, client):
        for _ in range(400):
            assert client.post("/predict", content=bytes(fax)).status_code < 500
        assert b"Fax4Decode" in os.read(pipe.read, 1 << 16)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    os.close(pipe.read)
    os.close(pipe.write)


@pytest.mark.parametrize(
    "shell", ["<&- >&- 2>&-", "2>&-", "<&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "2>/dev/null >&-"]
)
def test_a_service_whose_standard_streams_are_closed(tiny, shell):
    with service(tiny, shell) as (process, client):
        assert client.post("/predict", content=RED).status_code == 200
        descriptors = {name: str(Path(f"/proc/{process.pid}/fd/{name}").readlink()) for name in "012"}
        assert not any("socket" in target or "event" in target for target in descriptors.values()), descriptors
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_warnings_are_lines_too():
    """Python would write them itself, and wait for who reads."""
    program = (
        "from app.telemetry import logs; logs.configure('info'); import warnings; warnings.warn('odd', stacklevel=1)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "odd" in line["message"]
