"""What several routes share."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ...inference.class_activation_map import Explanation
from ...inference.classifier import Result

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
