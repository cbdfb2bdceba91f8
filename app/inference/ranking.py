"""Scores to the top-k classes."""

import numpy as np
from numpy.typing import NDArray


def top_k(scores: NDArray[np.float32], k: int, min_score: float = 0.0) -> list[tuple[int, float]]:
    """The best classes of one photo, best first.

    Args:
        scores: ``float32 [C]``.
        k: how many at most; more than C means all.
        min_score: classes below it are left out, so the list may be empty.

    Returns:
        ``(class index, score)`` pairs by falling score; equal scores by rising index.
    """
    k = min(k, scores.size)
    # Partial selection touches the other scores once; only k of them are sorted and become Python objects.
    candidates = np.argpartition(scores, scores.size - k)[scores.size - k :]
    values = scores[candidates]
    order = np.lexsort((candidates, -values))
    pairs = zip(candidates[order].tolist(), values[order].tolist(), strict=True)
    return [(index, score) for index, score in pairs if score >= min_score]
