"""``/predict``, ``/predict/batch`` and ``/predict/regions``."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, model_validator
from pydantic_core import to_json

from ...inference.classifier import Result
from ...inference.imaging import WHOLE, Crop, Polygon, View
from .common import CROP, LABELS, UNKNOWN, CropParameter, GroupOut, ModelQuery, ModelRef, PredictionOut, Timing, part
from .problem import Problem

_PREDICTIONS = [
    {"label": "school bus", "index": 779, "id": "n04146614", "score": 0.9312},
    {"label": "minibus", "index": 654, "id": "n03769881", "score": 0.0121},
]
_GROUPS = [{"label": "bus", "score": 0.9433}, {"label": "truck", "score": 0.0211}]

_IN_GROUPS = (
    "Everyday names, best first, each with the sum of its classes' scores (of a model that is `multi_label` the best "
    "of them): at most `top_k`, none below `min_score`; empty where the model has no groups."
)

_CACHED = "The scores are those of an earlier, near-identical frame of the same camera (`CLASSIFIER_CACHE_SECONDS`)."


#: Regions of a request, masks of a region, and numbers of a mask, two for each corner.
_MOST_REGIONS: Final = 16
_MOST_MASKS: Final = 8
_MOST_NUMBERS: Final = 64


class _Asked(ModelQuery):
    """What can be asked of a photo, and of a part of it."""

    top_k: int = Field(
        5,
        ge=1,
        description="How many classes, and how many groups, to return at most, best first; from 1 to the number of "
        "classes.",
    )
    min_score: float = Field(0.0, ge=0.0, le=1.0, description="Leave out classes and groups with a lower score.")
    view: Literal["classes", "groups"] = Field(
        "classes",
        description="`groups`: `predictions` has the classes of the best group alone; of a model without groups, all.",
    )
    camera: str | None = Field(
        None,
        max_length=64,
        description="Whose earlier frames the photo may be like, where such frames are remembered; default: the "
        "client's address.",
    )


class PredictQuery(_Asked):
    """What ``/predict`` can be asked."""

    crop: CropParameter = Field(None, description=CROP)


_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Region(BaseModel):
    """A part of a photo, in shares of the upright photo's sides."""

    model_config = ConfigDict(extra="forbid")

    crop: list[_Share] | None = Field(
        None, min_length=4, max_length=4, description="Left edge, upper edge, width and height; none: the whole photo."
    )
    fit: Literal["crop", "squash", "pad"] | None = Field(
        None,
        description="What is seen of a region of another shape than the model's input, in place of the model's own "
        "rule: the largest box with the input's shape in its middle (`crop`), all of it, distorted (`squash`), or all "
        "of it, with grey beside it (`pad`).",
    )
    masks: list[Annotated[list[_Share], Field(min_length=4, max_length=_MOST_NUMBERS)]] = Field(
        [],
        max_length=_MOST_MASKS,
        description="What the model does not see, but grey: rectangles (left edge, upper edge, width, height) and "
        "polygons (x and y of three corners or more). They are measured on the photo, not on the region.",
    )

    @model_validator(mode="after")
    def _lies_in_the_photo(self) -> "Region":
        self.view()
        return self

    def view(self) -> View:
        """As the core takes it; raises ValueError if it reaches over the photo's edge, or is empty."""
        return View(
            WHOLE if self.crop is None else part(self.crop), self.fit, tuple(_polygon(mask) for mask in self.masks)
        )


def _polygon(numbers: Sequence[float]) -> Polygon:
    if len(numbers) == 4:
        box: Crop = part(numbers)
        return ((box.left, box.upper), (box.right, box.upper), (box.right, box.lower), (box.left, box.lower))
    if len(numbers) % 2:
        raise ValueError("a mask is left edge, upper edge, width and height, or x and y of three corners or more")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


class RegionsQuery(_Asked):
    """What ``/predict/regions`` can be asked."""

    regions: Json[Annotated[list[Region], Field(min_length=1, max_length=_MOST_REGIONS)]] = Field(
        description=f"The parts of the photo, as JSON: 1 to {_MOST_REGIONS}.",
        examples=[
            '[{"crop": [0.25, 0.5, 0.2, 0.3]}, {"crop": [0, 0, 1, 0.4], "fit": "pad", "masks": [[0, 0, 0.3, 0.1]]}]'
        ],
    )


