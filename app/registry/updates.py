"""New models while the old ones answer: found, tried in a child process, loaded beside them, and only then served.

Whatever is wrong with a new file, the model that is served stays. Reading, trying and loading happen in a thread, one
file after the other; what is served changes on the event loop, between two requests.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ..errors import Draining, ModelError
from ..runtime.memory import trim_heap
from .directory_watcher import DirectoryWatcher
from .loader import Loader
from .repository import LoadedModel, Repository
from .source import Offer, Replaced, Source

log = logging.getLogger(__name__)

Outcome = Literal["swapped", "added", "refused", "rolled back"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("swapped", "added", "refused", "rolled back")


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


class ModelUpdater:
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
        self._syncing = asyncio.Lock()
        self._waiting: dict[bool, asyncio.Task[list[Update]]] = {}
        self._stopped = False
        self._rolled_back: set[bytes] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: DirectoryWatcher | None = None

    async def watch(self) -> None:
        """From now on, a change of the source is noticed; also one since it was looked at last."""
        try:
            self._watch = DirectoryWatcher(self._changed)
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

    def request_reload(self) -> None:
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
        given_up.classifier.multithreaded = given_up.classifier.model
        if serves is self._repository.default:
            self._unattended(self._run(self._load_multithreaded(serves)))
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
            waiting = self._waiting[asked] = self._run(self._sync(asked=asked))
        return waiting

    async def _sync(self, *, asked: bool) -> list[Update]:
        async with self._syncing:
            self._waiting.pop(asked)
            if self._ending():
                return []
            if asked:
                self._source.forget()
                self._rolled_back.clear()
            # Before looking: what changes meanwhile is told afterwards.
            await self._set_paths()
            refused = await asyncio.to_thread(self._source.look)
            self.looked += 1
            if self._ending():
                return []
            updates = [self.note_refused(path, error) for path, error in refused]
            for name, offers in self._source.offers().items():
                updates += await self._choose(name, offers)
            if updates:
                if await self._set_paths():
                    self._changed()
                await asyncio.to_thread(trim_heap)
            return updates

    def _ending(self) -> bool:
        return self._stopped

    def _current(self, name: str) -> LoadedModel | None:
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
                current.classifier.multithreaded = current.classifier.model
                reason = f"instead of version {current.contract.version}"
                updates.append(self._note("swapped", file.path, reason, new))
            break
        return updates

    async def _load_multithreaded(self, served: LoadedModel) -> list[Update]:
        await asyncio.to_thread(self._loader.load_multithreaded, served, self._source)
        if served is not self._repository.default:
            served.classifier.multithreaded = served.classifier.model
        return []

    async def _set_paths(self) -> bool:
        """Watches where the source says; returns whether that is something new."""
        if self._watch is not None:
            # A folder that may not be read for a moment: what is watched stays.
            with contextlib.suppress(OSError):
                return self._watch.set_paths(await asyncio.to_thread(self._source.directories))
        return False

    def _note(self, outcome: Outcome, path: Path, reason: str, served: LoadedModel | None) -> Update:
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
