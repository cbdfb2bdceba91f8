"""Labels of the classes: ImageNet's, from a file, or from the names of folders."""

import codecs
import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_build.errors import InputError

_WORDNET: Final = re.compile(r"(n\d{8})(?:_(.*))?")
#: Under what others' programs put their labels in JSON, the first that is there.
_WRAPPED: Final = ("id2label", "class_names", "classes", "labels", "class_indices", "names", "categories")
#: What they call the name and the number of a class, where each class is an object of its own.
_NAME: Final = ("display_name", "name", "label", "class_name", "class", "title", "description")
_NUMBER: Final = ("id", "index", "class_id", "label_id")
#: A line with a running number: in front, or behind a separator.
_NUMBERED: Final = (
    re.compile(r"(?P<number>\d+)\s*[\s:.,;)=-]\s*(?P<label>.+)"),
    re.compile(r"(?P<label>.+?)\s*[\t:,;=]\s*(?P<number>\d+)"),
)
_HEADINGS: Final = re.compile(r"((class|label|category)[ _]?)?(index|idx|id|number|names?|labels?)|class(es)?|category")


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels and WordNet ids (None where unknown) by class index.

    ``groups`` has the everyday name that each class belongs under, by index; None where nobody has said. Whether two
    models have the same classes does not depend on it.
    """

    labels: tuple[str, ...]
    ids: tuple[str | None, ...]
    groups: tuple[str, ...] | None = field(default=None, compare=False)

    def index_of(self, name: str) -> int | None:
        """The class that ``name`` (an id or a label) stands for, or None."""
        if name in self.ids:
            return self.ids.index(name)
        return self.labels.index(name) if name in self.labels else None


def imagenet() -> Labels:
    """ImageNet's 1000 classes from the index that Keras keeps or downloads.

    Raises:
        WeightsUnavailable: it is neither cached nor downloadable.
    """
    import keras

    from model_build.network.weights import cache, explain_download_errors

    cached = cache() / "imagenet_class_index.json"
    with explain_download_errors("ImageNet class index", cached):
        decoded = keras.applications.mobilenet_v2.decode_predictions(np.eye(1000, dtype=np.float32), top=1)
    return Labels(
        tuple(name.replace("_", " ") for [(_, name, _)] in decoded), tuple(wnid for [(wnid, _, _)] in decoded)
    )


def numbered(classes: int) -> Labels:
    """``class 0``, ``class 1``, ... for a model that comes without names."""
    return Labels(tuple(f"class {i}" for i in range(classes)), (None,) * classes)


def of_folder(names: Sequence[str]) -> Labels:
    """Labels from the names of class folders: ``n02123045_tabby`` (a WordNet id), ``tabby_cat`` or plain ``tabby``."""
    pairs = [match.groups() if (match := _WORDNET.fullmatch(name)) else (None, name) for name in names]
    return Labels(
        tuple((label or wnid or "").replace("_", " ").strip() for wnid, label in pairs),
        tuple(wnid for wnid, _ in pairs),
    )


def read(path: Path) -> Labels:
    """Reads a labels file, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Told by what is in it, whatever it is called, it is one of

    - text with one label a line, in the order of the model's output, optionally ``id<TAB>label``; running numbers in
      front (``0 cat``, ``1: cat``) or behind a separator (``cat: 0``) are no part of a label, and say the order, and
      quotes around every label are none;
    - JSON: a list of labels or of objects (``[{"id": 0, "name": "cat"}, ...]``), ``{"0": "cat", ...}``, Keras's
      ``class_indices`` (``{"cat": 0, ...}``) and class index (``{"0": ["n01440764", "tench"], ...}``), or one of these
      under ``class_names``, ``labels``, ``id2label`` ...;
    - CSV with a column of labels, and perhaps one of indices or ids;
    - TensorFlow's label map (``item { id: 1 name: 'cat' }``).

    Raises:
        InputError: the file is missing, does not parse, is empty or names a class twice.
    """
    try:
        text = _decoded(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"--labels: {path} cannot be read: {error}") from error
    stripped = text.strip()
    if path.suffix.lower() == ".json" or stripped.startswith(("{", "[")):
        rows = _from_json(path, stripped)
    elif re.match(r"item\s*\{", stripped):
        rows = _from_label_map(path, stripped)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = _from_csv(path, stripped)
    elif path.suffix.lower() in (".yaml", ".yml") or re.search(r"^names:", stripped, re.MULTILINE):
        raise InputError(f"--labels: {path} is YAML; write its names into a text file, one a line, or as a JSON list")
    else:
        rows = _from_lines(path, stripped)
    pairs = [_pair(row) for row in rows]
    if not pairs:
        raise InputError(f"--labels: {path} has no labels")
    keys = [wnid or label for wnid, label in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"--labels: {path} names {', '.join(twice[:5])} more than once")
    return Labels(tuple(label for _, label in pairs), tuple(wnid for wnid, _ in pairs))


def of_lines(lines: Sequence[str]) -> Labels:
    """Labels from lines as ``read`` takes them from a text file, in the order of the model's output."""
    pairs = [_pair(row) for row in _rows(lines)]
    return Labels(tuple(label for _, label in pairs), tuple(wnid for wnid, _ in pairs))


_Row = tuple[str, ...]


def _pair(row: _Row) -> tuple[str | None, str]:
    if len(row) < 2:
        return None, row[0]
    # Keras's class index writes "great_white_shark".
    return row[0], row[1].replace("_", " ") if _WORDNET.fullmatch(row[0]) else row[1]