class Appearance(BaseModel):
    """What the model saw of the photo: what changes when a camera is covered, goes dark or fogs up."""

    brightness: float = Field(examples=[0.4519], description="Mean luma, 0 (black) to 1 (white).")
    contrast: float = Field(
        examples=[0.2268], description="Standard deviation of the luma, 0 (one flat tone, as of a covered lens) to 0.5."
    )
    sharpness: float = Field(
        examples=[0.0412], description="Mean difference of neighbouring pixels, 0 to 1; fog and blur lower it."
    )


class PredictResponse(BaseModel):
    """The answer for one photo."""

    model: ModelRef
    groups: list[GroupOut] = Field(examples=[_GROUPS], description=_IN_GROUPS)
    predictions: list[PredictionOut] = Field(examples=[_PREDICTIONS])
    labels: list[str] = Field(examples=[["school bus"]], description=LABELS)
    unknown: bool = Field(examples=[False], description=UNKNOWN)
    cached: bool = Field(examples=[False], description=_CACHED)
    appearance: Appearance
    timing_ms: Timing
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])

    @staticmethod
    def encode(result: Result, queued_s: float, request_id: str) -> bytes:
        """The answer's JSON from the core's result; ``queued_s`` in seconds.

        Not by way of the models: what the core computed needs no validation, and every photo waits for it. A test
        holds the two against each other.
        """
        return to_json(
            {
                "model": _model(result),
                **_said(result),
                "timing_ms": _timing(queued_s, result.decode_s, result.infer_s),
                "request_id": request_id,
            }
        )


class RegionResult(BaseModel):
    """The answer for one part of a photo."""

    groups: list[GroupOut] = Field(examples=[_GROUPS], description=_IN_GROUPS)
    predictions: list[PredictionOut] = Field(examples=[_PREDICTIONS])
    labels: list[str] = Field(examples=[["school bus"]], description=LABELS)
    unknown: bool = Field(examples=[False], description=UNKNOWN)
    cached: bool = Field(examples=[False], description=_CACHED)
    appearance: Appearance


class RegionsResponse(BaseModel):
    """One result per part of the photo, in the order in which they were asked for; ``timing_ms`` is of all together."""

    model: ModelRef
    results: list[RegionResult]
    timing_ms: Timing
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])

    @staticmethod
    def encode(results: Sequence[Result], queued_s: float, request_id: str) -> bytes:
        """The answer's JSON from the core's results, as ``PredictResponse.encode``."""
        return to_json(
            {
                "model": _model(results[0]),
                "results": [_said(result) for result in results],
                "timing_ms": _timing(queued_s, results[0].decode_s, sum(result.infer_s for result in results)),
                "request_id": request_id,
            }
        )


def _model(result: Result) -> dict[str, str]:
    return {"name": result.contract.name, "version": result.contract.version}


def _said(result: Result) -> dict[str, Any]:
    return {
        "groups": result.groups,
        "predictions": result.predictions,
        "labels": result.labels,
        "unknown": result.unknown,
        "cached": result.cached,
        "appearance": result.sight.appearance,
    }


def _timing(queued_s: float, decode_s: float, infer_s: float) -> dict[str, float]:
    """Seconds to milliseconds, to the microsecond."""
    return {
        "queue": round(queued_s * 1e3, 3),
        "decode": round(decode_s * 1e3, 3),
        "infer": round(infer_s * 1e3, 3),
    }


class BatchResult(BaseModel):
    """The answer for one photo of a batch."""

    groups: list[GroupOut] = Field(examples=[_GROUPS], description=_IN_GROUPS)
    predictions: list[PredictionOut] = Field(examples=[_PREDICTIONS])
    labels: list[str] = Field(examples=[["school bus"]], description=LABELS)
    unknown: bool = Field(examples=[False], description=UNKNOWN)
    timing_ms: Timing


class BatchProblem(BaseModel):
    """What is wrong with one photo of a batch, alone."""

    problem: Problem


class BatchResponse(BaseModel):
    """One result per photo, in the order in which they were sent."""

    model: ModelRef
    results: list[BatchResult | BatchProblem]
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])


def groups(result: Result) -> list[GroupOut]:
    """The ranked groups as they go over the wire."""
    return [GroupOut(label=group.label, score=group.score) for group in result.groups]


def predictions(result: Result) -> list[PredictionOut]:
    """The ranked classes as they go over the wire."""
    return [PredictionOut(label=p.label, index=p.index, id=p.id, score=p.score) for p in result.predictions]
