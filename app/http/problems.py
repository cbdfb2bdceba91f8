"""How each error is answered: the one table from exceptions to problem JSON (RFC 9457), or to a protocol's own form."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .. import errors
from ..telemetry.request_record import MORE_CAME, RequestRecord
from .schemas.problem import Problem

MEDIA_TYPE: Final = "application/problem+json"
#: Where the OpenAPI document has the Problem schema.
SCHEMA: Final = "#/components/schemas/Problem"
#: Characters of a message, whatever a client has sent.
_MOST_DETAIL: Final = 1000
_TYPE: Final = "urn:edge-classifier:problem:"
#: What a 503 says beside its body, for the OpenAPI document.
RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: its status code, the last part of its type URI, its title."""

    status: int
    slug: str
    title: str


PROBLEM_TYPES: Final[dict[type[errors.RequestError], ProblemType]] = {
    errors.MalformedBody: ProblemType(400, "malformed-body", "Malformed body"),
    errors.ClientDisconnected: ProblemType(400, "client-disconnected", "Client disconnected"),
    errors.Unauthorized: ProblemType(401, "unauthorized", "Unauthorized"),
    errors.BodyTimeout: ProblemType(408, "body-timeout", "Body too slow"),
    errors.BodyTooLarge: ProblemType(413, "body-too-large", "Body too large"),
    errors.TooManyPixels: ProblemType(413, "too-many-pixels", "Too many pixels"),
    errors.TooComplex: ProblemType(413, "too-complex", "Too complex"),
    errors.TooManyImages: ProblemType(413, "too-many-images", "Too many images"),
    errors.UnsupportedBody: ProblemType(415, "unsupported-body", "Unsupported Content-Type"),
    errors.UnsupportedEncoding: ProblemType(415, "unsupported-encoding", "Unsupported Content-Encoding"),
    errors.NotAnImage: ProblemType(415, "not-an-image", "Not an image"),
    errors.BrokenImage: ProblemType(422, "broken-image", "Broken image"),
    errors.InvalidParameter: ProblemType(422, "invalid-parameter", "Invalid parameter"),
    errors.UnknownModel: ProblemType(404, "unknown-model", "Unknown model"),
    errors.NotOffered: ProblemType(403, "not-offered", "Not offered"),
    errors.NotExplainable: ProblemType(422, "not-explainable", "Not explainable"),
    errors.BadHost: ProblemType(400, "bad-host", "Not one host"),
    errors.UnknownHost: ProblemType(421, "unknown-host", "Unknown host"),
    errors.ModelRefused: ProblemType(409, "model-refused", "Model refused"),
    errors.NoPreviousModel: ProblemType(409, "no-previous-model", "No previous model"),
    errors.AdminLocked: ProblemType(403, "admin-locked", "Admin routes locked"),
    errors.CrossSite: ProblemType(403, "cross-site", "Asked by another site"),
    errors.NotThere: ProblemType(404, "not-there", "Not there"),
    errors.Conflict: ProblemType(409, "conflict", "Conflict"),
    errors.StorageFull: ProblemType(507, "storage-full", "Storage full"),
    errors.Overloaded: ProblemType(503, "overloaded", "Overloaded"),
    errors.Draining: ProblemType(503, "draining", "Shutting down"),
}
NOT_HTTP: Final = ProblemType(400, "not-http", "Not HTTP")
HEADERS_TOO_SLOW: Final = ProblemType(408, "header-timeout", "Request headers too slow")
HEADERS_TOO_LARGE: Final = ProblemType(431, "headers-too-large", "Request headers too large")
TOO_MANY_CONNECTIONS: Final = ProblemType(503, "too-many-connections", "Too many connections")
#: What the server answers itself, before there is a request.
BELOW: Final = (NOT_HTTP, HEADERS_TOO_SLOW, HEADERS_TOO_LARGE, TOO_MANY_CONNECTIONS)
NOT_FOUND: Final = ProblemType(404, "not-found", "Not found")
METHOD: Final = ProblemType(405, "method-not-allowed", "Method not allowed")
INTERNAL: Final = ProblemType(500, "internal-error", "Internal error")


