"""``/predict`` and ``/predict/batch``."""

from typing import Literal

from pydantic import BaseModel, Field
from pydantic_core import to_json

from ...inference.classifier import Result
from .common import CROP, LABELS, UNKNOWN, CropParameter, GroupOut, ModelQuery, ModelRef, PredictionOut, Timing
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


class PredictQuery(ModelQuery):
    """What ``/predict`` can be asked."""

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
    crop: CropParameter = Field(None, description=CROP)


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
        contract = result.contract
        return to_json(
            {
                "model": {"name": contract.name, "version": contract.version},
                "groups": result.groups,
                "predictions": result.predictions,
                "labels": result.labels,
                "unknown": result.unknown,
                "cached": result.cached,
                "appearance": result.sight.appearance,
                "timing_ms": {
                    "queue": round(queued_s * 1e3, 3),
                    "decode": round(result.decode_s * 1e3, 3),
                    "infer": round(result.infer_s * 1e3, 3),
                },
                "request_id": request_id,
            }
        )


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
