"""The pictures in a folder and its sub-folders, without what cameras, archives and systems leave beside them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.inference.formats import SUFFIXES, looks_like_picture
from model_build.errors import InputError

#: Names, in small letters, that systems give to files and folders of their own; so are all that begin with a dot.
_OF_SYSTEMS: Final = frozenset(
    {
        "@eadir",
        "#recycle",
        "__macosx",
        "$recycle.bin",
        "lost+found",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
#: Bytes that tell whether a file begins as a picture.
_BEGINNING: Final = 32
#: Endings of files that may say what pictures show.
_TABLES: Final = (".csv", ".tsv", ".jsonl")
#: Names in one line about what is left out.
_NAMED: Final = 3


@dataclass(slots=True)
class LeftOut:
    """What is not used, by the reason.

    Attributes:
        names: for each reason the names of files or folders, or of several that it is about together.
    """

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Remembers one more."""
        self.names.setdefault(reason, []).append(name)

    def lines(self) -> list[str]:
        """A line for each reason: how many, and the first of their names."""
        return lines(self.names)


def lines(names_by_reason: Mapping[str, Sequence[str]]) -> list[str]:
    """What is left out, for people: a line for each reason, with how many there are, and the first of their names."""
    return [
        f"{'; '.join(names[:_NAMED])}"
        f"{f' and {len(names) - _NAMED} more ({len(names)} in all)' if len(names) > _NAMED else ''}: {reason}"
        for reason, names in names_by_reason.items()
    ]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on disk.

    Attributes:
        path: where it is.
        pictures: the pictures in it itself, by name.
        folders: its sub-folders, by name.
        tables: the files in it itself that may say what pictures show, by name.
    """

    path: Path
    pictures: list[Path]
    folders: list["Folder"]
    tables: list[Path]

    def everything(self) -> Iterator["Folder"]:
        """Itself and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.everything()

    def all_pictures(self) -> list[Path]:
        """The pictures in it and in its sub-folders, by name."""
        return sorted(path for folder in self.everything() for path in folder.pictures)

    def filled(self) -> list["Folder"]:
        """Its sub-folders in which, or below which, there are pictures."""
        return [folder for folder in self.folders if any(inner.pictures for inner in folder.everything())]


def scan(root: Path) -> tuple[Folder, LeftOut]:
    """Finds all pictures: files that are named like one, and files that begin like one whatever they are called.

    Links are followed, each folder once, however many lead to it.

    Args:
        root: a folder.

    Returns:
        The folder, and what in it is no picture; relative to ``root``.

    Raises:
        InputError: the folder cannot be read.
    """
    left_out = LeftOut()
    links: list[tuple[Path, list[Folder]]] = []
    seen: set[tuple[int, int]] = set()
    try:
        if not root.is_dir():
            raise NotADirectoryError(f"{root} is not a folder")
        found = _scan(root, root, seen, links, left_out)
        # Folders first: what lies inside keeps its own name.
        while links:
            link, beside = links.pop(0)
            if _identity(link) in seen:
                left_out.add(f"{link.relative_to(root)}/", "a link to a folder that is used already")
            else:
                beside.append(_scan(link, root, seen, links, left_out))
                beside.sort(key=lambda folder: folder.path)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from error
    return found, left_out


def _scan(
    path: Path, root: Path, seen: set[tuple[int, int]], links: list[tuple[Path, list[Folder]]], left_out: LeftOut
) -> Folder:
    seen.add(_identity(path))
    folder = Folder(path, [], [], [])
    for entry in sorted(path.iterdir()):
        name = str(entry.relative_to(root))
        if entry.name.startswith(".") or entry.name.casefold() in _OF_SYSTEMS:
            files = sum(len(inside) for _, _, inside in os.walk(entry)) if entry.is_dir() else 0
            which = f"{name}/ ({files} files)" if entry.is_dir() else name
            left_out.add(which, "hidden, or of a system, an archive or a NAS")
        elif entry.is_symlink() and entry.is_dir():
            links.append((entry, folder.folders))
        elif entry.is_dir() and not (entry.suffix.lower() in SUFFIXES and not any(entry.iterdir())):
            folder.folders.append(_scan(entry, root, seen, links, left_out))
        elif entry.suffix.lower() in SUFFIXES or _begins_as_picture(entry):
            folder.pictures.append(entry)
        elif entry.suffix.lower() in _TABLES:
            folder.tables.append(entry)
        else:
            left_out.add(name, "no picture")
    return folder


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _begins_as_picture(path: Path) -> bool:
    # Only files: opening a named pipe waits for somebody who writes.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return looks_like_picture(file.read(_BEGINNING))
    except OSError:
        return False
