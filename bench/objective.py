"""The highest rate of photos that holds a p99 objective: ``python -m bench.objective --p99 100``.

Doubles the offered rate until it fails, then halves the interval. Arrivals are evenly spaced and do not wait for
answers, so a server that falls behind shows it.
"""

import argparse
import asyncio
import time
from pathlib import Path

import uvloop

from bench import photos
from bench.machine import machine
from bench.scenarios import Poster, newest_int8, service
from bench.servers import running


async def p99_at(poster: Poster, rate: float, seconds: float) -> tuple[float, int]:
    """p99 in milliseconds from the moment a photo was due, and how many were not answered with 200."""
    times: list[float] = []
    failed = 0

    async def one(number: int, due: float) -> None:
        nonlocal failed
        status, _ = await poster.post(number)
        failed += status != 200
        times.append((time.perf_counter() - due) * 1e3)

    started = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return sorted(times)[int(len(times) * 0.99)], failed


def main() -> None:
    """Searches and prints every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--p99", type=float, default=100.0, help="objective in milliseconds")
    parser.add_argument("--seconds", type=float, default=8.0, help="per step")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photos", type=Path)
    options = parser.parse_args()
    print(f"on {machine()}")
    data = photos.read(options.photos)
    model = options.model or newest_int8()
    with running(service(model), data[0]) as (url, _, _):

        def holds(rate: float) -> bool:
            p99, failed = uvloop.run(p99_at(Poster(url, data), rate, options.seconds))
            print(f"{rate:.0f}/s: p99 {p99:.0f} ms, {failed} refused or failed")
            return p99 <= options.p99 and not failed

        low, high = 0.0, 20.0
        holds(20)
        while holds(high):
            low, high = high, high * 2
        while high - low > 0.05 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if holds(middle) else (low, middle)
    print(f"highest rate that holds p99 <= {options.p99:.0f} ms: {low:.0f}/s")


if __name__ == "__main__":
    main()
