"""New classes for a model file: a linear head fitted to the features that the file computes, without TensorFlow."""

import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference.contract import Contract, Golden
from app.inference.imaging import Resize
from model_build.dataset import folds, image_folder, intervals
from model_build.dataset.image_folder import REFUSED, ImageFolder
from model_build.errors import InputError
from model_build.export import class_activation_map, graph, publish
from model_build.training import cross_validation, head, linear
from model_build.training.check import Doubt, Findings, Look, doubted, findings, seen
from model_build.training.cross_validation import Choice
from model_build.training.features import Extractor
from model_build.training.figures import Figures
from model_build.training.linear import Linear
from model_build.training.novelty import Novelty, novelty_of_other_classes, novelty_out_of_fold

#: Folds of the cross-validation, up to how many pictures times classes: more are nearer to a head that learns from all
#: pictures, and take longer.
FOLDS: Final = ((10, 20_000), (5, 200_000), (3, math.inf))
#: Strengths of regularisation that the out-of-fold logits choose from; below 0.1 nothing gets better.
STRENGTHS: Final = (10.0, 3.0, 1.0, 0.3, 0.1)
_TOOLS: Final = ("onnx", "onnxruntime", "numpy", "pillow")
#: Lines about pictures that are not used that the contract keeps; it has their number in any case.
_LEFT_OUT_LINES: Final = 20

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What to teach. The fields are the command line's options; see ``python -m model_build teach --help``."""

    model: Path
    folder: Path
    output: Path
    name: str | None
    seed: int
    unknown_share: float
    fit: str


@dataclass(frozen=True, slots=True)
class Taught:
    """The file that was written, from what, what is known about its worth, and how long it took.

    ``warnings`` say what makes the figures worth less than they look, ``findings`` everything that ``check`` says about
    the folder. ``doubts`` are the photos that are wrong in the
    cross-validation that the figures are from; none where a test part of the folder's own is what they are about.
    """

    path: Path
    contract: Contract
    figures: Figures
    warnings: list[str]
    left_out: list[str]
    doubts: tuple[Doubt, ...]
    findings: Findings
    seconds: float


def teach(request: Request, track: Track, say: Callable[[str], None]) -> Taught:
    """Fits a head for the classes of a folder and publishes the model with it.

    Args:
        request: what to do.
        track: ``track(iterable, description)`` shows progress.
        say: prints a line.

    Raises:
        InputError: the model or the folder cannot be used, or the file cannot be written; none was written then.
    """
    started = time.perf_counter()
    extractor = Extractor.load(request.model)
    base, trunk = extractor.contract, extractor.trunk
    name = publish.checked_name(request.name or request.folder.resolve().name)
    if _same_file(publish.path_of(replace(base, name=name), request.output), request.model):
        raise InputError(f"the new model would overwrite {request.model}; give it another --name or --output")

    folder = image_folder.find(request.folder)
    count = len(folder.labels.labels)
    trials = []
    for resize in _geometries(folder, base.resize, request.fit):
        photos, looks = _photos(folder, resize, extractor, track)
        learned = photos.of(~photos.held_out)
        say(f"Fitting a head for {count} classes from {len(learned.classes)} pictures")
        trials.append((resize, photos, looks, *choose(learned, count, request.seed, request.unknown_share, track)))
    resize, photos, looks, choice, unknown_above, figures, scores = min(trials, key=lambda trial: trial[3].loss)
    if len(trials) > 1:
        losses = ", ".join(f"{tried.fit} {tried_choice.loss:.3f}" for tried, _, _, tried_choice, *_ in trials)
        say(f"Most pictures are wide. Out-of-fold loss by what the model sees of them: {losses}. Taken: {resize.fit}")
    learned = photos.of(~photos.held_out)
    found, refusal = fit(learned, choice)
    if folder.divided:
        figures = _tested(found, refusal, unknown_above, photos.of(photos.held_out), count)

    proto = class_activation_map.add(head.attach_head(trunk, found, refusal))
    draft = Contract(
        name=name,
        version=graph.digest(proto)[:12],
        precision=base.precision,
        labels=folder.labels.labels,
        ids=folder.labels.ids,
        resize=resize,
        temperature=choice.temperature,
        unknown_below=0.0,
        golden=Golden(b"", {0: 0.0}, 0.0),
        multiply_adds=graph.multiply_adds(proto),
        parameters=base.parameters - trunk.removed + found.weight.size + found.bias.size,
        provenance={
            "weights": f"{base.name} {base.version}, head taught",
            "base": {"name": base.name, "version": base.version, "provenance": dict(base.provenance)},
            "pictures_sha256": folder.digest,
            "seed": request.seed,
            "tools": {"python": platform.python_version()} | {tool: installed(tool) for tool in _TOOLS},
        },
        measured=figures.as_json(folder.labels.labels)
        | {
            "learned": {"photos": len(learned.classes), "independent": len(np.unique(learned.clusters))},
            "left_out": {"photos": folder.found - len(folder.items), "first": folder.left_out[:_LEFT_OUT_LINES]},
        },
        groups=folder.labels.groups,
        unknown_above=round(unknown_above, 6),
    )
    with tempfile.TemporaryDirectory() as scratch:
        _, contract = publish.with_golden(proto, draft, Path(scratch))
    path = publish.publish(proto, contract, request.output)
    doubts: tuple[Doubt, ...] = ()
    if not folder.divided:
        own = [item.path for item in folder.items if item.label != REFUSED]
        doubts = doubted(scores, learned.classes[learned.known], folder.labels.labels, own)
    looked = findings(folder, photos.features, looks, track, None if folder.divided else doubts)
    warnings = list(looked.notes)
    if alike := int(np.isin(photos.clusters[photos.held_out], learned.clusters).sum()):
        warnings.append(
            f"{alike} of the {photos.held_out.sum()} photos of the folder's own test part are near-duplicates of "
            "photos that are learned from: on photos of other scenes the model may be less often right"
        )
    seconds = time.perf_counter() - started
    return Taught(path, contract, figures, warnings, folder.left_out, doubts, looked, seconds)


