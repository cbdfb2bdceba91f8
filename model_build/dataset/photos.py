"""Photos to calibrate and to measure with, from a folder, or generated pictures where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import RequestError
from app.inference import imaging
from app.inference.decode_budget import DecodeBudget
from app.inference.formats import SUFFIXES
from app.inference.imaging import Resize
from model_build.dataset import files
from model_build.dataset.labels import Labels, of_folder
from model_build.errors import InputError

#: The builder reads files that its owner chose; the limit is there for decompression bombs among them.
DECODE_BUDGET: Final = DecodeBudget(200_000_000)


@dataclass(frozen=True)
class Photos:
    """Decoded pictures.

    Attributes:
        pixels: ``uint8 [N, H, W, 3]``, as the service would decode them.
        classes: ``int64 [N]``, the class that a file's name or folder says; -1 where it says none.
        skipped: files that could not be decoded, with the reason.
        generated: whether these are generated, not photographed.
        paths: the files, in the same order; none where they are in none.
    """

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    skipped: tuple[str, ...] = ()
    generated: bool = False
    paths: tuple[Path, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether every picture has a class."""
        return bool(len(self.classes)) and bool((self.classes >= 0).all())

    def select(self, indices: NDArray[np.int64]) -> "Photos":
        """Some of these pictures, in the order of their indices."""
        paths = tuple(self.paths[i] for i in indices) if self.paths else ()
        return Photos(self.pixels[indices], self.classes[indices], generated=self.generated, paths=paths)

    def for_calibration(self, most: int) -> NDArray[np.uint8]:
        """At most ``most`` pictures, taken at even distances; with their mirror images if there are few."""
        chosen = np.linspace(0, len(self.pixels) - 1, min(most, len(self.pixels))).round().astype(int)
        pixels = self.pixels[chosen]
        return np.concatenate([pixels, pixels[:, :, ::-1]]) if 2 * len(pixels) <= most else pixels


def images_in(folder: Path) -> list[Path]:
    """The pictures in a folder and its sub-folders, by name, as ``files.scan`` finds them.

    Raises:
        InputError: the folder cannot be read.
    """
    found, _ = files.scan(folder)
    return found.all_pictures()


def read(folder: Path, resize: Resize, labels: Labels, track: Any = iter) -> Photos:
    """Decodes every image in a folder and its sub-folders, in the order of their names.

    Classes are read off folders' and files' names, see ``class_of``.

    Args:
        folder: where to look.
        resize: the model's resize rule.
        labels: to turn names into classes.
        track: wraps the iteration, to show progress.

    Raises:
        InputError: the folder cannot be read, or has no readable image.
    """
    files = images_in(folder)
    if not files:
        raise InputError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
    pixels, classes, skipped, paths = [], [], [], []
    for path in track(files):
        try:
            pixels.append(imaging.load(path.read_bytes(), resize, DECODE_BUDGET))
        except (RequestError, OSError) as error:
            skipped.append(f"{path.name}: {error}")
            continue
        classes.append(class_of(path, folder, labels))
        paths.append(path)
    if not pixels:
        raise InputError(f"none of the {len(files)} images in {folder} can be decoded: {skipped[0]}")
    return Photos(np.stack(pixels), np.array(classes, np.int64), tuple(skipped), paths=tuple(paths))


def decode(paths: Sequence[Path], resize: Resize, track: Any = iter) -> NDArray[np.uint8]:
    """Decodes photos that ``read`` has found to be readable, by another rule: ``uint8 [N, H, W, 3]``.

    Raises:
        InputError: one has become unreadable since.
    """
    pixels = np.empty((len(paths), resize.height, resize.width, 3), np.uint8)
    for i, path in enumerate(track(paths)):
        try:
            pixels[i] = imaging.load(path.read_bytes(), resize, DECODE_BUDGET)
        except (RequestError, OSError) as error:
            raise InputError(f"{path} can no longer be read: {error}") from error
    return pixels


def generated(count: int, resize: Resize) -> Photos:
    """Generated pictures, the same on every run: soft coloured patches with sharp shapes on them."""
    pixels = np.stack([np.asarray(picture(seed, resize.width, resize.height)) for seed in range(count)])
    return Photos(pixels, np.full(count, -1, np.int64), generated=True)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """One generated RGB picture: upsampled noise at three scales, and ellipses and bars over it."""
    random = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3))
    for cells, weight in ((3, 0.6), (9, 0.3), (40, 0.2)):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8).astype(np.uint8))
        canvas += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    rows, columns = np.mgrid[0:height, 0:width]
    for _ in range(int(random.integers(1, 6))):
        y, x, ry, rx = random.uniform(0.1, 0.9, 4) * (height, width, height / 2, width / 2)
        inside = ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1
        if random.random() < 0.5:
            inside &= (rows // max(2, height // 24)) % 2 == 0
        canvas[inside] = random.uniform(0, 255, 3)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def class_of(path: Path, folder: Path, labels: Labels) -> int:
    """The class that a file's folder (``<label>/x.jpg``) or name (``<id>_<label>.jpg``) says, else -1."""
    names: list[str] = []
    if path.parent != folder:
        parent = of_folder([path.parent.name])
        names = [parent.ids[0] or path.parent.name, path.parent.name, parent.labels[0]]
    names += [path.stem.split("_", 1)[0], path.stem.replace("_", " ")]
    return next((index for name in names if (index := labels.index_of(name)) is not None), -1)
