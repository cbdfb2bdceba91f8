"""What hangs on the application for as long as it runs; every route reads it."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from app.classifier import Classifier
from app.cpus import Cpus
from app.lanes import Lanes
from app.settings import Limits


@dataclass(slots=True)
class Service:
    """What a request needs; read ``classifier`` once a request."""

    classifier: Classifier
    lanes: Lanes
    limits: Limits
    cpus: Cpus
    started_at: float

    @staticmethod
    def of(request: Request) -> "Service":
        """The service that a request came to."""
        return cast("Service", request.app.state.service)

    def readiness(self) -> tuple[bool, str]:
        """Whether a photo sent now would be answered, and why (not)."""
        if self.lanes.draining:
            return False, "shutting down: what was accepted is still answered"
        if not self.lanes.alive:
            return False, "a worker lane has ended unexpectedly; restart the service"
        return True, "the golden photo was classified correctly"
