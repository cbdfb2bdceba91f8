"""What hangs on the application for as long as it runs; every route reads it."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request

from ..errors import BodyTimeout, Unauthorized
from ..inference.classifier import Classifier, Sight
from ..inference.frame_cache import FrameCache
from ..inference.shadow import Shadow
from ..registry.repository import Repository
from ..registry.updates import ModelUpdater
from ..runtime.cpus import Cpus
from ..runtime.worker_pool import WorkerPool
from ..telemetry.metrics import Metrics
from ..telemetry.request_record import Answer, RequestRecord
from . import form_key
from .access import Keys, client_of, is_let_in
from .body_reader import BodyReader
from .limits import Limits

if TYPE_CHECKING:
    from ..teaching.lately import Lately


@dataclass(slots=True)
class Service:
    """What a request needs; read ``classifier_for`` once a request.

    ``keys`` are the API keys of which clients have to show one; None where nobody has to. ``shadow`` compares the
    default model with another one; None: with none. ``lately`` keeps some photos of named cameras; None where none are
    kept.
    """

    repository: Repository
    updates: ModelUpdater
    workers: WorkerPool
    body_reader: BodyReader
    frame_cache: FrameCache
    limits: Limits
    cpus: Cpus
    metrics: Metrics
    started_at: float
    keys: Keys | None = None
    shadow: Shadow | None = None
    leaving: bool = False
    lately: "Lately | None" = None

    @staticmethod
    def of(request: Request) -> "Service":
        """The service that a request came to."""
        return cast("Service", request.app.state.service)

    @property
    def classifier(self) -> Classifier:
        """The default model's classifier."""
        return self.repository.default.classifier

    def names(self) -> list[str]:
        """The models that are served, the default one first."""
        return self.repository.names()

    def classifier_for(self, name: str | None) -> Classifier:
        """The classifier of the model ``name``, or the default one; read it once a request.

        Raises:
            UnknownModel: no model of that name is served.
        """
        return self.repository.get(name).classifier

    @staticmethod
    def client_of(request: Request) -> Hashable:
        """Whose request it is, for the workers: what is shared is shared between clients."""
        return client_of(request.scope)

    def note(self, record: RequestRecord, classifier: Classifier, sight: Sight, group: str) -> None:
        """Notes what was said about a photo, for the metrics and for the shadow; ``group`` is its best one."""
        scored, appearance = sight.scored, sight.appearance
        record.answers.append(
            Answer(
                classifier.contract.name,
                group,
                scored.unknown,
                float(scored.scores.max()),
                appearance.brightness,
                appearance.sharpness,
            )
        )
        if self.shadow is not None and classifier is self.classifier:
            self.shadow.offer(classifier, sight)

    async def let_in_by_form(self, request: Request, field: str) -> Request:
        """For a route whose clients send their API key in the form (``access`` lists them): checks it.

        Of the body no more is read than a key needs, and nothing is done for a request without one.

        Args:
            request: its body has not been read; a key in its headers has been checked already.
            field: the name of the form's field.

        Returns:
            The request to go on with, whose body is still whole.

        Raises:
            Unauthorized: keys are configured, and no right one was sent.
            BodyTimeout: the key did not arrive in time.
            ClientDisconnected: the client left before that.
        """
        if self.keys is None or is_let_in(request.scope):
            return request
        timeout_s = self.limits.body_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                key, whole = await form_key.find(request, field)
        except TimeoutError as error:
            raise BodyTimeout(f"No API key arrived within {timeout_s:g} s. Send it faster.") from error
        if key is None:
            raise Unauthorized(
                f"No API key. Send it as 'Authorization: Bearer <key>', as 'X-API-Key: <key>', or in the form's field "
                f"{field!r}, which has to come before the photo, within the first {form_key.MOST_BYTES} bytes."
            )
        # curl's <file takes the line's end with it.
        self.keys.check(request.scope, [key.strip()])
        return whole

    def readiness(self) -> tuple[bool, str]:
        """Whether a photo sent now would be answered, and why (not)."""
        if self.leaving or self.workers.draining:
            return False, "shutting down: what was accepted is still answered"
        if not self.workers.alive:
            return False, "a worker has ended unexpectedly; restart the service"
        return True, "the golden photo was classified correctly"
