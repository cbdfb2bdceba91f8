"""The service's own code without HTTP: what its threads could do, and what one photo costs beside a plain pipeline.

``python -m bench.ceiling MODEL [PHOTOS]`` prints one JSON object; ``decode_ms``, ``resize_ms``, ``infer_ms`` and
``rank_ms`` are the stages of one photo in one thread.
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

from app.inference import classifier as pipeline
from app.inference import imaging
from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.model import Model
from app.runtime.cpus import usable_cpus
from bench import photos


def timed(call):
    """The same function; the seconds of its last call stand in ``last_s``."""

    def with_clock(*arguments, **options):
        started = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            with_clock.last_s = time.perf_counter() - started

    return with_clock


def stages_ms(classifier: Classifier, data: list[bytes]) -> dict[str, float]:
    """Medians of what a photo's stages take in one thread, in milliseconds."""
    load, fit, judge = pipeline.load_parts, imaging._fitted, classifier.model.judge
    taken: dict[str, list[float]] = {"decode": [], "resize": [], "infer": [], "rank": []}
    try:
        pipeline.load_parts, imaging._fitted, classifier.model.judge = map(timed, (load, fit, judge))
        for photo in data * 2:
            result = classifier(photo)
            loaded, fitted, judged = pipeline.load_parts.last_s, imaging._fitted.last_s, classifier.model.judge.last_s
            taken["decode"].append(loaded - fitted)
            taken["resize"].append(fitted)
            taken["infer"].append(judged)
            taken["rank"].append(result.infer_s - judged)
    finally:
        pipeline.load_parts, imaging._fitted = load, fit
        del classifier.model.judge
    return {f"{stage}_ms": statistics.median(values) * 1e3 for stage, values in taken.items()}


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

    stages = stages_ms(classifier, data)

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
    print(json.dumps({"rps": count * len(data) * 4 / seconds} | found | stages))


if __name__ == "__main__":
    main()
