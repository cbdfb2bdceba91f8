"""What the standard protocols beside our own API have in common: how pictures are scored, how errors are told."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from ... import errors
from ...inference.classifier import Classifier, Result, Sight
from ...telemetry.request_record import RequestRecord
from ..body_reader import Body
from ..service import Service

#: An image file's bytes, or ``uint8 [H, W, 3]`` pixels of the model's own size.
Picture: TypeAlias = bytes | NDArray[np.uint8]

#: What every request with a body can be refused with.
REFUSALS: Final = (
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedEncoding,
    errors.Overloaded,
    errors.Draining,
    errors.TooManyPixels,
    errors.TooComplex,
    errors.NotAnImage,
    errors.BrokenImage,
)

# What ``model`` reads, for the OpenAPI document. Arguments of the routes would document a 422 that cannot happen.
NAME: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}
VERSION: Final[dict[str, Any]] = {**NAME, "name": "version"}
#: The photo's field of a form, and the field of an API key where a protocol has one.
PHOTO_FIELD: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
KEY_FIELD: Final[dict[str, Any]] = {
    "type": "string",
    "description": "An API key, if keys are set; before the photo.",
}


def form(photo: str, **more: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's description of a multipart body: the photo's field, which it needs, and others by their names."""
    properties = {photo: PHOTO_FIELD, **more}
    schema = {"type": "object", "required": [photo], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


class Asked(Protocol):
    """A request that has been read."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """At least one."""


A = TypeVar("A", bound=Asked)
T = TypeVar("T")


def model(request: Request) -> Classifier:
    """The classifier of the model that a path with ``{name}`` and perhaps ``{version}`` asks for.

    What clients of other servers ask for where nobody has chosen anything is taken for what is served: the model
    ``default``, unless one is called so, and the version 1.

    Raises:
        UnknownModel: no such model, or not in this version, is served.
    """
    name, version = request.path_params["name"], request.path_params.get("version")
    service = Service.of(request)
    classifier = service.classifier_for(None if name == "default" and name not in service.names() else name)
    served = classifier.contract.version
    if version not in (None, served, "1"):
        raise errors.UnknownModel(
            f"The model {name!r} has no version {errors.quoted(version)} here; {served!r} is served."
        )
    return classifier


async def classify(
    request: Request, classifier: Classifier, read: Callable[[Body], tuple[bytes, T]], k: int, started: float
) -> tuple[Result, T]:
    """Reads a request's one photo and classifies it, as ``/predict`` does.

    Args:
        request: its body is not read where no worker would be free in time.
        classifier: the model.
        read: from the body to the photo, and to what else the answer needs of it; runs in a worker.
        k: how many classes and groups, at most.
        started: when reading began, by ``perf_counter``.

    Returns:
        What the model says, and what ``read`` returned beside the photo.

    Raises:
        RequestError: the request is refused, or its photo is.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    # Before the body is read: what arrives of a refused photo is thrown away unseen.
    client = service.client_of(request)
    service.workers.admit(client)
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started

        def work() -> tuple[Result, T]:
            photo, more = read(body)
            return classifier(photo, k, exclusive=service.workers.exclusive), more

        (result, more), queued_s = await service.workers.submit(work, client)
    record.images = 1
    service.note(record, classifier, result.sight, result.group)
    record.timings_s |= {"queue": queued_s, "decode": result.decode_s, "infer": result.infer_s}
    return result, more


async def score(request: Request, classifier: Classifier, read: Callable[[Body], A]) -> tuple[A, NDArray[np.float32]]:
    """Reads a request's pictures and scores them.

    One picture is scored in the job that reads it, as ``/predict`` does it. Several get a job each: an inference is
    hardly faster for being batched on the CPUs that this is for, and a picture's scores are the same bits either way.

    Args:
        request: its body is not read where no worker would be free in time.
        classifier: the model.
        read: from the body to what is asked; runs in a worker.

    Returns:
        What is asked, and ``float32 [N, C]`` scores of its pictures.

    Raises:
        RequestError: the request is refused, or its first picture that fails is.
    """
    service, record = Service.of(request), RequestRecord.of(request.scope)
    workers = service.workers
    # Before the body is read: what arrives of a refused request is thrown away unseen.
    client = service.client_of(request)
    workers.admit(client)
    started = perf_counter()
    async with service.body_reader.read(request) as body:
        record.timings_s["read"] = perf_counter() - started

        def begin() -> tuple[A, tuple[Sight, float, float] | None]:
            asked = read(body)
            return asked, classifier.scores(asked.pictures[0], exclusive=workers.exclusive) if len(
                asked.pictures
            ) == 1 else None

        def scores_of(sight: Sight) -> NDArray[np.float32]:
            # Nothing else of a picture is kept until the last one is done.
            service.note(record, classifier, sight, classifier.best_group(sight.scored.scores))
            return sight.scored.scores

        async def one(picture: Picture) -> NDArray[np.float32]:
            (sight, _, _), _ = await workers.submit(
                lambda: classifier.scores(picture, exclusive=workers.exclusive), client
            )
            return scores_of(sight)

        (asked, single), queued_s = await workers.submit(begin, client)
        if single is not None:
            sight, decode_s, infer_s = single
            record.timings_s |= {"queue": queued_s, "decode": decode_s, "infer": infer_s}
            rows = [scores_of(sight)]
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(picture)) for picture in asked.pictures]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            rows = [task.result() for task in tasks]
    record.images = len(rows)
    return asked, np.stack(rows)
