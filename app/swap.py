"""New models while the old ones answer: found, tried in a child process, loaded beside them, and only then served.

Whatever is wrong with a new file, the model that is served stays. Reading, trying and loading happen in a thread, one
file after the other; what is served changes on the event loop, between two requests.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from app.classifier import Classifier, fastest
from app.errors import Draining, ModelError
from app.malloc import give_back_freed_memory
from app.model import Model
from app.modelfile import MOST_BYTES, ModelFile, Verify
from app.repository import Repository, Served
from app.room import Room, free_bytes
from app.trial import Findings, Trials
from app.watch import Watch, directories_of

log = logging.getLogger(__name__)

Outcome = Literal["swapped", "added", "refused", "rolled back"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("swapped", "added", "refused", "rolled back")

#: A model that has not classified its golden photo after this many seconds never will.
_PATIENCE_S: Final = 10.0
#: Bytes of a file that is read however little memory is free; MobileNetV2 1.0 has 14 million in fp32.
_LEAST_BYTES: Final = 16_000_000
#: Models whose findings are remembered, so that a file that comes back need not be tried again.
_REMEMBERED: Final = 1000
#: Rounds of the speed comparison; the best counts, because whatever else the machine does can only add.
_TRIALS: Final = 9
_ONLY: Final = "the only one to choose from"


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one new file, or of a roll-back.

    Attributes:
        outcome: what was done.
        file: name of the model file.
        reason: why, in a sentence.
        model: name of the model that serves now, None where that has not changed.
        version: its version.
        at: seconds since the epoch.
    """

    outcome: Outcome
    file: str
    reason: str
    model: str | None
    version: str | None
    at: float


class Replaced(ModelError):
    """Another file lies there than the one that has passed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A file that has passed its trial.

    Attributes:
        file: what was tried.
        name: what its model is called.
        precision: ``fp32`` or ``int8``.
        load_s: CPU seconds that loading it took, in which nothing else would have run here.
    """

    file: ModelFile
    name: str
    precision: str
    load_s: float


