"""How bright, varied and sharp a picture is: what changes when a camera fogs up, slips, goes dark or is covered."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: ITU-R BT.601.
_LUMA: Final = np.array([0.299, 0.587, 0.114])
#: One of so many rows is looked at, and for luma one of so many columns: enough for a mean over a picture.
_CELLS: Final = 8


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a picture looks like to the model, at the size of its input.

    Attributes:
        brightness: mean luma, 0 (black) to 1 (white).
        contrast: standard deviation of luma, 0 (one flat tone) to 0.5.
        sharpness: mean absolute difference of neighbouring levels of green in a row, 0 to 1: the absolute gradient
            (GRA3 without a threshold in Pertuz, Puig and Garcia 2013, "Analysis of focus measure operators for
            shape-from-focus"). Fog and blur lower it; noise raises it.
    """

    brightness: float
    contrast: float
    sharpness: float

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], shown: NDArray[np.bool_] | None = None) -> "Appearance":
        """That of ``uint8 [H, W, 3]`` RGB pixels, where ``bool [H, W]`` says so; of all where none of them counts."""
        green = pixels[::_CELLS, :, 1].astype(np.int16)
        gradient = np.abs(green[:, 1:] - green[:, :-1])
        # The middle of each cell; of a picture smaller than one, what there is.
        rows, columns = (slice(min(_CELLS // 2, side - 1), None, _CELLS) for side in pixels.shape[:2])
        # No matrix product: numpy's takes 30 MB for its buffers, more than a small model.
        luma = np.einsum("ij,j->i", pixels[rows, columns].reshape(-1, 3).astype(np.float64), _LUMA)
        if shown is not None and shown[rows, columns].any():
            luma = luma[shown[rows, columns].ravel()]
            gradient = gradient[(shown[:, 1:] & shown[:, :-1])[::_CELLS]]
        # Sums cost a third of what numpy's mean and std do, which matters for every photo.
        brightness = float(luma.sum()) / luma.size
        variance = float((luma * luma).sum()) / luma.size - brightness**2
        sharpness = int(gradient.sum()) / max(1, gradient.size)
        return cls(*(round(level / 255, 4) for level in (brightness, math.sqrt(max(0.0, variance)), sharpness)))
