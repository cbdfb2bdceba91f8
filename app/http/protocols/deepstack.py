"""DeepStack's scene recognition, for what was built for it: cameras' software, Home Assistant, Node-RED.

Its answers are those of https://github.com/johnolafenwa/DeepStack (server/response, server/middlewares,
intelligencelayer/shared/scene.py); CodeProject.AI has taken over the routes, and added some that its clients ask first.
"""

import re
from time import perf_counter
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ... import __version__, errors
from .. import problems
from ..service import Service
from .base import NAME, REFUSALS, classify

#: Names of the multipart fields that carry the photo and the API key.
_FIELD: Final = "image"
_KEY: Final = "api_key"
#: DeepStack has one status for everything that is wrong with a request, and its clients know only that one.
_BAD_REQUEST: Final = (
    errors.InvalidParameter,
    errors.UnsupportedBody,
    errors.NotAnImage,
    errors.BrokenImage,
    errors.TooManyPixels,
    errors.TooComplex,
)
ERROR_FORMAT: Final = problems.ErrorFormat(
    re.compile(r"/v1/(vision|status|server)/"),
    lambda message, ms: {"success": False, "error": message, "duration": round(ms, 3)},
    dict.fromkeys(_BAD_REQUEST, 400),
)

router = APIRouter(tags=["deepstack"])


class Scene(BaseModel):
    """What is in the photo."""

    success: Literal[True]
    label: str = Field(
        examples=["school bus"],
        description="The best class, or group; empty where the photo shows none of the model's classes (`/predict`: "
        "`unknown`).",
    )
    confidence: float = Field(examples=[0.9312], description="Its score, 0 to 1.")
    duration: float = Field(examples=[12.3], description="Milliseconds from the request's headers to its answer.")


_VIEW: Final[dict[str, Any]] = {
    "name": "view",
    "in": "query",
    "required": False,
    "schema": {"enum": ["classes", "groups"], "default": "classes"},
    "description": "`groups`: the answer's label is the best group, where the model has groups.",
}


@router.post(
    "/v1/vision/scene",
    summary="Classify one photo, as DeepStack does",
    responses=ERROR_FORMAT.responses(errors.UnsupportedBody, errors.InvalidParameter, *REFUSALS),
    openapi_extra={
        "parameters": [_VIEW],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [_FIELD],
                        "properties": {
                            _FIELD: {"type": "string", "format": "binary"},
                            _KEY: {
                                "type": "string",
                                "description": "An API key, if keys are set; before the photo.",
                            },
                        },
                    }
                }
            },
        },
    },
)
async def scene(request: Request) -> Scene:
    """The photo as multipart field `image`; its best class, or with `?view=groups` its best group.

    DeepStack has no word for unknown: an empty label is no class's, and no failure that a client would try again.
    """
    started = perf_counter()
    service = Service.of(request)
    classifier = service.classifier
    view = request.query_params.get("view", "classes")
    if view not in _VIEW["schema"]["enum"]:
        raise errors.InvalidParameter(f"view is {errors.quoted(view)}. Ask for classes or groups.")
    request = await service.let_in_by_form(request, _KEY)
    result = await classify(request, classifier, _FIELD, 1, started)
    best = result.groups[0] if result.groups and view == "groups" else result.predictions[0]
    duration = round((perf_counter() - started) * 1e3, 3)
    return Scene(success=True, label="" if result.unknown else best.label, confidence=best.score, duration=duration)


class Ping(BaseModel):
    """The server is there."""

    success: Literal[True] = True
    message: str = Field(examples=["edge-classifier 1.0.0"])


class CustomModels(BaseModel):
    """Models that detect objects, which this service has none of."""

    success: Literal[True] = True
    models: list[str] = Field([], max_length=0)


_NOT_OFFERED: Final = ERROR_FORMAT.responses(errors.NotOffered)


@router.get("/v1/status/ping", summary="Whether the server is there, as CodeProject.AI says it")
@router.get("/v1/server/status/ping", summary="Whether the server is there, as CodeProject.AI says it")
async def ping() -> Ping:
    """Always `success`; `/health/ready` says more."""
    return Ping(message=f"edge-classifier {__version__}")


@router.post("/v1/vision/custom/list", summary="Custom detection models, as CodeProject.AI lists them")
async def custom_models() -> CustomModels:
    """None: they find objects, and this service labels whole photos."""
    return CustomModels()


def _not_offered(what: str) -> errors.NotOffered:
    # An empty list of objects would tell an alarm that nobody is there. Clients know DeepStack's status and last words.
    return errors.NotOffered(
        f"This service labels whole photos (POST /v1/vision/scene) and finds neither objects nor faces in them: {what} "
        "endpoint not activated"
    )


@router.post("/v1/vision/detection", summary="Object detection: not offered", responses=_NOT_OFFERED, status_code=403)
async def detection() -> None:
    """Refused as by a DeepStack that runs without it."""
    raise _not_offered("detection")


@router.post(
    "/v1/vision/custom/{name}",
    summary="Custom detection: not offered",
    responses=_NOT_OFFERED,
    status_code=403,
    openapi_extra={"parameters": [NAME]},
)
async def custom() -> None:
    """Refused as by a DeepStack that runs without it."""
    raise _not_offered("custom vision")


@router.post("/v1/vision/face", summary="Face detection: not offered", responses=_NOT_OFFERED, status_code=403)
@router.post(
    "/v1/vision/face/{name}",
    summary="Face recognition: not offered",
    responses=_NOT_OFFERED,
    status_code=403,
    openapi_extra={"parameters": [NAME]},
)
async def face() -> None:
    """Refused as by a DeepStack that runs without it."""
    raise _not_offered("face")
