"""Keeps the frames that changed a state in a folder, within a number of bytes and days."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from . import config
from .camera import Event

log = logging.getLogger(__name__)

#: How many may wait to be written.
_MOST_WAITING: Final = 16
_KINDS: Final = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}
#: Our own files, and no others.
_OURS: Final = re.compile(r"\d{8}T\d{6}\.\d{3}Z_[\w-]+_[\w-]+_[\w-]*\.(?:jpg|png|webp|bin)(?:\.partial)?")


class FrameFolder:
    """The folder."""

    def __init__(self, settings: config.FrameFolder, lost: Callable[[], None]) -> None:
        """Writes nothing yet.

        Args:
            settings: where to, and how much.
            lost: called for each frame that is not kept.
        """
        self._settings = settings
        self._lost = lost
        self._failing = False
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(_MOST_WAITING)
        self._task = asyncio.create_task(self._run())

    def tell(self, event: Event) -> None:
        """Takes an event; never waits."""
        if event.frame is None:
            return
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._lost()

    async def close(self) -> None:
        """Writes what waits, as far as the disk takes it within two seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._waiting.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            event = await self._waiting.get()
            try:
                await asyncio.to_thread(keep, self._settings, event)
                self._failing = False
            except OSError as error:
                self._lost()
                if not self._failing:
                    log.warning("frames: %s: %s", self._settings.folder, error.strerror or error)
                self._failing = True
            finally:
                self._waiting.task_done()


def keep(settings: config.FrameFolder, event: Event) -> None:
    """Writes a frame under a name that says what it shows, after room was made for it.

    Raises:
        OSError: that cannot be done; what was begun is removed.
    """
    assert event.frame is not None  # noqa: S101 - for mypy; only such events are kept
    settings.folder.mkdir(parents=True, exist_ok=True)
    make_room(settings, len(event.frame))
    kind = next((kind for start, kind in _KINDS.items() if event.frame.startswith(start)), "bin")
    at = f"{event.at:%Y%m%dT%H%M%S}.{event.at.microsecond // 1000:03}Z"
    shown = re.sub(r"[^A-Za-z0-9]+", "-", event.state.fault or str(event.state))[:40].strip("-")
    path = settings.folder / f"{at}_{event.camera}_{event.region}_{shown}.{kind}"
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(event.frame)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def make_room(settings: config.FrameFolder, size: int) -> None:
    """Removes what is too old, and the oldest for as long as there is too much.

    Args:
        settings: how much may be there.
        size: bytes that are to come.
    """
    found = []
    for path in settings.folder.iterdir():
        if _OURS.fullmatch(path.name):
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
    found.sort()
    total = size + sum(size for _, size, _ in found)
    most = settings.max_megabytes * 1e6
    oldest = time.time() - settings.max_days * 86_400
    for changed_at, size_, path in found:
        if total <= most and changed_at >= oldest:
            break
        path.unlink(missing_ok=True)
        total -= size_
