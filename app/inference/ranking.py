"""Scores to the classes that are shown, to the top-k classes, and to the top-k groups of classes."""

from collections.abc import Sequence

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


def shown(scores: NDArray[np.float32], threshold: float) -> list[int]:
    """The classes of one photo whose independent scores, ``float32 [C]``, are at least ``threshold``, best first."""
    return [index for index, _ in top_k(scores, int((scores >= threshold).sum()))]


class Groups:
    """Which classes belong together, prepared once a model so that a photo's scores are taken together in one pass.

    Attributes:
        names: the groups' names, each once, in the order of their first classes; ``G`` of them.
        of: ``int64 [C]``, by class the index of its group in ``names``.
    """

    def __init__(self, group_of_class: Sequence[str], *, independent: bool = False) -> None:
        """Takes the name of each class's group, by class index.

        ``independent``: each score says by itself whether a photo shows its class, so that they cannot be added up.
        """
        self._independent = independent
        self.names = tuple(dict.fromkeys(group_of_class))
        position = {name: index for index, name in enumerate(self.names)}
        self.of: NDArray[np.int64] = np.array([position[name] for name in group_of_class], np.int64)

    def scores(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """``float32 [G]``, by group the sum of its classes' scores; of independent ones the best.

        ``scores`` is ``float32 [C]``.
        """
        if self._independent:
            best = np.zeros(len(self.names), np.float32)
            np.maximum.at(best, self.of, scores)
            return best
        summed = np.bincount(self.of, weights=scores, minlength=len(self.names))
        # Scores are rounded one by one, so that all of them together may exceed 1 by a little.
        return np.minimum(summed, 1.0).astype(np.float32)

    def members(
        self, scores: NDArray[np.float32], group: int, k: int, min_score: float = 0.0
    ) -> list[tuple[int, float]]:
        """The best classes of one group, as ``top_k`` gives those of all.

        Args:
            scores: ``float32 [C]``, of all classes.
            group: index in ``names``.
            k: how many at most.
            min_score: classes below it are left out.
        """
        inside = np.flatnonzero(self.of == group)
        return [(int(inside[index]), score) for index, score in top_k(scores[inside], k, min_score)]
