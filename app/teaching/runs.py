"""What came of each training: a folder for each, with the model, and which of the models is served.

::

    runs/0007/run.json     what was learned from, what it is worth, what to look at
    runs/0007/learned.json the ids of the photos
    runs/0007/bins.int8.onnx
    served.json            the runs whose models were taken into use, the one that is served last
"""

import contextlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any, Final

from ..errors import NotThere, StorageFull
from ..runtime.files import file_stamp
from .photos import write

log = logging.getLogger(__name__)

#: Runs that are kept, beside those that were taken into use; and how many of those can be gone back through.
_KEPT: Final = 5
_MOST_SERVED: Final = 5
_INTERRUPTED: Final = (
    "The service ended while it was training. The photos and their classes are all there; train again."
)


class Runs:
    """The runs below a folder; every method blocks, for as long as its disk does."""

    def __init__(self, root: Path) -> None:
        """Looks at nothing yet; ``root`` is the folder of all that is taught."""
        self._folder = root / "runs"
        self._served = root / "served.json"
        self._known: dict[int, tuple[tuple[int, ...] | None, dict[str, Any]]] = {}

    def note_interrupted(self) -> None:
        """Notes which runs the end of an earlier service has interrupted."""
        for number in self.numbers():
            record = self.read(number)
            if record.get("outcome") == "running":
                with contextlib.suppress(OSError):
                    self.write(number, record | {"outcome": "interrupted", "reason": _INTERRUPTED})

    def numbers(self) -> list[int]:
        """The runs there are, the latest first."""
        return sorted((int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()), reverse=True)

    def folder(self, number: int) -> Path:
        """Where a run is."""
        return self._folder / f"{number:04}"

    def begin(self, record: dict[str, Any]) -> int:
        """Makes the folder of a new run; returns its number.

        Raises:
            OSError: it cannot be made.
        """
        number = max(self.numbers(), default=0) + 1
        self.folder(number).mkdir()
        self.write(number, {"number": number, "outcome": "running", "started_at": time.time(), **record})
        return number

    def write(self, number: int, record: dict[str, Any]) -> None:
        """Notes what came of a run.

        Raises:
            OSError: it cannot be written.
        """
        write(self.folder(number) / "run.json", json.dumps(record, ensure_ascii=False).encode())

    def read(self, number: int) -> dict[str, Any]:
        """What came of a run; {} where nobody knows any more."""
        path = self.folder(number) / "run.json"
        stamp = file_stamp(path)
        if number not in self._known or self._known[number][0] != stamp:
            self._known[number] = (stamp, _object(path))
        return dict(self._known[number][1])

    def get(self, number: int) -> dict[str, Any]:
        """What came of a run.

        Raises:
            NotThere: there is none of this number.
        """
        if number not in self.numbers():
            raise NotThere(f"There is no training {number} here; the last {_KEPT} are kept. Load the list again.")
        return self.read(number)

    def learned(self, number: int) -> set[str]:
        """The ids of the photos that a run's model has learned from."""
        return set(_object(self.folder(number) / "learned.json").get("photos", ()))

    def model(self, number: int) -> Path | None:
        """A run's model file; None where it made none."""
        record = self.read(number)
        name = record.get("model", {}).get("file") if record.get("outcome") == "done" else None
        path = self.folder(number) / Path(str(name)).name
        return path if name and path.is_file() else None

    @property
    def served(self) -> list[int]:
        """The runs whose models were taken into use, the one that is meant to be served last; []: none is."""
        found = _object(self._served).get("runs", [])
        return [number for number in found if isinstance(number, int)]

    def serve(self, numbers: list[int]) -> None:
        """Remembers which models were taken into use, across a restart too.

        Raises:
            StorageFull: it cannot be written; nothing has changed.
        """
        try:
            write(self._served, json.dumps({"runs": numbers[-_MOST_SERVED:]}).encode())
        except OSError as error:
            raise StorageFull(
                f"Which model is served cannot be written down ({error.strerror}), so it stays as it is. Make room on "
                "the disk with the photos."
            ) from error

    def served_file(self) -> Path | None:
        """The model file that is to be served instead of the configured one; None: that one."""
        served = self.served
        return self.model(served[-1]) if served else None

    def prune(self) -> None:
        """Deletes all but the latest runs, and those that may be gone back to."""
        for number in self.numbers()[_KEPT:]:
            if number not in self.served:
                shutil.rmtree(self.folder(number), ignore_errors=True)
                self._known.pop(number, None)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
