"""What a request may ask for, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Each is enforced once, at the first place that can know.

    Attributes:
        body_bytes: of one request.
        body_timeout_s: seconds that a body may take to arrive.
        buffered_bytes: of all bodies in memory together.
        decode_bytes: memory for all photos that are decoded at once.
        batch_images: photos in one batch.
    """

    body_bytes: int
    body_timeout_s: float
    buffered_bytes: int
    decode_bytes: int
    batch_images: int
