"""The Open Inference Protocol (KServe V2, as Triton speaks it over HTTP): ``/v2``."""

import re
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ... import __version__, errors
from .. import problems
from ..schemas.common import TINY_PNG
from ..service import Service
from .base import NAME, REFUSALS, VERSION, model, score
from .open_inference_tensors import ENCODED, EXTENSIONS, GROUPS, PIXELS, SCORES, Inference

_HEADER: Final = "Inference-Header-Content-Length"
ERROR_FORMAT: Final = problems.ErrorFormat(re.compile(r"/v2(/|$)"), lambda message, _ms: {"error": message})
_MODEL: Final = "/v2/models/{name}"
_VERSION: Final = "/v2/models/{name}/versions/{version}"

router = APIRouter(tags=["open inference protocol"])


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str = Field(examples=["edge-classifier"])
    version: str = Field(examples=[__version__])
    extensions: list[str] = Field(examples=[list(EXTENSIONS)])


class ServerLive(BaseModel):
    """Whether the server answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether requests sent now would be answered; the protocol's text calls that `live` too, its servers `ready`."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """Whether a model is served now."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    ready: bool


class TensorMetadata(BaseModel):
    """One input or output; -1 is a length that the client chooses."""

    name: str = Field(examples=[PIXELS])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 224, 224, 3]])


class ModelMetadata(BaseModel):
    """A model's inputs, of which a request has one, and its outputs; `groups` where the model has any."""

    name: str = Field(examples=["mobilenet_v2_1.0_224"])
    versions: list[str] = Field(examples=[["d0214f85d9d4"]])
    platform: str = Field(examples=["onnx_onnxv1"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ResponseOutput(BaseModel):
    """An output tensor; binary ones have `parameters.binary_data_size` instead of `data`."""

    name: str = Field(examples=[SCORES])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 3]])
    data: list[float] | list[str] | None = Field(None, examples=[[0.01, 0.97, 0.02]])
    parameters: dict[str, Any] | None = None


