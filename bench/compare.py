"""The service beside what people would use instead: the same photos, client, machine and run.

``python -m bench.compare --models models/`` starts each contender in turn, several rounds of them, and writes
``bench/results/compare.{md,json,svg}``. Figures are medians over the rounds; ratios are taken within a round, so that a
machine that drifts does not bend them.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import photos
from bench.client import closed_loop
from bench.photos import multipart

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent / "peers"
#: What is served with, not what is developed with: FastAPI imports more where more is installed.
OURS = ROOT / "requirements" / "runtime.txt"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Contender:
    """One server: the lock of its environment, its command and variables, and the folder that it is started in."""

    name: str
    lock: Path
    command: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT


def contenders(models: Path) -> list[Contender]:
    """Everybody, ours first."""
    (fp32,) = models.glob("*.fp32.onnx")
    (int8,) = models.glob("*.int8.onnx")
    tutorial, litserve, bentoml = (PEERS / f"{name}.txt" for name in ("tutorial", "litserve", "bentoml"))
    model = {"MODEL": str(fp32)}
    uvicorn = ("-m", "uvicorn", "--app-dir", str(PEERS), "tutorial:app", "--port", "{port}", "--log-level", "warning")
    lit = (str(PEERS / "lit.py"),)
    bento = ("-m", "bentoml", "serve", "--working-dir", str(PEERS), "bento:Classify", "--port", "{port}", "-q")
    return [
        Contender("ours, int8", OURS, ("-m", "app"), {"CLASSIFIER_MODEL": str(int8)}),
        Contender("ours, fp32", OURS, ("-m", "app"), {"CLASSIFIER_MODEL": str(fp32)}),
        Contender("tutorial FastAPI, async def, fp32", tutorial, uvicorn, {**model, "STYLE": "async"}),
        Contender("tutorial FastAPI, def, fp32", tutorial, uvicorn, {**model, "STYLE": "def"}),
        Contender("tutorial FastAPI, def, 2 workers, fp32", tutorial, (*uvicorn, "--workers", "2"), model),
        Contender("LitServe, batch 8, fp32", litserve, lit, {**model, "BATCH": "8"}),
        Contender("LitServe, 2 workers, fp32", litserve, lit, {**model, "WORKERS": "2"}),
        Contender("BentoML, fp32", bentoml, bento, model),
    ]


def interpreter(lock: Path) -> str:
    """The Python of an environment with what ``lock`` lists and nothing else, which is made on first use."""
    folder = RESULTS / "environments" / lock.stem
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {lock.stem}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", lock], check=True)
    return str(python)


@contextlib.contextmanager
def running(contender: Contender, warm: bytes) -> Iterator[tuple[str, int, float]]:
    """Starts a server; yields its address, process id and the seconds from start to its first 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        "CLASSIFIER_HOST": "127.0.0.1",
        "CLASSIFIER_PORT": str(port),
        "CLASSIFIER_DRAIN_SECONDS": "0",
        "PORT": str(port),
    }
    command = [interpreter(contender.lock), *(part.format(port=port) for part in contender.command)]
    environment = os.environ | own | contender.variables
    started = time.perf_counter()
    with Path(os.devnull).open("wb") as nowhere:
        process = subprocess.Popen(
            command, cwd=contender.folder, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not post(url, warm):
            if process.poll() is not None or time.perf_counter() - started > 60:
                raise SystemExit(f"{contender.name} did not start: {' '.join(command)}")
            time.sleep(0.01)
        yield url, process.pid, time.perf_counter() - started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(url: str, photo: bytes) -> bool:
    """Whether one photo is answered with 200."""
    kind, body = multipart(photo)
    request = urllib.request.Request(url + "/predict", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status == 200
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def resident_mb(pid: int) -> float:
    """Proportional resident memory of a process and its descendants: shared pages count once."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its descendants have used."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def measure(contender: Contender, data: list[bytes], levels: list[int], seconds: float) -> dict[str, float]:
    """One round of one contender."""
    found: dict[str, float] = {}
    with running(contender, data[0]) as (url, pid, start_s):
        found["start_s"] = start_s
        for photo in data[:10]:
            post(url, photo)
        found["idle_mb"] = resident_mb(pid)
        for level in levels:
            before = cpu_s(pid)
            load = closed_loop(url, "/predict", data, level, seconds)
            found[f"cpu_ms@{level}"] = (cpu_s(pid) - before) * 1e3 / max(1, load.rps * seconds)
            found |= {
                f"rps@{level}": load.rps,
                f"p50@{level}": load.p50,
                f"p95@{level}": load.p95,
                f"p99@{level}": load.p99,
            }
            found[f"errors@{level}"] = load.errors
            if level == 16:
                found["load_mb"] = resident_mb(pid)
    return found


def ceiling(model: str, folder: Path | None) -> dict[str, float]:
    """The in-process figures of our own code, in a process of its own."""
    command = [sys.executable, "-m", "bench.ceiling", model, *([str(folder)] if folder else [])]
    found: dict[str, float] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    """Runs the rounds and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder with one fp32 and one int8 file")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="per level of concurrency")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--only", default="", help="only contenders whose name contains this")
    options = parser.parse_args()
    data = photos.read(options.photos)
    chosen = [c for c in contenders(options.models.resolve()) if options.only in c.name]
    for contender in chosen:
        interpreter(contender.lock)
    rounds: dict[str, list[dict[str, float]]] = {c.name: [] for c in chosen}
    ceilings: dict[str, list[dict[str, float]]] = {"ours, int8": [], "ours, fp32": []}
    for number in range(options.rounds):
        for contender in chosen:
            print(f"round {number + 1}: {contender.name}", file=sys.stderr)
            rounds[contender.name].append(measure(contender, data, options.levels, options.seconds))
            if contender.name in ceilings:
                ceilings[contender.name].append(ceiling(contender.variables["CLASSIFIER_MODEL"], options.photos))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compare.json").write_text(json.dumps({"rounds": rounds, "ceilings": ceilings}, indent=1))
    text = report(rounds, ceilings, options.levels)
    (RESULTS / "compare.md").write_text(text)
    (RESULTS / "compare.svg").write_text(chart({name: middle(r, "rps@16") for name, r in rounds.items()}))
    print(text)


def middle(found: list[dict[str, float]], key: str) -> float:
    """The median over the rounds."""
    return statistics.median(one[key] for one in found)


def ratio(
    found: list[dict[str, float]], other: list[dict[str, float]], key: str, other_key: str | None = None
) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a[key] / b[other_key or key] for a, b in zip(found, other, strict=True))


