"""The photos to learn from: a folder for each class, which the command line's ``teach`` takes as it is.

::

    photos/<class>/<hash>.jpg    what a model learns from
    removed/<class>/<hash>.jpg   what was taken away, until it is older than the days allow, or room is needed
    lately/<camera>/<hash>.jpg   what came in and was kept to be looked at, see ``lately``; what was said is beside it
    thumbnails/<id>.jpg

A file that this service writes is called after its content. Files under other names, which somebody put there by hand,
are taken as they are. No name of a file comes from a client: a photo is asked for by its id, which is looked up.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

from ..errors import Conflict, NotThere, StorageFull, quoted
from ..inference.formats import SUFFIXES
from .names import class_name, key

#: The most classes and photos; a page has to show them, and ``teach`` to hold their features.
MOST_CLASSES: Final = 200
MOST_PHOTOS: Final = 20_000
_PARTIAL: Final = ".partial-"
#: A folder that was changed less than so long before it was read is read again: its time may not tell.
_GRAIN_NS: Final = 2_000_000_000
REMOVED: Final = "removed"
LATELY: Final = "lately"
Place = Literal["photos", "removed", "lately"]


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo.

    Attributes:
        id: what clients call it, wherever it is moved to.
        path: where it is.
        place: ``photos``, ``removed`` or ``lately``.
        label: its class, or the one that it was removed from; "" where it has none.
        size: in bytes.
        since: seconds since the epoch at which it came where it is.
    """

    id: str
    path: Path
    place: Place
    label: str
    size: int
    since: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A photo that was moved, and the class that it was in before; None: it had been removed, or had none."""

    id: str
    before: str | None


@dataclass(slots=True)
class _Listing:
    """What was in a folder, read at ``read_ns``, when its time was ``mtime_ns``."""

    mtime_ns: int
    read_ns: int
    photos: list[Photo]


class Photos:
    """The photos of a folder; every method blocks, for as long as its disk does."""

    def __init__(self, root: Path, most_bytes: int, keep_s: float) -> None:
        """Makes the folder.

        Args:
            root: the folder.
            most_bytes: what all below it may take.
            keep_s: seconds for which removed photos, and those that came in, are kept.

        Raises:
            OSError: it cannot be made or written to.
        """
        self.root = root
        self.folder = root / "photos"
        self.most_bytes = most_bytes
        self.keep_s = keep_s
        self._lock = threading.RLock()
        self._listings: dict[Path, _Listing] = {}
        self._used: int | None = None
        self._indexed: list[list[Photo]] = []
        self._index_of_them: dict[str, Photo] = {}
        for name in ("photos", REMOVED, LATELY, "thumbnails", "runs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        # What a kill left half written.
        for left in root.glob(f"**/{_PARTIAL}*"):
            left.unlink()
        # Whether it can be written to is said now, not when somebody has taken twenty photos.
        probe = self.folder / ".writable"
        write(probe, b"")
        probe.unlink()

    # --- what there is

    def classes(self) -> dict[str, int]:
        """The number of photos by class, in the order of their names."""
        with self._lock:
            return {path.name: len(self._photos_in(path, "photos", path.name)) for path in self._folders(self.folder)}

    def of_class(self, name: str) -> list[Photo]:
        """A class's photos, the newest first.

        Raises:
            NotThere: there is no such class.
        """
        with self._lock:
            return self._newest(self._photos_in(self._class(name), "photos", name))

    def removed(self) -> list[Photo]:
        """What was removed, the latest first."""
        with self._lock:
            folders = self._folders(self.root / REMOVED)
            return self._newest(photo for path in folders for photo in self._photos_in(path, REMOVED, path.name))

    def lately(self) -> list[Photo]:
        """What came in, the latest first."""
        with self._lock:
            folders = self._folders(self.root / LATELY)
            return self._newest(photo for path in folders for photo in self._photos_in(path, LATELY, ""))

    @staticmethod
    def told(photo: Photo) -> dict[str, str]:
        """What was noted about a photo that came in: its camera, and why it was kept."""
        try:
            found = json.loads(_note(photo.path).read_bytes())
            return {key: str(found[key]) for key in ("camera", "said")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def get(self, id_: str) -> Photo:
        """The photo of an id.

        Raises:
            NotThere: there is none.
        """
        with self._lock:
            found = self._index().get(id_)
        if found is None:
            raise NotThere(
                f"There is no photo {quoted(id_)}; it was removed for good, or changed. Load the list again."
            )
        return found

    def ids(self) -> dict[tuple[str, str], str]:
        """The id of each photo in a class by its class and its file's name."""
        with self._lock:
            return {(p.label, p.path.name): p.id for p in self._index().values() if p.place == "photos"}

    def revision(self) -> str:
        """What is another text once a class or a photo was added, moved or removed."""
        with self._lock:
            roots = [self.folder, self.root / REMOVED, self.root / LATELY]
            folders = [*roots, *(one for root in roots for one in self._folders(root))]
            stamps = [f"{folder}\0{folder.stat().st_mtime_ns}" for folder in folders]
        return sha256("\0".join(stamps).encode(errors="surrogateescape")).hexdigest()[:16]

    def used_bytes(self) -> int:
        """What everything below the folder takes."""
        with self._lock:
            if self._used is None:
                self._used = sum(size for _, size in _walk(self.root))
            return self._used

    def forget_used(self) -> None:
        """Somebody else has written below the folder."""
        with self._lock:
            self._used = None

    # --- what can be done with it

    def add_class(self, name: str) -> str:
        """Makes a class; returns its name as it is written.

        Raises:
            InvalidParameter: it cannot be called so.
            Conflict: there is one of that name, or there are too many.
        """
        with self._lock:
            name = class_name(name)
            self._check_new(name)
            if len(self._folders(self.folder)) >= MOST_CLASSES:
                raise Conflict(f"There are {MOST_CLASSES} classes already, and no more are taken. Remove one first.")
            with _room():
                (self.folder / name).mkdir()
            return name

    def rename_class(self, name: str, to: str) -> str:
        """Gives a class another name; returns it as it is written.

        Raises:
            NotThere: there is no such class.
            InvalidParameter, Conflict: as ``add_class``.
        """
        with self._lock:
            found, to = self._class(name), class_name(to)
            self._check_new(to, but=name)
            found.rename(self.folder / to)
            self._listings.pop(found, None)
            return to

    def remove_class(self, name: str) -> list[Moved]:
        """Removes a class; its photos can be moved back.

        Raises:
            NotThere: there is no such class.
        """
        with self._lock:
            folder = self._class(name)
            moved = [
                Moved(photo.id, name) for photo in self._photos_in(folder, "photos", name) if self._take_away(photo)
            ]
            # What is left in it is no photo: it goes where the photos went.
            with _room():
                for left in folder.iterdir():
                    beside = self.root / REMOVED / name
                    beside.mkdir(exist_ok=True)
                    left.rename(_free(beside, left.name))
                folder.rmdir()
            self._listings.pop(folder, None)
            return moved

    def find(self, digest: str) -> Photo | None:
        """The photo in a class that has this content, if its file is called after it."""
        with self._lock:
            return next(
                (p for p in self._index().values() if p.path.stem == digest and p.place == "photos"),
                None,
            )

    def add(self, name: str, data: bytes, kind: str, thumbnail: bytes) -> tuple[Photo, bool]:
        """Adds a photo to a class, unless a class has it already.

        Args:
            name: the class's name.
            data: the photo, which can be decoded.
            kind: its format, by Pillow's name.
            thumbnail: a small JPEG of it.

        Returns:
            The photo, and whether it is new.

        Raises:
            NotThere: there is no such class.
            StorageFull: there is no room for it.
            Conflict: there are too many.
        """
        digest = digest_of(data)
        with self._lock:
            folder = self._class(name)
            if (known := self.find(digest)) is not None:
                return known, False
            if sum(self.classes().values()) >= MOST_PHOTOS:
                raise Conflict(f"There are {MOST_PHOTOS} photos already, and no more are taken. Remove some first.")
            path = folder / f"{digest}{suffix_of(kind)}"
            self._write(path, data)
            (photo,) = [p for p in self._photos_in(folder, "photos", name) if p.path == path]
            self.keep_thumbnail(photo, thumbnail)
            return photo, True

    def move(self, ids: Iterable[str], to: str | None) -> list[Moved]:
        """Moves photos into a class, or removes them.

        Args:
            ids: of the photos; one that is there already is left there.
            to: the class's name; None: they are removed.

        Returns:
            Those that were moved.

        Raises:
            NotThere: there is no such class, or no such photo; nothing was moved then.
        """
        with self._lock:
            folder = None if to is None else self._class(to)
            index = self._index()
            found = [index.get(id_) or self.get(id_) for id_ in dict.fromkeys(ids)]
            moved = []
            for photo in found:
                before = photo.label if photo.place == "photos" else None
                if folder is None:
                    if photo.place != REMOVED and self._take_away(photo):
                        moved.append(Moved(photo.id, before))
                elif photo.path.parent != folder:
                    with _room():
                        photo.path.rename(_free(folder, photo.path.name))
                    _note(photo.path).unlink(missing_ok=True)
                    self._changed(photo.path.parent, folder)
                    moved.append(Moved(photo.id, before))
            return moved

    def keep_lately(self, camera: str, data: bytes, kind: str, note: bytes, most: int) -> None:
        """Keeps a photo that came in, unless there is one like it.

        Args:
            camera: the name of its camera's folder.
            data: the photo.
            kind: its format, by Pillow's name.
            note: JSON, as ``told`` reads it.
            most: photos of all cameras; the oldest of the camera that has the most goes for it.

        Raises:
            StorageFull: there is no room for it.
        """
        digest = digest_of(data)
        with self._lock:
            folder = self.root / LATELY / camera
            path = folder / f"{digest}{suffix_of(kind)}"
            if path.exists() or self.find(digest) is not None:
                return
            with _room():
                folder.mkdir(exist_ok=True)
            self._write(_note(path), note)
            self._write(path, data)
            while len(found := self.lately()) > most:
                # Of cameras that have as many, the one whose photo is the oldest.
                cameras = Counter(photo.path.parent for photo in reversed(found))
                (crowded, _), *_ = cameras.most_common(1)
                self._delete([photo for photo in found if photo.path.parent == crowded][-1])

    def thumbnail(self, photo: Photo) -> bytes | None:
        """A small JPEG of a photo, if there is one."""
        try:
            return self._thumbnail(photo).read_bytes()
        except OSError:
            return None

    def keep_thumbnail(self, photo: Photo, data: bytes) -> None:
        """Keeps a photo's thumbnail; where there is no room for it, it is made again each time."""
        with self._lock, contextlib.suppress(StorageFull):
            self._write(self._thumbnail(photo), data)

    def expire(self) -> None:
        """Deletes what was removed, or came in, longer ago than it is kept."""
        with self._lock:
            before = time.time() - self.keep_s
            for photo in [*self.removed(), *self.lately()]:
                if photo.since < before:
                    self._delete(photo)

    # ---

    def _folders(self, root: Path) -> list[Path]:
        with os.scandir(root) as found:
            folders = [Path(entry.path) for entry in found if not entry.name.startswith(".") and entry.is_dir()]
        return sorted(folders, key=lambda path: key(path.name))

    def _class(self, name: str) -> Path:
        """A class's folder: looked for among those that are there, never joined."""
        for path in self._folders(self.folder):
            if path.name == name:
                return path
        raise NotThere(f"There is no class {quoted(name)} here. Load the list of classes again.")

    def _check_new(self, name: str, but: str | None = None) -> None:
        for path in self._folders(self.folder):
            if path.name != but and key(path.name) == key(name):
                raise Conflict(f"There is a class {quoted(path.name)} already. Choose another name.")

    def _photos_in(self, folder: Path, place: Place, label: str) -> list[Photo]:
        """The photos in a folder, read again if it has changed; the same list where they are the same."""
        stamp = folder.stat().st_mtime_ns
        known = self._listings.get(folder)
        if known is not None and known.mtime_ns == stamp and known.read_ns - stamp > _GRAIN_NS:
            return known.photos
        now = time.time_ns()
        with os.scandir(folder) as found:
            photos = [
                _photo(entry, place, label)
                for entry in found
                if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()
            ]
        if known is not None and known.photos == photos:
            photos = known.photos
        elif known is not None:
            self._used = None
        self._listings[folder] = _Listing(stamp, now, photos)
        return photos

    def _index(self) -> dict[str, Photo]:
        """All photos by their ids."""
        places: tuple[tuple[Path, Place], ...] = (
            (self.folder, "photos"),
            (self.root / REMOVED, "removed"),
            (self.root / LATELY, "lately"),
        )
        lists = [
            self._photos_in(path, place, "" if place == "lately" else path.name)
            for root, place in places
            for path in self._folders(root)
        ]
        if list(map(id, lists)) != list(map(id, self._indexed)):
            self._indexed = lists
            self._index_of_them = {}
            # The same file in two classes, with its time: the first one has the id.
            for photo in (photo for photos in lists for photo in photos):
                self._index_of_them.setdefault(photo.id, photo)
        return self._index_of_them

    @staticmethod
    def _newest(photos: Iterable[Photo]) -> list[Photo]:
        return sorted(photos, key=lambda photo: (-photo.since, photo.path.name))

    def _thumbnail(self, photo: Photo) -> Path:
        return self.root / "thumbnails" / f"{photo.id}.jpg"

    def _changed(self, *folders: Path) -> None:
        for folder in folders:
            self._listings.pop(folder, None)

    def _take_away(self, photo: Photo) -> bool:
        folder = self.root / REMOVED / (photo.label or "no class")
        with _room():
            folder.mkdir(exist_ok=True)
            photo.path.rename(_free(folder, photo.path.name))
        self._changed(photo.path.parent, folder)
        return True

    def _delete(self, photo: Photo) -> None:
        for path in (photo.path, self._thumbnail(photo), _note(photo.path)):
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                if self._used is not None:
                    self._used -= size
        self._changed(photo.path.parent)

    def _write(self, path: Path, data: bytes) -> None:
        """Writes a file whole or not at all, where the quota has room for it.

        Raises:
            StorageFull: it has none, or the disk has none.
        """
        # What nobody needs goes first, the oldest before.
        spare = [*self.lately(), *self.removed()]
        while self.used_bytes() + len(data) > self.most_bytes:
            if not spare:
                raise StorageFull(
                    f"The photos take the {self.most_bytes / 1e6:.0f} MB that they may (CLASSIFIER_TEACH_MAX_MB). "
                    "Remove some, or allow more."
                )
            self._delete(spare.pop())
        while True:
            try:
                with _room():
                    write(path, data)
                break
            except StorageFull:
                if not spare:
                    raise
                self._delete(spare.pop())
        self._changed(path.parent)
        if self._used is not None:
            self._used += len(data)


