"""How much memory a service needs, as measured: docs/kubernetes.md, "Memory"."""

import math


def needed_bytes(lanes: float, max_pixels: int) -> float:
    """Bytes for photos of ``max_pixels`` pixels in every lane; a part of a CPU makes a lane."""
    return 200e6 + math.ceil(lanes) * max_pixels * 17
