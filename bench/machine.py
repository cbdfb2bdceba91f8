"""What a figure was measured on, for the first line of what every benchmark prints."""

import onnxruntime

from app.runtime.cpus import usable_cpus
from app.runtime.kernels import int8_kernels


def machine() -> str:
    """Kernel class and cores; no name of anybody's machine."""
    kernels, count = int8_kernels(), usable_cpus().count
    cores = f"{count} core{'s' * (count > 1)}"
    return f"{kernels} ({kernels.instructions}), {cores}, ONNX Runtime {onnxruntime.__version__}"