class Source:
    """The files that models come from: one file, whatever its model is called, or a folder with a file for each."""

    def __init__(
        self,
        paths: Callable[[], list[Path]],
        folder: Path | None,
        why: str,
        verify: Verify | None,
        trials: Trials,
        most_bytes: int = MOST_BYTES,
        shipped: Path | None = None,
    ) -> None:
        """Looks at nothing yet.

        Args:
            paths: the files there are now.
            folder: where several models are served from; None: there is one file.
            why: why these, for ``/health``.
            verify: who must have signed them; None: nobody.
            trials: what tries a file before anything here loads it.
            most_bytes: of a file.
            shipped: a file that comes with the code and is believed like it: it is not tried where it is the only one.
        """
        self.folder = folder
        self.why = why
        self.trials = trials
        self.precision: str | None = None
        self.precision_reason = _ONLY
        self._paths = paths
        self._verify = verify
        self._most_bytes = most_bytes
        self._shipped = shipped
        self._seen: dict[Path, tuple[tuple[int, ...], Offer | ModelError]] = {}
        self._passed: dict[bytes, Findings] = {}
        self._serving = False

    def read(self, path: Path) -> tuple[ModelFile, bytes]:
        """Reads and checks one file, as ``ModelFile.read`` does; blocks.

        Raises:
            ModelError: as there.
        """
        free = free_bytes()
        most = self._most_bytes if free is None else min(self._most_bytes, max(free, _LEAST_BYTES))
        return ModelFile.read(path, self._verify, most)

    def read_again(self, offer: Offer) -> tuple[ModelFile, bytes]:
        """Reads a file that has passed, to load it; blocks.

        Raises:
            ModelError: it cannot be read any more, or is another one than what has passed (Replaced).
        """
        file, data = self.read(offer.file.path)
        if file.digest != offer.file.digest:
            self._seen.pop(file.path, None)
            raise Replaced(f"{file.path} cannot be served: it was replaced while it was tried")
        return file, data

    def look(self) -> list[tuple[Path, ModelError]]:
        """Reads and tries the files that are new or have changed since the last time; blocks, for long.

        Returns:
            Which of those cannot be used, and why.
        """
        refused = []
        before, self._seen = self._seen, {}
        for path in self._paths():
            stamp = _stamp(path)
            # A served file that disappears is no news; that one that is asked for is missing, is.
            if stamp is None and not before:
                refused.append((path, ModelError(f"there is no model file at {path}")))
            if stamp is None:
                continue
            if path in before and before[path][0] == stamp:
                self._seen[path] = before[path]
                continue
            found: Offer | ModelError
            try:
                found = self._try(path)
            except ModelError as error:
                # Without its traceback, which would keep the file's bytes.
                found = ModelError(str(error))
                refused.append((path, found))
            self._seen[path] = (stamp, found)
        return refused

    def serving(self) -> None:
        """From now on there is something to lose: a file without a checksum is not tried any more."""
        self._serving = True

    def forget(self) -> None:
        """The next look reads everything again."""
        self._seen.clear()

    def refuse(self, file: ModelFile, error: ModelError) -> None:
        """Does not offer a file again before it changes."""
        if file.path in self._seen:
            self._seen[file.path] = (self._seen[file.path][0], ModelError(str(error)))

    def pin(self, path: Path) -> None:
        """Looks at one file only from now on."""
        self._paths = lambda: [path]

    def offers(self) -> dict[str, list[Offer]]:
        """The usable files of each model, the one to serve first: int8 before fp32, then the newest.

        A source of one file calls its model "".
        """
        found: dict[str, list[tuple[bool, int, str, Offer]]] = {}
        for path, (stamp, offer) in self._seen.items():
            if isinstance(offer, Offer) and self.precision in (None, offer.precision):
                name = offer.name if self.folder else ""
                rank = (offer.precision != "int8", -stamp[-1], path.name, offer)
                found.setdefault(name, []).append(rank)
        return {name: [rank[-1] for rank in sorted(files, key=lambda r: r[:-1])] for name, files in found.items()}

    def directories(self) -> set[Path]:
        """Where a change can mean a new model; blocks."""
        paths = [*self._paths(), *([self.folder] if self.folder else [])]
        return set().union(*(directories_of(path) for path in paths))

    def _try(self, path: Path) -> Offer:
        file, data = self.read(path)
        # Wherever it lies and whatever it is called by now: these bytes have passed.
        passed = self._passed.pop(file.digest, None)
        if passed is None:
            passed = self._find_out(file, data)
        self._passed[file.digest] = passed
        while len(self._passed) > _REMEMBERED:
            del self._passed[next(iter(self._passed))]
        return Offer(file, passed.name, passed.precision, passed.load_s)

    def _find_out(self, file: ModelFile, data: bytes) -> Findings:
        if file.path == self._shipped and self.folder is None:
            return Findings("", "", 0.0)
        if self._serving and not file.sealed:
            raise ModelError(
                f"{file.path} cannot be served: it does not end in a checksum, so nobody can tell whether it has "
                "arrived whole: it is truncated, not yet complete, something else, or from an earlier version; "
                "`python -m model_build sign FILE` adds one"
            )
        try:
            return self.trials(data)
        except ModelError as error:
            raise ModelError(f"{file.path} cannot be served: {error}") from error


