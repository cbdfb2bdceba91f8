"""How good a model with independent scores is, on photos of which all labels are known.

Of one label a photo, see ``evaluate``; there a photo's best class is right or wrong, here each of its classes is.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_build.dataset import files, tables
from model_build.dataset.files import LeftOut
from model_build.dataset.intervals import wilson
from model_build.errors import InputError
from model_build.evaluation.evaluate import ask, latency_figures, latency_ms
from model_build.evaluation.targets import Answer, Target

#: Samples of the photos, with replacement, that the interval of the mean average precision comes from.
_SAMPLES: Final = 200


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How well one class is found.

    Attributes:
        label: what it is called.
        photos: how many show it.
        average_precision: see ``average_precision``; None where no photo shows it.
        precision: share of the photos said to show it that do; None where none are.
        recall: share of the photos that show it that are said to; None where none do.
        f1: the harmonic mean of both; None where no photo shows it.
    """

    label: str
    photos: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabel:
    """What one model says about ``N`` photos of which all labels are known.

    Attributes:
        name: which model, and where.
        labels: what the ``C`` classes are called, by index.
        files: the photos, relative to their folder, by name.
        truth: ``bool [N, C]``, what they show.
        scores: ``float64 [N, C]``, independent of each other.
        threshold: from this score on a photo is said to show a class.
        answers: ``N`` of them.
        left_out: photos that were not asked about or not answered, and labels that the model has not.
    """

    name: str
    labels: tuple[str, ...]
    files: tuple[str, ...]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    threshold: float
    answers: tuple[Answer, ...]
    left_out: tuple[str, ...]

    @property
    def said(self) -> NDArray[np.bool_]:
        """``bool [N, C]``, what the photos are said to show."""
        # In single precision, as the service compares them.
        said: NDArray[np.bool_] = self.scores.astype(np.float32) >= np.float32(self.threshold)
        return said

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes that a photo shows, each counting the same."""
        return _mean_average_precision(self.truth, self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, by the percentiles of samples of the photos (Efron 1979, the bootstrap)."""
        random, count = np.random.default_rng(0), len(self.files)
        found = []
        for _ in range(_SAMPLES):
            chosen = random.integers(0, count, count)
            if self.truth[chosen].any():
                found.append(_mean_average_precision(self.truth[chosen], self.scores[chosen]))
        low, high = np.quantile(found, (0.025, 0.975))
        return float(low), float(high)

    @property
    def exact(self) -> NDArray[np.bool_]:
        """``bool [N]``, on which photos all labels are right, and no other is said."""
        exact: NDArray[np.bool_] = (self.said == self.truth).all(axis=1)
        return exact

    def per_class(self) -> list[LabelFigures]:
        """By index."""
        said = self.said
        shown, claimed, right = self.truth.sum(axis=0), said.sum(axis=0), (said & self.truth).sum(axis=0)
        return [
            LabelFigures(
                label,
                int(shown[i]),
                average_precision(self.truth[:, i], self.scores[:, i]) if shown[i] else None,
                float(right[i] / claimed[i]) if claimed[i] else None,
                float(right[i] / shown[i]) if shown[i] else None,
                float(2 * right[i] / (shown[i] + claimed[i])) if shown[i] else None,
            )
            for i, label in enumerate(self.labels)
        ]

    @property
    def f1(self) -> tuple[float, float]:
        """The mean of the classes' F1, those counting that a photo shows; and that of all labels of all photos."""
        said = self.said
        each = [row.f1 for row in self.per_class() if row.f1 is not None]
        return float(np.mean(each)), float(2 * (said & self.truth).sum() / (said.sum() + self.truth.sum()))

    def figures(self) -> dict[str, str]:
        """The figures that fit on a line each, as a person reads them."""
        (low, high), (mean, micro) = self.interval, self.f1
        least, most = wilson(int(self.exact.sum()), len(self.files))
        nothing = ~self.truth.any(axis=1)
        unknown = np.array([answer.unknown for answer in self.answers])
        return {
            "photos": str(len(self.files)),
            "mean average precision (95 %, bootstrap)": (
                f"{self.mean_average_precision:.1%} ({low:.1%} to {high:.1%}), "
                f"{int(self.truth.any(axis=0).sum())} of {len(self.labels)} classes"
            ),
            "F1, mean of the classes": f"{mean:.1%}",
            "F1, every label counting the same": f"{micro:.1%}",
            "all labels right (95 %, Wilson)": f"{self.exact.mean():.1%} ({least:.1%} to {most:.1%})",
            "threshold": f"{self.threshold:g}",
            "classified as unknown": f"{unknown[~nothing].mean():.1%}"
            + (f", {unknown[nothing].mean():.1%} of {nothing.sum()} that show none" if nothing.any() else ""),
            "left out": str(len(self.left_out)),
            **latency_figures(self.answers),
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        mean, micro = self.f1
        exact = int(self.exact.sum())
        rows = zip(self.files, self.truth, self.said, self.answers, strict=True)
        return {
            "model": self.name,
            "labels": list(self.labels),
            "multi_label": True,
            "threshold": self.threshold,
            "photos": len(self.files),
            "mean_average_precision": self.mean_average_precision,
            "mean_average_precision_interval": list(self.interval),
            "f1_mean": mean,
            "f1_of_all_labels": micro,
            "exact": exact / len(self.files),
            "exact_interval": list(wilson(exact, len(self.files))),
            "per_class": [asdict(row) for row in self.per_class()],
            "left_out": list(self.left_out),
            "latency_ms": latency_ms(self.answers),
            "answers": [
                {"file": file, "shows": self.names(shows), "said": self.names(said), "unknown": answer.unknown}
                for file, shows, said, answer in rows
            ],
        }

    def names(self, shown: NDArray[np.bool_]) -> list[str]:
        """The labels of ``bool [C]``."""
        return [self.labels[i] for i in np.flatnonzero(shown)]


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """The mean of the precisions at each photo that shows the class, best scores first; equal scores come together.

    It is the area under the steps of precision over recall (Manning, Raghavan and Schütze 2008, "Introduction to
    Information Retrieval", section 8.4).

    Args:
        truth: ``bool [N]``, at least one True.
        scores: ``[N]``.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return float((np.diff(hits[ends], prepend=0) * hits[ends] / (ends + 1)).sum() / hits[-1])


def _mean_average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    shown = np.flatnonzero(truth.any(axis=0))
    return float(np.mean([average_precision(truth[:, i], scores[:, i]) for i in shown]))


def measure(target: Target, folder: Path, track: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> MultiLabel:
    """Asks about every photo that a table in the folder names, in the order of their names.

    Args:
        target: what answers; its scores are independent.
        folder: photos, and a table that says all that each of them shows, see ``tables.read``.
        track: wraps the iteration, to show progress.

    Raises:
        InputError: the folder cannot be read, or no photo in it is said to show a class that the model has.
    """
    threshold = target.threshold
    if threshold is None:
        raise ValueError(f"the scores of {target.name} are not independent")
    scanned, _ = files.scan(folder)
    reasons = LeftOut()
    rows = {row.path: row.labels for row in tables.read(scanned, reasons)}
    if not rows:
        raise InputError(
            f"{target.name} names several labels for a photo. Say in {folder / 'labels.csv'} all that each photo "
            "shows: columns file and label, several rows for a photo or cat|dog in one, an empty label where it shows "
            "none"
        )
    answered, skipped = ask(target, sorted(rows), folder, track)
    truth = np.zeros((len(answered), len(target.labels.labels)), np.bool_)
    for i, (path, _) in enumerate(answered):
        for label in rows[path]:
            index = target.labels.index_of(label)
            if index is None:
                reasons.add(label, "a label that the model has not")
            else:
                truth[i, index] = True
    if not truth.any():
        raise InputError(
            f"no photo in {folder} is said to show a class of {target.name}; the first classes are "
            f"{', '.join(target.labels.labels[:5])}"
        )
    reasons.names = {reason: list(dict.fromkeys(names)) for reason, names in reasons.names.items()}
    return MultiLabel(
        target.name,
        target.labels.labels,
        tuple(str(path.relative_to(folder)) for path, _ in answered),
        truth,
        np.array([answer.scores for _, answer in answered], np.float64),
        threshold,
        tuple(answer for _, answer in answered),
        (*skipped, *reasons.lines()),
    )
