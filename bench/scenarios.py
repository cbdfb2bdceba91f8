"""What happens when things get rough, measured: ``python -m bench.scenarios {overload,drain,slow,cpu,memory}``.

Each starts the service as a process of its own, on this machine, and prints figures as ratios to what it measured
itself a moment before.
"""

import argparse
import asyncio
import io
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import uvloop
from PIL import Image

from bench import photos
from bench.client import Load, closed_loop
from bench.machine import machine
from bench.photos import multipart
from bench.servers import OURS, Contender, interpreter, resident_mb, running


def service(model: Path, **variables: str) -> Contender:
    """Our server with a model and settings."""
    named = {f"CLASSIFIER_{name.upper()}": value for name, value in variables.items()}
    return Contender(
        "ours", OURS, ("-m", "app"), {"CLASSIFIER_MODEL": str(model), "CLASSIFIER_LOG_LEVEL": "warning", **named}
    )


def newest_int8() -> Path:
    """The model that ``make serve`` would take; ends the program where there is none."""
    built = sorted(Path("models").glob("*.int8.onnx"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise SystemExit("there is no int8 model in models/; run `make model`, or say --model")
    return built[-1].resolve()


class Poster:
    """An HTTP client that costs next to nothing: raw requests on kept connections, heads read, bodies skipped."""

    def __init__(self, url: str, data: list[bytes]) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.requests = []
        for photo in data:
            kind, body = multipart(photo)
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            self.requests.append(head.encode() + body)
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, number: int) -> tuple[int, dict[str, str]]:
        """Status and headers; 0 where the connection broke."""
        try:
            pair = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
            pair[1].write(self.requests[number % len(self.requests)])
            head = await pair[0].readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            await pair[0].readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            return 0, {}
        if headers.get("connection") == "close":
            pair[1].close()
        else:
            self.idle.append(pair)
        return int(lines[0].split()[1]), headers


def peak(url: str, data: list[bytes], seconds: float = 6) -> Load:
    """Throughput of a closed loop at c=16, after a short warm-up."""
    closed_loop(url, "/predict", data, 16, 2)
    return closed_loop(url, "/predict", data, 16, seconds)


def overload(model: Path, data: list[bytes], seconds: float) -> None:
    """An open loop at three times the capacity."""
    budget_ms = 1000
    with running(service(model, queue_budget_ms=str(budget_ms)), data[0]) as (url, pid, _):
        capacity = peak(url, data).rps
        memory = [resident_mb(pid)]
        poster = Poster(url, data)
        counts: Counter[int] = Counter()
        accepted: list[float] = []
        retry_after = 0
        live: list[float] = []

        async def one(number: int, due: float) -> None:
            nonlocal retry_after
            status, headers = await poster.post(number)
            counts[status] += 1
            retry_after += status == 503 and "retry-after" in headers
            if status == 200:
                accepted.append((time.perf_counter() - due) * 1e3)

        async def arrivals() -> None:
            rate, tasks, number = 3 * capacity, set(), 0
            started = time.perf_counter()
            noted = started
            while (now := time.perf_counter()) - started < seconds:
                while number / rate <= now - started:
                    task = asyncio.create_task(one(number, started + number / rate))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    number += 1
                if now - noted > seconds / 10:
                    noted = now
                    memory.append(resident_mb(pid))
                    reader, writer = await asyncio.open_connection(poster.host, poster.port)
                    asked = time.perf_counter()
                    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                    await reader.readuntil(b"\r\n\r\n")
                    live.append((time.perf_counter() - asked) * 1e3)
                    writer.close()
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)

        uvloop.run(arrivals())
        accepted.sort()
        p99 = accepted[int(len(accepted) * 0.99)]
        again = peak(url, data).rps
    goodput = counts[200] / seconds
    print(f"capacity (closed loop, c=16): {capacity:.0f}/s before, {again:.0f}/s after; offered {3 * capacity:.0f}/s")
    print(f"answers: {dict(counts)}; every 503 with Retry-After: {retry_after == counts[503]}")
    print(f"goodput / capacity: {goodput / statistics.mean([capacity, again]):.2f}")
    print(f"p99 of the accepted / queue budget: {p99 / budget_ms:.2f} (p50 {statistics.median(accepted):.0f} ms)")
    print(f"/health/live under overload: median {statistics.median(live):.1f} ms, the client's share included")
    print(f"resident MB over the run: {', '.join(f'{mb:.0f}' for mb in memory)}")