class InferenceResponse(BaseModel):
    """The answer to an inference request."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(examples=["mobilenet_v2_1.0_224"])
    model_version: str = Field(examples=["d0214f85d9d4"])
    id: str | None = Field(None, examples=["42"], description="As in the request; absent if that has none.")
    outputs: list[ResponseOutput]


_UNKNOWN: Final = ERROR_FORMAT.responses(errors.UnknownModel)
_NAMED: Final = {"parameters": [NAME]}
_VERSIONED: Final = {"parameters": [NAME, VERSION]}
_LENGTH: Final = {
    "name": _HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Length of the JSON, where a binary tensor follows.",
}
_PARAMETERS: Final = {"type": "object", "description": "`binary_data_size`, where the tensor follows the JSON."}
_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "inputs": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["name", "shape", "datatype"],
                            "properties": {
                                "name": {"enum": [PIXELS, ENCODED]},
                                "datatype": {"enum": ["UINT8", "BYTES"]},
                                "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                                "parameters": _PARAMETERS,
                                "data": {"type": "array", "items": {}},
                            },
                        },
                    },
                    "outputs": {
                        "type": "array",
                        "maxItems": 2,
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"enum": [SCORES, GROUPS]},
                                "parameters": {
                                    "type": "object",
                                    "properties": {
                                        "binary_data": {"type": "boolean"},
                                        "classification": {"type": "integer", "minimum": 0},
                                    },
                                },
                            },
                        },
                    },
                    "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
                },
            },
            "example": {
                "id": "42",
                "inputs": [{"name": ENCODED, "datatype": "BYTES", "shape": [1], "data": [TINY_PNG]}],
                "outputs": [{"name": SCORES, "parameters": {"classification": 3}}],
            },
        },
        "application/octet-stream": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": f"The JSON, as long as the header {_HEADER} says, then the input's bytes.",
            }
        },
    },
}
_INFERRED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": InferenceResponse,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            _HEADER: {
                "description": "Length of the JSON, where a binary tensor follows.",
                "schema": {"type": "integer"},
            }
        },
    },
    **ERROR_FORMAT.responses(errors.UnknownModel, errors.TooManyImages, *REFUSALS),
}


_READY: Final[dict[int | str, dict[str, Any]]] = {503: {"model": ModelReady}, **_UNKNOWN}


@router.get("/v2", summary="Server metadata")
async def server_metadata() -> ServerMetadata:
    """Name, version and the protocol extensions that are spoken."""
    return ServerMetadata(name="edge-classifier", version=__version__, extensions=list(EXTENSIONS))


@router.get("/v2/health/live", summary="Server live", responses={503: {"model": ServerLive}})
async def server_live(request: Request, response: Response) -> ServerLive:
    """As `/health/live`."""
    live = Service.of(request).workers.alive
    response.status_code = 200 if live else 503
    return ServerLive(live=live)


@router.get("/v2/health/ready", summary="Server ready", responses={503: {"model": ServerReady}})
async def server_ready(request: Request, response: Response) -> ServerReady:
    """As `/health/ready`."""
    service = Service.of(request)
    ready, _ = service.readiness()
    response.status_code = 200 if ready else 503
    return ServerReady(live=service.workers.alive, ready=ready)


@router.get(_MODEL, summary="Model metadata", responses=_UNKNOWN, openapi_extra=_NAMED)
@router.get(_VERSION, summary="Model metadata", responses=_UNKNOWN, openapi_extra=_VERSIONED)
async def model_metadata(request: Request) -> ModelMetadata:
    """The model's inputs, of which a request has one, and its outputs."""
    classifier = model(request)
    contract = classifier.contract
    outputs = [TensorMetadata(name=SCORES, datatype="FP32", shape=[-1, len(contract.labels)])]
    if classifier.groups is not None:
        outputs.append(TensorMetadata(name=GROUPS, datatype="FP32", shape=[-1, len(classifier.groups.names)]))
    size = [contract.resize.height, contract.resize.width, 3]
    return ModelMetadata(
        name=contract.name,
        versions=[contract.version],
        platform="onnx_onnxv1",
        inputs=[
            TensorMetadata(name=PIXELS, datatype="UINT8", shape=[-1, *size]),
            TensorMetadata(name=ENCODED, datatype="BYTES", shape=[-1]),
        ],
        outputs=outputs,
    )


@router.get(f"{_MODEL}/ready", summary="Model ready", responses=_READY, openapi_extra=_NAMED)
@router.get(f"{_VERSION}/ready", summary="Model ready", responses=_READY, openapi_extra=_VERSIONED)
async def model_ready(request: Request, response: Response) -> ModelReady:
    """Whether a request to the model sent now would be answered; 404 if it is not served."""
    contract = model(request).contract
    ready, _ = Service.of(request).readiness()
    response.status_code = 200 if ready else 503
    return ModelReady(name=contract.name, ready=ready)


@router.post(
    f"{_MODEL}/infer",
    summary="Inference",
    response_model=InferenceResponse,
    responses=_INFERRED,
    openapi_extra={"parameters": [NAME, _LENGTH], "requestBody": _BODY},
)
@router.post(
    f"{_VERSION}/infer",
    summary="Inference",
    response_model=InferenceResponse,
    responses=_INFERRED,
    openapi_extra={"parameters": [NAME, VERSION, _LENGTH], "requestBody": _BODY},
)
async def infer(request: Request) -> Response:
    """`image` (UINT8, the model's own size) or `bytes` (BYTES: encoded photos; in JSON as base64) to `scores`.

    A model with groups has the output `groups` too, which is given to whoever names it.
    """
    classifier, most = model(request), Service.of(request).limits.batch_images
    contract, header_length = classifier.contract, request.headers.get(_HEADER)
    asked, scores = await score(
        request, classifier, lambda body: Inference.parse(body.data, header_length, contract, most)
    )
    content, json_length = asked.encode(contract, scores, classifier.groups)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={_HEADER: str(json_length)}, media_type="application/octet-stream")
