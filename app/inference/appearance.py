"""How bright and how sharp a picture is, by a few numbers that change when a camera fogs up, slips or goes dark."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: One of so many rows is looked at, and for brightness one of so many columns: enough for a mean over a picture.
_ROWS: Final = 4
_CELLS: Final = 8


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a picture looks like to the model, at the size of its input.

    Attributes:
        brightness: mean level of all channels, 0 (black) to 1 (white).
        sharpness: mean absolute difference of neighbouring levels of green in a row, 0 to 1: the absolute gradient
            (GRA3 without a threshold in Pertuz, Puig and Garcia 2013, "Analysis of focus measure operators for
            shape-from-focus"). Fog and blur lower it; noise raises it.
    """

    brightness: float
    sharpness: float

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Appearance":
        """That of ``uint8 [H, W, 3]`` RGB pixels."""
        green = pixels[::_ROWS, :, 1].astype(np.int16)
        gradient = np.abs(green[:, 1:] - green[:, :-1])
        some = pixels[::_CELLS, ::_CELLS]
        # Sums of whole numbers cost half of what means do.
        return cls(int(some.sum()) / some.size / 255, int(gradient.sum()) / max(1, gradient.size) / 255)