@dataclass(frozen=True, slots=True)
class Loader:
    """Makes a file ready to serve, or says why not.

    Attributes:
        room: how large photos may be.
        threads_alone: of the second session, which the default model has; 1: it has none.
        budget_s: the queue's; a model that needs more for one photo could never answer.
        max_slowdown: how many times as long as the model that it replaces a new one may take.
    """

    room: Room
    threads_alone: int
    budget_s: float
    max_slowdown: float

    def load(self, offer: Offer, source: Source, current: Served | None, *, default: bool) -> Served:
        """Loads a file beside the model that it is to replace, and checks it; blocks.

        Args:
            offer: the file, which has passed its trial.
            source: where it comes from.
            current: what it is to replace, None where it is one more.
            default: whether it is to be the default model.

        Raises:
            ModelError: it cannot be used.
        """
        try:
            if offer.load_s > self.budget_s:
                raise ModelError(
                    f"loading it takes {offer.load_s:.2f} s of CPU time, in which no request would be answered; the "
                    f"queue budget is {self.budget_s:g} s (CLASSIFIER_QUEUE_BUDGET_MS). A restart takes it"
                )
            file, data = source.read_again(offer)
            model = Model(file.path, data=data)
            classifier = Classifier(model, self.room)
            guard = threading.Timer(_PATIENCE_S, model.abandon)
            guard.daemon = True
            guard.start()
            try:
                classifier.check_golden()
                self._check_speed(model, current.classifier.model if current else None)
            finally:
                guard.cancel()
            made = serve(file, classifier, source, offer.load_s)
            if default and self._may_be_wide(made):
                classifier.wide = Model(file.path, self.threads_alone, data)
        except ModelError:
            raise
        except Exception as error:
            log.exception("unexpected error while a model was loaded")
            raise ModelError(f"loading it failed: {error!r}") from error
        return made

    def widen(self, served: Served, source: Source) -> None:
        """Gives a model its second session, with more threads; blocks."""
        if not self._may_be_wide(served):
            return
        # The file may have been replaced or removed in the meantime; one session serves as well.
        with contextlib.suppress(ModelError):
            file, data = source.read(served.path)
            if file.digest == served.digest:
                served.classifier.wide = Model(file.path, self.threads_alone, data)

    def _may_be_wide(self, served: Served) -> bool:
        return self.threads_alone > 1 and served.load_s <= self.budget_s

    def _check_speed(self, model: Model, running: Model | None) -> None:
        """Compares CPU time, which does not depend on how busy the machine is."""
        new_s, running_s = _cpu_seconds([model, *([running] if running else [])])
        if new_s > self.budget_s:
            raise ModelError(
                f"it takes {new_s * 1e3:.0f} ms for a photo; the queue budget is {self.budget_s * 1e3:.0f} ms"
            )
        if running is not None and new_s > running_s * self.max_slowdown:
            raise ModelError(
                f"it takes {new_s * 1e3:.2f} ms of CPU time for a photo, the running model {running_s * 1e3:.2f} ms: "
                f"more than {self.max_slowdown:g} times as much (CLASSIFIER_MAX_SLOWDOWN)"
            )


