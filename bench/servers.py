"""The servers that are compared: their environments, how each is started, and what it uses."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
