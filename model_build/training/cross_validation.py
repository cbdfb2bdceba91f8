"""What a linear head will be worth on photos that it has not seen, and what it is chosen by: out-of-fold logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_build.dataset.folds import alone
from model_build.training import linear, temperature

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the photos are not fitted to, but choose.

    Attributes:
        strength: index of the strength of regularisation.
        temperature: what the logits are divided by.
        unknown_below: see ``contract.Contract``.
    """

    strength: int
    temperature: float
    unknown_below: float


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The logits of photos by heads that have learned from other folds only.

    Attributes:
        logits: ``float64 [S, N, C]``, one set for each strength.
        classes: ``int64 [N]``.
        fold: ``int64 [N]``, as ``folds.deal`` makes it.
        weights: ``float64 [N]``, what each photo counts: near-duplicates together 1.
        chooses: ``bool [N]``, whether a photo may choose: not one that was tested with its near-duplicates learned.
        unknown_share: share of the photos that may be classified as unknown.
    """

    logits: NDArray[np.float64]
    classes: NDArray[np.int64]
    fold: NDArray[np.int64]
    weights: NDArray[np.float64]
    chooses: NDArray[np.bool_]
    unknown_share: float

    def choose(self, but: int | None = None) -> Choice:
        """The strength whose calibrated logits fit the photos best, their temperature and threshold.

        Args:
            but: a fold whose photos have no say.
        """
        among = self.chooses & (self.fold != but) if but is not None else self.chooses
        classes, weights = self.classes[among], self.weights[among]
        temperatures = [temperature.fit(logits[among], classes, weights) for logits in self.logits]
        calibrated = [logits[among] / fitted for logits, fitted in zip(self.logits, temperatures, strict=True)]
        best = int(np.argmin([temperature.loss(logits, classes, weights) for logits in calibrated]))
        scores = temperature.softmax(calibrated[best])
        return Choice(best, temperatures[best], temperature.unknown_below(scores, self.unknown_share, weights))

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each photo's calibrated scores, ``float64 [N, C]``, and the threshold that they are held against, ``[N]``.

        What one fold's photos are judged with has been chosen by the other folds' photos.
        """
        found, thresholds = np.empty(self.logits.shape[1:]), np.empty(len(self.fold))
        for fold in np.unique(self.fold).tolist():
            own = self.fold == fold
            choice = self.choose(but=fold)
            found[own] = temperature.softmax(self.logits[choice.strength, own] / choice.temperature)
            thresholds[own] = choice.unknown_below
        return found, thresholds


def out_of_fold(
    features: NDArray[Any],
    classes: NDArray[np.int64],
    clusters: NDArray[np.int64],
    fold: NDArray[np.int64],
    strengths: Sequence[float],
    unknown_share: float,
    track: Track,
) -> OutOfFold:
    """Fits heads to all folds but one, for each in turn.

    Args:
        features: ``[N, D]``.
        classes: ``int64 [N]``, each of 0 to C - 1 outside every fold.
        clusters: ``int64 [N]``, of near-duplicates.
        fold: ``int64 [N]``, as ``folds.deal`` makes it.
        strengths: of regularisation, falling, as for ``linear.fit``.
        unknown_share: see ``OutOfFold``.
        track: ``track(iterable, description)`` shows progress.
    """
    count = int(classes.max()) + 1
    logits = np.empty((len(strengths), len(classes), count))
    for tested in track(np.unique(fold).tolist(), "Cross-validating"):
        learned = fold != tested
        for i, head in enumerate(linear.fit(features[learned], classes[learned], count, strengths)):
            logits[i, ~learned] = head(features[~learned])
    _, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    chooses = ~alone(classes, clusters)
    if len(np.unique(classes[chooses])) < 2:
        chooses[:] = True
    return OutOfFold(logits, classes, fold, 1 / sizes[of], chooses, unknown_share)
