"""JSON log lines on standard error, one object a line."""

import logging
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; what a caller passes as ``extra={"fields": {...}}`` becomes members of it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line, fallback=str).decode()


# None of our lines say where in the code, in which thread or process they were written; not finding out makes a line
# cost a third (Python's logging HOWTO, "Optimization").
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def configure(level: str) -> None:
    """Sends everything from ``level`` up to standard error as JSON, the server's own lines included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # One line a request is ours to write.
    logging.getLogger("uvicorn.access").disabled = True
