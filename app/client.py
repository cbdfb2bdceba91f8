"""A Python client of the service: ``Client``, and ``AsyncClient`` with the same methods to await.

Needs the extra ``client`` (httpx). The service never imports this module, and it imports nothing of the service.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, Self, TypeVar

import httpx

T = TypeVar("T")
Pool = TypeVar("Pool", httpx.Client, httpx.AsyncClient)

#: A photo: the image file's bytes, where it is, or an open binary file.
Photo = bytes | Path | BinaryIO
#: A part of an upright photo: left edge, upper edge, width and height, as shares of its sides.
Crop = tuple[float, float, float, float]

#: A part that is hidden: a rectangle as a crop has it, or x and y of three corners or more.
Mask = tuple[float, ...]

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
#: Seconds before the first repetition, doubled for each further one up to the second figure; a random share of it is
#: waited ("full jitter"), so that clients that were refused together do not come back together.
_BACKOFF_S: Final = (0.2, 5.0)
#: What reading an answer raises that is no JSON, or not the JSON that is expected.
_MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class ClientError(Exception):
    """Base of what the client raises."""


class Unreachable(ClientError):
    """No whole answer came: the service cannot be connected to, or the connection broke each time."""


class ProblemError(ClientError):
    """The service answered with an error (RFC 9457), or somebody else did, or with something else.

    Attributes:
        status: HTTP status code; 200 where the answer is not what the service answers with.
        type: ``urn:edge-classifier:problem:...``, as ``docs/errors.md`` lists them; ``about:blank`` if the answer
            was not the service's own, but e.g. a proxy's.
        title: the type in words.
        detail: what happened and what to do about it; of an answer that does not say it, its beginning.
        request_id: finds the request in the service's log; None if the answer named none.
    """

    def __init__(self, status: int, type: str, title: str, detail: str, request_id: str | None) -> None:  # noqa: A002
        super().__init__(f"{title} ({status}): {detail}")
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.request_id = request_id

    @property
    def slug(self) -> str:
        """The last part of ``type``, e.g. ``not-an-image``."""
        return self.type.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an upright photo.

    Attributes:
        crop: where it is; None: the whole photo.
        fit: what is seen of it where it has another shape than the model's input ("crop", "squash" or "pad"); None
            leaves that to the model.
        masks: what the model does not see, but grey; measured on the photo.
    """

    crop: Crop | None = None
    fit: str | None = None
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its score, 0 to 1; ``id`` is its WordNet id, where the model knows it."""

    label: str
    index: int
    id: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Group:
    """Classes that go by one everyday name, and their score together, 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the service's time went, in milliseconds."""

    queue: float
    decode: float
    infer: float


@dataclass(frozen=True, slots=True)
class Appearance:
    """What the model saw of a photo.

    Mean and standard deviation of the luma (0 to 1, and 0, one flat tone as of a covered lens, to 0.5), and how much
    neighbouring pixels differ (0 to 1; fog and blur lower it).
    """

    brightness: float
    contrast: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one photo.

    ``labels`` is what the photo shows: the best class, or of a model with independent scores (``Model.multi_label``)
    every class from its threshold on. ``unknown`` says that it shows none of the model's classes. ``groups`` is empty
    where the model, or a service that is older than this client, has none. ``appearance`` is None of such a service,
    and for the photos of a batch.
    """

    model: ModelRef
    predictions: tuple[Prediction, ...]
    unknown: bool
    timing_ms: Timing
    request_id: str
    groups: tuple[Group, ...] = ()
    labels: tuple[str, ...] = ()
    appearance: Appearance | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether photos are being answered, why (not), and by what."""

    ready: bool
    reason: str
    model: ModelRef
    precision: str
    uptime_s: float


@dataclass(frozen=True, slots=True)
class Model:
    """What the model says about itself.

    ``multi_label``: its scores are independent, so that a photo may show several classes; a photo shows those from the
    score ``unknown_below`` on. ``measured`` is what was found when it was built.
    """

    name: str
    version: str
    precision: str
    classes: int
    unknown_below: float
    measured: Mapping[str, Any]
    multi_label: bool


@dataclass(frozen=True, slots=True)
class Label:
    """One class of the model; ``group`` is the everyday name that it belongs under, None where the model has none."""

    index: int
    label: str
    id: str | None
    group: str | None = None


