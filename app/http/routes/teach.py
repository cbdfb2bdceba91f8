"""``/teach``: the page on which classes are taught, and what it asks for. Only where ``CLASSIFIER_TEACH`` is set."""

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, ValidationError

from ... import errors
from ...errors import quoted
from ...registry.updates import Update
from ...runtime.worker_pool import WorkerPool
from ...teaching import pictures
from ...teaching.names import is_refused
from ...teaching.photos import Moved, Photo, free_bytes
from ...teaching.teaching import Teaching
from ...teaching.trainer import LEAST_PHOTOS
from .. import problems
from ..encodings import is_unicode
from ..schemas.common import ModelRef
from ..schemas.models import UpdateOut
from ..schemas.teach import (
    AddedOut,
    BegunOut,
    ClassNameOut,
    ClassOut,
    LabelQuery,
    Move,
    MovedOut,
    MovesOut,
    NewClass,
    PhotoOut,
    PhotoQuery,
    PhotosOut,
    PhotosQuery,
    Renamed,
    RunDetails,
    RunOut,
    TeachState,
    TrainingOut,
    Use,
)
from ..service import Service
from . import page
from .predict import ERRORS, PHOTO

Sent = TypeVar("Sent", bound=BaseModel)

#: Bytes of a JSON body: 20,000 ids of photos.
_MOST_JSON: Final = 1_000_000
#: Names that nobody on the internet can own, so that no page from there gets to the service by one of them.
_LOCAL: Final = re.compile(r"[^.]*|.*\.(local|localhost|localdomain|lan|internal|home\.arpa)\.?", re.IGNORECASE)


async def _ours(request: Request) -> None:
    """Lets the service's own page ask, and programs; no page from elsewhere that a browser also has open.

    Raises:
        CrossSite: it is one.
    """
    headers = request.headers
    host = headers.get("host", "")
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    # Fetch Metadata (W3C), where the browser sends it: over https and on the machine itself.
    foreign = (
        site not in ("same-origin", "none")
        if site is not None
        else origin is not None and _host(origin) != host.lower()
    )
    if foreign:
        raise errors.CrossSite(
            "A web page from elsewhere cannot teach this service; open its own page, /teach. Where a proxy is between, "
            "it has to pass the Host on."
        )
    # A name that its owner points to the gateway's address makes a foreign page look like our own (DNS rebinding).
    if Service.of(request).keys is None and not request.app.state.hosts_are_listed and not _is_local(host):
        raise errors.CrossSite(
            f"Without API keys, teaching is not offered under a name like {quoted(host)}, which could be anybody's. "
            "Use the service's address, list its name in CLASSIFIER_ALLOWED_HOSTS, or set CLASSIFIER_API_KEYS_FILE."
        )


router = APIRouter(prefix="/teach", tags=["teach"], dependencies=[Depends(_ours)])

#: The page itself, which holds no photo: open to everybody, as ``/`` is.
page_router = APIRouter(include_in_schema=False)
#: What the page consists of, beside what it shares with ``/``.
ASSETS: Final = frozenset({"grid.js", "result.js", "service.js", "teach.css", "teach.js"})

_CHANGED: Final = (
    errors.CrossSite,
    errors.NotThere,
    errors.Conflict,
    errors.StorageFull,
    errors.InvalidParameter,
    errors.MalformedBody,
    errors.UnsupportedEncoding,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.Overloaded,
)
_JPEG: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_Number = Annotated[int, Path(ge=1, le=1_000_000)]


@page_router.api_route("/teach", methods=["GET", "HEAD"])
async def teach(request: Request) -> Response:
    """The page on which classes are taught."""
    return page.beside(request, "teach", "teach/teach.html", page.POLICY)


