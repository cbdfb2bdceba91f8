"""A new model is tried in a child process first: loaded, and given its golden photo, with little memory and time.

Creating a session holds Python's interpreter lock, so a model that takes long to load would stop all that this process
does, and one that takes all memory would end it. The child (this module, run by ``python -m``) gets the file's
bytes on its standard input, none of the settings and no secrets, and answers with one line of JSON.

It bounds what a model costs. It is no fence against a flaw in ONNX Runtime: what has passed is loaded here too.
"""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from ..errors import ModelError
from ..runtime.children import environment
from ..runtime.memory import free_bytes

#: Seconds from the child's start to its answer. It takes 0.4 on a server's CPU and ten times that on the slowest board.
PATIENCE_S: Final = 15.0
#: Memory that a model may take beside the interpreter: as much as this and a multiple of its file, but no more than is
#: free. The bundled model takes 3.5 times its file; ONNX Runtime copies and repacks weights.
_SPARE_BYTES: Final = 128_000_000
_TIMES_FILE: Final = 8
#: What it may take in any case, as it did when it was built; and what the child needs itself of what is free.
_LEAST_SPARE_BYTES: Final = 12_000_000
_LEAST_TIMES_FILE: Final = 4
_CHILD_BYTES: Final = 32_000_000
_NO_MEMORY: Final = "it needs more memory than there is for it"
#: Bytes of the child's answer.
_MOST_ANSWER: Final = 20_000


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a model that passed.

    Attributes:
        name: what it is called.
        precision: ``fp32`` or ``int8``.
        load_s: CPU seconds that creating its session took, with one thread.
    """

    name: str
    precision: str
    load_s: float


class Trials:
    """Tries models, each in a child process of its own."""

    def __init__(self, pixels: int) -> None:
        """Starts nothing yet.

        Args:
            pixels: the most that a golden photo may have.
        """
        self._pixels = pixels
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, data: bytes) -> Findings:
        """Tries one model; blocks, for 15 s at most.

        Args:
            data: a model file's bytes.

        Raises:
            ModelError: it cannot be loaded, does not know its golden photo, or needs too much memory or time.
        """
        memory = _memory(len(data), free_bytes())
        command = [
            sys.executable,
            "-s",
            "-P",
            "-m",
            # Installed, the package has another name.
            __name__,
            str(self._pixels),
            str(memory),
            str(PATIENCE_S),
        ]
        started = monotonic()
        try:
            child = self._start(command)
        except OSError as error:
            raise ModelError(f"it cannot be tried, because no process can be started: {error}") from error
        guard = threading.Timer(PATIENCE_S, child.kill)
        guard.daemon = True
        guard.start()
        try:
            with child:
                assert child.stdin is not None  # noqa: S101 - for the type checker
                assert child.stdout is not None  # noqa: S101
                # It reads all before it answers; where it has ended already, that is told below.
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(data)
                    child.stdin.close()
                answer = child.stdout.read(_MOST_ANSWER)
                child.stdout.close()
                child.wait()
        finally:
            guard.cancel()
            with self._lock:
                self._running.discard(child)
        if self._closed:
            raise ModelError("the service is shutting down")
        if monotonic() - started >= PATIENCE_S or child.returncode in (-signal.SIGALRM, -signal.SIGXCPU):
            raise ModelError(f"loading it and classifying its golden photo took more than {PATIENCE_S:g} s")
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            raise ModelError(
                f"the process that tried it was ended by {name}; it had {memory / 1e6:.0f} MB of memory for it"
            )
        return _findings(answer)

    def close(self) -> None:
        """Ends what is running, and lets nothing more begin; may be called from any thread."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ModelError("the service is shutting down")
            child = subprocess.Popen(  # noqa: S603 - this interpreter and this module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
            )
            self._running.add(child)
            return child


def _memory(size: int, free: int | None) -> int:
    """Bytes that a model in a file of ``size`` bytes may take, where ``free`` ones are free."""
    most = _SPARE_BYTES + _TIMES_FILE * size
    if free is None:
        return most
    return min(most, max(free - _CHILD_BYTES, _LEAST_SPARE_BYTES + _LEAST_TIMES_FILE * size))


def _findings(answer: bytes) -> Findings:
    try:
        found = json.loads(answer)
        reason = found.get("reason")
        if reason is None:
            return Findings(str(found["name"]), str(found["precision"]), float(found["load_s"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError("the process that tried it ended without an answer") from error
    raise ModelError(str(reason))


def _limit(memory: int, seconds: float) -> None:
    """Bounds what this process may take, beside what it has taken already."""
    import resource

    # It outlives its parent by this much at most, also while it holds the interpreter's lock.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # If the group runs out of memory all the same, then this is whom the kernel should choose.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CPU: round(seconds) + 1}
    with contextlib.suppress(OSError, IndexError, ValueError):
        # proc(5): the sixth is data and stack, in pages, which is what the kernel compares.
        taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        limits[resource.RLIMIT_DATA] = taken + memory
    for limit, value in limits.items():
        # Where a system call filter forbids it, the parent's patience and the group's memory are left.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


def _try(data: bytes, pixels: int) -> dict[str, object]:
    """Loads a model and classifies its golden photo: what the parent is told."""
    from time import thread_time

    from ..inference.classifier import Classifier
    from ..inference.decode_budget import DecodeBudget
    from ..inference.model import Model

    try:
        started = thread_time()
        model = Model(Path("the file"), data=data)
        load_s = thread_time() - started
        Classifier(model, DecodeBudget(pixels)).check_golden()
    except MemoryError:
        return {"reason": _NO_MEMORY}
    except ModelError as error:
        reason = str(error)
        # ONNX Runtime's words, and C++'s own.
        if any(words in reason for words in ("bad_alloc", "bad allocation", "Failed to allocate memory")):
            return {"reason": _NO_MEMORY}
        return {"reason": reason.removeprefix("the file cannot be served: ").replace("the file is", "it is", 1)}
    return {"name": model.contract.name, "precision": model.contract.precision, "load_s": load_s}


def main() -> None:
    """The child: limits itself, reads the model, tries it and says what it found."""
    gc.disable()
    pixels, memory, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # Before the limit, which is beside what these take.
    from ..inference import classifier  # noqa: F401

    data = sys.stdin.buffer.read()
    _limit(memory, seconds)
    print(json.dumps(_try(data, pixels)), flush=True)
    # Nothing here needs to be taken down in order.
    os._exit(0)


if __name__ == "__main__":
    main()
