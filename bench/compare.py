"""The service beside what people would use instead: the same photos, client, machine and run.

``python -m bench.compare --models models/`` measures two things and writes ``bench/results/compare.{md,json,svg}``:

- ``servers``: each contender is started in turn, several rounds of them, with the photos as given.
- ``sent``: what cameras and phones send, to the contenders side by side (``bench.sent``).

Figures are medians over the rounds; ratios are taken within a round, so that a machine that drifts does not bend them.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from app.runtime.kernels import int8_kernels
from bench import photos, sent
from bench.client import closed_loop
from bench.machine import machine
from bench.servers import RESULTS, Contender, contenders, cpu_s, interpreter, post, resident_mb, running


def measure(contender: Contender, data: list[bytes], levels: list[int], seconds: float) -> dict[str, float]:
    """One round of one contender."""
    found: dict[str, float] = {}
    with running(contender, data[0]) as (url, pid, start_s):
        found["start_s"] = start_s
        for photo in data[:10]:
            post(url, photo)
        found["idle_mb"] = resident_mb(pid)
        for level in levels:
            before = cpu_s(pid)
            load = closed_loop(url, "/predict", data, level, seconds)
            found[f"cpu_ms@{level}"] = (cpu_s(pid) - before) * 1e3 / max(1, load.rps * seconds)
            found |= {
                f"rps@{level}": load.rps,
                f"p50@{level}": load.p50,
                f"p95@{level}": load.p95,
                f"p99@{level}": load.p99,
            }
            found[f"errors@{level}"] = load.errors
            if level == 16:
                found["load_mb"] = resident_mb(pid)
    return found


def main() -> None:
    """Runs the rounds and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder with one fp32 and one int8 file")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="per server and load")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--only", default="", help="only contenders whose name contains this")
    parser.add_argument("--parts", nargs="+", choices=["servers", "sent"], default=["servers", "sent"])
    options = parser.parse_args()
    chosen = [c for c in contenders(options.models.resolve()) if options.only in c.name]
    for contender in chosen:
        interpreter(contender.lock)
    RESULTS.mkdir(exist_ok=True)
    texts = [f"On {machine()}:\n"]
    found: dict[str, object] = {}
    if "servers" in options.parts:
        rounds, ceilings = servers(chosen, options)
        found |= {"rounds": rounds, "ceilings": ceilings}
        texts.append(report(rounds, ceilings, options.levels))
        (RESULTS / "compare.svg").write_text(chart({name: middle(r, "rps@16") for name, r in rounds.items()}))
    if "sent" in options.parts:
        print("making photos", file=sys.stderr)
        given = sent.workloads(options.photos)
        rounds_sent = sent.measure(sent.contenders_of(chosen), given, options.rounds, options.seconds)
        found["sent"] = rounds_sent
        kernels = int8_kernels()
        bars = sent.BARS[kernels.dot_products] if kernels.architecture == "x86-64" else ()
        texts.append(sent.report(rounds_sent, bars))
    (RESULTS / "compare.json").write_text(json.dumps(found | {"machine": machine()}, indent=1))
    text = "\n".join(texts)
    (RESULTS / "compare.md").write_text(text)
    print(text)


def servers(
    chosen: list[Contender], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, float]]], dict[str, list[dict[str, float]]]]:
    """The rounds by contender, and the in-process figures of ours."""
    data = photos.read(options.photos)
    rounds: dict[str, list[dict[str, float]]] = {c.name: [] for c in chosen}
    ceilings: dict[str, list[dict[str, float]]] = {"ours, int8": [], "ours, fp32": []}
    for number in range(options.rounds):
        for contender in chosen:
            print(f"round {number + 1}: {contender.name}", file=sys.stderr)
            rounds[contender.name].append(measure(contender, data, options.levels, options.seconds))
            if contender.name in ceilings:
                ceilings[contender.name].append(sent.ceiling(contender.variables["CLASSIFIER_MODEL"], data))
    return rounds, ceilings


def middle(found: list[dict[str, float]], key: str) -> float:
    """The median over the rounds."""
    return statistics.median(one[key] for one in found)


def ratio(
    found: list[dict[str, float]], other: list[dict[str, float]], key: str, other_key: str | None = None
) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a[key] / b[other_key or key] for a, b in zip(found, other, strict=True))


def report(
    rounds: dict[str, list[dict[str, float]]], ceilings: dict[str, list[dict[str, float]]], levels: list[int]
) -> str:
    """The Markdown report; "x" columns are ours (int8) as a multiple of the row's, within a round."""
    ours = rounds.get("ours, int8") or next(iter(rounds.values()))
    head = [
        "server",
        *(f"rps c={n}" for n in levels),
        "ours x at c=16",
        "p50 c=1",
        "p99 c=16",
        "CPU ms c=16",
        "MB idle",
        "MB load",
        "start s",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, found in rounds.items():
        cells = [name, *(f"{middle(found, f'rps@{n}'):.0f}" for n in levels), f"{ratio(ours, found, 'rps@16'):.2f}"]
        cells += [
            f"{middle(found, 'p50@1'):.1f}",
            f"{middle(found, 'p99@16'):.0f}",
            f"{middle(found, 'cpu_ms@16'):.1f}",
        ]
        cells += [
            f"{middle(found, 'idle_mb'):.0f}",
            f"{middle(found, 'load_mb'):.0f}",
            f"{middle(found, 'start_s'):.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for name, inside in ceilings.items():
        if inside and name in rounds:
            http = rounds[name]
            lines += [
                f"- {name}: over HTTP (c=16) / in-process ceiling: {ratio(http, inside, 'rps@16', 'rps'):.2f} "
                f"({middle(inside, 'rps'):.0f}/s in process)",
                f"- {name}: p50 over HTTP (c=1) / one photo in process: {ratio(http, inside, 'p50@1', 'one_ms'):.2f} "
                f"(one thread), {ratio(http, inside, 'p50@1', 'alone_ms'):.2f} (all CPUs)",
                f"- {name}: one photo in process / plain pipeline with the same session: "
                f"{ratio(inside, inside, 'one_ms', 'plain_ms'):.2f}",
            ]
    errors = {
        name: sum(v for one in found for k, v in one.items() if k.startswith("errors"))
        for name, found in rounds.items()
    }
    lines += [f"- errors: {name}: {count:.0f}" for name, count in errors.items() if count]
    return "\n".join(lines) + "\n"


def chart(values: dict[str, float]) -> str:
    """Requests per second as bars (SVG)."""
    most, row, left, width = max(values.values()), 26, 270, 330
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{row * len(values) + 34}" '
        'font-family="sans-serif" font-size="13"><text x="8" y="18">photos per second over HTTP, 16 connections</text>'
    ]
    for i, (name, value) in enumerate(values.items()):
        y = 28 + i * row
        colour = "#2563eb" if name.startswith("ours") else "#94a3b8"
        parts.append(
            f'<text x="8" y="{y + 15}">{name}</text><rect x="{left}" y="{y}" width="{width * value / most:.0f}" '
            f'height="20" fill="{colour}"/>'
            f'<text x="{left + width * value / most + 6:.0f}" y="{y + 15}">{value:.0f}</text>'
        )
    return "".join(parts) + "</svg>\n"


if __name__ == "__main__":
    main()
