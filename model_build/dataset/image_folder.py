"""A folder with one sub-folder per class as a training set: find, check, decode and split its pictures."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import RequestError
from app.inference import imaging
from app.inference.imaging import Resize
from model_build.dataset.labels import Labels, of_folder
from model_build.dataset.photos import DECODE_BUDGET, images_in, is_image
from model_build.errors import InputError

T = TypeVar("T")
Part = Literal["train", "validation", "test"]

#: Fewest pictures of a class: three to learn from, one to choose and calibrate by, one to be judged by.
MIN_PER_CLASS: Final = 5
#: Names of sub-folders that divide a folder themselves.
_TRAIN: Final = "train"
_TEST: Final = ("test", "val", "validation")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    Attributes:
        path: where it is.
        label: index of its class.
        digest: SHA-256 of its bytes (hex).
        held_out: whether the folder itself keeps it for testing.
    """

    path: Path
    label: int
    digest: str
    held_out: bool


@dataclass(slots=True)
class ImageFolder:
    """The pictures of a folder.

    Attributes:
        root: the folder.
        labels: its classes, by the names of the sub-folders.
        items: its pictures, in the order of their names.
        divided: whether it holds its test pictures apart (``train/`` beside ``val/`` or ``test/``).
        left_out: what is not used, with the reason: a line a finding, which may name several files.
        found: how many picture files there are, used or not.
    """

    root: Path
    labels: Labels
    items: list[Item]
    divided: bool
    left_out: list[str] = field(default_factory=list)
    found: int = 0

    @property
    def classes(self) -> NDArray[np.int64]:
        """``int64 [N]``, the class of each item."""
        return np.array([item.label for item in self.items], np.int64)

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """``bool [N]``, whether the folder itself keeps each item for testing."""
        return np.array([item.held_out for item in self.items], bool)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all pictures and their classes: the same for the same content."""
        lines = (f"{item.digest} {item.label} {item.held_out}" for item in self.items)
        return hashlib.sha256("\n".join([*self.labels.labels, *lines]).encode()).hexdigest()


def find(root: Path) -> ImageFolder:
    """Finds the classes and pictures of a folder; nothing is decoded yet.

    The classes are the sub-folders of ``root``, or, where it has ``train/`` and one of ``val/``, ``validation/`` and
    ``test/``, those of ``train/``; the other one's pictures are then held out. A sub-folder without pictures of its
    own, but with sub-folders that have some, is no class but a group of classes (``<group>/<class>/x.jpg``); a class
    beside groups is in a group of its own. A picture that is there twice is used once; one that lies in two classes,
    or in both parts, is not learned from.

    Raises:
        InputError: the folder cannot be read, or has fewer than two classes.
    """
    try:
        folders = {path.name: path for path in _folders(root)}
        test = next((folders[name] for name in _TEST if name in folders), None)
        divided = _TRAIN in folders and test is not None
        parts = [(folders[_TRAIN], False), (test, True)] if divided and test else [(root, False)]
        grouped = frozenset(path.name for path in _folders(parts[0][0]) if _is_group(path))
        names = _classes(parts[0][0], grouped)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from error
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise InputError(
            f"{root} needs one sub-folder with pictures for each of two or more classes; it has {found}. "
            "To tell one thing from everything else, add a folder with pictures of everything else."
        )
    folder = ImageFolder(root, _labels(names, grouped), [], divided)
    classes = list(zip(folder.labels.ids, folder.labels.labels, strict=True))
    if same := [name for name, named in zip(names, classes, strict=True) if classes.count(named) > 1]:
        raise InputError(f"{root} has sub-folders whose names mean the same class: {', '.join(same)}")
    items: list[Item] = []
    if divided and test:
        unused = [name for name in _TEST if name in folders and name != test.name]
        folder.left_out += [f"{name}/: not used, {test.name}/ is there to test with" for name in unused]
    for part, held_out in parts:
        if extra := sorted(set(_classes(part, grouped)) - set(names)):
            raise InputError(f"{part} has classes that {parts[0][0]} has not: {', '.join(extra[:5])}")
        outside = {part, *(part / group for group in grouped)}
        loose = [path for path in images_in(part) if path.parent in outside]
        folder.found += len(loose)
        folder.left_out += [f"{path.relative_to(root)}: in no class's folder" for path in loose]
        for label, name in enumerate(names):
            if (part / name).is_dir():
                for path in images_in(part / name):
                    folder.found += 1
                    try:
                        items.append(Item(path, label, _sha256(path), held_out))
                    except OSError as error:
                        folder.left_out.append(f"{path.relative_to(root)}: {error.strerror}")
    folder.items = _unique(folder, items)
    return folder


def _unique(folder: ImageFolder, items: list[Item]) -> list[Item]:
    """Each content once. Held-out pictures stay, their copies among the others go."""
    by_content: dict[str, list[Item]] = {}
    for item in items:
        by_content.setdefault(item.digest, []).append(item)
    kept = []
    for same in by_content.values():
        names = ", ".join(str(item.path.relative_to(folder.root)) for item in same)
        if len({item.label for item in same}) > 1:
            folder.left_out.append(f"{names}: the same picture in different classes")
            continue
        kept.append(next((item for item in same if item.held_out), same[0]))
        if len(same) > 1:
            across = " in both parts; kept for testing" if len({item.held_out for item in same}) > 1 else "; used once"
            folder.left_out.append(f"{names}: the same picture{across}")
    position = {item.path: i for i, item in enumerate(items)}
    return sorted(kept, key=lambda item: position[item.path])


def decode(
    folder: ImageFolder,
    resize: Resize,
    use: Callable[[NDArray[np.uint8]], T],
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[T]:
    """Decodes every picture and hands it to ``use``; unreadable ones leave the folder, named in ``left_out``.

    Args:
        folder: what ``find`` found.
        resize: the geometry.
        use: takes ``uint8 [resize.height, resize.width, 3]``.
        track: wraps the iteration, to show progress.

    Returns:
        What ``use`` returned, by item.

    Raises:
        InputError: a class has too few readable pictures.
    """
    made: list[T] = []
    kept: list[Item] = []
    for item in track(folder.items):
        try:
            pixels = imaging.load(item.path.read_bytes(), resize, DECODE_BUDGET)
        except (RequestError, OSError) as error:
            folder.left_out.append(f"{item.path.relative_to(folder.root)}: {error}")
            continue
        made.append(use(pixels))
        kept.append(item)
    folder.items = kept
    counts = Counter(item.label for item in kept if not item.held_out)
    least = MIN_PER_CLASS - 1 if folder.divided else MIN_PER_CLASS
    few = [f"{name} ({counts[i]})" for i, name in enumerate(folder.labels.labels) if counts[i] < least]
    if few:
        raise InputError(
            f"{folder.root}: a class needs at least {least} different, readable pictures; too few: {', '.join(few)}"
        )
    if folder.divided and not any(item.held_out for item in kept):
        raise InputError(f"{folder.root} has no readable picture to test with beside {_TRAIN}/")
    return made


def split(folder: ImageFolder, validation: float, test: float, seed: int) -> dict[Part, NDArray[np.int64]]:
    """Divides the pictures, each class by the same shares.

    Args:
        folder: decoded, so that every picture counts.
        validation: share that early stopping, temperature and threshold are chosen by.
        test: share that the report is about, used for nothing else; not taken where the folder is divided itself.
        seed: for the choice.

    Returns:
        The indices into ``folder.items`` of each part, ascending.
    """
    random = np.random.default_rng(seed)
    parts: dict[Part, list[int]] = {"train": [], "validation": [], "test": []}
    held_out = folder.held_out
    parts["test"] += np.flatnonzero(held_out).tolist()
    for label in range(len(folder.labels.labels)):
        indices = random.permutation(np.flatnonzero((folder.classes == label) & ~held_out))
        tested = 0 if folder.divided else max(1, round(test * len(indices)))
        chosen = max(1, round(validation * len(indices)))
        parts["test"] += indices[:tested].tolist()
        parts["validation"] += indices[tested : tested + chosen].tolist()
        parts["train"] += indices[tested + chosen :].tolist()
    return {name: np.array(sorted(indices), np.int64) for name, indices in parts.items()}


def _folders(root: Path) -> list[Path]:
    """The sub-folders, by name, without hidden ones (thumbnails, checkpoints)."""
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_group(folder: Path) -> bool:
    """Whether it has no pictures itself, but sub-folders that have some."""
    return not any(is_image(path) for path in folder.iterdir()) and any(images_in(path) for path in _folders(folder))


def _classes(part: Path, grouped: frozenset[str]) -> list[str]:
    """The folders of the classes, relative to ``part``, by name."""
    return [
        name
        for folder in _folders(part)
        for name in (
            [f"{folder.name}/{inner.name}" for inner in _folders(folder)] if folder.name in grouped else [folder.name]
        )
    ]


def _labels(names: list[str], grouped: frozenset[str]) -> Labels:
    """What the classes are called, and where there are groups, which one each is in."""
    paths = [Path(name) for name in names]
    labels = of_folder([path.name for path in paths])
    if not grouped:
        return labels
    groups = of_folder([path.parts[0] for path in paths]).labels
    return replace(labels, groups=groups)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
