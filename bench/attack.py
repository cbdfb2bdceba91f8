"""Hostile clients without a key, one kind after the other: ``python -m bench.reliability attack``.

Each runs against a service of its own while probes and an honest client's photos are timed. What must hold whatever
they send: the service takes no more than ``MOST_MB`` more memory, says that it is alive within ``MOST_S`` seconds, and
goes on answering photos afterwards.
"""

import asyncio
import contextlib
import io
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bench.scenarios import service
from bench.servers import resident_mb, running

#: Megabytes and seconds; both are promises of SECURITY.md.
MOST_MB = 256
MOST_S = 1.0
#: Seconds that an attack may go on.
_LONG_S = 12.0

#: Where the honest client comes from.
HONEST = "127.0.0.2"

Address = tuple[str, int]
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=B\r\n"


async def send(
    address: Address, data: bytes, *, times: int = 1, read: bool = True, pause_s: float = 0.0, source: str = "127.0.0.1"
) -> bytes:
    """Sends ``data`` so many times on one connection, then reads what comes first, for a while."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_LONG_S):
            reader, writer = await asyncio.open_connection(*address, limit=1 << 16, local_addr=(source, 0))
            if not read:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            try:
                for _ in range(times):
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                if not read:
                    await asyncio.sleep(_LONG_S)
                answer = await reader.read(1 << 16)
            finally:
                writer.transport.abort()
    return answer


async def crowd(address: Address, count: int, data: bytes, **how: object) -> None:
    """Many connections that do the same at once."""
    await asyncio.gather(*(send(address, data, **how) for _ in range(count)))  # type: ignore[arg-type]


def body(data: bytes, headers: bytes = b"") -> bytes:
    """A request with a body."""
    return HEAD + headers + b"Content-Length: %d\r\n\r\n" % len(data) + data


def form(head: bytes, parts: int) -> bytes:
    """A multipart body of empty parts."""
    return body(b"".join(b"--B\r\n" + head + b"\r\n\r\n\r\n" for _ in range(parts)) + b"--B--\r\n", FORM)


def scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan stands in it again and again."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 99).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def chunks(count: int) -> bytes:
    """A PNG of many empty chunks."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 99).save(buffer, "PNG")
    data = buffer.getvalue()
    empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return data[:33] + empty * count + data[33:]


def column(height: int) -> bytes:
    """A PNG one pixel wide."""
    rows = zlib.compress(bytes(4 * height), 9)
    header = struct.pack(">IIBBBBB", 1, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
ATTACKS: dict[str, Callable[[Address], Awaitable[object]]] = {
    "trailer without end": lambda to: send(to, CHUNKED + b"0\r\n" + b"a:b\r\n" * 200_000, times=30),
    "chunk extension without end": lambda to: send(to, CHUNKED + b"1;" + b"x" * 1_000_000, times=30),
    "1,500 heads that never end": lambda to: crowd(
        to, 1500, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 190 + b"c:" + b"x" * 60_000
    ),
    "1,500 heads of empty fields": lambda to: crowd(to, 1500, b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 15_000),
    "names to be echoed, unread": lambda to: crowd(
        to, 40, form(b'Content-Disposition: form-data; name="%s"' % (b"n" * 4900), 1999), read=False
    ),
    "large answers, unread": lambda to: crowd(
        to, 300, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 15, read=False
    ),
    "requests ahead, unread": lambda to: crowd(to, 100, b"GET /labels HTTP/1.1\r\nHost: x\r\n\r\n" * 5000, read=False),
    "parts with 4,000 parameters": lambda to: crowd(
        to, 2, form(b"Content-Disposition: form-data" + b";" * 4000 + b'; name="x"', 1999)
    ),
    "deep JSON": lambda to: crowd(to, 4, body(b"[" * 4_900_000, b"Content-Type: application/json\r\n")),
    "200 slow bodies": lambda to: crowd(
        to, 200, HEAD + b"Content-Length: 2000000\r\n\r\n" + b"x" * 100_000, pause_s=_LONG_S
    ),
    "JPEG of 100,000 scans": lambda to: crowd(to, 2, body(scans(90_000, 1200))),
    "JPEG of 500 scans, 49 megapixels": lambda to: crowd(to, 2, body(scans(500, 7000))),
    "PNG of 800,000 chunks": lambda to: crowd(to, 2, body(chunks(800_000))),
    "PNG of one column, 49 megapixels": lambda to: crowd(to, 2, body(column(49_000_000))),
    "numbers of 4,000 digits": lambda to: crowd(
        to, 4, body(b"[" + (b"9" * 4000 + b",") * 2400 + b"1]", b"Content-Type: application/json\r\n")
    ),
    "1,500 bodies that never come": lambda to: crowd(to, 1500, HEAD + b"Content-Length: 9\r\n\r\n", pause_s=_LONG_S),
    "1,500 idle connections": lambda to: crowd(to, 1500, b"", pause_s=_LONG_S),
}


@dataclass
class Seen:
    """What others saw meanwhile."""

    slowest_s: float = 0.0
    most_mb: float = 0.0
    photos: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


async def watch(address: Address, pid: int, photo: bytes, seen: Seen, done: asyncio.Event) -> None:
    """Probes, photos and memory until the attack is over."""
    while not done.is_set():
        for request in (b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", photo):
            started = time.perf_counter()
            answer = await send(address, request, source=HONEST)
            taken = time.perf_counter() - started
            status = answer[9:12]
            if request is photo:
                seen.photos += status == b"200"
                seen.refused += status == b"503"
            else:
                seen.slowest_s = max(seen.slowest_s, taken)
            if status not in (b"200", b"503"):
                seen.errors.append(answer[:40].decode("latin-1") or "no answer")
        seen.most_mb = max(seen.most_mb, resident_mb(pid))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.05)


async def suffer(address: Address, pid: int, photo: bytes, attack: Callable[[Address], Awaitable[object]]) -> Seen:
    """One attack, and what others saw of it."""
    seen, done = Seen(), asyncio.Event()
    watching = asyncio.create_task(watch(address, pid, photo, seen, done))
    await attack(address)
    done.set()
    await watching
    return seen


def attack(model: Path, data: list[bytes]) -> None:
    """Every kind; ends the program with code 1 where something did not hold."""
    photo = body(data[0], b"Connection: close\r\n")
    failed = False
    print(f"{'':34} {'more MB':>8} {'slowest probe':>14}  photos meanwhile")
    for name, kind in ATTACKS.items():
        with running(service(model), data[0]) as (url, pid, _):
            host, port = url.removeprefix("http://").split(":")
            before = resident_mb(pid)
            seen = asyncio.run(suffer((host, int(port)), pid, photo, kind))
            after = asyncio.run(send((host, int(port)), photo))[9:12]
        more = seen.most_mb - before
        bad = more > MOST_MB or seen.slowest_s > MOST_S or seen.errors or after != b"200"
        failed |= bool(bad)
        said = f"{seen.photos} answered, {seen.refused} refused" + (
            f", {len(seen.errors)} not: {seen.errors[0]}" if seen.errors else ""
        )
        print(f"{name:34} {more:8.0f} {seen.slowest_s * 1e3:11.0f} ms  {said}{'   <-- does not hold' if bad else ''}")
    if failed:
        raise SystemExit(1)
