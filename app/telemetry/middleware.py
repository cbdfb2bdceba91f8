"""The one middleware: every request gets its id, is counted, and leaves one log line, whatever happens to it."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .request_record import CLIENT_LEFT, RequestRecord

if TYPE_CHECKING:
    # What it needs is optional.
    from .traces import Traces

log = logging.getLogger("app.request")

#: Characters of a path in a log line.
_MOST_PATH = 1000


class TelemetryMiddleware:
    """ASGI middleware around everything: gives each request its id; counts and logs it when it has ended.

    Every answer gets the security headers that it does not have. What nobody has expected ends here, as its protocol's
    own answer with the status 500. A start-up that fails reaches the server as one line instead of Starlette's
    traceback.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        headers: tuple[tuple[bytes, bytes], ...],
        answer: Callable[[Request, Exception], Response],
        traces: "Traces | None" = None,
    ) -> None:
        """Configures it.

        Args:
            app: what is observed.
            metrics: what counts.
            headers: names and values that every answer has.
            answer: makes the answer to what nobody has expected.
            traces: what makes a trace of a request, if anything.
        """
        self._app = app
        self._metrics = metrics
        self._headers = headers
        self._answer = answer
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, observed."""
        if scope["type"] != "http":
            await self._app(scope, receive, _shortened(send))
            return
        record = RequestRecord.begin(scope)
        header = (b"x-request-id", record.request_id.encode())
        self._metrics.in_flight.inc()

        async def observed_receive() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                given = message["headers"]
                names = {name for name, _ in given}
                message["headers"] = [*given, header, *(more for more in self._headers if more[0] not in names)]
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, observed_receive, observed_send)
        except asyncio.CancelledError:
            # The server cancels what nobody waits for any more.
            record.status = record.status or CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - there is nobody else who could answer
            record.unexpected = error
            if not record.status:
                await self._answer(Request(scope), error)(scope, observed_receive, observed_send)
        finally:
            self._metrics.in_flight.dec()
            duration_s = perf_counter() - record.started_at
            self._metrics.observe(scope, record, duration_s)
            if self._traces is not None:
                self._traces.observe(scope, record, duration_s)
            _write(scope, record, duration_s)
            # It leads to all that it has passed through, this frame included: a cycle, which would keep the photo.
            record.unexpected = None


def write_refusal(problem: str, status: int, request_id: str) -> None:
    """One log line for what was answered before it was a request: no method and no path are known of it."""
    log.info("request", extra={"fields": {"request_id": request_id, "status": status, "problem": problem}})


def _write(scope: Scope, record: RequestRecord, duration_s: float) -> None:
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": scope["method"],
        "path": scope["path"][:_MOST_PATH],
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_ms": round(duration_s * 1e3, 3),
    }
    if record.images:
        fields["images"] = record.images
        fields |= {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in record.timings_s.items()}
    if record.problem:
        fields["problem"] = record.problem
    if record.trace_id:
        fields["trace_id"] = record.trace_id
    level = logging.INFO if record.unexpected is None else logging.ERROR
    log.log(level, "request", extra={"fields": fields}, exc_info=record.unexpected)


def _shortened(send: Send) -> Send:
    async def shortened(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines()
            message = {**message, "message": lines[-1].partition(": ")[2] or lines[-1] if lines else "start-up failed"}
        await send(message)

    return shortened
