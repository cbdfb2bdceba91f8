"""One camera: a frame, a question for each region, and what has changed by the answers; again and again."""

import asyncio
import logging
import random
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .. import client
from ..client import AsyncClient, ClientError, ProblemError, Result
from . import config
from .faults import FAULTS, Fault, one_line
from .metrics import Metrics
from .sources import Folder, Frame, Snapshot, Source
from .states import RegionState, Rules, Seen, State
from .streams import Ffmpeg, Mjpeg, ffmpeg_input

log = logging.getLogger(__name__)

#: Seconds between two tries at most, while a camera or the service fails.
_LONGEST_PAUSE_S: Final = 15.0
#: What the service's problems mean for the picture; any other is the service's own.
_PROBLEMS: Final = {
    "not-an-image": "not-a-picture",
    "broken-image": "broken-picture",
    "too-many-pixels": "too-large",
    "too-complex": "too-large",
    "body-too-large": "too-large",
}


@dataclass(frozen=True, slots=True)
class Event:
    """The state of a region has changed.

    Attributes:
        camera, region: their names.
        before: the state until now; None: nothing was known.
        state: the state from now on.
        seen: what the last of the frames that changed it said.
        result: the service's answer for it, where there is one.
        frame: its bytes, where there is one.
        at: when, by the machine's clock.
    """

    camera: str
    region: str
    before: State | None
    state: State
    seen: Seen
    result: Result | None
    frame: bytes | None
    at: datetime

    def members(self) -> dict[str, Any]:
        """What is told about it, as JSON has it."""
        fault = self.seen.fault
        return {
            "time": self.at.isoformat(timespec="milliseconds"),
            "camera": self.camera,
            "region": self.region,
            "state": str(self.state),
            "before": None if self.before is None else str(self.before),
            "label": self.state.label,
            "score": None if self.state.label is None or self.seen.score is None else round(self.seen.score, 4),
            "unknown": self.state.unknown,
            "fault": self.state.fault,
            "detail": None if fault is None else f"{FAULTS[fault.kind]} ({fault.detail})",
            "model": None if self.result is None else self.result.model.name,
            "version": None if self.result is None else self.result.model.version,
            "request_id": None if self.result is None else self.result.request_id,
        }


def open_source(camera: config.Camera) -> Source:
    """A source by its settings; nothing is opened before the first frame is asked for."""
    match camera.source:
        case config.Snapshot():
            return Snapshot(camera.source, camera.timeout_seconds, camera.max_frame_bytes)
        case config.Mjpeg():
            return Mjpeg(camera.source, camera.timeout_seconds, camera.max_frame_bytes)
        case config.Folder():
            return Folder(camera.source.path, camera.max_frame_bytes, camera.frozen_after_seconds)
        case config.Rtsp() | config.V4l2():
            keyframes = isinstance(camera.source, config.Rtsp) and camera.source.keyframes
            interval_s = None if keyframes else camera.interval_seconds
            return Ffmpeg(ffmpeg_input(camera.source), interval_s, camera.timeout_seconds, camera.max_frame_bytes)


class Asker:
    """The service, which is asked about a few frames at a time."""

    def __init__(self, settings: config.Service) -> None:
        key = None if settings.api_key is None else settings.api_key.get_secret_value()
        # A second try is for a connection that the service has closed meanwhile; the next frame comes soon.
        self.client = AsyncClient(settings.url, api_key=key, timeout_s=30.0, attempts=2, total_s=1.0)
        self._model = settings.model
        self._places = asyncio.Semaphore(settings.at_once)

    async def ask(self, frame: Frame, camera: str, regions: Sequence[client.Region], max_age_s: float) -> list[Result]:
        """What parts of a frame show, in their order.

        Raises:
            Fault: there was no answer before the frame was ``max_age_s`` old, or none that is a label.
        """
        late = Fault("service", f"there was no answer before the frame was {max_age_s:g} s old")
        try:
            async with asyncio.timeout(frame.taken_at + max_age_s - time.monotonic()), self._places:
                results = await self.client.predict_regions(frame.data, regions, 1, model=self._model, camera=camera)
        except TimeoutError as error:
            raise late from error
        except ProblemError as error:
            kind = _PROBLEMS.get(error.slug, "service")
            raise Fault(kind, f"{error.title} ({error.status}): {error.detail}") from error
        except ClientError as error:
            raise Fault("service", f"no answer from {error}") from error
        # On a machine that has no time for this process, the answer may be seen before the time that is up.
        if time.monotonic() - frame.taken_at > max_age_s:
            raise late
        return results


