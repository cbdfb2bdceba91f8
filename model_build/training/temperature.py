"""Temperature scaling, and the threshold for unknown photos: both are fitted to held-out photos."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Temperatures are looked for between its inverse and itself.
_RANGE: Final = 20.0
_STEPS: Final = 60


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """``float64 [N, C]`` scores of ``[N, C]`` logits."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return found


def fit(logits: NDArray[np.floating], classes: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> float:
    """The temperature that makes ``softmax(logits / temperature)`` the likeliest (Guo et al. 2017, arXiv:1706.04599).

    Likeliest with targets of ``1 - 1 / (N + 2)`` instead of 1 (Platt 1999, "Probabilistic outputs for support vector
    machines", section 2.2): a few photos that are all classified rightly would else make every score 1.

    Args:
        logits: ``[N, C]``, of photos that the model was not trained on.
        classes: ``[N]``, what they show.
        weights: ``[N]``, what each counts, adding up to the number of independent photos; None: all count 1.
    """
    return float(np.exp(_search(lambda log_temperature: loss(logits / np.exp(log_temperature), classes, weights))))


def loss(logits: NDArray[np.floating], classes: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> float:
    """The mean cross-entropy of ``softmax(logits)`` with the targets that ``fit`` has; less is better."""
    photos, count = logits.shape
    rest = 1 / ((photos if weights is None else weights.sum()) + 2)
    targets = np.full((photos, count), rest / (count - 1))
    targets[np.arange(photos), classes] = 1 - rest
    entropies = -(targets * np.log(np.maximum(softmax(logits), 1e-300))).sum(axis=1)
    return float(np.average(entropies, weights=weights))


def _search(cost: Callable[[float], float]) -> float:
    """The logarithm of the best temperature. Convex in 1 / temperature, ``cost`` has one minimum."""
    low, high, ratio = -np.log(_RANGE), np.log(_RANGE), (np.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if cost(left) <= cost(right) else (left, high)
    return float((low + high) / 2)


def unknown_below(scores: NDArray[np.floating], share: float) -> float:
    """The best score below which a photo is classified as unknown.

    Args:
        scores: ``[N, C]``, calibrated, of held-out photos that do show one of the classes.
        share: how many of them may be classified as unknown, 0 to 1.
    """
    return float(np.quantile(scores.max(axis=1), share))
