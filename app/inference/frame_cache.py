"""A quiet camera costs nothing: a frame that shows what the last one showed gets the scores of the last one.

The rule: both frames are brought to the model's input and averaged over 16 x 16 cells, by channel (a block mean value
hash: Yang, Gu and Niu 2006, "Block mean value based image perceptual hashing"). They count as the same if no cell
differs by more than ``max_difference`` levels of 255, if the older one was scored at most ``max_age_s`` ago, and if the
same model scored it. A mean over some hundred pixels hardly feels the noise of a sensor, and does feel a small thing
that comes into the picture. A frame is always compared with one that was really scored, so slow changes add up until
they are seen.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .contract import Contract
from .model import Scored

#: Cells in a row and in a column.
CELLS: Final = 16
#: Cameras, or parts of what they see, remembered at once; the one that was not heard of for longest is forgotten first.
_MAX_CAMERAS: Final = 256


@dataclass(frozen=True, slots=True)
class _Frame:
    contract: Contract
    cells: NDArray[np.float32]
    scored: Scored
    scored_at: float


class CameraCache:
    """The last frame of one camera, or of a part of what it sees, that was scored; several threads may ask at once."""

    __slots__ = ("_last", "_max_age_s", "_max_difference")

    def __init__(self, max_age_s: float, max_difference: float) -> None:
        self._max_age_s = max_age_s
        self._max_difference = max_difference
        self._last: _Frame | None = None

    def scores(self, contract: Contract, pixels: NDArray[np.uint8], infer: Callable[[], Scored]) -> tuple[Scored, bool]:
        """What is said about a frame, and whether it was said about an earlier one.

        Args:
            contract: of the model that is asked.
            pixels: ``uint8 [H, W, 3]``, the model's input.
            infer: asks the model.
        """
        # One read and one write of a reference: a thread that comes in between at worst computes once more.
        cells, last, now = cell_means(pixels), self._last, time.monotonic()
        if (
            last is not None
            and last.contract is contract
            and now - last.scored_at <= self._max_age_s
            and np.abs(cells - last.cells).max() <= self._max_difference
        ):
            return last.scored, True
        scored = infer()
        self._last = _Frame(contract, cells, scored, now)
        return scored, False


class FrameCache:
    """The cameras that are remembered; asked from the event loop only."""

    def __init__(self, max_age_s: float, max_difference: float) -> None:
        """Remembers nothing yet.

        Args:
            max_age_s: seconds for which scores may be given again; 0 switches remembering off.
            max_difference: of a cell's mean, in levels of 255.
        """
        self._max_age_s = max_age_s
        self._max_difference = max_difference
        self._cameras: OrderedDict[Hashable, CameraCache] = OrderedDict()

    def camera(self, name: Hashable) -> CameraCache | None:
        """What is remembered of a camera, or of one part of what it sees; None where remembering is off."""
        if not self._max_age_s:
            return None
        camera = self._cameras.pop(name, None) or CameraCache(self._max_age_s, self._max_difference)
        self._cameras[name] = camera
        if len(self._cameras) > _MAX_CAMERAS:
            self._cameras.popitem(last=False)
        return camera


def cell_means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours over a grid.

    Args:
        pixels: ``uint8 [H, W, 3]``.

    Returns:
        ``float32 [min(H, CELLS), min(W, CELLS), 3]``, 0 to 255.
    """
    height, width, _ = pixels.shape
    # A picture of fewer pixels than cells has no cells between them.
    rows, columns = (np.arange(min(side, CELLS)) * side // min(side, CELLS) for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    means: NDArray[np.float32] = (sums / counts[:, :, np.newaxis]).astype(np.float32)
    return means