@dataclass(slots=True)
class _Region:
    """A region's settings, and what is known of it."""

    settings: config.Region
    asked: client.Region
    known: RegionState
    told: str = ""

    @classmethod
    def of(cls, settings: config.Region, camera: config.Camera, state: State | None, since: float) -> "_Region":
        """What is known is what was told last; None: nothing."""
        rules = Rules(settings.agree, settings.of, settings.min_score, settings.keep_score, settings.hold_seconds)
        asked = client.Region(camera.crop(settings), settings.fit, camera.masks(settings))
        return cls(settings, asked, RegionState(rules, state, since))

    def seen(self, result: Result | Fault) -> Seen:
        """What an answer says about it.

        Raises:
            Fault: there is none, or what was looked at is one flat tone.
        """
        if isinstance(result, Fault):
            raise result
        seen = result.appearance
        if seen is not None and seen.contrast < self.settings.flat_below:
            tone = f"brightness {seen.brightness:.2f}, contrast {seen.contrast:.3f}"
            raise Fault("flat", f"{tone}; flat_below is {self.settings.flat_below:g}")
        best = (result.groups if self.settings.answer == "groups" else result.predictions)[:1]
        if result.unknown or not best:
            return Seen(unknown=True)
        return Seen(label=best[0].label, score=best[0].score)


