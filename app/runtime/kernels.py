"""Which instructions int8 models run on here: the kernels that ONNX Runtime chooses for this CPU.

Source of the order: ``MLAS_PLATFORM`` in ONNX Runtime 1.28, onnxruntime/core/mlas/lib/platform.cpp, for unsigned
activations and signed weights. The names of the CPU's features are Linux's, from ``/proc/cpuinfo``.
"""

import platform
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
#: Lines of ``/proc/cpuinfo`` that tell one kind of CPU from another; the others change (clock rate) or count the cores.
_IDENTITY: Final = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU variant",
    "CPU part",
    "Features",
)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What int8 products are computed with.

    Attributes:
        architecture: as people call it.
        name: the class of kernels; CPUs of one class gain alike from int8.
        instructions: which of them do the work.
        dot_products: whether one instruction sums four products of bytes or more, which is what int8 is made for.
    """

    architecture: str
    name: str
    instructions: str
    dot_products: bool

    def __str__(self) -> str:
        return f"{self.architecture} with {self.name}"


#: By architecture the features that are needed, and what they make possible; the first that fits is used.
_CLASSES: Final[dict[str, tuple[tuple[frozenset[str], Kernels], ...]]] = {
    "x86_64": (
        (
            frozenset({"amx_tile", "amx_int8", "avx512_vnni"}),
            Kernels("x86-64", "AMX and AVX512-VNNI", "tdpbusd, vpdpbusds", dot_products=True),
        ),
        (frozenset({"avx512_vnni", "avx512vl"}), Kernels("x86-64", "AVX512-VNNI", "vpdpbusds", dot_products=True)),
        (frozenset({"avx_vnni", "avx2"}), Kernels("x86-64", "AVX-VNNI", "vpdpbusds", dot_products=True)),
        (
            frozenset({"avx512bw", "avx512dq", "avx512vl"}),
            Kernels("x86-64", "AVX-512 without VNNI", "vpmaddubsw on 512 bits", dot_products=False),
        ),
        (frozenset({"avx2", "fma"}), Kernels("x86-64", "AVX2", "vpmaddubsw on 256 bits", dot_products=False)),
        (frozenset(), Kernels("x86-64", "SSE", "pmaddwd", dot_products=False)),
    ),
    "aarch64": (
        (frozenset({"i8mm", "asimddp"}), Kernels("arm64", "i8mm", "ummla, udot", dot_products=True)),
        (frozenset({"asimddp"}), Kernels("arm64", "dot product", "udot", dot_products=True)),
        (frozenset(), Kernels("arm64", "NEON", "umull", dot_products=False)),
    ),
}


def int8_kernels(machine: str | None = None, cpuinfo: Path = CPUINFO) -> Kernels:
    """What an int8 model would run on.

    Args:
        machine: the architecture by its name in ``uname -m``; None: this machine's.
        cpuinfo: the kernel's list of CPUs and their features.
    """
    machine = machine or platform.machine()
    try:
        features = set(cpuinfo.read_text().split())
    except OSError:
        features = set()
    for needed, kernels in _CLASSES.get(machine, ()):
        if needed <= features:
            return kernels
    return Kernels(machine, "unknown kernels", "unknown", dot_products=False)


def cpu_identity(cpuinfo: Path = CPUINFO) -> str:
    """Hexadecimal digits that are the same for CPUs of the same kind, and for others differ; "" where nobody knows."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    kind = sorted({line for line in lines if line.partition(":")[0].strip() in _IDENTITY})
    return sha256("\n".join(kind).encode()).hexdigest() if kind else ""
