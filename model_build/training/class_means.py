"""How unlike all of its classes a photo is, by the classes' mean features: what taught models refuse photos by.

A photo's likeness to a class is the mean of two cosines, the second counted twice: between its features and the class's
mean, both without what all classes have in common, and between the two as they are. The first tells classes of one kind
apart (breeds of dogs), where the second is high for everything of that kind; the second tells those from everything
else, of which the first knows nothing. What is left of 1 for the class that is most alike is the photo's novelty.

Both are taken of features in which the directions that photos of one class differ in count less (shrunken
within-class covariance, as in linear discriminant analysis: Friedman 1989, "Regularized Discriminant Analysis"): where
a photo lies along these says little about what it shows. docs/unknown.md has what was compared.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

#: How much each cosine counts.
CENTRED: Final = 1 / 3
PLAIN: Final = 2 / 3
#: Shorter vectors have no direction.
SHORTEST: Final = 1e-6
#: Directions of a class's own variety that count less, at most; with all of them nothing got better.
DIRECTIONS: Final = 32
#: A direction that photos of one class vary in by ``v`` is divided by ``sqrt(1 + v / (SHRINKAGE * mean v))``.
SHRINKAGE: Final = 0.3
#: Directions in which they vary less than this, as a share of the largest variance, are rounding errors.
_MIN_VARIANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """``features [N, D] -> novelty float64 [N]``, 0 (a class's own mean) to 2.

    Attributes:
        means: ``float64 [C, D]``, of each class's features, in which the class's own variety counts less.
        variety: ``float64 [D, K]``; features ``f [D]`` become ``f - variety (variety^T f)``.
    """

    means: Float
    variety: Float

    @classmethod
    def of(cls, features: NDArray[Any], classes: NDArray[np.int64], weights: Float | None = None) -> Self:
        """From the pooled features ``[N, D]`` of photos and what they show, ``[N]``; classes without photos are out.

        ``weights``, ``[N]``, is what each photo counts within its class; None: all count the same.
        """
        weights = np.ones(len(classes)) if weights is None else weights
        _, of, count = np.unique(classes, return_inverse=True, return_counts=True)
        share = weights / np.bincount(of, weights)[of]
        means = np.stack([share[of == label] @ features[of == label] for label in range(len(count))])
        variety = _variety((features - means[of]) * np.sqrt(share)[:, np.newaxis])
        return cls(_without(means, variety), variety)

    @property
    def centre(self) -> Float:
        """``float64 [D]``, what the classes have in common; each counts the same, however many photos it has."""
        centre: Float = self.means.mean(axis=0)
        return centre

    @property
    def weights(self) -> tuple[Float, Float]:
        """``float64 [D, C]`` twice: the directions of the centred means and of the means, as long as they count."""
        return CENTRED * _direction(self.means - self.centre).T, PLAIN * _direction(self.means).T

    def __call__(self, features: NDArray[Any]) -> Float:
        """The novelty."""
        centred, plain = self.weights
        features = _without(features.astype(np.float64), self.variety)
        likeness = _direction(features - self.centre) @ centred + _direction(features) @ plain
        novelty: Float = 1 - likeness.max(axis=1)
        return novelty


def _direction(vectors: Float) -> Float:
    found: Float = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST)
    return found


def _without(features: Float, variety: Float) -> Float:
    found: Float = features - (features @ variety) @ variety.T
    return found


def _variety(differences: Float) -> Float:
    """``ClassMeans.variety`` of each photo's difference from its class's mean, ``[N, D]``, weighted."""
    # With fewer photos than channels the smaller product has the same directions, a hundred times quicker.
    few = len(differences) < differences.shape[1]
    variances, found = np.linalg.eigh(differences @ differences.T if few else differences.T @ differences)
    kept = np.flatnonzero(variances > max(_MIN_VARIANCE * variances.max(initial=0.0), 0.0))[-DIRECTIONS:]
    variances, found = variances[kept], found[:, kept]
    if few:
        found = differences.T @ found / np.sqrt(variances)
    ratios = variances / (SHRINKAGE * variances.mean()) if len(variances) else variances
    variety: Float = found * np.sqrt(1 - 1 / np.sqrt(1 + ratios))
    return variety
