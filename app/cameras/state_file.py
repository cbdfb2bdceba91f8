"""Keeps the last event of each region in a file, so that nothing is told twice because the process was restarted."""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from . import config
from .camera import Event
from .states import State

log = logging.getLogger(__name__)

#: Bytes of a file that is read; 64 cameras with 16 regions have less.
_MOST_BYTES: Final = 4_000_000


class StateFile:
    """What was told last; without a file for as long as the process runs."""

    def __init__(self, path: Path | None) -> None:
        """Reads what an earlier run has left; what cannot be read counts as absent.

        Args:
            path: the file; None: nothing is written.
        """
        self._path = path
        self._told: dict[str, dict[str, Any]] = {} if path is None else _read(path)
        self._changed = asyncio.Event()
        self._failing = False
        self._task = asyncio.create_task(self._run())

    def know(self, cameras: Mapping[str, config.Camera]) -> None:
        """These cameras are there; what was told of others, or of other regions, is forgotten."""
        wanted = {f"{name}/{region}" for name, camera in cameras.items() for region in camera.regions}
        self._told = {name: members for name, members in self._told.items() if name in wanted}

    def told(self, camera: str, region: str) -> tuple[State, float, dict[str, Any]] | None:
        """A region's last state, for how many seconds it is, and the event as it was told; None: nothing is known."""
        members = self._told.get(f"{camera}/{region}")
        if members is None:
            return None
        since = datetime.fromisoformat(members["time"]).timestamp()
        return _state(members), max(0.0, time.time() - since), members

    def tell(self, event: Event) -> None:
        """Takes an event; never waits."""
        self._told[f"{event.camera}/{event.region}"] = event.members()
        self._changed.set()

    async def close(self) -> None:
        """Writes what has not been written yet."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._changed.is_set():
            await self._write()

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            await self._write()

    async def _write(self) -> None:
        self._changed.clear()
        if self._path is None:
            return
        try:
            await asyncio.to_thread(_replace, self._path, json.dumps(self._told).encode())
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("states: %s: %s", self._path, error.strerror or error)
            self._failing = True


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        for members in found.values():
            _state(members)
            datetime.fromisoformat(members["time"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("states: %s cannot be read, so nothing is known of before: %s", path, error)
        return {}
    return dict(found)


def _state(members: Mapping[str, Any]) -> State:
    return State(members["label"], members["unknown"], members["fault"])


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            # Else the new name may outlive a power cut, and the data not.
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
