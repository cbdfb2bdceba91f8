"""DeepStack's scene recognition, for what was built for it: cameras' software, Home Assistant, Node-RED.

Its answers are those of https://github.com/johnolafenwa/DeepStack (server/response, server/middlewares,
intelligencelayer/shared/scene.py). CodeProject.AI has taken over its routes; ``codeproject_ai``
has what is its own.
"""

import re
from time import perf_counter
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ... import errors
from ...inference.classifier import Group, Prediction, Result
from .. import problems
from ..service import Service
from .base import KEY_FIELD, NAME, REFUSALS, classify, form

#: Names of the multipart fields that carry the photo and the API key.
FIELD: Final = "image"
KEY: Final = "api_key"
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
    re.compile(r"/v1/vision/"),
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


VIEW: Final[dict[str, Any]] = {
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
    openapi_extra={"parameters": [VIEW], "requestBody": form(FIELD, **{KEY: KEY_FIELD})},
)
async def scene(request: Request) -> Scene:
    """The photo as multipart field `image`; its best class, or with `?view=groups` its best group.

    DeepStack has no word for unknown: an empty label is no class's, and no failure that a client would try again.
    """
    started = perf_counter()
    classifier, view = Service.of(request).classifier, view_of(request)
    request = await Service.of(request).let_in_by_form(request, KEY)
    result, _ = await classify(request, classifier, lambda body: (body.image(FIELD), None), 1, started)
    best = best_of(result, view)
    duration = round((perf_counter() - started) * 1e3, 3)
    return Scene(success=True, label="" if result.unknown else best.label, confidence=best.score, duration=duration)


def view_of(request: Request) -> str:
    """Whether ``classes`` or ``groups`` are asked for.

    Raises:
        InvalidParameter: it is neither.
    """
    view = request.query_params.get("view", "classes")
    if view not in VIEW["schema"]["enum"]:
        raise errors.InvalidParameter(f"view is {errors.quoted(view)}. Ask for classes or groups.")
    return view


def best_of(result: Result, view: str) -> Prediction | Group:
    """The best class, or the best group where it is asked for and the model has groups."""
    return result.groups[0] if result.groups and view == "groups" else result.predictions[0]


_NOT_OFFERED: Final = ERROR_FORMAT.responses(errors.NotOffered)


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
