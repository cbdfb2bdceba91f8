"""JSON log lines on standard error, one object a line, written by a thread that may wait for whoever reads them."""

import atexit
import contextlib
import json
import logging
import os
import select
import stat
import threading
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, Final

from pydantic_core import to_json

#: Bytes of lines that wait to be written: those of some thousand requests. Further ones are dropped.
_MOST_WAITING: Final = 1_000_000
#: Seconds at the end for the lines that still wait.
_LAST_WRITE_S: Final = 1.0
#: Seconds for which lines are gathered before they are written: a thread that wakes up for each line would compete with
#: the photos for the interpreter's lock.
_GATHER_S: Final = 0.05
#: A traceback is cut to so many characters in its middle, and what is in a line that is too long to less.
_MOST_TRACEBACK: Final = 8000
_MOST_LINE_BYTES: Final = 32_768
_MOST_TEXT: Final = 1000
_STANDARD_ERROR: Final = 2


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
            line["exception"] = _cut(self.formatException(record.exc_info), _MOST_TRACEBACK)
        text = _encode(line)
        if len(text) > _MOST_LINE_BYTES:
            # Paths and messages may have what a client sent in them.
            text = _encode({name: _short(value) for name, value in line.items()})
        return text


class Background(logging.Handler):
    """Writes lines in a thread of its own, so that nobody who logs ever waits for who reads.

    What is dropped, because too much waits already or because it cannot be written, is counted; and how many lines
    that were is said as soon as lines can be written again.
    """

    def __init__(self, descriptor: int) -> None:
        """Starts the thread.

        Args:
            descriptor: of the open file that is written to.
        """
        super().__init__()
        self._descriptor = descriptor
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._ending = threading.Event()
        # Each counter is changed in one place only: under the handler's lock, or by the thread.
        self._taken_bytes = 0
        self._refused = 0
        self._done_bytes = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that are not, and will not be, written."""
        return self._refused + self._lost

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record over."""
        try:
            line = self.format(record).encode() + b"\n"
        except Exception:  # noqa: BLE001 - whatever is wrong with a line, it is not worth a request
            self._refused += 1
            return
        if self._taken_bytes - self._done_bytes + len(line) > _MOST_WAITING:
            self._refused += 1
            return
        self._taken_bytes += len(line)
        self._lines.put(line)

    def finish(self) -> None:
        """Ends the thread once it has written what waits, or when that takes too long."""
        self._ending.set()
        self._lines.put(b"")
        self._thread.join(_LAST_WRITE_S)

    def _run(self) -> None:
        told = 0
        while not self._ending.is_set() or not self._lines.empty():
            lines = [self._lines.get()]
            self._ending.wait(_GATHER_S)
            # One system call for all that wait.
            with contextlib.suppress(Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            data = b"".join(lines)
            if not self._write(data):
                self._lost += len(lines)
            elif (dropped := self.dropped) > told and self._write(self._dropped_line(dropped - told)):
                told = dropped
            self._done_bytes += len(data)

    def _write(self, data: bytes) -> bool:
        """Writes all of it, however long that takes; says whether it could."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Who shares it has made it so.
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True

    def _dropped_line(self, count: int) -> bytes:
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, "log lines were dropped", None, None)
        record.fields = {"lines": count}
        return self.format(record).encode() + b"\n"


def _encode(line: dict[str, Any]) -> str:
    try:
        return to_json(line, fallback=str).decode()
    except ValueError:
        # Half of a surrogate pair is no text, but may stand in what a client sent.
        return json.dumps(line, default=str)


def _short(value: object) -> object:
    return value if isinstance(value, int | float | None) else _cut(str(value), _MOST_TEXT)


def _cut(text: str, most: int) -> str:
    """A text without its middle, where it is longer than that."""
    if len(text) <= most:
        return text
    return f"{text[: most // 4]} ... {len(text) - most} characters left out ... {text[-most * 3 // 4 :]}"


# None of our lines say where in the code, in which thread or process they were written; not finding out makes a line
# cost a third (Python's logging HOWTO, "Optimization").
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def configure(level: str) -> None:
    """Sends everything from ``level`` up to standard error as JSON, the server's own lines and warnings included."""
    _keep_standard_descriptors()
    _never_wait(_STANDARD_ERROR)
    handler = Background(_STANDARD_ERROR)
    handler.setFormatter(JsonFormatter())
    atexit.register(handler.finish)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Python would write them itself, and wait.
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # One line a request is ours to write.
    logging.getLogger("uvicorn.access").disabled = True


def dropped() -> int:
    """Log lines that were dropped since the start."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, Background))


def _never_wait(descriptor: int) -> None:
    """What libraries in C write there themselves, as libtiff does about a damaged fax, is lost where nobody reads it.

    A pipe or terminal is opened anew for that, because all who share an open file share its flags. A socket, which
    systemd's journal reads, cannot be.
    """
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(own, descriptor)
            os.close(own)


def _keep_standard_descriptors() -> None:
    """Opens what is not open of standard input, output and error.

    A socket that got one of their numbers would be written to by whatever writes there, and libuv ends the process when
    one of them is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
