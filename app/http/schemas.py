"""The public HTTP contract: what goes over the wire, as pydantic models. They make the OpenAPI document too."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from ..inference.class_activation_map import Explanation
from ..inference.classifier import Result
from ..inference.contract import Contract
from ..registry.updates import Outcome, Update

#: An example of a photo: a 2 x 2 grey PNG, as base64.
TINY_PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGNsYGBiYAAAApIAhPd8o1gAAAAASUVORK5CYII="

_PREDICTIONS = [
    {"label": "school bus", "index": 779, "id": "n04146614", "score": 0.9312},
    {"label": "minibus", "index": 654, "id": "n03769881", "score": 0.0121},
]
_CACHED = "The scores are those of an earlier, near-identical frame of the same camera (`CLASSIFIER_CACHE_SECONDS`)."
_UNKNOWN = "The best score is below the model's own threshold: the photo shows none of its classes."


class ModelQuery(BaseModel):
    """Which model is meant; an unknown parameter is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Name of the model (see `/models`); none: the default one.")


class PredictQuery(ModelQuery):
    """What ``/predict`` can be asked."""

    top_k: int = Field(
        5, ge=1, description="How many classes to return at most, best first; from 1 to the number of classes."
    )
    min_score: float = Field(0.0, ge=0.0, le=1.0, description="Leave out classes with a lower score.")
    camera: str | None = Field(
        None,
        max_length=64,
        description="Whose earlier frames the photo may be like, where such frames are remembered; default: the "
        "client's address.",
    )


class ModelRef(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    version: str = Field(examples=["1dc64d187195"])


class PredictionOut(BaseModel):
    """One class."""

    label: str = Field(examples=["school bus"])
    index: int = Field(examples=[779], description="Index of the class in the model's output, from 0.")
    id: str | None = Field(examples=["n04146614"], description="WordNet id, where the model knows it.")
    score: float = Field(examples=[0.9312], description="Softmax score, 0 to 1.")


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="Waiting for a worker.", examples=[0.1])
    decode: float = Field(description="Bytes to pixels.", examples=[2.1])
    infer: float = Field(description="Pixels to ranked scores.", examples=[3.2])


class PredictResponse(BaseModel):
    """The answer for one photo."""

    model: ModelRef
    predictions: list[PredictionOut] = Field(examples=[_PREDICTIONS])
    unknown: bool = Field(examples=[False], description=_UNKNOWN)
    cached: bool = Field(examples=[False], description=_CACHED)
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
                "predictions": result.predictions,
                "unknown": result.unknown,
                "cached": result.cached,
                "timing_ms": {
                    "queue": round(queued_s * 1e3, 3),
                    "decode": round(result.decode_s * 1e3, 3),
                    "infer": round(result.infer_s * 1e3, 3),
                },
                "request_id": request_id,
            }
        )


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


class Box(BaseModel):
    """The part of the photo that the model sees, as fractions of the upright photo's width and height."""

    left: float = Field(examples=[0.172])
    upper: float = Field(examples=[0.0625])
    right: float = Field(examples=[0.828])
    lower: float = Field(examples=[0.9375])


class ExplainResponse(BaseModel):
    """Where in one photo the evidence for a class lies."""

    model: ModelRef
    prediction: PredictionOut = Field(description="The class that is explained.")
    box: Box
    bias: float = Field(
        examples=[-0.0123],
        description="The class's logit, divided by the temperature, less the mean of `evidence`: what comes from no "
        "cell. It is the classifier's own bias; in an int8 model also what rounding the pooled features changes.",
    )
    evidence: list[list[float]] = Field(
        examples=[[[0.4, 1.2], [9.8, 3.1]]],
        description="What each cell of `box` adds to the class's logit, rows from top to bottom; negative speaks "
        "against it. Their mean and `bias` add up to the logit that the softmax reads.",
    )
    timing_ms: Timing
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:edge-classifier:problem:not-an-image"])
    title: str = Field(examples=["Not an image"])
    status: int = Field(examples=[415])
    detail: str = Field(
        description="What happened and what to do about it.",
        examples=[
            "The 11 bytes are not an image in a supported format (JPEG, PNG, ...). Send the file's bytes as they are."
        ],
    )
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])


