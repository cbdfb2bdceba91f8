"""Tells when something changes in a directory, without looking: Linux's inotify, read by the event loop.

docs/architecture.md says why no library does it.
"""

import asyncio
import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Linux uapi/linux/inotify.h. A file that has been written is IN_CLOSE_WRITE, a rename IN_MOVED_TO; links and
#: directories only are IN_CREATE, which a file that has yet to be written is too.
_CLOSE_WRITE: Final = 0x8
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_MOVE_SELF: Final = 0x800
#: Permissions too: what could not be read may be readable now.
_ATTRIBUTES: Final = 0x4
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x01000000
_MASK: Final = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _MOVE_SELF | _ATTRIBUTES | _ONLYDIR
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK | IN_CLOEXEC have the same values
#: struct inotify_event: watch, mask, cookie, length of the name that follows.
_EVENT: Final = struct.Struct("iIII")


class DirectoryWatcher:
    """Calls back, on the event loop, a moment after the last of a row of changes."""

    def __init__(self, changed: Callable[[], object], settle_s: float = 0.05) -> None:
        """Starts.

        Args:
            changed: what to call.
            settle_s: seconds without a change before it is called: one delivery is often several changes.

        Raises:
            OSError: this system has no inotify, or no more of it to give.
        """
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._check(self._libc.inotify_init1(_FLAGS))
        self._changed = changed
        self._settle_s = settle_s
        self._paths: dict[int, Path] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)
        self._mounts = _Mounts()
        self._loop.add_reader(self._mounts.fileno(), self._mounted)

    def set_paths(self, directories: set[Path]) -> bool:
        """Watches these and nothing else; instead of one that cannot be watched the nearest above it that can.

        Returns:
            Whether something is watched that was not before: what changed in it until now was not told.
        """
        before, self._paths = self._paths, {}
        for directory in directories:
            for path in (directory, *directory.parents):
                with contextlib.suppress(OSError):
                    # A directory that is watched already gives the same number; another one at its place a new one.
                    watch = self._check(self._libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK))
                    self._paths[watch] = path
                    break
        for watch in before.keys() - self._paths.keys():
            self._libc.inotify_rm_watch(self._fd, watch)
        return not self._paths.keys() <= before.keys()

    def close(self) -> None:
        """Stops; the call that is due is dropped."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._loop.remove_reader(self._mounts.fileno())
        self._mounts.close()
        if self._timer is not None:
            self._timer.cancel()

    def _read(self) -> None:
        data = os.read(self._fd, 65536)
        at = 0
        relevant = False
        while at < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + size].rstrip(b"\0"))
            at += size
            directory = self._paths.get(watch)
            if directory is None:
                # It changed before it was given up, perhaps because of that: a folder that was exchanged for another
                # of its name. Or -1: there were more changes than the kernel keeps.
                relevant |= not mask & _IGNORED
            elif mask & _IGNORED:
                del self._paths[watch]
                relevant = True
            else:
                relevant |= not mask & _CREATE or (directory / name).is_symlink() or (directory / name).is_dir()
        if relevant:
            self._soon()

    def _mounted(self) -> None:
        self._mounts.read()
        self._soon()

    def _soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._settle_s, self._changed)

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class _Mounts:
    """Readable when something was mounted or unmounted, of which the directories below it tell nothing.

    proc(5): /proc/PID/mounts has an exceptional condition then. It is always readable too, so that an event loop cannot
    wait for it; an epoll instance that waits for the condition alone stands between.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._table = os.open("/proc/self/mounts", os.O_RDONLY | os.O_CLOEXEC)
        self._poll.register(self._table, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._poll.fileno()

    def read(self) -> None:
        self._poll.poll(0)

    def close(self) -> None:
        self._poll.close()
        os.close(self._table)


def directories_of(path: Path) -> set[Path]:
    """The directories in which a change can make ``path`` another file: of each link on the way to it, and its own.

    Kubernetes exchanges a volume by renaming a link, ``..data``, that the file's own link goes through; others exchange
    a link to a whole directory. Where a part is missing, the directory in which it would appear is the last one.
    """
    found: set[Path] = set()
    rest = list(path.absolute().parts)
    here = Path(rest.pop(0))
    hops = 0
    while rest:
        here, part = (here.parent if rest[0] == ".." else here / rest[0]), rest.pop(0)
        if part == "..":
            continue
        if here.is_symlink() and hops < 40:
            hops += 1
            found.add(here.parent)
            target = here.readlink()
            rest = [*target.parts, *rest]
            here = Path(rest.pop(0)) if target.is_absolute() else here.parent
        elif not here.exists():
            found.add(here.parent)
            break
    return found | {here if here.is_dir() else here.parent}
