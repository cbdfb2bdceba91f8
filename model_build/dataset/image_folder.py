"""A folder with one sub-folder per class as a training set: find, check, decode and split its pictures."""

import hashlib
import re
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
from model_build.dataset import files, tables
from model_build.dataset.files import Folder, LeftOut
from model_build.dataset.labels import Labels, of_folder
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError

T = TypeVar("T")
Part = Literal["train", "validation", "test"]

#: Fewest pictures of a class: three to learn from, one to choose and calibrate by, one to be judged by.
MIN_PER_CLASS: Final = 5
#: A photo that is wider or higher than this loses more than a quarter of itself to a crop.
WIDE: Final = 4 / 3
#: The label of pictures that show nothing that the model is to know.
REFUSED: Final = -1
#: What a class is called whose pictures are to be refused.
_REFUSED: Final = frozenset({"unknown", "other", "background", "none"})
#: What parts of a divided folder are called, beside words that say nothing ("train_set", "seg_test").
_PARTS: Final[dict[str, Part]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FILLERS: Final = frozenset({"set", "sets", "seg", "split", "data", "dataset", "images", "imgs", "pictures", "photos"})
#: A class's only sub-folder that is called so is no class of its own.
_INNER: Final = frozenset({"images", "image", "imgs", "img", "pictures", "photos", "data"})


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    Attributes:
        path: where it is.
        label: index of its class, or ``REFUSED``.
        digest: SHA-256 of its bytes (hex).
        held_out: whether the folder itself keeps it for testing.
        size: its width and height, upright; None where it cannot be read.
    """

    path: Path
    label: int
    digest: str
    held_out: bool
    size: tuple[int, int] | None


@dataclass(slots=True)
class ImageFolder:
    """The pictures of a folder.

    Attributes:
        root: the folder.
        labels: its classes, by the names of the sub-folders.
        items: its pictures, in the order of their names.
        divided: whether it holds its test pictures apart (``train/`` beside ``val/`` or ``test/``).
        reasons: what is not used, with the reason.
        found: how many picture files there are, used or not.
    """

    root: Path
    labels: Labels
    items: list[Item]
    divided: bool
    reasons: LeftOut = field(default_factory=LeftOut)
    found: int = 0

    @property
    def left_out(self) -> list[str]:
        """What is not used: a line for each reason."""
        return self.reasons.lines()

    def leave_out(self, path: Path, reason: str) -> None:
        """Remembers why a file is not used."""
        self.reasons.add(str(path.relative_to(self.root)), reason)

    @property
    def classes(self) -> NDArray[np.int64]:
        """``int64 [N]``, the class of each item, or ``REFUSED``."""
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


@dataclass(frozen=True, slots=True)
class _Entry:
    """A picture, what it shows (``<group>/<class>`` where there are groups), and its part of a divided folder."""

    path: Path
    name: str
    part: Part


def find(root: Path) -> ImageFolder:
    """Finds the classes and pictures of a folder; nothing is decoded yet.

    The classes are the sub-folders of ``root``. A folder that holds nothing but another one is entered. Where the
    sub-folders are called ``train`` and ``val`` or ``test`` (or like them, see ``part_of``), the classes are those of
    ``train``; the test part's pictures are then held out, or the validation part's where there is no other. Sub-folders
    that all hold the same classes are parts of one whole. A sub-folder without pictures of its own, but with
    sub-folders that have some, is no class but a group of classes (``<group>/<class>/x.jpg``); a class beside groups is
    in a group of its own. Where a table says what the pictures show, see ``tables.read``, folders do not matter.

    A class that is called "unknown", "other", "background" or "none" is none: its pictures are to be refused.

    A picture that is there twice is used once; one that lies in two classes, or in both parts, is not learned from.

    Raises:
        InputError: the folder cannot be read, or has fewer than two classes.
    """
    scanned, reasons = files.scan(root)
    folder = ImageFolder(root, Labels((), ()), [], False, reasons, len(scanned.all_pictures()))
    entries = _entries(folder, scanned)
    learned = {_key(entry.name): entry.name for entry in reversed(entries) if entry.part == "train"}
    names = [name for name in sorted(learned.values()) if not is_refused(name)]
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else _found(scanned)
        raise InputError(
            f"{root} needs one sub-folder with pictures for each of two or more classes; it has {found}. "
            "To tell one thing from everything else, add a folder with pictures of everything else, under a name that "
            f"is none of {', '.join(sorted(_REFUSED))}."
        )
    tested_names = {entry.name for entry in entries if entry.part != "train" and not is_refused(entry.name)}
    if extra := sorted(name for name in tested_names if _key(name) not in learned):
        raise InputError(f"{root} has a part to test with whose classes the other part has not: {', '.join(extra[:5])}")
    folder.labels = _labels(names)
    classes = list(zip(folder.labels.ids, folder.labels.labels, strict=True))
    if same := [name for name, named in zip(names, classes, strict=True) if classes.count(named) > 1]:
        raise InputError(_same_class(root, same))
    tested: Part = "test" if any(entry.part == "test" for entry in entries) else "validation"
    folder.divided = any(entry.part == tested for entry in entries)
    index = {_key(name): label for label, name in enumerate(names)}
    items = []
    for entry in entries:
        try:
            data = entry.path.read_bytes()
        except OSError as error:
            folder.leave_out(entry.path, str(error.strerror))
            continue
        label, digest = index.get(_key(entry.name), REFUSED), hashlib.sha256(data).hexdigest()
        items.append(Item(entry.path, label, digest, entry.part == tested, _size(data)))
    folder.items = _unique(folder, items)
    return folder


def part_of(name: str) -> Part | None:
    """The part of a divided folder that a name stands for: "train", "Training_Set", "seg_test", "valid"; else None."""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word not in _FILLERS | {""}]
    return _PARTS.get(words[0].removesuffix("set")) if len(words) == 1 else None


def is_refused(name: str) -> bool:
    """Whether a class that is called so has the pictures that are to be refused."""
    return any(part.casefold() in _REFUSED for part in name.split("/"))


def _entries(folder: ImageFolder, scanned: Folder) -> list[_Entry]:
    """The pictures whose class is known; the others are left out."""
    of_tables = LeftOut()
    rows = []
    for row in tables.read(scanned, of_tables):
        if len(row.labels) == 1:
            rows.append(row)
        else:
            of_tables.add(
                str(row.path.relative_to(folder.root)), "a table says that it shows several things, or nothing"
            )
    if len({row.labels for row in rows}) > 1 and (2 * len(rows) >= folder.found or not _has_classes(scanned)):
        folder.reasons.names.update(of_tables.names)
        entries = []
        for row in rows:
            places = [row.part, *reversed(row.path.relative_to(folder.root).parts[:-1])]
            parts = [part for place in places if (part := part_of(place))]
            entries.append(_Entry(row.path, row.labels[0].replace("/", " "), parts[0] if parts else "train"))
        if not any(entry.part == "train" for entry in entries):
            entries = [replace(entry, part="train") for entry in entries]
        return sorted(entries, key=lambda entry: entry.path)
    for inner in scanned.everything():
        for table in inner.tables:
            folder.leave_out(table, "a table; the folders say what pictures show")
    return _by_folders(folder, scanned)


def _has_classes(scanned: Folder) -> bool:
    """Whether sub-folders can be classes, at first sight: parts of a divided folder are none."""
    return len([inner for inner in _enter(scanned).filled() if not (inner.pictures and part_of(inner.path.name))]) > 1


def _by_folders(folder: ImageFolder, scanned: Folder) -> list[_Entry]:
    divided = _divide(folder, _enter(scanned))
    # What is a group where it is learned from is one everywhere.
    grouped = {
        _key(group.path.name) for part, top in divided if part == "train" for group in top.filled() if _is_group(group)
    }
    entries: list[_Entry] = []
    loose = [*_enter(scanned).pictures]
    for part, top in divided:
        named: dict[str, list[str]] = {}
        loose += top.pictures
        for child in top.folders:
            classes = [(child.path.name, child)]
            if _key(child.path.name) in grouped:
                loose += child.pictures
                classes = [(f"{child.path.name}/{one.path.name}", one) for one in child.folders]
            for name, class_ in classes:
                named.setdefault(_key(name), []).append(name)
                pictures = class_.all_pictures()
                if not pictures:
                    folder.leave_out(class_.path, "a folder without pictures")
                entries += [_Entry(path, name, part) for path in pictures]
        if same := [name for names in named.values() if len(names) > 1 for name in names]:
            raise InputError(_same_class(top.path, same))
    for path in sorted(set(loose)):
        folder.leave_out(path, "in no class's folder")
    return sorted(entries, key=lambda entry: (_ORDER[entry.part], entry.name, entry.path))


def _same_class(root: Path, names: list[str]) -> str:
    return f"{root} has sub-folders whose names mean the same class: {', '.join(names)}. Rename or join them."


#: What is learned from first.
_ORDER: Final = {"train": 0, "validation": 1, "test": 2}


def _enter(folder: Folder) -> Folder:
    """The folder below it that has classes or parts, where it holds nothing else."""
    while len(filled := folder.filled()) == 1 and filled[0].filled():
        folder = filled[0]
    return folder


def _divide(folder: ImageFolder, top: Folder) -> list[tuple[Part, Folder]]:
    """The parts of a folder, each with its classes' folders: one, if it is not divided."""
    filled = top.filled()
    named = [(part, inner) for inner in filled if (part := part_of(inner.path.name))]
    if {"train"} < {part for part, _ in named}:
        parts: list[tuple[Part, Folder]] = []
        for part, inner in named:
            if (entered := _enter(inner)).filled():
                parts.append((part, entered))
            elif part == "train":
                raise InputError(
                    f"{inner.path} has pictures to learn from, but neither a sub-folder for each class nor a table "
                    "(labels.csv with the columns file and label) that says what they show"
                )
            else:
                folder.leave_out(inner.path, f"{len(inner.pictures)} pictures without classes")
        for inner in filled:
            if not part_of(inner.path.name):
                folder.leave_out(
                    inner.path, f"{len(inner.all_pictures())} pictures beside those to learn from and test"
                )
        return parts
    # Whatever they are called: sub-folders with the same classes are parts of one set.
    insides = [_enter(inner) for inner in filled]
    names = [{_key(class_.path.name) for class_ in inside.filled()} for inside in insides]
    if len(names) > 1:
        common = set.intersection(*names)
        if len(common) > 1 and 2 * len(common) >= len(set.union(*names)):
            return [("train", inside) for inside in insides]
    return [("train", top)]


def _is_group(folder: Folder) -> bool:
    """Whether it has no pictures itself, but sub-folders that are classes."""
    filled = folder.filled()
    inner = len(filled) == 1 and _key(filled[0].path.name) in _INNER | {_key(folder.path.name)}
    return bool(filled) and not folder.pictures and not inner and not is_refused(folder.path.name)


def _found(scanned: Folder) -> str:
    """What is there instead of classes, for a message."""
    folders = _enter(scanned).folders
    if not folders:
        return f"none, but {len(scanned.pictures)} pictures in itself" if scanned.pictures else "none"
    if len(folders) == 1 and not is_refused(folders[0].path.name):
        return f"only {folders[0].path.name!r}"
    return f"none with pictures that are not to be refused, but {', '.join(one.path.name for one in folders[:5])}"


def _key(name: str) -> str:
    """What two names that mean the same class have in common, in whichever part they are."""
    return re.sub(r"[\s_]+", " ", name).strip().casefold()


def _unique(folder: ImageFolder, items: list[Item]) -> list[Item]:
    """Each content once. Held-out pictures stay, their copies among the others go."""
    by_content: dict[str, list[Item]] = {}
    for item in items:
        by_content.setdefault(item.digest, []).append(item)
    kept = []
    for same in by_content.values():
        names = ", ".join(str(item.path.relative_to(folder.root)) for item in same)
        if len({item.label for item in same}) > 1:
            folder.reasons.add(names, "the same picture in different classes")
            continue
        kept.append(next((item for item in same if item.held_out), same[0]))
        if len(same) > 1:
            across = " in both parts; kept for testing" if len({item.held_out for item in same}) > 1 else "; used once"
            folder.reasons.add(names, f"the same picture{across}")
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
    """
    made: list[T] = []
    kept: list[Item] = []
    for item in track(folder.items):
        try:
            pixels = imaging.load(item.path.read_bytes(), resize, DECODE_BUDGET)
        except (RequestError, OSError) as error:
            # Alike for files that differ in nothing but their size.
            folder.leave_out(item.path, re.sub(r"^The \d+ bytes are", "Its bytes are", str(error)))
            continue
        made.append(use(pixels))
        kept.append(item)
    folder.items = kept
    return made


def mostly_wide(folder: ImageFolder) -> bool:
    """Whether most of a folder's pictures that can be read are wider or higher than 4:3."""
    sizes = [item.size for item in folder.items if item.size]
    return 2 * wide(sizes) > len(sizes)


def wide(sizes: Iterable[tuple[int, int]]) -> int:
    """How many of these widths and heights are wider or higher than 4:3."""
    return sum(max(size) > WIDE * min(size) for size in sizes)


def least(folder: ImageFolder) -> int:
    """Fewest pictures of a class to learn from; one less where the folder has others to test with."""
    return MIN_PER_CLASS - 1 if folder.divided else MIN_PER_CLASS


def check_enough(folder: ImageFolder) -> None:
    """Raises InputError if a class of a decoded folder has too few pictures to learn from, or none to test with."""
    counts = Counter(item.label for item in folder.items if not item.held_out)
    fewest = least(folder)
    few = [f"{name} ({counts[i]})" for i, name in enumerate(folder.labels.labels) if counts[i] < fewest]
    if 0 < counts[REFUSED] < fewest:
        few.append(f"what is to be refused ({counts[REFUSED]})")
    if few:
        because = f". Left out: {' | '.join(folder.left_out[:3])}" if folder.left_out else ""
        raise InputError(
            f"{folder.root}: a class needs at least {fewest} different, readable pictures; too few: "
            f"{', '.join(few)}{because}"
        )
    if folder.divided and not any(item.held_out and item.label != REFUSED for item in folder.items):
        raise InputError(f"{folder.root} has no readable picture to test with beside those to learn from")


def split(
    folder: ImageFolder, validation: float, test: float, seed: int, clusters: NDArray[np.int64] | None = None
) -> dict[Part, NDArray[np.int64]]:
    """Divides the pictures, each class by the same shares; those that are to be refused are in no part.

    Args:
        folder: decoded, so that every picture counts.
        validation: share that early stopping, temperature and threshold are chosen by.
        test: share that the report is about, used for nothing else; not taken where the folder is divided itself.
        seed: for the choice.
        clusters: ``int64 [N]``, of near-duplicates, which stay in one part, so that shares may be larger; a class with
            fewer of them than parts is divided by its pictures all the same. None: every picture is one.

    Returns:
        The indices into ``folder.items`` of each part, ascending.
    """
    random = np.random.default_rng(seed)
    parts: dict[Part, list[int]] = {"train": [], "validation": [], "test": []}
    held_out = folder.held_out
    parts["test"] += np.flatnonzero(held_out & (folder.classes != REFUSED)).tolist()
    for label in range(len(folder.labels.labels)):
        indices = random.permutation(np.flatnonzero((folder.classes == label) & ~held_out))
        wanted: dict[Part, int] = {
            "test": 0 if folder.divided else max(1, round(test * len(indices))),
            "validation": max(1, round(validation * len(indices))),
        }
        together: dict[int, list[int]] = {}
        for index in indices.tolist():
            together.setdefault(index if clusters is None else int(clusters[index]), []).append(index)
        if len(together) < len(parts):
            together = {index: [index] for index in indices.tolist()}
        # The smallest first, so that a long burst is learned from.
        pending = sorted(together.values(), key=len)
        for others, (part, count) in zip((2, 1), wanted.items(), strict=True):
            taken = 0
            # The other parts have one each in any case.
            while taken < count and len(pending) > others:
                taken += len(pending[0])
                parts[part] += pending.pop(0)
        parts["train"] += [index for members in pending for index in members]
    return {name: np.array(sorted(indices), np.int64) for name, indices in parts.items()}


def _labels(names: list[str]) -> Labels:
    """What the classes are called, and where there are groups, which one each is in."""
    paths = [Path(name) for name in names]
    labels = of_folder([path.name for path in paths])
    if not any("/" in name for name in names):
        return labels
    groups = of_folder([path.parts[0] for path in paths]).labels
    return replace(labels, groups=groups)


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return imaging.size(data)
    except RequestError:
        return None