@page_router.api_route("/page/teach/{name}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    """One of the files that the page loads."""
    if name not in ASSETS:
        raise HTTPException(404)
    return page.answer(request, f"teach/{name}", page.POLICY)


def _teaching(request: Request) -> Teaching:
    return cast("Teaching", request.app.state.teaching)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body, for the OpenAPI document."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


async def _sent(request: Request, model: type[Sent]) -> Sent:
    """The JSON object in a body.

    Raises:
        MalformedBody: it is none.
        InvalidParameter: it has not what it should have.
        BodyTooLarge, BodyTimeout, UnsupportedEncoding, Overloaded, ClientDisconnected: as ``BodyReader.read``.
    """
    async with Service.of(request).body_reader.read(request) as body:
        if len(body.data) > _MOST_JSON:
            raise errors.BodyTooLarge(f"The body has more than {_MOST_JSON} bytes. Send fewer photos at a time.")
        try:
            return model.model_validate_json(body.data)
        except ValidationError as error:
            told = error.errors()
    if told[0]["type"] == "json_invalid":
        raise errors.MalformedBody(f"The body is not valid JSON ({str(told[0]['msg'])[:200]}).")
    places = [f"{'.'.join(str(part)[:50] for part in one['loc'])}: {one['msg']}" for one in told[:4]]
    raise errors.InvalidParameter(f"{'; '.join(places)}. See /openapi.json for what to send.")


@router.get("/state", summary="Classes, trainings, and what is served", responses=problems.responses(errors.CrossSite))
async def state(request: Request) -> TeachState:
    """All that the page shows besides the photos; cheap enough to be asked for every second."""
    return await asyncio.to_thread(_state, _teaching(request), Service.of(request))


def _state(teaching: Teaching, service: Service) -> TeachState:
    photos, runs, progress = teaching.photos, teaching.runs, teaching.trainer.progress
    photos.expire()
    served = service.repository.default
    last = teaching.trainer.unwritten
    records = [runs.read(number) for number in runs.numbers()]
    return TeachState(
        revision=photos.revision(),
        classes=[
            ClassOut(label=name, photos=count, refused=is_refused(name)) for name, count in photos.classes().items()
        ],
        removed=len(photos.removed()),
        lately=None if teaching.lately is None else len(photos.lately()),
        used_bytes=photos.used_bytes(),
        most_bytes=photos.most_bytes,
        free_bytes=free_bytes(photos.root),
        days=photos.keep_s / 86_400,
        least_photos=LEAST_PHOTOS,
        missing=teaching.trainer.missing(),
        training=None
        if progress is None
        else TrainingOut(
            number=progress.number, step=progress.step, share=round(progress.share, 4), left_s=progress.left_s
        ),
        runs=[_run(last if last and last["number"] == record["number"] else record) for record in records if record],
        model=ModelRef(name=served.contract.name, version=served.contract.version),
        served=teaching.run_of(served),
        can_go_back=bool(runs.served),
    )


def _run(record: dict[str, Any]) -> RunOut:
    measured = record.get("measured", {})
    return RunOut(
        number=record["number"],
        outcome=record["outcome"],
        reason=record.get("reason"),
        started_at=record["started_at"],
        seconds=record.get("seconds"),
        photos=record["photos"],
        accuracy=measured.get("accuracy"),
        interval=measured.get("interval"),
    )


@router.post("/classes", summary="Make a class", responses=problems.responses(*_CHANGED), openapi_extra=_body(NewClass))
async def add_class(request: Request) -> ClassNameOut:
    """White space in the name is tidied; what means the same as another class's is refused."""
    sent = await _sent(request, NewClass)
    return ClassNameOut(label=await asyncio.to_thread(_teaching(request).photos.add_class, sent.label))


@router.post(
    "/classes/rename",
    summary="Give a class another name",
    responses=problems.responses(*_CHANGED),
    openapi_extra=_body(Renamed),
)
async def rename_class(request: Request) -> ClassNameOut:
    """Its photos stay in it."""
    sent = await _sent(request, Renamed)
    return ClassNameOut(label=await asyncio.to_thread(_teaching(request).photos.rename_class, sent.label, sent.to))


@router.post(
    "/classes/remove", summary="Remove a class", responses=problems.responses(*_CHANGED), openapi_extra=_body(NewClass)
)
async def remove_class(request: Request) -> MovesOut:
    """Its photos are removed with it, and can be moved back."""
    sent = await _sent(request, NewClass)
    return _moves(await asyncio.to_thread(_teaching(request).photos.remove_class, sent.label))


@router.get(
    "/photos",
    summary="The photos of a class, or of another place",
    responses=problems.responses(errors.CrossSite, errors.NotThere, errors.InvalidParameter),
)
async def photos(request: Request, query: Annotated[PhotosQuery, Query()]) -> Response:
    """The newest first, with what the last training found odd about them."""
    answer = await asyncio.to_thread(_photos, _teaching(request), query)
    return Response(answer.model_dump_json(), media_type="application/json")


def _photos(teaching: Teaching, query: PhotosQuery) -> PhotosOut:
    if query.place == "removed":
        found = teaching.photos.removed()
    elif query.place == "lately":
        found = teaching.photos.lately()
    elif query.label is None:
        raise errors.InvalidParameter("Which class's photos? Send ?label=, or ?place=removed.")
    else:
        found = teaching.photos.of_class(query.label)
    return PhotosOut(photos=_outs(teaching, found))


def _outs(teaching: Teaching, found: Iterable[Photo]) -> list[PhotoOut]:
    number, marks = teaching.marks()
    began = teaching.runs.read(number).get("started_at", 0.0) if number else 0.0
    made = []
    for photo in found:
        told = teaching.photos.told(photo) if photo.place == "lately" else {}
        # Whatever was said about one that came here since was said about another class.
        odd = marks.get(photo.id, []) if photo.since < began else []
        made.append(
            # Not validated: there may be thousands of our own.
            PhotoOut.model_construct(
                id=photo.id,
                label=photo.label,
                place=photo.place,
                bytes=photo.size,
                since=photo.since,
                marks=odd,
                camera=told.get("camera"),
                said=told.get("said"),
            )
        )
    return made


@router.get(
    "/photos/{photo}",
    summary="One photo, as a JPEG to look at",
    response_class=Response,
    responses=_JPEG
    | problems.responses(
        errors.CrossSite,
        errors.NotThere,
        errors.InvalidParameter,
        errors.Overloaded,
        errors.Draining,
        errors.NotAnImage,
        errors.BrokenImage,
        errors.TooManyPixels,
    ),
)
async def photo(
    request: Request,
    photo: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")],
    query: Annotated[PhotoQuery, Query()],
) -> Response:
    """Made anew, upright and without metadata, so that no file is ever sent back as it was received."""
    teaching, service = _teaching(request), Service.of(request)
    found = await asyncio.to_thread(teaching.photos.get, photo)
    small = query.size == "small"
    data = await asyncio.to_thread(teaching.photos.thumbnail, found) if small else None
    if data is None:
        data = await _shown(teaching, service, request, found, pictures.SMALL if small else pictures.LARGE)
    # What an id means never changes; only this browser keeps it, and no proxy on the way.
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


async def _shown(teaching: Teaching, service: Service, request: Request, found: Photo, longest: int) -> bytes:
    workers: WorkerPool = service.workers
    client = service.client_of(request)
    workers.admit(client)
    try:
        data = await asyncio.to_thread(found.path.read_bytes)
    except OSError as error:
        raise errors.NotThere("The photo's file cannot be read any more. Load the list again.") from error
    budget = service.classifier.decode_budget
    made, _ = await workers.submit(lambda: pictures.shown(data, longest, budget), client)
    if longest == pictures.SMALL:
        await asyncio.to_thread(teaching.photos.keep_thumbnail, found, made)
    return made


@router.post(
    "/photos",
    summary="Add a photo to a class",
    responses=problems.responses(
        *ERRORS,
        errors.CrossSite,
        errors.NotThere,
        errors.Conflict,
        errors.StorageFull,
        errors.TooManyPixels,
        errors.TooComplex,
        errors.NotAnImage,
        errors.BrokenImage,
    ),
    openapi_extra=PHOTO,
)
async def add_photo(request: Request, query: Annotated[LabelQuery, Query()]) -> AddedOut:
    """Sent as to `/predict`, with the same limits; decoded before it is kept, under a name of the service's own."""
    teaching, service = _teaching(request), Service.of(request)
    label = query.label
    client = service.client_of(request)
    service.workers.admit(client)
    budget = service.classifier.decode_budget
    async with service.body_reader.read(request) as body:
        checked, _ = await service.workers.submit(lambda: pictures.checked(body.image(), budget), client)
        kept, added = await asyncio.to_thread(teaching.photos.add, label, checked.data, checked.kind, checked.thumbnail)
    (out,) = await asyncio.to_thread(_outs, teaching, [kept])
    return AddedOut(photo=out, added=added)


@router.post(
    "/photos/move",
    summary="Move photos into a class, or remove them",
    responses=problems.responses(*_CHANGED),
    openapi_extra=_body(Move),
)
async def move(request: Request) -> MovesOut:
    """All or none. What was removed is kept for some days, and can be moved back."""
    sent = await _sent(request, Move)
    return _moves(await asyncio.to_thread(_teaching(request).photos.move, sent.photos, sent.to))


def _moves(moved: list[Moved]) -> MovesOut:
    return MovesOut(moved=[MovedOut(id=one.id, before=one.before) for one in moved])


@router.post(
    "/train",
    summary="Train a model",
    responses=problems.responses(errors.CrossSite, errors.Conflict, errors.StorageFull),
)
async def train(request: Request) -> BegunOut:
    """In a child process of low priority; `/teach/state` says how far it is. One at a time."""
    served = Service.of(request).repository.default
    return BegunOut(training=await asyncio.to_thread(_teaching(request).train, served))


@router.post("/train/cancel", summary="End the training", responses=problems.responses(errors.CrossSite))
async def cancel(request: Request) -> TeachState:
    """Nothing happens where none is under way."""
    teaching = _teaching(request)
    teaching.trainer.cancel()
    await asyncio.to_thread(teaching.trainer.join, 5.0)
    return await asyncio.to_thread(_state, teaching, Service.of(request))


@router.get(
    "/trainings/{number}",
    summary="What came of a training",
    responses=problems.responses(errors.CrossSite, errors.NotThere, errors.InvalidParameter),
)
async def training(request: Request, number: _Number) -> RunDetails:
    """Its accuracy with its interval, by class; what it confuses; what to look at; the served model beside it."""
    teaching = _teaching(request)
    last = teaching.trainer.unwritten
    found = last if last and last["number"] == number else await asyncio.to_thread(teaching.runs.get, number)
    return RunDetails.model_validate(found)


@router.get(
    "/trainings/{number}/model",
    summary="A training's model file",
    response_class=Response,
    responses=_FILE | problems.responses(errors.CrossSite, errors.NotThere, errors.InvalidParameter),
)
async def model_file(request: Request, number: _Number) -> Response:
    """As `teach` has written it: any Edge Classifier can serve it."""
    teaching = _teaching(request)
    await asyncio.to_thread(teaching.runs.get, number)
    path = await asyncio.to_thread(teaching.runs.model, number)
    if path is None:
        raise errors.NotThere(f"Training {number} made no model. Train again.")
    headers = {"Content-Disposition": f'attachment; filename="{path.name}"'}
    return Response(await asyncio.to_thread(path.read_bytes), media_type="application/octet-stream", headers=headers)


@router.post(
    "/use",
    summary="Serve a training's model",
    responses=problems.responses(*_CHANGED, errors.ModelRefused, errors.Draining),
    openapi_extra=_body(Use),
)
async def use(request: Request) -> UpdateOut:
    """From the next request on, and after a restart; tried and compared first, as every new model is."""
    sent = await _sent(request, Use)
    service = Service.of(request)
    update: Update = await _teaching(request).use(sent.training, service.repository, service.updates)
    return UpdateOut.build(update)


@router.post(
    "/back",
    summary="Serve the model again that was served before",
    responses=problems.responses(
        errors.CrossSite, errors.NoPreviousModel, errors.ModelRefused, errors.StorageFull, errors.Draining
    ),
)
async def back(request: Request) -> UpdateOut:
    """Undoes the last `/teach/use`."""
    service = Service.of(request)
    return UpdateOut.build(await _teaching(request).back(service.repository, service.updates))


def _host(origin: str) -> str:
    """The Host that a page of this origin would send; not a host where it says "null"."""
    try:
        return urlsplit(origin).netloc.lower() if is_unicode(origin) else ""
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    """Whether a Host is an address, or a name that nobody on the internet can own."""
    name = re.sub(r":\d*$", "", host)
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return _LOCAL.fullmatch(name) is not None
    return True
