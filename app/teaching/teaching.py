"""Teaching as a whole: the photos, what was made of them, and which of the models is served."""

import asyncio
import re
from pathlib import Path
from typing import Final

from ..errors import Conflict, ModelRefused, NoPreviousModel
from ..registry.repository import LoadedModel, Repository
from ..registry.updates import ModelUpdater, Update
from .lately import Lately
from .photos import Photos
from .runs import Runs
from .trainer import Served, Trainer

_NAMELESS: Final = "taught"


class Teaching:
    """What ``CLASSIFIER_TEACH`` turns on."""

    def __init__(self, root: Path, most_bytes: int, keep_s: float, most_lately: int) -> None:
        """Looks at the folder, and makes what is missing in it.

        Args:
            root: the folder.
            most_bytes: what everything in it may take.
            keep_s: seconds for which removed photos, and those that came in, are kept.
            most_lately: how many of those that come in are kept; 0: none.

        Raises:
            OSError: it cannot be made or written to.
        """
        #: The model file that is served where none is taken into use, whose network learns; None: there is a folder of
        #: models.
        self.configured: Path | None = None
        self._choosing = asyncio.Lock()
        self.photos = Photos(root, most_bytes, keep_s)
        self.runs = Runs(root)
        self.runs.note_interrupted()
        #: None: nothing that comes in is kept.
        self.lately = Lately(self.photos, most_lately) if most_lately else None
        self.trainer = Trainer(self.photos, self.runs, _model_name(root))

    def train(self, served: LoadedModel) -> int:
        """Begins a training; blocks for as long as the disk does.

        Args:
            served: the model that answers now, to compare with.

        Raises:
            Conflict, StorageFull: as ``Trainer.start``.
        """
        run = self.run_of(served)
        return self.trainer.start(self.configured or served.path, Served(served.path, served.contract.labels, run))

    def marks(self) -> tuple[int | None, dict[str, list[str]]]:
        """The last training that has looked through the photos, and what it found odd, by their ids."""
        for number in self.runs.numbers():
            if (record := self.runs.read(number)).get("outcome") == "done":
                return number, record.get("marks", {})
        return None, {}

    def close(self) -> None:
        """Ends what is under way."""
        if self.lately is not None:
            self.lately.close()
        self.trainer.close()
        self.trainer.join(5.0)

    def run_of(self, served: LoadedModel) -> int | None:
        """The training that made a served model; None: it was not made here."""
        for number in self.runs.numbers():
            if self.runs.read(number).get("model", {}).get("version") == served.contract.version:
                return number
        return None

    async def use(self, number: int, repository: Repository, updates: ModelUpdater) -> Update:
        """Serves a run's model instead of the one that is served, from the next request on and after a restart.

        Raises:
            NotThere: there is no such run.
            Conflict: it made no model, it is served already, or there is a folder of models.
            ModelRefused: it cannot be served; what was served before still is.
            StorageFull: the choice cannot be written down; what was served before still is.
            Draining: the service is shutting down.
        """
        async with self._choosing:
            path = await asyncio.to_thread(self._model, number, repository.default)
            before = self.runs.served
            await asyncio.to_thread(self.runs.serve, [*(one for one in before if one != number), number])
            return await self._reload(path, before, repository, updates)

    async def back(self, repository: Repository, updates: ModelUpdater) -> Update:
        """Serves the model again that was served before the last ``use``, at once where it is still in memory.

        Raises:
            NoPreviousModel: no model that was made here is served.
            ModelRefused: the one before cannot be served any more.
            StorageFull: it cannot be written down; what was served before still is.
            Draining: the service is shutting down.
        """
        async with self._choosing:
            before = self.runs.served
            if not before:
                raise NoPreviousModel("The configured model is served; no model that was taught here is in use.")
            await asyncio.to_thread(self.runs.serve, before[:-1])
            wanted = self.runs.served_file() or self.configured
            previous = repository.previous(repository.default)
            if previous is not None and previous.path == wanted:
                update = updates.roll_back(None)
                # Looks at that file again, and watches it.
                updates.request_reload()
                return update
            return await self._reload(wanted, before, repository, updates)

    async def _reload(
        self, path: Path | None, before: list[int], repository: Repository, updates: ModelUpdater
    ) -> Update:
        """Looks what is to be served now, and takes the choice back if that is not ``path`` afterwards."""
        done = await updates.reload()
        if repository.default.path == path and updates.last is not None:
            return updates.last
        await asyncio.to_thread(self.runs.serve, before)
        reason = "; ".join(update.reason for update in done if update.outcome == "refused") or "it was not taken"
        raise ModelRefused(f"That model is not served: {reason}. What was served before still is.")

    def _model(self, number: int, served: LoadedModel) -> Path:
        """A run's model, if it can be taken into use."""
        self.runs.get(number)
        if self.configured is None:
            raise Conflict(
                "This service serves a folder of models (CLASSIFIER_MODEL), and whoever fills it says what is served. "
                "Copy the model's file into it."
            )
        path = self.runs.model(number)
        if path is None:
            raise Conflict(f"Training {number} made no model. Train again.")
        if self.run_of(served) == number:
            raise Conflict(f"The model of training {number} is served already.")
        return path


def _model_name(root: Path) -> str:
    """What the models are called: as the folder, in characters that need no quoting in an address."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-.") or _NAMELESS
