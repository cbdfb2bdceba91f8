"""TensorFlow Serving's REST API: ``/v1/models``.

Sources: https://www.tensorflow.org/tfx/serving/api_rest; KServe's V1 protocol, whose clients ask the same routes,
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from ... import errors
from ...inference.contract import Contract
from .. import problems
from ..encodings import begins_as_picture, from_base64, json_object, picture, pixels
from ..schemas.common import TINY_PNG
from ..service import Service
from .base import NAME, REFUSALS, VERSION, Picture, model, score

#: Names of the inputs, of which a request has one: pixels of the model's own size, or encoded pictures of any size.
_PIXELS: Final = "image"
_ENCODED: Final = "bytes"
_SIGNATURE: Final = "serving_default"
_HINT: Final = 'Send {"instances": [{"b64": "<base64>"}]}, one object for each photo.'
ERROR_FORMAT: Final = problems.ErrorFormat(re.compile(r"/v1/models/"), lambda message, _ms: {"error": message})
_MODEL: Final = "/v1/models/{name}"
_VERSION: Final = "/v1/models/{name}/versions/{version}"

router = APIRouter(tags=["tensorflow serving"])


class Status(BaseModel):
    """Nothing went wrong."""

    error_code: str = Field("OK", examples=["OK"])
    error_message: str = ""


class VersionStatus(BaseModel):
    """The state of one version of the model."""

    version: str = Field(examples=["d0214f85d9d4"])
    state: str = Field(examples=["AVAILABLE"], description="AVAILABLE, or UNLOADING while the service shuts down.")
    status: Status


class ModelStatus(BaseModel):
    """The versions of the model that are served; `name` and `ready` are what clients of KServe's V1 protocol read."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    ready: bool = Field(description="Whether a request sent now would be answered.")
    model_version_status: list[VersionStatus]


class ModelSpec(BaseModel):
    """Which model."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    signature_name: str = ""
    version: str = Field(examples=["d0214f85d9d4"])


class SignatureMetadata(BaseModel):
    """Inputs, of which a request has one, and the output, by the names that TensorFlow gives their types."""

    model_config = ConfigDict(protected_namespaces=())

    model_spec: ModelSpec
    metadata: dict[str, Any]


class Predicted(BaseModel):
    """Scores of all classes for each photo: `predictions` for `instances`, `outputs` for `inputs`."""

    predictions: list[list[float]] | None = Field(None, examples=[[[0.01, 0.97, 0.02]]])
    outputs: list[list[float]] | None = None


@dataclass(frozen=True, slots=True)
class _Predict:
    """A predict request: its pictures, and the name under which their scores go back."""

    pictures: list[Picture]
    answer: str

    @classmethod
    def parse(cls, data: bytes, contract: Contract, max_images: int) -> "_Predict":
        """Reads a request's body.

        Raises:
            MalformedBody: it is no predict request, or not one for this model.
            TooManyImages: it has more than ``max_images``.
        """
        size = (contract.resize.height, contract.resize.width, 3)
        request = json_object(data, _HINT, size, max_images)
        if request.get("signature_name", "") not in ("", _SIGNATURE):
            raise errors.MalformedBody(f'There is one signature, "{_SIGNATURE}". Ask for it, or name none.')
        if ("instances" in request) == ("inputs" in request):
            raise errors.MalformedBody(f'The JSON has not exactly one of "instances" and "inputs". {_HINT}')
        row = "instances" in request
        values = request["instances"] if row else _column(request["inputs"])
        if not isinstance(values, list) or not values:
            raise errors.MalformedBody(f"There is no list of photos. {_HINT}")
        if len(values) > max_images:
            raise errors.TooManyImages(
                f"The request has {len(values)} photos; at most {max_images} are taken. Send fewer."
            )
        return cls([_picture(value, size) for value in values], "predictions" if row else "outputs")


def _column(inputs: Any) -> Any:
    """The one input's photos."""
    inputs = _unnamed(inputs)
    return [inputs] if isinstance(inputs, dict | str) else inputs


