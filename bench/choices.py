"""What was chosen, beside what was not: ``python -m bench.choices {processes,workers,arena,session}``.

Prints ratios to what was chosen; above 1 the other choice has more.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from app.inference.model import INPUT, SCORES, Model
from app.runtime.memory import tune_malloc
from bench import photos
from bench.client import closed_loop
from bench.compare import ROOT, resident_mb, running
from bench.scenarios import newest_int8, peak, service

#: Prints the resident MB and the CPU ms of one picture, after batches of all sizes. Arguments: model, arena (0 or 1).
_ARENA = """
import json, sys, time
import numpy as np, onnxruntime as ort
from app.runtime.memory import tune_malloc
tune_malloc(None)
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = sys.argv[2] == "1"
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name, (_, height, width, _) = session.get_inputs()[0].name, session.get_inputs()[0].shape
pixels = np.zeros((16, height, width, 3), np.uint8)
for size in [*range(1, 17), *range(16, 0, -1)]:
    session.run(["scores"], {name: pixels[:size]})
started = time.process_time()
for _ in range(200):
    session.run(["scores"], {name: pixels[:1]})
taken = (time.process_time() - started) / 200 * 1e3
status = open("/proc/self/status").read()
print(json.dumps([int(status.split("VmRSS:")[1].split()[0]) / 1e3, taken]))
"""


def processes(model: Path, data: list[bytes], rounds: int) -> None:
    """Two processes of one worker each, each with half of the connections, instead of one process of two workers."""
    figures = []
    for _ in range(rounds):
        with running(service(model), data[0]) as (url, pid, _):
            one, one_mb = peak(url, data).rps, resident_mb(pid)
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(running(service(model, workers="1"), data[0])) for _ in range(2)]
            with ThreadPoolExecutor() as pool:
                halves = [pool.submit(closed_loop, url, "/predict", data, 8, 6) for url, _, _ in both]
            two, two_mb = sum(half.result().rps for half in halves), sum(resident_mb(pid) for _, pid, _ in both)
            figures.append((two / one, two_mb / one_mb))
    rps, memory = (statistics.median(values) for values in zip(*figures, strict=True))
    print(f"two processes / one: throughput {rps:.2f}, resident memory under load {memory:.2f}")


def workers(model: Path, data: list[bytes], rounds: int) -> None:
    """As many workers as a host of eight CPUs has, in a container that may use one of them."""
    cpus = os.sched_getaffinity(0)
    figures = []
    for _ in range(rounds):
        found = {}
        for count in ("0", "8"):
            # The client keeps all CPUs; the service is started from a process that has only one.
            os.sched_setaffinity(0, {min(cpus)})
            with running(service(model, workers=count), data[0]) as (url, pid, _):
                os.sched_setaffinity(0, cpus)
                load = peak(url, data)
                found[count] = (load.rps, load.p99, resident_mb(pid))
        figures.append([eight / one for eight, one in zip(found["8"], found["0"], strict=True)])
    rps, p99, memory = (statistics.median(values) for values in zip(*figures, strict=True))
    print(f"eight workers / one on one CPU: throughput {rps:.2f}, p99 {p99:.2f}, resident memory {memory:.2f}")


def arena(model: Path, _: list[bytes], rounds: int) -> None:
    """ONNX Runtime's arena instead of malloc, after batches of 1 to 16 pictures."""
    figures = []
    for _ in range(rounds):
        with_arena, without = (
            json.loads(subprocess.check_output([sys.executable, "-c", _ARENA, str(model), on], cwd=ROOT, text=True))
            for on in ("1", "0")
        )
        figures.append((with_arena[0] - without[0], with_arena[1] / without[1]))
    more, cpu = (statistics.median(values) for values in zip(*figures, strict=True))
    print(f"with the arena: {more:+.0f} MB resident, {cpu:.2f} x the CPU time of one picture")


def session(model: Path, data: list[bytes], rounds: int) -> None:
    """ONNX Runtime's session with other options, and one for each of two threads instead of a shared one."""
    tune_malloc(None)
    pixels = load(data[0], Model(model).contract.resize, DecodeBudget(10**9))[np.newaxis]

    def made(change: Callable[[ort.SessionOptions], object] = lambda _: None) -> Callable[[], object]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        change(options)
        loaded = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: loaded.run([SCORES], {INPUT: pixels})

    chosen = made()
    ways = {
        "the same once more": made(),
        "batch fixed to 1": made(lambda o: o.add_free_dimension_override_by_name("batch", 1)),
        "denormals as zero": made(lambda o: o.add_session_config_entry("session.set_denormal_as_zero", "1")),
        "the arena": made(lambda o: setattr(o, "enable_cpu_mem_arena", True)),
        "no memory pattern": made(lambda o: setattr(o, "enable_mem_pattern", False)),
    }
    for way in (chosen, *ways.values()):
        way()
    ratios: dict[str, list[float]] = {name: [] for name in [*ways, "a session for each of two threads"]}
    for _ in range(rounds):
        for name, way in ways.items():
            # In turns, so that what a machine does meanwhile bends neither.
            pairs = [(_seconds(chosen), _seconds(way)) for _ in range(100)]
            ratios[name].append(statistics.median(first / second for first, second in pairs))
        own = _together([chosen, ways["the same once more"]])
        ratios["a session for each of two threads"].append(own / _together([chosen, chosen]))
    for name, values in ratios.items():
        median, least, most = statistics.median(values), min(values), max(values)
        print(f"{name}: {median:.3f} x the pictures a second ({least:.3f} to {most:.3f})")


def _seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _together(ways: list[Callable[[], object]], count: int = 100) -> float:
    """Pictures a second of threads that run at the same time."""
    with ThreadPoolExecutor(len(ways)) as pool:
        started = time.perf_counter()
        list(pool.map(lambda way: [way() for _ in range(count)], ways))
    return len(ways) * count / (time.perf_counter() - started)


def main() -> None:
    """Runs one."""
    choices = {"processes": processes, "workers": workers, "arena": arena, "session": session}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choice", choices=choices)
    parser.add_argument("--model", type=Path, help="ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = (options.model or newest_int8()).resolve()
    choices[options.choice](model, photos.read(options.photos), options.rounds)


if __name__ == "__main__":
    main()
