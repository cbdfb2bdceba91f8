"""What several regions of a frame cost, each in a request of its own and all in one: ``python -m bench.regions``.

The frame is a photo as a JPEG of 1920 x 1080; the regions are small, so that it has to be decoded at its full size.
CPU time of the core alone, without HTTP; rounds of both ways take turns.
"""

import io
import statistics
import time

from PIL import Image

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Crop, View
from app.inference.model import Model
from app.registry.source import model_paths
from bench import photos

ROUNDS = 40


def main() -> None:
    """Measures and prints."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photos.read(None)[0])).resize((1920, 1080)).save(buffer, "JPEG", quality=85)
    frame = buffer.getvalue()
    classifier = Classifier(Model(model_paths(None, None)[0]), DecodeBudget(10**8))
    print("regions  a request each, ms of CPU  one request, ms of CPU   (medians of", ROUNDS, "rounds)")
    for count in (1, 4, 16):
        views = [View(Crop(x / 8, y / 8, x / 8 + 0.15, y / 8 + 0.2)) for y in range(4) for x in range(4)][:count]
        each: list[float] = []
        together: list[float] = []
        for _ in range(ROUNDS):
            began = time.process_time()
            for view in views:
                classifier.views(frame, [view], cameras=[None])
            half = time.process_time()
            classifier.views(frame, views, cameras=[None] * count)
            each.append(half - began)
            together.append(time.process_time() - half)
        print(f"{count:7}{statistics.median(each) * 1e3:27.1f}{statistics.median(together) * 1e3:24.1f}")


if __name__ == "__main__":
    main()
