"""CodeProject.AI's custom models and status, for what was built for it: cameras' software, Home Assistant.

From its API reference (https://codeproject.github.io/codeproject.ai/api/api_reference.html) and its server
(https://github.com/codeproject/CodeProject.AI-Server, ServerStatusController). ``/v1/vision/scene`` is DeepStack's.
"""

import math
import re
from dataclasses import replace
from time import perf_counter
from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ... import __version__, errors
from ...inference.imaging import size
from ..body_reader import Body
from ..service import Service
from . import deepstack
from .base import KEY_FIELD, NAME, REFUSALS, classify, form, model
from .deepstack import FIELD, KEY, VIEW, best_of, view_of

#: The form's field for the score below which nothing is told, and what is meant where it is missing.
_LEAST: Final = "min_confidence"
_DEFAULT_LEAST: Final = 0.4
ERROR_FORMAT: Final = replace(deepstack.ERROR_FORMAT, paths=re.compile(r"/v1/(vision/custom|status|server)/"))

router = APIRouter(tags=["codeproject.ai"])


class Whole(BaseModel):
    """What a photo shows, as an object that is as large as the photo."""

    label: str = Field(examples=["school bus"], description="The best class, or group.")
    confidence: float = Field(examples=[0.9312], description="Its score, 0 to 1.")
    x_min: int = 0
    y_min: int = 0
    x_max: int = Field(examples=[640], description="The upright photo's width, in pixels.")
    y_max: int = Field(examples=[480], description="Its height, in pixels.")


class CustomAnswer(BaseModel):
    """What a custom model says about a photo."""

    success: Literal[True] = True
    message: str = Field(examples=["Found school bus"])
    predictions: list[Whole] = Field(
        max_length=1,
        description="The best class; nothing where the photo shows none of them (`/predict`: `unknown`), or where its "
        f"score is below `{_LEAST}`.",
    )
    count: int = Field(examples=[1])
    code: Literal[200] = 200
    command: Literal["custom"] = "custom"
    moduleId: str = "edge-classifier"  # noqa: N815 - the protocol's name
    moduleName: str = Field(examples=["mobilenet_v2_1.0_224"], description="The model's name.")  # noqa: N815 - likewise
    inferenceMs: int = Field(examples=[9], description="Milliseconds of inference.")  # noqa: N815 - likewise
    processMs: int = Field(examples=[15], description="Milliseconds of decoding and inference.")  # noqa: N815 - likewise
    analysisRoundTripMs: int = Field(  # noqa: N815 - likewise
        examples=[16], description="Milliseconds from the request's headers to its answer."
    )
    duration: float = Field(examples=[16.4], description="The same, as DeepStack has it.")


class CustomModels(BaseModel):
    """The models that are served."""

    success: Literal[True] = True
    models: list[str] = Field(examples=[["mobilenet_v2_1.0_224"]], description="The default one first.")


@router.post("/v1/vision/custom/list", summary="Names of the custom models")
async def custom_models(request: Request) -> CustomModels:
    """All models that are served."""
    return CustomModels(models=Service.of(request).names())


@router.post(
    "/v1/vision/custom/{name}",
    summary="Classify one photo, as a custom model",
    responses=ERROR_FORMAT.responses(errors.UnsupportedBody, errors.InvalidParameter, errors.UnknownModel, *REFUSALS),
    openapi_extra={
        "parameters": [NAME, VIEW],
        "requestBody": form(
            FIELD,
            **{
                _LEAST: {"type": "number", "minimum": 0, "maximum": 1, "default": _DEFAULT_LEAST},
                KEY: KEY_FIELD,
            },
        ),
    },
)
async def custom(request: Request) -> CustomAnswer:
    """The photo as multipart field `image`; what it shows, by one of the models that are served, or `default`."""
    started = perf_counter()
    request = await Service.of(request).let_in_by_form(request, KEY)
    classifier, view = model(request), view_of(request)

    def read(body: Body) -> tuple[bytes, tuple[float, tuple[int, int]]]:
        photo = body.image(FIELD)
        return photo, (_least(body.text(_LEAST)), size(photo))

    result, (least, (width, height)) = await classify(request, classifier, read, 1, started)
    best = best_of(result, view)
    found = [Whole(label=best.label, confidence=best.score, x_max=width, y_max=height)]
    if result.unknown or best.score < least:
        found = []
    taken_s = perf_counter() - started
    return CustomAnswer(
        message=f"Found {best.label}" if found else "No objects found",
        predictions=found,
        count=len(found),
        moduleName=classifier.contract.name,
        inferenceMs=round(result.infer_s * 1e3),
        processMs=round((result.decode_s + result.infer_s) * 1e3),
        analysisRoundTripMs=round(taken_s * 1e3),
        duration=round(taken_s * 1e3, 3),
    )


def _least(text: str | None) -> float:
    """The least score that is asked for."""
    if text is None or not text.strip():
        return _DEFAULT_LEAST
    try:
        least = float(text)
    except ValueError:
        least = math.nan
    if not 0 <= least <= 1:
        raise errors.InvalidParameter(f"{_LEAST} is {errors.quoted(text)}. Send a number from 0 to 1.")
    return least


class Version(BaseModel):
    """The service's version, and that it is there."""

    success: Literal[True] = True
    message: str = Field(examples=["0.1.0"])
    version: dict[str, int] = Field(examples=[{"major": 0, "minor": 1, "patch": 0}])


_VERSION: Final = dict(zip(("major", "minor", "patch"), map(int, re.findall(r"\d+", __version__)), strict=False))


@router.get("/v1/status/ping", summary="Whether the server is there")
@router.get("/v1/server/status/ping", summary="Whether the server is there")
@router.get("/v1/status/version", summary="The server's version")
@router.get("/v1/server/status/version", summary="The server's version")
async def version() -> Version:
    """Always `success`; `/health/ready` says more."""
    return Version(message=__version__, version=_VERSION)


class Update(Version):
    """Whether there is a newer version."""

    updateAvailable: Literal[False] = False  # noqa: N815 - the protocol's name


@router.get("/v1/status/updateavailable", summary="Whether there is a newer version: never looked for")
@router.get("/v1/server/status/updateavailable", summary="Whether there is a newer version: never looked for")
async def update_available() -> Update:
    """The service asks nobody for newer versions of itself."""
    return Update(message="This service does not look for newer versions of itself", version=_VERSION)
