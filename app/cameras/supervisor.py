"""All cameras and all outputs of one file, until a signal ends them; SIGHUP reads the file again."""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..client import ClientError
from . import config, metrics
from .camera import Asker, Camera, Event, line
from .config import Config, ConfigError
from .frame_folder import FrameFolder
from .lines import Lines, LinesHandler
from .mqtt import Mqtt
from .state_file import StateFile
from .webhooks import Webhook

log = logging.getLogger(__name__)

#: Seconds for the last lines to be read.
_LAST_LINES_S: Final = 1.0


def check(path: Path) -> int:
    """Prints what is wrong with a file, a line each, or that nothing is.

    Returns:
        The exit code: 2 if the file is wrong, else 0.
    """
    try:
        found = config.load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    missing = config.missing_ffmpeg(found)
    regions = sum(len(camera.regions) for camera in found.cameras.values())
    print("\n".join([*missing, f"{path}: cameras: {len(found.cameras)}, regions: {regions}"]))
    return 2 if missing else 0


async def once(path: Path) -> int:
    """Prints one answer for each region.

    Returns:
        The exit code: 0 if all regions have one, 1 if not, 2 if the file is wrong.
    """
    try:
        found = config.load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    asker = Asker(found.service)
    counted = metrics.Metrics()
    cameras = [Camera(name, given, asker, lambda _: None, counted) for name, given in found.cameras.items()]
    answers = await asyncio.gather(*(camera.once() for camera in cameras))
    complete = True
    for camera, regions in zip(cameras, answers, strict=True):
        for region, answer in regions.items():
            complete &= answer is not None and not isinstance(answer, Exception)
            print(line(camera.name, region, answer, camera.settings.regions[region]))
    await asker.client.close()
    return int(not complete)


def run(path: Path) -> int:
    """Goes on until SIGTERM or SIGINT.

    Returns:
        The exit code: 2 if the file is wrong or the metrics' address cannot be bound, else 0.
    """
    try:
        found = config.load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    said = Lines(2, lambda: None)
    handler = LinesHandler(said)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # A line for each frame.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return asyncio.run(Supervisor(path).run(found))
    finally:
        said.close(_LAST_LINES_S)


