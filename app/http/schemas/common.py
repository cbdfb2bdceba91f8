"""What several routes share."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ...inference.class_activation_map import Explanation
from ...inference.classifier import Result
from ...inference.imaging import Crop

#: An example of a photo: a 2 x 2 grey PNG, as base64.
TINY_PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGNsYGBiYAAAApIAhPd8o1gAAAAASUVORK5CYII="

#: What ``unknown`` says, wherever it is said.
UNKNOWN: Final = "By the model's own threshold, the photo shows none of its classes."

#: What ``labels`` says, likewise.
LABELS: Final = (
    "What the photo shows, by the model's own threshold: the best class, or of a model that is `multi_label` every "
    "class from the threshold on, best first; empty where it is `unknown`. `top_k`, `min_score` and `view` change "
    "nothing about it."
)

#: Longest text that is read as a crop: four numbers with all their digits.
_MAX_CROP: Final = 100
#: By how much a crop may reach over the photo's edge, because shares that are rounded may add up to more than 1.
_ROUNDING: Final = 1e-6


def _crop(given: Any) -> Crop | None:
    """Reads ``x,y,w,h``; raises ValueError, with what is meant."""
    if given is None or isinstance(given, Crop):
        return given
    parts = str(given).split(",")
    if len(str(given)) > _MAX_CROP or len(parts) != 4:
        raise ValueError("a crop is four numbers: left edge, upper edge, width, height, e.g. 0.25,0.5,0.2,0.3")
    numbers = [float(part) for part in parts if part.isascii() and "_" not in part]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError("a crop's four numbers are shares of the photo's sides, from 0 to 1")
    return part(numbers)


def part(numbers: Sequence[float]) -> Crop:
    """The part of a photo with this left edge, upper edge, width and height; raises ValueError if it is none."""
    left, upper, width, height = numbers
    if min(left, upper) < 0 or max(left + width, upper + height) > 1 + _ROUNDING:
        raise ValueError("the crop reaches over the photo's edge; its numbers are shares of the upright photo's sides")
    if min(width, height) <= 0:
        raise ValueError("the crop's width and height have to be more than 0")
    return Crop(left, upper, min(1.0, left + width), min(1.0, upper + height))


#: A part of a photo, as a parameter: ``crop=x,y,w,h``.
CropParameter = Annotated[
    Crop | None,
    BeforeValidator(_crop),
    WithJsonSchema({"type": "string", "maxLength": _MAX_CROP, "examples": ["0.25,0.5,0.2,0.3"]}),
]
CROP: Final = (
    "Classify this part of the upright photo alone, as if it had been cut out and sent by itself: left edge, upper "
    "edge, width and height, as shares of the photo's sides, e.g. `0.25,0.5,0.2,0.3`. One a request; "
    "`/predict/regions` takes several."
)


class ModelQuery(BaseModel):
    """Which model is meant; an unknown parameter is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Name of the model (see `/models`); none: the default one.")


class ModelRef(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    version: str = Field(examples=["1dc64d187195"])


class PredictionOut(BaseModel):
    """One class."""

    label: str = Field(examples=["school bus"])
    index: int = Field(examples=[779], description="Index of the class in the model's output, from 0.")
    id: str | None = Field(examples=["n04146614"], description="WordNet id, where the model knows it.")
    score: float = Field(
        examples=[0.9312],
        description="0 to 1. All classes together have 1; of a model that is `multi_label` each is independent.",
    )


class GroupOut(BaseModel):
    """Classes that go by one everyday name."""

    label: str = Field(examples=["bus"])
    score: float = Field(
        examples=[0.9433],
        description="The sum of its classes' scores, 0 to 1; of a model that is `multi_label` the best of them.",
    )


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="Waiting for a worker.", examples=[0.1])
    decode: float = Field(description="Bytes to pixels.", examples=[2.1])
    infer: float = Field(description="Pixels to ranked scores.", examples=[3.2])


def timing(result: Result | Explanation, queued_s: float) -> Timing:
    """Seconds to milliseconds, to the microsecond."""
    return Timing(
        queue=round(queued_s * 1e3, 3), decode=round(result.decode_s * 1e3, 3), infer=round(result.infer_s * 1e3, 3)
    )
