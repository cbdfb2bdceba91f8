"""Other libraries that decode and resize, beside what the service does: ``python -m bench.decoders``.

It needs ``pip install simplejpeg==1.9.0 kornia-rs==0.2.0 pyvips==3.2.0 pyvips-binary==8.18.7``. Each photo goes through
all ways in turn; printed are the ratios of the medians to the service's time, and in brackets by how much a level (0 to
255) differs from the service's on average.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from bench import photos

_RESIZE = Resize(224, 224, 0.875, "bilinear")
_BUDGET = DecodeBudget(10**9)
Pixels = NDArray[np.uint8]


def _fitted(pixels: Pixels) -> Pixels:
    picture = Image.fromarray(pixels)
    box = _RESIZE.box(*picture.size)
    return np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR, box))


def ways() -> dict[str, Callable[[bytes], Pixels]]:
    """By name, what makes the model's input of a photo."""
    import kornia_rs
    import pyvips
    import simplejpeg

    def decoded(photo: bytes, *, eighths: bool = False) -> Pixels:
        height, width, *_ = simplejpeg.decode_jpeg_header(photo)
        shrink = max(1.0, min(height, width) * _RESIZE.crop / 224)
        if not eighths:
            shrink = next(scale for scale in (8, 4, 2, 1) if scale <= shrink)
        least = {"min_height": math.ceil(height / shrink), "min_width": math.ceil(width / shrink)}
        found: Pixels = simplejpeg.decode_jpeg(photo, strict=True, **least)
        return found

    def box_of(width: int, height: int) -> list[int]:
        return [round(edge) for edge in _RESIZE.box(width, height)]

    def kornia(photo: bytes) -> Pixels:
        pixels = decoded(photo)
        left, upper, right, lower = box_of(pixels.shape[1], pixels.shape[0])
        part = np.ascontiguousarray(pixels[upper:lower, left:right])
        resized: Pixels = kornia_rs.imgproc.resize(part, (224, 224), "bilinear", antialias=True)
        return resized

    def vips(photo: bytes) -> Pixels:
        height, width, *_ = simplejpeg.decode_jpeg_header(photo)
        shrink = next(s for s in (8, 4, 2, 1) if s <= max(1.0, min(height, width) * _RESIZE.crop / 224))
        picture: Any = pyvips.Image.new_from_buffer(photo, "", shrink=shrink, access="sequential")
        left, upper, right, lower = box_of(picture.width, picture.height)
        part = picture.crop(left, upper, right - left, lower - upper)
        resized: Pixels = part.resize(224 / (right - left), vscale=224 / (lower - upper), kernel="linear").numpy()
        return resized

    return {
        "the service": lambda photo: load(photo, _RESIZE, _BUDGET),
        "simplejpeg, then Pillow": lambda photo: _fitted(decoded(photo)),
        "simplejpeg at any eighth, then Pillow": lambda photo: _fitted(decoded(photo, eighths=True)),
        "simplejpeg, then kornia-rs": kornia,
        "pyvips": vips,
    }


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sizes = {"as given": photos.read(options.photos)}
    sizes |= {size.name: photos.large(options.photos, size) * 4 for size in photos.LARGE}
    print(f"| way | {' | '.join(sizes)} |")
    made = ways()
    rows: dict[str, list[str]] = {}
    for data in sizes.values():
        times: dict[str, list[float]] = {}
        differences: dict[str, list[float]] = {}
        for photo in data * options.rounds:
            ours = load(photo, _RESIZE, _BUDGET).astype(int)
            for name, way in made.items():
                started = time.perf_counter()
                pixels = way(photo)
                times.setdefault(name, []).append(time.perf_counter() - started)
                differences.setdefault(name, []).append(float(np.abs(pixels - ours).mean()))
        reference = statistics.median(times["the service"])
        for name, taken in times.items():
            cell = f"{statistics.median(taken) / reference:.2f} ({statistics.mean(differences[name]):.1f})"
            rows.setdefault(name, []).append(cell)
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
