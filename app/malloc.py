"""The C library's allocator, kept from holding on to what photos and models have left behind.

glibc only (malloc_trim(3), mallopt(3)); with another C library nothing happens.
"""

import contextlib
import ctypes
from typing import Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def give_back_freed_memory() -> None:
    """Loading and dropping a model frees several times its weights, which the allocator keeps."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_little(free: int | None) -> None:
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
