"""What hangs on the application for as long as it runs; every route reads it."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from app.classifier import Classifier
from app.cpus import Cpus
from app.errors import UnknownModel
from app.frames import Frames
from app.lanes import Lanes
from app.limits import Limits
from app.metrics import Metrics
from app.upload import Intake


@dataclass(slots=True)
class Service:
    """What a request needs; read ``classifier`` once a request."""

    classifier: Classifier
    lanes: Lanes
    intake: Intake
    frames: Frames
    limits: Limits
    cpus: Cpus
    metrics: Metrics
    precision_reason: str
    model_source: str
    started_at: float
    leaving: bool = False

    @staticmethod
    def of(request: Request) -> "Service":
        """The service that a request came to."""
        return cast("Service", request.app.state.service)

    def classifier_for(self, name: str | None) -> Classifier:
        """The classifier of the model ``name``, or the default one; read it once a request.

        Raises:
            UnknownModel: no model of that name is served.
        """
        served = self.classifier.contract.name
        if name is not None and name != served:
            raise UnknownModel(f"There is no model {name!r} here; {served!r} is served.")
        return self.classifier

    def readiness(self) -> tuple[bool, str]:
        """Whether a photo sent now would be answered, and why (not)."""
        if self.leaving or self.lanes.draining:
            return False, "shutting down: what was accepted is still answered"
        if not self.lanes.alive:
            return False, "a worker lane has ended unexpectedly; restart the service"
        return True, "the golden photo was classified correctly"
