"""How much memory a service needs, as measured: docs/deployment/kubernetes.md, "Memory"."""


def needed_bytes(megapixels: float) -> float:
    """Bytes for a container that takes pictures of this size in every format."""
    return 130e6 + 2 * 18 * megapixels * 1e6
