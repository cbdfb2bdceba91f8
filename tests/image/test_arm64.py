"""The arm64 image on any machine: its root filesystem, unpacked, under user-mode emulation."""

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.model import Model
from app.registry.source import BUNDLED
from tests.conftest import SHARED
from tests.image.conftest import wait_until_ready
from tests.photos import encode, quarters, solid
from tests.processes import free_port

ROOT = os.environ.get("ARM64_ROOT")


def photos() -> list[bytes]:
    """A few photos where a machine has some, and pictures of our own in other formats."""
    found = sorted((SHARED / "images" / "imagenet").glob("*.JPEG"))[::12]
    own = [encode(quarters(), kind) for kind in ("PNG", "WEBP", "AVIF")] + [encode(solid((9, 200, 9)), "JPEG")]
    return [path.read_bytes() for path in found] + own


@pytest.mark.skipif(ROOT is None, reason="needs ARM64_ROOT, the arm64 image's files, and root to change into them")
def test_the_same_labels_as_on_amd64():
    emulator = shutil.which("qemu-aarch64-static")
    assert emulator, "apt-get install qemu-user-static"
    shutil.copy(emulator, ROOT)
    port = free_port()
    program = "import os, runpy; os.chdir('/srv'); runpy.run_module('app', run_name='__main__', alter_sys=True)"
    command = ["chroot", "--userspec=10001:10001", ROOT, "/qemu-aarch64-static", "/usr/local/bin/python", "-c", program]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": "/srv:/srv/lib",
        "CLASSIFIER_HOST": "127.0.0.1",
        "CLASSIFIER_PORT": str(port),
        "CLASSIFIER_QUEUE_BUDGET_MS": "60000",
    }
    (bundled,) = BUNDLED.glob("*.onnx")
    here = Classifier(Model(bundled), DecodeBudget(10**8))
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            wait_until_ready(client)
            differences = []
            for photo in photos():
                found = client.post("/predict", content=photo).json()["predictions"]
                expected = here(photo).predictions
                assert found[0]["label"] == expected[0].label
                differences.append(abs(found[0]["score"] - expected[0].score))
            print(f"{len(differences)} photos; largest difference of the best score: {max(differences):.4f}")
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert Path(ROOT, "lib/ld-linux-aarch64.so.1").exists()
