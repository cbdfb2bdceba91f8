"""Whether what ``teach`` states about a new model holds on photos that it has never seen.

    python -m bench.coverage models/mobilenet_v2_1.0_224.int8.onnx photos/          # photos/<class>/x.jpg

Draws classes and photos of a labelled folder again and again, teaches each draw, and counts how often the stated 95 %
interval holds the accuracy on photos that were kept out. Four kinds of folders: six classes of 20 photos; one class of
150 photos, two of 30 and one of 5 (30:1), where the large one is drawn from two classes that count as one; six classes
of 8 bursts of 8 frames each (shifted, cropped to 88 %, lighter or darker, noisy), with a frame each of other scenes
kept out; six classes of 5 photos. The accuracy on the kept-out photos is itself counted on ``KEPT_OUT`` photos a class,
so some intervals miss it by chance. Photos of all other classes say how much is refused that shows none of the taught
ones.

A line is printed for each kind as it is done, and every photo is shown to the network once: with 40 classes, photos of
64 x 64 pixels and 30 rounds it takes about 20 minutes of one processor.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.inference.imaging import Resize, load
from model_build.dataset import files, folds
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError
from model_build.terminal import say
from model_build.training import teach
from model_build.training.features import Extractor

#: Photos of each class that are kept out of a draw, and of other classes that are to be refused.
KEPT_OUT: Final = 30
FOREIGN: Final = 200
#: Photos of each class that the largest draw needs: 150 of two classes together, and those to test with.
NEEDED: Final = (150 + KEPT_OUT) // 2
BURSTS: Final = 8
FRAMES: Final = 8
#: Side of the picture that frames are cut from, and what a frame shows of it.
_SIDE: Final = 256
_FRAME: Final = 0.88
UNKNOWN_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Draw:
    """One folder's photos, as features: to learn from, to test with, and of other things."""

    learned: teach.Seen
    kept: NDArray[np.float32]
    kept_classes: NDArray[np.int64]
    foreign: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was stated for one draw, and what is so."""

    stated: float
    low: float
    high: float
    found: float
    own_refused: float
    foreign_refused: float


class Pool:
    """The photos of a labelled folder by class, seen by a network once each."""

    def __init__(self, root: Path, extractor: Extractor, random: np.random.Generator) -> None:
        self._extractor, self._random = extractor, random
        folder, _ = files.scan(root)
        self.photos = [paths for inner in folder.folders if (paths := inner.all_pictures())]
        self._seen: dict[tuple[Path, int], NDArray[np.float32]] = {}

    def features(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """``float32 [N, D]``."""
        return np.stack([self._of(path, -1) for path in paths])

    def frames(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Of each photo a burst: ``float32 [N * FRAMES, D]``."""
        return np.stack([self._of(path, number) for path in paths for number in range(FRAMES)])

    def single_frames(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Of each photo one frame: ``float32 [N, D]``."""
        return np.stack([self._of(path, 0) for path in paths])

    def _of(self, path: Path, frame: int) -> NDArray[np.float32]:
        if (path, frame) not in self._seen:
            resize = self._extractor.contract.resize
            whole = frame < 0
            pixels = load(path.read_bytes(), resize, DECODE_BUDGET) if whole else self._frame(path, resize)
            self._seen[path, frame] = self._extractor(pixels)
        return self._seen[path, frame]

    def _frame(self, path: Path, resize: Resize) -> NDArray[np.uint8]:
        whole = load(path.read_bytes(), Resize(_SIDE, _SIDE, 1.0, "bilinear"), DECODE_BUDGET)
        side = round(_FRAME * _SIDE)
        y, x = self._random.integers(0, _SIDE - side + 1, 2)
        light, noise = self._random.uniform(0.75, 1.25), self._random.normal(0, 4, (side, side, 3))
        cut = (whole[y : y + side, x : x + side] * light + noise).clip(0, 255).astype(np.uint8)
        return np.asarray(Image.fromarray(cut).resize((resize.width, resize.height), Image.Resampling.BILINEAR))


def draw(
    pool: Pool, counts: Sequence[int], random: np.random.Generator, *, bursts: bool = False, merged: bool = False
) -> Draw:
    """Draws classes at random, so many photos (or bursts) of each to learn from, and others to test with."""
    order = random.permutation(len(pool.photos))
    taught = [[int(index)] for index in order[: len(counts)]]
    if merged:
        taught[0].append(int(order[len(counts)]))
    used = {index for sources in taught for index in sources}
    see: Callable[[Sequence[Path]], NDArray[np.float32]] = pool.frames if bursts else pool.features
    see_kept = pool.single_frames if bursts else pool.features
    learned, kept = [], []
    for sources, count in zip(taught, counts, strict=True):
        shuffled = [random.permutation(len(pool.photos[index])) for index in sources]
        mixed = [
            pool.photos[index][i] for row in zip(*shuffled, strict=False) for index, i in zip(sources, row, strict=True)
        ]
        learned.append(see(mixed[:count]))
        kept.append(see_kept(mixed[count : count + KEPT_OUT]))
    others = [index for index in range(len(pool.photos)) if index not in used]
    foreign = [pool.photos[index][random.integers(len(pool.photos[index]))] for index in random.choice(others, FOREIGN)]
    rows, classes = np.concatenate(learned), np.repeat(np.arange(len(counts)), [len(part) for part in learned])
    nothing = np.zeros(len(rows), bool)
    return Draw(
        teach.Seen(rows, classes, folds.clusters_of_classes(rows, classes), nothing),
        np.concatenate(kept),
        np.repeat(np.arange(len(counts)), [len(part) for part in kept]),
        pool.features(foreign),
    )


def judge(drawn: Draw, seed: int) -> Outcome:
    """Teaches one draw and asks about what was kept out; every class counts the same."""
    count = int(drawn.kept_classes.max()) + 1
    choice, unknown_above, figures, _ = teach.choose(
        drawn.learned, count, seed, UNKNOWN_SHARE, lambda items, _description: items
    )
    head, refusal = teach.fit(drawn.learned, choice)
    right = head(drawn.kept).argmax(axis=1) == drawn.kept_classes
    stated = figures.accuracy
    assert stated is not None
    return Outcome(
        stated.value,
        stated.low,
        stated.high,
        float(np.mean([right[drawn.kept_classes == label].mean() for label in range(count)])),
        float((refusal(drawn.kept) > unknown_above).mean()),
        float((refusal(drawn.foreign) > unknown_above).mean()),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file, whose features heads are taught on")
    parser.add_argument("photos", type=Path, help="a sub-folder with photos for each class; the more, the better")
    parser.add_argument("--rounds", type=int, default=30, help="folders of each kind (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of every choice (default: 0)")
    parser.add_argument("--classes", type=int, default=40, help="classes to draw from, at even distances (default: 40)")
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    pool = Pool(options.photos, Extractor.load(options.model), random)
    chosen = np.linspace(0, len(pool.photos) - 1, min(options.classes, len(pool.photos))).round().astype(int)
    pool.photos = [pool.photos[index] for index in chosen]
    if len(pool.photos) < 12 or min(map(len, pool.photos)) < NEEDED:
        raise InputError(f"{options.photos} needs 12 classes or more of {NEEDED} photos each")
    kinds = {
        "six classes of 20": lambda: draw(pool, [20] * 6, random),
        "four classes of 150, 30, 30 and 5": lambda: draw(pool, [150, 30, 30, 5], random, merged=True),
        "six classes of 8 bursts of 8 frames": lambda: draw(pool, [BURSTS] * 6, random, bursts=True),
        "six classes of 5": lambda: draw(pool, [5] * 6, random),
    }
    print("| folder | stated | on other photos | within the interval | its width | own refused | foreign refused |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for kind, make in kinds.items():
        outcomes: list[Outcome] = []
        for i in range(options.rounds):
            outcomes.append(judge(make(), options.seed + i))
            say(f"{kind}: {i + 1} of {options.rounds} drawn, the interval held {_held(outcomes)} times")
        shares = ("stated", "found", "own_refused", "foreign_refused")
        stated, found, own, foreign = (f"{np.mean([getattr(one, name) for one in outcomes]):.1%}" for name in shares)
        width = np.mean([one.high - one.low for one in outcomes])
        held = f"{_held(outcomes)} of {options.rounds}"
        print(f"| {kind} | {stated} | {found} | {held} | {width:.1%} | {own} | {foreign} |", flush=True)


def _held(outcomes: Sequence[Outcome]) -> int:
    return sum(one.low <= one.found <= one.high for one in outcomes)


if __name__ == "__main__":
    main()