class _Call(Generic[T]):
    """One question: its request, how its answer is read, and whether it is asked again. Sends nothing itself."""

    def __init__(
        self,
        request: Callable[[], httpx.Request],
        read: Callable[[Any], T],
        accepted: Container[int],
        attempts: int,
        total_s: float,
    ) -> None:
        self.request = request
        self._read = read
        self._left = attempts - 1
        self._deadline = time.monotonic() + total_s
        self._backoff_s = _BACKOFF_S[0]
        self._accepted = accepted

    def answered(self, response: httpx.Response) -> float | T:
        """The result; or the seconds to wait before asking again, as a float.

        Raises:
            ProblemError: the answer is an error, and asking again is no use or no longer allowed.
        """
        if response.status_code in self._accepted and _media_type(response) == JSON:
            try:
                return self._read(response.json())
            except _MALFORMED as error:
                raise _problem_in(response) from error
        if response.status_code in (429, 503):
            wait_s = self._wait_s(_retry_after_s(response.headers.get("retry-after", "")))
            if wait_s is not None:
                return wait_s
        raise _problem_in(response)

    def failed(self, error: httpx.RequestError) -> float:
        """The seconds to wait before asking again.

        Raises:
            Unreachable: asking again is no longer allowed, or is no use.
        """
        # Safe, because a question changes nothing. What took too long is not asked again: that would only add load.
        again = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)
        wait_s = self._wait_s(0.0) if again else None
        if wait_s is None:
            url = error.request.url.copy_with(query=None)
            raise Unreachable(f"{url}: {error or type(error).__name__}") from error
        return wait_s

    def _wait_s(self, at_least_s: float) -> float | None:
        wait_s = at_least_s + random.uniform(0, self._backoff_s)  # noqa: S311 - no secret
        self._backoff_s = min(2 * self._backoff_s, _BACKOFF_S[1])
        if self._left <= 0 or time.monotonic() + wait_s > self._deadline:
            return None
        self._left -= 1
        return wait_s


class _Calls(Generic[Pool]):
    """What both clients know: where the service is, what can be asked, how answers are read."""

    _pool: type[Pool]
    _http: Pool

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        attempts: int = 8,
        total_s: float = 60.0,
    ) -> None:
        """Opens no connection yet.

        Args:
            url: where the service is.
            api_key: sent as ``Authorization: Bearer``, where the service asks for one.
            timeout_s: seconds to wait for a connection, or for the next bytes of an answer.
            attempts: how often a question is asked at most: a 503 (or a proxy's 429) is asked again after its
                ``Retry-After``, a connection that broke after a moment.
            total_s: seconds after its first attempt from which on a question is not asked again.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Reading all authorities costs 2 MB and 20 ms, also where no certificate will come.
        self._http = self._pool(base_url=url, timeout=timeout_s, headers=headers, verify=url.startswith("https:"))
        self._attempts = attempts
        self._total_s = total_s

    def _call(
        self, method: str, path: str, read: Callable[[Any], T], *, accepted: Container[int] = (200,), **options: Any
    ) -> _Call[T]:
        return _Call(
            lambda: self._http.build_request(method, path, **options), read, accepted, self._attempts, self._total_s
        )

    def _predict(
        self,
        photo: bytes,
        top_k: int | None,
        min_score: float,
        model: str | None,
        camera: str | None,
        by_group: bool,
        crop: Crop | None,
    ) -> _Call[Result]:
        headers = {"Content-Type": "application/octet-stream"}
        params = _parameters(top_k, min_score, model, by_group, camera, crop)
        return self._call("POST", "/predict", _result, params=params, content=photo, headers=headers)

    def _predict_regions(
        self,
        photo: bytes,
        regions: Iterable[Region],
        top_k: int | None,
        min_score: float,
        model: str | None,
        camera: str | None,
        by_group: bool,
    ) -> _Call[list[Result]]:
        headers = {"Content-Type": "application/octet-stream"}
        asked = [{name: value for name, value in asdict(region).items() if value} for region in regions]
        params = _parameters(top_k, min_score, model, by_group, camera) | {"regions": json.dumps(asked)}
        return self._call(
            "POST",
            "/predict/regions",
            lambda body: _region_results(body, len(asked)),
            params=params,
            content=photo,
            headers=headers,
        )

    def _predict_batch(
        self, photos: Iterable[bytes], top_k: int | None, min_score: float, model: str | None, by_group: bool
    ) -> _Call[list[Result | ProblemError]]:
        files = [("file", ("photo", photo, "application/octet-stream")) for photo in photos]
        params = _parameters(top_k, min_score, model, by_group)
        return self._call("POST", "/predict/batch", _results, params=params, files=files)

    def _health(self) -> _Call[Health]:
        # A service that is not ready says so with a 503, which here is the answer.
        return self._call("GET", "/health", _health, accepted=(200, 503))

    def _model(self, name: str | None) -> _Call[Model]:
        return self._call("GET", "/model", _model, params={} if name is None else {"model": name})

    def _labels(self) -> _Call[tuple[Label, ...]]:
        return self._call("GET", "/labels", _labels)


class Client(_Calls[httpx.Client]):
    """The service, to be called from one or several threads; keeps its connections until it is closed.

    ::

        with Client("http://gateway:8000") as classifier:
            print(classifier.predict(Path("photo.jpg")).predictions[0].label)

    Every method raises ProblemError (the service says no) or Unreachable (it says nothing).
    """

    _pool = httpx.Client

    def predict(
        self,
        photo: Photo,
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        camera: str | None = None,
        by_group: bool = False,
        crop: Crop | None = None,
    ) -> Result:
        """What one photo shows.

        Args:
            photo: the image file's bytes, where it is, or an open binary file, which is read to its end.
            top_k: how many classes, and how many groups, at most; best first. None leaves that to the service (5).
            min_score: classes and groups below it are left out.
            model: name of the model to ask; None asks the default one.
            camera: name of the camera that took the photo, at most 64 characters; where the service has its frame
                cache on, a photo may get the scores of an earlier one of the same camera. None leaves it to the
                service, which takes the client's address.
            by_group: of the classes, only those of the best group, where the model has groups.
            crop: classify this part of the upright photo alone: left edge, upper edge, width and height, as shares of
                the photo's sides, 0 to 1.
        """
        return self._ask(self._predict(_bytes(photo), top_k, min_score, model, camera, by_group, crop))

    def predict_regions(
        self,
        photo: Photo,
        regions: Iterable[Region],
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        camera: str | None = None,
        by_group: bool = False,
    ) -> list[Result]:
        """What each of up to 16 parts of one photo shows, in their order; the photo is decoded once.

        ``timing_ms`` is of all of them together, the same in each. Otherwise as ``predict``.
        """
        return self._ask(self._predict_regions(_bytes(photo), regions, top_k, min_score, model, camera, by_group))

    def predict_batch(
        self,
        photos: Iterable[Photo],
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        by_group: bool = False,
    ) -> list[Result | ProblemError]:
        """What several photos show, in their order; a photo that cannot be read has its ProblemError in its place."""
        return self._ask(self._predict_batch([_bytes(photo) for photo in photos], top_k, min_score, model, by_group))

    def health(self) -> Health:
        """Whether the service answers photos now."""
        return self._ask(self._health())

    def model(self, name: str | None = None) -> Model:
        """What a model says about itself; None asks the default one."""
        return self._ask(self._model(name))

    def labels(self) -> tuple[Label, ...]:
        """The model's classes, by index."""
        return self._ask(self._labels())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ask(self, call: _Call[T]) -> T:
        while True:
            try:
                response = self._http.send(call.request())
            except httpx.RequestError as error:
                outcome: float | T = call.failed(error)
            else:
                outcome = call.answered(response)
            if not isinstance(outcome, float):
                return outcome
            time.sleep(outcome)