class Camera:
    """A camera, and what is known about its regions."""

    def __init__(
        self,
        name: str,
        settings: config.Camera,
        asker: Asker,
        tell: Callable[[Event], None],
        metrics: Metrics,
        told: Mapping[str, tuple[State, float]] | None = None,
        confirm: Callable[[str, str], None] = lambda _camera, _region: None,
    ) -> None:
        """Asks nothing yet.

        Args:
            name: its name.
            settings: its settings.
            asker: the service.
            tell: told every change of a region's state.
            metrics: what is counted.
            told: of its regions, what was told last, and how many seconds ago.
            confirm: told the camera and the region, where frames have said again what was told before the start.
        """
        self.name = name
        self.settings = settings
        self._asker = asker
        self._tell = tell
        self._metrics = metrics
        self._confirm = confirm
        self._regions = {}
        for region, given in settings.regions.items():
            state, ago_s = (told or {}).get(region, (None, 0.0))
            self._regions[region] = _Region.of(given, settings, state, time.monotonic() - ago_s)
        self._failures = 0
        self._same: tuple[int, int] | None = None
        self._same_since = 0.0

    async def run(self, delay_s: float) -> None:
        """Goes on until it is cancelled.

        Args:
            delay_s: seconds before the first frame, so that not all cameras are asked at the same moment.
        """
        await asyncio.sleep(delay_s)
        async with self._source() as source:
            while True:
                began = time.monotonic()
                try:
                    await self._look(source)
                except Exception as error:
                    # The other cameras go on, and so does this one.
                    log.exception("camera %s: a mistake of this program", self.name)
                    self._failed_for_all(Fault("mistake", f"{type(error).__name__}: {error}"), None)
                await asyncio.sleep(max(0.0, began + self._pause_s() - time.monotonic()))

    async def once(self) -> dict[str, Result | Fault | None]:
        """One answer for each region; None where there is no frame yet."""
        async with self._source() as source:
            try:
                frame = await source.frame()
                if frame is None:
                    # Of a folder, a file that may still be written.
                    await asyncio.sleep(2.0)
                    frame = await source.frame()
            except Fault as fault:
                return dict.fromkeys(self._regions, fault)
            if frame is None:
                return dict.fromkeys(self._regions, None)
            # It is the only one, and not too late for anything.
            answers: dict[str, Result | Fault | None] = {}
            for name, answer in (await self._answers(frame, 60.0)).items():
                try:
                    self._regions[name].seen(answer)
                    answers[name] = answer
                except Fault as fault:
                    answers[name] = fault
            return answers

    async def _answers(self, frame: Frame, max_age_s: float) -> dict[str, Result | Fault]:
        """What each region shows, or why that is not known."""
        try:
            results = await self._asker.ask(
                frame, self.name, [region.asked for region in self._regions.values()], max_age_s
            )
        except Fault as fault:
            return dict.fromkeys(self._regions, fault)
        return dict(zip(self._regions, results, strict=True))

    @asynccontextmanager
    async def _source(self) -> AsyncIterator[Source]:
        source = open_source(self.settings)
        try:
            yield source
        finally:
            await source.close()

    async def _look(self, source: Source) -> None:
        """Takes one frame to all regions."""
        frame = None
        try:
            frame = await source.frame()
            if frame is None:
                return
            self._metrics.frame(self.name)
            self._check_frozen(frame)
        except Fault as fault:
            self._failed_for_all(fault, frame)
            return
        answers = await self._answers(frame, self.settings.max_age_seconds)
        age_s = time.monotonic() - frame.taken_at
        faults = []
        for name, answer in answers.items():
            region = self._regions[name]
            try:
                seen = region.seen(answer)
            except Fault as fault:
                faults.append(fault)
                seen = Seen(fault=fault)
            self._take(name, region, seen, answer if isinstance(answer, Result) else None, frame.data)
        if faults:
            self._failed(faults[0])
        else:
            self._failures = 0
        if len(faults) < len(answers):
            self._metrics.judged(age_s)

    def _take(self, name: str, region: _Region, seen: Seen, result: Result | None, frame: bytes | None) -> None:
        before, confirmed = region.known.state, region.known.confirmed
        changed = region.known.take(seen, time.monotonic())
        state = region.known.state
        if state is None:
            return
        # What comes and goes without becoming a state is counted, and no line each time.
        if seen.fault is not None and state.fault == seen.fault.kind:
            # How many bytes, or seconds, is no news.
            told = re.sub(r"\d+", "", str(seen.fault))
            if changed or told != region.told:
                region.told = told
                log.warning("camera %s, %s: %s", self.name, name, seen.fault)
        elif changed and before is not None and before.fault is not None:
            log.info("camera %s, %s: available again", self.name, name)
        if region.known.confirmed and not changed and not confirmed:
            self._confirm(self.name, name)
        if changed:
            self._tell(Event(self.name, name, before, state, seen, result, frame, datetime.now(UTC)))

    def _check_frozen(self, frame: Frame) -> None:
        limit_s = self.settings.frozen_after_seconds
        # A sensor never gives the same noise twice.
        same = (len(frame.data), zlib.crc32(frame.data))
        if same != self._same:
            self._same, self._same_since = same, frame.taken_at
        elif limit_s is not None and self.settings.source.kind != "folder":
            since_s = frame.taken_at - self._same_since
            if since_s > limit_s:
                raise Fault("frozen", f"the same {len(frame.data)} bytes for {since_s:.0f} s")

    def _failed_for_all(self, fault: Fault, frame: Frame | None) -> None:
        self._failed(fault)
        for name, region in self._regions.items():
            self._take(name, region, Seen(fault=fault), None, None if frame is None else frame.data)

    def _failed(self, fault: Fault) -> None:
        self._metrics.fault(self.name, fault.kind)
        # A camera whose pictures show nothing has answered.
        self._failures = 0 if fault.kind in ("flat", "frozen", "broken-picture") else self._failures + 1

    def _pause_s(self) -> float:
        interval_s = self.settings.interval_seconds
        if self._failures < 2:
            return interval_s
        # Not all at the same moment, when the network or the service is back.
        pause_s = min(interval_s * 2.0 ** min(self._failures - 1, 20), max(interval_s, _LONGEST_PAUSE_S))
        return max(interval_s, pause_s * random.uniform(0.7, 1.0))  # noqa: S311 - no secret


def line(name: str, region: str, answer: Result | Fault | None, settings: config.Region) -> str:
    """What ``--once`` says about a region."""
    place = f"{name}/{region}"
    if answer is None:
        return f"{place}  there is no new frame"
    if isinstance(answer, Fault):
        return f"{place}  unavailable: {answer.kind}: {answer}"
    best = (answer.groups if settings.answer == "groups" else answer.predictions)[:1]
    said = f"{one_line(best[0].label)}  {best[0].score:.1%}" if best else f"nothing: the model has no {settings.answer}"
    return f"{place}  unknown ({said})" if answer.unknown else f"{place}  {said}"
