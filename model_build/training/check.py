"""What is wrong with a folder of pictures, before a model learns from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.inference.imaging import Resize
from model_build.dataset import folds, image_folder
from model_build.dataset.image_folder import REFUSED, ImageFolder
from model_build.training import cross_validation, figures
from model_build.training.features import Extractor

#: Mean luma (0 to 255) below which a picture is too dark to learn from, and standard deviation below which it is flat.
DARK: Final = 24.0
FLAT: Final = 6.0
#: Share of a picture's contrast below which its finest details are none: the standard deviation of the Laplacian (the
#: difference to the four neighbours), divided by that of the luma. Of 250 photos of things 1 was below; of the same
#: under a Gaussian blur of 2 pixels of the model's 224, 181; of 3 pixels, 241.
BLURRED: Final = 0.08
#: Two photos show the same where their features' cosine and their thumbnails' correlation are at least this. Copies at
#: 0.8 of the size and half the quality had 0.86 and 0.999; of other photos of the same things the most alike 0.85, and
#: then 0.41.
SAME: Final = (0.8, 0.97)
#: From this correlation on they do whatever their features are, which say little about a dark photo.
_SURELY: Final = 0.995
#: From this one on they do also where a camera never moves.
_COPY: Final = 0.999
#: Side of a thumbnail.
_SIDE: Final = 16
#: Strength of regularisation of the heads that say which labels to doubt; weak enough for fine differences, and strong
#: enough not to learn wrong labels by heart.
_STRENGTH: Final = 1.0
_FOLDS: Final = 5
#: Photos whose cosines with all others are computed at a time.
_ROWS: Final = 512
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like.

    Attributes:
        luma, spread: mean and standard deviation of what the model sees (ITU-R BT.601 luma, 0 to 255).
        sharpness: share of the finest details in its contrast, see ``BLURRED``.
        thumbnail: ``float32 [256]``: that luma at 16 x 16, less its mean, of length 1; zeros for one colour.
    """

    luma: float
    spread: float
    sharpness: float
    thumbnail: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Self:
        """Of what the model sees of a picture, ``uint8 [H, W, 3]``."""
        luma = pixels @ _LUMA
        spread = float(luma.std())
        inner = luma[1:-1, 1:-1]
        details = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * inner
        sharpness = float(details.std()) / max(spread, 1e-6)
        small = np.asarray(Image.fromarray(luma).resize((_SIDE, _SIDE), Image.Resampling.BOX)).ravel()
        small = small - small.mean()
        length = float(np.linalg.norm(small))
        return cls(float(luma.mean()), spread, sharpness, small / length if length > 1 else 0 * small)


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Photos of one class.

    Attributes:
        label: what it is called.
        photos: to learn from.
        different: of these, near-duplicates counting once.
        held_out: that the folder keeps for testing.
        dark, flat: of all, how many are too dark, or nearly of one colour.
    """

    label: str
    photos: int
    different: int
    held_out: int
    dark: int
    flat: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """A photo that looks like another class than its own, to a head that has not learned from it.

    Attributes:
        path: where it is.
        label, score: its class by the folder, and the score of that, 0 to 1.
        likely, likely_score: the best class, and its score.
    """

    path: Path
    label: str
    score: float
    likely: str
    likely_score: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in a folder.

    Attributes:
        classes: by index.
        refused: photos of nothing that the model is to know.
        left_out: what is not used, by reason.
        within: near-duplicates of one class, together.
        across: pairs of photos of different classes that show the same, the most alike first.
        leaks: pairs of a photo to learn from and one to test with that show the same, likewise.
        dark, flat, blurred: photos that are too dark, nearly of one colour, or without fine details.
        wide: how many photos are wider or higher than 4:3.
        sides: the smallest, the median and the largest of the photos' shorter sides, in pixels.
        doubts: the photos whose class by the folder is not the likeliest, the least believed first.
        notes: what ``teach`` and ``train`` do about it, and what a person should do.
    """

    classes: tuple[ClassCounts, ...]
    refused: int
    left_out: Mapping[str, Sequence[str]]
    within: tuple[tuple[Path, ...], ...]
    across: tuple[tuple[Path, Path], ...]
    leaks: tuple[tuple[Path, Path], ...]
    dark: tuple[Path, ...]
    flat: tuple[Path, ...]
    blurred: tuple[Path, ...]
    wide: int
    sides: tuple[int, int, int]
    doubts: tuple[Doubt, ...]
    notes: tuple[str, ...]


