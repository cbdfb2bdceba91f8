"""A second model that looks at some of the photos too, to see how often it would have said the same.

No answer waits for it: it is shown a photo only when no other one is being worked on, one at a time, in a thread that
gets a CPU only where one is idle. What it would have to wait for is left out.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from ..errors import RequestError
from ..runtime.cpus import yield_to_everybody
from .classifier import Classifier, Sight
from .imaging import load_parts

log = logging.getLogger(__name__)

#: Bytes of a photo that is kept to be decoded again, where the models' inputs differ; a larger one is left out.
_MOST_BYTES: Final = 2_000_000
#: Seconds that the photo at hand may take at the end.
_PATIENCE_S: Final = 5.0


class Shadow:
    """Compares a model with the one that answers; asked from the event loop only."""

    def __init__(
        self,
        classifier: Classifier,
        share: float,
        is_idle: Callable[[], bool],
        count: Callable[[str, bool, bool], None],
        count_dropped: Callable[[], None],
    ) -> None:
        """Starts its thread.

        Args:
            classifier: the other model.
            share: of the photos, above 0 to 1.
            is_idle: whether no photo waits or is being worked on.
            count: is told, on the event loop, of each photo that both have seen: what the model that answers calls it
                (its group where both have groups, else its class), whether that is unknown, and whether both agree.
            count_dropped: is told of each photo that was to be compared and was not.
        """
        self.contract = classifier.contract
        self._classifier = classifier
        self._share = share
        self._is_idle = is_idle
        self._count = count
        self._count_dropped = count_dropped
        self._due = 0.0
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._photos: SimpleQueue[tuple[Classifier, Sight] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, answered: Classifier, sight: Sight) -> None:
        """A photo that was answered, and by which model."""
        self._due += self._share
        if self._due < 1:
            return
        self._due -= 1
        if self._busy or not self._is_idle() or not self._can_see(answered, sight):
            self._count_dropped()
            return
        self._busy = True
        self._photos.put((answered, sight))

    def close(self) -> None:
        """Ends the thread, after the photo at hand."""
        self._photos.put(None)
        self._thread.join(_PATIENCE_S)

    def _can_see(self, answered: Classifier, sight: Sight) -> bool:
        if answered.contract.resize == self.contract.resize:
            return True
        return isinstance(sight.picture, bytes) and len(sight.picture) <= _MOST_BYTES

    def _run(self) -> None:
        yield_to_everybody()
        while (photo := self._photos.get()) is not None:
            compared = None
            try:
                compared = self._compare(*photo)
            except RequestError:
                # It needs more memory to be decoded than there is for this.
                pass
            except Exception:
                log.exception("the shadow model failed")
            del photo
            # The loop may be closed by a shutdown that did not wait.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, compared)

    def _compare(self, answered: Classifier, sight: Sight) -> tuple[str, bool, bool]:
        pixels = sight.pixels
        if answered.contract.resize != self.contract.resize and isinstance(sight.picture, bytes):
            budget = self._classifier.decode_budget
            pixels = load_parts(sight.picture, self.contract.resize, budget, [sight.view])[0].pixels
        scored = self._classifier.model.judge(pixels)
        by_group = answered.groups is not None and self._classifier.groups is not None
        said = answered.name_of(sight.scored, by_group=by_group)
        other = self._classifier.name_of(scored, by_group=by_group)
        unknown = sight.scored.unknown
        agrees = scored.unknown if unknown else not scored.unknown and said == other
        return said, unknown, agrees

    def _finish(self, compared: tuple[str, bool, bool] | None) -> None:
        self._busy = False
        if compared is None:
            self._count_dropped()
        else:
            self._count(*compared)
