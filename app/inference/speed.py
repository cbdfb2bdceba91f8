"""How long models take for a picture on this CPU."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from .model import Model

#: Rounds; the best counts, because whatever else the machine does can only add.
_ROUNDS: Final = 9


def cpu_seconds(models: Sequence[Model], within_s: float = float("inf")) -> list[float]:
    """The least CPU time that each of several models takes for one picture, measured in turns.

    CPU time does not depend on how busy the machine is. It is the calling thread's, so the models have to be loaded for
    one thread.

    Args:
        models: what to compare.
        within_s: no further round is begun that would end after so many seconds; the first one is always done.

    Returns:
        Seconds, in the order of ``models``.
    """
    pictures = [np.zeros((1, m.contract.resize.height, m.contract.resize.width, 3), np.uint8) for m in models]
    best = [float("inf")] * len(models)
    begun = time.perf_counter()
    for done in range(1, _ROUNDS + 1):
        for i, (model, picture) in enumerate(zip(models, pictures, strict=True)):
            started = time.thread_time()
            model(picture)
            best[i] = min(best[i], time.thread_time() - started)
        spent = time.perf_counter() - begun
        if spent * (done + 1) / done > within_s:
            break
    return best
