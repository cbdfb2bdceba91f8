"""What came in lately and is worth teaching: photos of named cameras that the model was unsure about, or that changed.

Of a photo of which a part was looked at, that part is kept: it is what the model has to learn. Each part of what a
camera sees is a camera of its own here.

``/predict`` offers what it has answered; what is wanted is written by a thread of its own, so that no answer waits for
the disk. How much is kept is bounded everywhere: how often for one camera, how many bytes wait to be written, how many
photos are kept, for how long, and the quota of the whole folder.
"""

import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from queue import SimpleQueue
from typing import Final, Literal

from ..errors import RequestError
from ..inference import formats, imaging
from ..inference.classifier import Result
from ..inference.decode_budget import DecodeBudget
from ..inference.imaging import ALL, View
from .photos import Photos
from .pictures import looked_at

log = logging.getLogger(__name__)

Reason = Literal["unknown", "uncertain", "changed"]
#: A best score below this is an uncertain one.
_SURE: Final = 0.6
#: Seconds between two photos of a camera: doubled each time that nothing is new, so that a camera which stares at one
#: strange thing does not fill the folder with it.
_FIRST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 3600.0
#: Cameras that are remembered; the one that was not heard of for longest is forgotten first.
_MOST_CAMERAS: Final = 256
#: Bytes that wait to be written at once; what comes meanwhile is not kept.
_MOST_WAITING: Final = 12_000_000


@dataclass(slots=True)
class _Camera:
    label: str = ""
    reason: Reason | None = None
    kept_at: float = -math.inf
    wait_s: float = _FIRST_WAIT_S


@dataclass(frozen=True, slots=True)
class _Kept:
    camera: str
    view: View
    photo: Callable[[], bytes]
    size: int
    decode_budget: DecodeBudget
    reason: Reason
    said: str


class Lately:
    """Keeps some of what ``/predict`` has answered."""

    def __init__(self, photos: Photos, most: int) -> None:
        """Starts the thread that writes.

        Args:
            photos: where they are kept.
            most: how many.
        """
        self._photos = photos
        self._most = most
        self._cameras: OrderedDict[tuple[str, View], _Camera] = OrderedDict()
        self._queue: SimpleQueue[_Kept | None] = SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="lately", daemon=True)
        self._thread.start()

    def offer(
        self, camera: str, photo: Callable[[], bytes], size: int, result: Result, decode_budget: DecodeBudget
    ) -> Reason | None:
        """Takes a photo that was answered, if it is worth keeping; called on the event loop, and quick.

        Args:
            camera: its camera's name.
            photo: makes its bytes, in another thread.
            size: about how many they are.
            result: what was answered.
            decode_budget: for a part of it to be cut out.

        Returns:
            Why it is kept; None: it is not.
        """
        best = result.predictions[0] if result.predictions else None
        label = result.group or (best.label if best else "")
        view = result.sight.view
        seen = self._cameras.pop((camera, view), None) or _Camera(label)
        self._cameras[camera, view] = seen
        if len(self._cameras) > _MOST_CAMERAS:
            self._cameras.popitem(last=False)
        changed, seen.label = label != seen.label, label
        reason: Reason | None = None
        if result.cached:
            return None
        if result.unknown:
            reason = "unknown"
        elif best is None or best.score < _SURE:
            reason = "uncertain"
        elif changed:
            reason = "changed"
        if reason is None:
            return None
        if new := changed or reason != seen.reason:
            seen.wait_s = _FIRST_WAIT_S
        now = time.monotonic()
        if now - seen.kept_at < seen.wait_s:
            return None
        with self._lock:
            if self._waiting + size > _MOST_WAITING:
                return None
            self._waiting += size
        seen.wait_s = seen.wait_s if new else min(2 * seen.wait_s, _LONGEST_WAIT_S)
        seen.reason, seen.kept_at = reason, now
        said = f"{reason}: {best.label} {best.score:.0%}" if best else reason
        self._queue.put(_Kept(camera, view, photo, size, decode_budget, reason, said))
        return reason

    def close(self) -> None:
        """Writes what waits, and ends."""
        self._queue.put(None)
        self._thread.join(5.0)

    def _write(self) -> None:
        while (kept := self._queue.get()) is not None:
            try:
                photo = kept.photo()
                if kept.view != ALL:
                    photo = looked_at(photo, kept.view, kept.decode_budget)
                kind, data = formats.recognise(photo, imaging.FORMATS)
                # The name of a camera is a client's; the folder's is ours.
                folder = sha256(kept.camera.encode(errors="replace")).hexdigest()[:16]
                told = {"camera": kept.camera[:100], "said": kept.said[:200], "at": time.time()}
                self._photos.keep_lately(folder, bytes(data), kind, json.dumps(told).encode(), self._most)
            except (RequestError, OSError) as error:
                log.warning("a photo that came in was not kept: %s", error)
            except Exception:
                log.exception("unexpected error while a photo that came in was kept")
            finally:
                with self._lock:
                    self._waiting -= kept.size
