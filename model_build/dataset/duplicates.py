"""Photos that are nearly the same: copies, crops, and frames of one burst. They belong on one side of every split."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Cosine of two photos' pooled features from which on they are near-duplicates.
SIMILAR: Final = 0.9
#: Rows of the matrix of similarities that are computed at a time.
_ROWS: Final = 512


def clusters(features: NDArray[Any], similar: float = SIMILAR) -> NDArray[np.int64]:
    """Puts every photo into a cluster with its near-duplicates, and with theirs.

    Args:
        features: ``[N, D]``, not negative: what the network's global average pooling gives for each photo.
        similar: the cosine from which on two photos belong together.

    Returns:
        ``int64 [N]``: for each photo the index of the first photo in its cluster; its own where it is alone.
    """
    count = len(features)
    lengths = np.linalg.norm(features.astype(np.float32), axis=1, keepdims=True)
    rows = features.astype(np.float32) / np.maximum(lengths, 1e-12)
    first = np.arange(count)
    for start in range(0, count, _ROWS):
        alike = rows[start : start + _ROWS] @ rows.T >= similar
        for row in range(len(alike)):
            alike[row, start + row] = True
            merged = np.unique(first[alike[row]])
            if len(merged) > 1:
                first[np.isin(first, merged)] = merged[0]
    return first
