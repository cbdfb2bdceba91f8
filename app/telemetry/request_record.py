"""What is known about one request: its id, sizes and timings. Routes fill it in, ``middleware`` reports it."""

import random
import re
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Self

from starlette.types import Scope

_KEY: Final = "classifier.request_record"
#: In a request's scope: bytes that are no request have followed its body on the connection, so that its Content-Length
#: may have been too small.
MORE_CAME: Final = "classifier.more_came"
#: What is taken over from a client: short, and harmless in a log line and a header.
_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


#: nginx's code for a client that closed the connection before it was answered; only in the log and the metrics.
CLIENT_LEFT: Final = 499


def new_request_id() -> str:
    """A request id of ours: 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about one photo.

    Attributes:
        model: the model's name.
        group: the best group's; "" where the model has none.
        unknown: whether the photo shows none of the model's classes.
        score: the best class's, 0 to 1.
        brightness: of the photo, 0 to 1; see ``Appearance``.
        sharpness: likewise.
    """

    model: str
    group: str
    unknown: bool
    score: float
    brightness: float
    sharpness: float


@dataclass(slots=True)
class RequestRecord:
    """One request as the log and the metrics see it.

    Attributes:
        request_id: the client's ``X-Request-ID``, or one of ours.
        status: HTTP status that was sent; 0 before, 499 if the client left first.
        bytes_in: size of the body.
        bytes_out: size of the answer's body.
        route: the pattern that matched, for the metrics.
        images: photos answered.
        answers: one for each photo that was given labels or scores.
        camera: whose photos these are, as the client calls it.
        timings_s: seconds by stage (read, queue, decode, infer, draw).
        cached: whether an earlier frame's scores were given; None where frames are not remembered.
        problem: kind of problem that was answered with, if any.
        unexpected: what the service did wrong, if anything.
        started_at: by ``time.perf_counter``, in seconds.
        trace_id: 32 hexadecimal digits, where traces are on.
    """

    request_id: str
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    route: str = ""
    images: int = 0
    answers: list[Answer] = field(default_factory=list)
    camera: str = ""
    timings_s: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    unexpected: BaseException | None = None
    started_at: float = field(default_factory=perf_counter)
    cached: bool | None = None
    trace_id: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "RequestRecord":
        """The record that belongs to a request's ASGI scope."""
        record: RequestRecord = scope[_KEY]
        return record

    @classmethod
    def begin(cls, scope: Scope) -> Self:
        """Begins the record of a request."""
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _ID.fullmatch(given) else new_request_id()
        record = cls(request_id)
        scope[_KEY] = record
        return record

    def route_of(self, scope: Scope) -> str:
        """The pattern that matched, not the path: whoever scans for paths must not make a time series of each."""
        return self.route or getattr(scope.get("route"), "path", "unmatched")
