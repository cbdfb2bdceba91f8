"""This tree beside an earlier commit, in turns: ``python -m bench.before COMMIT``.

Both services run all the time and are asked one after the other, so that a machine that drifts bends neither. Ratios
are taken within a round; their median and range are printed. Above 1.00 this tree is the better one.
"""

import argparse
import contextlib
import statistics
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import photos
from bench.client import closed_loop
from bench.machine import machine
from bench.scenarios import newest_int8, service
from bench.servers import ROOT, cpu_s, interpreter, resident_mb, running


@contextlib.contextmanager
def checkout(commit: str):
    """A folder with the tree of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to compare with; its service runs with the packages of this tree")
    parser.add_argument("--model", type=Path, help="ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="per service and level of concurrency")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    print(f"on {machine()}")
    data = photos.read(options.photos)
    new = service((options.model or newest_int8()).resolve())
    interpreter(new.lock)
    ratios: dict[str, list[float]] = {}
    with (
        checkout(options.commit) as folder,
        running(new, data[0]) as (here, here_pid, _),
        running(replace(new, folder=folder), data[0]) as (there, there_pid, _),
    ):
        for url in (here, there):
            closed_loop(url, "/predict", data, 4, 2)
        for number in range(options.rounds):
            for level in options.levels:
                found = {}
                # Who comes first changes, too.
                for url, pid in ((here, here_pid), (there, there_pid))[:: 1 if number % 2 else -1]:
                    before = cpu_s(pid)
                    load = closed_loop(url, "/predict", data, level, options.seconds)
                    used = (cpu_s(pid) - before) / max(1.0, load.rps * options.seconds)
                    found[url] = {"requests a second": load.rps, "p50": 1 / load.p50, "CPU a request": 1 / used}
                for what, value in found[here].items():
                    ratios.setdefault(f"{what}, {level} at once", []).append(value / found[there][what])
        ratios["memory under load"] = [resident_mb(there_pid) / resident_mb(here_pid)]
    print(f"{'this tree against ' + options.commit[:12]:32} median   from    to")
    for what, values in ratios.items():
        print(f"{what:32} {statistics.median(values):6.3f} {min(values):6.3f} {max(values):6.3f}")


if __name__ == "__main__":
    main()