def _decoded(path: Path, data: bytes) -> str:
    # UTF-32's mark begins with that of UTF-16.
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    else:
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"--labels: {path} cannot be read: {error}; save it as UTF-8, one label a line") from error
    if "\0" in text:
        raise InputError(f"--labels: {path} is no text; save it as UTF-8, one label a line")
    return text


def _from_lines(path: Path, text: str) -> list[_Row]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and "," in lines[0]:
        raise InputError(f"--labels: {path} has all its labels on one line; write one a line, or a JSON list")
    return _rows(lines)


def _rows(lines: Sequence[str]) -> list[_Row]:
    # As they stand in a program's list.
    quoted = [re.fullmatch(r"(['\"])(.+)\1,?", line) for line in lines]
    if all(quoted):
        lines = [match[2].strip() for match in quoted if match]
    for form in _NUMBERED:
        matched = [match for line in lines if (match := form.fullmatch(line))]
        if len(matched) == len(lines):
            ordered = _ordered([(int(match["number"]), (match["label"],)) for match in matched])
            if ordered:
                return ordered
    # WordNet's own lists have a space behind the id.
    return [(match[1], match[2]) if (match := re.fullmatch(r"(n\d{8})\s+(.+)", line)) else _row(line) for line in lines]


def _row(line: str) -> _Row:
    return tuple(part.strip() for part in line.split("\t", 1))


def _ordered(numbered: list[tuple[int, _Row]]) -> list[_Row] | None:
    """Rows in the order of their numbers; None unless these count from 0 or 1, and the labels without them differ."""
    rows = sorted(numbered)
    numbers, labels = [number for number, _ in rows], {row for _, row in rows}
    counts = numbers in (list(range(len(rows))), list(range(1, len(rows) + 1)))
    return [row for _, row in rows] if counts and len(labels) == len(rows) else None


def _from_json(path: Path, text: str) -> list[_Row]:
    try:
        document = json.loads(text)
        while isinstance(document, dict) and (inner := [key for key in _WRAPPED if key in document]):
            document = document[inner[0]]
        if isinstance(document, dict):
            document = _from_object(document)
        if all(isinstance(item, dict) for item in document):
            return _from_objects(path, document)
        rows = [tuple(item) if isinstance(item, list) else (item,) for item in document]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"--labels: {path} is neither a JSON list of labels nor a class index ({error!r}); write one label a line, "
            'or ["cat", "dog"] with double quotes, as json.dump does'
        ) from error
    if any(len(row) not in (1, 2) or not all(isinstance(value, str) for value in row) for row in rows):
        raise InputError(f"--labels: {path} has entries that are neither a label nor an [id, label] pair")
    return rows


def _from_object(document: dict[str, Any]) -> list[Any]:
    """The values by their indices; which of keys and values are indices is seen."""
    numbers = all(type(value) is int for value in document.values())
    digits = all(isinstance(value, str) and value.isdecimal() for value in document.values())
    if numbers or (digits and not all(key.isdecimal() for key in document)):
        document = {str(int(index)): name for name, index in document.items()}
    start = 0 if "0" in document else 1
    return [document[str(i)] for i in range(start, start + len(document))]


def _from_objects(path: Path, objects: list[dict[str, Any]]) -> list[_Row]:
    """Of a class each, in the order of their numbers where they have such."""
    names = [next((item[key] for key in _NAME if key in item), None) for item in objects]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"--labels: {path} has objects without a name; {{'id': 0, 'name': 'cat'}} is read")
    rows = [(str(name),) for name in names]
    numbers = [next((item[key] for key in _NUMBER if key in item), None) for item in objects]
    if not all(type(number) is int for number in numbers):
        return list(rows)
    ordered = _ordered([(int(number or 0), row) for number, row in zip(numbers, rows, strict=True)])
    if ordered is None:
        raise InputError(f"--labels: {path} has ids that do not count from 0 or 1, or a name twice")
    return ordered


def _from_label_map(path: Path, text: str) -> list[_Row]:
    found: list[tuple[int, _Row]] = []
    for item in re.findall(r"item\s*\{(.*?)\}", text, re.DOTALL):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        name = re.search(r"\bdisplay_name\s*:\s*['\"](.*?)['\"]", item) or re.search(
            r"\bname\s*:\s*['\"](.*?)['\"]", item
        )
        if number is None or name is None:
            raise InputError(f"--labels: {path} has an item without an id or a name")
        found.append((int(number[1]), (name[1],)))
    rows = _ordered(found)
    if rows is None:
        raise InputError(f"--labels: {path} has ids that do not count from 0 or 1, or a name twice")
    return rows


def _from_csv(path: Path, text: str) -> list[_Row]:
    separator = max(",;\t", key=text.splitlines()[0].count) if text else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator)]
    rows = [row for row in rows if any(row)]
    if rows and (len(rows[0]) > 2 or len({len(row) for row in rows}) > 1):
        raise InputError(f"--labels: {path} has {len(rows[0])} columns; one of labels, or two with an index, are read")
    if len(rows) == 1:
        raise InputError(f"--labels: {path} has all its labels on one line; write one a line")
    if rows and all(_HEADINGS.fullmatch(cell.lower()) for cell in rows[0]):
        rows = rows[1:]
    if not rows or len(rows[0]) == 1:
        return [tuple(row) for row in rows]
    for column in (0, 1):
        if all(row[column].isdecimal() for row in rows):
            ordered = _ordered([(int(row[column]), (row[1 - column],)) for row in rows])
            if ordered is None:
                raise InputError(f"--labels: {path} has indices that do not count from 0 or 1, or a label twice")
            return ordered
    return [tuple(row) for row in rows]