def check(root: Path, model: Path, track: Track) -> Findings:
    """Looks at every picture of a folder; copies, moves and deletes nothing.

    Args:
        root: as ``image_folder.find`` takes it.
        model: the model file whose features tell what is alike.
        track: ``track(iterable, description)`` shows progress.

    Raises:
        InputError: the model or the folder cannot be read, or the folder has fewer than two classes.
    """
    extractor = Extractor.load(model)
    folder = image_folder.find(root)
    rows, looks = seen(folder, extractor, extractor.contract.resize, lambda it: track(it, "Looking at the pictures"))
    return findings(folder, rows, looks, track)


def seen(
    folder: ImageFolder, extractor: Extractor, resize: Resize, track: Callable[[Iterable[Any]], Iterable[Any]]
) -> tuple[NDArray[np.float32], list[Look]]:
    """What a network and a person see of a folder's pictures, each decoded once: ``float32 [N, D]`` features, looks."""
    found = image_folder.decode(folder, resize, lambda pixels: (extractor(pixels), Look.of(pixels)), track)
    return np.array([features for features, _ in found], np.float32), [look for _, look in found]


def findings(
    folder: ImageFolder,
    rows: NDArray[np.float32],
    looks: Sequence[Look],
    track: Track,
    doubts: tuple[Doubt, ...] | None = None,
) -> Findings:
    """What the pictures of a folder and their features show.

    Args:
        folder: decoded, so that every item counts.
        rows: ``float32 [N, D]``, the pooled features of its items.
        looks: of its items.
        track: ``track(iterable, description)`` shows progress.
        doubts: where heads that have not learned from the photos have been asked about their labels already.
    """
    paths = [item.path for item in folder.items]
    classes, held_out, labels = folder.classes, folder.held_out, folder.labels.labels
    clusters = folds.clusters_of_classes(rows, classes)
    dark = np.array([look.luma < DARK for look in looks])
    flat = ~dark & np.array([look.spread < FLAT for look in looks])
    blurred = ~dark & ~flat & np.array([look.sharpness < BLURRED for look in looks])
    pairs = _same(rows, np.stack([look.thumbnail for look in looks]), classes, held_out)
    counts = tuple(
        ClassCounts(
            label,
            int((own & ~held_out).sum()),
            len(np.unique(clusters[own & ~held_out])),
            int((own & held_out).sum()),
            int((own & dark).sum()),
            int((own & flat).sum()),
        )
        for label, own in ((label, classes == i) for i, label in enumerate(labels))
    )
    sizes = [item.size for item in folder.items if item.size]
    sides = sorted(map(min, sizes))
    wide = image_folder.wide(sizes)
    firsts, members = np.unique(clusters, return_counts=True)
    learned = (classes != REFUSED) & ~held_out
    if doubts is None:
        doubts = _doubts(folder, rows, clusters, track)
    across = tuple((paths[i], paths[j]) for i, j in pairs if classes[i] != classes[j])
    leaks = tuple(
        (paths[j], paths[i]) if held_out[i] else (paths[i], paths[j])
        for i, j in pairs
        if held_out[i] != held_out[j] and classes[i] == classes[j]
    )
    return Findings(
        classes=counts,
        refused=int((classes == REFUSED).sum()),
        left_out=folder.reasons.names,
        within=tuple(tuple(paths[i] for i in np.flatnonzero(clusters == first)) for first in firsts[members > 1]),
        across=across,
        leaks=leaks,
        dark=tuple(paths[i] for i in np.flatnonzero(dark)),
        flat=tuple(paths[i] for i in np.flatnonzero(flat)),
        blurred=tuple(paths[i] for i in np.flatnonzero(blurred)),
        wide=wide,
        sides=(sides[0], sides[len(sides) // 2], sides[-1]),
        doubts=doubts,
        notes=(
            *_advice(folder, counts, across, leaks, doubts, wide, len(looks)),
            *figures.warnings(labels, classes[learned], clusters[learned]),
        ),
    )


def _advice(
    folder: ImageFolder,
    counts: Sequence[ClassCounts],
    across: Sequence[Any],
    leaks: Sequence[Any],
    doubts: Sequence[Doubt],
    wide: int,
    photos: int,
) -> list[str]:
    found = []
    least = image_folder.least(folder)
    if few := [f"{count.label} ({count.photos})" for count in counts if count.photos < least]:
        found.append(f"{least} different, readable pictures of each class are needed; too few: {', '.join(few)}")
    if doubts:
        found.append(
            f"{len(doubts)} of {photos} pictures look like another class than their own. Look at the first of them: "
            "every label is learned as it is"
        )
    if across:
        found.append(
            f"{len(across)} pairs of pictures in different classes show the same. One of each pair is wrong, or the "
            "classes cannot be told apart by these pictures; both are learned from"
        )
    if leaks:
        found.append(
            f"{len(leaks)} pictures to test with show the same as one to learn from, so that they test nothing; "
            "they are counted all the same"
        )
    for count in counts:
        if 2 * count.dark > count.photos + count.held_out:
            found.append(f"most pictures of {count.label} are too dark: the model would learn darkness, not the thing")
        elif 2 * count.flat > count.photos + count.held_out:
            found.append(f"most pictures of {count.label} are nearly of one colour: there is nothing to learn from")
    if 2 * wide > photos:
        found.append(
            f"{wide} of {photos} pictures are wider or higher than 4:3, of which a crop shows the middle only; "
            "`teach` and `train` try the whole of each picture, distorted, too, and take what is better"
        )
    return found


def _same(
    rows: NDArray[np.float32],
    thumbnails: NDArray[np.float32],
    classes: NDArray[np.int64],
    held_out: NDArray[np.bool_],
) -> list[tuple[int, int]]:
    """Pairs of photos of different classes or parts that show the same, the most alike first; each photo's best one."""
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    best = np.zeros(len(rows))
    other = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        alike = thumbnails[part] @ thumbnails.T
        elsewhere = (classes[part, np.newaxis] != classes) | (held_out[part, np.newaxis] != held_out)
        alike[~elsewhere | ((units[part] @ units.T < SAME[0]) & (alike < _SURELY))] = 0.0
        other[part] = alike.argmax(axis=1)
        best[part] = alike.max(axis=1)
    # Where nearly every photo has its like in another class, one camera sees one scene: only copies say anything.
    least = float(np.clip(np.quantile(best, 0.5), SAME[1], _COPY))
    pairs = {(min(i, other[i]), max(i, other[i])): best[i] for i in np.flatnonzero(best >= least).tolist()}
    return sorted(pairs, key=lambda pair: -pairs[pair])


def _doubts(
    folder: ImageFolder, rows: NDArray[np.float32], clusters: NDArray[np.int64], track: Track
) -> tuple[Doubt, ...]:
    """Out-of-fold scores of every photo of a class, those to test with too: their labels can be wrong as well."""
    classes = folder.classes
    counts = np.bincount(classes[classes != REFUSED], minlength=len(folder.labels.labels))
    # A class that is in one fold only would be unknown to the heads that are asked about it.
    asked = np.flatnonzero((classes != REFUSED) & (counts[classes] > 1))
    kept = np.unique(classes[asked])
    if len(kept) < 2:
        return ()
    own = np.searchsorted(kept, classes[asked])
    fold = folds.deal(own, clusters[asked], _FOLDS, seed=0)
    weights = folds.weights(own, clusters[asked])
    found = cross_validation.out_of_fold(rows[asked], own, clusters[asked], fold, weights, (_STRENGTH,), track)
    labels = [folder.labels.labels[i] for i in kept]
    return doubted(found.scores(), own, labels, [folder.items[i].path for i in asked])


def doubted(
    scores: NDArray[np.float64], classes: NDArray[np.int64], labels: Sequence[str], paths: Sequence[Path]
) -> tuple[Doubt, ...]:
    """The photos whose class is not the likeliest, the least believed first.

    Args:
        scores: ``float64 [N, C]``, out of fold.
        classes: ``int64 [N]``.
        labels: of the C classes.
        paths: of the N photos.
    """
    likely = scores.argmax(axis=1)
    wrong = np.flatnonzero(likely != classes)
    order = wrong[np.argsort(scores[wrong, classes[wrong]] / scores[wrong, likely[wrong]], kind="stable")]
    return tuple(
        Doubt(
            paths[i],
            labels[classes[i]],
            float(scores[i, classes[i]]),
            labels[likely[i]],
            float(scores[i, likely[i]]),
        )
        for i in order
    )
