"""Where in a photo the evidence for a class lies: as numbers, and as a picture.

The numbers are the model's own class activation map, see ``Model.class_activation_map``.
"""

import io
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidParameter, quoted
from .classifier import Classifier, Prediction
from .contract import Contract
from .decode_budget import DecodeBudget
from .imaging import WHOLE, Crop, crop_box, load, preview

#: Longest side of a picture, in pixels.
LONGEST: Final = 1024
#: matplotlib's inferno (Smith and van der Walt 2015, CC0) at nine places: as the evidence rises, so does lightness.
_INFERNO: Final = np.array(
    [
        *((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)),
        *((228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)),
    ]
)
#: How much of the photo the strongest evidence covers.
_OPACITY: Final = 0.7
#: What is left of the light where the model does not look.
_DIMMED: Final = 0.4


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a photo's cells add up to one class's logit.

    Attributes:
        contract: the model's.
        prediction: the class that is explained, and its score.
        unknown: whether, by the model's own threshold, the photo shows none of its classes.
        box: what the model sees of the photo: left, upper, right, lower, as fractions of the upright photo's sides.
        evidence: ``float32 [h, w]``, what each cell of the box adds, rows from top to bottom. Their mean and ``bias``
            add up to the logit that the softmax or sigmoid reads, divided by the temperature already.
        bias: see ``Model.class_activation_map``.
        decode_s: seconds from bytes to pixels.
        infer_s: seconds from pixels to evidence.
    """

    contract: Contract
    prediction: Prediction
    unknown: bool
    box: tuple[float, float, float, float]
    evidence: NDArray[np.float32]
    bias: float
    decode_s: float
    infer_s: float


def class_of(contract: Contract, asked: str) -> int:
    """The index of the class that somebody asks for by its label, else its id, else its index.

    Raises:
        InvalidParameter: there is none, with labels that are nearly the same; or several have this label.
    """
    wanted = asked.strip().casefold()
    labels = [label.casefold() for label in contract.labels]
    named = [i for i, label in enumerate(labels) if label == wanted]
    if len(named) > 1:
        raise InvalidParameter(
            f"{len(named)} classes are called {quoted(asked)}. Ask for one by its index: {_either(named)}."
        )
    named += [i for i, id_ in enumerate(contract.ids) if id_ is not None and id_.casefold() == wanted]
    if wanted.isdecimal() and int(wanted) < len(labels):
        named.append(int(wanted))
    if named:
        return named[0]
    # Only somebody who mistypes waits for it.
    from difflib import get_close_matches

    near = get_close_matches(wanted, labels, 3)
    hint = f"Did you mean {_either([repr(contract.labels[labels.index(label)]) for label in near])}? " if near else ""
    raise InvalidParameter(
        f"No class has the label, id or index {quoted(asked)}. {hint}See /labels for all {len(labels)} classes."
    )


def explain(
    classifier: Classifier,
    data: bytes,
    index: int | None = None,
    *,
    exclusive: bool = False,
    crop: Crop = WHOLE,
) -> Explanation:
    """Classifies one encoded photo and says where the evidence for a class lies.

    Args:
        classifier: whose model is asked.
        data: the image file's bytes.
        index: the class; None: the best one.
        exclusive: no other photo is being worked on, so this one may use all CPUs.
        crop: the part of the photo that is classified.

    Raises:
        NotExplainable: as ``Model.class_activation_map`` does.
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
    """
    contract = classifier.contract
    started = time.perf_counter()
    pixels = load(data, contract.resize, classifier.decode_budget, crop)
    box = crop_box(data, contract.resize, crop)
    decoded = time.perf_counter()
    model = classifier.multithreaded if exclusive else classifier.model
    scores, unknown, evidence, bias = model.class_activation_map(pixels[np.newaxis], index)
    found = int(scores[0].argmax()) if index is None else index
    return Explanation(
        contract=contract,
        prediction=Prediction(contract.labels[found], found, contract.ids[found], float(scores[0, found])),
        unknown=bool(unknown[0]),
        box=box,
        evidence=evidence[0],
        bias=float(bias[0]),
        decode_s=decoded - started,
        infer_s=time.perf_counter() - decoded,
    )


def overlay(data: bytes, explanation: Explanation, decode_budget: DecodeBudget, crop: Crop = WHOLE) -> bytes:
    """The whole photo; the part that the model sees in grey, with the evidence for the class laid over it in colour.

    The rest is darkened. Evidence is drawn from none (transparent) to the strongest in this photo (yellow,
    ``_OPACITY``), smoothly between the cells' centres. What speaks against the class is not drawn.

    Args:
        data: the photo that was explained.
        explanation: what came of it.
        decode_budget: as ``imaging.load`` takes it.
        crop: the part that was explained.

    Returns:
        A PNG file, upright, its longer side ``LONGEST`` pixels or less.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
    """
    photo = preview(data, LONGEST, decode_budget)
    height, width = photo.shape[:2]
    left, right = (round(edge * width) for edge in explanation.box[::2])
    upper, lower = (round(edge * height) for edge in explanation.box[1::2])
    # A photo or its part may be so thin that nothing of the box is left.
    left, upper = min(left, width - 1), min(upper, height - 1)
    right, lower = max(right, left + 1), max(lower, upper + 1)
    strength = np.maximum(explanation.evidence, 0)
    strength = strength / (strength.max() or 1.0)
    smooth = Image.fromarray(strength).resize((right - left, lower - upper), Image.Resampling.BILINEAR)
    # What a model pads a photo with is not drawn.
    first_x, first_y, end_x, end_y = crop.pixels(width, height)
    heat = np.asarray(smooth)[max(0, first_y - upper) : end_y - upper, max(0, first_x - left) : end_x - left]
    upper, lower, left, right = max(first_y, upper), min(end_y, lower), max(first_x, left), min(end_x, right)
    lower, right = upper + heat.shape[0], left + heat.shape[1]
    # Without colours of its own, which would read as heat; ITU-R BT.601 luma.
    seen = (photo[upper:lower, left:right] @ np.array([0.299, 0.587, 0.114], np.float32))[..., np.newaxis]
    places = np.linspace(0, 1, len(_INFERNO))
    table = np.stack([np.interp(np.linspace(0, 1, 256), places, channel) for channel in _INFERNO.T], axis=1)
    colours = table[np.round(heat * 255).astype(np.intp)].astype(np.float32)
    opacity = heat[..., np.newaxis] * np.float32(_OPACITY)

    picture = (photo * np.float32(_DIMMED)).astype(np.uint8)
    picture[upper:lower, left:right] = seen + opacity * (colours - seen)
    buffer = io.BytesIO()
    # The default level takes three times as long and saves a twentieth.
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _either(names: list[str] | list[int]) -> str:
    return " or ".join(map(str, names))
