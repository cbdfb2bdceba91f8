"""What remembering a camera's last frame is worth, and what it gets wrong: ``python -m bench.frames [PHOTOS]``.

From each photo a camera's frames are made: the same scene with other sensor noise and JPEG compression (quiet), and the
same with a thing in it: another photo at a 64th of the model's input's area, anywhere (visited). Quiet frames should be
cached with the class that computing them gives, visited ones computed.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.frame_cache import CameraCache
from app.inference.model import Model
from app.registry.source import model_paths
from app.settings import Settings
from bench import photos

#: Standard deviation of a pixel's noise in levels; what a cheap camera has in daylight.
NOISE = 4.0
SIZE = 480


def frame(scene: NDArray[np.uint8], random: np.random.Generator) -> bytes:
    """A JPEG of the scene as a camera sees it this time."""
    noisy = np.clip(scene + random.normal(0, NOISE, scene.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=int(random.integers(75, 95)))
    return buffer.getvalue()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, default=model_paths(None, None)[0])
    options = parser.parse_args()
    classifier, random = Classifier(Model(options.model), DecodeBudget(10**9)), np.random.default_rng(0)
    defaults = Settings.model_fields
    scenes = [
        np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((SIZE, SIZE)))
        for photo in photos.read(options.photos)
    ]
    quiet = agreed = visited = missed = 0
    computing: list[float] = []
    recalling: list[float] = []
    for number, scene in enumerate(scenes):
        camera = CameraCache(60, defaults["cache_difference"].default)
        classifier(frame(scene, random), camera=camera)
        for _ in range(4):
            data = frame(scene, random)
            started = time.perf_counter()
            computed = classifier(data)
            middle = time.perf_counter()
            cached = classifier(data, camera=camera)
            if cached.cached:
                computing.append(middle - started)
                recalling.append(time.perf_counter() - middle)
                quiet += 1
                agreed += cached.predictions[0].index == computed.predictions[0].index
        # The model sees the middle 0.875 of the scene.
        side, margin = int(SIZE * 0.875 / 8), SIZE // 16
        left, upper = random.integers(margin, SIZE - margin - side, 2)
        thing = scene.copy()
        other = Image.fromarray(scenes[number - 1]).resize((side, side))
        thing[upper : upper + side, left : left + side] = np.asarray(other)
        visited += 1
        missed += classifier(frame(thing, random), camera=camera).cached
    print(f"quiet frames that were cached: {quiet} of {4 * len(scenes)}; the class that computing gives: {agreed}")
    print(f"visited frames that were cached nevertheless: {missed} of {visited}")
    print(
        f"time of a cached frame / of a computed one: {statistics.median(recalling) / statistics.median(computing):.2f}"
    )


if __name__ == "__main__":
    main()
