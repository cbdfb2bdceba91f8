"""Whether an exported model gives the scores of its source. A build that exceeds the limits writes nothing."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference.model import Model
from model_build.dataset.photos import Photos
from model_build.errors import ParityError
from model_build.export.output import Output
from model_build.export.preprocessing import Affine
from model_build.network.weights import Classifier

#: The largest difference of a score between Keras and the fp32 file.
MAX_DIFFERENCE: Final = 1e-4
#: Scores that are closer than twice this may change places with the last bit of a rounding.
_TIE: Final = 1e-6
_SOURCES: Final = {"keras": "Keras", "onnx": "the ONNX file that it was made from"}
#: A source is decided on a photo if its best score leads the second by this much. Closer pairs flip with the last bit
#: of a rounding, which says something about the photo and nothing about the quantization.
DECIDED: Final = 0.2


@dataclass(frozen=True, slots=True)
class Int8Limits:
    """How far int8 may be from fp32.

    Attributes:
        agreement: the least share of photos with the same top-1, 0 to 1, among those that fp32 is decided on.
        accuracy_drop: the most top-1 accuracy that may be lost, as a share, where the photos have classes.
    """

    agreement: float = 0.98
    accuracy_drop: float = 0.01


@dataclass(frozen=True, slots=True)
class Parity:
    """One model against its source, over the same pixels.

    Attributes:
        against: ``keras``, ``onnx`` or ``fp32``.
        photos: how many pictures.
        generated: whether they are generated.
        max_difference: of any score.
        agreement: share of pictures with the same top-1.
        decided: pictures on which the source's best score leads by ``DECIDED`` or more.
        decided_agreement: share of those with the same top-1; None where there are none.
        accuracy: top-1 accuracy of this model; None where the pictures have no classes.
        source_accuracy: that of its source.
    """

    against: str
    photos: int
    generated: bool
    max_difference: float
    agreement: float
    decided: int
    decided_agreement: float | None
    accuracy: float | None
    source_accuracy: float | None

    def as_metadata(self) -> dict[str, Any]:
        """For the contract, rounded to what is meant."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def compare(against: str, scores: NDArray[np.float32], source: NDArray[np.float32], photos: Photos) -> Parity:
    """Compares ``float32 [N, C]`` scores with those of the source."""
    top, source_top = scores.argmax(axis=1), source.argmax(axis=1)
    best = np.sort(source, axis=1)
    decided = best[:, -1] - best[:, -2] >= DECIDED
    return Parity(
        against=against,
        photos=len(scores),
        generated=photos.generated,
        max_difference=float(np.abs(scores - source).max()),
        agreement=float((top == source_top).mean()),
        decided=int(decided.sum()),
        decided_agreement=float((top == source_top)[decided].mean()) if decided.any() else None,
        accuracy=float((top == photos.classes).mean()) if photos.labelled else None,
        source_accuracy=float((source_top == photos.classes).mean()) if photos.labelled else None,
    )


def check_fp32(parity: Parity) -> None:
    """Raises ParityError unless every score is within ``MAX_DIFFERENCE`` and every top-1 is the same, ties apart."""
    if not parity.max_difference <= MAX_DIFFERENCE or (parity.agreement < 1.0 and parity.max_difference > _TIE):
        raise ParityError(
            f"the fp32 model differs from {_SOURCES[parity.against]}: a score by up to {parity.max_difference:.2e} "
            f"(allowed: {MAX_DIFFERENCE:.0e}), top-1 the same on {parity.agreement:.1%} of {parity.photos} pictures "
            "(needed: 100 %). No model was written."
        )


def check_int8(parity: Parity, limits: Int8Limits) -> None:
    """Raises ParityError if int8 is further from fp32 than ``limits`` allow."""
    drop = (parity.source_accuracy or 0.0) - (parity.accuracy or 0.0)
    agreement = 1.0 if parity.decided_agreement is None else parity.decided_agreement
    if agreement < limits.agreement or drop > limits.accuracy_drop:
        raise ParityError(
            f"int8 differs from fp32: top-1 the same on {agreement:.1%} of the {parity.decided} photos that fp32 is "
            f"decided on (needed: {limits.agreement:.1%}), accuracy {drop:+.1%} lower (allowed: "
            f"{limits.accuracy_drop:.1%}). No model was written. More or better calibration photos help; "
            "--precision fp32 does without int8."
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
    batches = (prepare.apply(pixels[start : start + 25]) for start in track(range(0, len(pixels), 25)))
    return output.scores(np.concatenate([np.asarray(model(batch, training=False)) for batch in batches]))


def onnx_scores(model: Model, pixels: NDArray[np.uint8], track: Any = iter) -> NDArray[np.float32]:
    """The served model's scores, picture by picture as in service: ``float32 [N, C]``."""
    return np.concatenate([model(pixels[i : i + 1]) for i in track(range(len(pixels)))])
