"""What cameras and phones send, to all servers side by side; ``bench.compare`` runs it.

All servers run all the time and are asked in turns, so that a machine that drifts bends no ratio. Large photos are sent
by curl itself.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench import curl, photos
from bench.client import Load, closed_loop
from bench.servers import ROOT, Contender, running

#: The first of them is what the others are compared with.
OURS: Final = "ours, int8"
CACHED: Final = "ours, int8, frame cache"
STAGES: Final = ("read", "queue", "decode", "infer")


@dataclass(frozen=True)
class Workload:
    """Photos, how many clients send them, and how.

    Attributes:
        name: what stands over its column.
        data: files.
        clients: that wait for an answer before they send the next photo.
        send: posts ``data`` to an address for some seconds.
    """

    name: str
    data: list[bytes]
    clients: int
    send: Callable[[str, float], Load]


def workloads(folder: Path | None) -> list[Workload]:
    """The photos of a folder (None: scikit-image's) as they are, and what cameras and phones send."""

    def by_curl(name: str, data: list[bytes], clients: int, *, kept: bool = True) -> Workload:
        return Workload(
            f"{name}, c={clients}",
            data,
            clients,
            lambda url, seconds: curl.closed_loop(url + "/predict", data, clients, seconds, kept=kept),
        )

    small = photos.read(folder)
    full_hd, ultra_hd, phone = (photos.large(folder, size) for size in photos.LARGE)
    return [
        Workload("as given, c=16", small, 16, lambda url, seconds: closed_loop(url, "/predict", small, 16, seconds)),
        by_curl("1080p", full_hd, 4),
        by_curl("1080p, a connection each", full_hd, 4, kept=False),
        by_curl("4K", ultra_hd, 4),
        by_curl("12 MP", phone, 4),
        by_curl("one camera, 1080p", photos.frames(folder, photos.LARGE[0]), 1),
    ]


#: By server and workload what each round found.
Rounds = dict[str, dict[str, list[dict[str, float]]]]


def measure(contenders: list[Contender], given: list[Workload], rounds: int, seconds: float) -> Rounds:
    """Asks every server for ``seconds`` in each round and workload."""
    found: Rounds = {c.name: {w.name: [] for w in given} for c in contenders}
    ceilings: dict[str, list[dict[str, float]]] = {w.name: [] for w in given}
    ours = next((c for c in contenders if c.name == OURS), None)
    with contextlib.ExitStack() as stack:
        urls = {c.name: stack.enter_context(running(c, given[0].data[0]))[0] for c in contenders}
        for name, url in urls.items():
            print(f"warming up {name}", file=sys.stderr)
            closed_loop(url, "/predict", given[0].data, 4, 1)
        for number in range(rounds):
            for workload in given:
                print(f"round {number + 1}: {workload.name}", file=sys.stderr)
                # Who comes first changes, too.
                for name, url in list(urls.items())[:: -1 if number % 2 else 1]:
                    before = stages_of(url) if name == OURS else {}
                    load = workload.send(url, seconds)
                    one = {"rps": load.rps, "p50": load.p50, "p99": load.p99, "errors": float(load.errors)}
                    if name == OURS:
                        one |= since(before, stages_of(url))
                    found[name][workload.name].append(one)
                if ours is not None:
                    ceilings[workload.name].append(ceiling(ours.variables["CLASSIFIER_MODEL"], workload.data))
    return found | {"ceiling": ceilings}


def ceiling(model: str, data: list[bytes]) -> dict[str, float]:
    """The in-process figures of our own code with these photos, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(data):
            Path(folder, f"{number:03}.JPG").write_bytes(photo)
        command = [sys.executable, "-m", "bench.ceiling", model, folder]
        ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def stages_of(url: str) -> dict[str, float]:
    """Sums and counts of the service's own clocks, by their names in its metrics."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    wanted = {f'classifier_stage_duration_seconds_sum{{stage="{stage}"}}': stage for stage in STAGES}
    wanted['classifier_request_seconds_sum{route="/predict"}'] = "request"
    wanted['classifier_request_seconds_count{route="/predict"}'] = "count"
    return {wanted[name]: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name in wanted}


def since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Milliseconds of a photo by stage between two readings; ``write`` is what no other stage has."""
    count = max(1.0, after["count"] - before["count"])
    found = {stage: (after[stage] - before[stage]) / count * 1e3 for stage in (*STAGES, "request")}
    return found | {"write": found["request"] - sum(found[stage] for stage in STAGES)}


def contenders_of(every: list[Contender]) -> list[Contender]:
    """Of all contenders those that stand for their kind, and ours with its frame cache."""
    chosen = [c for c in every if c.name.startswith(("ours", "tutorial", "LitServe")) and "2 workers" not in c.name]
    cached = [replace(c, name=CACHED, variables=c.variables | {"CLASSIFIER_CACHE_SECONDS": "60"}) for c in chosen[:1]]
    return [*chosen, *cached] if chosen and chosen[0].name == OURS else chosen


@dataclass(frozen=True)
class Bar:
    """What is to be reached: ours, int8, as a multiple of the quickest server of a kind, or of the ceiling."""

    workload: str
    other: str
    least: float


#: By whether one instruction sums products of bytes (VNNI); without it, on small photos, what was reached before. Of
#: arm64 nothing was measured, so there is no bar.
_LARGE: Final = (Bar("1080p, c=4", "tutorial", 5.0), Bar("12 MP, c=4", "tutorial", 8.0))
_HTTP: Final = Bar("as given, c=16", "ceiling", 0.9)
BARS: Final = {
    True: (Bar("as given, c=16", "LitServe", 2.5), Bar("as given, c=16", "tutorial", 2.0), *_LARGE, _HTTP),
    False: (Bar("as given, c=16", "LitServe", 1.83), Bar("as given, c=16", "tutorial", 1.44), *_LARGE, _HTTP),
}


def ratios(found: Rounds, other: str, workload: str) -> list[float]:
    """Ours, int8, as a multiple of another, round by round."""
    pairs = zip(found[OURS][workload], found[other][workload], strict=True)
    return [ours["rps"] / others["rps"] for ours, others in pairs]


def reached(found: Rounds, bar: Bar) -> float | None:
    """The multiple of the quickest of a kind; None: none of them was asked."""
    others = [name for name in found if name.startswith(bar.other)]
    if OURS not in found or not others:
        return None
    return min(statistics.median(ratios(found, other, bar.workload)) for other in others)


def report(found: Rounds, bars: tuple[Bar, ...]) -> str:
    """The Markdown report."""
    names = list(next(iter(found.values())))
    lines = [_row("photos a second (ours, int8, as a multiple)", *names), "|" + " --- |" * (len(names) + 1)]
    for server, by_workload in found.items():
        cells = []
        for name in names:
            if not by_workload[name]:
                continue
            rps = statistics.median(one["rps"] for one in by_workload[name])
            multiple = f" ({statistics.median(ratios(found, server, name)):.2f})" if OURS in found else ""
            cells.append(f"{rps:.0f}{multiple}" if server != OURS else f"{rps:.0f}")
        if cells:
            lines.append(_row("in process, ours, int8" if server == "ceiling" else server, *cells))
    if OURS in found:
        lines += ["", *_stages(found, names), "", *_verdicts(found, bars)]
    failed = {
        server: sum(one.get("errors", 0) for rounds in by_workload.values() for one in rounds)
        for server, by_workload in found.items()
    }
    lines += [f"- errors: {server}: {count:.0f}" for server, count in failed.items() if count]
    return "\n".join(lines) + "\n"


def _stages(found: Rounds, names: list[str]) -> list[str]:
    """Where the time of a photo goes under each load. Decoding and inference are divided as they are in process."""
    lines = [
        _row("ms a photo", "read", "wait", "decode", "resize", "infer", "rank", "write and the rest"),
        "|" + " --- |" * 8,
    ]
    for name in names:
        ours, inside = found[OURS][name], found["ceiling"][name]
        read, wait, decode, infer, write = (
            statistics.median(one[stage] for one in ours) for stage in ("read", "queue", "decode", "infer", "write")
        )
        resize = decode * statistics.median(i["resize_ms"] / (i["decode_ms"] + i["resize_ms"]) for i in inside)
        rank = infer * statistics.median(i["rank_ms"] / (i["infer_ms"] + i["rank_ms"]) for i in inside)
        cells = (read, wait, decode - resize, resize, infer - rank, rank, write)
        lines.append(_row(name, *(f"{cell:.2f}" for cell in cells)))
    return lines


def _verdicts(found: Rounds, bars: tuple[Bar, ...]) -> list[str]:
    lines = []
    for bar in bars:
        multiple = reached(found, bar)
        if multiple is not None:
            verdict = "reached" if multiple >= bar.least else "NOT reached"
            lines.append(f"- {bar.workload}: {multiple:.2f} x {bar.other}; the bar is {bar.least:.2f}: {verdict}")
    return lines or ["- no bar: none was measured for this class of kernels"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
