"""Parts for cross-validation that share no near-duplicate, each with about the same share of every class."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_build.dataset import duplicates

#: Cosine from which on photos of one class are near-duplicates here, where a burst that is torn apart makes a figure
#: too good and one that takes a stranger in only widens an interval. Bursts of 8 frames (shifted, cropped to 88 %,
#: 25 % lighter or darker, noisy) fell into 1.0 pieces on photos and 1.06 on pictures of 64 x 64 pixels; at 0.9, as
#: ``duplicates`` has it, into 1.4 and 5.2. Of 40 classes of 120 different pictures each, 1 % was joined.
SIMILAR: Final = 0.82
#: From this cosine on photos are near-duplicates whatever else is alike.
_IDENTICAL: Final = 0.995
_NEARLY_ALL: Final = 0.95
_SAMPLE: Final = 2000


def clusters_of_classes(features: NDArray[np.floating], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """As ``duplicates.clusters``, but within each class, and by what is alike in these photos.

    Photos of different classes are no near-duplicates. Where they are alike all the same (one camera that never moves,
    one kind of part on one belt), being so alike says nothing about photos of one class either, and the cosine from
    which on they are near-duplicates is higher.

    Args:
        features: ``[N, D]``, not negative.
        classes: ``int64 [N]``.

    Returns:
        ``int64 [N]``, the index of the first photo of each one's cluster.
    """
    alike = float(np.clip(_alike_across(features, classes), SIMILAR, _IDENTICAL))
    found = np.arange(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        found[members] = members[duplicates.clusters(features[members], alike)]
    return found


def _alike_across(features: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
    """The cosine that nearly all photos stay below with every photo of another class; of a sample where they are many.

    Not all: a few photos may lie in the wrong class.
    """
    chosen = np.linspace(0, len(features) - 1, min(len(features), _SAMPLE)).astype(int)
    rows, of = features[chosen].astype(np.float32), classes[chosen]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines = np.where(of[:, np.newaxis] != of, rows @ rows.T, 0.0)
    return float(np.quantile(cosines.max(axis=1), _NEARLY_ALL))


def alone(classes: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``bool [N]``, whether all photos of a photo's class are near-duplicates of each other, by ``clusters``."""
    labels, of = np.unique(classes, return_inverse=True)
    count = np.bincount(of[np.unique(clusters, return_index=True)[1]], minlength=len(labels))
    found: NDArray[np.bool_] = count[of] < 2
    return found


def weights(classes: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each photo counts: every class the same, in it every cluster the same.

    Returns:
        ``float64 [N]``, adding up to the number of clusters.
    """
    _, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    _, label = np.unique(classes, return_inverse=True)
    of_class = np.bincount(label, weights=1 / sizes[of])
    found: NDArray[np.float64] = len(sizes) / len(of_class) / sizes[of] / of_class[label]
    return found


def deal(classes: NDArray[np.int64], clusters: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Deals every class's clusters out to folds, the largest first, each to the fold with the fewest of its photos.

    So every class is in two folds or more: whichever is tested, the others have photos of it to learn from. A class
    that is one cluster is dealt out by its photos, for want of anything better: near-duplicates are tested with heads
    that have learned from near-duplicates.

    Args:
        classes: ``int64 [N]``, each at least twice.
        clusters: ``int64 [N]``, as ``clusters_of_classes`` makes them: none has photos of two classes.
        most: number of folds, at least 2.
        seed: decides between clusters of the same size.

    Returns:
        ``int64 [N]``, the fold of each photo, 0 to ``most - 1``.
    """
    random = np.random.default_rng(seed)
    clusters = np.where(alone(classes, clusters), np.arange(len(classes)), clusters)
    found = np.zeros(len(classes), np.int64)
    photos = np.zeros(most, np.int64)
    for label in np.unique(classes):
        names, sizes = np.unique(clusters[classes == label], return_counts=True)
        own = np.zeros(most, np.int64)
        order = random.permutation(len(names))
        for i in order[np.argsort(-sizes[order], kind="stable")]:
            fold = np.lexsort((photos, own))[0]
            found[clusters == names[i]] = fold
            own[fold] += sizes[i]
            photos[fold] += sizes[i]
    return found