class AsyncClient(_Calls[httpx.AsyncClient]):
    """``Client`` for asyncio: the same methods, to be awaited."""

    _pool = httpx.AsyncClient

    async def predict(
        self,
        photo: Photo,
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        camera: str | None = None,
        by_group: bool = False,
        crop: Crop | None = None,
    ) -> Result:
        """What one photo shows; as ``Client.predict``."""
        data = photo if isinstance(photo, bytes) else await asyncio.to_thread(_bytes, photo)
        return await self._ask(self._predict(data, top_k, min_score, model, camera, by_group, crop))

    async def predict_regions(
        self,
        photo: Photo,
        regions: Iterable[Region],
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        camera: str | None = None,
        by_group: bool = False,
    ) -> list[Result]:
        """What each of up to 16 parts of one photo shows; as ``Client.predict_regions``."""
        data = photo if isinstance(photo, bytes) else await asyncio.to_thread(_bytes, photo)
        return await self._ask(self._predict_regions(data, regions, top_k, min_score, model, camera, by_group))

    async def predict_batch(
        self,
        photos: Iterable[Photo],
        top_k: int | None = None,
        min_score: float = 0.0,
        *,
        model: str | None = None,
        by_group: bool = False,
    ) -> list[Result | ProblemError]:
        """What several photos show; as ``Client.predict_batch``."""
        data = [await asyncio.to_thread(_bytes, photo) for photo in photos]
        return await self._ask(self._predict_batch(data, top_k, min_score, model, by_group))

    async def health(self) -> Health:
        """Whether the service answers photos now."""
        return await self._ask(self._health())

    async def model(self, name: str | None = None) -> Model:
        """What a model says about itself; None asks the default one."""
        return await self._ask(self._model(name))

    async def labels(self) -> tuple[Label, ...]:
        """The model's classes, by index."""
        return await self._ask(self._labels())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def _ask(self, call: _Call[T]) -> T:
        while True:
            try:
                response = await self._http.send(call.request())
            except httpx.RequestError as error:
                outcome: float | T = call.failed(error)
            else:
                outcome = call.answered(response)
            if not isinstance(outcome, float):
                return outcome
            await asyncio.sleep(outcome)


