"""What is said about a model's worth: right of how many, with an interval, as a whole and by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from model_build.dataset import intervals
from model_build.dataset.intervals import Share

#: Independent photos below which a class's figure means little.
FEW: Final = 10
#: How many times as many independent photos as another a class may have before that is worth a warning.
_IMBALANCE: Final = 5
#: Kinds of mistakes that a contract keeps.
_MISTAKES: Final = 20
#: Classes that a warning names.
_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures on photos that the model has not learned from.

    Attributes:
        how: where these photos come from.
        accuracy: share of the photos whose best class is the true one, every class counting the same; None where there
            is no photo.
        as_mixed: the same, every photo counting the same.
        unknown: share of the photos that are classified as unknown though they show a class.
        refused: share of the pictures of nothing the model knows that are classified as unknown; None without any.
        classes: as ``accuracy``, by class; None for one without photos.
        mistakes: how many photos of which class, by index, were taken for which other one, the most frequent first.
    """

    how: str
    accuracy: Share | None
    as_mixed: Share | None
    unknown: Share | None
    refused: Share | None
    classes: tuple[Share | None, ...]
    mistakes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(
        cls,
        how: str,
        predicted: NDArray[np.int64],
        unknown: NDArray[np.bool_],
        classes: NDArray[np.int64],
        clusters: NDArray[np.int64],
        count: int,
        worth: float = 1.0,
        refused: Share | None = None,
        folds: int | None = None,
    ) -> Self:
        """From ``N`` photos.

        Args:
            how: see ``Figures``.
            predicted: ``int64 [N]``, the best class.
            unknown: ``bool [N]``, whether it is classified as unknown.
            classes: ``int64 [N]``, 0 to ``count - 1``.
            clusters: ``int64 [N]``, of near-duplicates.
            count: C, the number of classes.
            worth: of a cluster, see ``intervals.share``.
            refused: see ``Figures``.
            folds: where the figures are cross-validated, their number; see ``intervals.share``.
        """
        right = predicted == classes
        pairs, counts = np.unique(np.stack([classes, predicted])[:, ~right], axis=1, return_counts=True)
        mistakes = [(int(true), int(said), int(n)) for (true, said), n in zip(pairs.T, counts, strict=True)]
        shares = tuple(
            intervals.share(right[classes == label], clusters[classes == label], worth, folds) for label in range(count)
        )
        known = [share for share in shares if share]
        return cls(
            how,
            intervals.mean(known, worth, folds) if known else None,
            intervals.share(right, clusters, worth, folds),
            intervals.share(unknown, clusters, worth),
            refused,
            shares,
            tuple(sorted(mistakes, key=lambda mistake: -mistake[2])),
        )

    def as_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """As a contract has it; accuracy and its interval at the top, as exports have theirs."""
        return {
            "held_out": self.how,
            **_json("accuracy", self.accuracy),
            **({"as_mixed": _json("accuracy", self.as_mixed)} if self.as_mixed else {}),
            **({"unknown": _json("share", self.unknown)} if self.unknown else {}),
            **({"refused": _json("share", self.refused)} if self.refused else {}),
            "classes": [
                {"label": label, **_json("accuracy", share)} for label, share in zip(labels, self.classes, strict=True)
            ],
            "mistakes": [
                {"shows": labels[true], "said": labels[said], "photos": photos}
                for true, said, photos in self.mistakes[:_MISTAKES]
            ],
        }


def _json(name: str, share: Share | None) -> dict[str, Any]:
    if share is None:
        return {name: None, "photos": 0}
    return {
        name: round(share.value, 6),
        "interval": [round(share.low, 6), round(share.high, 6)],
        "photos": share.photos,
        "independent": share.independent,
    }


def warnings(labels: Sequence[str], classes: NDArray[np.int64], clusters: NDArray[np.int64]) -> list[str]:
    """What about the photos that are learned from makes figures worth less than they look.

    Args:
        labels: of the classes.
        classes: ``int64 [N]``.
        clusters: ``int64 [N]``, of near-duplicates, none with photos of two classes.
    """
    photos = np.bincount(classes, minlength=len(labels))
    independent = np.bincount(classes[np.unique(clusters, return_index=True)[1]], minlength=len(labels))
    found = []
    if independent.sum() < photos.sum():
        found.append(
            f"near-duplicates: the {photos.sum()} photos are {independent.sum()} different ones; frames of a burst and "
            "copies count together as one, and are never both learned from and tested with"
        )
    if alone := np.flatnonzero(independent < 2).tolist():
        found.append(
            f"all photos of {_names(labels, alone)} are near-duplicates of each other, so each was tested with a head "
            "that had learned from photos like it, and counts as one photo a class. Add photos of other scenes"
        )
    if few := [i for i in np.argsort(independent, kind="stable").tolist() if 2 <= independent[i] < FEW]:
        named = [f"{labels[i]} ({independent[i]})" for i in few]
        found.append(
            f"fewer than {FEW} different photos: {_names(named, range(len(named)))}; what is said about these classes "
            "is uncertain"
        )
    most, least = int(independent.argmax()), int(independent.argmin())
    if independent[most] > _IMBALANCE * independent[least]:
        found.append(
            f"imbalance: {labels[most]} has {independent[most]} different photos, {labels[least]} has "
            f"{independent[least]}. Every class weighs the same in learning, but the small ones stay the least certain"
        )
    return found


def _names(labels: Sequence[str], indices: Sequence[int]) -> str:
    named = ", ".join(labels[i] for i in indices[:_NAMED])
    return named if len(indices) <= _NAMED else f"{named} and {len(indices) - _NAMED} more"
