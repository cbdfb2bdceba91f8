"""Divides photos by their content into parts that share no photo and no near-duplicate."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def digests(pixels: NDArray[np.uint8]) -> list[str]:
    """SHA-256 (hex) of each picture of ``uint8 [N, H, W, 3]``."""
    return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]


def split(
    clusters: NDArray[np.int64], contents: Sequence[str], shares: Mapping[str, float]
) -> dict[str, NDArray[np.int64]]:
    """Deals clusters of near-duplicates out to parts, so that every part gets about its share of the photos.

    The order is that of the clusters' smallest digests: it depends on what the photos show, not on their names or
    their order in a folder. Each cluster goes to the part that then lacks most: a very large one to a large part.

    Args:
        clusters: ``int64 [N]``, as ``duplicates.clusters`` makes them.
        contents: N digests of the photos.
        shares: of each part, adding up to 1; the first is served first where two lack the same.

    Returns:
        The indices of each part's photos, ascending; every photo is in one part.
    """
    members: dict[int, list[int]] = {}
    for index, cluster in enumerate(clusters.tolist()):
        members.setdefault(cluster, []).append(index)
    parts: dict[str, list[int]] = {name: [] for name in shares}
    dealt = 0
    for indices in sorted(members.values(), key=lambda indices: min(contents[i] for i in indices)):
        dealt += len(indices)
        parts[max(shares, key=lambda name: shares[name] * dealt - len(parts[name]))] += indices
    return {name: np.array(sorted(indices), np.int64) for name, indices in parts.items()}
