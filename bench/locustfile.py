"""Realistic users for locust: ``make load`` runs them without a browser and writes an HTML report.

The photos are scikit-image's unless PHOTOS names a folder of JPEG files.
"""

import io
import os
import random
from pathlib import Path

from locust import HttpUser, between, constant_pacing, tag, task
from PIL import Image

FOLDER = os.environ.get("PHOTOS")
SIZES = ((320, 240), (640, 480), (1280, 720), (1920, 1080), (4032, 3024))


def picture(size: tuple[int, int], quality: int = 85) -> bytes:
    """A JPEG of that size with some detail."""
    buffer = io.BytesIO()
    noise = Image.effect_noise((size[0] // 8, size[1] // 8), 60).convert("RGB")
    noise.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


PHOTOS = [path.read_bytes() for path in sorted(Path(FOLDER).glob("*.JP*G"))[:50]] if FOLDER else [picture((500, 375))]
MIXED = [picture(size) for size in SIZES]


class SingleCamera(HttpUser):
    """One photo a second, as a camera sends them."""

    weight = 6
    wait_time = constant_pacing(1)

    @tag("camera")
    @task
    def snapshot(self) -> None:
        """A raw JPEG body."""
        self.client.post("/predict?top_k=1", data=random.choice(PHOTOS), headers={"Content-Type": "image/jpeg"})


class BurstOfCameras(HttpUser):
    """Motion: ten photos without a pause, then silence."""

    weight = 2
    wait_time = between(5, 15)

    @tag("burst")
    @task
    def motion(self) -> None:
        """Multipart, ten in a row."""
        for _ in range(10):
            self.client.post("/predict", files={"file": ("x.jpg", random.choice(PHOTOS), "image/jpeg")})


class Uploader(HttpUser):
    """Somebody who sorts an album: batches, phones' large photos, and files that are no photos."""

    weight = 2
    wait_time = between(1, 4)

    @tag("batch")
    @task(3)
    def batch(self) -> None:
        """Eight photos in one request."""
        files = [("file", ("x.jpg", random.choice(PHOTOS), "image/jpeg")) for _ in range(8)]
        self.client.post("/predict/batch", files=files)

    @tag("mixed")
    @task(3)
    def mixed_sizes(self) -> None:
        """From a thumbnail to twelve megapixels."""
        self.client.post("/predict", data=random.choice(MIXED), headers={"Content-Type": "image/jpeg"})

    @tag("bad")
    @task(1)
    def bad_image(self) -> None:
        """A truncated file has to be a clear 4xx."""
        body = random.choice(PHOTOS)[:-2000]
        with self.client.post("/predict", data=body, name="/predict (truncated)", catch_response=True) as response:
            if response.status_code == 422:
                response.success()
