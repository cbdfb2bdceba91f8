"""How large photos may be: pixels of one, and memory of all that are decoded at the same time."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from ..errors import TooManyPixels


class DecodeBudget:
    """What decoding may take; one for all threads that decode."""

    def __init__(self, pixels: int, memory: int = sys.maxsize) -> None:
        """DecodeBudget for photos.

        Args:
            pixels: the most that a photo's header may announce.
            memory: bytes for all photos that are decoded at once.
        """
        self.pixels = pixels
        self.memory = memory
        self._used = 0
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def reserve(self, needed: int, what: str) -> Iterator[None]:
        """Waits until there are ``needed`` bytes, first come first served, and keeps them for the block.

        Args:
            needed: bytes that decoding takes at its peak.
            what: the photo, for the message.

        Raises:
            TooManyPixels: there are never so many.
        """
        if needed > self.memory:
            raise TooManyPixels(
                f"Decoding {what} takes about {needed / 1e6:.0f} MB of memory, and this service has "
                f"{self.memory / 1e6:.0f} MB for it. Send a smaller picture or a baseline JPEG, which is decoded at a "
                "reduced size; or give the service more (CLASSIFIER_MAX_DECODE_BYTES)."
            )
        # Whoever waits holds the turn: a large photo is not overtaken by small ones for ever.
        with self._turn, self._freed:
            while self._used + needed > self.memory:
                self._freed.wait()
            self._used += needed
        try:
            yield
        finally:
            with self._freed:
                self._used -= needed
                self._freed.notify_all()
