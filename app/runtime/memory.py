"""Memory: how much this process may still take, and an allocator that does not hold on to what it has.

The allocator is glibc's (malloc_trim(3), mallopt(3)); with another C library nothing happens.
"""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .cpus import cgroup_limit

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def trim_heap() -> None:
    """Loading and dropping a model frees several times its weights, which the allocator keeps."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def tune_malloc(free: int | None) -> None:
    """Lets large blocks be given back as soon as they are freed.

    By default what counts as large grows with what was freed, up to 32 MB, and every thread has an arena of its own;
    after one photo of many pixels, all that follow leave gaps. In a control group of 128 MiB, 100 pictures of 1 to 50
    megapixels at once killed the service without this.

    Args:
        free: bytes of memory that may still be taken; None: nobody knows. Where they are few, smaller blocks count as
            large. A limit below the largest intermediate result of a model (5 MB for 224 pixels in fp32) costs time.
    """
    large = 8 << 20 if free is None else min(8 << 20, max(2 << 20, free // 16))
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, large)
        libc.mallopt(_M_TRIM_THRESHOLD, large)
        libc.mallopt(_M_ARENA_MAX, 2)


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
