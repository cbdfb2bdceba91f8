"""What is known about one request: its id, sizes and timings. Routes fill it in, one middleware reports it."""

import logging
import re
import uuid
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("app.request")

_KEY: Final = "classifier.observation"
#: What is taken over from a client: short, and harmless in a log line and a header.
_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class Observation:
    """One request as the log and the metrics see it.

    Attributes:
        request_id: the client's ``X-Request-ID``, or one of ours.
        status: HTTP status that was sent; 0 before.
        bytes_in: size of the body.
        bytes_out: size of the answer's body.
        images: photos answered.
        timings_s: seconds by stage (read, queue, decode, infer).
        problem: kind of problem that was answered with, if any.
    """

    request_id: str
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    images: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Observation":
        """The observation that belongs to a request's ASGI scope."""
        observation: Observation = scope[_KEY]
        return observation

    @classmethod
    def begin(cls, scope: Scope) -> Self:
        """Starts observing a request."""
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        observation = cls(request_id)
        scope[_KEY] = observation
        return observation


class Observer:
    """ASGI middleware around everything: gives each request its id, and writes one log line when it has ended.

    A start-up that fails reaches the server as one line instead of Starlette's traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, observed."""
        if scope["type"] != "http":
            await self._app(scope, receive, _shortened(send))
            return
        observation = Observation.begin(scope)
        header = (b"x-request-id", observation.request_id.encode())
        started = perf_counter()

        async def observed_receive() -> Message:
            message = await receive()
            observation.bytes_in += len(message.get("body", b""))
            return message

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                observation.status = message["status"]
                message["headers"] = [*message["headers"], header]
            else:
                observation.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, observed_receive, observed_send)
        finally:
            _write(scope, observation, perf_counter() - started)


def _write(scope: Scope, seen: Observation, duration_s: float) -> None:
    fields: dict[str, Any] = {
        "request_id": seen.request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": seen.status,
        "bytes_in": seen.bytes_in,
        "bytes_out": seen.bytes_out,
        "duration_ms": round(duration_s * 1e3, 3),
    }
    if seen.images:
        fields["images"] = seen.images
        fields |= {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in seen.timings_s.items()}
    if seen.problem:
        fields["problem"] = seen.problem
    log.info("request", extra={"fields": fields})


def _shortened(send: Send) -> Send:
    async def shortened(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines()
            message = {**message, "message": lines[-1].partition(": ")[2] or lines[-1] if lines else "start-up failed"}
        await send(message)

    return shortened
