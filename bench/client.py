"""A closed loop of N connections: wrk where it is installed, else httpx."""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.photos import multipart

_SCRIPT = """
local bodies, at, failed = {}, 0, 0
for line in io.lines("FOLDER/list") do
  local file = io.open(line, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
end
wrk.method = "POST"
wrk.headers["Content-Type"] = "TYPE"
local requests = {}
init = function() for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, "PATH", nil, body) end end
request = function() at = at % #requests + 1; return requests[at] end
done = function(summary, latency)
  io.stderr:write(string.format('{"requests": %d, "seconds": %f, "errors": %d, "p50": %f, "p95": %f, "p99": %f}\\n',
    summary.requests, summary.duration / 1e6, summary.errors.status + summary.errors.read + summary.errors.connect
    + summary.errors.write + summary.errors.timeout, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Load:
    """What a closed loop measured; latencies in milliseconds."""

    rps: float
    p50: float
    p95: float
    p99: float
    errors: int


def closed_loop(url: str, path: str, photos: list[bytes], connections: int, seconds: float) -> Load:
    """Posts photos over ``connections`` for ``seconds``."""
    if shutil.which("wrk"):
        return _wrk(url, path, photos, connections, seconds)
    return asyncio.run(_httpx(url + path, photos, connections, seconds))


def _wrk(url: str, path: str, photos: list[bytes], connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        kind = ""
        files = []
        for i, photo in enumerate(photos):
            kind, body = multipart(photo)
            files.append(Path(folder, str(i)))
            files[-1].write_bytes(body)
        Path(folder, "list").write_text("".join(f"{file}\n" for file in files))
        script = _SCRIPT.replace("FOLDER", folder).replace("TYPE", kind).replace("PATH", path)
        Path(folder, "post.lua").write_text(script)
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            # Whole seconds are all that it understands.
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "30s",
            "-s",
            f"{folder}/post.lua",
            url,
        ]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(run.stderr.splitlines()[-1])
    return Load(found["requests"] / found["seconds"], found["p50"], found["p95"], found["p99"], found["errors"])


async def _httpx(url: str, photos: list[bytes], connections: int, seconds: float) -> Load:
    import httpx

    forms = [multipart(photo) for photo in photos]
    times: list[float] = []
    errors = 0
    ends = time.perf_counter() + seconds

    async def one(client: httpx.AsyncClient, first: int) -> None:
        nonlocal errors
        i = first
        while time.perf_counter() < ends:
            kind, body = forms[i % len(forms)]
            started = time.perf_counter()
            response = await client.post(url, content=body, headers={"content-type": kind})
            times.append(time.perf_counter() - started)
            errors += response.status_code != 200
            i += connections

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=connections)) as client:
        await asyncio.gather(*(one(client, i) for i in range(connections)))
    times.sort()
    p50, p95, p99 = (times[int(len(times) * q)] * 1e3 for q in (0.5, 0.95, 0.99))
    return Load(len(times) / seconds, p50, p95, p99, errors)
