"""Whom to ask about a photo: a model file, through the very code that serves it, or a running service, over HTTP."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from app.errors import ModelError, RequestError
from app.inference.classifier import Classifier
from app.inference.model import Model
from model_build.dataset.labels import Labels
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError

#: How many of the best classes are asked for.
BEST: Final = 5
_TIMEOUT_S: Final = 60.0
#: How often a photo is sent to a service that says it is busy.
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about one photo.

    Attributes:
        ranked: the best classes, best first, at most ``BEST``.
        score: that of the best one.
        unknown: whether the score is below the model's own threshold.
        group: the best group; "" where the model has none.
        decode_s: seconds from bytes to pixels.
        infer_s: seconds from pixels to ranked scores.
    """

    ranked: tuple[int, ...]
    score: float
    unknown: bool
    decode_s: float
    infer_s: float
    group: str = ""


class Target(Protocol):
    """Whoever answers: a model file or a running service.

    Attributes:
        name: which model it is and where.
        labels: its classes.
    """

    name: str
    labels: Labels

    def __call__(self, photo: bytes) -> Answer:
        """Answers; raises RequestError where the photo cannot be classified."""


class InProcess:
    """A model file, asked through the service's own code, with one thread."""

    def __init__(self, path: Path) -> None:
        """Loads the model and lets it classify its golden photo, as the service does before it is ready.

        Raises:
            InputError: the file cannot be served.
        """
        try:
            self._classifier = Classifier(Model(path), DECODE_BUDGET)
            self._classifier.check_golden()
        except ModelError as error:
            raise InputError(str(error)) from error
        contract = self._classifier.contract
        self.name = f"{contract.name} {contract.version} {contract.precision} ({path})"
        self.labels = Labels(contract.labels, contract.ids, contract.groups)

    def __call__(self, photo: bytes) -> Answer:
        """Classifies one photo."""
        result = self._classifier(photo, BEST)
        ranked = tuple(prediction.index for prediction in result.predictions)
        best = result.predictions[0].score
        return Answer(ranked, best, result.unknown, result.decode_s, result.infer_s, result.group)


class RemoteTarget:
    """A running service; times are its own, the network's are not in them."""

    def __init__(self, url: str) -> None:
        """Asks it for its model and classes.

        Raises:
            InputError: there is no such service there.
        """
        self._url = url.rstrip("/")
        try:
            parts = urlsplit(self._url)
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            self._connect = partial(kind, parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        except ValueError as error:
            raise InputError(f"{url} is not an address: {error}") from error
        self._path = parts.path
        model, labels = self._get("/model"), self._get("/labels")
        try:
            self._model = {key: model[key] for key in ("name", "version")}
            self.name = f"{model['name']} {model['version']} {model['precision']} ({self._url})"
            rows = labels["labels"]
            # A service that is older than this has no groups.
            groups = tuple(row.get("group") for row in rows)
            self.labels = Labels(
                tuple(row["label"] for row in rows),
                tuple(row["id"] for row in rows),
                None if None in groups else groups,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self._url} does not answer as this service does: {error!r}") from error

    def __call__(self, photo: bytes) -> Answer:
        """Sends one photo as it is, again while the service is busy.

        Raises:
            RequestError: the service refuses this photo.
            InputError: the service fails, is gone, or has another model by now.
        """
        target = f"/predict?top_k={min(BEST, len(self.labels.labels))}"
        for _ in range(_TRIES):
            status, retry_after_s, answer = self._ask("POST", target, photo)
            if status != 503:
                break
            time.sleep(retry_after_s)
        if 400 <= status < 500:
            raise RequestError(str(answer.get("detail", answer)))
        if status != 200:
            raise InputError(f"{self._url} answered {status}: {answer.get('detail', answer)}")
        if answer.get("model") != self._model:
            raise InputError(f"{self._url} has another model by now: {answer.get('model')}, not {self._model}")
        try:
            predictions, timing = answer["predictions"], answer["timing_ms"]
            ranked = tuple(prediction["index"] for prediction in predictions)
            decode_s, infer_s = timing["decode"] / 1e3, timing["infer"] / 1e3
            group = answer["groups"][0]["label"] if answer.get("groups") else ""
            return Answer(ranked, predictions[0]["score"], answer["unknown"], decode_s, infer_s, group)
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"{self._url} does not answer as this service does: {error!r}") from error

    def _get(self, path: str) -> dict[str, Any]:
        status, _, answer = self._ask("GET", path)
        if status != 200:
            raise InputError(f"{self._url}{path} answered {status}; is a classifier running there?")
        return answer

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, float, dict[str, Any]]:
        """Status, seconds after which to ask again, and the JSON object of one answer."""
        connection = self._connect()
        try:
            headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
            # A photo that is too large is answered before all of it was sent; the answer says so.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._path + path, body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if not isinstance(answer, dict):
                raise TypeError(f"{method} {path} gave {type(answer).__name__}")
            return response.status, float(response.headers.get("Retry-After", 1.0)), answer
        except (OSError, HTTPException) as error:
            raise InputError(f"{self._url} cannot be asked: {error or type(error).__name__}") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{self._url} does not answer as this service does: {error}") from error
        finally:
            connection.close()


def target(model: str) -> Target:
    """``http://`` and ``https://`` are running services, anything else is a file.

    Raises:
        InputError: it cannot be used.
    """
    return RemoteTarget(model) if model.startswith(("http://", "https://")) else InProcess(Path(model))