def _bytes(photo: Photo) -> bytes:
    if isinstance(photo, bytes):
        return photo
    return photo.read_bytes() if isinstance(photo, Path) else photo.read()


def _parameters(
    top_k: int | None,
    min_score: float,
    model: str | None,
    by_group: bool,
    camera: str | None = None,
    crop: Crop | None = None,
) -> dict[str, Any]:
    given = {
        "top_k": top_k,
        "min_score": min_score or None,
        "model": model,
        "camera": camera,
        "view": "groups" if by_group else None,
        "crop": ",".join(map(repr, crop)) if crop else None,
    }
    return {name: value for name, value in given.items() if value is not None}


# Members that a newer service adds are left out, so that an older client can talk to it; what an older service does not
# have is as it is for a model that has none.
def _result(body: Mapping[str, Any]) -> Result:
    predictions = tuple(Prediction(p["label"], p["index"], p["id"], p["score"]) for p in body["predictions"])
    return Result(
        model=_model_ref(body),
        predictions=predictions,
        unknown=body["unknown"],
        timing_ms=Timing(*(body["timing_ms"][stage] for stage in ("queue", "decode", "infer"))),
        request_id=body["request_id"],
        groups=tuple(Group(group["label"], group["score"]) for group in body.get("groups", ())),
        labels=tuple(body.get("labels", () if body["unknown"] else (p.label for p in predictions[:1]))),
        appearance=_appearance(body["appearance"]) if "appearance" in body else None,
    )


def _appearance(body: Mapping[str, Any]) -> Appearance:
    return Appearance(*(body[name] for name in ("brightness", "contrast", "sharpness")))


def _results(body: Mapping[str, Any]) -> list[Result | ProblemError]:
    shared = {"model": body["model"], "request_id": body["request_id"]}
    return [_problem(one["problem"]) if "problem" in one else _result({**one, **shared}) for one in body["results"]]


def _region_results(body: Mapping[str, Any], asked: int) -> list[Result]:
    shared = {name: body[name] for name in ("model", "timing_ms", "request_id")}
    results = [_result({**one, **shared}) for one in body["results"]]
    if len(results) != asked:
        raise ValueError(f"{asked} regions have {len(results)} results")
    return results


def _health(body: Mapping[str, Any]) -> Health:
    return Health(body["status"] == "ready", body["reason"], _model_ref(body), body["precision"], body["uptime_s"])


def _labels(body: Mapping[str, Any]) -> tuple[Label, ...]:
    return tuple(Label(one["index"], one["label"], one["id"], one.get("group")) for one in body["labels"])


def _model(body: Mapping[str, Any]) -> Model:
    return Model(
        name=body["name"],
        version=body["version"],
        precision=body["precision"],
        classes=body["classes"],
        unknown_below=body["unknown_below"],
        measured=body["measured"],
        multi_label=body.get("multi_label", False),
    )


def _model_ref(body: Mapping[str, Any]) -> ModelRef:
    return ModelRef(body["model"]["name"], body["model"]["version"])


def _problem(body: Mapping[str, Any], status: int = 0, phrase: str = "", request_id: str | None = None) -> ProblemError:
    """A problem document's problem. All its members are optional, and one of another type counts as absent (RFC 9457).

    Args:
        body: the document.
        status: of the answer; 0 where the document is one of several in an answer and has to say it.
        phrase: the status in words.
        request_id: the answer's.
    """

    def text(name: str, default: str) -> str:
        value = body.get(name)
        return value if isinstance(value, str) else default

    return ProblemError(
        status or int(body["status"]),
        text("type", "about:blank"),
        text("title", phrase),
        text("detail", "no detail"),
        text("request_id", request_id or "") or None,
    )


def _problem_in(response: httpx.Response) -> ProblemError:
    status = response.status_code
    phrase = response.reason_phrase or httpx.codes.get_reason_phrase(status) or "no reason"
    request_id = response.headers.get("x-request-id")
    if _media_type(response) == PROBLEM:
        try:
            return _problem(response.json(), status, phrase, request_id)
        except _MALFORMED:
            pass
    # Not by the charset that it names, which may be any of Python's codecs.
    detail = response.content.decode(errors="replace")[:200] or "no detail"
    if response.has_redirect_location:
        detail = f"moved to {response.headers['location']}"
    return ProblemError(status, "about:blank", phrase, detail, request_id)


def _media_type(response: httpx.Response) -> str:
    """The answer's Content-Type without its parameters, e.g. a charset."""
    value: str = response.headers.get("content-type", "")
    return value.partition(";")[0].strip().lower()


def _retry_after_s(value: str) -> float:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3): a number of them, or a date; 0 where there is none."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
