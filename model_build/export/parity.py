"""Whether an exported model gives the scores of its source. A build that exceeds the limits writes nothing."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference.model import Model
from model_build.dataset.intervals import wilson
from model_build.dataset.photos import Photos
from model_build.errors import ParityError
from model_build.export.output import Output
from model_build.export.preprocessing import Affine
from model_build.network.weights import Classifier

#: The largest difference of a score between Keras and the fp32 file.
MAX_DIFFERENCE: Final = 1e-4
#: The same where the source itself rounds coarsely (half precision, int8): with the last bit of a rounding in front of
#: it, a value falls onto the next step of the grid. With dynamic quantization, scores of a small network differed by
#: 0.015.
MAX_COARSE_DIFFERENCE: Final = 0.05
#: Scores that are closer than twice this may change places with the last bit of a rounding.
_TIE: Final = 1e-6
_SOURCES: Final = {"keras": "Keras", "onnx": "the ONNX file that it was made from"}
#: A source is decided on a photo if its best score leads the second by this much. Closer pairs flip with the last bit
#: of a rounding, which says something about the photo and little about the quantization.
DECIDED: Final = 0.2
#: With fewer held-out photos than this, figures mean little: at 98 % of 50, the 95 % interval spans ten points.
FEW: Final = 50
#: Pictures that the source is shown at a time. Keras keeps all layers' results of them: 2.2 GB for 25 of MobileNetV2.
_BATCH: Final = 4
#: Two-sided 95 % of a normal distribution, in standard deviations.
_Z: Final = 1.96


@dataclass(frozen=True, slots=True)
class Int8Limits:
    """How far int8 may be from fp32. A few photos cannot say that it is further: the interval of 95 % has to.

    Attributes:
        agreement: the least share of photos with the same top-1, 0 to 1.
        accuracy_drop: the most top-1 accuracy that may be lost, as a share, where the photos have classes.
    """

    agreement: float = 0.85
    accuracy_drop: float = 0.01


@dataclass(frozen=True, slots=True)
class Parity:
    """One model against its source, over the same pixels, none of which it was made with.

    Attributes:
        against: ``keras``, ``onnx`` or ``fp32``.
        photos: how many pictures.
        held_out: whether they are photos that were held out; generated pictures are not.
        max_difference: of any score.
        agreement: share of pictures with the same top-1; of a multi-label model, with the same labels.
        agreement_interval: its 95 % interval.
        decided: pictures on which the source's best score leads by ``DECIDED`` or more; of a multi-label model, on
            which no score is within half of that of the threshold.
        decided_agreement: share of those that agree; None where there are none.
        accuracy: top-1 accuracy of this model; None where the pictures have no classes.
        accuracy_interval: its 95 % interval.
        source_accuracy: that of its source.
        least_drop: the lower end of the 95 % interval of the accuracy lost, as a share (paired: only pictures on which
            one of the two is right count; Agresti, "Categorical Data Analysis", section 11.1).
    """

    against: str
    photos: int
    held_out: bool
    max_difference: float
    agreement: float
    agreement_interval: tuple[float, float]
    decided: int
    decided_agreement: float | None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    source_accuracy: float | None = None
    least_drop: float | None = None

    def as_metadata(self) -> dict[str, Any]:
        """For the contract, rounded to what is meant."""
        return {key: _rounded(value) for key, value in asdict(self).items() if key != "least_drop"}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def compare(
    against: str,
    scores: NDArray[np.float32],
    source: NDArray[np.float32],
    photos: Photos,
    threshold: float | None = None,
) -> Parity:
    """Compares ``float32 [N, C]`` scores with those of the source.

    ``threshold`` is the score from which on a picture shows a class, where the scores are independent; else None.
    """
    top, source_top = scores.argmax(axis=1), source.argmax(axis=1)
    if threshold is None:
        best = np.sort(source, axis=1)
        decided = best[:, -1] - best[:, -2] >= DECIDED
        same = top == source_top
    else:
        decided = np.abs(source - threshold).min(axis=1) >= DECIDED / 2
        # Within a rounding of the threshold it may fall on either side of it.
        shown, ties = (scores >= threshold) == (source >= threshold), np.abs(source - threshold) < _TIE
        same = (shown | ties).all(axis=1)
    count = len(scores)
    found = Parity(
        against=against,
        photos=count,
        held_out=not photos.generated,
        max_difference=float(np.abs(scores - source).max()),
        agreement=float(same.mean()),
        agreement_interval=wilson(int(same.sum()), count),
        decided=int(decided.sum()),
        decided_agreement=float(same[decided].mean()) if decided.any() else None,
    )
    # One class a photo says nothing about the others.
    if not photos.labelled or threshold is not None:
        return found
    right, source_right = top == photos.classes, source_top == photos.classes
    lost, won = int((source_right & ~right).sum()), int((right & ~source_right).sum())
    spread = math.sqrt(max(0.0, lost + won - (lost - won) ** 2 / count))
    return replace(
        found,
        accuracy=float(right.mean()),
        accuracy_interval=wilson(int(right.sum()), count),
        source_accuracy=float(source_right.mean()),
        least_drop=(lost - won - _Z * spread) / count,
    )


def check_source(parity: Parity, *, coarse: bool) -> None:
    """Raises ParityError unless every score is within ``MAX_DIFFERENCE`` and every top-1 is the same, ties apart.

    Where the source rounds coarsely (``coarse``), within ``MAX_COARSE_DIFFERENCE``, and wherever the source is decided.
    """
    if coarse:
        allowed, same = MAX_COARSE_DIFFERENCE, parity.decided_agreement in (1.0, None)
    else:
        allowed, same = MAX_DIFFERENCE, parity.agreement == 1.0 or parity.max_difference <= _TIE
    if not (parity.max_difference <= allowed and same):
        raise ParityError(
            f"the exported model differs from {_SOURCES[parity.against]}: a score by up to {parity.max_difference:.2e} "
            f"(allowed: {allowed:.0e}), top-1 the same on {parity.agreement:.1%} of {parity.photos} pictures "
            "(needed: 100 %). No model was written."
        )


def check_int8(parity: Parity, limits: Int8Limits) -> None:
    """Raises ParityError if int8 is surely further from fp32 than ``limits`` allow."""
    low, high = parity.agreement_interval
    drop = (parity.source_accuracy or 0.0) - (parity.accuracy or 0.0)
    if high < limits.agreement or (parity.least_drop or 0.0) > limits.accuracy_drop:
        raise ParityError(
            f"int8 differs from fp32: top-1 the same on {parity.agreement:.1%} of the photos (held out, n = "
            f"{parity.photos}, 95 % interval: {low:.1%} to {high:.1%}; needed: {limits.agreement:.1%}), accuracy "
            f"{drop:+.1%} lower (allowed: "
            f"{limits.accuracy_drop:.1%}). No model was written. More or better photos to calibrate on help, and "
            "--distill helps more; --precision fp32 does without int8."
        )


def source_scores(
    model: Classifier, output: Output, prepare: Affine, pixels: NDArray[np.uint8], track: Any = iter
) -> NDArray[np.float32]:
    """What the source itself predicts, as ``float32 [N, C]`` softmax scores.

    Args:
        model: the source.
        output: what it puts out, as its graph says.
        prepare: what has to be done to pixels before it sees them.
        pixels: ``uint8 [N, H, W, 3]``.
        track: wraps the iteration, to show progress.

    Raises:
        InputError: the model puts out something else.
    """
    starts = track(range(0, len(pixels), _BATCH))
    batches = (prepare.apply(pixels[start : start + _BATCH]) for start in starts)
    return output.scores(np.concatenate([np.asarray(model(batch, training=False)) for batch in batches]))


def onnx_scores(model: Model, pixels: NDArray[np.uint8], track: Any = iter) -> NDArray[np.float32]:
    """The served model's scores, picture by picture as in service: ``float32 [N, C]``."""
    return np.concatenate([model(pixels[i : i + 1]) for i in track(range(len(pixels)))])
