"""``POST /predict``, ``POST /predict/batch`` and ``POST /predict/regions``."""

import asyncio
import random
from time import perf_counter
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import errors
from ...inference.imaging import WHOLE, Crop, View
from ...telemetry.request_record import RequestRecord
from .. import problems
from ..body_reader import FIELD
from ..schemas.common import TINY_PNG, ModelRef, timing
from ..schemas.predict import (
    BatchProblem,
    BatchResponse,
    BatchResult,
    PredictQuery,
    PredictResponse,
    RegionsQuery,
    RegionsResponse,
    groups,
    predictions,
)
from ..service import Service

router = APIRouter(tags=["predict"])
_DEFAULTS: Final = PredictQuery()

_BINARY: Final = {"type": "string", "format": "binary"}
#: The request body of a route that takes one photo, for the OpenAPI document.
PHOTO: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}},
            },
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "contentEncoding": "base64", "examples": [TINY_PNG]}},
                },
                "example": {"image": TINY_PNG},
            },
        },
    }
}
_PHOTOS: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "array", "items": _BINARY, "minItems": 1}},
                },
            },
        },
    }
}
#: What every route that takes photos may answer.
ERRORS: Final = (
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedBody,
    errors.UnsupportedEncoding,
    errors.InvalidParameter,
    errors.UnknownModel,
    errors.Overloaded,
    errors.Draining,
)


def asked_crop(request: Request, crop: Crop | None) -> Crop:
    """The part of the photo that is asked for.

    Raises:
        InvalidParameter: several parts are; the framework would take the last one.
    """
    if crop is None:
        return WHOLE
    if len(request.query_params.getlist("crop")) > 1:
        raise errors.InvalidParameter(
            "There are several crops. Send a request for each, or ask /predict/regions for several parts of one photo."
        )
    return crop


