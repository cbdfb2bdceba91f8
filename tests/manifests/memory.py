"""How much memory a service needs, as measured: docs/kubernetes.md, "Memory"."""

import math


def needed_bytes(lanes: float, max_pixels: int) -> float:
    """Bytes that a container needs whose photos may have ``max_pixels`` pixels, lanes rounded up as the service does."""
    return 200e6 + math.ceil(lanes) * max_pixels * 17