def _unnamed(value: Any) -> Any:
    """What stands under the input's name, which clients take from the model that they had before.

    AutoML's clients send a ``key`` beside it, for a batch whose answers come in another order.
    """
    if isinstance(value, dict) and "b64" not in value:
        inputs = [name for name in value if name != "key"]
        if len(inputs) == 1:
            return value[inputs[0]]
    return value


def _picture(value: Any, size: tuple[int, int, int]) -> Picture:
    """One photo: pixels, or a file's bytes, under the input's name or beside what Vertex AI and AutoML put there."""
    value = _unnamed(value)
    if isinstance(value, dict) and isinstance(value.get("b64"), str):
        return from_base64(value["b64"], '"b64"')
    if isinstance(value, list):
        return pixels(value, size)
    if begins_as_picture(value):
        return picture(value, "The instance")
    raise errors.MalformedBody(f'A photo is neither {{"b64": "<base64>"}} nor a list of {list(size)} pixels. {_HINT}')


_UNKNOWN: Final = ERROR_FORMAT.responses(errors.UnknownModel)
_NAMED: Final = {"parameters": [NAME]}
_VERSIONED: Final = {"parameters": [NAME, VERSION]}
_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "signature_name": {"const": _SIGNATURE},
                    "instances": {"type": "array", "minItems": 1, "items": {}},
                    "inputs": {"type": ["array", "object"]},
                },
                "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
            },
            "example": {"instances": [{"b64": TINY_PNG}]},
        }
    },
}
_PREDICTED: Final = ERROR_FORMAT.responses(errors.UnknownModel, errors.TooManyImages, *REFUSALS)


@router.get(_MODEL, summary="Model status", responses=_UNKNOWN, openapi_extra=_NAMED)
@router.get(_VERSION, summary="Model status", responses=_UNKNOWN, openapi_extra=_VERSIONED)
async def model_status(request: Request) -> ModelStatus:
    """The one version that is served."""
    contract = model(request).contract
    ready, _ = Service.of(request).readiness()
    state = VersionStatus(version=contract.version, state="AVAILABLE" if ready else "UNLOADING", status=Status())
    return ModelStatus(name=contract.name, ready=ready, model_version_status=[state])


@router.get(f"{_MODEL}/metadata", summary="Signature", responses=_UNKNOWN, openapi_extra=_NAMED)
@router.get(f"{_VERSION}/metadata", summary="Signature", responses=_UNKNOWN, openapi_extra=_VERSIONED)
async def model_metadata(request: Request) -> SignatureMetadata:
    """The signature `serving_default`: the inputs, of which a request has one, and the output."""
    contract = model(request).contract

    def tensor(name: str, dtype: str, *lengths: int) -> dict[str, Any]:
        dim = [{"size": str(length), "name": ""} for length in (-1, *lengths)]
        return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": name}

    inputs = {
        _PIXELS: tensor(_PIXELS, "DT_UINT8", contract.resize.height, contract.resize.width, 3),
        _ENCODED: tensor(_ENCODED, "DT_STRING"),
    }
    signature = {
        "inputs": inputs,
        "outputs": {"scores": tensor("scores", "DT_FLOAT", len(contract.labels))},
        "method_name": "tensorflow/serving/predict",
    }
    return SignatureMetadata(
        model_spec=ModelSpec(name=contract.name, version=contract.version),
        metadata={"signature_def": {"signature_def": {_SIGNATURE: signature}}},
    )


@router.post(
    f"{_MODEL}:predict",
    summary="Predict",
    response_model=Predicted,
    responses=_PREDICTED,
    openapi_extra={**_NAMED, "requestBody": _BODY},
)
@router.post(
    f"{_VERSION}:predict",
    summary="Predict",
    response_model=Predicted,
    responses=_PREDICTED,
    openapi_extra={**_VERSIONED, "requestBody": _BODY},
)
async def predict(request: Request) -> Response:
    """Photos as `{"b64": ...}` or as pixels of the model's own size, in rows (`instances`) or columns (`inputs`)."""
    classifier, most = model(request), Service.of(request).limits.batch_images
    contract = classifier.contract
    asked, scores = await score(request, classifier, lambda body: _Predict.parse(body.data, contract, most))
    return Response(to_json({asked.answer: scores.tolist()}), media_type="application/json")