def _note(path: Path) -> Path:
    """Where it stands what was said about a photo that came in."""
    return path.with_suffix(".json")


def digest_of(data: bytes) -> str:
    """What a photo's file is called, without its ending."""
    return sha256(data).hexdigest()[:32]


def suffix_of(kind: str) -> str:
    """The ending of a photo's file, by Pillow's name for its format."""
    return {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}.get(kind, f".{kind.lower()}")


def write(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whatever ends this process.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Says plainly that a disk is full, read-only or away."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                "The disk with the photos to learn from is full; nothing was lost, and this was not kept. Make room on "
                "it."
            ) from error
        raise StorageFull(
            f"The folder with the photos to learn from cannot be written to ({error.strerror}); this was not kept."
        ) from error


def _free(folder: Path, name: str) -> Path:
    """A path in a folder that nothing has yet, as near to ``name`` as can be."""
    path = folder / name
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


def _photo(entry: os.DirEntry[str], place: Place, label: str) -> Photo:
    """What a file is called by clients differs between photos, and stays when one is moved."""
    stat = entry.stat()
    named = f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape")
    id_ = sha256(named).hexdigest()[:32]
    return Photo(id_, Path(entry.path), place, label, stat.st_size, stat.st_ctime)


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - twice as quick for thousands
            with contextlib.suppress(OSError):
                yield path, os.lstat(path).st_size


def free_bytes(root: Path) -> int:
    """What the disk has left."""
    return shutil.disk_usage(root).free
