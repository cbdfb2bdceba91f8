"""DeepStack's scene recognition, for what was built for it: cameras' software, Home Assistant, Node-RED.

Its answers are those of https://github.com/johnolafenwa/DeepStack (server/response, intelligencelayer/shared/scene.py).
"""

from time import perf_counter
from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app import errors
from app.classifier import Result
from app.dialects import REFUSALS, Dialect
from app.observation import Observation
from app.service import Service

#: Names of the multipart fields that carry the photo and the API key.
_FIELD: Final = "image"
_KEY: Final = "api_key"
#: DeepStack has one status for everything that is wrong with a picture, and its clients know only that one.
_BAD_PICTURE: Final = (
    errors.UnsupportedBody,
    errors.NotAnImage,
    errors.BrokenImage,
    errors.TooManyPixels,
    errors.TooComplex,
)
_DIALECT: Final = Dialect(
    lambda message, ms: {"success": False, "error": message, "duration": round(ms, 3)}, dict.fromkeys(_BAD_PICTURE, 400)
)

router = APIRouter(tags=["deepstack"], route_class=_DIALECT.route())


class Scene(BaseModel):
    """What is in the photo."""

    success: Literal[True]
    label: str = Field(examples=["school bus"], description="The best class.")
    confidence: float = Field(examples=[0.9312], description="Its score, 0 to 1.")
    duration: float = Field(examples=[12.3], description="Milliseconds from the request's head to its answer.")


@router.post(
    "/v1/vision/scene",
    summary="Classify one photo, as DeepStack does",
    responses=_DIALECT.responses(errors.UnsupportedBody, *REFUSALS),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [_FIELD],
                        "properties": {
                            _FIELD: {"type": "string", "format": "binary"},
                            _KEY: {"type": "string", "description": "An API key, where keys are set."},
                        },
                    }
                }
            },
        }
    },
)
async def scene(request: Request) -> Scene:
    """The photo as multipart field `image`; its best class."""
    started = perf_counter()
    service, seen = Service.of(request), Observation.of(request.scope)
    classifier = service.classifier
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    service.lanes.admit()
    async with service.intake.hold(request) as body:
        seen.timings_s["read"] = perf_counter() - started

        def classify() -> Result:
            service.check_form_key(request, body.text(_KEY))
            return classifier(body.image(_FIELD), 1, alone=service.lanes.alone)

        result, queued_s = await service.lanes.submit(classify)
    seen.images = 1
    seen.timings_s |= {"queue": queued_s, "decode": result.decode_s, "infer": result.infer_s}
    best = result.predictions[0]
    duration = round((perf_counter() - started) * 1e3, 3)
    return Scene(success=True, label=best.label, confidence=best.score, duration=duration)
