"""Trains: the model builder's commands, one after the other, each in a child process of low priority.

``teach`` makes the model, ``check`` looks through the folder, and the service's own ``classify`` asks the model that is
served about the same photos. Nothing of them is imported here: the builder needs packages that serving does not.
"""

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import BUILDER
from ..errors import Conflict, StorageFull
from ..runtime.children import environment
from .names import is_refused, key
from .photos import Photos, free_bytes, write
from .runs import Runs

log = logging.getLogger(__name__)

#: This package, as it is called here, and the builder's.
_SERVICE: Final = __name__.split(".", maxsplit=1)[0]
_BUILDER: Final = BUILDER.rpartition(" ")[2]
#: Fewest photos of a class, as ``teach`` has it.
LEAST_PHOTOS: Final = 5
#: Seconds after which a step is ended.
_PATIENCE_S: Final = 7200.0
#: Niceness: everything else goes first.
_NICE: Final = 19
#: Bytes of what a command says that are kept.
_MOST_SAID: Final = 4000
_MOST_RESULT: Final = 100_000_000
#: How many times the model that it begins with a training may take on the disk.
_TIMES_MODEL: Final = 3
#: Which share of the time each part takes, as measured with 1000 photos; for the guess of the time that is left.
_PARTS: Final = {
    ("teach", "Computing features"): (0.01, 0.65),
    ("teach", "Cross-validating"): (0.65, 0.84),
    ("compare", "Asking the served model"): (0.84, 1.0),
}
#: Doubtful photos, and photos of a confusion, that are told.
_MOST_DOUBTS: Final = 200
_MOST_OF_A_CONFUSION: Final = 12


