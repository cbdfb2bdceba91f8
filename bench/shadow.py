"""What a shadow model costs the photos: ``python -m bench.shadow [--share 1] [--photos DIR]``.

Three services, without a shadow (twice, so that the noise is seen) and with one, take turns in rounds, so that whatever
else the machine does hits all of them. Each gets photos at random moments (Poisson) at a share of its capacity; times
count from the moment that a photo was due.
"""

import argparse
import asyncio
import random
import statistics
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import uvloop

from app.registry.source import BUNDLED
from bench import photos
from bench.scenarios import Poster, peak, service
from bench.servers import running


async def turn(poster: Poster, rate: float, seconds: float, seed: int) -> list[float]:
    """Milliseconds of each photo that was answered, from when it was due."""
    dice = random.Random(seed)
    times: list[float] = []
    started = time.perf_counter()

    async def one(number: int, due: float) -> None:
        status, _ = await poster.post(number)
        if status == 200:
            times.append((time.perf_counter() - due) * 1e3)

    tasks, number, due = set(), 0, started
    while (due := due + dice.expovariate(rate)) < started + seconds:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.add(asyncio.create_task(one(number, due)))
        number += 1
    await asyncio.gather(*tasks)
    return times


def quantile(times: list[float], q: float) -> float:
    return sorted(times)[int(len(times) * q)]


def seen(url: str) -> tuple[float, float]:
    """How many photos a shadow has seen, and how many it was too late for."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counts = [line.rsplit(" ", 1) for line in lines if line.startswith("classifier_shadow_")]
    total = {
        part: sum(float(value) for name, value in counts if name.startswith(f"classifier_shadow_{part}_total"))
        for part in ("photos", "dropped")
    }
    return total["photos"], total["dropped"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos; default: those that scikit-image ships")
    parser.add_argument("--model", type=Path, default=next(BUNDLED.glob("*.onnx")))
    parser.add_argument("--shadow", type=Path, help="the second model; default: the same one")
    parser.add_argument("--share", default="1", help="CLASSIFIER_SHADOW_SHARE")
    parser.add_argument("--load", type=float, default=0.7, help="of the capacity")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12, help="of one turn")
    args = parser.parse_args()
    data = photos.read(args.photos)
    shadow = {"shadow": str((args.shadow or args.model).resolve()), "shadow_share": args.share}
    contenders = {"off": {}, "off again": {}, "on": shadow}
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(running(service(args.model.resolve(), **settings), data[0]))[0]
            for name, settings in contenders.items()
        }
        capacity = statistics.median(peak(urls["off"], data, 4).rps for _ in range(3))
        rate = args.load * capacity
        print(f"capacity: {capacity:.0f}/s; offered: {rate:.0f}/s, {args.rounds} turns of {args.seconds:g} s each")
        all_times: dict[str, list[float]] = {name: [] for name in urls}
        by_round: dict[str, list[float]] = {name: [] for name in urls}
        for number in range(args.rounds):
            names = list(urls)
            random.Random(number).shuffle(names)
            for name in names:
                times = uvloop.run(turn(Poster(urls[name], data), rate, args.seconds, number))
                all_times[name] += times
                by_round[name].append(quantile(times, 0.99))
        looked, dropped = seen(urls["on"])
    for name, times in all_times.items():
        p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
        rounds = ", ".join(f"{p99:.0f}" for p99 in by_round[name])
        print(f"{name:>10}: {len(times)} photos, p50 {p50:.1f} ms, p99 {p99:.1f} ms (rounds: {rounds})")
    for name in ("off again", "on"):
        ratios = sorted(mine / off for mine, off in zip(by_round[name], by_round["off"], strict=True))
        both = quantile(all_times[name], 0.99) / quantile(all_times["off"], 0.99)
        print(
            f"p99 of {name} / off: {both:.3f} over all; by round median {statistics.median(ratios):.3f}, "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        )
    print(f"the shadow saw {looked:.0f} photos and was too late for {dropped:.0f}")


if __name__ == "__main__":
    main()