class Updates:
    """Follows the source: new files are served as soon as they have passed, on request or because they have come."""

    def __init__(
        self,
        repository: Repository,
        source: Source,
        loader: Loader,
        max_models: int,
        count: Callable[[Outcome], None],
    ) -> None:
        """Does nothing before it is asked to, or told to ``watch``.

        Args:
            repository: what is served.
            source: where new models come from.
            loader: makes them ready.
            max_models: the most models that are served.
            count: told about every outcome, for the metrics.
        """
        self.last: Update | None = None
        #: How often it was looked for new files.
        self.looked = 0
        self._repository = repository
        self._source = source
        self._loader = loader
        self._max_models = max_models
        self._count = count
        #: Held by one look after the other; nothing that has to be quick waits for it.
        self._following = asyncio.Lock()
        self._waiting: dict[bool, asyncio.Task[list[Update]]] = {}
        self._stopped = False
        self._rolled_back: set[bytes] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: Watch | None = None

    async def watch(self) -> None:
        """From now on, a change of the source is noticed; also one since it was looked at last."""
        try:
            self._watch = Watch(self._changed)
        except OSError as error:
            log.warning(
                "the model file is not watched; send SIGHUP or POST /admin/reload after a change",
                extra={"fields": {"reason": str(error)}},
            )
            return
        # Not what became of it: that is in the log.
        await asyncio.wait([self._changed()])

    def stop(self) -> None:
        """Ends what is being tried, without waiting for it, and begins nothing more."""
        self._stopped = True
        self._source.trials.close()

    async def close(self) -> None:
        """Stops following."""
        self.stop()
        if self._watch is not None:
            self._watch.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def tell(self) -> None:
        """Does what ``reload`` does, later; for signals."""
        self._unattended(self._soon(asked=True))

    async def reload(self) -> list[Update]:
        """Looks at all files now, also at those that were refused or rolled back before.

        Returns:
            What became of those that are not served already.

        Raises:
            Draining: the service is shutting down.
        """
        # A client that leaves does not take the work with it.
        updates = await asyncio.shield(self._soon(asked=True))
        if self._stopped:
            raise Draining("The service is shutting down; the next start looks at all model files.")
        return updates

    def roll_back(self, name: str | None) -> Update:
        """Serves the model again that ``name``, or the default one, has replaced; at once, whatever is being tried.

        The file that is given up is not taken again before it changes or somebody asks for it.

        Raises:
            UnknownModel, NoPreviousModel: as ``Repository.roll_back``.
        """
        given_up, serves = self._repository.roll_back(name)
        self._rolled_back.add(given_up.digest)
        # Whoever widens it may not be through yet.
        given_up.classifier.wide = given_up.classifier.model
        if serves is self._repository.default:
            self._unattended(self._run(self._widen(serves)))
        return self._note(
            "rolled back", serves.path, f"instead of version {given_up.contract.version}, as asked", serves
        )

    def note_refused(self, path: Path, error: ModelError) -> Update:
        """Remembers why a file is not served."""
        return self._note("refused", path, str(error).removeprefix(f"{path} cannot be served: "), None)

    def _changed(self) -> asyncio.Task[list[Update]]:
        return self._unattended(self._soon(asked=False))

    def _soon(self, *, asked: bool) -> asyncio.Task[list[Update]]:
        """Looks, after what is being looked at now; whoever wants the same meanwhile gets the same."""
        waiting = self._waiting.get(asked)
        if waiting is None:
            waiting = self._waiting[asked] = self._run(self._follow(asked=asked))
        return waiting

    async def _follow(self, *, asked: bool) -> list[Update]:
        async with self._following:
            self._waiting.pop(asked)
            if self._ending():
                return []
            if asked:
                self._source.forget()
                self._rolled_back.clear()
            # Before looking: what changes meanwhile is told afterwards.
            await self._aim()
            refused = await asyncio.to_thread(self._source.look)
            self.looked += 1
            if self._ending():
                return []
            updates = [self.note_refused(path, error) for path, error in refused]
            for name, offers in self._source.offers().items():
                updates += await self._choose(name, offers)
            if updates:
                await self._aim()
                await asyncio.to_thread(give_back_freed_memory)
            return updates

    def _ending(self) -> bool:
        return self._stopped

    def _current(self, name: str) -> Served | None:
        """What a model called ``name`` in the source would replace."""
        if self._source.folder is None:
            return self._repository.default
        return next((served for served in self._repository.all() if served.name == name), None)

    async def _choose(self, name: str, offers: list[Offer]) -> list[Update]:
        """Serves the first of a model's files that can be."""
        updates = []
        for offer in offers:
            file, current = offer.file, self._current(name)
            if current is not None and file.digest == current.digest:
                break
            if file.digest in self._rolled_back:
                continue
            try:
                if current is None and (served := len(self._repository.all())) >= self._max_models:
                    raise ModelError(f"{served} models are served already (CLASSIFIER_MAX_MODELS)")
                default = current is self._repository.default
                new = await asyncio.to_thread(self._loader.load, offer, self._source, current, default=default)
            except Replaced:
                self._changed()
                break
            except ModelError as error:
                self._source.refuse(file, error)
                updates.append(self.note_refused(file.path, error))
                continue
            # It may have been rolled back to something else while this was loaded.
            current = self._current(name)
            if current is None:
                self._repository.add(new)
                updates.append(self._note("added", file.path, "one more model", new))
            elif file.digest != current.digest:
                self._repository.replace(current, new)
                # Kept for a roll-back; half of it will do until then.
                current.classifier.wide = current.classifier.model
                reason = f"instead of version {current.contract.version}"
                updates.append(self._note("swapped", file.path, reason, new))
            break
        return updates

    async def _widen(self, served: Served) -> list[Update]:
        await asyncio.to_thread(self._loader.widen, served, self._source)
        if served is not self._repository.default:
            served.classifier.wide = served.classifier.model
        return []

    async def _aim(self) -> None:
        if self._watch is not None:
            # A folder that may not be read for a moment: what is watched stays.
            with contextlib.suppress(OSError):
                self._watch.aim(await asyncio.to_thread(self._source.directories))

    def _note(self, outcome: Outcome, path: Path, reason: str, served: Served | None) -> Update:
        model, version = (served.name, served.contract.version) if served else (None, None)
        self.last = Update(outcome, path.name, reason, model, version, time.time())
        self._count(outcome)
        level = logging.WARNING if outcome == "refused" else logging.INFO
        fields = {"path": str(path), "reason": reason} | ({"model": model, "version": version} if served else {})
        log.log(level, "model %s", outcome, extra={"fields": fields})
        return self.last

    def _run(self, work: Coroutine[Any, Any, list[Update]]) -> asyncio.Task[list[Update]]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    def _unattended(task: asyncio.Task[list[Update]]) -> asyncio.Task[list[Update]]:
        """Tells the log where nobody else would hear that it failed; the next change is followed all the same."""
        task.remove_done_callback(_log_failure)
        task.add_done_callback(_log_failure)
        return task


