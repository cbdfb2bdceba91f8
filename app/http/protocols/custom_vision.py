"""Azure Custom Vision's prediction API, as its exported containers and its cloud speak it, for what was built for them.

The routes and the form of the answer are those of the Docker export's ``app.py`` and ``predict.py``
(https://github.com/Azure-Samples/customvision-export-samples); errors have the form of the cloud's
``CustomVisionError``. The cloud has ``/customvision/v3.0/prediction`` before its paths, which its SDKs add themselves.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, TypeVar
from uuid import UUID, uuid5

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ... import errors
from ...telemetry.request_record import RequestRecord
from .. import problems
from ..service import Service
from .base import NAME, PHOTO_FIELD, REFUSALS, classify, form

#: Name of the multipart field that carries the photo.
_FIELD: Final = "imageData"
#: Characters of a path that go back; a project is called by a UUID.
_MOST_ECHO: Final = 100
#: Of the UUIDs of tags and iterations; chosen at random once.
_NAMESPACE: Final = UUID("5b7f2b0e-6d0c-4d3a-9a52-0c3f1f6d9c84")
#: What Custom Vision calls the tag of photos that show none of the others.
_NEGATIVE: Final = "Negative"
ERROR_FORMAT: Final = problems.ErrorFormat(
    re.compile(r"((/[^/]+)?|(?s:.*)/(classify|detect)/iterations/[^/]+)/(image|url)(/nostore)?/?$"),
    # The one code of the published list that says nothing about photos of the cloud's own.
    lambda message, _ms: {"code": "ErrorUnknown", "message": message},
    {errors.NotAnImage: 400, errors.BrokenImage: 400, errors.UnsupportedBody: 400},
)

router = APIRouter(tags=["custom-vision"])


class TagPrediction(BaseModel):
    """One class."""

    tagId: str = Field(  # noqa: N815 - the protocol's name
        examples=["4a22f3f6-3c5f-5d0e-9a0b-9d2a3e1c7b11"], description="A UUID that follows from the name."
    )
    tagName: str = Field(examples=["school bus"])  # noqa: N815 - likewise
    probability: float = Field(examples=[0.9312], description="Its score, 0 to 1.")
    boundingBox: None = Field(None, description="Always null: whole photos are labelled.")  # noqa: N815 - likewise


class ImagePrediction(BaseModel):
    """All classes, best first."""

    id: str = Field(examples=["42545466aa335c21efa9a461bf6826ef"], description="The request's id.")
    project: str = Field("", description="As the path has it.")
    iteration: str = Field(
        examples=["0f0c7a52-5e4d-5b0c-8a8e-6b0f6e1d2c33"],
        description="A UUID that follows from the model and its version.",
    )
    created: str = Field(examples=["2026-11-27T07:30:00+00:00"])
    predictions: list[TagPrediction] = Field(
        description=f"Where the photo shows none of the classes (`/predict`: `unknown`), `{_NEGATIVE}` comes first, "
        "with the probability 1."
    )


#: A project may have the cloud's own prefix before it.
_ITERATION: Final = "/{project:path}/classify/iterations/{name}"
#: What a path's part of several segments cannot hold: it ends at a line break, as a regular expression's dot does.
_PROJECT: Final[dict[str, Any]] = {**NAME, "name": "project", "schema": {"type": "string", "pattern": r"^[^\n]+$"}}
_PHOTO: Final[dict[str, Any]] = form(_FIELD)
_PHOTO["content"] = {"application/octet-stream": {"schema": PHOTO_FIELD}, **_PHOTO["content"]}

F = TypeVar("F", bound=Callable[..., Any])


def _post(*paths: str, body: dict[str, Any] | None = None, **more: Any) -> Callable[[F], F]:
    """Makes a function the route of all these paths."""

    def add(function: F) -> F:
        for path in paths:
            parameters = [one for one in (_PROJECT, NAME) if f"{{{one['name']}" in path]
            described = {
                **({"parameters": parameters} if parameters else {}),
                **({"requestBody": body} if body else {}),
            }
            router.post(path, openapi_extra=described, **more)(function)
        return function

    return add


@_post(
    "/image",
    "/{project}/image",
    "/{project}/image/nostore",
    f"{_ITERATION}/image",
    f"{_ITERATION}/image/nostore",
    body=_PHOTO,
    summary="Classify one photo, as Azure Custom Vision does",
    responses=ERROR_FORMAT.responses(errors.UnsupportedBody, errors.UnknownModel, *REFUSALS),
)
async def image(request: Request) -> ImagePrediction:
    """The photo as the raw body or as multipart field `imageData`; no photo is ever stored.

    The name of an iteration is that of a model where one is served that is called so, else the default model's.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    name = request.path_params.get("name")
    classifier = service.classifier_for(name if name in service.names() else None)
    result, _ = await classify(
        request, classifier, lambda body: (body.image(_FIELD), None), len(classifier.contract.labels), perf_counter()
    )
    ids = _ids(classifier.contract.labels)
    tags = [TagPrediction(tagId=ids[one.index], tagName=one.label, probability=one.score) for one in result.predictions]
    if result.unknown:
        tags.insert(0, TagPrediction(tagId=_ids((_NEGATIVE,))[0], tagName=_NEGATIVE, probability=1.0))
    return ImagePrediction(
        id=record.request_id,
        project=request.path_params.get("project", "").rpartition("/")[2][:_MOST_ECHO],
        iteration=_ids((f"{classifier.contract.name} {classifier.contract.version}",))[0],
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        predictions=tags,
    )


@lru_cache(maxsize=32)
def _ids(names: tuple[str, ...]) -> list[str]:
    """UUIDs for names: SDKs in languages with types read no other text where the cloud has one."""
    return [str(uuid5(_NAMESPACE, name)) for name in names]


@_post(
    "/url",
    "/{project}/url",
    "/{project}/url/nostore",
    f"{_ITERATION}/url",
    f"{_ITERATION}/url/nostore",
    summary="Classify a photo elsewhere: not offered",
    responses=ERROR_FORMAT.responses(errors.NotOffered),
    status_code=403,
)
async def url() -> None:
    """Refused: a service that fetches what a stranger names reaches what the stranger cannot."""
    raise errors.NotOffered("This service fetches no photos from elsewhere. Send the photo itself: POST /image.")