class BatchResult(BaseModel):
    """The answer for one photo of a batch."""

    predictions: list[PredictionOut] = Field(examples=[_PREDICTIONS])
    unknown: bool = Field(examples=[False], description=_UNKNOWN)
    timing_ms: Timing


class BatchProblem(BaseModel):
    """What is wrong with one photo of a batch, alone."""

    problem: Problem


class BatchResponse(BaseModel):
    """One result per photo, in the order in which they were sent."""

    model: ModelRef
    results: list[BatchResult | BatchProblem]
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])


class CpusOut(BaseModel):
    """The CPUs and threads that were chosen, and why."""

    workers: int = Field(description="Photos worked on at once.", examples=[2])
    threads_per_worker: int = Field(description="Threads that one inference uses beside others.", examples=[1])
    exclusive_threads: int = Field(description="Threads that one inference uses when it is alone.", examples=[2])
    reason: str = Field(examples=["2 CPUs in the affinity mask, no cgroup quota"])


class InputSize(BaseModel):
    """The model's input, in pixels."""

    height: int = Field(examples=[224])
    width: int = Field(examples=[224])


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


class Health(BaseModel):
    """Whether photos are being answered, and by what."""

    status: Literal["ready", "not ready"]
    reason: str = Field(examples=["the golden photo was classified correctly"])
    model: ModelRef
    precision: str = Field(examples=["int8"])
    model_source: str = Field(examples=["the newest one in models/"])
    precision_reason: str = Field(examples=["measured at the start: int8 took 6.5 ms, fp32 took 9.6 ms"])
    input_size: InputSize
    cpus: CpusOut
    last_update: UpdateOut | None = Field(description="What became of the last new model file, if there was one.")
    uptime_s: float = Field(examples=[86400.0])


class Probe(BaseModel):
    """The answer to a probe."""

    status: Literal["alive", "ready", "started", "not ready"]
    reason: str


class ResizeOut(BaseModel):
    """How a photo becomes the model's input."""

    height: int = Field(examples=[224])
    width: int = Field(examples=[224])
    crop: float = Field(
        examples=[0.875], description="Side of the centred box, as a fraction of the largest that fits."
    )
    filter: str = Field(examples=["bilinear"])


class ModelOut(BaseModel):
    """What the model file says about itself."""

    name: str
    version: str
    precision: str
    classes: int = Field(examples=[1000])
    resize: ResizeOut
    temperature: float = Field(examples=[1.2], description="What the logits were divided by; inside the graph.")
    unknown_below: float = Field(examples=[0.31], description="Below this best score a photo counts as unknown.")
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
            resize=ResizeOut(height=resize.height, width=resize.width, crop=resize.crop, filter=resize.filter),
            temperature=contract.temperature,
            unknown_below=contract.unknown_below,
            multiply_adds=contract.multiply_adds,
            parameters=contract.parameters,
            provenance=dict(contract.provenance),
            measured=dict(contract.measured),
        )


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


class LabelOut(BaseModel):
    """One class of the model."""

    index: int = Field(examples=[779])
    label: str = Field(examples=["school bus"])
    id: str | None = Field(examples=["n04146614"])


class LabelsResponse(BaseModel):
    """All classes, by index."""

    model: ModelRef
    labels: Annotated[list[LabelOut], Field(min_length=1)]


def predictions(result: Result) -> list[PredictionOut]:
    """The ranked classes as they go over the wire."""
    return [PredictionOut(label=p.label, index=p.index, id=p.id, score=p.score) for p in result.predictions]


def timing(result: Result | Explanation, queued_s: float) -> Timing:
    """Seconds to milliseconds, to the microsecond."""
    return Timing(
        queue=round(queued_s * 1e3, 3), decode=round(result.decode_s * 1e3, 3), infer=round(result.infer_s * 1e3, 3)
    )