@dataclass(frozen=True, slots=True)
class Served:
    """The model that answers while another one is made.

    Attributes:
        path: its file.
        labels: its classes.
        run: the training that made it; None: it was not made here.
    """

    path: Path
    labels: tuple[str, ...]
    run: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        number: of the run.
        step: what is being done.
        share: how much of the whole is done, 0 to 1.
        left_s: a guess of the seconds that are left; None before there is anything to guess from.
    """

    number: int
    step: str
    share: float
    left_s: float | None


class _Failed(Exception):
    """A command that ended without what it is for; the message is its own last line."""


class Trainer:
    """Trains one model at a time."""

    def __init__(self, photos: Photos, runs: Runs, name: str) -> None:
        """Trains nothing yet.

        Args:
            photos: what to learn from.
            runs: where the results go.
            name: what the models are called.
        """
        self._photos = photos
        self._runs = runs
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._closed = False
        self._began = 0.0
        self.progress: Progress | None = None
        #: What could not be written down about the last run, in memory; None: all of it was.
        self.unwritten: dict[str, Any] | None = None

    @staticmethod
    def missing() -> str | None:
        """What has to be installed before anything can be trained, as a sentence; None: nothing."""
        lacks = [name for name in (_BUILDER, "onnx") if importlib.util.find_spec(name) is None]
        if not lacks:
            return None
        return (
            f"Training needs {' and '.join(lacks)}, which this service was installed without. Install "
            "'edge-classifier[teach]' beside it, or copy the folder of photos to a machine that has it and run "
            "edge-classifier-build teach there."
        )

    def start(self, base: Path, served: Served) -> int:
        """Begins a training; returns the number of its run.

        Args:
            base: the model whose network learns the new classes.
            served: the model to compare with.

        Raises:
            Conflict: one is under way, something is missing, or there are too few photos.
            StorageFull: its result could not be written.
        """
        if (missing := self.missing()) is not None:
            raise Conflict(missing)
        counts = self._photos.classes()
        self._check_enough(counts)
        with self._lock:
            if self._closed:
                raise Conflict("The service is shutting down. Train when it is back.")
            if self._thread is not None and self._thread.is_alive():
                raise Conflict("A training is under way already. Wait for it, or cancel it.")
            if free_bytes(self._photos.root) < _TIMES_MODEL * base.stat().st_size:
                raise StorageFull(
                    "The disk with the photos has too little room for another model, so no training was begun. Make "
                    "room on it."
                )
            try:
                number = self._runs.begin({"photos": sum(counts.values()), "classes": counts})
            except OSError as error:
                raise StorageFull(
                    f"A training's result could not be written ({error.strerror}), so none was begun. Make room on the "
                    "disk with the photos."
                ) from error
            self._cancelled = False
            self._began = time.monotonic()
            self.unwritten = None
            self.progress = Progress(number, "Beginning", 0.0, None)
            self._thread = threading.Thread(target=self._run, args=(number, base, served), name="training", daemon=True)
            self._thread.start()
            return number

    def cancel(self) -> None:
        """Ends the training that is under way, if there is one."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """Ends the training, and begins none any more; does not wait."""
        with self._lock:
            self._closed = True
        self.cancel()

    def join(self, timeout_s: float) -> None:
        """Waits until nothing is under way any more."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    @staticmethod
    def _check_enough(counts: dict[str, int]) -> None:
        known = {name: count for name, count in counts.items() if count and not is_refused(name)}
        if len(known) < 2:
            raise Conflict(f"A model needs two classes with photos; there are {len(known)}. Add photos to another one.")
        few = [f"{name!r} has {count}" for name, count in counts.items() if 0 < count < LEAST_PHOTOS]
        if few:
            raise Conflict(
                f"Each class needs {LEAST_PHOTOS} different photos at least; {', '.join(few[:5])}. Add some, or remove "
                "the class."
            )

    # --- in its own thread

    def _run(self, number: int, base: Path, served: Served) -> None:
        record = self._runs.read(number)
        try:
            record |= self._train(number, base, served)
            record["outcome"] = "done"
        except _Failed as error:
            record |= {"outcome": "failed", "reason": str(error)}
            if self._closed:
                record |= {"outcome": "interrupted", "reason": "The service was told to end. Train again."}
            elif self._cancelled:
                record |= {"outcome": "cancelled", "reason": "It was cancelled."}
        except StorageFull as error:
            record |= {"outcome": "failed", "reason": str(error)}
        except OSError as error:
            record |= {"outcome": "failed", "reason": f"A file could not be read or written: {error.strerror}."}
        except Exception as error:
            log.exception("unexpected error while a model was trained")
            record |= {"outcome": "failed", "reason": f"The service made a mistake: {error!r}."}
        record["seconds"] = round(time.monotonic() - self._began, 1)
        try:
            self._runs.write(number, record)
        except OSError as error:
            said = f" And it could not be written down: {error.strerror}."
            self.unwritten = record | {"outcome": "failed", "reason": f"{record.get('reason', 'It was done.')}{said}"}
        level = logging.INFO if record["outcome"] == "done" else logging.WARNING
        fields = {key: record.get(key) for key in ("number", "outcome", "reason", "seconds", "photos")}
        log.log(level, "training", extra={"fields": fields})
        self._runs.prune()
        self._photos.forget_used()
        self.progress = None

    def _train(self, number: int, base: Path, served: Served) -> dict[str, Any]:
        folder = self._runs.folder(number)
        photos = str(self._photos.folder)
        ids = self._photos.ids()
        write(folder / "learned.json", json.dumps({"photos": sorted(ids.values())}).encode())
        as_json = ("--json", "--progress", "json")
        arguments = [_BUILDER, "teach", str(base), photos, "--output", str(folder), "--name", self._name]
        taught = self._ask("teach", number, [*arguments, *as_json])
        found = _told(taught, ids)
        try:
            rows = self._rows(number, photos, served.path)
        except _Failed as error:
            if self._cancelled:
                raise
            found["compared"] = {"reason": str(error)}
        else:
            learned = set() if served.run is None else self._runs.learned(served.run)
            found["compared"] = compared(rows, served.labels, taught, ids, learned)
        return found

    def _ask(self, command: str, number: int, arguments: list[str]) -> dict[str, Any]:
        """Runs a command that prints a JSON object."""
        answer = self._child_says(command, number, arguments, {}, lambda line: self._heard(command, number, line))
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise _Failed(f"{command} gave no result.") from error
        return dict(found)

    def _rows(self, number: int, photos: str, served: Path) -> list[dict[str, Any]]:
        """What the served model says about each photo."""
        self._tell("compare", number, "Asking the served model", 0, 1)
        arguments = [_SERVICE, "classify", photos, "--json", "--top-k", "1"]
        answer = self._child_says("compare", number, arguments, {"CLASSIFIER_MODEL": str(served)}, lambda _: None)
        return [json.loads(line) for line in answer.splitlines()]

    def _child_says(
        self,
        command: str,
        number: int,
        arguments: list[str],
        variables: dict[str, str],
        heard: Callable[[bytes], None],
    ) -> bytes:
        """What a child process prints.

        Raises:
            _Failed: it was ended, or ended without success.
        """
        out = self._runs.folder(number) / f".{command}.out"
        said = b""
        try:
            with out.open("wb") as output:
                with self._lock:
                    if self._cancelled or self._closed:
                        raise _Failed("It was cancelled.")
                    child = self._child = subprocess.Popen(  # noqa: S603 - this interpreter and our own modules
                        [sys.executable, "-s", "-P", "-m", *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.PIPE,
                        # A read-only root has no other place to write.
                        env=environment() | {"TMPDIR": str(out.parent)} | variables,
                    )
                _least_important(child.pid)
                guard = threading.Timer(_PATIENCE_S, child.kill)
                guard.daemon = True
                guard.start()
                with child:
                    assert child.stderr is not None  # noqa: S101 - for the type checker
                    while line := child.stderr.readline(_MOST_SAID):
                        if line.startswith(b"{"):
                            heard(line)
                        else:
                            said = (said + line)[-_MOST_SAID:]
                guard.cancel()
            if child.returncode:
                raise _Failed(_why(command, child.returncode, said))
            with out.open("rb") as answer:
                return answer.read(_MOST_RESULT)
        except OSError as error:
            raise _Failed(f"{command} could not be run: {error.strerror}.") from error
        finally:
            with self._lock:
                self._child = None
            with contextlib.suppress(OSError):
                out.unlink()

    def _heard(self, command: str, number: int, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            self._tell(command, number, str(told["step"]), int(told["done"]), int(told["of"]))

    def _tell(self, command: str, number: int, step: str, done: int, of: int) -> None:
        first, last = _PARTS.get((command, step), (0.0, 0.0))
        before = self.progress.share if self.progress else 0.0
        # Where most photos are wide, `teach` goes through its steps twice: nothing goes back.
        share = max(before, first + (last - first) * min(1.0, done / max(1, of)))
        gone = time.monotonic() - self._began
        left = gone * (1 - share) / share if share > 0.05 else None
        self.progress = Progress(number, f"{step}: {done} of {of}", share, left)


def _least_important(pid: int) -> None:
    """Lets everything else go first, and the kernel end this one where memory runs out."""
    # A system call filter may forbid it.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _why(command: str, code: int, said: bytes) -> str:
    """A sentence about a command that failed."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else ""
    if "No space left" in last:
        return "The disk with the photos is full. Nothing was lost; make room on it, and train again."
    if code < 0:
        return f"{command} was ended by signal {-code}, perhaps because memory ran out. Nothing was lost; train again."
    return last or f"{command} ended with {code}."


def _told(taught: dict[str, Any], ids: dict[tuple[str, str], str]) -> dict[str, Any]:
    """What a page shows of the command's result; photos by their ids."""
    checked = taught["check"]

    def id_of(path: str) -> str | None:
        return ids.get((Path(path).parent.name, Path(path).name))

    marks: dict[str, list[str]] = {}

    def mark(paths: list[str], what: str) -> None:
        for path in paths:
            if (found := id_of(path)) is not None and what not in marks.setdefault(found, []):
                marks[found].append(what)

    for group in checked["within"]:
        # One of them is worth keeping.
        mark(group[1:], "near-duplicate")
    for pair in checked["across"]:
        mark(pair, "in another class too")
    for kind in ("dark", "flat"):
        mark(checked[kind], {"dark": "too dark", "flat": "of one colour"}[kind])
    mark(checked["blurred"], "blurred")
    mark([doubt["path"] for doubt in taught["doubts"]], "looks like another class")
    doubts = [
        {"photo": found, **{key: doubt[key] for key in ("label", "score", "likely", "likely_score")}}
        for doubt in taught["doubts"]
        if (found := id_of(doubt["path"])) is not None
    ]
    pairs: dict[tuple[str, str], list[str]] = {}
    for doubt in doubts:
        pairs.setdefault((doubt["label"], doubt["likely"]), []).append(doubt["photo"])
    path = Path(taught["path"])
    return {
        "model": {
            "file": path.name,
            "bytes": path.stat().st_size,
            **{key: taught[key] for key in ("name", "version", "precision")},
        },
        "labels": taught["labels"],
        "measured": taught["measured"],
        "warnings": [*taught["warnings"]],
        "left_out": taught["left_out"],
        "notes": [note for note in checked.get("notes", ()) if note not in taught["warnings"]],
        "doubts": doubts[:_MOST_DOUBTS],
        "confusions": [
            {"label": label, "likely": likely, "count": len(photos), "photos": photos[:_MOST_OF_A_CONFUSION]}
            for (label, likely), photos in sorted(pairs.items(), key=lambda pair: -len(pair[1]))
        ],
        "marks": marks,
    }


def compared(
    rows: list[dict[str, Any]],
    labels: Sequence[str],
    taught: dict[str, Any],
    ids: dict[tuple[str, str], str],
    learned: set[str],
) -> dict[str, Any]:
    """The served model beside the new one, on the same photos, which neither has learned from.

    What the new one says about a photo is what its cross-validation says: a head that has not learned from it.

    Args:
        rows: what the served model says, as ``classify --json`` has it.
        labels: the served model's classes.
        taught: what ``teach`` found.
        ids: the photos' ids, by class and name.
        learned: the ids of the photos that the served model has learned from.

    Returns:
        ``knows``: whether two or more of the classes are the served model's too. If so, of how many ``photos`` of
        these, which it has not ``learned`` from, it and the new one are ``served_right`` and ``new_right``.
        ``answers``: its three commonest for each class.
    """
    doubted = {doubt["path"] for doubt in taught["doubts"]}
    shown = {row["path"]: Path(row["path"]).parent.name for row in rows if row["predictions"]}
    said = {row["path"]: row["predictions"][0]["label"] for row in rows if row["predictions"]}
    answers: dict[str, Counter[str]] = {name: Counter() for name in sorted({*shown.values()}) if not is_refused(name)}
    for path, label in said.items():
        if shown[path] in answers:
            answers[shown[path]][label] += 1
    known = {key(label) for label in labels}
    common = {name for name in answers if key(name) in known}
    found: dict[str, Any] = {
        "name": rows[0]["model"] if rows else "",
        "version": rows[0]["version"] if rows else "",
        "knows": len(common) > 1,
        "answers": [
            {"label": name, "said": [{"label": label, "photos": n} for label, n in counted.most_common(3)]}
            for name, counted in answers.items()
        ],
    }
    if len(common) > 1:
        asked = [path for path, name in shown.items() if name in common]
        fresh = [path for path in asked if _id_of(path, ids) not in learned]
        found |= {
            "photos": len(fresh),
            "learned": len(asked) - len(fresh),
            "served_right": sum(key(said[path]) == key(shown[path]) for path in fresh),
            "new_right": sum(path not in doubted for path in fresh),
        }
    return found


def _id_of(path: str, ids: dict[tuple[str, str], str]) -> str | None:
    return ids.get((Path(path).parent.name, Path(path).name))
