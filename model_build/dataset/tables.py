"""Tables that say what pictures show: CSV (``file,label``), Hugging Face's ``metadata.csv``, one column a class."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_build.dataset.files import Folder, LeftOut

#: What columns are called, without anything but letters.
_FILE: Final = frozenset("file filename filenames filepath filepaths path image images imagename imagepath img".split())  # noqa: SIM905
_ID: Final = frozenset({"id", "imageid", "imgid", "uuid", "name"})
_LABEL: Final = frozenset(
    "label labels class classes classname category target species breed labelname tag tags".split()  # noqa: SIM905
)
_PART: Final = frozenset({"split", "set", "dataset", "subset", "part", "partition", "usage"})
#: Between several labels in one cell.
_SEPARATOR: Final = "|"
#: Byte order marks and what they announce; without one it is UTF-8.
_MARKS: Final = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_LARGEST: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One picture that a table names.

    Attributes:
        path: the picture.
        labels: what it shows, as it is written there; none where it shows nothing of what the table is about.
        part: what the table says it is for, as it is written there ("test"); empty if nothing.
    """

    path: Path
    labels: tuple[str, ...]
    part: str


def read(root: Folder, left_out: LeftOut) -> list[Row]:
    """What the tables in a folder and its sub-folders say; nothing where none names pictures and what they show.

    A picture that shows several things has several rows, one cell with ``|`` between them, or a 1 in several columns of
    a table with a column a class. It is named by its path from the table's folder or from ``root``, or, where only one
    is called so, by its name with or without its ending.

    Args:
        root: the folder.
        left_out: is told which rows and tables are not used, and pictures that no row names.
    """
    pictures = root.all_pictures()
    names = _names(pictures, root.path)
    found: dict[Path, Row] = {}
    for folder in root.everything():
        for table in folder.tables:
            shown = str(table.relative_to(root.path))
            if "submission" in table.name.casefold() or not (rows := _rows(table)):
                left_out.add(shown, "a table, but not of files and what they show")
                continue
            for name, labels, part in rows:
                path = _find(name, folder.path, names)
                if path is None:
                    left_out.add(f"{shown}: {name}", "named in a table, but not there")
                    continue
                before = found[path].labels if path in found else ()
                found[path] = Row(path, tuple(dict.fromkeys(before + labels)), part or table.stem)
    if found:
        for path in pictures:
            if path not in found:
                left_out.add(str(path.relative_to(root.path)), "named in no table")
    return list(found.values())


def _names(pictures: Iterable[Path], root: Path) -> dict[str, Path | None]:
    """Pictures by all that they may be called; None for what several are called."""
    names: dict[str, Path | None] = {}
    for path in pictures:
        for name in {path.name, path.stem}:
            names[name] = None if name in names else path
    # Whole paths are never ambiguous.
    return names | {str(path): path for path in pictures} | {str(path.relative_to(root)): path for path in pictures}


def _find(name: str, folder: Path, names: dict[str, Path | None]) -> Path | None:
    name = name.replace("\\", "/").removeprefix("./")
    candidates = [str(folder / name), name, Path(name).name, *([] if "/" in name else [Path(name).stem])]
    return next((path for candidate in candidates if (path := names.get(candidate))), None)


def _rows(table: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """File, labels and part of each row; none where the table is about something else."""
    lines = list(_cells(table))
    if len(lines) < 2:
        return []
    heads = [re.sub(r"[^a-z]", "", cell.casefold()) for cell in lines[0]]

    def column(names: frozenset[str]) -> int | None:
        return next((i for i, head in enumerate(heads) if head in names), None)

    file = column(_FILE)
    file = column(_ID) if file is None else file
    label, part = column(_LABEL), column(_PART)
    if file is None and label is None and all(len(line) == 2 for line in lines):
        # No heading.
        return [(name, _several(shows), "") for name, shows in lines] if "." in lines[0][0] else []
    if file is None:
        return []
    body = [line for line in lines[1:] if len(line) == len(heads)]
    if label is not None:
        return [(line[file], _several(line[label]), line[part] if part is not None else "") for line in body]
    marks = [i for i in range(len(heads)) if i not in (file, part)]
    if len(marks) < 2 or any(line[i] not in ("0", "1", "0.0", "1.0") for line in body for i in marks):
        return []
    return [
        (
            line[file],
            tuple(lines[0][i] for i in marks if float(line[i])),
            line[part] if part is not None else "",
        )
        for line in body
    ]


def _several(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for part in cell.split(_SEPARATOR) if (label := part.strip())))


def _written(value: object) -> str:
    return _SEPARATOR.join(map(str, value)) if isinstance(value, list) else str(value)


def _cells(table: Path) -> Iterator[list[str]]:
    """The cells of each line that is not empty, without the spaces around them."""
    try:
        if table.stat().st_size > _LARGEST:
            return
        data = table.read_bytes()
        text = data.decode(next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig"))
        if table.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            yield list(rows[0])
            yield from ([_written(row.get(key, "")) for key in rows[0]] for row in rows)
            return
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        for line in csv.reader(text.splitlines(), delimiter=delimiter):
            if any(cell.strip() for cell in line):
                yield [cell.strip() for cell in line]
    except (OSError, ValueError, csv.Error, AttributeError, IndexError):
        return
