"""``POST /explain``."""

from time import perf_counter
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from ... import errors
from ...inference import class_activation_map
from ...inference.class_activation_map import Explanation
from ...telemetry.request_record import RequestRecord
from .. import problems
from ..body_reader import Body
from ..schemas.common import ModelRef, PredictionOut, timing
from ..schemas.explain import Box, ExplainQuery, ExplainResponse
from ..service import Service
from .predict import ERRORS, PHOTO, asked_crop

router = APIRouter(tags=["explain"])

_HEADERS: Final = {
    "X-Label": {"description": "The label, percent-encoded UTF-8.", "schema": {"type": "string"}},
    "X-Score": {"description": "Its score, 0 to 1.", "schema": {"type": "number"}},
    "X-Unknown": {"description": "As `unknown`.", "schema": {"type": "boolean"}},
}
_ANSWERED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The numbers, or the photo with the evidence drawn on it.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": _HEADERS,
    }
}


@router.post(
    "/explain",
    summary="Say where in a photo the evidence for a class lies",
    response_model=ExplainResponse,
    responses=_ANSWERED
    | problems.responses(
        *ERRORS,
        errors.TooManyPixels,
        errors.TooComplex,
        errors.NotAnImage,
        errors.BrokenImage,
        errors.NotExplainable,
    ),
    openapi_extra=PHOTO,
)
async def explain(request: Request, query: Annotated[ExplainQuery, Query()]) -> Response:
    """The class activation map (Zhou et al. 2016) of the photo, which is sent as to `/predict`.

    `format=png` draws it: the part that the model sees in grey, with the evidence in colour; the rest is darkened.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    classifier = service.classifier_for(query.model)
    crop = asked_crop(request, query.crop)
    classifier.model.check_explainable()
    index = None if query.label is None else class_activation_map.class_of(classifier.contract, query.label)
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    client = service.client_of(request)
    service.workers.admit(client)

    def work(body: Body) -> tuple[Explanation, bytes, float]:
        photo = body.image()
        explained = class_activation_map.explain(
            classifier, photo, index, exclusive=service.workers.exclusive, crop=crop
        )
        if query.format == "json":
            return explained, b"", 0.0
        started = perf_counter()
        return (
            explained,
            class_activation_map.overlay(photo, explained, classifier.decode_budget, crop),
            perf_counter() - started,
        )

    started = perf_counter()
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started
        (found, picture, draw_s), queued_s = await service.workers.submit(lambda: work(body), client)
    record.images = 1
    record.timings_s |= {"queue": queued_s, "decode": found.decode_s, "infer": found.infer_s}
    if query.format == "png":
        record.timings_s["draw"] = draw_s
        headers = {
            "X-Label": quote(found.prediction.label),
            "X-Score": repr(found.prediction.score),
            "X-Unknown": str(found.unknown).lower(),
        }
        return Response(picture, headers=headers, media_type="image/png")
    prediction, (left, upper, right, lower) = found.prediction, found.box
    answer = ExplainResponse(
        model=ModelRef(name=found.contract.name, version=found.contract.version),
        prediction=PredictionOut(
            label=prediction.label, index=prediction.index, id=prediction.id, score=prediction.score
        ),
        unknown=found.unknown,
        box=Box(left=left, upper=upper, right=right, lower=lower),
        bias=round(found.bias, 6),
        evidence=[[round(value, 6) for value in row] for row in found.evidence.tolist()],
        timing_ms=timing(found, queued_s),
        request_id=record.request_id,
    )
    return Response(answer.model_dump_json(), media_type="application/json")