def report(
    rounds: dict[str, list[dict[str, float]]], ceilings: dict[str, list[dict[str, float]]], levels: list[int]
) -> str:
    """The Markdown report; "x" columns are ours (int8) as a multiple of the row's, within a round."""
    ours = rounds.get("ours, int8") or next(iter(rounds.values()))
    head = [
        "server",
        *(f"rps c={n}" for n in levels),
        "ours x at c=16",
        "p50 c=1",
        "p99 c=16",
        "CPU ms c=16",
        "MB idle",
        "MB load",
        "start s",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, found in rounds.items():
        cells = [name, *(f"{middle(found, f'rps@{n}'):.0f}" for n in levels), f"{ratio(ours, found, 'rps@16'):.2f}"]
        cells += [
            f"{middle(found, 'p50@1'):.1f}",
            f"{middle(found, 'p99@16'):.0f}",
            f"{middle(found, 'cpu_ms@16'):.1f}",
        ]
        cells += [
            f"{middle(found, 'idle_mb'):.0f}",
            f"{middle(found, 'load_mb'):.0f}",
            f"{middle(found, 'start_s'):.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for name, inside in ceilings.items():
        if inside and name in rounds:
            http = rounds[name]
            lines += [
                f"- {name}: over HTTP (c=16) / in-process ceiling: {ratio(http, inside, 'rps@16', 'rps'):.2f} "
                f"({middle(inside, 'rps'):.0f}/s in process)",
                f"- {name}: p50 over HTTP (c=1) / one photo in process: {ratio(http, inside, 'p50@1', 'one_ms'):.2f} "
                f"(one thread), {ratio(http, inside, 'p50@1', 'alone_ms'):.2f} (all CPUs)",
                f"- {name}: one photo in process / plain pipeline with the same session: "
                f"{ratio(inside, inside, 'one_ms', 'plain_ms'):.2f}",
            ]
    errors = {
        name: sum(v for one in found for k, v in one.items() if k.startswith("errors"))
        for name, found in rounds.items()
    }
    lines += [f"- errors: {name}: {count:.0f}" for name, count in errors.items() if count]
    return "\n".join(lines) + "\n"


def chart(values: dict[str, float]) -> str:
    """Requests per second as bars (SVG)."""
    most, row, left, width = max(values.values()), 26, 270, 330
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{row * len(values) + 34}" '
        'font-family="sans-serif" font-size="13"><text x="8" y="18">photos per second over HTTP, 16 connections</text>'
    ]
    for i, (name, value) in enumerate(values.items()):
        y = 28 + i * row
        colour = "#2563eb" if name.startswith("ours") else "#94a3b8"
        parts.append(
            f'<text x="8" y="{y + 15}">{name}</text><rect x="{left}" y="{y}" width="{width * value / most:.0f}" '
            f'height="20" fill="{colour}"/>'
            f'<text x="{left + width * value / most + 6:.0f}" y="{y + 15}">{value:.0f}</text>'
        )
    return "".join(parts) + "</svg>\n"


if __name__ == "__main__":
    main()
