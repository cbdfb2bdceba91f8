"""A closed loop of curl itself, as scripts and cameras run it: its headers, its forms, its ``Expect: 100-continue``."""

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.client import Load

#: More requests than a second of any loop takes.
_A_SECOND = 400
#: Seconds after which a server that has not answered twice never will.
_PATIENCE_S = 30.0


def closed_loop(url: str, photos: list[bytes], clients: int, seconds: float, *, kept: bool = True) -> Load:
    """Posts photos by so many curls at once, each of which sends the next one when the last one is answered.

    Args:
        url: of the route.
        photos: files; each client begins with another one.
        clients: how many curls.
        seconds: how long.
        kept: whether a curl keeps its connection, as one command with several URLs does; else each photo has a
            connection of its own, as with a command for each.
    """
    if not shutil.which("curl"):
        raise SystemExit("curl is not installed")
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, photo in enumerate(photos):
            files.append(Path(folder, f"{number}.jpg"))
            files[-1].write_bytes(photo)
        commands = []
        for client in range(clients):
            config = Path(folder, f"{client}.conf")
            transfers = int(_A_SECOND * seconds)
            config.write_text(
                "next\n".join(_transfer(url, files[(client + n) % len(files)], kept) for n in range(transfers))
            )
            # -q: nobody's ~/.curlrc.
            commands.append(["curl", "-q", "-K", str(config)])
        logs = [Path(folder, f"{client}.log") for client in range(clients)]
        with contextlib.ExitStack() as stack:
            started = time.perf_counter()
            running = [
                subprocess.Popen(command, stderr=stack.enter_context(log.open("wb")))
                for command, log in zip(commands, logs, strict=True)
            ]
            time.sleep(seconds)
            # A slow server on a busy machine: two answers make a rate.
            while _lines(logs) < 2 and time.perf_counter() - started < _PATIENCE_S:
                time.sleep(0.05)
            for process in running:
                process.kill()
            taken = time.perf_counter() - started
            for process in running:
                process.wait()
        # A line of each finished transfer; the one that was cut off has none.
        lines = [line.split() for log in logs for line in log.read_text().splitlines()]
    times = sorted(float(line[1]) * 1e3 for line in lines if line[0] == "200")
    if len(times) < 2:
        raise SystemExit(f"{url} answered curl {len(lines)} times in {seconds:g} s, {len(times)} times with 200")
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return Load(len(times) / taken, cuts[49], cuts[94], cuts[98], len(lines) - len(times))


def _lines(logs: list[Path]) -> int:
    return sum(log.read_bytes().count(b"\n") for log in logs)


def _transfer(url: str, file: Path, kept: bool) -> str:
    options = {
        "url": url,
        "form": f"file=@{file}",
        "output": "/dev/null",
        "max-time": "30",
        # Not to standard output, which would be buffered, and lost at the end.
        "write-out": "%{stderr}%{http_code} %{time_total}\\n",
    }
    if not kept:
        options["header"] = "Connection: close"
    return "silent\n" + "".join(f'{name} = "{value}"\n' for name, value in options.items())
