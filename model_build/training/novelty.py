"""What a taught model refuses: photos unlike all of its classes, and photos like those that it was shown to refuse."""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from model_build.dataset.image_folder import REFUSED
from model_build.training import linear
from model_build.training.class_means import ClassMeans
from model_build.training.linear import Linear
from model_build.training.temperature import softmax

#: What the probability of showing none of the classes adds to the novelty at most. Alone it knows the kinds that it was
#: shown and few others: with 4 of 15 kinds of things shown, 6 as classes and 5 others, at 5 % of own photos refused,
#: novelty alone refused 86 % of the shown kinds and 88 % of the others, the probability alone 99 and 67 %, their sum
#: 99 and 84 %, and with this factor 98 and 89 % (when all directions of the features still counted the same).
BACKGROUND: Final = 0.3


@dataclass(frozen=True, slots=True)
class Novelty:
    """``features [N, D] -> novelty float64 [N]``, the higher the less the photo shows a class.

    Attributes:
        means: of the classes.
        background: ``[N, D] -> [N, C + 1]``, logits of the classes and, last, of nothing of them; None where no photo
            was shown to be refused.
    """

    means: ClassMeans
    background: Linear | None

    @classmethod
    def of(
        cls, features: NDArray[Any], classes: NDArray[np.int64], weights: NDArray[np.float64], strength: float
    ) -> Self:
        """Learns it.

        Args:
            features: ``[N, D]``.
            classes: ``int64 [N]``, or ``REFUSED``.
            weights: ``float64 [N]``, what each photo counts within its class.
            strength: of regularisation.
        """
        known = classes != REFUSED
        means, count = ClassMeans.of(features[known], classes[known], weights[known]), int(classes.max()) + 1
        if known.all():
            return cls(means, None)
        (background,) = linear.fit(features, np.where(known, classes, count), count + 1, [strength], weights)
        return cls(means, background)

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """The novelty."""
        novelty: NDArray[np.float64] = self.means(features)
        if self.background is not None:
            novelty = novelty + BACKGROUND * softmax(self.background(features))[:, -1]
        return novelty


def novelty_out_of_fold(
    features: NDArray[Any],
    classes: NDArray[np.int64],
    weights: NDArray[np.float64],
    fold: NDArray[np.int64],
    strength: float,
) -> NDArray[np.float64]:
    """The novelty of each photo by what the other folds say: ``float64 [N]``. Arguments as for ``Novelty.of``."""
    novelty = np.empty(len(features))
    for tested in np.unique(fold):
        own = fold == tested
        novelty[own] = Novelty.of(features[~own], classes[~own], weights[~own], strength)(features[own])
    return novelty


def novelty_of_other_classes(
    features: NDArray[Any], classes: NDArray[np.int64], weights: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """How novel each photo would be if its class were unknown: ``float64 [N]``. Arguments as for ``Novelty.of``."""
    novelty = np.empty(len(features))
    for label in np.unique(classes):
        own = classes == label
        _, others = np.unique(classes[~own], return_inverse=True)
        novelty[own] = Novelty.of(features[~own], others, weights[~own], strength)(features[own])
    return novelty
