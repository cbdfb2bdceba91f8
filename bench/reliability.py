"""The ugly world, measured: ``python -m bench.reliability {soak,bad,flood,idle,kill,disk,clock,attack}``.

Each starts the service as a process of its own, does something to it that gateways see in the course of years, and ends
with code 1 if a request was lost, answered with a 5xx that is not a refusal, or never answered.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import math
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import uvloop
from PIL import Image

from app.client import AsyncClient, ClientError
from bench import photos
from bench.attack import attack
from bench.client import closed_loop
from bench.photos import multipart
from bench.scenarios import newest_int8, service
from bench.servers import OURS, cpu_s, interpreter, resident_mb, running


def request(body: bytes, kind: str) -> bytes:
    """A whole HTTP request with a body."""
    return (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def good(photo: bytes) -> bytes:
    """A request that has to be answered with 200."""
    kind, body = multipart(photo)
    return request(body, kind)


def bad(photo: bytes, dice: random.Random) -> bytes:
    """A request that may be answered with any 4xx, or with 200 where the damage spared the picture."""
    kind, body = multipart(photo)
    match dice.randrange(6):
        case 0:  # bits that flipped
            damaged = bytearray(body)
            for _ in range(dice.randint(1, 50)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            return request(bytes(damaged), kind)
        case 1:  # the end is missing
            return request(body[: dice.randrange(len(body))], kind)
        case 2:  # no picture at all
            return request(dice.randbytes(dice.randrange(20_000)), dice.choice([kind, "image/jpeg", "text/plain", ""]))
        case 3:  # a header that promises more
            png = (
                b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
                + dice.randbytes(8)
                + b"\x08\x02\x00\x00\x00"
                + dice.randbytes(99)
            )
            return request(png, "image/png")
        case 4:  # a picture with another one's tail
            return request(photo[: dice.randrange(len(photo))] + dice.randbytes(5000), "image/jpeg")
        case _:  # JSON that is none, or has none
            return request(dice.choice([b"{", b'{"image": 3}', b'{"image": "%%"}', b"[" * 9999]), "application/json")


class Connection:
    """Sends whole requests one after the other, on a connection that is kept as long as the service keeps it."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").split(":")
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> int:
        """The status; 0 where the connection broke or nothing came within a minute."""
        try:
            async with asyncio.timeout(60):
                if self._pair is None:
                    self._pair = await asyncio.open_connection(self._address[0], int(self._address[1]))
                reader, writer = self._pair
                writer.write(data)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return 0
        if "connection: close" in head:
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        """Ends the connection."""
        if self._pair is not None:
            self._pair[1].close()
            self._pair = None


async def hammer(url: str, seconds: float, connections: int, requests: Iterator[bytes]) -> Counter[int]:
    """A closed loop of ``connections``; counts the answers by status."""
    counts: Counter[int] = Counter()
    ends = time.monotonic() + seconds

    async def one() -> None:
        connection = Connection(url)
        while time.monotonic() < ends:
            counts[await connection.send(next(requests))] += 1
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return counts


def mixture(data: list[bytes], share_bad: float) -> Iterator[bytes]:
    """Requests without end."""
    dice = random.Random(0)
    while True:
        photo = dice.choice(data)
        yield bad(photo, dice) if dice.random() < share_bad else good(photo)


def judge(counts: Counter[int]) -> None:
    """Ends the program if something was lost or broke."""
    broken = {status: count for status, count in counts.items() if status == 0 or (status >= 500 and status != 503)}
    print(f"answers: {dict(sorted(counts.items()))}; lost, hanging or 5xx: {broken or 'none'}")
    if broken:
        raise SystemExit(1)


