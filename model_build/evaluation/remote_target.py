"""A running service as the target of an evaluation, asked through the Python client (the extra ``client``)."""

from typing import Final
from uuid import uuid4

import httpx

from app.client import Client, ClientError, ProblemError
from app.errors import RequestError
from model_build.dataset.labels import Labels
from model_build.errors import InputError
from model_build.evaluation.targets import BEST, Answer, by_index

_TIMEOUT_S: Final = 60.0
#: How often a photo is sent at most to a service that is busy or breaks the connection.
_ATTEMPTS: Final = 10
#: Client errors that say nothing about the photo: a wrong key, a forbidden or wrong address, too many requests.
_REFUSES_EVERY_PHOTO: Final = frozenset({401, 403, 404, 429})


class RemoteTarget:
    """A running service, asked through ``app.client``; times are its own, the network's are not in them."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Asks it for its model and classes.

        Args:
            url: where the service is, ``http://`` or ``https://``.
            api_key: sent with every request, where the service asks for one.

        Raises:
            InputError: there is no such service there, or it does not accept the key.
        """
        self._url = url.rstrip("/")
        try:
            self._client = Client(self._url, api_key=api_key, timeout_s=_TIMEOUT_S, attempts=_ATTEMPTS)
        except httpx.InvalidURL as error:
            raise InputError(f"{url} is not an address: {error}") from error
        try:
            health, labels, model = self._client.health(), self._client.labels(), self._client.model()
        except ClientError as error:
            self.close()
            raise self._failed(error) from error
        self._model = health.model
        self.threshold = model.unknown_below if model.multi_label else None
        self.name = f"{health.model.name} {health.model.version} {health.precision} ({self._url})"
        # A service that is older than this has no groups.
        groups = tuple(row.group for row in labels if row.group is not None)
        self.labels = Labels(
            tuple(row.label for row in labels),
            tuple(row.id for row in labels),
            groups if len(groups) == len(labels) else None,
        )

    def __call__(self, photo: bytes) -> Answer:
        """Sends one photo as it is, again while the service is busy.

        Raises:
            RequestError: the service refuses this photo.
            InputError: the service fails, is gone, refuses every photo, or has another model by now.
        """
        classes = len(self.labels.labels)
        top_k = min(BEST, classes) if self.threshold is None else classes
        try:
            # A camera of its own for every photo: the frame cache compares a photo only with those of the same camera,
            # so no photo gets the scores of an earlier one.
            result = self._client.predict(photo, top_k, camera=uuid4().hex)
        except ClientError as error:
            if isinstance(error, ProblemError) and _is_about_the_photo(error):
                raise RequestError(error.detail) from error
            raise self._failed(error) from error
        if result.model != self._model:
            raise InputError(
                f"{self._url} has another model by now: {result.model.name} {result.model.version}, not "
                f"{self._model.name} {self._model.version}"
            )
        if not result.predictions:
            raise InputError(f"{self._url} does not answer as this service does: there are no predictions")
        ranked = tuple(prediction.index for prediction in result.predictions[:BEST])
        scores = () if self.threshold is None else by_index(result.predictions)
        timing = result.timing_ms
        group = result.groups[0].label if result.groups else ""
        decode_s, infer_s = timing.decode / 1e3, timing.infer / 1e3
        return Answer(ranked, result.predictions[0].score, result.unknown, decode_s, infer_s, group, scores)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _failed(self, error: ClientError) -> InputError:
        """Why the measurement ends."""
        if not isinstance(error, ProblemError):
            return InputError(f"{self._url} cannot be asked: {error}")
        if error.status == 200:
            return InputError(f"{self._url} does not answer as this service does: {error.detail}")
        return InputError(f"{self._url} answered {error.status}: {error.detail}")


def _is_about_the_photo(error: ProblemError) -> bool:
    return 400 <= error.status < 500 and error.status not in _REFUSES_EVERY_PHOTO
