"""``edge-classifier doctor``: whether this machine can serve as it is set up, and what to mend if not."""

import argparse
import json
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import onnxruntime
from pydantic import ValidationError

from app.classifier import Classifier, fastest
from app.cli.local import load, wrong_settings
from app.cpus import cgroup_limit, cgroup_quota
from app.errors import ModelError
from app.model import Model
from app.settings import Settings

#: Resident MB under load (README, "Speed"), and what a pixel costs in the worst case: 200 pictures of 48 megapixels at
#: once reached 1688 MB with two lanes (README, `python -m bench.scenarios memory`).
_LOADED_MB: Final = {"int8": 123, "fp32": 174}
_BYTES_A_PIXEL: Final = 16
#: No clock that is right says an earlier time.
_WRITTEN: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``fix`` says what to do about it, unless it is fine."""

    check: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def run(options: argparse.Namespace) -> int:
    """Prints a line for each check; 1 if one failed, else 0."""
    failed = False
    for finding in findings():
        failed |= finding.status == "fail"
        if options.json:
            print(json.dumps(asdict(finding)))
        else:
            fix = f"\n      {'':12}-> {finding.fix}" if finding.fix else ""
            print(f"{finding.status:4}  {finding.check:12}{finding.found}{fix}", flush=True)
    return int(failed)


def findings() -> Iterator[Finding]:
    """All checks, one after the other; without valid settings most of them cannot be made."""
    yield processor(platform.machine(), Path("/proc/cpuinfo"))
    yield runtime(onnxruntime.__version__)
    yield clock(datetime.now(UTC))
    try:
        settings = Settings()
    except ValidationError as error:
        for line in wrong_settings(error):
            yield Finding("settings", "fail", line, "set the variable as the README's table says")
        return
    yield cpus(settings, cgroup_quota(Path("/proc"), Path("/sys/fs/cgroup")))
    yield port(settings)
    try:
        model, reason = load(settings)
        Classifier(model, settings.max_pixels).check_golden()
    except ModelError as error:
        fix = "point CLASSIFIER_MODEL to a file that `make model` wrote, or unset it to serve the bundled model"
        yield Finding("model", "fail", str(error), fix)
        return
    contract = model.contract
    found = f"{contract.name} {contract.version} {contract.precision} classified its golden photo correctly ({reason})"
    yield Finding("model", "ok", found)
    yield from precision(settings, model)
    available = available_bytes(Path("/proc"), Path("/sys/fs/cgroup"))
    if available is not None:
        yield memory(settings, contract.precision, available)


def processor(machine: str, cpuinfo: Path) -> Finding:
    """Which instructions for int8 the CPU has (Linux's names for them)."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        flags = set()
    if machine in ("x86_64", "AMD64"):
        if vnni := sorted(flags & {"avx512_vnni", "avx_vnni"}):
            return Finding("processor", "ok", f"{', '.join(vnni)}, which int8 is made for")
        if "avx2" in flags:
            return Finding("processor", "ok", "AVX2 without VNNI: int8 gains less over fp32 than with it")
        fix = "let the virtual machine pass the host's CPU through, or use a CPU from 2013 or later"
        return Finding("processor", "warn", "no AVX2: inference takes its slow path", fix)
    if machine in ("aarch64", "arm64"):
        if fast := sorted(flags & {"asimddp", "i8mm"}):
            return Finding("processor", "ok", f"{', '.join(fast)}, which int8 is made for")
        fix = "CLASSIFIER_PRECISION=auto measures which precision is faster"
        return Finding("processor", "warn", "neither dot products (asimddp) nor i8mm: int8 may be slower", fix)
    return Finding("processor", "warn", f"{machine} was never tried", "measure with `make bench`")


def runtime(version: str) -> Finding:
    """Whether the installed ONNX Runtime has an uploader."""
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 29):
        return Finding("runtime", "ok", f"ONNX Runtime {version}, which has no uploader")
    found = f"ONNX Runtime {version} contains an uploader; it is switched off (ORT_DISABLE_TELEMETRY=1)"
    return Finding("runtime", "warn", found, "install what requirements/runtime.txt names")


