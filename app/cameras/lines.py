"""Lines for standard output and standard error, written by a thread: whoever reads them slowly keeps nobody waiting."""

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Final

#: Lines that wait at most; what comes then is lost, and counted.
_MOST: Final = 1000


class Lines:
    """Writes lines to a file descriptor."""

    def __init__(self, descriptor: int, lost: Callable[[], None]) -> None:
        """Starts the thread.

        Args:
            descriptor: where to.
            lost: called for each line that is lost.
        """
        self._descriptor = descriptor
        self._lost = lost
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST)
        self._thread = threading.Thread(target=self._write, daemon=True, name=f"lines-{descriptor}")
        self._thread.start()

    def put(self, text: str) -> None:
        """Takes a line, without its end; never waits."""
        try:
            self._waiting.put_nowait(f"{text}\n".encode("utf-8", "backslashreplace"))
        except queue.Full:
            self._lost()

    def close(self, timeout_s: float) -> None:
        """Writes what waits, as far as somebody reads it within ``timeout_s``."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                # Nobody reads any more.
                self._lost()


class LinesHandler(logging.Handler):
    """Log records as lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record."""
        self._lines.put(self.format(record))