class Supervisor:
    """What runs; ``apply`` changes it to what a file says."""

    def __init__(self, path: Path) -> None:
        """Runs nothing yet.

        Args:
            path: the file that SIGHUP reads.
        """
        self._path = path
        self._now: Config | None = None
        self._metrics = metrics.Metrics()
        self._asker: Asker | None = None
        self._cameras: dict[str, tuple[Camera, asyncio.Task[None]]] = {}
        self._mqtt: Mqtt | None = None
        self._webhooks: list[Webhook] = []
        self._frames: FrameFolder | None = None
        self._lines: Lines | None = None
        self._states: StateFile | None = None
        self._end_server: Callable[[], None] = lambda: None

    async def run(self, found: Config) -> int:
        """Runs what a file says until a signal comes; returns the exit code."""
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        try:
            await self.apply(found)
        except OSError as error:
            log.critical("metrics: %s", error)
            await self.close()
            return 2
        log.info("%d cameras", len(self._cameras))
        asked = asyncio.create_task(self._check_labels(found))
        stopped = asyncio.create_task(stop.wait())
        while not stop.is_set():
            reloaded = asyncio.create_task(reload.wait())
            await asyncio.wait({stopped, reloaded}, return_when=asyncio.FIRST_COMPLETED)
            reloaded.cancel()
            if reload.is_set() and not stop.is_set():
                reload.clear()
                await self._reload()
        asked.cancel()
        await self.close()
        return 0

    async def apply(self, found: Config) -> None:
        """Starts what is new, ends what is gone, and leaves alone what is as it was.

        Raises:
            OSError: the metrics' address cannot be bound; all else is as before.
        """
        before = self._now
        if before is None or before.metrics != found.metrics:
            self._end_server()
            self._end_server = lambda: None
            # If the new address cannot be had, there is none, until the file is read again.
            self._now = before and before.model_copy(update={"metrics": None})
            if found.metrics is not None:
                self._end_server = await metrics.serve(self._metrics, found.metrics.host, found.metrics.port)
        self._now = found
        all_new = before is None or before.service != found.service
        gone = [
            name for name, (camera, _) in self._cameras.items() if all_new or found.cameras.get(name) != camera.settings
        ]
        await self._end_cameras(gone)
        if all_new:
            if self._asker is not None:
                await self._asker.client.close()
            self._asker = Asker(found.service)
        if before is None or before.mqtt != found.mqtt:
            if self._mqtt is not None:
                await self._mqtt.close()
            self._mqtt = None if found.mqtt is None else Mqtt(found.mqtt, self._metrics.connected)
        if before is None or before.webhooks != found.webhooks:
            for webhook in self._webhooks:
                await webhook.close()
            self._webhooks = [Webhook(given, self._lost("webhook")) for given in found.webhooks]
        if before is None or before.frames != found.frames:
            if self._frames is not None:
                await self._frames.close()
            self._frames = None if found.frames is None else FrameFolder(found.frames, self._lost("frames"))
        if self._states is None or before is None or before.states != found.states:
            if self._states is not None:
                await self._states.close()
            self._states = StateFile(found.states)
        self._states.know(found.cameras)
        if found.lines and self._lines is None:
            self._lines = Lines(1, self._lost("lines"))
        if self._mqtt is not None:
            self._mqtt.know(found.cameras)
        self._start_cameras(found)

    async def close(self) -> None:
        """Ends everything; what waits has a moment to be told."""
        await self._end_cameras(list(self._cameras))
        for webhook in self._webhooks:
            await webhook.close()
        if self._frames is not None:
            await self._frames.close()
        if self._states is not None:
            await self._states.close()
        if self._mqtt is not None:
            await self._mqtt.close()
        if self._asker is not None:
            await self._asker.client.close()
        self._end_server()
        if self._lines is not None:
            await asyncio.to_thread(self._lines.close, _LAST_LINES_S)

    def _start_cameras(self, found: Config) -> None:
        assert self._asker is not None  # noqa: S101 - for mypy
        assert self._states is not None  # noqa: S101
        new = [name for name in found.cameras if name not in self._cameras]
        for place, name in enumerate(new):
            settings = found.cameras[name]
            told = {region: self._states.told(name, region) for region in settings.regions}
            known = {region: last[:2] for region, last in told.items() if last is not None}
            camera = Camera(name, settings, self._asker, self._tell, self._metrics, known, self._confirm)
            self._metrics.know(name, list(settings.regions))
            delay_s = settings.interval_seconds * place / len(new)
            self._cameras[name] = (camera, asyncio.create_task(camera.run(min(delay_s, 10.0))))

    async def _end_cameras(self, names: list[str]) -> None:
        ended = [(name, *self._cameras.pop(name)) for name in names]
        for _, _, task in ended:
            task.cancel()
        await asyncio.gather(*(task for _, _, task in ended), return_exceptions=True)
        for name, camera, _ in ended:
            self._metrics.forget(name, list(camera.settings.regions))

    async def _reload(self) -> None:
        try:
            found = config.load(self._path)
        except ConfigError as error:
            for problem in error.problems:
                log.warning("not read again: %s", problem)
            return
        try:
            await self.apply(found)
        except OSError as error:
            log.warning("metrics: %s", error)
            return
        log.info("read again: %d cameras", len(self._cameras))

    def _tell(self, event: Event) -> None:
        self._metrics.event(event.camera, event.region)
        self._metrics.known(event.camera, event.region, event.state.fault is None)
        outputs: list[Any] = [self._states, self._mqtt, *self._webhooks, self._frames]
        for output in outputs:
            if output is not None:
                output.tell(event)
        if self._lines is not None and self._now is not None and self._now.lines:
            self._lines.put(json.dumps(event.members()))

    def _confirm(self, camera: str, region: str) -> None:
        last = None if self._states is None else self._states.told(camera, region)
        if last is None:
            return
        state, _, members = last
        self._metrics.known(camera, region, state.fault is None)
        if self._mqtt is not None:
            self._mqtt.confirm(camera, region, members)

    def _lost(self, output: str) -> Callable[[], None]:
        return lambda: self._metrics.undelivered(output)

    async def _check_labels(self, found: Config) -> None:
        """Says which labels that the file names the model does not have; they would never come."""
        named = {
            (f"{name}/{region}", given.answer, label)
            for name, camera in found.cameras.items()
            for region, given in camera.regions.items()
            for label in given.binary_sensors
        }
        if not named or self._asker is None or found.service.model is not None:
            return
        with contextlib.suppress(ClientError):
            classes = await self._asker.client.labels()
            known: dict[str, set[str | None]] = {
                "labels": {one.label for one in classes},
                "groups": {one.group for one in classes},
            }
            for place, answer, label in sorted(named):
                if label not in known[answer]:
                    log.warning("%s: the model has no %s %r, so its binary sensor stays off", place, answer[:-1], label)
