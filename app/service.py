"""What hangs on the application for as long as it runs; every route reads it."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import cast

from fastapi import Request

from app.access import Keys, client_of, keys_in_head
from app.classifier import Classifier
from app.cpus import Cpus
from app.frames import Frames
from app.lanes import Lanes
from app.limits import Limits
from app.metrics import Metrics
from app.repository import Repository
from app.swap import Updates
from app.upload import Intake


@dataclass(slots=True)
class Service:
    """What a request needs; read ``classifier_for`` once a request.

    ``keys`` are the API keys of which clients have to show one; None where nobody has to.
    """

    repository: Repository
    updates: Updates
    lanes: Lanes
    intake: Intake
    frames: Frames
    limits: Limits
    cpus: Cpus
    metrics: Metrics
    started_at: float
    keys: Keys | None = None
    leaving: bool = False

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
        """Whose request it is, for the lanes: what is shared is shared between clients."""
        return client_of(request.scope)

    def check_form_key(self, request: Request, key: str | None) -> None:
        """For a route whose clients send their API key in the form (``access`` lists them): checks it.

        Args:
            request: the request; a key in its head counts as well.
            key: what the form has, if anything.

        Raises:
            Unauthorized: keys are configured, and none of them was sent.
        """
        if self.keys is not None:
            self.keys.check([*keys_in_head(request.scope), *([key] if key else [])])

    def readiness(self) -> tuple[bool, str]:
        """Whether a photo sent now would be answered, and why (not)."""
        if self.leaving or self.lanes.draining:
            return False, "shutting down: what was accepted is still answered"
        if not self.lanes.alive:
            return False, "a worker lane has ended unexpectedly; restart the service"
        return True, "the golden photo was classified correctly"
