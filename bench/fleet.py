"""Two replicas behind nginx, and what an autoscaler does: ``python -m bench.fleet {rolling,check,step}``.

``rolling`` exchanges the replicas under load and ends with code 1 if a request fails; ``check`` compares the model of
a replica that ``step`` simulates with with two real ones; ``step`` prints what the HorizontalPodAutoscaler of
``k8s/overlays/cloud`` does when the load doubles several times at once.
"""

import argparse
import asyncio
import contextlib
import math
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
import yaml

from bench import photos
from bench.client import closed_loop
from bench.reliability import free_port, hammer, judge, listening, mixture, run
from bench.scenarios import Poster, newest_int8
from bench.servers import ROOT

CONFIG = Path(__file__).parent / "nginx.conf"
#: Kubernetes documentation, "Horizontal Pod Autoscaling": the controller's period, and the ratio that it ignores.
SYNC_S = 15
TOLERANCE = 0.1


@contextlib.contextmanager
def nginx(first: int, second: int, *, retry: bool = True) -> Iterator[str]:
    """nginx in front of two ports; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = {
            "FOLDER": folder,
            "FIRST": str(first),
            "SECOND": str(second),
            "PORT": str(port),
            "RETRY": "error timeout http_503 non_idempotent" if retry else "off",
        }
        text = CONFIG.read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        path = Path(folder, "nginx.conf")
        path.write_text(text)
        process = subprocess.Popen(["nginx", "-c", str(path), "-e", f"{folder}/error.log"])
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def rolling(model: Path, data: list[bytes], rounds: int, *, retry: bool) -> None:
    """One replica after the other ends by SIGTERM and starts again, under c=16."""
    ports = [free_port(), free_port()]

    async def load(
        url: str, replicas: list[contextlib.ExitStack], running: list[subprocess.Popen[bytes]]
    ) -> Counter[int]:
        over = asyncio.Event()
        counts: Counter[int] = Counter()

        async def until_over() -> None:
            while not over.is_set():
                counts.update(await hammer(url, 1, 16, mixture(data, 0)))

        loading = asyncio.create_task(until_over())
        for _ in range(rounds):
            for number, port in enumerate(ports):
                await asyncio.sleep(1)
                running[number].send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(running[number].wait)
                assert code == 0, code
                replicas[number].close()
                running[number] = replicas[number].enter_context(run(model, port))
                await listening(f"http://127.0.0.1:{port}", data[0])
        over.set()
        await loading
        return counts

    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(contextlib.ExitStack()) for _ in ports]
        running = [replica.enter_context(run(model, port)) for replica, port in zip(replicas, ports, strict=True)]
        url = stack.enter_context(nginx(*ports, retry=retry))
        for port in ports:
            asyncio.run(listening(f"http://127.0.0.1:{port}", data[0]))
        counts = uvloop.run(load(url, replicas, running))
    print(f"{2 * rounds} replicas exchanged under c=16, nginx {'asks the other one' if retry else 'does not repeat'}")
    if not retry:
        print(f"answers: {dict(counts)}")
        return
    judge(counts)
    if counts[503]:
        raise SystemExit(f"{counts[503]} requests were refused")


def check(model: Path, data: list[bytes], seconds: float) -> None:
    """A replica answers what it can and refuses the rest: so says the model; two real ones, a CPU and a worker each."""
    ports, cpus = [free_port(), free_port()], sorted(os.sched_getaffinity(0))[:2]
    with contextlib.ExitStack() as stack:
        for port, cpu in zip(ports, cpus, strict=True):
            process = stack.enter_context(run(model, port, CLASSIFIER_QUEUE_BUDGET_MS="1000", CLASSIFIER_WORKERS="1"))
            os.sched_setaffinity(process.pid, {cpu})
            asyncio.run(listening(f"http://127.0.0.1:{port}", data[0]))
        url = stack.enter_context(nginx(*ports, retry=False))
        closed_loop(url, "/predict", data, 16, 2)
        for share in (0.5, 0.9, 1.5):
            # Measured again each time, because the client's share of the CPUs is no constant.
            capacity = closed_loop(url, "/predict", data, 16, 6).rps
            answered, refused = uvloop.run(open_loop(url, data, share * capacity, seconds))
            model_answered = min(1.0, 1 / share)
            print(
                f"{share} x the capacity of {capacity:.0f} photos/s: answered {answered / (answered + refused):.2f} of "
                f"all, the model says {model_answered:.2f}"
            )


async def open_loop(url: str, data: list[bytes], rate: float, seconds: float) -> tuple[int, int]:
    """Answered and refused of requests that come at their own pace."""
    poster, counts, tasks = Poster(url, data), Counter[int](), set()

    async def one(number: int) -> None:
        status, _ = await poster.post(number)
        counts[status] += 1

    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        tasks.add(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    if set(counts) - {200, 503}:
        raise SystemExit(f"neither answered nor refused: {dict(counts)}")
    return counts[200], counts[503]


@dataclass(frozen=True)
class Autoscaler:
    """What the manifests say; CPUs as fractions of one."""

    least: int
    most: int
    target_cpus: float
    limit_cpus: float
    stabilization_s: float

    @classmethod
    def from_manifests(cls) -> "Autoscaler":
        """Of ``k8s/overlays/cloud``."""
        folder = ROOT / "k8s/overlays/cloud"
        spec = yaml.safe_load((folder / "hpa.yaml").read_text())["spec"]
        pod = yaml.safe_load((folder / "deployment.yaml").read_text())["spec"]["template"]["spec"]
        resources = pod["containers"][0]["resources"]
        (cpu,) = [metric["resource"]["target"] for metric in spec["metrics"] if metric["type"] == "Resource"]
        target = cpu["averageUtilization"] / 100 * float(resources["requests"]["cpu"])
        down = spec.get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 300)
        return cls(spec["minReplicas"], spec["maxReplicas"], target, float(resources["limits"]["cpu"]), down)

    def desired(self, replicas: int, cpus: float) -> int:
        """How many the algorithm wants where each of ``replicas`` uses ``cpus``, before any window or policy."""
        ratio = cpus / self.target_cpus
        if abs(ratio - 1) <= TOLERANCE:
            return replicas
        return min(self.most, max(self.least, math.ceil(replicas * ratio)))


def step(autoscaler: Autoscaler, photo_cpu_s: float, start_s: float, loads: list[tuple[float, float]]) -> None:
    """Prints a line for each period: what is offered, who answers it, what is refused.

    Args:
        autoscaler: the manifests' numbers.
        photo_cpu_s: CPU seconds of one photo.
        start_s: from the decision to the new pod's first answer.
        loads: from which second on how many photos come in a second.
    """
    ready, starting = autoscaler.least, deque[tuple[float, int]]()
    wanted: deque[tuple[float, int]] = deque()
    print("second  photos/s  replicas  CPUs each  refused")
    for now in range(0, 900, SYNC_S):
        while starting and starting[0][0] <= now:
            ready += starting.popleft()[1]
        offered = [rate for since, rate in loads if since <= now][-1]
        capacity = ready * autoscaler.limit_cpus / photo_cpu_s
        cpus = min(offered, capacity) * photo_cpu_s / ready
        print(f"{now:6}  {offered:8.0f}  {ready:8}  {cpus:9.2f}  {max(0.0, 1 - capacity / offered):7.0%}")
        present = ready + sum(count for _, count in starting)
        wanted.append((now, autoscaler.desired(ready, cpus)))
        while wanted[0][0] <= now - autoscaler.stabilization_s:
            wanted.popleft()
        # Up at once, by 100 % or 4 pods in a period, whichever is more; down to the most of the window (the defaults).
        up = min(wanted[-1][1], max(2 * present, present + 4))
        if up > present:
            starting.append((now + start_s, up - present))
        elif not starting:
            ready = min(ready, max(count for _, count in wanted))


def main() -> None:
    """Runs one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rolling", "check", "step"])
    parser.add_argument("--model", type=Path, help="ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=5, help="of rolling")
    parser.add_argument("--no-retry", action="store_true", help="rolling: without nginx asking the other replica")
    parser.add_argument("--seconds", type=float, default=20, help="of check's load")
    parser.add_argument("--photo-ms", type=float, default=12, help="step: CPU milliseconds of one photo")
    parser.add_argument("--start-seconds", type=float, default=30, help="step: until a new pod answers")
    options = parser.parse_args()
    if options.what == "step":
        one = 1000 / options.photo_ms
        step(
            Autoscaler.from_manifests(),
            options.photo_ms / 1e3,
            options.start_seconds,
            [(0, one), (60, 8 * one), (480, one)],
        )
        return
    data, model = photos.read(options.photos), (options.model or newest_int8()).resolve()
    if options.what == "rolling":
        rolling(model, data, options.rounds, retry=not options.no_retry)
    else:
        check(model, data, options.seconds)


if __name__ == "__main__":
    main()
