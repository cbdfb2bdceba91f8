"""Accuracy, calibration and latency of a model, measured on photos whose classes are known."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from app.errors import RequestError
from model_build.dataset import files, tables
from model_build.dataset.files import LeftOut
from model_build.dataset.intervals import wilson
from model_build.dataset.labels import Labels
from model_build.dataset.photos import class_of, images_in
from model_build.errors import InputError
from model_build.evaluation.targets import BEST, Answer, Target

#: Bins of the calibration error, as in Guo et al. 2017, arXiv:1706.04599.
BINS: Final = 15


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Precision and recall of one class.

    Attributes:
        label: what it is called.
        photos: how many show it.
        precision: share of the photos predicted to show it that do; None where there are none.
        recall: share of the photos that show it that were predicted to; None where there are none.
    """

    label: str
    photos: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """The photos whose best score lies in one range: how many, their mean score, and their accuracy."""

    photos: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The predictions for ``N`` photos whose classes are known; ``N`` is at least 1.

    Attributes:
        labels: what the ``C`` classes are called, by index.
        classes: ``int64 [N]``, the true classes.
        ranked: ``int64 [N, min(5, C)]``, the best classes of each photo, best first.
        confidence: ``float64 [N]``, the best class's score, 0 to 1.
    """

    labels: tuple[str, ...]
    classes: NDArray[np.int64]
    ranked: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.floating], classes: NDArray[np.int64], labels: tuple[str, ...]) -> Self:
        """From ``[N, C]`` scores; equal ones by rising index, as ``app.inference.ranking`` has it."""
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :BEST].astype(np.int64)
        return cls(labels, classes, ranked, scores.max(axis=1).astype(np.float64))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """``bool [N]``, whether the best class is the true one."""
        correct: NDArray[np.bool_] = self.ranked[:, 0] == self.classes
        return correct

    @property
    def top1(self) -> float:
        """Share of the photos whose best class is the true one."""
        return float(self.correct.mean())

    @property
    def top5(self) -> float:
        """Share of the photos whose true class is among the five best."""
        return float((self.ranked == self.classes[:, np.newaxis]).any(axis=1).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the top-1 accuracy: ``wilson``."""
        return wilson(int(self.correct.sum()), len(self.classes))

    def confusion_matrix(self) -> NDArray[np.int64]:
        """``int64 [C, C]``, how many photos of the row's class were predicted to show the column's."""
        counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        np.add.at(counts, (self.classes, self.ranked[:, 0]), 1)
        return counts

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Mistakes as ``(true class, predicted class, how many photos)``, the most frequent first."""
        counts = self.confusion_matrix()
        np.fill_diagonal(counts, 0)
        pairs = [(int(true), int(predicted), int(counts[true, predicted])) for true, predicted in np.argwhere(counts)]
        return sorted(pairs, key=lambda pair: -pair[2])

    def per_class(self) -> list[ClassFigures]:
        """The classes that a photo shows or was predicted to show, by index."""
        counts = self.confusion_matrix()
        true, predicted, correct = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
        return [
            ClassFigures(
                label=self.labels[i],
                photos=int(true[i]),
                precision=float(correct[i] / predicted[i]) if predicted[i] else None,
                recall=float(correct[i] / true[i]) if true[i] else None,
            )
            for i in np.flatnonzero(true + predicted)
        ]

    def reliability(self) -> list[Bin | None]:
        """``BINS`` ranges of the best score, each ``((m - 1) / BINS, m / BINS]``; None where no photo's score lies."""
        bins = np.clip(np.ceil(self.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        members = [bins == m for m in range(BINS)]
        return [
            Bin(int(member.sum()), float(self.confidence[member].mean()), float(self.correct[member].mean()))
            if member.any()
            else None
            for member in members
        ]

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1 (Guo et al. 2017, equation 3): how far scores are from the accuracy."""
        filled = [part for part in self.reliability() if part]
        return sum(part.photos * abs(part.accuracy - part.confidence) for part in filled) / len(self.classes)

    def figures(self) -> dict[str, str]:
        """The figures that fit on a line each, as a person reads them."""
        low, high = self.interval
        return {
            "photos": str(len(self.classes)),
            "top-1 accuracy": f"{self.top1:.1%}",
            "95 % interval (Wilson)": f"{low:.1%} to {high:.1%}",
            "top-5 accuracy": f"{self.top5:.1%}" if len(self.labels) > BEST else "-",
            f"calibration error (ECE, {BINS} bins)": f"{self.ece:.3f}",
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types. ``confusion`` has ``[row, column, photos]`` where there are any."""
        counts = self.confusion_matrix()
        return {
            "photos": len(self.classes),
            "top1": self.top1,
            "top1_interval": list(self.interval),
            "top5": self.top5,
            "ece": self.ece,
            "reliability": [
                {"above": m / BINS, "to": (m + 1) / BINS} | asdict(part)
                for m, part in enumerate(self.reliability())
                if part
            ],
            "per_class": [asdict(row) for row in self.per_class()],
            "confusion": [[int(row), int(column), int(counts[row, column])] for row, column in np.argwhere(counts)],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A folder's photos and one model's answers about them.

    Attributes:
        name: which model, and where.
        labels: its classes.
        files: the ``N`` photos that were answered, relative to the folder, by name.
        classes: ``int64 [N]``, what they show; -1 where that is none of the model's classes, or nothing says it.
        answers: ``N`` of them.
        skipped: photos that were not answered, with the reason.
    """

    name: str
    labels: Labels
    files: tuple[str, ...]
    classes: NDArray[np.int64]
    answers: tuple[Answer, ...]
    skipped: tuple[str, ...]

    @property
    def known(self) -> NDArray[np.bool_]:
        """``bool [N]``, whether a photo shows one of the model's classes; the others say nothing about accuracy."""
        return self.classes >= 0

    @property
    def evaluation(self) -> Evaluation:
        """Over the photos that show one of the model's classes."""
        known = self.known
        ranked = np.array([answer.ranked for answer in self.answers], np.int64)
        confidence = np.array([answer.score for answer in self.answers], np.float64)
        return Evaluation(self.labels.labels, self.classes[known], ranked[known], confidence[known])

    def per_group(self) -> list[dict[str, Any]]:
        """By group of which there are known photos: how many, and on how many of them the group is right."""
        if (right := self.group_right) is None or self.labels.groups is None:
            return []
        shown = np.array([self.labels.groups[index] for index in self.classes[self.known]])
        return [
            {"group": str(group), "photos": int((shown == group).sum()), "right": int(right[shown == group].sum())}
            for group in np.unique(shown)
        ]

    @property
    def group_right(self) -> NDArray[np.bool_] | None:
        """``bool``, one for each known photo: whether the best group is its class's; None where the model has none."""
        if (groups := self.labels.groups) is None:
            return None
        answered = zip(self.classes.tolist(), self.answers, strict=True)
        return np.array([answer.group == groups[shown] for shown, answer in answered if shown >= 0])

    def figures(self) -> dict[str, str]:
        """The figures that fit on a line each, as a person reads them."""
        unknown = np.array([answer.unknown for answer in self.answers])
        others = int((~self.known).sum())
        share = f"{unknown[self.known].mean():.1%}"
        grouped = {}
        if (right := self.group_right) is not None:
            low, high = wilson(int(right.sum()), len(right))
            grouped["group right (95 %, Wilson)"] = f"{right.mean():.1%} ({low:.1%} to {high:.1%})"
        return {
            **self.evaluation.figures(),
            **grouped,
            "classified as unknown": f"{share}, {unknown[~self.known].mean():.1%} of the others" if others else share,
            "others: photos of none of the model's classes": f"{others}, not in the accuracy",
            "not answered": str(len(self.skipped)),
            **latency_figures(self.answers),
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        rows = zip(self.files, self.classes.tolist(), self.answers, strict=True)
        right = self.group_right
        return {
            "model": self.name,
            "labels": list(self.labels.labels),
            **self.evaluation.as_json(),
            "group": None if right is None else float(right.mean()),
            "group_interval": None if right is None else list(wilson(int(right.sum()), len(right))),
            "per_group": self.per_group(),
            "others": int((~self.known).sum()),
            "skipped": list(self.skipped),
            "latency_ms": latency_ms(self.answers),
            "answers": [
                {
                    "file": file,
                    "class": true if true >= 0 else None,
                    "ranked": list(answer.ranked),
                    "group": answer.group or None,
                    "score": answer.score,
                    "unknown": answer.unknown,
                }
                for file, true, answer in rows
            ],
        }


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A photo for which two models predict different classes: their labels and scores, and the true label if known."""

    file: str
    shows: str | None
    first: tuple[str, float]
    second: tuple[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same photos.

    Attributes:
        photos: how many both answered.
        disagreements: where their best classes differ.
        only_first: photos of classes that both have, which only the first got right.
        only_second: the same for the second.
    """

    photos: int
    disagreements: tuple[Disagreement, ...]
    only_first: int
    only_second: int

    @property
    def agreement(self) -> float:
        """Share of the photos with the same best class."""
        return 1 - len(self.disagreements) / self.photos

    @property
    def p_value(self) -> float:
        """The chance that equally good models differ at least this much: McNemar's test (1947), two-sided and exact."""
        total, fewer = self.only_first + self.only_second, min(self.only_first, self.only_second)
        ways: int = 2 * sum(math.comb(total, i) for i in range(fewer + 1))
        return min(1.0, ways / 2.0**total)

    def figures(self) -> dict[str, str]:
        """The figures that fit on a line each, as a person reads them."""
        return {
            "same top-1": f"{self.agreement:.1%} of {self.photos} photos",
            "only the first is right": str(self.only_first),
            "only the second is right": str(self.only_second),
            "p-value (McNemar's exact test)": f"{self.p_value:.2f}",
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "photos": self.photos,
            "agreement": self.agreement,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "p_value": self.p_value,
            "disagreements": [asdict(found) for found in self.disagreements],
        }


def measure(target: Target, folder: Path, track: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> Measured:
    """Asks about every photo in a folder and its sub-folders, one after the other, in the order of their names.

    Args:
        target: what answers.
        folder: photos whose folders or names say what they show, see ``photos.class_of``, or a table, see
            ``tables.read``.
        track: wraps the iteration, to show progress.

    Raises:
        InputError: the folder cannot be read, or no photo in it shows a class that the model has.
    """
    if not (paths := images_in(folder)):
        raise InputError(f"{folder} has no images")
    by_table = _classes_in_tables(folder, target)
    answered, skipped = ask(target, paths, folder, track)
    classes = [by_table.get(path, -1) if by_table else class_of(path, folder, target.labels) for path, _ in answered]
    if max(classes) < 0:
        raise InputError(
            f"no photo in {folder} says that it shows a class of {target.name}. Call the folders or files like the "
            f"classes (<label>/x.jpg or <id>_<label>.jpg); the first classes are {', '.join(target.labels.labels[:5])}"
        )
    return Measured(
        target.name,
        target.labels,
        tuple(str(path.relative_to(folder)) for path, _ in answered),
        np.array(classes, np.int64),
        tuple(answer for _, answer in answered),
        tuple(skipped),
    )


def ask(
    target: Target, paths: Sequence[Path], folder: Path, track: Callable[[Iterable[Path]], Iterable[Path]]
) -> tuple[list[tuple[Path, Answer]], list[str]]:
    """Asks about photos, one after the other.

    Returns:
        Those that were answered, and a line for each of the others, with the reason.

    Raises:
        InputError: none was answered.
    """
    answered, skipped = [], []
    for path in track(paths):
        try:
            answered.append((path, target(path.read_bytes())))
        except (RequestError, OSError) as error:
            skipped.append(f"{path.relative_to(folder)}: {error}")
    if not answered:
        raise InputError(f"none of the {len(paths)} images in {folder} was answered: {skipped[0]}")
    return answered, skipped


def _classes_in_tables(folder: Path, target: Target) -> dict[Path, int]:
    """What a table in the folder says about its photos; nothing where it names none of the model's classes."""
    rows = tables.read(files.scan(folder)[0], LeftOut())
    return {
        row.path: index
        for row in rows
        if len(row.labels) == 1 and (index := target.labels.index_of(row.labels[0])) is not None
    }


def latency_ms(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of decoding and of inference, in milliseconds."""
    times = {"decode": [a.decode_s for a in answers], "infer": [a.infer_s for a in answers]}
    found = {step: np.quantile(np.array(values) * 1e3, (0.5, 0.95)) for step, values in times.items()}
    return {step: {"median": float(median), "p95": float(p95)} for step, (median, p95) in found.items()}


def latency_figures(answers: Sequence[Answer]) -> dict[str, str]:
    """The same, as a person reads it."""
    return {
        f"{step}, median / p95": f"{found['median']:.1f} / {found['p95']:.1f} ms"
        for step, found in latency_ms(answers).items()
    }


def compare(first: Measured, second: Measured) -> Comparison:
    """Compares the answers about the photos of one folder; by label where the classes are not the same.

    Raises:
        InputError: there is no photo that both answered.
    """
    same_classes = first.labels == second.labels
    of_second = {file: i for i, file in enumerate(second.files)}
    both = [(i, of_second[file]) for i, file in enumerate(first.files) if file in of_second]
    if not both:
        raise InputError(f"{first.name} and {second.name} answered none of the photos together")
    disagreements, only = [], [0, 0]
    for i, j in both:
        true = (int(first.classes[i]), int(second.classes[j]))
        predicted = (first.answers[i].ranked[0], second.answers[j].ranked[0])
        correct = [one == other for one, other in zip(predicted, true, strict=True)]
        if min(true) >= 0 and correct[0] != correct[1]:
            only[correct.index(True)] += 1
        labels = (first.labels.labels[predicted[0]], second.labels.labels[predicted[1]])
        if predicted[0] != predicted[1] if same_classes else labels[0] != labels[1]:
            known = [m.labels.labels[c] for m, c in zip((first, second), true, strict=True) if c >= 0]
            answers = ((labels[0], first.answers[i].score), (labels[1], second.answers[j].score))
            disagreements.append(Disagreement(first.files[i], known[0] if known else None, *answers))
    return Comparison(len(both), tuple(disagreements), *only)
