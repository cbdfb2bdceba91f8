"""Files: whether what lies at a path is still what lay there."""

from pathlib import Path


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """What differs once the file at ``path`` was written to, replaced, removed or closed to us; follows links.

    Returns:
        Numbers to compare with an earlier stamp, the last of them ``st_mtime_ns``; None: there is none, or it cannot be
        reached.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns
