"""How many requests a second one process can do, and how many cores it can use: ``python -m bench.saturation``.

The model is one of the right contract that does next to nothing, and the photos are a few pixels large, filled up to
the bytes of real ones. What is measured is what is left of a request without decoding and inference: HTTP, the event
loop, the hand-over to a worker, JSON. The service has one core to itself, the clients another one.

Prints, for bodies of several sizes and for one and two workers, the rate of a closed loop, p99 at 80 % of it, and the
CPU time of a request in the event loop's thread and in the workers'. Nearly all of that is Python, which one thread
runs at a time. So together it is the bound of one process, however many cores there are; with the time of a real photo
in a worker it follows how many workers one process can feed.
"""

import argparse
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper
from PIL import Image

from app.inference.contract import Contract, Golden
from app.inference.imaging import Resize
from bench import photos, sent
from bench.client import closed_loop
from bench.machine import machine
from bench.objective import p99_at
from bench.scenarios import Poster, newest_int8, service
from bench.servers import TICKS, running

#: Bytes of a body: a thumbnail, a picture of 500x375, a frame of 1080p.
SIZES = (2_000, 110_000, 450_000)
SIDE = 32
#: Clients of the closed loop, and the share of its rate at which p99 is measured.
CLIENTS = 16
SHARE = 0.8


def no_op(path: Path) -> Path:
    """Writes a model of the service's contract whose scores are the means of three channels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "no-op",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = Contract(
        name="no-op",
        version="1",
        precision="fp32",
        labels=("red", "green", "blue"),
        ids=(None, None, None),
        resize=Resize(height=SIDE, width=SIDE, crop=1.0, filter="bilinear"),
        temperature=1.0,
        unknown_below=0.0,
        golden=Golden(picture(0), {0: 1.0, 1: 0.0, 2: 0.0}, 0.01, None),
        multiply_adds=0,
        parameters=0,
        provenance={"weights": "none"},
        measured={},
    )
    for key, value in contract.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def picture(size: int) -> bytes:
    """A small red JPEG of so many bytes: most of them are in segments that no decoder looks at."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8)).save(buffer, "JPEG")
    made = buffer.getvalue()
    padding = b""
    while (missing := size - len(made) - len(padding)) > 4:
        # ITU-T T.81, B.2.4.6: a segment for applications, with its length in two bytes that count themselves.
        length = min(65_000, missing - 2)
        padding += b"\xff\xef" + length.to_bytes(2, "big") + bytes(length - 2)
    return made[:2] + padding + made[2:]


def threads_cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds of the event loop's thread, which is the process's first, and of all its other threads."""
    first = others = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        seconds = (int(fields[11]) + int(fields[12])) / TICKS
        if task.name == str(pid):
            first = seconds
        else:
            others += seconds
    return first, others


def measure(model: Path, size: int, workers: int, seconds: int) -> dict[str, float]:
    """One body size and number of workers; rates in requests a second, times in milliseconds."""
    cpus = sorted(os.sched_getaffinity(0))
    photo = picture(size)
    try:
        # The service is started from a process that has one CPU; the clients then get another one.
        os.sched_setaffinity(0, {cpus[0]})
        with running(service(model, workers=str(workers), queue_budget_ms="60000"), photo) as (url, pid, _):
            os.sched_setaffinity(0, {cpus[1]})
            closed_loop(url, "/predict", [photo], CLIENTS, 1)
            before = threads_cpu_s(pid)
            load = closed_loop(url, "/predict", [photo], CLIENTS, seconds)
            loop_s, others_s = (after - earlier for after, earlier in zip(threads_cpu_s(pid), before, strict=True))
            requests = max(1.0, load.rps * seconds)
            p99, failed = uvloop.run(p99_at(Poster(url, [photo]), SHARE * load.rps, seconds))
    finally:
        os.sched_setaffinity(0, cpus)
    if load.errors or failed:
        raise SystemExit(f"{load.errors + failed} requests were not answered with 200")
    return {"rps": load.rps, "p99": p99, "loop": loop_s / requests * 1e3, "workers": others_s / requests * 1e3}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="real ONNX file (default: the newest int8 one in models/)")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: scikit-image's photos)")
    parser.add_argument("--seconds", type=int, default=6, help="per load")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("this needs two CPUs: one for the service, one for its clients")
    real = (options.model or newest_int8()).resolve()
    print(f"on {machine()}")
    print("| body | workers | requests/s | p99 ms at 80 % | CPU ms, event loop | CPU ms, workers | bound |")
    print("|" + " --- |" * 7)
    bounds: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = no_op(Path(folder, "no-op.onnx"))
        for size in SIZES:
            for workers in (1, 2):
                found = measure(model, size, workers, options.seconds)
                bounds.setdefault(size, []).append(1e3 / (found["loop"] + found["workers"]))
                cells = (f"{size / 1e3:g} kB", workers, f"{found['rps']:.0f}", f"{found['p99']:.1f}")
                times = (f"{found['loop']:.2f}", f"{found['workers']:.2f}", f"{bounds[size][-1]:.0f}")
                print(f"| {' | '.join(map(str, (*cells, *times)))} |", flush=True)
    real_photos = {
        SIZES[1]: photos.read(options.photos),
        SIZES[2]: photos.large(options.photos, photos.LARGE[0]),
    }
    for size, data in real_photos.items():
        one_ms = sent.ceiling(str(real), data)["one_ms"]
        fed = SHARE * min(bounds[size]) * one_ms / 1e3
        print(f"a photo of {size / 1e3:g} kB takes {one_ms:.1f} ms in a worker: one process feeds {fed:.0f} of them")


if __name__ == "__main__":
    main()
