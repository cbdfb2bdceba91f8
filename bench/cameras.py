"""What watching cameras costs: ``python -m bench.cameras [MINUTES]``; ``--cameras N``, ``--interval SECONDS``.

Simulated cameras on this machine answer with JPEG pictures of 1280 x 720; the service, the cameras' process and the
simulation run beside each other. Every quarter of a minute a line says what the process reports of itself.
"""

import argparse
import io
import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import yaml
from PIL import Image

from bench import photos

ROOT = Path(__file__).parent.parent
SIZE = (1280, 720)
#: Photos, and frames of each with other noise.
SCENES, FRAMES = 4, 6
STEP_S = 15


def pictures() -> list[bytes]:
    """Some scenes, each as a sensor sees it several times."""
    random = np.random.default_rng(0)
    made = []
    for photo in photos.read(None)[:SCENES]:
        scene = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize(SIZE)).astype(np.int16)
        for _ in range(FRAMES):
            noisy = np.clip(scene + random.integers(-6, 7, scene.shape), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
            made.append(buffer.getvalue())
    return made


def simulate(made: list[bytes]) -> int:
    """Serves the cameras' frames from a thread; returns the port."""
    count = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = next(count)
            scene = int(self.path.strip("/")) % SCENES
            # No two frames are the same; what follows a picture is not looked at.
            body = made[scene * FRAMES + number % FRAMES] + number.to_bytes(8, "big")
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reported(port: int) -> dict[str, float]:
    """What the process says of itself."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return {
        name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([\d.e+]+)$", text, re.MULTILINE)
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--cameras", type=int, default=24)
    parser.add_argument("--interval", type=float, default=1.0)
    options = parser.parse_args()
    camera_port, service_port, metrics_port = simulate(pictures()), free_port(), free_port()
    cameras = {
        f"camera{number}": {
            "source": {"kind": "http", "url": f"http://127.0.0.1:{camera_port}/{number}"},
            "interval_seconds": options.interval,
        }
        for number in range(options.cameras)
    }
    given = {
        "service": {"url": f"http://127.0.0.1:{service_port}"},
        "metrics": {"port": metrics_port},
        "cameras": cameras,
    }
    environment = os.environ | {"CLASSIFIER_PORT": str(service_port), "CLASSIFIER_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cameras.yaml"
        path.write_text(yaml.safe_dump(given))
        service = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment)
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            client.get(f"http://127.0.0.1:{service_port}/health/ready", timeout=60)
        watching = subprocess.Popen(
            [sys.executable, "-m", "app", "cameras", str(path)], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            measure(metrics_port, options.minutes * 60)
        finally:
            watching.terminate()
            service.terminate()


def measure(port: int, seconds: float) -> None:
    """Prints a line for each step."""
    print("  time s  memory MB  CPU of a core  judged  in 0.1 s  in 0.5 s    in 2 s  load average")
    time.sleep(STEP_S)
    before, began = reported(port), time.monotonic()
    while time.monotonic() < began + seconds:
        at = time.monotonic()
        time.sleep(STEP_S)
        now = reported(port)
        busy = (now["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / (time.monotonic() - at)
        judged = now["cameras_judged_age_seconds_count"]
        shares = [now[f'cameras_judged_age_seconds_bucket{{le="{age}"}}'] / judged for age in ("0.1", "0.5", "2.0")]
        memory_mb = now["process_resident_memory_bytes"] / 1e6
        in_time = "".join(f"{share:10.2%}" for share in shares)
        passed_s, load = time.monotonic() - began, os.getloadavg()[0]
        print(f"{passed_s:8.0f}{memory_mb:11.1f}{busy:15.1%}{judged:8.0f}{in_time}{load:14.1f}", flush=True)
        before = now


if __name__ == "__main__":
    main()