def state(pid: int) -> tuple[float, int, int]:
    """Resident MB, open file descriptors, threads."""
    process = Path("/proc", str(pid))
    return resident_mb(pid), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def slope(minutes: list[float], values: list[float]) -> tuple[float, float]:
    """Least-squares slope an hour, and half its 95 % interval.

    From the means of ten equal spans, so that neighbouring samples, which are alike, do not count as independent.
    """
    size = max(1, len(values) // 10)
    x, y = ([statistics.mean(v[i : i + size]) for i in range(0, len(v) - size + 1, size)] for v in (minutes, values))
    fitted = statistics.linear_regression(x, y)
    centre = statistics.mean(x)
    spread = sum((a - centre) ** 2 for a in x)
    left = sum((b - fitted.slope * a - fitted.intercept) ** 2 for a, b in zip(x, y, strict=True))
    # Student's t for the 8 degrees of freedom of ten means.
    half = 2.306 * (left / max(1, len(x) - 2) / spread) ** 0.5
    return 60 * fitted.slope, 60 * half


def soak(model: Path, data: list[bytes], seconds: float) -> None:
    """Full load of good and bad pictures; memory, descriptors and threads over the last two thirds."""
    with running(service(model, queue_budget_ms="60000"), data[0]) as (url, pid, _):
        samples: list[tuple[float, float, int, int]] = []

        async def load() -> Counter[int]:
            async def watch() -> None:
                started = time.monotonic()
                while True:
                    samples.append(((time.monotonic() - started) / 60, *state(pid)))
                    await asyncio.sleep(seconds / 180)

            watching = asyncio.create_task(watch())
            counts = await hammer(url, seconds, 16, mixture(data, 0.2))
            watching.cancel()
            return counts

        counts = uvloop.run(load())
    late = samples[len(samples) // 3 :]
    an_hour, half = slope([s[0] for s in late], [s[1] for s in late])
    print(f"{sum(counts.values())} requests in {seconds / 60:.0f} minutes")
    for name, at in (("resident MB", 1), ("descriptors", 2), ("threads", 3)):
        values = [s[at] for s in late]
        print(f"{name} over the last two thirds: {min(values):.0f} to {max(values):.0f}")
    interval = f"95 % interval {an_hour - half:+.1f} to {an_hour + half:+.1f}"
    print(f"slope of resident memory: {an_hour:+.1f} MB an hour, {interval}")
    judge(counts)


def many_bad(model: Path, data: list[bytes], count: int) -> None:
    """Nothing but bad inputs, and a good one in the end."""
    with running(service(model, queue_budget_ms="60000"), data[0]) as (url, pid, _):
        before = state(pid)
        dice = random.Random(1)
        left = iter([bad(dice.choice(data), dice) for _ in range(count)])
        counts: Counter[int] = Counter()

        async def load() -> int:
            async def one() -> None:
                connection = Connection(url)
                for damaged in left:
                    counts[await connection.send(damaged)] += 1
                connection.close()

            await asyncio.gather(*(one() for _ in range(16)))
            return await Connection(url).send(good(data[0]))

        last = uvloop.run(load())
        print(f"resident MB, descriptors, threads: {before} before, {state(pid)} after; a good photo then: {last}")
    counts[last] += 1
    judge(counts)


def idle(model: Path, data: list[bytes], connections: int) -> None:
    """Connections that say nothing, within the time that a client has, beside load."""
    with running(service(model, header_timeout_seconds="600"), data[0]) as (url, pid, _):
        closed_loop(url, "/predict", data, 4, 2)
        before = resident_mb(pid)
        alone = closed_loop(url, "/predict", data, 4, 10)

        async def hold() -> None:
            host, port = url.removeprefix("http://").split(":")
            held = [await asyncio.open_connection(host, int(port)) for _ in range(connections)]
            used = cpu_s(pid)
            await asyncio.sleep(10)
            more = resident_mb(pid) - before
            print(f"{len(held)} idle connections: {cpu_s(pid) - used:.2f} CPU s in 10 s; {more:+.1f} MB")
            beside = await asyncio.to_thread(closed_loop, url, "/predict", data, 4, 10)
            print(f"throughput beside them / alone: {beside.rps / alone.rps:.2f}; errors: {beside.errors}")
            for _, writer in held:
                writer.close()
            if beside.errors:
                raise SystemExit(1)

        asyncio.run(hold())


@contextlib.contextmanager
def run(
    model: Path, port: int, stderr: IO[bytes] | None = None, cgroup: Path | None = None, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The service on a port that is known before, killed in the end; variables are the environment's."""
    join = f"echo $$ > {cgroup}/cgroup.procs; " if cgroup else ""
    command = ["sh", "-c", f"{join}exec {interpreter(OURS)} -m app"]
    environment = os.environ | {
        "CLASSIFIER_MODEL": str(model),
        "CLASSIFIER_HOST": "127.0.0.1",
        "CLASSIFIER_PORT": str(port),
        "CLASSIFIER_QUEUE_BUDGET_MS": "60000",
        **variables,
    }
    process = subprocess.Popen(command, env=environment, stderr=stderr or subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listening(url: str, photo: bytes) -> None:
    """Waits for the first answer."""
    for _ in range(600):
        if await Connection(url).send(good(photo)) == 200:
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the service did not start")


def flood(model: Path, data: list[bytes], clients: int, cgroup: Path | None) -> None:
    """Very large pictures in the formats that decode whole, many at once, thrice; ordinary photos before and after."""
    pictures = []
    for megapixels in (50, 12, 2, 1):
        side = math.sqrt(megapixels * 1e6 / 12)
        picture = Image.effect_noise((64, 64), 90).convert("RGB").resize((int(4 * side), int(3 * side)))
        for kind, options in (
            ("PNG", {}),
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("WEBP", {"quality": 1, "method": 0}),
        ):
            buffer = io.BytesIO()
            picture.save(buffer, kind, **options)
            pictures.append(buffer.getvalue())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    counts: Counter[int] = Counter()

    async def send(photo: bytes) -> None:
        connection = Connection(url)
        counts[await connection.send(good(photo))] += 1
        connection.close()

    async def load() -> Counter[int]:
        await listening(url, data[0])
        before = await hammer(url, 5, 16, mixture(data, 0))
        for _ in range(3):
            await asyncio.gather(*(send(pictures[i % len(pictures)]) for i in range(clients)))
        return before + await hammer(url, 5, 16, mixture(data, 0))

    with run(model, port, cgroup=cgroup) as process:
        calm = uvloop.run(load())
        print(f"resident MB after: {resident_mb(process.pid):.0f}, at its peak: {peak_mb(process.pid):.0f}")
    print(f"ordinary photos before and after: {dict(calm)}")
    judge(counts + calm)


def peak_mb(pid: int) -> float:
    """The most resident memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def kill(model: Path, data: list[bytes], rounds: int) -> None:
    """SIGKILL and a new start, again and again, with clients that ask again (``app.client``)."""
    port = free_port()
    counts: Counter[str] = Counter()
    over = asyncio.Event()

    async def camera(number: int) -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}", attempts=50) as classifier:
            while not over.is_set():
                try:
                    await classifier.predict(data[number % len(data)])
                    counts["answered"] += 1
                except ClientError:
                    counts["failed"] += 1
                number += 1

    async def load() -> None:
        cameras = [asyncio.create_task(camera(number)) for number in range(8)]
        for _ in range(rounds):
            with run(model, port):
                await listening(f"http://127.0.0.1:{port}", data[0])
                await asyncio.sleep(2)
        with run(model, port):
            over.set()
            await asyncio.gather(*cameras)

    uvloop.run(load())
    print(f"{rounds} x SIGKILL under 8 cameras that ask again: {dict(counts)}")
    if counts["failed"]:
        raise SystemExit(1)


def disk(model: Path, data: list[bytes], seconds: float) -> None:
    """A full disk under the log: every line written to it fails."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def load() -> Counter[int]:
        await listening(url, data[0])
        return await hammer(url, seconds, 8, mixture(data, 0.2))

    with Path("/dev/full").open("wb") as full, run(model, port, full) as process:
        counts = uvloop.run(load())
        print(f"resident MB after: {resident_mb(process.pid):.0f}")
    judge(counts)


def clock(model: Path, data: list[bytes], seconds: float) -> None:
    """A clock that jumps by hours, days and years, to and fro, as one without a battery does when the network comes."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        raise SystemExit("libfaketime is missing: apt-get install faketime")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        offset = Path(folder, "offset")
        offset.write_text("+0")
        variables = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        years: set[str] = set()

        async def load() -> Counter[int]:
            await listening(url, data[0])
            loading = asyncio.create_task(hammer(url, seconds, 8, mixture(data, 0.2)))
            for jump in itertools.cycle(("+1h", "-1h", "+30d", "-9000d", "+9000d", "+0")):
                await asyncio.to_thread(offset.write_text, jump)
                await asyncio.sleep(2)
                years.add(await asyncio.to_thread(year, url))
                if loading.done():
                    return await loading
            raise AssertionError

        with run(model, port, **variables):
            counts = uvloop.run(load())
    print(f"years in the Date header: {sorted(years)}")
    judge(counts)


def year(url: str) -> str:
    """The year that the service believes in."""
    with urllib.request.urlopen(f"{url}/health/live", timeout=30) as response:
        return str(response.headers["date"]).split()[3]


def main() -> None:
    """Runs one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trouble", choices=["soak", "bad", "flood", "idle", "kill", "disk", "clock", "attack"])
    parser.add_argument("--model", type=Path, help="ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--seconds", type=float, default=60, help="of load (soak: 1800 makes half an hour)")
    parser.add_argument(
        "--count", type=int, help="bad inputs (10000), clients of a flood (100), idle connections (400), kills (10)"
    )
    parser.add_argument("--cgroup", type=Path, help="flood: a control group to start the service in, with its limits")
    options = parser.parse_args()
    data = photos.read(options.photos)
    model = (options.model or newest_int8()).resolve()
    match options.trouble:
        case "soak":
            soak(model, data, options.seconds)
        case "bad":
            many_bad(model, data, options.count or 10_000)
        case "flood":
            flood(model, data, options.count or 100, options.cgroup)
        case "idle":
            idle(model, data, options.count or 400)
        case "kill":
            kill(model, data, options.count or 10)
        case "disk":
            disk(model, data, options.seconds)
        case "clock":
            clock(model, data, options.seconds)
        case "attack":
            attack(model, data)


if __name__ == "__main__":
    main()
