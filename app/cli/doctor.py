"""``edge-classifier doctor``: whether this machine can serve as it is set up, and what to mend if not."""

import argparse
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import onnxruntime
from pydantic import ValidationError

from ..errors import ModelError, SettingsError
from ..inference.classifier import Classifier
from ..inference.decode_budget import DecodeBudget
from ..inference.model import Model
from ..main import create_server, planned_cpus, request_limits
from ..registry import precision as precisions
from ..runtime.cpus import cgroup_quota
from ..runtime.kernels import Kernels, int8_kernels
from ..runtime.memory import free_bytes
from ..settings import Settings, deprecated
from .local import load, wrong_settings

#: Bytes that decoding takes for a pixel where it takes most (WebP, ``imaging``), and a camera's usual pixels.
_MOST_A_PIXEL: Final = 18
_FULL_HD: Final = 1920 * 1080
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
    yield processor(int8_kernels())
    yield runtime(onnxruntime.__version__)
    yield clock(datetime.now(UTC))
    try:
        settings = Settings()
    except ValidationError as error:
        for line in wrong_settings(error):
            yield Finding("settings", "fail", line, "set the variable as docs/configuration.md says")
        return
    for line in deprecated():
        yield Finding("settings", "warn", line, "rename the variable")
    named = files(settings)
    yield named
    yield cpus(settings, cgroup_quota(Path("/proc"), Path("/sys/fs/cgroup")))
    yield port(settings)
    if named.status == "fail":
        # The key of the models may be what is wrong; then it is not the model.
        return
    try:
        model, reason = load(settings)
        Classifier(model, DecodeBudget(settings.max_pixels)).check_golden()
    except ModelError as error:
        fix = "point CLASSIFIER_MODEL to a file that `make model` wrote, or unset it to serve the bundled model"
        yield Finding("model", "fail", str(error), fix)
        return
    contract = model.contract
    found = f"{contract.name} {contract.version} {contract.precision} classified its golden photo correctly ({reason})"
    yield Finding("model", "ok", found)
    yield from precision(settings, model)
    free = free_bytes()
    if free is not None:
        yield memory(settings, planned_cpus(settings).count, free)


def files(settings: Settings) -> Finding:
    """Whether what the settings name can be used: keys, certificates, the packages that traces need."""
    try:
        # As the service does it, but for the port, which is a check of its own.
        create_server(settings.model_copy(update={"host": "127.0.0.1", "port": 0})).socket.close()
    except SettingsError as error:
        return Finding("settings", "fail", str(error), "mend the file that it names, or unset the variable")
    return Finding("settings", "ok", "every variable is right, and what they name can be used")


def processor(kernels: Kernels) -> Finding:
    """Which instructions an int8 model would run on here."""
    found = f"{kernels} ({kernels.instructions})"
    if kernels.dot_products:
        return Finding("processor", "ok", f"{found}, which int8 is made for")
    match kernels.name:
        case "AVX2" | "AVX-512 without VNNI":
            return Finding("processor", "ok", f"{found}: int8 gains less over fp32 than with VNNI")
        case "SSE":
            fix = "let the virtual machine pass the host's CPU through, or use a CPU from 2013 or later"
            return Finding("processor", "warn", f"{found}, no AVX2: inference takes its slow path", fix)
        case "NEON":
            fix = "give the model in both precisions: CLASSIFIER_PRECISION=auto measures which is faster"
            return Finding("processor", "warn", f"{found}, neither asimddp nor i8mm: int8 may be slower", fix)
    return Finding("processor", "warn", f"{kernels.architecture} was never tried", "measure with `make bench`")


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
    planned = planned_cpus(settings)
    found = f"{planned.count} worker{'s' * (planned.count > 1)}: {planned.reason}"
    if quota is not None and quota < min(planned.count, 1):
        fix = "allow the container a whole CPU: with less, the kernel stops it in the middle of photos"
        return Finding("cpus", "warn", f"{found}; the cgroup grants {quota:g} of a CPU", fix)
    if quota is not None and planned.count > quota + 1:
        fix = f"unset CLASSIFIER_WORKERS: workers beyond the {quota:g} CPUs of the cgroup make each other wait"
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
    paths = [served.path.with_name(f"{name}.{precision}.onnx") for precision in ("int8", "fp32")]
    if not all(path.is_file() for path in paths):
        return
    try:
        times = precisions.measure([Model(path) for path in paths])
    except ModelError as error:
        yield Finding("precision", "warn", str(error), "build the model's two files again with `make model`")
        return
    faster = precisions.faster(times)
    found = f"{served.contract.precision} is served; {precisions.said(times)}"
    if settings.precision == "auto" or faster == served.contract.precision:
        yield Finding("precision", "ok", found)
    else:
        yield Finding("precision", "warn", found, f"CLASSIFIER_PRECISION={faster}, or auto")


def memory(settings: Settings, workers: int, free: int) -> Finding:
    """Whether there is memory for photos, with the model loaded."""
    limits = request_limits(settings, free)
    decoding = min(limits.decode_bytes, workers * settings.max_pixels * _MOST_A_PIXEL)
    buffered_mb, decoding_mb = limits.buffered_bytes / 1e6, limits.decode_bytes / 1e6
    found = f"{free / 1e6:.0f} MB are free: {buffered_mb:.0f} for request bodies, {decoding_mb:.0f} for decoding"
    if limits.buffered_bytes + decoding > free:
        fix = "allow the service more memory, or lower CLASSIFIER_MAX_BUFFERED_BYTES and CLASSIFIER_MAX_DECODE_BYTES"
        return Finding("memory", "fail", found, fix)
    if decoding < _FULL_HD * _MOST_A_PIXEL:
        fix = "allow the service more memory, or send baseline JPEG, whose size does not matter"
        return Finding("memory", "warn", f"{found}; a Full HD WebP may not fit", fix)
    return Finding("memory", "ok", found)
