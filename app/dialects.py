"""What the standard protocols beside our own API have in common: how pictures are scored, how errors are told."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from app import errors, problems
from app.classifier import Classifier
from app.observation import Observation
from app.service import Service
from app.upload import Body

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


class Asked(Protocol):
    """A request that has been read."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """At least one."""


A = TypeVar("A", bound=Asked)


@dataclass(frozen=True)
class Dialect:
    """How one protocol tells errors, whoever finds them: its routes, the middlewares around them, or nobody.

    Attributes:
        paths: a regular expression for the beginning of the paths that are its own.
        body: from the message and the milliseconds since the request began to the answer's JSON.
        statuses: status codes that differ from those of our own API.
    """

    paths: re.Pattern[str]
    body: Callable[[str, float], dict[str, Any]]
    statuses: Mapping[type[errors.RequestError], int] = field(default_factory=dict)

    def speaks(self, path: str) -> bool:
        """Whether what is wrong with a request to ``path`` is told in this dialect."""
        return self.paths.match(path) is not None

    def status(self, kind: type[errors.RequestError]) -> int:
        """The status code of an error."""
        return self.statuses.get(kind, problems.KINDS[kind].status)

    def responses(self, *kinds: type[errors.RequestError]) -> dict[int | str, dict[str, Any]]:
        """The OpenAPI responses of a route that answers with these errors, an example for each."""
        documented: dict[int | str, dict[str, Any]] = {}
        for kind in kinds:
            example = self.body((kind.__doc__ or "").partition("\n")[0], 0.2)
            schema = {
                "type": "object",
                "required": list(example),
                "properties": {key: {"type": _JSON_TYPES[type(value)]} for key, value in example.items()},
            }
            title = problems.KINDS[kind].title
            entry = documented.setdefault(
                self.status(kind),
                {"description": title, "content": {"application/json": {"schema": schema, "examples": {}}}},
            )
            if title not in entry["description"]:
                entry["description"] += f"; {title.lower()}"
            entry["content"]["application/json"]["examples"][problems.KINDS[kind].slug] = {"value": example}
            if kind in {errors.Overloaded, errors.Draining}:
                entry["headers"] = problems.RETRY_AFTER
        return documented


_JSON_TYPES: Final = {str: "string", bool: "boolean", float: "number"}


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


async def score(request: Request, classifier: Classifier, read: Callable[[Body], A]) -> tuple[A, NDArray[np.float32]]:
    """Reads a request's pictures and scores them.

    One picture is scored in the job that reads it, as ``/predict`` does it. Several get a job each: an inference is
    hardly faster for being batched on the CPUs that this is for, and a picture's scores are the same bits either way.

    Args:
        request: its body is not read where no lane would be free in time.
        classifier: the model.
        read: from the body to what is asked; runs in a lane.

    Returns:
        What is asked, and ``float32 [N, C]`` scores of its pictures.

    Raises:
        RequestError: the request is refused, or its first picture that fails is.
    """
    service, seen = Service.of(request), Observation.of(request.scope)
    lanes = service.lanes
    # Before the body is read: what arrives of a refused request is thrown away unseen.
    client = service.client_of(request)
    lanes.admit(client)
    started = perf_counter()
    async with service.intake.hold(request) as body:
        seen.timings_s["read"] = perf_counter() - started

        def begin() -> tuple[A, tuple[NDArray[np.float32], float, float] | None]:
            asked = read(body)
            return asked, classifier.scores(asked.pictures[0], alone=lanes.alone) if len(asked.pictures) == 1 else None

        async def one(picture: Picture) -> NDArray[np.float32]:
            (scores, _, _), _ = await lanes.submit(lambda: classifier.scores(picture, alone=lanes.alone), client)
            return scores

        (asked, alone), queued_s = await lanes.submit(begin, client)
        if alone is not None:
            scores, decode_s, infer_s = alone
            seen.timings_s |= {"queue": queued_s, "decode": decode_s, "infer": infer_s}
            rows = [scores]
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(picture)) for picture in asked.pictures]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            rows = [task.result() for task in tasks]
    seen.images = len(rows)
    return asked, np.stack(rows)
