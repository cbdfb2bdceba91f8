"""What a linear head will be worth on photos that it has not seen, and what it is chosen by: out-of-fold logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_build.dataset import folds
from model_build.training import linear, temperature

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the photos are not fitted to, but choose.

    Attributes:
        strength: index of the strength of regularisation.
        temperature: what the logits are divided by.
        loss: mean cross-entropy of the photos then.
    """

    strength: int
    temperature: float
    loss: float


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The logits of photos by heads that have learned from other folds only.

    Attributes:
        logits: ``float64 [S, N, C]``, one set for each strength.
        classes: ``int64 [N]``.
        fold: ``int64 [N]``, as ``folds.deal`` makes it.
        weights: ``float64 [N]``, what each photo counts.
        chooses: ``bool [N]``, whether a photo may choose: not one that was tested with its near-duplicates learned.
    """

    logits: NDArray[np.float64]
    classes: NDArray[np.int64]
    fold: NDArray[np.int64]
    weights: NDArray[np.float64]
    chooses: NDArray[np.bool_]

    def choose(self, but: int | None = None) -> Choice:
        """The strength whose calibrated logits fit the photos best, and their temperature.

        Args:
            but: a fold whose photos have no say.
        """
        among = self._among(but)
        classes, weights = self.classes[among], self.weights[among]
        temperatures = [temperature.fit(logits[among], classes, weights) for logits in self.logits]
        losses = [
            temperature.loss(logits[among] / fitted, classes, weights)
            for logits, fitted in zip(self.logits, temperatures, strict=True)
        ]
        best = int(np.argmin(losses))
        return Choice(best, temperatures[best], losses[best])

    def scores(self) -> NDArray[np.float64]:
        """Each photo's calibrated scores, ``float64 [N, C]``: strength and temperature are what the others choose."""
        found = np.empty(self.logits.shape[1:])
        for fold in np.unique(self.fold).tolist():
            own, choice = self.fold == fold, self.choose(but=fold)
            found[own] = temperature.softmax(self.logits[choice.strength, own] / choice.temperature)
        return found

    def threshold(self, novelty: NDArray[np.float64], share: float, but: int | None = None) -> float:
        """The novelty that ``share`` of the photos exceed.

        Args:
            novelty: ``float64 [N]``, out of fold.
            share: 0 to 1.
            but: a fold whose photos have no say.
        """
        among = self._among(but)
        return float(np.quantile(novelty[among], 1 - share, method="inverted_cdf", weights=self.weights[among]))

    def _among(self, but: int | None) -> NDArray[np.bool_]:
        among: NDArray[np.bool_] = self.chooses if but is None else self.chooses & (self.fold != but)
        # All that are asked may be in this fold, where most classes are one cluster.
        return among if among.any() else self.fold != but


def out_of_fold(
    features: NDArray[Any],
    classes: NDArray[np.int64],
    clusters: NDArray[np.int64],
    fold: NDArray[np.int64],
    weights: NDArray[np.float64],
    strengths: Sequence[float],
    track: Track,
) -> OutOfFold:
    """Fits heads to all folds but one, for each in turn.

    Args:
        features: ``[N, D]``.
        classes: ``int64 [N]``, each of 0 to C - 1 outside every fold.
        clusters: ``int64 [N]``, of near-duplicates.
        fold: ``int64 [N]``, as ``folds.deal`` makes it.
        weights: ``float64 [N]``, what each photo counts, as ``folds.weights`` has it.
        strengths: of regularisation, falling, as for ``linear.fit``.
        track: ``track(iterable, description)`` shows progress.
    """
    count = int(classes.max()) + 1
    logits = np.empty((len(strengths), len(classes), count))
    for tested in track(np.unique(fold).tolist(), "Cross-validating"):
        learned = fold != tested
        for i, head in enumerate(linear.fit(features[learned], classes[learned], count, strengths, weights[learned])):
            logits[i, ~learned] = head(features[~learned])
    chooses = ~folds.alone(classes, clusters)
    if len(np.unique(classes[chooses])) < 2:
        chooses[:] = True
    return OutOfFold(logits, classes, fold, weights, chooses)