def drain(model: Path, data: list[bytes], rounds: int) -> None:
    """SIGTERM in the middle of c=32 load."""
    lost = answered = 0
    codes: Counter[int] = Counter()
    for _ in range(rounds):
        command = [interpreter(OURS), "-m", "app"]
        with running(service(model), data[0]) as (url, _, _):
            port = url.rsplit(":", 1)[1]
        settings = {"CLASSIFIER_MODEL": str(model), "CLASSIFIER_PORT": port, "CLASSIFIER_HOST": "127.0.0.1"}
        settings |= {
            "CLASSIFIER_DRAIN_SECONDS": "0.5",
            "CLASSIFIER_LOG_LEVEL": "error",
            "CLASSIFIER_QUEUE_BUDGET_MS": "60000",
        }
        process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL)
        counts: Counter[str] = Counter()

        async def load(
            url: str = url, process: "subprocess.Popen[bytes]" = process, counts: Counter[str] = counts
        ) -> None:
            poster = Poster(url, data)
            while (await poster.post(0))[0] != 200:
                await asyncio.sleep(0.05)

            async def client(number: int) -> None:
                own = Poster(url, data)
                while True:
                    try:
                        if not own.idle:
                            own.idle.append(await asyncio.open_connection(own.host, own.port))
                    except OSError:
                        # Refused: the service has gone, and nothing was accepted.
                        return
                    status, _ = await own.post(number)
                    counts["answered" if status == 200 else "lost"] += 1
                    if status != 200:
                        return
                    number += 1

            clients = [asyncio.create_task(client(i)) for i in range(32)]
            await asyncio.sleep(1)
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(*clients)

        uvloop.run(load())
        codes[process.wait(30)] += 1
        lost, answered = lost + counts["lost"], answered + counts["answered"]
    print(f"{rounds} x SIGTERM under c=32: {answered} answered, {lost} lost, exit codes {dict(codes)}")


def slow(model: Path, data: list[bytes], clients: int) -> None:
    """Normal load beside clients that send one byte a second."""
    with running(service(model), data[0]) as (url, _, _):
        host, port = url.removeprefix("http://").split(":")
        closed_loop(url, "/predict", data, 4, 2)
        ratios = []
        for _ in range(3):
            alone = closed_loop(url, "/predict", data, 4, 5)
            drip = subprocess.Popen(
                [sys.executable, "-m", "bench.scenarios", "drip", "--url", f"{host}:{port}", "--clients", str(clients)]
            )
            time.sleep(2)
            beside = closed_loop(url, "/predict", data, 4, 5)
            drip.kill()
            drip.wait()
            ratios.append((beside.p99 / alone.p99, beside.rps / alone.rps))
            print(
                f"p99 {alone.p99:.1f} ms alone, {beside.p99:.1f} ms beside {clients} slow ones; errors {beside.errors}"
            )
    print(f"p99 beside / alone: {statistics.median(r[0] for r in ratios):.2f}")
    print(f"throughput beside / alone: {statistics.median(r[1] for r in ratios):.2f}")


async def _drip(address: str, clients: int) -> None:
    host, port = address.split(":")

    async def one() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(1)
            except OSError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(clients)))


def cpu(model: Path, data: list[bytes], rounds: int) -> None:
    """One CPU against two."""
    both = sorted(os.sched_getaffinity(0))
    figures: dict[int, list[float]] = {1: [], len(both): []}
    threads: dict[int, str] = {}
    for _ in range(rounds):
        for count in figures:
            # The client keeps all CPUs; the service is started from a process that has only some.
            os.sched_setaffinity(0, both[:count])
            with running(service(model), data[0]) as (url, pid, _):
                os.sched_setaffinity(0, both)
                figures[count].append(peak(url, data, 5).rps)
                threads[count] = next(
                    line.split()[1]
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    if line[:8] == "Threads:"
                )
    ratios = [one / (two / len(both)) for one, two in zip(figures[1], figures[len(both)], strict=True)]
    print(f"throughput on one CPU / half of two: {statistics.median(ratios):.2f}; threads: {threads}")


def memory(model: Path, data: list[bytes], clients: int, megapixels: float) -> None:
    """The worst mix that is accepted: the largest images of the kinds that decode whole, many at once."""
    largest = []
    side = math.sqrt(megapixels * 1e6 / 12)
    size = (int(4 * side), int(3 * side))
    for kind, options in (("PNG", {}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 1, "method": 0})):
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 90).convert("RGB").resize(size).save(buffer, kind, **options)
        largest.append(buffer.getvalue())
    for photo in largest:
        print(f"{megapixels:g}-megapixel image of {len(photo) / 1e6:.1f} MB", file=sys.stderr)
    largest = [photo for photo in largest if len(photo) < 10_000_000]
    with running(service(model, queue_budget_ms="60000"), data[0]) as (url, pid, _):
        closed_loop(url, "/predict", data, 16, 3)
        print(f"resident MB at c=16: {resident_mb(pid):.0f}")
        counts: Counter[int] = Counter()

        async def load() -> None:
            poster = Poster(url, largest)

            async def one(number: int) -> None:
                counts[(await poster.post(number))[0]] += 1

            await asyncio.gather(*(one(i) for i in range(clients)))

        uvloop.run(load())
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        high = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        print(f"{clients} at once: {dict(counts)}; peak resident MB: {high / 1024:.0f}, after: {resident_mb(pid):.0f}")


def main() -> None:
    """Runs one scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["overload", "drain", "slow", "cpu", "memory", "drip"])
    parser.add_argument("--model", type=Path, help="ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--megapixels", type=float, default=48)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scenario == "drip":
        uvloop.run(_drip(options.url, options.clients))
        return
    print(f"on {machine()}")
    data = photos.read(options.photos)
    model = (options.model or newest_int8()).resolve()
    match options.scenario:
        case "overload":
            overload(model, data, options.seconds)
        case "drain":
            drain(model, data, options.rounds)
        case "slow":
            slow(model, data, options.clients)
        case "cpu":
            cpu(model, data, min(options.rounds, 5))
        case "memory":
            memory(model, data, options.clients, options.megapixels)


if __name__ == "__main__":
    main()
