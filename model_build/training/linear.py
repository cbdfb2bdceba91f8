"""A linear classifier on feature vectors, fitted in seconds: multinomial logistic regression with NumPy only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_build.training.temperature import softmax

Float = NDArray[np.float64]

_STEPS: Final = 500
#: Fitting ends when no coefficient moves by more than this in a step.
_TOLERANCE: Final = 1e-5
#: A channel that varies less than this, as a share of the largest feature, is always the same.
_MIN_SPREAD: Final = 1e-6
#: Directions in which the features vary less than this, as a share of the largest variance, carry no information.
_MIN_VARIANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Linear:
    """``features [N, D] -> logits [N, C]``; ``weight`` is ``float64 [D, C]``, ``bias`` ``float64 [C]``."""

    weight: Float
    bias: Float

    def __call__(self, features: NDArray[Any]) -> Float:
        """The logits."""
        return features @ self.weight + self.bias

    def divided_by(self, temperature: float) -> "Linear":
        """The same classifier with its logits divided by a temperature."""
        return Linear(self.weight / temperature, self.bias / temperature)


def fit(
    features: NDArray[Any],
    classes: NDArray[np.int64],
    count: int,
    strengths: Sequence[float],
    weights: NDArray[np.float64] | None = None,
) -> Iterator[Linear]:
    """Fits one classifier for each strength of regularisation.

    Minimised is the mean cross-entropy, every class weighing the same however many pictures it has, plus
    ``strength / 2`` times the squared coefficients of the standardised features; the bias is free.

    The curvature of the cross-entropy is nowhere more than half the features' second moment (Boehning 1992,
    "Multinomial logistic regression algorithm"). In the directions in which that is diagonal each coordinate has a
    step of its own that never overshoots, so there is nothing to search for. Nesterov's momentum, given up whenever
    it points uphill (O'Donoghue and Candes 2015, arXiv:1204.3982), makes the steps long.

    Args:
        features: ``[N, D]``.
        classes: ``[N]``, each of 0 to ``count - 1`` at least once.
        count: C, the number of classes.
        strengths: each more than 0. Falling ones are quickest: each begins where the one before ended.
        weights: ``[N]``, what each picture counts within its class; None: all count the same.
    """
    features = features.astype(np.float64)
    weights = np.ones(len(classes)) if weights is None else weights
    weights = weights / (count * np.bincount(classes, weights, count)[classes])
    mean = weights @ features
    spread = np.sqrt(weights @ (features - mean) ** 2)
    # A constant channel's coefficients stay 0.
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > _MIN_SPREAD * np.abs(features).max())
    rows = (features - mean) * scale
    weighted = rows * np.sqrt(weights)[:, np.newaxis]
    # With fewer pictures than channels the smaller product has the same directions, a hundred times quicker.
    few = len(weighted) < weighted.shape[1]
    variances, directions = np.linalg.eigh(weighted @ weighted.T if few else weighted.T @ weighted)
    kept = variances > _MIN_VARIANCE * variances.max(initial=0.0)
    variances, directions = variances[kept], directions[:, kept]
    if few:
        directions = weighted.T @ directions / np.sqrt(variances)
    rows = rows @ directions
    targets = np.eye(count)[classes]

    coefficients, bias = np.zeros((len(variances), count)), np.zeros(count)
    for strength in strengths:
        steps = 1 / (variances / 2 + strength)[:, np.newaxis]
        momentum, ahead, ahead_bias = 1.0, coefficients, bias
        for _ in range(_STEPS):
            errors = (softmax(rows @ ahead + ahead_bias) - targets) * weights[:, np.newaxis]
            moved = ahead - steps * (rows.T @ errors + strength * ahead)
            moved_bias = ahead_bias - 2 * errors.sum(axis=0)
            change, change_bias = moved - coefficients, moved_bias - bias
            if ((ahead - moved) / steps * change).sum() + (ahead_bias - moved_bias) @ change_bias / 2 > 0:
                momentum = 1.0
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = moved + (momentum - 1) / following * change
            ahead_bias = moved_bias + (momentum - 1) / following * change_bias
            coefficients, bias, momentum = moved, moved_bias, following
            if max(np.abs(change).max(initial=0.0), np.abs(change_bias).max()) < _TOLERANCE:
                break
        weight = directions @ coefficients * scale[:, np.newaxis]
        yield Linear(weight, bias - mean @ weight)
