"""Rows of results: how they are written, and how a file of them is taken up again."""

import csv
import fcntl
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from .photos import Photo

if TYPE_CHECKING:
    from .. import client
    from ..inference import classifier


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one photo: predictions and groups, best first, or an error."""

    photo: Photo
    model: str = ""
    version: str = ""
    predictions: "Sequence[classifier.Prediction | client.Prediction]" = ()
    unknown: bool = False
    error: str = ""
    groups: "Sequence[classifier.Group | client.Group]" = ()
    labels: Sequence[str] = ()


class ResultsFileError(Exception):
    """A file of results that cannot be resumed; the message says why."""


class OutputFormat(Protocol):
    """How rows become text."""

    header: str

    def line(self, row: Row) -> str:
        """One row, with its line end."""


class Table:
    """For a person: as many classes as were asked for, in columns as far as names allow; ``groups``: a group first."""

    def __init__(self, top_k: int, photos: Iterable[Photo], groups: bool = False) -> None:
        self.header = ""
        self._top_k = top_k
        self._groups = groups
        self._width = max((len(photo.path) for photo in photos), default=0)

    def line(self, row: Row) -> str:
        """The path, and scores in percent with their labels."""
        best = ", ".join(f"{p.score:6.1%} {p.label}" for p in row.predictions[: self._top_k]) or "nothing"
        if self._groups and row.groups:
            best = f"{row.groups[0].score:6.1%} {row.groups[0].label}: {best.strip()}"
        said = f"error: {row.error}" if row.error else f"unknown ({best.strip()})" if row.unknown else best
        return f"{row.photo.path:{self._width}}  {said}\n"


class JsonLines:
    """One JSON object a line."""

    header = ""
    start = '{"path": '

    def line(self, row: Row) -> str:
        """Everything that is known; ``error`` is null where there is none."""
        members = {
            "path": row.photo.path,
            "size": row.photo.size,
            "mtime_ns": row.photo.mtime_ns,
            "model": row.model,
            "version": row.version,
            "unknown": row.unknown,
            "groups": [asdict(group) for group in row.groups],
            "predictions": [asdict(prediction) for prediction in row.predictions],
            "labels": list(row.labels),
            "error": row.error or None,
        }
        return json.dumps(members) + "\n"

    def read(self, text: str) -> Iterator[tuple[Photo, bool]]:
        """The photos in whole lines, and whether each failed."""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found = json.loads(line)
                yield Photo(found["path"], found["size"], found["mtime_ns"]), found["error"] is not None
            except (ValueError, TypeError, KeyError) as error:
                raise ResultsFileError(f"line {number} is not one of these results") from error


_FIXED: Final = ("path", "size", "mtime_ns", "model", "version", "unknown", "error")


class Csv:
    """Comma-separated values (RFC 4180) with a header; a label, an id and a score for each of the ``top_k`` classes.

    With ``groups``, the best group and its score stand before them.
    """

    def __init__(self, top_k: int, groups: bool = False) -> None:
        self._groups = groups
        group = ("group", "group_score") if groups else ()
        self._columns = [
            *_FIXED,
            *group,
            *(f"{name}_{n}" for n in range(1, top_k + 1) for name in ("label", "id", "score")),
        ]
        self.header = self.start = _csv(self._columns)

    def line(self, row: Row) -> str:
        """The row's cells; empty where there is nothing."""
        photo = row.photo
        unknown = "" if row.error else str(row.unknown).lower()
        cells: list[object] = [photo.path, photo.size, photo.mtime_ns, row.model, row.version, unknown, row.error]
        if self._groups:
            cells += [row.groups[0].label, f"{row.groups[0].score:.6f}"] if row.groups else ["", ""]
        for prediction in row.predictions:
            cells += [prediction.label, prediction.id or "", f"{prediction.score:.6f}"]
        return _csv(cells + [""] * (len(self._columns) - len(cells)))

    def read(self, text: str) -> Iterator[tuple[Photo, bool]]:
        """The photos in whole lines, and whether each failed."""
        rows = csv.reader(io.StringIO(text, newline=""))
        next(rows, None)
        for number, cells in enumerate(rows, 2):
            try:
                found = dict(zip(self._columns, cells, strict=True))
                yield Photo(found["path"], int(found["size"]), int(found["mtime_ns"])), found["error"] != ""
            except ValueError as error:
                raise ResultsFileError(f"row {number} is not one of these results") from error


def _csv(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


@contextmanager
def append_to(path: Path, form: JsonLines | Csv) -> Iterator[tuple[Callable[[Row], None], dict[Photo, bool]]]:
    """A file that rows are appended to, one system call each, so that whatever kills the run tears one at most.

    What is there is taken up; a last line that was torn off is cut away.

    Yields:
        What appends a row, and the photos that the file has, each with whether it failed.

    Raises:
        ResultsFileError: it holds something else, or another process is writing to it.
        OSError: it cannot be written.
    """
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultsFileError("another process is writing to it") from error
        file.seek(0)
        written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        start = form.start.encode()
        if not written.startswith(start) and not start.startswith(written):
            raise ResultsFileError("it holds something else, or has other columns (--top-k)")
        done = dict(form.read(whole.decode("utf-8", "surrogateescape")))
        file.truncate(len(whole))

        def append(text: str) -> None:
            data = memoryview(text.encode("utf-8", "surrogateescape"))
            while data:
                data = data[file.write(data) or 0 :]

        if not whole:
            append(form.header)
        yield lambda row: append(form.line(row)), done
