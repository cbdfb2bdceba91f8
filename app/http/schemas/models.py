"""``/model``, ``/labels``, ``/models`` and ``/admin``."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from ...inference.contract import Contract
from ...registry.updates import Outcome, Update
from .common import ModelRef


class ResizeOut(BaseModel):
    """How a photo becomes the model's input."""

    height: int = Field(examples=[224])
    width: int = Field(examples=[224])
    crop: float = Field(
        examples=[0.875], description="Side of the centred box, as a fraction of the one that `fit` names."
    )
    fit: Literal["crop", "squash", "pad"] = Field(
        description="Of a photo of another shape: the largest box with the input's (`crop`), all of it, distorted "
        "(`squash`), or all of it with grey beside it (`pad`)."
    )
    filter: str = Field(examples=["bilinear"])


class ModelOut(BaseModel):
    """What the model file says about itself."""

    name: str
    version: str
    precision: str
    classes: int = Field(examples=[1000])
    groups: int = Field(examples=[146], description="How many groups the classes are in; 0: the model has none.")
    resize: ResizeOut
    temperature: float = Field(examples=[1.2], description="What the logits were divided by; inside the graph.")
    unknown_below: float = Field(
        examples=[0.31],
        description="Below this best score a photo counts as unknown, where `unknown_above` is null; with "
        "`multi_label`, from this score on a photo shows a class.",
    )
    unknown_above: float | None = Field(
        examples=[0.84],
        description="Above this novelty, which the model computes, a photo counts as unknown; null: it computes none.",
    )
    multi_label: bool = Field(
        description="Whether the scores are independent, so that a photo may show several classes."
    )
    multiply_adds: int = Field(examples=[300774272])
    parameters: int = Field(examples=[3504872])
    provenance: dict[str, Any]
    measured: dict[str, Any]

    @classmethod
    def build(cls, contract: Contract) -> Self:
        """From the model's contract."""
        resize = contract.resize
        return cls(
            name=contract.name,
            version=contract.version,
            precision=contract.precision,
            classes=len(contract.labels),
            groups=len(set(contract.groups or ())),
            resize=ResizeOut.model_validate(asdict(resize)),
            temperature=contract.temperature,
            unknown_below=contract.unknown_below,
            unknown_above=contract.unknown_above,
            multi_label=contract.multi_label,
            multiply_adds=contract.multiply_adds,
            parameters=contract.parameters,
            provenance=dict(contract.provenance),
            measured=dict(contract.measured),
        )


class LabelOut(BaseModel):
    """One class of the model."""

    index: int = Field(examples=[779])
    label: str = Field(examples=["school bus"])
    id: str | None = Field(examples=["n04146614"])
    group: str | None = Field(
        examples=["bus"], description="The everyday name it belongs under; null where the model has no groups."
    )


class LabelsResponse(BaseModel):
    """All classes, by index."""

    model: ModelRef
    labels: Annotated[list[LabelOut], Field(min_length=1)]


class ServedOut(BaseModel):
    """One model that answers."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    version: str = Field(examples=["1dc64d187195"])
    precision: str = Field(examples=["int8"])
    classes: int = Field(examples=[1000])
    default: bool = Field(description="Answers where no model is named.")
    file: str = Field(examples=["mobilenet_v2_1.0_224.int8.onnx"])
    sha256: str = Field(description="The checksum that the file carries.")
    loaded_at: datetime
    previous_version: str | None = Field(description="What a roll-back would serve; null: nothing.")


class ModelsResponse(BaseModel):
    """All models that are served, the default one first."""

    models: list[ServedOut]


class UpdateOut(BaseModel):
    """What became of a new model file."""

    outcome: Outcome
    file: str = Field(examples=["bins.int8.onnx"])
    reason: str = Field(examples=["its signature was not made by the key that this service trusts"])
    model: ModelRef | None = Field(description="What serves now; null where that has not changed.")
    at: datetime

    @classmethod
    def build(cls, update: Update) -> Self:
        """From what the core noted."""
        model = ModelRef(name=update.model, version=update.version) if update.model and update.version else None
        at = datetime.fromtimestamp(update.at, UTC)
        return cls(outcome=update.outcome, file=update.file, reason=update.reason, model=model, at=at)


class ReloadResponse(BaseModel):
    """What became of the model files that are not served yet; empty: there are none."""

    updates: list[UpdateOut]