def clock(now: datetime) -> Finding:
    """Whether the clock can be right."""
    if now >= _WRITTEN:
        return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")
    fix = "set it (NTP, or a new battery): log lines and certificates depend on it"
    return Finding("clock", "warn", f"{now:%Y-%m-%d %H:%M} UTC, which is past", fix)


def cpus(settings: Settings, quota: float | None) -> Finding:
    """How many photos are worked on at once, and whether a whole CPU is there for one."""
    planned = settings.cpus()
    found = f"{planned.count} lane{'s' * (planned.count > 1)}: {planned.reason}"
    if quota is not None and quota < min(planned.count, 1):
        fix = "allow the container a whole CPU: with less, the kernel stops it in the middle of photos"
        return Finding("cpus", "warn", f"{found}; the cgroup grants {quota:g} of a CPU", fix)
    if quota is not None and planned.count > quota + 1:
        fix = f"unset CLASSIFIER_LANES: lanes beyond the {quota:g} CPUs of the cgroup make each other wait"
        return Finding("cpus", "warn", found, fix)
    return Finding("cpus", "ok", found)


def port(settings: Settings) -> Finding:
    """Whether the service could listen."""
    address = f"{settings.host} port {settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        fix = "stop what listens there (the service itself?), or set CLASSIFIER_PORT or CLASSIFIER_HOST"
        return Finding("port", "fail", f"cannot listen on {address}: {error.strerror or error}", fix)
    return Finding("port", "ok", f"{address} is free")


def precision(settings: Settings, served: Model) -> Iterator[Finding]:
    """Whether the other precision of the same model is faster here; nothing where there is none."""
    name = served.path.name.removesuffix(f".{served.contract.precision}.onnx")
    paths = [served.path.with_name(f"{name}.{precision}.onnx") for precision in _LOADED_MB]
    if not all(path.is_file() for path in paths):
        return
    try:
        quickest, measured = fastest([Model(path) for path in paths])
    except ModelError as error:
        yield Finding("precision", "warn", str(error), "build the model's two files again with `make model`")
        return
    found = f"{served.contract.precision} is served; {measured}"
    if settings.precision == "auto" or quickest.contract.precision == served.contract.precision:
        yield Finding("precision", "ok", found)
    else:
        yield Finding("precision", "warn", found, f"CLASSIFIER_PRECISION={quickest.contract.precision}, or auto")


def available_bytes(proc: Path, cgroups: Path) -> int | None:
    """Memory that may still be used: the cgroup's limit, or what the machine has left; None where neither is known.

    Sources: cgroup v2 ``memory.max``, cgroup v1 ``memory.limit_in_bytes``, ``MemAvailable`` of proc(5).
    """

    def read(name: str) -> Callable[[Path], float | None]:
        def limit(directory: Path) -> float | None:
            try:
                return float((directory / name).read_text())
            except (OSError, ValueError):
                return None

        return limit

    limits = [cgroup_limit(proc, cgroups, "memory", read("memory.max"), read("memory.limit_in_bytes"))]
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        limits += [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    return min((int(limit) for limit in limits if limit is not None), default=None)


def memory(settings: Settings, precision: str, available: int) -> Finding:
    """Whether the largest photos that are allowed fit in all lanes at once."""
    lanes = settings.cpus().count
    base = _LOADED_MB[precision] * 10**6 + settings.max_held_bytes
    worst = base + lanes * settings.max_pixels * _BYTES_A_PIXEL
    found = f"{available / 1e6:.0f} MB; {_LOADED_MB[precision]} MB serve ordinary photos"
    if available < base:
        fix = f"allow at least {base / 1e6:.0f} MB, or lower CLASSIFIER_MAX_HELD_BYTES"
        return Finding("memory", "fail", found, fix)
    if available < worst:
        pixels = (available - base) // (lanes * _BYTES_A_PIXEL)
        found += f", the largest that are allowed may take {worst / 1e6:.0f} MB"
        return Finding("memory", "warn", found, f"CLASSIFIER_MAX_PIXELS={pixels}, or allow more memory")
    return Finding("memory", "ok", f"{found}, the largest that are allowed at most {worst / 1e6:.0f} MB")