@dataclass(frozen=True, slots=True)
class Seen:
    """Photos as a network sees them.

    Attributes:
        features: ``float32 [N, D]``.
        classes: ``int64 [N]``, or ``REFUSED``.
        clusters: ``int64 [N]``, of near-duplicates.
        held_out: ``bool [N]``, which of them the folder keeps for testing.
    """

    features: NDArray[np.float32]
    classes: NDArray[np.int64]
    clusters: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    @property
    def weights(self) -> NDArray[np.float64]:
        """``float64 [N]``, what each counts; see ``folds.weights``."""
        return folds.weights(self.classes, self.clusters)

    @property
    def known(self) -> NDArray[np.bool_]:
        """``bool [N]``, which of them show a class."""
        known: NDArray[np.bool_] = self.classes != REFUSED
        return known

    def of(self, these: NDArray[np.bool_]) -> "Seen":
        """Those for which ``bool [N]`` is true."""
        return Seen(self.features[these], self.classes[these], self.clusters[these], self.held_out[these])


def _geometries(folder: ImageFolder, own: Resize, fit: str) -> list[Resize]:
    """The resize rules to choose from: the base model's, and where most photos are wide, the whole of each."""
    whole = replace(own, fit="squash", crop=1.0)
    if fit == "auto":
        return [own, whole] if own.fit == "crop" and image_folder.mostly_wide(folder) else [own]
    return [own if fit == own.fit else replace(own, fit=fit, crop=own.crop if fit == "crop" else 1.0)]


def _photos(folder: ImageFolder, resize: Resize, extractor: Extractor, track: Track) -> tuple[Seen, list[Look]]:
    features, looks = seen(folder, extractor, resize, lambda it: track(it, "Computing features"))
    image_folder.check_enough(folder)
    clusters = folds.clusters_of_classes(features, folder.classes)
    return Seen(features, folder.classes, clusters, folder.held_out), looks


def _same_file(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def choose(
    photos: Seen, count: int, seed: int, unknown_share: float, track: Track
) -> tuple[Choice, float, Figures, NDArray[np.float64]]:
    """What the head is to be like and above which novelty a photo is unknown, by cross-validation; and its worth.

    Args:
        photos: to learn from.
        count: C, the number of classes.
        seed: of the division into folds.
        unknown_share: of the classes' own photos that may be unknown, 0 to 1.
        track: ``track(iterable, description)`` shows progress.

    Returns:
        Both, the figures, and the scores, ``float64 [N, C]``, out of fold, of the photos that show a class.
    """
    most = next(number for number, size in FOLDS if len(photos.classes) * count <= size)
    fold = folds.deal(photos.classes, photos.clusters, most, seed)
    own, own_fold = photos.of(photos.known), fold[photos.known]
    found = cross_validation.out_of_fold(
        own.features, own.classes, own.clusters, own_fold, own.weights, STRENGTHS, track
    )
    choice = found.choose()
    strength = STRENGTHS[choice.strength]
    novelty = novelty_out_of_fold(photos.features, photos.classes, photos.weights, fold, strength)
    own_novelty = novelty[photos.known]
    threshold = found.threshold(own_novelty, unknown_share)
    if folds.alone(own.classes, own.clusters).all():
        # Near-duplicates of what was learned from are hardly novel, and other photos of their classes all are. As novel
        # as photos of the other classes are, for want of anything better: with one burst of 8 frames a class, 11 % of
        # other photos of these classes were refused then and 56 % of those of nothing known; halfway, 88 and 100 %.
        others = novelty_of_other_classes(own.features, own.classes, own.weights, strength)
        threshold = max(threshold, float(np.median(others)))
    thresholds = np.empty(len(fold))
    for tested in np.unique(fold).tolist():
        thresholds[fold == tested] = found.threshold(own_novelty, unknown_share, but=tested)
    unknown = novelty > thresholds
    scores = found.scores()
    count_of_folds = len(np.unique(fold))
    figures = Figures.of(
        f"{count_of_folds}-fold cross-validation",
        scores.argmax(axis=1),
        unknown[photos.known],
        own.classes,
        own.clusters,
        count,
        intervals.CROSS_VALIDATED,
        intervals.share(unknown[~photos.known], photos.clusters[~photos.known], intervals.CROSS_VALIDATED),
        count_of_folds,
    )
    return choice, threshold, figures, scores


def fit(photos: Seen, choice: Choice) -> tuple[Linear, Novelty]:
    """The head that learns from all photos, divided by its temperature; and what they say about novelty."""
    own, strengths = photos.of(photos.known), STRENGTHS[: choice.strength + 1]
    *_, found = linear.fit(own.features, own.classes, int(own.classes.max()) + 1, strengths, own.weights)
    return found.divided_by(choice.temperature), Novelty.of(
        photos.features, photos.classes, photos.weights, strengths[-1]
    )


def _tested(found: Linear, refusal: Novelty, unknown_above: float, photos: Seen, count: int) -> Figures:
    """What the finished head is worth on the photos that the folder keeps for testing."""
    unknown, known = refusal(photos.features) > unknown_above, photos.known
    return Figures.of(
        "the folder's own test part",
        found(photos.features[known]).argmax(axis=1),
        unknown[known],
        photos.classes[known],
        photos.clusters[known],
        count,
        refused=intervals.share(unknown[~known], photos.clusters[~known]),
    )
