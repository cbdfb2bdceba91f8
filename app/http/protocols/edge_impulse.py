"""Edge Impulse's HTTP server, for what was built for ``edge-impulse-linux-runner --run-http-server`` or its container.

From the documentation (https://docs.edgeimpulse.com/docs/run-inference/docker), and the server itself and its types in
https://github.com/edgeimpulse/edge-impulse-linux-cli (cli/linux/runner-utils, library/classifier).
"""

import re
from time import perf_counter
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ... import errors
from ...inference.imaging import size
from .. import problems
from ..body_reader import FIELD, Body
from ..service import Service
from .base import REFUSALS, classify, form

#: What there is of a photo that cannot be used is a line of text with this status.
_BAD_REQUEST: Final = (errors.UnsupportedBody, errors.NotAnImage, errors.BrokenImage)
ERROR_FORMAT: Final = problems.ErrorFormat(
    re.compile(r"/api/(image|info)(/|$)"), lambda message, _ms: f"{message}\n", dict.fromkeys(_BAD_REQUEST, 400)
)
#: What Edge Impulse calls the ways in which a photo of another shape becomes the model's input.
_RESIZE_MODES: Final = {"crop": "fit-shortest", "squash": "squash", "pad": "fit-longest"}
#: Of its kinds of sensors.
_CAMERA: Final = 3

router = APIRouter(tags=["edge impulse"])


class Resized(BaseModel):
    """The photo's sides and the model's, in pixels."""

    originalWidth: int = Field(examples=[640])  # noqa: N815 - the protocol's name
    originalHeight: int = Field(examples=[480])  # noqa: N815 - likewise
    newWidth: int = Field(examples=[224])  # noqa: N815 - likewise
    newHeight: int = Field(examples=[224])  # noqa: N815 - likewise


class ClassificationResult(BaseModel):
    """What the model says about one photo."""

    classification: dict[str, float] = Field(
        examples=[{"school bus": 0.9312, "minibus": 0.0121}],
        description="The score of each label, 0 to 1; all of them 0 where the photo shows none of the classes "
        "(`/predict`: `unknown`).",
    )
    resizeMode: str = Field(examples=["fit-shortest"])  # noqa: N815 - the protocol's name
    resized: Resized


class Timing(BaseModel):
    """Milliseconds."""

    dsp: float = Field(examples=[6.5], description="Decoding and resizing.")
    classification: float = Field(examples=[8.7], description="Inference.")
    anomaly: float = 0


class Classified(BaseModel):
    """The answer to one photo."""

    result: ClassificationResult
    timing: Timing


class Info(BaseModel):
    """The model that answers."""

    project: dict[str, Any] = Field(
        examples=[{"deploy_version": 1, "id": 1, "name": "mobilenet_v2_1.0_224", "owner": "edge-classifier"}]
    )
    modelParameters: dict[str, Any] = Field(  # noqa: N815 - the protocol's name
        examples=[{"model_type": "classification", "label_count": 2, "labels": ["empty", "full"]}]
    )


@router.post(
    "/api/image",
    summary="Classify one photo, as Edge Impulse's runner does",
    responses=ERROR_FORMAT.responses(errors.UnsupportedBody, *REFUSALS),
    openapi_extra={"requestBody": form(FIELD)},
)
async def image(request: Request) -> Classified:
    """The photo as multipart field `file`, to the default model."""
    classifier = Service.of(request).classifier
    contract = classifier.contract

    def read(body: Body) -> tuple[bytes, tuple[int, int]]:
        photo = body.image()
        return photo, size(photo)

    result, (width, height) = await classify(request, classifier, read, len(contract.labels), perf_counter())
    scores: dict[str, float] = {}
    for one in result.predictions:
        # Two classes may have one label; the better one comes first.
        scores.setdefault(one.label, 0.0 if result.unknown else one.score)
    return Classified(
        result=ClassificationResult(
            classification=scores,
            resizeMode=_RESIZE_MODES[contract.resize.fit],
            resized=Resized(
                originalWidth=width,
                originalHeight=height,
                newWidth=contract.resize.width,
                newHeight=contract.resize.height,
            ),
        ),
        timing=Timing(dsp=round(result.decode_s * 1e3, 3), classification=round(result.infer_s * 1e3, 3)),
    )


@router.get("/api/info", summary="The model, as Edge Impulse's runner describes it")
async def info(request: Request) -> Info:
    """The default model."""
    contract = Service.of(request).classifier.contract
    labels = list(dict.fromkeys(contract.labels))
    return Info(
        project={"deploy_version": 1, "id": 1, "name": contract.name, "owner": "edge-classifier"},
        modelParameters={
            "has_visual_anomaly_detection": False,
            "axis_count": 1,
            "frequency": 0,
            "has_anomaly": 0,
            "input_features_count": contract.resize.height * contract.resize.width,
            "image_input_height": contract.resize.height,
            "image_input_width": contract.resize.width,
            "image_input_frames": 1,
            "image_channel_count": 3,
            "image_resize_mode": _RESIZE_MODES[contract.resize.fit],
            "interval_ms": 1,
            "label_count": len(labels),
            "labels": labels,
            "model_type": "classification",
            "sensor": _CAMERA,
            "sensorType": "camera",
            "thresholds": [],
        },
    )
