"""``/explain``."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .common import CROP, UNKNOWN, CropParameter, ModelRef, PredictionOut, Timing


class ExplainQuery(BaseModel):
    """What ``/explain`` can be asked; an unknown parameter is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="The class to explain: its label, else its id, else its index. Unset: the one with the best score.",
        examples=["school bus", "n04146614", "779"],
    )
    format: Literal["json", "png"] = Field("json", description="Numbers, or the photo with the evidence drawn on it.")
    model: str | None = Field(None, description="Name of the model to ask. Unset: the default one.")
    crop: CropParameter = Field(None, description=CROP)


class Box(BaseModel):
    """The part of the photo that the model sees, as fractions of the upright photo's width and height.

    Outside of the photo, or of the part of it that was asked for, is the grey that a model pads photos with.
    """

    left: float = Field(examples=[0.172])
    upper: float = Field(examples=[0.0625])
    right: float = Field(examples=[0.828])
    lower: float = Field(examples=[0.9375])


class ExplainResponse(BaseModel):
    """Where in one photo the evidence for a class lies."""

    model: ModelRef
    prediction: PredictionOut = Field(description="The class that is explained.")
    unknown: bool = Field(examples=[False], description=UNKNOWN)
    box: Box
    bias: float = Field(
        examples=[-0.0123],
        description="The class's logit, divided by the temperature, less the mean of `evidence`: what comes from no "
        "cell. It is the classifier's own bias; in an int8 model also what rounding the pooled features changes.",
    )
    evidence: list[list[float]] = Field(
        examples=[[[0.4, 1.2], [9.8, 3.1]]],
        description="What each cell of `box` adds to the class's logit, rows from top to bottom; negative speaks "
        "against it. Their mean and `bias` add up to the logit that the softmax or sigmoid reads.",
    )
    timing_ms: Timing
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])
