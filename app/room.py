"""How large photos may be: pixels of one, and memory of all that are decoded at the same time."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from app.cpus import cgroup_limit
from app.errors import TooManyPixels


class Room:
    """What decoding may take; one for all threads that decode."""

    def __init__(self, pixels: int, memory: int = sys.maxsize) -> None:
        """Room for photos.

        Args:
            pixels: the most that a photo's header may announce.
            memory: bytes for all photos that are decoded at once.
        """
        self.pixels = pixels
        self.memory = memory
        self._used = 0
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def take(self, needed: int, what: str) -> Iterator[None]:
        """Waits until there are ``needed`` bytes, first come first served, and keeps them for the block.

        Args:
            needed: bytes that decoding takes at its peak.
            what: the photo, for the message.

        Raises:
            TooManyPixels: there are never so many.
        """
        if needed > self.memory:
            raise TooManyPixels(
                f"Decoding {what} takes about {needed / 1e6:.0f} MB of memory, and this service has "
                f"{self.memory / 1e6:.0f} MB for it. Send a smaller picture or a baseline JPEG, which is decoded at a "
                "reduced size; or give the service more (CLASSIFIER_MAX_DECODE_BYTES)."
            )
        # Whoever waits holds the turn: a large photo is not overtaken by small ones for ever.
        with self._turn, self._freed:
            while self._used + needed > self.memory:
                self._freed.wait()
            self._used += needed
        try:
            yield
        finally:
            with self._freed:
                self._used -= needed
                self._freed.notify_all()


def free_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that this process may still take: of its cgroup's limit or of the machine's; None where neither is known.

    Sources: cgroup v2 ``memory.max``, cgroup v1 ``memory.limit_in_bytes``, ``MemAvailable`` and ``VmRSS`` of proc(5).
    """
    found = []
    limit = cgroup_limit(proc, cgroups, "memory", _reader("memory.max"), _reader("memory.limit_in_bytes"))
    if limit is not None:
        found.append(int(limit) - (_kilobytes(proc / "self" / "status", "VmRSS") or 0))
    available = _kilobytes(proc / "meminfo", "MemAvailable")
    if available is not None:
        found.append(available)
    return min(found, default=None)


def _reader(name: str) -> Callable[[Path], float | None]:
    def read(directory: Path) -> float | None:
        try:
            return float((directory / name).read_text())
        except (OSError, ValueError):
            return None

    return read


def _kilobytes(path: Path, name: str) -> int | None:
    """A line ``name: N kB``, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
