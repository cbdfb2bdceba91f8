"""How bright a picture is and how much it varies: a covered lens, a dark yard and a grey frame have labels too."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: ITU-R BT.601.
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
#: Every so many rows and columns are looked at.
_STEP: Final = 4


@dataclass(frozen=True, slots=True)
class Light:
    """Mean and standard deviation of a picture's luma, as shares of its range: 0 to 1, and 0 (one flat tone) to 0.5."""

    brightness: float
    contrast: float


def light(pixels: NDArray[np.uint8]) -> Light:
    """Of ``uint8 [H, W, 3]``, the model's input, RGB."""
    luma = pixels[::_STEP, ::_STEP].astype(np.float32) @ _LUMA
    return Light(round(float(luma.mean()) / 255, 4), round(float(luma.std()) / 255, 4))
