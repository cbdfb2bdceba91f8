"""Which precision of a model is faster on this CPU: measured once, and remembered where there is a place for it."""

import contextlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import onnxruntime

from ..inference.model import Model
from ..inference.speed import cpu_seconds
from ..runtime.kernels import CPUINFO, cpu_identity

log = logging.getLogger(__name__)

#: Seconds that measuring may take of a start; one round is always done.
WITHIN_S: Final = 0.3
_FILE: Final = "precision.json"
#: Comparisons that are remembered, the newest ones, and the most bytes of the file that they are read from.
_REMEMBERED: Final = 32
_MOST_BYTES: Final = 65_536

#: Seconds of CPU time for a picture, by precision.
Times = dict[str, float]


def measure(models: Sequence[Model]) -> Times:
    """The times of a model's files, to the microsecond; they are loaded for one thread."""
    times = (round(seconds, 6) for seconds in cpu_seconds(models, WITHIN_S))
    return dict(zip((m.contract.precision for m in models), times, strict=True))


def faster(times: Times) -> str:
    """The precision that takes the least time; where two take the same, the one that is not int8."""
    return min(times, key=lambda precision: (times[precision], precision == "int8"))


def said(times: Times) -> str:
    """The times for people."""
    return ", ".join(f"{precision} took {seconds * 1e3:.1f} ms" for precision, seconds in times.items())


class Memory:
    """A file that remembers which times were measured for which models on which CPU.

    Nothing depends on it: where it cannot be read or written, or has something else in it, it is measured again.
    """

    def __init__(self, folder: Path | None, cpuinfo: Path = CPUINFO) -> None:
        """Reads nothing yet.

        Args:
            folder: where it lies, or is made; None: nothing is remembered.
            cpuinfo: the kernel's list of CPUs.
        """
        self._path = None if folder is None else folder / _FILE
        self._cpu = cpu_identity(cpuinfo)

    def recall(self, digests: Iterable[bytes], precisions: Iterable[str]) -> Times | None:
        """The times of these files on this CPU with this ONNX Runtime; None: they have to be measured.

        Args:
            digests: of the files.
            precisions: that there are to choose from.
        """
        times = self._read().get(self._key(digests))
        if not isinstance(times, dict) or set(times) != set(precisions):
            return None
        if not all(type(seconds) is float and math.isfinite(seconds) and seconds > 0 for seconds in times.values()):
            return None
        return times

    def remember(self, digests: Iterable[bytes], times: Times) -> None:
        """Writes them down for the next start, if it can."""
        if self._path is None or not self._cpu:
            return
        known = self._read()
        key = self._key(digests)
        known.pop(key, None)
        kept = dict([*known.items(), (key, times)][-_REMEMBERED:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=f".{_FILE}.", delete=False) as file:
                partial = Path(file.name)
                try:
                    file.write(json.dumps(kept, indent=1))
                    file.close()
                    partial.replace(self._path)
                except OSError:
                    with contextlib.suppress(OSError):
                        partial.unlink()
                    raise
        except OSError as error:
            log.debug("the faster precision cannot be remembered in %s: %s", self._path, error)

    def _key(self, digests: Iterable[bytes]) -> str:
        """What the times depend on."""
        parts = [self._cpu, onnxruntime.__version__, *sorted(digest.hex() for digest in digests)]
        return sha256(" ".join(parts).encode()).hexdigest()

    def _read(self) -> dict[str, object]:
        if self._path is None or not self._cpu:
            return {}
        try:
            # A pipe or a device in its place would be waited for.
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                found = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
