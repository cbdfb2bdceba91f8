"""The photos that a command line names."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..inference.formats import SUFFIXES

#: Stands for standard input.
STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class Photo:
    """One file as it was when it was found; another size or time of change makes it another photo.

    Attributes:
        path: as the command line leads to it.
        size: in bytes.
        mtime_ns: when it was last changed, in nanoseconds since 1970.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it cannot be read.
        """
        return sys.stdin.buffer.read() if self.path == STDIN else Path(self.path).read_bytes()


def find(named: Iterable[str]) -> list[Photo]:
    """Files as they are named, and all photos in folders and their sub-folders, by name; each once.

    Raises:
        OSError: a file or folder does not exist or cannot be looked into.
    """
    return list(dict.fromkeys(photo for name in named for photo in _below(name)))


def _below(name: str) -> Iterator[Photo]:
    if name == STDIN:
        yield Photo(STDIN)
        return
    if not Path(name).is_dir():
        yield _photo(name)
        return
    for folder, folders, files in os.walk(name, onerror=_give_up):
        folders.sort()
        for file in sorted(files):
            if Path(file).suffix.lower() in SUFFIXES:
                yield _photo(os.path.join(folder, file))  # noqa: PTH118 - keeps the path as it was named


def _photo(path: str) -> Photo:
    found = os.stat(path)  # noqa: PTH116 - a Path would tidy it
    return Photo(path, found.st_size, found.st_mtime_ns)


def _give_up(error: OSError) -> None:
    raise error
