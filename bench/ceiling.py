"""The service's own code without HTTP: what its threads could do, and what one photo costs beside a plain pipeline.

``python -m bench.ceiling MODEL [PHOTOS]`` prints one JSON object.
"""

import io
import json
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.model import Model
from app.runtime.cpus import usable_cpus
from bench import photos


def main() -> None:
    """Measures and prints."""
    path, *folder = sys.argv[1:]
    data = photos.read(Path(folder[0]) if folder else None)
    count = usable_cpus().count
    narrow = Model(Path(path))
    classifier = Classifier(narrow, DecodeBudget(10**9), Model(Path(path), count) if count > 1 else None)

    def plain(photo: bytes) -> None:
        """What a tutorial does: whole picture to RGB, squashed, normalised in float, then the same session."""
        pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
        scaled = pixels[np.newaxis].astype(np.float32) / 127.5 - 1.0
        assert scaled.dtype == np.float32
        scores = narrow(pixels[np.newaxis])[0]
        np.argsort(scores)[::-1][:5]

    ways = {
        "one": classifier,
        "alone": lambda photo: classifier(photo, exclusive=True),
        "plain": plain,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for photo in data[:5]:
        for way in ways.values():
            way(photo)
    for photo in data * 2:
        for name, way in ways.items():
            started = time.perf_counter()
            way(photo)
            times[name].append(time.perf_counter() - started)

    def worker() -> None:
        for photo in data * 4:
            classifier(photo)

    threads = [threading.Thread(target=worker) for _ in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    found = {f"{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()}
    print(json.dumps({"rps": count * len(data) * 4 / seconds} | found))


if __name__ == "__main__":
    main()