def _log_failure(task: asyncio.Task[list[Update]]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("looking for new models failed; what is served stays, and so does the watch", exc_info=error)


def start(
    source: Source, precision: str | None, default: str | None, max_models: int, room: Room
) -> tuple[list[Served], list[tuple[Path, ModelError]]]:
    """Loads what there is; blocks.

    In a folder, a file that cannot be used is left out: a bad delivery must not cost the next start.

    Args:
        source: where the models come from.
        precision: ``fp32``, ``int8``, ``auto`` (the faster one on this CPU) or None.
        default: name of the default model; None: the first by name.
        max_models: the most models that may be served.
        room: how large photos may be.

    Returns:
        The models, the default one first, and the files that were left out. Those of a folder have classified their
        golden photo.

    Raises:
        ModelError: there is nothing to serve, or something else than what is configured.
    """
    refused = source.look()
    if refused and source.folder is None:
        raise refused[0][1]
    if precision == "auto":
        _prefer_the_fastest(source)
    elif source.folder is not None:
        source.precision = precision
    served: dict[str, Served] = {}
    offers = source.offers()
    if len(offers) > max_models:
        raise ModelError(
            f"there are {len(offers)} models in {source.folder}, and CLASSIFIER_MAX_MODELS is {max_models}: "
            f"{', '.join(sorted(offers))}"
        )
    for name, files in offers.items():
        for offer in files:
            file = offer.file
            try:
                # Read again, like everywhere: what was checked is what is loaded.
                read, data = source.read_again(offer)
                classifier = Classifier(Model(read.path, data=data), room)
                if source.folder is not None:
                    classifier.check_golden()
            except ModelError as error:
                if source.folder is None:
                    raise
                source.refuse(file, error)
                refused.append((file.path, error))
                continue
            served[name] = serve(read, classifier, source, offer.load_s)
            if source.folder is None:
                source.pin(file.path)
            break
    if not served:
        wanted = f" with CLASSIFIER_PRECISION={precision}" if precision else ""
        reasons = "".join(f"; {error}" for _, error in refused)
        raise ModelError(f"there is no model in {source.folder} that can be served{wanted}{reasons}")
    source.serving()
    by_name = {made.name: made for made in served.values()}
    first = min(by_name) if default is None else default
    if first not in by_name:
        raise ModelError(f"CLASSIFIER_DEFAULT_MODEL is {first}, but there is only {', '.join(sorted(by_name))}")
    return [by_name.pop(first), *by_name.values()], refused


def serve(file: ModelFile, classifier: Classifier, source: Source, load_s: float) -> Served:
    """What the repository has of a model."""
    return Served(classifier, file.path, file.digest, source.why, source.precision_reason, time.time(), load_s)


def _prefer_the_fastest(source: Source) -> None:
    """Finds out which precision is faster on this CPU, on the first model that has both; it stays so until the end."""
    for offers in source.offers().values():
        if len({offer.precision for offer in offers}) > 1 or (source.folder is None and len(offers) > 1):
            models = [Model(file.path, data=data) for file, data in map(source.read_again, offers)]
            chosen, source.precision_reason = fastest(models)
            if source.folder is None:
                source.pin(chosen.path)
                source.look()
            else:
                source.precision = chosen.contract.precision
            return


def _cpu_seconds(models: list[Model]) -> tuple[float, float]:
    """The least CPU time that the first and the last of one or two models took for one picture, in turns."""
    best = [float("inf")] * len(models)
    for _ in range(_TRIALS):
        for i, model in enumerate(models):
            resize = model.contract.resize
            picture = np.zeros((1, resize.height, resize.width, 3), np.uint8)
            started = time.thread_time()
            model(picture)
            best[i] = min(best[i], time.thread_time() - started)
    return best[0], best[-1]


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What is different when the file at ``path`` is another one, its time of change last; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns
