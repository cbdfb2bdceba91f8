"""How sure a share is that was counted on a few photos."""

import math
from typing import Final

#: Two-sided 95 % of a normal distribution, in standard deviations.
_Z: Final = 1.959963984540054


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, "Probable inference, the law of succession, ...", JASA 22).

    Args:
        right: how many, 0 to ``of``.
        of: of how many, at least 1.

    Returns:
        Its lower and upper end, 0 to 1.
    """
    share, weight = right / of, _Z**2 / of
    middle = share + weight / 2
    spread = _Z * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, (middle - spread) / (1 + weight)), min(1.0, (middle + spread) / (1 + weight))