@router.post(
    "/predict",
    summary="Classify one photo",
    response_model=PredictResponse,
    responses=problems.responses(
        *ERRORS, errors.TooManyPixels, errors.TooComplex, errors.NotAnImage, errors.BrokenImage
    ),
    openapi_extra=PHOTO,
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """The photo as multipart field `file`, as the raw body, or as JSON with base64 in `image`.

    A body that begins as a picture is one, whatever its Content-Type; so is the only picture in a form or in JSON,
    whatever its name.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    classifier = service.classifier_for(query.model)
    crop = asked_crop(request, query.crop)
    if "top_k" in query.model_fields_set:
        classifier.check_k(query.top_k)
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    client = service.client_of(request)
    service.workers.admit(client)
    # What one part of the photo shows says nothing about another.
    seen = (query.camera or (request.client.host if request.client else ""), View(crop))
    camera = service.frame_cache.camera(seen)
    started = perf_counter()
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started
        result, queued_s = await service.workers.submit(
            lambda: classifier(
                body.image(),
                query.top_k,
                query.min_score,
                exclusive=service.workers.exclusive,
                camera=camera,
                by_group=query.view == "groups",
                crop=crop,
            ),
            client,
        )
        if service.lately is not None and query.camera:
            service.lately.offer(query.camera, body.image, len(body.data), result, classifier.decode_budget)
    record.images = 1
    record.camera = query.camera or ""
    service.note(record, classifier, result.sight, result.group)
    record.cached = result.cached if camera else None
    record.timings_s |= {"queue": queued_s, "decode": result.decode_s, "infer": result.infer_s}
    return Response(PredictResponse.encode(result, queued_s, record.request_id), media_type="application/json")


@router.post(
    "/predict/regions",
    summary="Classify parts of one photo",
    response_model=RegionsResponse,
    responses=problems.responses(
        *ERRORS, errors.TooManyPixels, errors.TooComplex, errors.NotAnImage, errors.BrokenImage
    ),
    openapi_extra=PHOTO,
)
async def predict_regions(request: Request, query: Annotated[RegionsQuery, Query()]) -> Response:
    """A photo as to `/predict`, which is decoded once; one result for each of `regions`, in their order."""
    service, record = Service.of(request), RequestRecord.of(request.scope)
    classifier = service.classifier_for(query.model)
    if len(request.query_params.getlist("regions")) > 1:
        raise errors.InvalidParameter("There are several parameters 'regions'. Send one, with all regions in it.")
    if "top_k" in query.model_fields_set:
        classifier.check_k(query.top_k)
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    client = service.client_of(request)
    service.workers.admit(client)
    views = [region.view() for region in query.regions]
    camera = query.camera or (request.client.host if request.client else "")
    cameras = [service.frame_cache.camera((camera, view)) for view in views]
    started = perf_counter()
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started
        results, queued_s = await service.workers.submit(
            lambda: classifier.views(
                body.image(),
                views,
                query.top_k,
                query.min_score,
                exclusive=service.workers.exclusive,
                cameras=cameras,
                by_group=query.view == "groups",
            ),
            client,
        )
        if service.lately is not None and query.camera:
            for result in results:
                service.lately.offer(query.camera, body.image, len(body.data), result, classifier.decode_budget)
    record.images = 1
    record.camera = query.camera or ""
    # A shadow takes one at a time: not always the same region.
    for result in random.sample(results, len(results)):
        service.note(record, classifier, result.sight, result.group)
    record.cached = all(result.cached for result in results) if cameras[0] else None
    record.timings_s |= {
        "queue": queued_s,
        "decode": results[0].decode_s,
        "infer": sum(result.infer_s for result in results),
    }
    return Response(RegionsResponse.encode(results, queued_s, record.request_id), media_type="application/json")


@router.post(
    "/predict/batch",
    summary="Classify several photos",
    response_model=BatchResponse,
    responses=problems.responses(*ERRORS, errors.TooManyImages),
    openapi_extra=_PHOTOS,
)
async def predict_batch(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Several multipart fields `file`; one result each, in their order. A photo that fails fails alone.

    Where none is named `file`, those are taken that have the name of the pictures among them.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    classifier = service.classifier_for(query.model)
    crop = asked_crop(request, query.crop)
    if "top_k" in query.model_fields_set:
        classifier.check_k(query.top_k)
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    client = service.client_of(request)
    service.workers.admit(client)

    async def one(image: bytes) -> BatchResult | BatchProblem:
        try:
            result, queued_s = await service.workers.submit(
                lambda: classifier(image, query.top_k, query.min_score, by_group=query.view == "groups", crop=crop),
                client,
            )
        except (errors.Overloaded, errors.Draining):
            raise
        except errors.RequestError as error:
            return BatchProblem(problem=problems.describe(error, record.request_id))
        service.note(record, classifier, result.sight, result.group)
        return BatchResult(
            groups=groups(result),
            predictions=predictions(result),
            labels=list(result.labels),
            unknown=result.unknown,
            timing_ms=timing(result, queued_s),
        )

    started = perf_counter()
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started
        images, _ = await service.workers.submit(lambda: body.images(service.limits.batch_images), client)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(image)) for image in images]
        except ExceptionGroup as failed:
            # No room for the whole batch: the group has cancelled the rest, the first refusal answers for all.
            raise failed.exceptions[0] from None
    record.images = len(images)
    record.camera = query.camera or ""
    model = ModelRef(name=classifier.contract.name, version=classifier.contract.version)
    answer = BatchResponse(model=model, results=[t.result() for t in tasks], request_id=record.request_id)
    return Response(answer.model_dump_json(), media_type="application/json")


class PredictFastPath:
    """ASGI middleware that takes ``POST /predict`` past the framework's routing, straight to ``predict``.

    FastAPI's own middlewares, routing and parameter handling cost two fifths of the event loop's time for a photo.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a photo; passes everything else on."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        RequestRecord.of(scope).route = "/predict"
        request = Request(scope, receive)
        try:
            query = PredictQuery.model_validate(dict(request.query_params)) if scope["query_string"] else _DEFAULTS
            response = await predict(request, query)
        except (errors.RequestError, ValidationError) as error:
            response = problems.answer(request, error)
        await response(scope, receive, send)
