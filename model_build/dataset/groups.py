"""Everyday names for classes: a file that puts each class into one group, and the one that comes along for ImageNet."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from model_build.dataset.labels import Labels
from model_build.errors import InputError

#: ImageNet's 1000 classes in groups that a person would call by these names.
IMAGENET: Final = Path(__file__).with_name("imagenet_groups.json")
_WORDNET: Final = re.compile(r"(n\d{8})_(.+)")
#: How many names a message lists.
_NAMED: Final = 5


def read(path: Path) -> dict[str, list[str]]:
    """Reads a file of groups: JSON, ``{"cat": ["tabby", "n02124075_Egyptian_cat"], "car": [...]}``.

    A class goes by its label, its id, or both with an underscore between, as class folders do.

    Raises:
        InputError: the file is missing or of another form, or has an empty group or one group twice.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--groups: {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not all(_is_group(members) for members in document.values()):
        raise InputError(
            f'--groups: {path} is not an object like {{"cat": ["tabby", "Egyptian cat"]}}, whose lists have a class or '
            "more"
        )
    return document


def assign(names: Labels, groups: Mapping[str, list[str]], source: Path) -> Labels:
    """The labels with each class in its group.

    Args:
        names: of the model's classes.
        groups: what ``read`` gave.
        source: for messages.

    Raises:
        InputError: a class is in no group or in several, or a name stands for none of the classes.
    """
    found: dict[int, str] = {}
    strange: list[str] = []
    for group, members in groups.items():
        for member in members:
            index = _index_of(names, member)
            if index is None:
                strange.append(member)
            elif index in found:
                raise InputError(
                    f"--groups: {source} has {names.labels[index]!r} in {found[index]!r} and in {group!r}; a class "
                    "belongs to one group"
                )
            else:
                found[index] = group
    if strange:
        raise InputError(f"--groups: {source} names classes that the model has not: {_listed(strange)}")
    if missing := [label for index, label in enumerate(names.labels) if index not in found]:
        raise InputError(f"--groups: {source} lacks {_listed(missing)}; every class belongs to a group")
    return replace(names, groups=tuple(found[index] for index in range(len(names.labels))))


def fill(names: Labels, path: Path | None) -> Labels:
    """The labels with the groups of a file; without one, ImageNet's where the classes are those of ImageNet.

    Raises:
        InputError: the file cannot be used, or does not fit the classes.
    """
    if path is not None:
        return assign(names, read(path), path)
    groups = read(IMAGENET)
    ids = Counter(member.partition("_")[0] for members in groups.values() for member in members)
    return assign(names, groups, IMAGENET) if Counter(names.ids) == ids else names


def _index_of(names: Labels, member: str) -> int | None:
    """The class that an entry means, if it means one alone."""
    if (index := names.index_of(member)) is not None:
        # Several classes may have one label; then it takes the id.
        return index if names.ids[index] == member or names.labels.count(member) == 1 else None
    if match := _WORDNET.fullmatch(member):
        index = names.index_of(match[1])
        return index if index is not None and names.labels[index] == match[2].replace("_", " ") else None
    return None


def _is_group(members: Any) -> bool:
    return isinstance(members, list) and bool(members) and all(isinstance(member, str) for member in members)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"it has {_listed(twice)} more than once")
    return dict(pairs)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return f"{', '.join(items[:_NAMED])}{more}"
