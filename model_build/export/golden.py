"""The golden photo: a picture whose scores every copy of a model has to reproduce before it serves."""

import io
from typing import Final

import numpy as np

from app.inference import imaging
from app.inference.contract import Golden
from app.inference.imaging import Resize
from app.inference.model import Model
from model_build.dataset.photos import DECODE_BUDGET, picture

_CANDIDATES: Final = 24
_TOP: Final = 5
#: fp32 kernels differ in the last bits between processors, int8 ones in the rounding of a few activations.
TOLERANCE: Final = {"fp32": 0.01, "int8": 0.1}


def choose(model: Model) -> bytes:
    """The generated picture, as JPEG, that the model is surest about: a confident answer is the easiest to lose."""

    def confidence(photo: bytes) -> float:
        return float(model(imaging.load(photo, model.contract.resize, DECODE_BUDGET)[np.newaxis]).max())

    return max((_jpeg(seed, model.contract.resize) for seed in range(_CANDIDATES)), key=confidence)


def expect(model: Model, photo: bytes) -> Golden:
    """The golden sample for this model: the photo with the scores of its best classes."""
    scores = model(imaging.load(photo, model.contract.resize, DECODE_BUDGET)[np.newaxis])[0]
    best = np.argsort(-scores, kind="stable")[:_TOP]
    return Golden(
        photo=photo,
        scores={int(i): round(float(scores[i]), 6) for i in best},
        tolerance=TOLERANCE[model.contract.precision],
        label=model.contract.labels[int(best[0])],
    )


def _jpeg(seed: int, resize: Resize) -> bytes:
    buffer = io.BytesIO()
    picture(seed, resize.width * 5 // 4, resize.height).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
