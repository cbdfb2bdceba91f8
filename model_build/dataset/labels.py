"""Labels of the classes: ImageNet's, from a file, or from the names of folders."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from model_build.errors import InputError

_WORDNET: Final = re.compile(r"(n\d{8})(?:_(.*))?")


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
    """Reads a labels file.

    Either text with one label a line, in the order of the model's output, optionally ``id<TAB>label``; or JSON: a list
    of labels, or Keras's class index form ``{"0": ["n01440764", "tench"], ...}``.

    Raises:
        InputError: the file is missing, does not parse, is empty or names a class twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels: {path} cannot be read: {error}") from error
    if path.suffix == ".json":
        rows = _from_json(path, text)
    else:
        rows = [tuple(line.strip().split("\t", 1)) for line in text.splitlines() if line.strip()]
    pairs = [(row[0], row[1]) if len(row) == 2 else (None, row[0]) for row in rows]
    if not pairs:
        raise InputError(f"--labels: {path} has no labels")
    keys = [wnid or label for wnid, label in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"--labels: {path} names {', '.join(twice[:5])} more than once")
    return Labels(tuple(label for _, label in pairs), tuple(wnid for wnid, _ in pairs))


def _from_json(path: Path, text: str) -> list[tuple[str, ...]]:
    try:
        document = json.loads(text)
        if isinstance(document, dict):
            document = [document[str(i)] for i in range(len(document))]
        rows = [tuple(item) if isinstance(item, list) else (item,) for item in document]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--labels: {path} is neither a list nor a class index: {error!r}") from error
    if any(len(row) not in (1, 2) or not all(isinstance(value, str) for value in row) for row in rows):
        raise InputError(f"--labels: {path} has entries that are neither a label nor an [id, label] pair")
    return rows
