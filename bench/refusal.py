"""What ``teach`` refuses: classes are drawn from a folder of things, and the others are what is foreign.

    python -m bench.refusal app/registry/bundled/mobilenet_v2_1.0_224.int8.onnx things/

``things/<thing>/x.jpg``. Of each draw some things are classes, with some of their photos to learn from; what is learned
and chosen is ``teach``'s own. Judged are other photos of these classes (without near-duplicates of what was learned)
and photos of all other things; of the photos of one draw none has chosen anything. Intervals are of the draws' means
(Student's t), which are of the same photos and so not quite independent.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import ModelError
from bench.novelty import auroc
from model_build.dataset import folds, photos
from model_build.dataset.image_folder import REFUSED
from model_build.dataset.labels import Labels
from model_build.errors import InputError
from model_build.terminal import fraction, positive, print_table, track
from model_build.training.features import Extractor
from model_build.training.teach import Seen, choose, fit

#: Photos of one foreign thing at most, so that none outweighs the others.
_OF_A_THING: Final = 50
#: Student's t for 95 % with 29 degrees of freedom; 2 % too narrow for 15 draws.
_T: Final = 2.05


@dataclass(frozen=True, slots=True)
class Drawing:
    """How classes are drawn.

    Attributes:
        classes: how many things are classes.
        learned: photos of each to learn from.
        shown: how many other things lie in a folder of what is to be refused.
        shown_photos: photos of each of these.
        share: of the own photos that may be refused.
    """

    classes: int
    learned: int
    shown: int
    shown_photos: int
    share: float


def draw(features: NDArray[np.float32], things: NDArray[np.int64], how: Drawing, seed: int) -> list[float]:
    """One draw: the shares refused of own photos, of things not shown and (where any are) of those shown; the AUROC.

    Args:
        features: ``[N, D]``.
        things: ``int64 [N]``, what each photo shows.
        how: it is done.
        seed: of the draw.

    Raises:
        InputError: no photo is left to test with.
    """
    random = np.random.default_rng(seed)
    drawn = random.choice(np.unique(things), how.classes + how.shown, replace=False)
    clusters = folds.clusters_of_classes(features, things)
    learned, tested = [], []
    for place, thing in enumerate(drawn):
        # Clusters of near-duplicates one after the other: at most one is divided, and its rest is not tested with.
        names = random.permutation(np.unique(clusters[things == thing]))
        own = np.concatenate([np.flatnonzero(clusters == name) for name in names])
        learned.append(own[: how.learned if place < how.classes else how.shown_photos])
        rest = own[len(learned[-1]) :]
        tested.append(rest[~np.isin(clusters[rest], clusters[learned[-1]])])
    others = [
        random.permutation(np.flatnonzero(things == thing))[:_OF_A_THING]
        for thing in np.setdiff1d(np.unique(things), drawn)
    ]
    rows, classes = np.concatenate(learned), np.sort(drawn[: how.classes])
    labels = np.where(np.isin(things[rows], classes), np.searchsorted(classes, things[rows]), REFUSED)
    near = folds.clusters_of_classes(features[rows], things[rows])
    seen = Seen(features[rows], labels, near, np.zeros(len(rows), np.bool_))
    choice, threshold, _, _ = choose(seen, how.classes, seed, how.share, lambda it, _: it)
    _, refusal = fit(seen, choice)
    judged = [tested[: how.classes], others, *([tested[how.classes :]] if how.shown else [])]
    if not all(sum(map(len, groups)) for groups in judged):
        raise InputError("all photos of what was drawn are near-duplicates of those that were learned from")
    found = [refusal(features[np.concatenate(groups)]) for groups in judged]
    return [*(float((novelty > threshold).mean()) for novelty in found), auroc(found[0], found[1])]


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a table; ends with 2 where the model or the folder cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file of ours")
    parser.add_argument("things", type=Path, metavar="DIR", help="<thing>/x.jpg")
    parser.add_argument("--classes", type=positive, default=6, metavar="N", help="things that are classes (default: 6)")
    parser.add_argument("--learn", type=positive, default=20, metavar="N", help="photos of each (default: 20)")
    parser.add_argument(
        "--shown", type=positive, default=0, metavar="N", help="things that are shown to be refused (default: 0)"
    )
    parser.add_argument("--shown-photos", type=positive, default=10, metavar="N", help="of each of them (default: 10)")
    parser.add_argument("--draws", type=positive, default=30, metavar="N", help="default: 30")
    parser.add_argument("--unknown-share", type=fraction, default=0.05, metavar="SHARE", help="default: 0.05")
    options = parser.parse_args(arguments)
    try:
        extractor = Extractor.load(options.model)
        folders = sorted(folder for folder in options.things.iterdir() if folder.is_dir())
        pixels = [photos.read(folder, extractor.contract.resize, Labels((), ())).pixels for folder in folders]
    except (ModelError, InputError, OSError) as error:
        parser.error(str(error))
    drawn = options.classes + options.shown
    most = max(options.learn, options.shown_photos if options.shown else 0)
    if len(folders) <= drawn or min(len(of) for of in pixels) <= most:
        parser.error(f"more than {drawn} things with more than {most} photos each are needed")
    features = np.stack([extractor(photo) for photo in track(np.concatenate(pixels), "Computing features")])
    things = np.repeat(np.arange(len(folders)), [len(of) for of in pixels])
    how = Drawing(options.classes, options.learn, options.shown, options.shown_photos, options.unknown_share)
    try:
        found = [draw(features, things, how, seed) for seed in track(range(options.draws), "Drawing")]
    except InputError as error:
        parser.error(str(error))
    title = f"{extractor.contract.name} {extractor.contract.version}, {options.draws} draws of {options.classes} of "
    title += f"{len(folders)} things, {options.learn} photos each"
    rows = [[_interval(column) for column in zip(*found, strict=True)]]
    shown = [f"of {options.shown} kinds shown refused"] if options.shown else []
    print_table(title, ["own refused", "foreign refused", *shown, "AUROC"], rows)


def _interval(values: tuple[float, ...]) -> str:
    mean, half = np.mean(values), _T * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


if __name__ == "__main__":
    main()