def problem(kind: ProblemType, detail: str, request_id: str) -> Problem:
    """One problem, ready to be sent; a detail that quotes too much of a request is cut."""
    return Problem(
        type=_TYPE + kind.slug, title=kind.title, status=kind.status, detail=_short(detail), request_id=request_id
    )


def describe(error: errors.RequestError, request_id: str) -> Problem:
    """The problem that an error of the core is answered with."""
    return problem(PROBLEM_TYPES[type(error)], str(error), request_id)


def responses(*kinds: type[errors.RequestError] | ProblemType) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of a route that answers with these errors, an example for each."""
    documented: dict[int | str, dict[str, Any]] = {}
    for item in kinds:
        kind = item if isinstance(item, ProblemType) else PROBLEM_TYPES[item]
        detail = (
            "The message says what happened and what to do about it."
            if isinstance(item, ProblemType)
            else _summary(item)
        )
        entry = documented.setdefault(
            kind.status,
            {"description": kind.title, "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA}, "examples": {}}}},
        )
        if kind.title not in entry["description"]:
            entry["description"] += f"; {kind.title.lower()}"
        example = problem(kind, detail, "6f1c0f0e7a9b4c55")
        entry["content"][MEDIA_TYPE]["examples"][kind.slug] = {"value": example.model_dump()}
        if kind.status == 503:
            entry["headers"] = RETRY_AFTER
    return documented


def _short(detail: str) -> str:
    return detail if len(detail) <= _MOST_DETAIL else f"{detail[: _MOST_DETAIL - 1]}…"


def _summary(error: type[errors.RequestError]) -> str:
    return (error.__doc__ or "").partition("\n")[0]


def _more_came(request: Request) -> str:
    if (announced := request.headers.get("content-length")) is not None:
        return f"More bytes came than the Content-Length of {announced[:20]} announced. Count all of the body."
    if "transfer-encoding" in request.headers:
        return "More bytes came after the last chunk, the one of length 0. Send it at the end only."
    return "Bytes came after headers without a Content-Length, and so without a body. Announce how many they are."


@dataclass(frozen=True)
class ErrorFormat:
    """How one protocol tells errors, whoever finds them: its routes, the middlewares around them, or nobody.

    Attributes:
        paths: a regular expression for the beginning of the paths that are its own.
        body: from the message and the milliseconds since the request began to the answer's JSON, or its plain text.
        statuses: status codes that differ from those of our own API.
    """

    paths: re.Pattern[str]
    body: Callable[[str, float], dict[str, Any] | str]
    statuses: Mapping[type[errors.RequestError], int] = field(default_factory=dict)

    def speaks(self, path: str) -> bool:
        """Whether what is wrong with a request to ``path`` is told in this form."""
        return self.paths.match(path) is not None

    def status(self, kind: type[errors.RequestError]) -> int:
        """The status code of an error."""
        return self.statuses.get(kind, PROBLEM_TYPES[kind].status)

    def responses(self, *kinds: type[errors.RequestError]) -> dict[int | str, dict[str, Any]]:
        """The OpenAPI responses of a route that answers with these errors, an example for each."""
        documented: dict[int | str, dict[str, Any]] = {}
        for kind in kinds:
            example = self.body((kind.__doc__ or "").partition("\n")[0], 0.2)
            media_type, schema = "text/plain", _TEXT
            if isinstance(example, dict):
                properties = {key: {"type": _JSON_TYPES[type(value)]} for key, value in example.items()}
                media_type = "application/json"
                schema = {"type": "object", "required": list(example), "properties": properties}
            title = PROBLEM_TYPES[kind].title
            entry = documented.setdefault(
                self.status(kind),
                {"description": title, "content": {media_type: {"schema": schema, "examples": {}}}},
            )
            if title not in entry["description"]:
                entry["description"] += f"; {title.lower()}"
            entry["content"][media_type]["examples"][PROBLEM_TYPES[kind].slug] = {"value": example}
            if kind in {errors.Overloaded, errors.Draining}:
                entry["headers"] = RETRY_AFTER
        return documented


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_JSON_TYPES: Final = {str: "string", bool: "boolean", float: "number"}


def answer(request: Request, error: Exception) -> Response:
    """The response to an error of the core, of a parameter, of the framework, or of ours."""
    if MORE_CAME in request.scope and isinstance(error, errors.MalformedBody | errors.NotAnImage | errors.BrokenImage):
        error = errors.MalformedBody(f"{_more_came(request)} {error}")
    match error:
        case errors.RequestError():
            return _response(request, PROBLEM_TYPES[type(error)], str(error), headers_for(error), type(error))
        case RequestValidationError() | ValidationError():
            found = error.errors()
            # FastAPI puts where a parameter came from before its name.
            skip = 1 if isinstance(error, RequestValidationError) else 0
            places = [".".join(str(part)[:100] for part in item["loc"][skip:]) for item in found[:8]]
            details = [f"{place}: {item['msg']}" for place, item in zip(places, found, strict=False)]
            detail = f"{'; '.join(details)}. See /openapi.json for the parameters."
            return _response(request, PROBLEM_TYPES[errors.InvalidParameter], detail)
        case HTTPException(status_code=404):
            return _response(
                request, NOT_FOUND, f"There is no {request.url.path[:200]} here. See /openapi.json for what there is."
            )
        case HTTPException(status_code=405):
            headers = dict(error.headers or {})
            allowed = headers.get("Allow", "another method")
            detail = f"{request.url.path[:200]} does not take {request.method[:20]}; use {allowed}."
            return _response(request, METHOD, detail, headers)
        case HTTPException():
            title = HTTPStatus(error.status_code).phrase
            kind = ProblemType(error.status_code, title.lower().replace(" ", "-"), title)
            return _response(request, kind, str(error.detail), dict(error.headers or {}))
    detail = "The service made a mistake; its log has the details under this request id."
    return _response(request, INTERNAL, detail)


def register(app: FastAPI, formats: tuple[ErrorFormat, ...]) -> None:
    """Makes every error of ``app`` a problem document, the framework's own included.

    Args:
        app: the application.
        formats: how protocols with paths of their own tell errors.
    """
    app.state.error_formats = formats

    async def handler(request: Request, error: Exception) -> Response:
        return answer(request, error)

    for kind in (errors.RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handler)


def headers_for(error: errors.RequestError) -> dict[str, str]:
    """The headers that belong to an answer to ``error``, whatever the form of its body."""
    match error:
        case errors.Overloaded():
            return {"Retry-After": str(math.ceil(error.retry_after_s))}
        case errors.Unauthorized():
            return {"WWW-Authenticate": "Bearer"}
        case errors.UnsupportedEncoding():
            # RFC 9110, 12.5.3: what would have been taken.
            return {"Accept-Encoding": "identity"}
        case errors.Draining():
            return {"Retry-After": "1"}
        case errors.BodyTooLarge() | errors.BodyTimeout():
            # What is left of the body is not read, so the connection cannot carry another request.
            return {"Connection": "close"}
    return {}


def _response(
    request: Request,
    kind: ProblemType,
    detail: str,
    headers: dict[str, str] | None = None,
    error: type[errors.RequestError] | None = None,
) -> Response:
    record = RequestRecord.of(request.scope)
    record.problem = kind.slug
    path = request.scope["path"]
    formats: tuple[ErrorFormat, ...] = request.app.state.error_formats
    form = next((form for form in formats if form.speaks(path)), None)
    if form is None:
        return Response(problem(kind, detail, record.request_id).model_dump_json(), kind.status, headers, MEDIA_TYPE)
    status = kind.status if error is None else form.status(error)
    body = form.body(_short(detail), (perf_counter() - record.started_at) * 1e3)
    return PlainTextResponse(body, status, headers) if isinstance(body, str) else JSONResponse(body, status, headers)
